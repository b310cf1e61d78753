//! Listeners and streams of the simulated network, as one process uses them.
//!
//! Floor 1. Owner: shard. What a crashing process still writes goes nowhere.

use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::process::{Process, Shared};

/// Bytes under way in one direction before the writer waits.
const WINDOW_BYTES: usize = 256 << 10;
/// Bytes that travel together.
const SEGMENT_BYTES: usize = 64 << 10;

fn reset() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

impl Process {
    pub(in crate::rt) fn listen(&self, mut address: SocketAddr) -> io::Result<Listener> {
        let mut net = self.core.net.borrow_mut();
        if address.port() == 0 {
            address.set_port(net.free_port());
        }
        let port = net.add_port(address, self.pid);
        self.core.shared.set_listening(net.listening());
        Ok(Listener { process: self.clone(), port, address })
    }

    pub(in crate::rt) async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let at = self.core.arrival(0);
        self.sleep(Duration::from_nanos(at - self.core.now.get())).await;
        if !self.core.acts(self.pid) {
            return pending().await;
        }
        let ports = self.core.net.borrow().ports_of(address);
        let refuse_ppm = self.core.faults.borrow().net_refuse_ppm;
        if self.core.chance(refuse_ppm) || ports.is_empty() {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        let port = ports[self.core.below(ports.len() as u64) as usize];
        let connection = {
            let mut net = self.core.net.borrow_mut();
            let from = SocketAddr::new(address.ip(), net.free_port());
            net.connect(from, port)
        };
        Ok(Stream::new(self, connection, 0, address))
    }

    pub(in crate::rt) fn adopt(&self, mut socket: Socket) -> Stream {
        let (connection, side) = socket.place.take().expect("a socket is adopted once");
        Stream::new(self, connection, side, socket.peer)
    }
}

pub(in crate::rt) struct Listener {
    process: Process,
    port: u32,
    address: SocketAddr,
}

impl Listener {
    pub(in crate::rt) fn local(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::rt) async fn accept(&self) -> io::Result<Stream> {
        let (connection, peer) = poll_fn(|cx| {
            let mut net = self.process.core.net.borrow_mut();
            let port = net.ports.get_mut(&self.port).expect("a port lives as long as its listener");
            let Some(connection) = port.waiting.pop_front() else {
                port.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let state = net.connections[connection as usize].as_ref();
            Poll::Ready((connection, state.map(|state| state.from)))
        })
        .await;
        match peer {
            Some(peer) => Ok(Stream::new(&self.process, connection, 1, peer)),
            None => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.process.core.close_port(self.port);
    }
}

pub(in crate::rt) struct Stream {
    process: Process,
    /// Connection and side; `None` once handed over.
    place: Option<(u32, u8)>,
    peer: SocketAddr,
}

impl Stream {
    fn new(process: &Process, connection: u32, side: u8, peer: SocketAddr) -> Stream {
        if let Some((end, _)) = process.core.net.borrow_mut().end(connection, side) {
            end.process = Some(process.pid);
        }
        Stream { process: process.clone(), place: Some((connection, side)), peer }
    }

    fn place(&self) -> (u32, u8) {
        self.place.expect("a stream that was handed over is gone")
    }

    pub(in crate::rt) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(in crate::rt) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, into)).await
    }

    fn poll_read(&self, cx: &Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let core = &self.process.core;
        let (connection, side) = self.place();
        let mut net = core.net.borrow_mut();
        let Some((end, cut)) = net.end(connection, side) else { return Poll::Ready(Ok(0)) };
        if end.closed {
            return Poll::Ready(Ok(0));
        }
        if cut {
            return Poll::Ready(Err(reset()));
        }
        if end.arrived.is_empty() {
            if end.finished {
                return Poll::Ready(Ok(0));
            }
            end.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let partial_ppm = core.faults.borrow().net_partial_ppm;
        let mut want = into.len();
        if core.chance(partial_ppm) {
            want = 1 + core.below(want as u64) as usize;
        }
        let mut count = 0;
        while let Some(segment) = end.arrived.front()
            && count < want
        {
            let rest = &segment[end.taken..];
            let part = rest.len().min(want - count);
            into[count..count + part].copy_from_slice(&rest[..part]);
            count += part;
            end.taken += part;
            if end.taken == segment.len() {
                end.arrived.pop_front();
                end.taken = 0;
            }
        }
        end.owed -= count;
        if let Some(writer) = end.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(count))
    }

    pub(in crate::rt) async fn write_all_vectored(&self, slices: &[&[u8]]) -> io::Result<()> {
        let core = &self.process.core;
        let (connection, side) = self.place();
        let cut_ppm = core.faults.borrow().net_cut_ppm;
        let mut rest: usize = slices.iter().map(|slice| slice.len()).sum();
        // Cut in the middle of the write: what was sent before may arrive, or not.
        let cut = core.chance(cut_ppm);
        if cut {
            rest = core.below(rest as u64 + 1) as usize;
        }
        let mut parts = Parts { slices, first: 0, skip: 0 };
        while rest > 0 {
            let room = poll_fn(|cx| self.poll_room(cx)).await?;
            if !core.acts(self.process.pid) {
                return pending().await;
            }
            let segment = parts.take(room.min(rest).min(SEGMENT_BYTES));
            rest -= segment.len();
            core.send(connection, side ^ 1, segment);
        }
        if !cut {
            return Ok(());
        }
        if core.chance(500_000) {
            self.process.sleep(Duration::from_millis(1)).await;
        }
        core.line(|| format!("cut connection {connection}"));
        core.net.borrow_mut().cut(connection);
        Err(reset())
    }

    /// Bytes that the other end has room for.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let (connection, side) = self.place();
        let mut net = self.process.core.net.borrow_mut();
        let Some((own, cut)) = net.end(connection, side) else { return Poll::Ready(Err(reset())) };
        if cut || own.closed {
            return Poll::Ready(Err(reset()));
        }
        let Some((end, _)) = net.end(connection, side ^ 1) else { return Poll::Ready(Err(reset())) };
        if end.closed {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
        }
        if end.owed >= WINDOW_BYTES {
            end.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(WINDOW_BYTES - end.owed))
    }

    pub(in crate::rt) fn shutdown(&self) {
        let (connection, side) = self.place();
        self.process.core.close_end(connection, side);
    }

    pub(in crate::rt) fn hand_over(mut self) -> Socket {
        let shared = self.process.core.shared.clone();
        let (connection, side) = self.place();
        if let Some((end, _)) = self.process.core.net.borrow_mut().end(connection, side) {
            end.process = None;
        }
        Socket { shared, place: self.place.take(), peer: self.peer }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some((connection, side)) = self.place {
            self.process.core.close_end(connection, side);
        }
    }
}

/// Cuts a list of slices into segments.
struct Parts<'a> {
    slices: &'a [&'a [u8]],
    first: usize,
    skip: usize,
}

impl Parts<'_> {
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let mut segment = Vec::with_capacity(bytes);
        while segment.len() < bytes {
            let rest = &self.slices[self.first][self.skip..];
            let part = rest.len().min(bytes - segment.len());
            segment.extend_from_slice(&rest[..part]);
            self.skip += part;
            if self.skip == self.slices[self.first].len() {
                self.first += 1;
                self.skip = 0;
            }
        }
        segment
    }
}

/// An end of a connection on its way to another executor.
pub(in crate::rt) struct Socket {
    shared: Arc<Shared>,
    place: Option<(u32, u8)>,
    peer: SocketAddr,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some((connection, side)) = self.place {
            self.shared.orphan(connection, side);
        }
    }
}
