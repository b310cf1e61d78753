//! What the tasks of one connection share.
//!
//! Floor 4. Owner: shard. Invariant: `outstanding` counts exactly the requests whose reply is not
//! in the outbox yet; once `Dead`, nothing is queued any more and both tasks end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::api::Chunk;
use crate::base::Map;
use crate::model::PartitionId;
use crate::net::handshake::Session;
use crate::net::outbox::{Order, Outbox};
use crate::net::{Closed, FETCH_BYTES_MIN, Limits, Memory, SLOW_BYTES_PER_S, STALL, Service, WATCH};
use crate::rt::local::{Either, Event, select2};
use crate::rt::{Instant, Lease, Rt, Stream};
use crate::wire::FrameReader;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// Nothing more is read; what is outstanding is still answered.
    Draining,
    Dead,
}

/// A partition that this connection opened.
pub(super) struct Handle {
    pub partition: PartitionId,
    pub order: Rc<RefCell<Order>>,
}

#[derive(Default)]
pub(super) struct Handles {
    pub open: Map<u32, Handle>,
    pub last: u32,
}

pub(super) struct Connection {
    pub rt: Rt,
    pub service: Rc<dyn Service>,
    pub stream: Stream,
    pub limits: Limits,
    pub memory: Memory,
    /// For the large frame that is arriving or is being taken over.
    pub incoming: RefCell<Option<Lease>>,
    /// Since when it arrives, and how large it is.
    pub arriving: Cell<Option<(Instant, usize)>>,
    pub client_frame_bytes_max: u32,
    pub handles: RefCell<Handles>,
    pub outbox: RefCell<Outbox>,
    /// The writer has something to send, or should end.
    pub filled: Event,
    /// Replies left, or the connection is dead: the reader looks again.
    pub room: Event,
    /// The reader should give back memory.
    pub nudge: Event,
    /// Both tasks are done.
    pub ended: Event,
    pub state: Cell<State>,
    pub why: Cell<Closed>,
    outstanding: Cell<u32>,
    /// Record bytes that outstanding fetches may be answered with.
    promised: Cell<usize>,
    /// Since when the writer waits for the socket to take something.
    pub writing_since: Cell<Option<Instant>>,
    pub reads: Cell<u64>,
    /// Until the reader task takes it.
    frames: Cell<Option<FrameReader>>,
}

impl Connection {
    pub(super) fn new(
        rt: Rt,
        service: Rc<dyn Service>,
        stream: Stream,
        mut session: Session,
    ) -> Rc<Connection> {
        let memory = service.memory();
        session.frames.set_recycler(memory.recycler.clone());
        Rc::new(Connection {
            rt,
            service,
            stream,
            limits: session.limits,
            memory,
            incoming: RefCell::default(),
            arriving: Cell::new(None),
            client_frame_bytes_max: session.client_frame_bytes_max,
            handles: RefCell::default(),
            outbox: RefCell::default(),
            filled: Event::new(),
            room: Event::new(),
            nudge: Event::new(),
            ended: Event::new(),
            state: Cell::new(State::Open),
            why: Cell::new(Closed::Peer),
            outstanding: Cell::new(0),
            promised: Cell::new(0),
            writing_since: Cell::new(None),
            reads: Cell::new(0),
            frames: Cell::new(Some(session.frames)),
        })
    }

    pub(super) fn take_frames(&self) -> FrameReader {
        self.frames.take().expect("one reader task takes it once")
    }

    /// Whether another request may be read.
    pub(super) fn has_room(&self) -> bool {
        // Once stalled peers hold all that there is for replies, nobody may hold much.
        let scarce = self.memory.replies.left() == 0;
        let most = if scarce { FETCH_BYTES_MIN } else { self.limits.reply_bytes_max };
        self.outstanding.get() < self.limits.requests_max && self.outbox.borrow().bytes() < most
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.get() == 0 && self.outbox.borrow().bytes() == 0
    }

    /// Reply bytes that neither wait for the socket nor are promised to fetches.
    pub(super) fn reply_bytes_left(&self) -> usize {
        let used = self.outbox.borrow().bytes() + self.promised.get();
        self.limits.reply_bytes_max.saturating_sub(used)
    }

    /// Some fetch is not answered yet, or its answer has not left.
    pub(super) fn has_fetched(&self) -> bool {
        self.promised.get() > 0 || self.outbox.borrow().bytes() > 0
    }

    pub(super) fn promise(&self, bytes: u32) {
        self.promised.set(self.promised.get() + bytes as usize);
    }

    pub(super) fn keep_promise(&self, bytes: u32) {
        self.promised.set(self.promised.get() - bytes as usize);
    }

    /// A request went to the shard.
    pub(super) fn begin(&self) {
        self.outstanding.set(self.outstanding.get() + 1);
    }

    /// Its reply, or that it has none.
    pub(super) fn finish(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.finish_with(|outbox| outbox.small(encode));
    }

    /// A reply with record bytes behind its head.
    pub(super) fn finish_with_chunks(&self, encode: impl FnOnce(&mut Vec<u8>), chunks: Vec<Chunk>) {
        self.finish_with(|outbox| {
            outbox.small(encode);
            chunks.into_iter().for_each(|chunk| outbox.chunk(chunk));
        });
    }

    fn finish_with(&self, fill: impl FnOnce(&mut Outbox)) {
        assert!(self.outstanding.get() > 0, "a request is answered once");
        self.outstanding.set(self.outstanding.get() - 1);
        if self.state.get() != State::Dead {
            fill(&mut self.outbox.borrow_mut());
        }
        self.filled.notify();
        self.room.notify();
    }

    /// A reply that belongs to no outstanding request.
    pub(super) fn say(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.state.get() != State::Dead {
            self.outbox.borrow_mut().small(encode);
            self.filled.notify();
        }
    }

    /// Reads no more, answers what is outstanding, then closes.
    pub(super) fn drain(&self, why: Closed) {
        if self.state.get() == State::Open {
            self.why.set(why);
            self.state.set(State::Draining);
        }
        self.filled.notify();
    }

    /// Ends it now.
    pub(super) fn kill(&self, why: Closed) {
        if self.state.get() == State::Open {
            self.why.set(why);
        }
        self.state.set(State::Dead);
        self.outbox.borrow_mut().clear();
        // Requests that are still under way keep the connection, but no frame.
        drop(self.incoming.take());
        self.stream.shutdown();
        self.filled.notify();
        self.room.notify();
    }
}

/// Looks after a connection: ends it when its replies stall, and lets an idle one shrink.
pub(super) async fn watch(connection: Rc<Connection>) {
    let (rt, ended) = (connection.rt.clone(), connection.ended.clone());
    // Weak: the watchdog must not keep the socket of an ended connection.
    let connection = {
        let weak = Rc::downgrade(&connection);
        drop(connection);
        weak
    };
    let mut reads = u64::MAX;
    while let Either::First(()) = select2(rt.sleep(WATCH), ended.wait()).await {
        let Some(connection) = connection.upgrade() else { return };
        if connection.state.get() == State::Dead {
            return;
        }
        let stalls = connection.writing_since.get().is_some_and(|since| rt.now() - since >= STALL);
        let crawls = connection.arriving.get().is_some_and(|(since, bytes)| {
            rt.now() - since >= STALL + Duration::from_secs(bytes as u64 / SLOW_BYTES_PER_S)
        });
        if stalls || crawls {
            connection.kill(Closed::Stalled);
            return;
        }
        if reads == connection.reads.get() {
            connection.nudge.notify();
        }
        reads = connection.reads.get();
    }
}
