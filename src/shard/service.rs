//! The shard's side of its connections: accepts, routes requests, hands sockets over.
//!
//! Floor 5. Owner: the shard.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::mesh::ToShard;
use crate::api::{Done, Reply, Request};
use crate::net::{self, Closed, Limits, Memory, Service};
use crate::rt::{Handover, Level, Stream};

/// Handles of one connection: a client of 100,000 partitions is served.
const HANDLES_MAX: u32 = 1 << 18;
/// Unanswered requests of one connection.
const REQUESTS_MAX: u32 = 16 << 10;
/// Replies of one connection that wait for its socket.
const REPLY_BYTES_MAX: usize = 32 << 20;
/// Without descriptors every attempt to accept fails: it is said so often.
const ACCEPT_SAID_EVERY: Duration = Duration::from_secs(10);
/// What a fetch reply may say besides records.
const FETCH_HEAD_BYTES_MAX: u32 = 1 << 20;

impl Shard {
    pub(super) async fn listen(self: &Rc<Self>, address: SocketAddr) -> io::Result<()> {
        let listener = self.rt.listen(address).await?;
        let shard = self.clone();
        self.rt.spawn(async move {
            let mut quiet_until = shard.rt.now();
            while !shard.stopping.get() {
                match listener.accept().await {
                    Ok(stream) => shard.serve(stream, Vec::new()),
                    // The client was gone before it was looked at.
                    Err(error) if is_gone(&error) => {}
                    Err(error) => {
                        if shard.rt.now() >= quiet_until {
                            quiet_until = shard.rt.now() + ACCEPT_SAID_EVERY;
                            let text = format!("connections cannot be accepted: {error}");
                            shard.rt.log(Level::Warn, text);
                        }
                        shard.rt.sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(())
    }

    fn serve(self: &Rc<Self>, stream: Stream, preface: Vec<u8>) {
        let bound = self.settings.connections_max;
        if self.connections.get() >= bound {
            stream.shutdown();
            if self.rt.now() >= self.refusal_quiet_until.get() {
                self.refusal_quiet_until.set(self.rt.now() + ACCEPT_SAID_EVERY);
                let text = format!(
                    "connections are refused: this shard has {bound} (max.connections, or what the limit of open files allows)"
                );
                self.rt.log(Level::Warn, text);
            }
            return;
        }
        self.connections.set(self.connections.get() + 1);
        let service: Rc<dyn Service> = Rc::new(Port(self.clone()));
        self.rt.spawn(net::serve(self.rt.clone(), service, stream, preface));
    }

    /// Takes a socket over that was accepted elsewhere.
    pub(super) fn adopt(self: &Rc<Self>, mut handover: Handover) {
        let preface = std::mem::take(&mut handover.preface);
        match self.rt.adopt(handover) {
            Ok(stream) => self.serve(stream, preface),
            Err(error) => self.rt.log(Level::Warn, format!("a connection could not be taken over: {error}")),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected)
}

/// A shard as its connections see it.
struct Port(Rc<Shard>);

impl Service for Port {
    fn index(&self) -> u32 {
        self.0.index
    }

    fn count(&self) -> u32 {
        self.0.count
    }

    fn broker_epoch(&self) -> u64 {
        self.0.broker_epoch
    }

    fn request(&self, request: Request, done: Done) {
        let shard = &self.0;
        match request {
            Request::Produce(produce) => shard.produce(produce, done),
            Request::Fetch(fetch) => shard.fetch(fetch, done),
            Request::Metadata(topics) => done(shard.metadata(&topics).map(Reply::Metadata)),
            Request::Open { topic, partition } => done(shard.open(&topic, partition)),
            Request::ListOffsets { partition, at } => shard.list_offsets(partition, at, done),
            Request::DeleteRecords { partition, before } => shard.delete_records(partition, before, done),
            Request::Admin(request) => shard.admin(request, done),
        }
    }

    fn produce_room(&self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        if self.0.staged_bytes.get() < self.0.staged_bytes_max {
            return None;
        }
        let shard = self.0.clone();
        Some(Box::pin(async move {
            while shard.staged_bytes.get() >= shard.staged_bytes_max {
                shard.room.wait().await;
            }
        }))
    }

    fn hand_over(&self, shard: u32, socket: Handover) {
        if let Some(peer) = self.0.peers.get(shard as usize) {
            peer.send(ToShard::Connection(socket));
        }
    }

    fn limits(&self) -> Limits {
        let frame_bytes_max = self.0.settings.frame_bytes_max;
        Limits {
            frame_bytes_max,
            handles_max: HANDLES_MAX,
            requests_max: REQUESTS_MAX,
            reply_bytes_max: REPLY_BYTES_MAX,
            fetch_bytes_max: frame_bytes_max - FETCH_HEAD_BYTES_MAX.min(frame_bytes_max / 2),
        }
    }

    fn memory(&self) -> Memory {
        self.0.memory.clone()
    }

    fn closed(&self, why: Closed) {
        self.0.connections.set(self.0.connections.get() - 1);
        if why == Closed::Garbage {
            self.0.rt.log(Level::Warn, "a connection was closed: it did not speak the native protocol");
        }
    }
}
