//! The producer's machine: from batches to requests and back.
//!
//! Floor 5; owned by one driver. It looks at a partition whenever something happened to it, and
//! then does all that can be done (`serve`): expire, find the shard, open a handle, get a producer
//! id, send. Invariant: a partition that waits for something has a reason that ends in an event
//! for it, or a wake-up time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::accumulator::Accumulator;
use super::partition::{Binding, Identity, Partition, Verdict};
use super::serve::EARLY_MAX;
use super::turns::Turns;
use super::{Front, Lookup, ProducerHandle, ProducerOptions, Topic};
use crate::base::lock;
use crate::client::error::ProduceError;
use crate::client::session::{Action, Event, Machine, Millis, News, Session, Settings, Target};
use crate::client::sync::{Bell, Budget};
use crate::model::{ErrorCode, Failure};
use crate::wire::{BATCH_BYTES_MAX, Produced, Reply};

#[derive(Clone, Copy, Debug)]
pub(super) enum Tag {
    Open(usize),
    Produce(usize, u64),
    ProducerId,
}

impl Tag {
    fn produced(&self) -> Option<usize> {
        match self {
            Tag::Produce(index, _) => Some(*index),
            _ => None,
        }
    }
}

/// Where the producer id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    None,
    Asked,
    Known(Identity),
}

pub struct ProducerMachine {
    pub(super) front: Arc<Front>,
    pub(super) session: Session<Tag>,
    pub(super) partitions: Vec<Partition>,
    /// Partitions of each topic that was ever routed, by number.
    topics: BTreeMap<String, Vec<usize>>,
    lookups: Vec<Lookup>,
    /// To be looked at.
    pub(super) dirty: Turns,
    /// Wake-up times, the same as in the partitions.
    pub(super) wakes: BTreeSet<(Millis, usize)>,
    /// When batches may be out of time, the same as in the partitions.
    pub(super) expiries: BTreeSet<(Millis, usize)>,
    /// Partitions whose open batch lingers: they are looked at when nothing may linger any more.
    pub(super) lingering: Turns,
    /// Partitions that wait until a link takes more.
    pub(super) crowded: BTreeMap<Target, Turns>,
    /// Partitions whose open batch may still grow until more of those that a link has taken early is
    /// answered.
    pub(super) growing: BTreeMap<Target, Turns>,
    pub(super) id: Id,
    /// When a producer id may be asked for again.
    pub(super) id_not_before: Millis,
    finished: bool,
}

impl ProducerOptions {
    /// A handle for senders and a machine for a driver. `seed` only spreads load and jitter.
    pub fn start(self, session: Settings, seed: u64) -> (ProducerHandle, ProducerMachine) {
        let front = Arc::new(Front {
            budget: Budget::new(self.memory_bytes),
            options: self,
            topics: Default::default(),
            bell: Arc::new(Bell::default()),
            incomplete: Default::default(),
            batch_next: Default::default(),
            ticket_next: Default::default(),
            ready: Default::default(),
            lookups: Default::default(),
            trouble: Default::default(),
            flushing: Default::default(),
            closed: Default::default(),
            handles: 1.into(),
        });
        let machine = ProducerMachine {
            front: front.clone(),
            session: Session::new(session, seed),
            partitions: Vec::new(),
            topics: BTreeMap::new(),
            lookups: Vec::new(),
            dirty: Turns::default(),
            wakes: BTreeSet::new(),
            expiries: BTreeSet::new(),
            lingering: Turns::default(),
            crowded: BTreeMap::new(),
            growing: BTreeMap::new(),
            id: Id::None,
            id_not_before: 0,
            finished: false,
        };
        (ProducerHandle(front), machine)
    }
}

impl Machine for ProducerMachine {
    fn handle_event(&mut self, now: Millis, event: Event) {
        self.session.handle_event(now, event);
        self.run(now);
    }

    fn handle_timeout(&mut self, now: Millis) {
        self.session.handle_timeout(now);
        while let Some(&(at, index)) = self.wakes.first().filter(|(at, _)| *at <= now) {
            self.wakes.remove(&(at, index));
            self.partitions[index].wake = None;
            self.dirty.push(index);
        }
        while let Some(&(at, index)) = self.expiries.first().filter(|(at, _)| *at <= now) {
            self.expiries.remove(&(at, index));
            self.partitions[index].expiry = None;
            self.dirty.push(index);
        }
        self.run(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.session.next_action()
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let wake = self.wakes.first().into_iter().chain(self.expiries.first()).map(|(at, _)| *at).min();
        let lookups = self.lookups.iter().filter_map(|lookup| self.deadline(lookup.asked));
        wake.into_iter().chain(self.session.poll_timeout()).chain(lookups).min()
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

impl Drop for ProducerMachine {
    fn drop(&mut self) {
        self.finish();
    }
}

impl ProducerMachine {
    /// Rings when the machine's `handle_timeout` should be called.
    pub fn bell(&self) -> Arc<Bell> {
        self.front.bell.clone()
    }

    fn deadline(&self, since: Millis) -> Option<Millis> {
        self.front.options.delivery_timeout_ms().map(|timeout| since + timeout)
    }

    fn run(&mut self, now: Millis) {
        if self.finished {
            return;
        }
        self.read_front(now);
        loop {
            while let Some(news) = self.session.next_news() {
                self.hear(now, news);
            }
            let Some(index) = self.next_turn().or_else(|| self.next_lingering()) else { break };
            self.serve(now, index);
        }
        let all_known = || lock(&self.front.incomplete).is_empty();
        let abandoned = self.front.handles.load(Ordering::Acquire) == 0;
        if abandoned || (self.front.is_closed() && all_known()) {
            self.finish();
        }
    }

    /// Who is looked at next: partitions that wait for a link, if it has room now, then dirty ones.
    fn next_turn(&mut self) -> Option<usize> {
        for (target, waiting) in &mut self.crowded {
            if self.session.has_room(*target)
                && let Some(index) = waiting.pop()
            {
                self.dirty.remove(index);
                return Some(index);
            }
        }
        for (target, waiting) in &mut self.growing {
            if self.session.has_room(*target)
                && self.session.counted(*target) < EARLY_MAX
                && let Some(index) = waiting.pop()
            {
                return Some(index);
            }
        }
        self.dirty.pop()
    }

    /// While nothing may linger: the next partition with an open batch. What keeps it from being sent is
    /// waited for, and ends in an event.
    fn next_lingering(&mut self) -> Option<usize> {
        if self.front.is_urgent() { self.lingering.pop() } else { None }
    }

    /// Looks at what senders left: partitions with batches, topics to be looked up.
    fn read_front(&mut self, now: Millis) {
        for index in std::mem::take(&mut *lock(&self.front.ready)) {
            self.partitions[index].is_open = true;
            self.dirty.push(index);
        }
        let lookups = std::mem::take(&mut *lock(&self.front.lookups));
        for lookup in &lookups {
            self.session.look_up(now, &lookup.topic);
        }
        self.lookups.extend(lookups);
        if self.lookups.iter().any(|lookup| self.deadline(lookup.asked).is_some_and(|at| at <= now)) {
            let (due, rest) = std::mem::take(&mut self.lookups)
                .into_iter()
                .partition(|lookup| self.deadline(lookup.asked).is_some_and(|at| at <= now));
            self.lookups = rest;
            let last = self.session.trouble().to_owned();
            let error = ProduceError::TimedOut { maybe_written: false, last };
            answer(due, Err(error));
        }
    }

    fn hear(&mut self, now: Millis, news: News<Tag>) {
        match news {
            News::Up { target } => self.wake_waiting_for(target),
            News::Written { tag: Tag::Produce(index, id) } => {
                let produced = Produced { base_offset: -1, log_append_time_ms: -1, log_start: -1 };
                self.acknowledged(index, id, &produced);
            }
            News::Written { .. } => {}
            News::Reply { target, tag, result } => self.reply(now, target, tag, result),
            News::Down { target, lost } => self.down(target, &lost),
            News::Routed { topics } => {
                for topic in topics {
                    self.routed(&topic);
                }
            }
        }
    }

    fn acknowledged(&mut self, index: usize, id: u64, produced: &Produced) {
        let partition = &mut self.partitions[index];
        partition.acknowledged(id, produced);
        if partition.has_queued() || partition.is_open {
            self.dirty.push(index);
        }
    }

    /// Partitions that had to wait for a link, or for a producer id, look again.
    fn wake_waiting_for(&mut self, target: Target) {
        for (index, partition) in self.partitions.iter().enumerate() {
            let bound = match partition.binding {
                Binding::Closed => true,
                Binding::Opening(to) | Binding::Open(to, _) => to == target,
            };
            if bound && (partition.has_queued() || partition.is_open) {
                self.dirty.push(index);
            }
        }
    }

    fn down(&mut self, target: Target, lost: &[Tag]) {
        if lost.iter().any(|tag| matches!(tag, Tag::ProducerId)) {
            self.id = Id::None;
        }
        *lock(&self.front.trouble) = Some(self.session.trouble().to_owned());
        let lost: BTreeSet<usize> = lost.iter().filter_map(|tag| tag.produced()).collect();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let lost = lost.contains(&index);
            let bound = match partition.binding {
                Binding::Closed => false,
                Binding::Opening(to) | Binding::Open(to, _) => to == target,
            };
            if lost || bound {
                partition.disconnected();
            }
            if lost || bound || partition.has_queued() || partition.is_open {
                self.dirty.push(index);
            }
        }
        for waiting in [self.crowded.remove(&target), self.growing.remove(&target)].into_iter().flatten() {
            waiting.iter().for_each(|index| self.dirty.push(index));
        }
    }

    fn reply(&mut self, now: Millis, target: Target, tag: Tag, result: Result<Reply, Failure>) {
        match (tag, result) {
            (Tag::Open(index), Ok(Reply::Open(opened))) => {
                self.partitions[index].bind(opened.partition.topic, target, opened.handle);
                self.dirty.push(index);
            }
            (Tag::Open(index), Err(failure)) => self.not_opened(now, index, &failure),
            (Tag::Produce(index, id), Ok(Reply::Produce(produced))) => {
                self.acknowledged(index, id, &produced);
                *lock(&self.front.trouble) = None;
            }
            (Tag::Produce(index, id), Err(failure)) => {
                *lock(&self.front.trouble) = Some(failure.to_string());
                self.refused(now, index, id, failure);
            }
            (Tag::ProducerId, Ok(Reply::InitProducerId { id, epoch })) => {
                self.id = Id::Known(Identity { id, epoch });
                self.wake_all_queued();
            }
            (Tag::ProducerId, Err(failure)) => {
                self.id = Id::None;
                let pause = self.session.backoff(3).max(failure.retry_after_ms.into());
                self.id_not_before = now + pause;
                self.wake_all_queued();
            }
            (tag, Ok(reply)) => {
                // A broker that answers another question than ours is broken: treat it as a refusal.
                let text = format!("{tag:?} was answered with {:?}", reply.op());
                let failure = Failure::new(ErrorCode::UnknownServerError, text);
                self.reply(now, target, tag, Err(failure));
            }
        }
    }

    fn wake_all_queued(&mut self) {
        for (index, partition) in self.partitions.iter().enumerate() {
            if partition.has_queued() || partition.is_open {
                self.dirty.push(index);
            }
        }
    }

    fn not_opened(&mut self, now: Millis, index: usize, failure: &Failure) {
        let pause = self.session.backoff(2).max(failure.retry_after_ms.into());
        let partition = &mut self.partitions[index];
        partition.unbind();
        if failure.code.retriable() {
            partition.delay(now + pause);
            self.session.look_up(now, &partition.topic);
        } else {
            // The open batch too, or it would ask again at once.
            partition.collect(true);
            partition.fail_queued(ProduceError::Refused(failure.clone()));
        }
        self.dirty.push(index);
    }

    fn refused(&mut self, now: Millis, index: usize, id: u64, failure: Failure) {
        let session = &mut self.session;
        let partition = &mut self.partitions[index];
        let verdict = partition.refused(now, id, failure, |attempts| session.backoff(attempts));
        match verdict {
            Verdict::Nothing => {}
            Verdict::Reroute => {
                partition.unbind();
                session.look_up(now, &partition.topic);
            }
            Verdict::NewIdentity => {
                partition.drop_identity();
                self.id = Id::None;
            }
        }
        self.dirty.push(index);
    }

    /// The route of a topic was looked up anew: senders and partitions learn about it.
    fn routed(&mut self, name: &str) {
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.lookups).into_iter().partition(|lookup| lookup.topic == name);
        self.lookups = rest;
        let route = match self.session.route(name) {
            Some(Ok(route)) if !route.shards.is_empty() => Ok(route.clone()),
            Some(Err(failure)) => Err(failure.clone()),
            _ => Err(Failure::new(ErrorCode::UnknownTopicOrPartition, "the topic has no partitions")),
        };
        match route {
            Ok(route) => {
                let bytes_max = route.batch_bytes_max.unwrap_or(BATCH_BYTES_MAX).min(BATCH_BYTES_MAX);
                self.publish(name, route.shards.len(), bytes_max);
                for index in self.topics[name].clone() {
                    let partition = &mut self.partitions[index];
                    let shard = route.shards.get(partition.accumulator.partition as usize);
                    if !partition.agrees_with(route.id, shard.copied()) {
                        partition.unbind();
                    }
                    self.dirty.push(index);
                }
                answer(due, Ok(()));
            }
            Err(failure) => {
                self.front.topics.write().expect("no code panics while it holds this lock").remove(name);
                self.session.forget_topic(name);
                let error = ProduceError::UnknownTopic { topic: name.to_owned(), failure };
                for &index in self.topics.get(name).into_iter().flatten() {
                    self.partitions[index].collect(true);
                    self.partitions[index].fail_queued(error.clone());
                    self.dirty.push(index);
                }
                answer(due, Err(error));
            }
        }
    }

    /// Lets senders find the topic, with as many partitions as it has now.
    fn publish(&mut self, name: &str, count: usize, batch_bytes_max: usize) {
        let batch_bytes = self.front.options.batch_bytes.min(batch_bytes_max);
        let topic: Arc<str> = name.into();
        let indexes = self.topics.entry(name.to_owned()).or_default();
        while indexes.len() < count {
            let index = self.partitions.len();
            let number = indexes.len() as u32;
            let accumulator = Arc::new(Accumulator::new(index, number, self.front.options.compression));
            let idempotent = self.front.options.is_idempotent();
            self.partitions.push(Partition::new(topic.clone(), accumulator, self.front.clone(), idempotent));
            indexes.push(index);
        }
        let partitions: Vec<_> =
            indexes[..count].iter().map(|index| self.partitions[*index].accumulator.clone()).collect();
        let mut topics = self.front.topics.write().expect("no code panics while it holds this lock");
        let is_same =
            |known: &Topic| known.partitions.len() == count && known.batch_bytes_max == batch_bytes_max;
        if !topics.get(name).is_some_and(is_same) {
            let sticky = AtomicU32::new((self.session.random() % count as u64) as u32);
            topics.insert(name.to_owned(), Topic { partitions, sticky, batch_bytes, batch_bytes_max });
        }
    }

    /// Ends everything: records that are still unacknowledged fail.
    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.front.closed.store(true, Ordering::Release);
        // Senders hold the lock for reading while they append: after this nothing is appended.
        self.front.topics.write().expect("no code panics while it holds this lock").clear();
        answer(std::mem::take(&mut self.lookups), Err(ProduceError::Closed));
        answer(std::mem::take(&mut *lock(&self.front.lookups)), Err(ProduceError::Closed));
        for partition in &mut self.partitions {
            partition.fail_all(ProduceError::Closed);
        }
        self.session.close();
    }
}

fn answer(lookups: Vec<Lookup>, outcome: Result<(), ProduceError>) {
    for lookup in lookups {
        lookup.answer.fulfil(outcome.clone());
    }
}
