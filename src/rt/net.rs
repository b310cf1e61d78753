//! TCP: listeners, connected streams, and a socket on its way to another executor.
//!
//! Floor 1. Owner: shard. One reader task and one writer task at a time use a stream.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::real;
#[cfg(feature = "sim")]
use super::sim;

pub struct Listener(pub(super) ListenerKind);

pub(super) enum ListenerKind {
    Real(real::Listener),
    #[cfg(feature = "sim")]
    Sim(sim::Listener),
}

impl Listener {
    /// The next connection. An error (out of descriptors) concerns that one only: wait a little, go on.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.0 {
            ListenerKind::Real(listener) => Ok(Stream(StreamKind::Real(Rc::new(listener.accept().await?)))),
            #[cfg(feature = "sim")]
            ListenerKind::Sim(listener) => Ok(Stream(StreamKind::Sim(Rc::new(listener.accept().await?)))),
        }
    }

    /// The bound address: the port that was chosen if 0 was asked for.
    pub fn local(&self) -> SocketAddr {
        match &self.0 {
            ListenerKind::Real(listener) => listener.local(),
            #[cfg(feature = "sim")]
            ListenerKind::Sim(listener) => listener.local(),
        }
    }
}

/// A connected socket. Closed when the last clone is dropped.
#[derive(Clone)]
pub struct Stream(pub(super) StreamKind);

#[derive(Clone)]
pub(super) enum StreamKind {
    Real(Rc<real::Stream>),
    #[cfg(feature = "sim")]
    Sim(Rc<sim::Stream>),
}

impl Stream {
    /// Some bytes, at least one; 0 is the end of the stream.
    pub async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        assert!(!into.is_empty(), "an empty read cannot be told from the end of the stream");
        match &self.0 {
            StreamKind::Real(stream) => stream.read(into).await,
            #[cfg(feature = "sim")]
            StreamKind::Sim(stream) => stream.read(into).await,
        }
    }

    /// Writes all slices in order, or fails.
    pub async fn write_all_vectored(&self, slices: &[&[u8]]) -> io::Result<()> {
        match &self.0 {
            StreamKind::Real(stream) => stream.write_all_vectored(slices).await,
            #[cfg(feature = "sim")]
            StreamKind::Sim(stream) => stream.write_all_vectored(slices).await,
        }
    }

    /// Ends both directions: pending and later reads see the end, writes fail.
    pub fn shutdown(&self) {
        match &self.0 {
            StreamKind::Real(stream) => stream.shutdown(),
            #[cfg(feature = "sim")]
            StreamKind::Sim(stream) => stream.shutdown(),
        }
    }

    pub fn peer(&self) -> SocketAddr {
        match &self.0 {
            StreamKind::Real(stream) => stream.peer(),
            #[cfg(feature = "sim")]
            StreamKind::Sim(stream) => stream.peer(),
        }
    }

    /// Prepares the socket for another executor. Fails if another clone is still held.
    pub fn hand_over(self) -> io::Result<Handover> {
        let held = || io::Error::new(io::ErrorKind::ResourceBusy, "the stream is still in use");
        let socket = match self.0 {
            StreamKind::Real(stream) => {
                HandoverKind::Real(Rc::try_unwrap(stream).map_err(|_| held())?.hand_over()?)
            }
            #[cfg(feature = "sim")]
            StreamKind::Sim(stream) => {
                HandoverKind::Sim(Rc::try_unwrap(stream).map_err(|_| held())?.hand_over())
            }
        };
        Ok(Handover { preface: Vec::new(), socket })
    }
}

/// A socket between two executors; `Rt::adopt` makes it a stream again.
pub struct Handover {
    /// Bytes that were read but belong to the receiver.
    pub preface: Vec<u8>,
    pub(super) socket: HandoverKind,
}

pub(super) enum HandoverKind {
    Real(real::Socket),
    #[cfg(feature = "sim")]
    Sim(sim::Socket),
}
