//! One partition's batches on their way: order, sequences, retries.
//!
//! Floor 5; owned by the producer's machine. What it keeps, for an idempotent producer:
//!
//! * At most [`IN_FLIGHT_MAX`] batches are unanswered, so that the broker's window of the last
//!   five batches recognises every repetition.
//! * After a refusal nothing is sent until all that is in flight was answered (`hold`); then the
//!   refused batches go again, in order, with the sequences they had.
//! * A batch whose connection broke may have been written (`maybe_written`). It is only ever sent
//!   again under the same topic id, producer id, epoch and sequence.
//! * Before sequences start anew (a batch was given up or refused for good) the epoch is raised
//!   (KIP-360), so that a late copy of an older batch is refused; and batches that may have been
//!   written fail then, for under a new epoch the broker could not tell that they are repetitions.
//!   Epochs are per partition here, as is the broker's check.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Front;
use super::accumulator::{Accumulator, Built};
use super::completion::Acknowledged;
use crate::client::error::ProduceError;
use crate::client::session::{Millis, Target};
use crate::model::{ErrorCode, Failure, ProducerId, TopicId};
use crate::record::{ProducerStamp, set_producer};
use crate::wire::Produced;

/// Unanswered batches of a partition: the size of the broker's window.
pub(super) const IN_FLIGHT_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Closed,
    Opening(Target),
    Open(Target, u32),
}

/// Whose sequences a partition uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub id: ProducerId,
    pub epoch: i16,
}

#[derive(Debug)]
struct Batch {
    built: Built,
    stamp: Option<ProducerStamp>,
    /// How many batches were stamped before it.
    ordinal: u64,
    /// It was sent at least once and not refused, and the answer never came.
    maybe_written: bool,
    /// Its records have been told that time is up; only the answer is still of interest.
    given_up: bool,
}

/// A batch as it goes out.
pub(super) struct Outgoing {
    pub id: u64,
    pub bytes: Bytes,
}

/// What the machine must do after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Nothing,
    /// The route is out of date.
    Reroute,
    /// The producer id itself is refused.
    NewIdentity,
}

pub(super) struct Partition {
    pub topic: Arc<str>,
    pub accumulator: Arc<Accumulator>,
    pub binding: Binding,
    /// It may hold an open batch.
    pub is_open: bool,
    /// When the machine has to look again by itself.
    pub wake: Option<Millis>,
    /// When it looks for batches that are out of time: not after the first of them is.
    pub expiry: Option<Millis>,
    front: Arc<Front>,
    idempotent: bool,
    topic_id: Option<TopicId>,
    identity: Option<Identity>,
    sequence_next: i32,
    ordinal_next: u64,
    /// The broker has acknowledged a batch of this identity. Until then one is in flight: a broker
    /// that does not know the producer takes whatever sequence comes first.
    introduced: bool,
    /// To be sent; those that were sent before come first.
    queue: VecDeque<Batch>,
    /// Sent and not answered, in the order of sending.
    in_flight: VecDeque<Batch>,
    hold: bool,
    /// Sequences start anew once nothing is in flight.
    restart: bool,
    /// A batch was given up: no new batch goes out until the fate of the sent ones is known.
    resend_only: bool,
    not_before: Millis,
    attempts: u32,
}

impl Partition {
    pub fn new(topic: Arc<str>, accumulator: Arc<Accumulator>, front: Arc<Front>, idempotent: bool) -> Self {
        Partition {
            topic,
            accumulator,
            binding: Binding::Closed,
            is_open: false,
            wake: None,
            expiry: None,
            front,
            idempotent,
            topic_id: None,
            identity: None,
            sequence_next: 0,
            ordinal_next: 0,
            introduced: false,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            hold: false,
            restart: false,
            resend_only: false,
            not_before: 0,
            attempts: 0,
        }
    }

    /// Takes over the batches that are full, and with `open` the open one as well.
    pub fn collect(&mut self, open: bool) -> bool {
        let front = self.front.clone();
        let give_back = |bytes| front.budget.give_back(bytes);
        while let Some(built) = self.accumulator.take_full(give_back) {
            self.push(built);
        }
        let built = if open { self.accumulator.take_open(give_back) } else { None };
        built.map(|built| self.push(built)).is_some()
    }

    fn push(&mut self, built: Built) {
        self.queue.push_back(Batch { built, stamp: None, ordinal: 0, maybe_written: false, given_up: false });
    }

    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether a batch may go out as far as this partition is concerned.
    pub fn may_send(&self, now: Millis) -> bool {
        let in_flight_max = if self.idempotent && !self.introduced { 1 } else { IN_FLIGHT_MAX };
        !self.hold && self.not_before <= now && self.in_flight.len() < in_flight_max
    }

    pub fn not_before(&self) -> Millis {
        self.not_before
    }

    pub fn needs_identity(&self) -> bool {
        self.idempotent && self.identity.is_none()
    }

    pub fn set_identity(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.sequence_next = 0;
        self.introduced = false;
    }

    /// The topic was opened under this id. If that is another than before, what may have been
    /// written to the old topic fails, and sequences start at 0: the new topic knows none.
    pub fn bind(&mut self, id: TopicId, target: Target, handle: u32) {
        self.binding = Binding::Open(target, handle);
        if self.topic_id.replace(id).is_none_or(|old| old == id) {
            return;
        }
        let topic = self.topic.to_string();
        self.fail_where(ProduceError::TopicDeleted { topic }, |batch| batch.maybe_written);
        self.clear_stamps();
        (self.restart, self.resend_only) = (false, false);
    }

    /// The next batch to send, stamped; it is in flight from now on.
    pub fn next(&mut self) -> Option<Outgoing> {
        let front = self.queue.front()?;
        if front.stamp.is_none() && (self.resend_only || self.is_window_full()) {
            return None;
        }
        let mut batch = self.queue.pop_front()?;
        if let (true, None, Some(identity)) = (self.idempotent, batch.stamp, self.identity) {
            let stamp =
                ProducerStamp { id: identity.id, epoch: identity.epoch, base_sequence: self.sequence_next };
            batch.stamp(stamp);
            batch.ordinal = self.ordinal_next;
            self.ordinal_next += 1;
            // 2^31 - 1 is followed by 0.
            self.sequence_next = self.sequence_next.wrapping_add(batch.built.records as i32) & i32::MAX;
        }
        let outgoing = Outgoing { id: batch.built.id, bytes: batch.built.bytes.clone() };
        self.in_flight.push_back(batch);
        Some(outgoing)
    }

    /// Whether one more batch could push the oldest unanswered one out of the broker's window, even
    /// if later ones have been answered before it.
    fn is_window_full(&self) -> bool {
        let oldest = self.in_flight.iter().map(|batch| batch.ordinal).min();
        self.idempotent && oldest.is_some_and(|oldest| self.ordinal_next - oldest >= IN_FLIGHT_MAX as u64)
    }

    pub fn acknowledged(&mut self, id: u64, produced: &Produced) {
        let Some(batch) = self.take_in_flight(id) else { return };
        self.attempts = 0;
        self.introduced = true;
        let acknowledged = Acknowledged {
            base_offset: produced.base_offset,
            log_append_time_ms: produced.log_append_time_ms,
        };
        self.finish(batch, Ok(acknowledged));
        self.settle();
    }

    /// A batch was refused: it was not written by this attempt.
    pub fn refused(
        &mut self,
        now: Millis,
        id: u64,
        failure: Failure,
        backoff: impl FnOnce(u32) -> Millis,
    ) -> Verdict {
        use ErrorCode::*;
        let oldest = self.in_flight.front().is_some_and(|batch| batch.built.id == id);
        let Some(batch) = self.take_in_flight(id) else { return Verdict::Nothing };
        let mut verdict = Verdict::Nothing;
        match failure.code {
            DuplicateSequenceNumber => {
                self.finish(batch, Ok(Acknowledged { base_offset: -1, log_append_time_ms: -1 }));
            }
            OutOfOrderSequenceNumber | InvalidProducerEpoch | UnknownProducerId => {
                // Behind a refused batch this is expected; else the sequence is broken.
                if !self.hold && oldest {
                    self.restart = true;
                    if failure.code != OutOfOrderSequenceNumber {
                        verdict = Verdict::NewIdentity;
                    }
                    self.pause(now, &failure, backoff);
                }
                self.put_back(batch);
            }
            code if code.retriable() => {
                if crate::client::session::is_stale_route(code) {
                    verdict = Verdict::Reroute;
                }
                self.pause(now, &failure, backoff);
                self.put_back(batch);
            }
            _ => {
                // Its sequence will never come, so that later ones are out of order.
                self.restart |= batch.stamp.is_some();
                self.hold |= self.restart;
                self.finish(batch, Err(ProduceError::Refused(failure)));
            }
        }
        self.settle();
        verdict
    }

    fn pause(&mut self, now: Millis, failure: &Failure, backoff: impl FnOnce(u32) -> Millis) {
        if !self.hold {
            let pause = backoff(self.attempts).max(failure.retry_after_ms.into());
            self.not_before = now + pause;
            self.attempts += 1;
        }
        self.hold = true;
    }

    /// The link broke: what was in flight has an unknown fate, and goes again in order.
    pub fn disconnected(&mut self) {
        self.binding = Binding::Closed;
        for mut batch in std::mem::take(&mut self.in_flight) {
            batch.maybe_written = true;
            self.put_back(batch);
        }
        self.settle();
    }

    /// The route is out of date; the handle with it, once its last answers are in.
    pub fn unbind(&mut self) {
        self.binding = Binding::Closed;
    }

    /// Nothing goes out before `until`.
    pub fn delay(&mut self, until: Millis) {
        self.not_before = self.not_before.max(until);
    }

    /// Whether an open handle is the one that the topic's route leads to.
    pub fn agrees_with(&self, id: TopicId, shard: Option<u32>) -> bool {
        match self.binding {
            Binding::Open(target, _) => self.topic_id == Some(id) && shard.map(Target::Shard) == Some(target),
            Binding::Opening(_) | Binding::Closed => true,
        }
    }

    /// Fails what is older than the delivery timeout. `last` says what held it up.
    pub fn expire(&mut self, now: Millis, timeout: Millis, last: &str) {
        let is_due = |batch: &Batch| batch.built.opened_ms + timeout <= now;
        let mut due = Vec::new();
        for batch in self.in_flight.iter_mut().filter(|batch| is_due(batch) && !batch.given_up) {
            batch.given_up = true;
            due.push((batch.built.id, batch.built.reserved, batch.built.completion.clone(), true));
            self.resend_only |= self.idempotent;
        }
        while self.queue.front().is_some_and(is_due) {
            let Some(batch) = self.queue.pop_front() else { break };
            let built = batch.built;
            due.push((built.id, built.reserved, built.completion, batch.maybe_written));
            match batch.stamp {
                Some(_) if batch.maybe_written => self.resend_only = true,
                Some(_) => (self.restart, self.hold) = (true, true),
                None => {}
            }
        }
        for (id, reserved, completion, maybe_written) in due {
            let error = ProduceError::TimedOut { maybe_written, last: last.to_owned() };
            self.front.complete(id, reserved, &completion, Err(error));
        }
        self.settle();
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn deadline(&self, timeout: Millis) -> Option<Millis> {
        let queued = self.queue.front().map(|batch| batch.built.opened_ms + timeout);
        let in_flight = self.in_flight.iter().find(|batch| !batch.given_up);
        queued.into_iter().chain(in_flight.map(|batch| batch.built.opened_ms + timeout)).min()
    }

    /// Fails everything that waits; what is in flight keeps waiting for its answer.
    pub fn fail_queued(&mut self, error: ProduceError) {
        // A stamped batch that goes leaves a gap in the sequence.
        self.restart |= self.queue.iter().any(|batch| batch.stamp.is_some());
        self.hold |= self.restart;
        self.fail_where(error, |_| true);
        self.settle();
    }

    /// Fails everything.
    pub fn fail_all(&mut self, error: ProduceError) {
        self.collect(true);
        while let Some(batch) = self.in_flight.pop_back() {
            self.queue.push_front(batch);
        }
        self.fail_where(error, |_| true);
    }

    fn fail_where(&mut self, error: ProduceError, is_wanted: impl Fn(&Batch) -> bool) {
        for batch in std::mem::take(&mut self.queue) {
            if is_wanted(&batch) {
                self.finish(batch, Err(error.clone()));
            } else {
                self.queue.push_back(batch);
            }
        }
    }

    /// Once nothing is in flight, refused batches may go again, and sequences start anew if they
    /// have to.
    fn settle(&mut self) {
        if self.has_in_flight() {
            return;
        }
        if self.resend_only && !self.queue.iter().any(|batch| batch.stamp.is_some()) {
            (self.resend_only, self.restart) = (false, true);
        }
        if self.restart {
            (self.resend_only, self.restart) = (false, false);
            let error = ProduceError::FateUnknown("the sequence of an earlier batch was given up".into());
            self.fail_where(error, |batch| batch.maybe_written);
            self.raise_epoch();
            self.clear_stamps();
        }
        self.hold = false;
    }

    /// KIP-360: an idempotent producer raises its epoch by itself; out of epochs, it asks for an id.
    fn raise_epoch(&mut self) {
        let raise = |identity: Identity| {
            let epoch = identity.epoch.checked_add(1)?;
            Some(Identity { epoch, ..identity })
        };
        self.identity = self.identity.and_then(raise);
    }

    fn clear_stamps(&mut self) {
        self.sequence_next = 0;
        self.introduced = false;
        for batch in &mut self.queue {
            batch.stamp = None;
        }
    }

    /// The machine will provide another producer id.
    pub fn drop_identity(&mut self) {
        self.identity = None;
    }

    /// Between its older and younger neighbours.
    fn put_back(&mut self, batch: Batch) {
        if batch.given_up {
            // Definitely not written, and nobody waits for it: its sequence is a gap.
            self.restart |= batch.stamp.is_some() && !batch.maybe_written;
            return;
        }
        let at = self.queue.iter().take_while(|other| other.built.id < batch.built.id).count();
        self.queue.insert(at, batch);
    }

    fn take_in_flight(&mut self, id: u64) -> Option<Batch> {
        let at = self.in_flight.iter().position(|batch| batch.built.id == id)?;
        self.in_flight.remove(at)
    }

    fn finish(&self, batch: Batch, outcome: Result<Acknowledged, ProduceError>) {
        if !batch.given_up {
            let Built { id, reserved, completion, .. } = batch.built;
            self.front.complete(id, reserved, &completion, outcome);
        }
    }

    /// What must hold between any two steps.
    pub fn check(&self) {
        assert!(self.in_flight.len() <= IN_FLIGHT_MAX);
        let ids = self.in_flight.iter().chain(&self.queue).map(|batch| batch.built.id);
        assert!(self.hold || ids.is_sorted(), "batches leave in the order in which they were opened");
        let stamped = self.queue.iter().map(|batch| batch.stamp.is_none());
        assert!(stamped.is_sorted(), "batches that were sent before come first");
    }
}

impl Batch {
    fn stamp(&mut self, stamp: ProducerStamp) {
        self.stamp = Some(stamp);
        let bytes = std::mem::take(&mut self.built.bytes);
        // Still ours alone, unless an older attempt's bytes are on their way out: then a copy.
        let mut bytes: Vec<u8> = bytes.into();
        set_producer(&mut bytes, stamp);
        self.built.bytes = bytes.into();
    }
}
