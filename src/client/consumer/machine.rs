//! The consumer's machine: keeps every assigned partition in some fetch, within the budget.
//!
//! Floor 5; owned by one driver. A partition is in at most one fetch of its generation, since the
//! next offset is known only from the answer; partitions that become free together share the next
//! fetch, and several fetches are under way on a link.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::batch::whole_batches;
use super::partition::{Binding, Judgement, Partition, Phase};
use super::{ConsumerHandle, ConsumerOptions, Front, Item, Key};
use crate::base::lock;
use crate::client::error::ConsumeError;
use crate::client::session::{
    Action, Event, Machine, Millis, News, Route, Session, Settings, Target, is_stale_route,
};
use crate::client::sync::Bell;
use crate::model::{ErrorCode, Failure, Offset};

use crate::wire::{At, FetchedHandle, Opened, Reply, Request, TopicRef};

#[derive(Debug)]
pub(super) enum Tag {
    Open(Key, u64),
    Offset(Key, u64, At),
    Fetch { granted: usize, parts: Vec<Part> },
    Close,
}

/// One partition of a fetch.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) key: Key,
    pub(super) generation: u64,
    pub(super) handle: u32,
    pub(super) offset: Offset,
}

#[derive(Default)]
pub(super) struct Shard {
    /// Partitions that can be fetched, in turn.
    pub(super) idle: VecDeque<Key>,
    pub(super) fetches: usize,
    /// Questions under way whose answers make partitions fetchable, and that the broker answers at once.
    pub(super) opening: usize,
}

pub struct ConsumerMachine {
    pub(super) front: Arc<Front>,
    pub(super) options: ConsumerOptions,
    pub(super) session: Session<Tag>,
    pub(super) partitions: BTreeMap<Key, Partition>,
    pub(super) shards: BTreeMap<Target, Shard>,
    dirty: BTreeSet<Key>,
    delayed: BTreeSet<(Millis, Key)>,
    /// What the fetches under way may bring.
    pub(super) granted: usize,
    /// The shard that was last sent a fetch.
    pub(super) fetched_last: Option<Target>,
    finished: bool,
}

impl ConsumerOptions {
    /// A handle for readers and a machine for a driver. `seed` only spreads jitter.
    pub fn start(self, session: Settings, seed: u64) -> (ConsumerHandle, ConsumerMachine) {
        let front = Arc::new(Front {
            state: Default::default(),
            readers: Default::default(),
            bell: Default::default(),
            handles: 1.into(),
        });
        let machine = ConsumerMachine {
            front: front.clone(),
            options: self,
            session: Session::new(session, seed),
            partitions: BTreeMap::new(),
            shards: BTreeMap::new(),
            dirty: BTreeSet::new(),
            delayed: BTreeSet::new(),
            granted: 0,
            fetched_last: None,
            finished: false,
        };
        (ConsumerHandle(front), machine)
    }
}

impl Machine for ConsumerMachine {
    fn handle_event(&mut self, now: Millis, event: Event) {
        self.session.handle_event(now, event);
        self.run(now);
    }

    fn handle_timeout(&mut self, now: Millis) {
        self.session.handle_timeout(now);
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.delayed.pop_first() {
                self.dirty.insert(key);
            }
        }
        self.run(now);
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.session.next_action()
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let delayed = self.delayed.first().map(|(at, _)| *at);
        delayed.into_iter().chain(self.session.poll_timeout()).min()
    }

    fn is_finished(&self) -> bool {
        self.finished
    }
}

impl Drop for ConsumerMachine {
    fn drop(&mut self) {
        self.finish();
    }
}

impl ConsumerMachine {
    /// Rings when the machine's `handle_timeout` should be called.
    pub fn bell(&self) -> Arc<Bell> {
        self.front.bell.clone()
    }

    fn run(&mut self, now: Millis) {
        if self.finished {
            return;
        }
        self.read_changes(now);
        loop {
            while let Some(news) = self.session.next_news() {
                self.hear(now, news);
            }
            let Some(key) = self.dirty.pop_first() else { break };
            self.advance(now, &key);
        }
        self.fetch(now);
        if lock(&self.front.state).closed || self.front.handles.load(Ordering::Acquire) == 0 {
            self.finish();
        }
    }

    fn read_changes(&mut self, now: Millis) {
        let mut state = lock(&self.front.state);
        for key in std::mem::take(&mut state.changes) {
            let Some(assigned) = state.assigned.get(&key) else {
                if let Some(partition) = self.partitions.remove(&key) {
                    close_handle(&mut self.session, now, &partition);
                }
                continue;
            };
            match self.partitions.get_mut(&key) {
                Some(partition) => partition.restart(assigned.generation, assigned.start),
                None => {
                    let partition = Partition::new(assigned.generation, assigned.start);
                    self.partitions.insert(key.clone(), partition);
                }
            }
            if matches!(self.session.route(&key.0), Some(Err(_))) {
                // That the topic was unknown once says nothing about now.
                self.session.forget_topic(&key.0);
            }
            self.dirty.insert(key);
        }
    }

    fn hear(&mut self, now: Millis, news: News<Tag>) {
        match news {
            News::Up { target } => self.wake(|partition| partition.target().is_none_or(|to| to == target)),
            News::Written { .. } => {}
            News::Routed { topics } => {
                let keys = self.partitions.keys().filter(|key| topics.iter().any(|topic| **topic == *key.0));
                self.dirty.extend(keys.cloned());
            }
            News::Down { target, lost } => {
                for tag in lost {
                    if let Tag::Fetch { granted, .. } = tag {
                        self.granted -= granted;
                    }
                }
                self.shards.remove(&target);
                for (key, partition) in &mut self.partitions {
                    if partition.target().is_none_or(|to| to == target) {
                        partition.binding = Binding::Closed;
                        (partition.busy, partition.idle) = (false, false);
                        self.dirty.insert(key.clone());
                    }
                }
            }
            News::Reply { target, tag, result } => self.reply(now, target, tag, result),
        }
    }

    fn wake(&mut self, which: impl Fn(&Partition) -> bool) {
        let keys = self.partitions.iter().filter(|(_, partition)| which(partition));
        self.dirty.extend(keys.map(|(key, _)| key.clone()));
    }

    fn reply(&mut self, now: Millis, target: Target, tag: Tag, result: Result<Reply, Failure>) {
        let result = match result {
            Ok(reply) if !answers(&tag, &reply) => {
                let text = format!("the broker answered with {:?}", reply.op());
                Err(Failure::new(ErrorCode::UnknownServerError, text))
            }
            result => result,
        };
        if let (true, Some(shard)) = (opens(&tag), self.shards.get_mut(&target)) {
            shard.opening = shard.opening.saturating_sub(1);
        }
        match (tag, result) {
            (Tag::Fetch { granted, parts }, result) => self.fetched(now, target, granted, parts, result),
            (Tag::Open(key, _), Ok(Reply::Open(opened))) => self.opened(now, target, key, &opened),
            (Tag::Offset(key, generation, at), Ok(Reply::ListOffsets { offset, .. })) => {
                self.resolved(key, generation, at, offset);
            }
            (Tag::Open(key, generation) | Tag::Offset(key, generation, _), Err(failure)) => {
                if let Some(partition) = self.partitions.get_mut(&key) {
                    if matches!(partition.binding, Binding::Opening(_)) {
                        partition.binding = Binding::Closed;
                    }
                    if partition.generation == generation {
                        partition.busy = false;
                        self.refused(now, &key, &failure, -1);
                    }
                }
                self.dirty.insert(key);
            }
            _ => {}
        }
    }

    fn opened(&mut self, now: Millis, target: Target, key: Key, opened: &Opened) {
        match self.partitions.get_mut(&key) {
            Some(partition) if partition.binding == Binding::Opening(target) => {
                partition.binding = Binding::Open(target, opened.handle);
                partition.topic = Some(opened.partition.topic);
                self.dirty.insert(key);
            }
            _ => self.session.request(now, target, opened.handle, &Request::Close, Tag::Close),
        }
    }

    fn resolved(&mut self, key: Key, generation: u64, at: At, offset: Offset) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        if partition.generation != generation {
            return;
        }
        partition.busy = false;
        partition.phase = match (partition.phase, offset) {
            (Phase::Resolve(wanted @ At::Timestamp(_)), end) if at == At::Latest => {
                partition.end = Some(end.max(0));
                Phase::Resolve(wanted)
            }
            // Nothing was that new: what came after the question may be.
            (_, -1) => Phase::Fetch(partition.end.take().unwrap_or(0)),
            (_, offset) => Phase::Fetch(offset),
        };
        if let Phase::Fetch(offset) = partition.phase
            && let Some(assigned) = lock(&self.front.state).of_generation(&key, generation)
        {
            assigned.position = Some(offset);
        }
        self.dirty.insert(key);
    }

    fn fetched(
        &mut self,
        now: Millis,
        target: Target,
        granted: usize,
        parts: Vec<Part>,
        result: Result<Reply, Failure>,
    ) {
        self.granted -= granted;
        if let Some(shard) = self.shards.get_mut(&target) {
            shard.fetches -= 1;
        }
        let mut answers = BTreeMap::new();
        let failure = match result {
            Ok(Reply::Fetch(fetched)) => {
                answers.extend(fetched.split().map(|(entry, records)| (entry.handle, (entry, records))));
                None
            }
            Ok(_) => None,
            Err(failure) => Some(failure),
        };
        let mut passed_over = Vec::new();
        for part in parts {
            let Some(partition) = self.partitions.get_mut(&part.key) else { continue };
            if partition.generation != part.generation {
                continue;
            }
            partition.busy = false;
            self.dirty.insert(part.key.clone());
            if let Some(failure) = &failure {
                self.refused(now, &part.key, failure, -1);
            } else if let Some((entry, records)) = answers.remove(&part.handle) {
                // A partition without news may be left out of the answer.
                if records.is_empty() {
                    passed_over.push(part.key.clone());
                }
                self.received(now, &part, &entry, records);
            }
        }
        // An answer that was full before their turn came: the next fetch begins with them.
        for key in passed_over {
            self.advance(now, &key);
        }
        self.front.readers.wake_all();
    }

    fn received(&mut self, now: Millis, part: &Part, entry: &FetchedHandle, records: Bytes) {
        let whole = whole_batches(&records, part.offset);
        let mut state = lock(&self.front.state);
        if let Some(assigned) = state.of_generation(&part.key, part.generation) {
            assigned.high_watermark = Some(entry.high_watermark);
        }
        let (next, rest) = match &whole {
            // Nothing but an accepted loss: go on behind it.
            Ok((next, rest)) if rest.is_empty() && entry.error.is_none() && entry.next_offset > *next => {
                state.push(&part.key, part.generation, Item::Gap(entry.next_offset));
                (entry.next_offset, rest.clone())
            }
            Ok((next, rest)) => (*next, rest.clone()),
            Err((next, rest, _)) => (*next, rest.clone()),
        };
        if !rest.is_empty() {
            let item = Item::Batches { bytes: rest, from: part.offset };
            state.push(&part.key, part.generation, item);
        }
        drop(state);
        if let Some(partition) = self.partitions.get_mut(&part.key) {
            partition.phase = Phase::Fetch(next);
            partition.attempts = 0;
        }
        if let Err((offset, _, text)) = whole {
            let (topic, partition) = (part.key.0.to_string(), part.key.1);
            let error = ConsumeError::Corrupt { topic, partition, offset, next_offset: None, text };
            self.stop(&part.key, error);
        } else if let Some(failure) = &entry.error {
            self.refused(now, &part.key, failure, entry.next_offset);
        }
    }

    /// A partition's request was refused.
    fn refused(&mut self, now: Millis, key: &Key, failure: &Failure, next: Offset) {
        let Some(partition) = self.partitions.get_mut(key) else { return };
        match partition.judge(key, failure, next, self.options.reset) {
            Judgement::Resolve(at) => partition.phase = Phase::Resolve(at),
            Judgement::Fail(error) => self.stop(key, error),
            Judgement::Retry => {
                if is_stale_route(failure.code) {
                    partition.binding = Binding::Closed;
                    self.session.look_up(now, &key.0);
                }
                let pause = self.session.backoff(partition.attempts).max(failure.retry_after_ms.into());
                partition.attempts += 1;
                partition.not_before = now + pause;
                self.delayed.insert((now + pause, key.clone()));
            }
        }
    }

    /// Tells the reader, and leaves the partition alone until a seek.
    fn stop(&mut self, key: &Key, error: ConsumeError) {
        let Some(partition) = self.partitions.get_mut(key) else { return };
        partition.phase = Phase::Stopped;
        lock(&self.front.state).push(key, partition.generation, Item::Error(error));
        self.front.readers.wake_all();
    }

    /// Brings a partition one step closer to being fetched.
    fn advance(&mut self, now: Millis, key: &Key) {
        let Some(partition) = self.partitions.get_mut(key) else { return };
        if partition.phase == Phase::Stopped || partition.not_before > now {
            return;
        }
        match (partition.binding, partition.phase) {
            (Binding::Closed, _) => self.open(now, key),
            (Binding::Open(target, handle), Phase::Resolve(wanted)) if !partition.busy => {
                partition.busy = true;
                // The end first: a record that is appended between two questions is in front of neither
                // answer.
                let at = match wanted {
                    At::Timestamp(_) if partition.end.is_none() => At::Latest,
                    wanted => wanted,
                };
                let tag = Tag::Offset(key.clone(), partition.generation, at);
                self.shards.entry(target).or_default().opening += usize::from(opens(&tag));
                self.session.request(now, target, handle, &Request::ListOffsets { at }, tag);
            }
            (Binding::Open(target, _), Phase::Fetch(_)) if !partition.busy && !partition.idle => {
                partition.idle = true;
                self.shards.entry(target).or_default().idle.push_back(key.clone());
            }
            _ => {}
        }
    }

    fn open(&mut self, now: Millis, key: &Key) {
        let Some(partition) = self.partitions.get_mut(key) else { return };
        let route = match self.session.route(&key.0) {
            None => return self.session.look_up(now, &key.0),
            Some(route) => route.clone(),
        };
        let gone = |failure| ConsumeError::TopicGone { topic: key.0.to_string(), partition: key.1, failure };
        let Route { id, shards, .. } = match route {
            Ok(route) => route,
            Err(failure) => {
                partition.topic = None;
                return self.stop(key, gone(failure));
            }
        };
        if partition.topic.is_some_and(|topic| topic != id) {
            // A seek from here on means the new one.
            partition.topic = None;
            let failure = Failure::new(ErrorCode::UnknownTopicId, "the topic was deleted and created again");
            return self.stop(key, gone(failure));
        }
        let Some(&shard) = shards.get(key.1 as usize) else {
            let text = format!("the topic has {} partitions", shards.len());
            return self.stop(key, gone(Failure::new(ErrorCode::UnknownTopicOrPartition, text)));
        };
        let target = Target::Shard(shard);
        if self.session.ensure(now, target) {
            let open = Request::Open { topic: TopicRef::Id(id), partition: key.1 };
            let tag = Tag::Open(key.clone(), partition.generation);
            partition.binding = Binding::Opening(target);
            self.shards.entry(target).or_default().opening += 1;
            self.session.request(now, target, 0, &open, tag);
        }
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        lock(&self.front.state).closed = true;
        self.front.readers.wake_all();
        self.session.close();
    }
}

fn close_handle(session: &mut Session<Tag>, now: Millis, partition: &Partition) {
    if let Binding::Open(target, handle) = partition.binding
        && session.is_up(target)
    {
        session.request(now, target, handle, &Request::Close, Tag::Close);
    }
}

/// Whether fetches may wait for the answer: it comes from memory. That of a timestamp reads the disk.
fn opens(tag: &Tag) -> bool {
    matches!(tag, Tag::Open(..) | Tag::Offset(_, _, At::Earliest | At::Latest))
}

/// Whether the reply is of the kind that was asked for.
fn answers(tag: &Tag, reply: &Reply) -> bool {
    matches!(
        (tag, reply),
        (Tag::Open(..), Reply::Open(_))
            | (Tag::Offset(..), Reply::ListOffsets { .. })
            | (Tag::Fetch { .. }, Reply::Fetch(_))
            | (Tag::Close, Reply::Close)
    )
}
