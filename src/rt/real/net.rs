//! TCP over glommio's poll-based sockets, with vectored writes on the raw descriptor.
//!
//! Floor 1. Owner: shard. A read or write tries the system call first and waits for readiness only
//! when it would block. Nagle's delay is off: responses leave when they are written.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};

use super::executor::YIELD;
use super::plain;

/// Slices of one system call.
const SLICES_MAX: usize = 64;

pub(in crate::rt) struct Listener {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener {
    pub(in crate::rt) fn bind(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address).map_err(plain)?;
        let local = listener.local_addr().map_err(plain)?;
        Ok(Listener { listener, local })
    }

    pub(in crate::rt) async fn accept(&self) -> io::Result<Stream> {
        let stream = self.listener.accept().await.map_err(plain)?;
        set_options(&stream);
        Stream::new(stream)
    }

    pub(in crate::rt) fn local(&self) -> SocketAddr {
        self.local
    }
}

/// Options of each connection, none of which a connection needs to work.
const OPTIONS: [(libc::c_int, libc::c_int, libc::c_int); 5] = [
    // What is left of a connection after its broker died must not make `check_port` take the port for
    // taken: the kernel looks at this option of each socket, also in TIME_WAIT.
    (libc::SOL_SOCKET, libc::SO_REUSEADDR, 1),
    // A peer that vanished without a word (tcp(7)): after a minute of silence, and four questions in another
    // one.
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 15),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4),
];

fn set_options(stream: &TcpStream) {
    for (level, name, value) in &OPTIONS {
        // SAFETY: the descriptor is open while the stream lives; the kernel reads one int.
        unsafe {
            let bytes = size_of::<libc::c_int>() as libc::socklen_t;
            let value = (&raw const *value).cast();
            libc::setsockopt(stream.as_raw_fd(), *level, *name, value, bytes);
        }
    }
}

/// What one socket may deliver before the rings are looked at again.
const BURST_BYTES: usize = 256 << 10;

pub(in crate::rt) struct Stream {
    /// Borrowed only while a poll runs, so a reader and a writer task can share it.
    socket: RefCell<TcpStream>,
    peer: SocketAddr,
    /// Bytes read since a read had to wait.
    burst: Cell<usize>,
}

/// A socket without an executor.
pub(in crate::rt) struct Socket {
    descriptor: OwnedFd,
    peer: SocketAddr,
}

impl Stream {
    fn new(socket: TcpStream) -> io::Result<Stream> {
        socket.set_nodelay(true).map_err(plain)?;
        let peer = socket.peer_addr().map_err(plain)?;
        Ok(Stream { socket: RefCell::new(socket), peer, burst: Cell::new(0) })
    }

    pub(in crate::rt) async fn connect(address: SocketAddr) -> io::Result<Stream> {
        Stream::new(TcpStream::connect(address).await.map_err(plain)?)
    }

    pub(in crate::rt) fn adopt(socket: Socket) -> Stream {
        // SAFETY: into_raw_fd gives up the ownership that the new stream takes.
        let stream = unsafe { TcpStream::from_raw_fd(socket.descriptor.into_raw_fd()) };
        Stream { socket: RefCell::new(stream), peer: socket.peer, burst: Cell::new(0) }
    }

    /// Glommio's stream owns its descriptor for good, so a duplicate travels.
    pub(in crate::rt) fn hand_over(self) -> io::Result<Socket> {
        let socket = self.socket.into_inner();
        // SAFETY: the descriptor is open as long as `socket` lives, which is past this call.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        Ok(Socket { descriptor: borrowed.try_clone_to_owned()?, peer: self.peer })
    }

    pub(in crate::rt) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(in crate::rt) fn shutdown(&self) {
        // SAFETY: the descriptor is open while the stream lives. A closed connection answers ENOTCONN.
        unsafe { libc::shutdown(self.socket.borrow().as_raw_fd(), libc::SHUT_RDWR) };
    }

    pub(in crate::rt) async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        if self.burst.get() >= BURST_BYTES {
            // A sender that never pauses must not keep the others, or the disk, waiting.
            self.burst.set(0);
            glommio::timer::sleep(YIELD).await;
        }
        // Glommio receives straight into the slice, unless a poll that it began after a short read is
        // pending; so there is no system call that finds nothing.
        let count = poll_fn(|cx| {
            let polled = Pin::new(&mut *self.socket.borrow_mut()).poll_read(cx, into);
            if polled.is_pending() {
                self.burst.set(0);
            }
            polled
        })
        .await?;
        self.burst.set(self.burst.get() + count);
        Ok(count)
    }

    pub(in crate::rt) async fn write_all_vectored(&self, slices: &[&[u8]]) -> io::Result<()> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let (mut first, mut skip, mut written) = (0, 0, 0);
        while written < total {
            while skip >= slices[first].len() {
                skip -= slices[first].len();
                first += 1;
            }
            let count = match self.send(&slices[first..], skip) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Waits until there is room, and writes a first part.
                    let rest = &slices[first][skip..];
                    poll_fn(|cx| Pin::new(&mut *self.socket.borrow_mut()).poll_write(cx, rest)).await?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                other => other?,
            };
            written += count;
            skip += count;
        }
        Ok(())
    }

    /// One sendmsg that does not block; `skip` bytes of the first slice were sent before.
    fn send(&self, slices: &[&[u8]], skip: usize) -> io::Result<usize> {
        let mut vector = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SLICES_MAX];
        let count = slices.len().min(SLICES_MAX);
        for (index, (part, slice)) in vector.iter_mut().zip(slices).enumerate() {
            let slice = if index == 0 { &slice[skip..] } else { slice };
            *part = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        }
        // SAFETY: an all-zero msghdr is valid; the vector and the slices it points to outlive the
        // call, and the kernel only reads them.
        let sent = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = vector.as_mut_ptr();
            header.msg_iovlen = count;
            let descriptor = self.socket.borrow().as_raw_fd();
            libc::sendmsg(descriptor, &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
