//! Connections of the native protocol: frames in, requests to the shard, replies out.
//!
//! Floor 4. Owner: shard. Each connection has a reader task (the one that calls [`serve`]), a
//! writer task and a watchdog. Invariants: a request is answered exactly once (acks=0 never);
//! produce replies of one handle leave in the order of their requests; memory of a connection is
//! bounded by [`Limits`]: beyond them the reader stops, and a peer that takes nothing for
//! [`STALL`] is cut off. Record bytes go from their [`Chunk`](crate::api::Chunk) to the socket
//! without a copy.

mod connection;
mod handshake;
mod outbox;
mod reader;
#[cfg(test)]
mod tests;
mod translate;
mod writer;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use crate::api::{Done, Request};
use crate::rt::{Budget, Handover, Rt, Stream};
use crate::wire::Recycler;

use self::connection::Connection;
use self::handshake::{Handshake, greet};

/// A hello must be complete this long after the connection was accepted.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// A response that makes no progress for this long ends the connection.
const STALL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
/// A large frame that arrives more slowly than this, after the stall limit, ends the connection: it
/// keeps memory from others.
const SLOW_BYTES_PER_S: u64 = 256 << 10;
/// What a fetch may answer even while others hold, or have promised, all that there is.
pub const FETCH_BYTES_MIN: usize = 64 << 10;
/// How often a connection is looked at: for a stalled response, and for memory that it can give back.
const WATCH: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// What a connection may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest frame that a client may send, header included.
    pub frame_bytes_max: u32,
    /// Open handles at once.
    pub handles_max: u32,
    /// Unanswered requests at once.
    pub requests_max: u32,
    /// Bytes of replies that wait for the socket; beyond them no request is read.
    pub reply_bytes_max: usize,
    /// Record bytes of one fetch reply.
    pub fetch_bytes_max: u32,
}

/// Memory that the connections of a shard share.
#[derive(Clone)]
pub struct Memory {
    /// Of large frames, from their beginning until the shard has taken them over.
    pub incoming: Rc<Budget>,
    /// Of records on their way to sockets; counted by the shard.
    pub replies: Rc<Budget>,
    pub recycler: Recycler,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The client closed it, or the network did.
    Peer,
    /// Another shard serves it now.
    HandedOver,
    /// No hello in time.
    Silent,
    /// It spoke another protocol, or broke the rules of this one.
    Garbage,
    /// It did not take its replies, or did not end a frame that it had begun.
    Stalled,
}

/// What a connection needs of its shard.
pub trait Service {
    fn index(&self) -> u32;
    /// Shards of this broker.
    fn count(&self) -> u32;
    fn broker_epoch(&self) -> u64;
    /// Never blocks; `done` is called exactly once, now or later.
    fn request(&self, request: Request, done: Done);
    /// Some(future) while produce must be parked (staging is full); resolves when there is room.
    fn produce_room(&self) -> Option<Pin<Box<dyn Future<Output = ()>>>>;
    /// Sends a socket to the shard that its client asked for; that one calls [`serve`] with the
    /// preface of the handover.
    fn hand_over(&self, shard: u32, socket: Handover);
    fn limits(&self) -> Limits;
    fn memory(&self) -> Memory;
    /// For the metrics.
    fn closed(&self, why: Closed);
}

/// Serves one accepted connection to its end. `preface` are bytes that were read elsewhere.
pub async fn serve(rt: Rt, service: Rc<dyn Service>, stream: Stream, preface: Vec<u8>) {
    let why = match greet(&rt, &*service, &stream, preface).await {
        Ok(Handshake::Served(session)) => {
            let connection = Connection::new(rt, service.clone(), stream, session);
            reader::run(connection).await
        }
        Ok(Handshake::Elsewhere { shard, preface }) => match stream.hand_over() {
            Ok(mut socket) => {
                socket.preface = preface;
                service.hand_over(shard, socket);
                Closed::HandedOver
            }
            Err(_) => Closed::Peer,
        },
        Err(why) => {
            stream.shutdown();
            why
        }
    };
    service.closed(why);
}
