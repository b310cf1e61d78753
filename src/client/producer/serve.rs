//! What the producer's machine does for one partition whenever something happened to it.
//!
//! Floor 5; owned by one driver. Each step either is done, or names what it waits for: an event
//! that will make the partition dirty again, or a time.

use super::machine::{Id, ProducerMachine, Tag};
use super::partition::Binding;
use crate::client::error::ProduceError;
use crate::client::session::{Batch, Millis, Target, topic_id};
use crate::wire::{Request, TopicRef};

/// While so many batches that were sent before they were full wait for their answers on a link, the next ones
/// stay open: the broker has enough to do, and what would wait there as many small batches becomes fewer
/// larger ones here. Measured with keyed 1 KiB records over 10,000 partitions: 278, 287, 228 MB/s with 256,
/// 1,024, 4,096; 177 and 168 with a bound of bytes instead (a quarter of the memory).
pub(super) const EARLY_MAX: usize = 512;

#[derive(PartialEq)]
enum Sent {
    One,
    None,
    /// The link takes no more now: the partition waits where it will be found.
    Crowded,
}

impl ProducerMachine {
    /// Does all that can be done for a partition now, and sees to it that it is looked at again.
    pub(super) fn serve(&mut self, now: Millis, index: usize) {
        let (opened, wake) = self.advance(now, index);
        let partition = &mut self.partitions[index];
        partition.is_open = opened.is_some();
        if cfg!(any(debug_assertions, feature = "sim")) {
            partition.check();
        }
        if partition.wake != wake {
            if let Some(at) = std::mem::replace(&mut partition.wake, wake) {
                self.wakes.remove(&(at, index));
            }
            self.wakes.extend(wake.map(|at| (at, index)));
        }
        let expiry = self.front.options.delivery_timeout_ms().and_then(|timeout| {
            let opened = opened.map(|opened| opened + timeout);
            partition.deadline(timeout).into_iter().chain(opened).min()
        });
        // One that comes too early finds nothing to do, once in a timeout; moved for each batch, it would
        // cost more.
        if let Some(at) = expiry
            && partition.expiry.is_none_or(|before| at < before)
        {
            if let Some(before) = partition.expiry.replace(at) {
                self.expiries.remove(&(before, index));
            }
            self.expiries.insert((at, index));
        }
    }

    /// The work of `serve`; answers when the open batch was opened, and when to look again if nothing happens
    /// before.
    fn advance(&mut self, now: Millis, index: usize) -> (Option<Millis>, Option<Millis>) {
        let options = &self.front.options;
        let partition = &mut self.partitions[index];
        partition.collect(false);
        let mut opened = partition.accumulator.opened_ms();
        if let Some(timeout) = options.delivery_timeout_ms() {
            // An open batch ages too: what nobody can send fails when its time is up.
            if opened.is_some_and(|opened| opened + timeout <= now) {
                partition.collect(true);
                opened = partition.accumulator.opened_ms();
            }
            partition.expire(now, timeout, self.session.trouble());
        }
        let is_urgent = self.front.is_urgent();
        let linger = if is_urgent { 0 } else { options.linger_ms() };
        let lingers = opened.map(|opened| opened + linger);
        let is_due = lingers.is_some_and(|until| until <= now);
        if !partition.has_queued() && !is_due {
            return (opened, self.linger(index, lingers, is_urgent));
        }
        if partition.not_before() > now {
            return (opened, Some(partition.not_before()));
        }
        let Some((target, handle)) = self.prepare(now, index) else {
            return (opened, (self.id_not_before > now).then_some(self.id_not_before));
        };
        let sent = self.send(now, index, (target, handle), is_due);
        let partition = &self.partitions[index];
        let opened = partition.accumulator.opened_ms();
        // The others first: a busy partition does not delay its neighbours by more than a batch.
        if sent == Sent::One && (partition.has_queued() || opened.is_some()) {
            self.dirty.push(index);
        }
        // A blocked partition is looked at again when an answer comes, or the link has room.
        let blocked = sent == Sent::Crowded || partition.has_queued() || !partition.may_send(now);
        let lingers = opened.map(|opened| opened + linger);
        (opened, self.linger(index, lingers.filter(|_| !blocked), is_urgent))
    }

    /// Until when the partition's open batch lingers, and nothing else keeps it.
    fn linger(&mut self, index: usize, until: Option<Millis>, is_urgent: bool) -> Option<Millis> {
        if until.is_some() && !is_urgent {
            self.lingering.push(index);
        }
        until
    }

    /// Link, handle and producer id; `None` while one of them is missing and on its way.
    fn prepare(&mut self, now: Millis, index: usize) -> Option<(Target, u32)> {
        let partition = &mut self.partitions[index];
        let (target, handle) = match partition.binding {
            Binding::Open(target, handle) => (target, handle),
            Binding::Opening(_) => return None,
            Binding::Closed => {
                self.open_handle(now, index);
                return None;
            }
        };
        if partition.needs_identity() {
            match self.id {
                Id::Known(identity) => partition.set_identity(identity),
                Id::None if self.id_not_before <= now && self.session.ensure(now, target) => {
                    self.session.request(now, target, 0, &Request::InitProducerId, Tag::ProducerId);
                    self.id = Id::Asked;
                    return None;
                }
                _ => return None,
            }
        }
        Some((target, handle))
    }

    fn open_handle(&mut self, now: Millis, index: usize) {
        let partition = &mut self.partitions[index];
        // The answers of the old handle come first: they may decide about sequences.
        if partition.has_in_flight() {
            return;
        }
        let number = partition.accumulator.partition;
        let route = self.session.route(&partition.topic);
        let Some(topic) = topic_id(route) else {
            let name = partition.topic.clone();
            return self.session.look_up(now, &name);
        };
        let shards = route.and_then(|route| route.as_ref().ok()).map_or(&[][..], |route| &route.shards);
        let Some(&shard) = shards.get(number as usize) else {
            let (name, partitions) = (partition.topic.to_string(), shards.len() as u32);
            partition.collect(true);
            let error = ProduceError::UnknownPartition { topic: name, partition: number, partitions };
            return partition.fail_queued(error);
        };
        let target = Target::Shard(shard);
        if self.session.ensure(now, target) {
            let open = Request::Open { topic: TopicRef::Id(topic), partition: number };
            self.session.request(now, target, 0, &open, Tag::Open(index));
            partition.binding = Binding::Opening(target);
        }
    }

    /// Sends one batch if one may go: the oldest full one, or the open one once it is due.
    fn send(&mut self, now: Millis, index: usize, (target, handle): (Target, u32), is_due: bool) -> Sent {
        let partition = &mut self.partitions[index];
        if !partition.may_send(now) {
            return Sent::None;
        }
        if !self.session.has_room(target) {
            self.crowded.entry(target).or_default().push(index);
            return Sent::Crowded;
        }
        let is_early = !partition.has_queued();
        if is_early {
            if !is_due {
                return Sent::None;
            }
            if self.session.counted(target) >= EARLY_MAX {
                self.growing.entry(target).or_default().push(index);
                return Sent::Crowded;
            }
            if !partition.collect(true) {
                return Sent::None;
            }
            self.front.move_on(&partition.topic, partition.accumulator.partition);
        }
        let Some(batch) = partition.next() else { return Sent::None };
        let tag = Tag::Produce(index, batch.id);
        let batch = Batch { handle, acks: self.front.options.acks, bytes: batch.bytes, is_counted: is_early };
        self.session.produce(now, target, batch, tag);
        Sent::One
    }
}
