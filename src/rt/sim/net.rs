//! The simulated network: connections, what is under way on them, and ports.
//!
//! Floor 1. Owner: the simulation. Bytes of a connection arrive in order, or the connection ends.
//! A cut loses what has not arrived; both ends see an error.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::task::Waker;

use super::core::{Core, Event};

/// Chosen ports begin here.
const FIRST_PORT: u16 = 40_000;
const PORTS: u16 = 20_000;

#[derive(Default)]
pub(super) struct End {
    /// Segments that arrived; `taken` bytes of the first are read.
    pub(super) arrived: VecDeque<Vec<u8>>,
    pub(super) taken: usize,
    /// Bytes sent to this end and not read yet, arrived or not.
    pub(super) owed: usize,
    last_arrival: u64,
    /// The other side closed, and all it sent has arrived.
    pub(super) finished: bool,
    pub(super) closed: bool,
    /// The process that holds this end; none while it waits to be accepted or travels.
    pub(super) process: Option<u32>,
    pub(super) reader: Option<Waker>,
    /// Of the other side's writer, which waits for room here.
    pub(super) writer: Option<Waker>,
}

impl End {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

pub(super) struct Connection {
    ends: [End; 2],
    /// Of the side that connected.
    pub(super) from: SocketAddr,
    cut: bool,
}

pub(super) struct Port {
    pub(super) address: SocketAddr,
    process: u32,
    pub(super) waiting: VecDeque<u32>,
    pub(super) waker: Option<Waker>,
}

pub(super) enum NetEvent {
    Arrive { connection: u32, side: u8, bytes: Vec<u8> },
    Finish { connection: u32, side: u8 },
}

#[derive(Default)]
pub(super) struct Net {
    pub(super) connections: Vec<Option<Connection>>,
    pub(super) ports: BTreeMap<u32, Port>,
    port_last: u32,
    ephemeral: u16,
}

impl Net {
    /// One end, and whether the connection is cut. `None`: both ends closed it.
    pub(super) fn end(&mut self, connection: u32, side: u8) -> Option<(&mut End, bool)> {
        let connection = self.connections[connection as usize].as_mut()?;
        Some((&mut connection.ends[side as usize], connection.cut))
    }

    pub(super) fn listening(&self) -> BTreeSet<SocketAddr> {
        self.ports.values().map(|port| port.address).collect()
    }

    pub(super) fn free_port(&mut self) -> u16 {
        self.ephemeral = (self.ephemeral + 1) % PORTS;
        FIRST_PORT + self.ephemeral
    }

    pub(super) fn add_port(&mut self, address: SocketAddr, process: u32) -> u32 {
        self.port_last += 1;
        self.ports.insert(self.port_last, Port { address, process, waiting: VecDeque::new(), waker: None });
        self.port_last
    }

    /// Ports that listen on an address: one per executor.
    pub(super) fn ports_of(&self, address: SocketAddr) -> Vec<u32> {
        self.ports.iter().filter(|(_, port)| port.address == address).map(|(id, _)| *id).collect()
    }

    pub(super) fn connect(&mut self, from: SocketAddr, port: u32) -> u32 {
        let connection = self.connections.len() as u32;
        self.connections.push(Some(Connection { ends: Default::default(), from, cut: false }));
        if let Some(port) = self.ports.get_mut(&port) {
            port.waiting.push_back(connection);
            if let Some(waker) = port.waker.take() {
                waker.wake();
            }
        }
        connection
    }

    pub(super) fn cut(&mut self, connection: u32) {
        if let Some(connection) = &mut self.connections[connection as usize] {
            connection.cut = true;
            connection.ends.iter_mut().for_each(End::wake);
        }
    }

    fn ends_of(&self, process: u32) -> Vec<(u32, u8)> {
        let ends = |(index, connection): (usize, &Option<Connection>)| {
            let sides = connection.iter().flat_map(|connection| connection.ends.iter().zip([0, 1]));
            let own = sides.filter(|(end, _)| end.process == Some(process) && !end.closed);
            own.map(|(_, side)| (index as u32, side)).collect::<Vec<_>>()
        };
        self.connections.iter().enumerate().flat_map(ends).collect()
    }
}

impl Core {
    pub(super) fn net_event(&self, event: NetEvent) {
        let mut net = self.net.borrow_mut();
        match event {
            NetEvent::Arrive { connection, side, bytes } => {
                let Some((end, false)) = net.end(connection, side) else { return };
                self.trace.word(self.now.get() << 1 ^ bytes.len() as u64);
                if !end.closed {
                    end.arrived.push_back(bytes);
                    end.wake();
                }
            }
            NetEvent::Finish { connection, side } => {
                let Some((end, _)) = net.end(connection, side) else { return };
                end.finished = true;
                end.wake();
            }
        }
    }

    /// When what is sent now arrives: not before what was sent earlier.
    pub(super) fn arrival(&self, last: u64) -> u64 {
        let (range, delay_ppm, delay_us) = {
            let faults = self.faults.borrow();
            (faults.net_us, faults.net_delay_ppm, faults.net_delay_us_max)
        };
        let delay = if self.chance(delay_ppm) { self.below(delay_us + 1) } else { 0 };
        (self.now.get() + (self.between(range) + delay) * 1000).max(last)
    }

    /// Closes the listeners and connections of a process that ended.
    pub(super) fn close_network(&self, process: u32) {
        let (ports, ends) = {
            let net = self.net.borrow();
            let ports = net.ports.iter().filter(|(_, port)| port.process == process);
            (ports.map(|(id, _)| *id).collect::<Vec<_>>(), net.ends_of(process))
        };
        ports.into_iter().for_each(|port| self.close_port(port));
        ends.into_iter().for_each(|(connection, side)| self.close_end(connection, side));
    }

    pub(super) fn close_port(&self, port: u32) {
        let port = {
            let mut net = self.net.borrow_mut();
            let port = net.ports.remove(&port);
            self.shared.set_listening(net.listening());
            port
        };
        for connection in port.into_iter().flat_map(|port| port.waiting) {
            self.net.borrow_mut().cut(connection);
            self.close_end(connection, 1);
        }
    }

    pub(super) fn close_end(&self, connection: u32, side: u8) {
        let other = side ^ 1;
        let last = {
            let mut net = self.net.borrow_mut();
            let Some(state) = net.connections[connection as usize].as_mut() else { return };
            if std::mem::replace(&mut state.ends[side as usize].closed, true) {
                return;
            }
            state.ends[side as usize].arrived.clear();
            state.ends[side as usize].wake();
            // Our own writer waits for room at the other end.
            if let Some(writer) = state.ends[other as usize].writer.take() {
                writer.wake();
            }
            if state.ends[other as usize].closed {
                net.connections[connection as usize] = None;
                return;
            }
            state.ends[other as usize].last_arrival
        };
        let at = self.arrival(last);
        self.schedule(at, Event::Net(NetEvent::Finish { connection, side: other }));
    }

    /// Sends bytes to the end `to`.
    pub(super) fn send(&self, connection: u32, to: u8, bytes: Vec<u8>) {
        let last = match self.net.borrow_mut().end(connection, to) {
            Some((end, _)) => end.last_arrival,
            None => return,
        };
        let at = self.arrival(last);
        self.line(|| format!("send {} bytes on connection {connection} to side {to}", bytes.len()));
        if let Some((end, _)) = self.net.borrow_mut().end(connection, to) {
            end.owed += bytes.len();
            end.last_arrival = at;
        }
        self.schedule(at, Event::Net(NetEvent::Arrive { connection, side: to, bytes }));
    }
}
