//! The producer: records are appended to batches where they are sent from, and a machine sends
//! the batches.
//!
//! Floor 5. [`ProducerHandle`] is what senders hold, on any thread and any runtime;
//! [`ProducerMachine`] belongs to one driver. Between them: one [`Accumulator`] per partition, a
//! memory budget and a bell. Invariant: every record appended completes its batch's
//! [`Completion`] exactly once, and its memory is given back then.

mod accumulator;
mod completion;
mod machine;
mod partition;
mod serve;
mod turns;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;

use super::error::ProduceError;
use super::session::{Millis, millis};
use super::sync::{Bell, Budget, Promise};
use crate::base::{Map, lock};
use crate::record::{BatchBuilder, Compression, HEADER_BYTES, Header, partition_for_key};
use crate::wire::{Acks, BATCH_BYTES_MAX};
use accumulator::Accumulator;
use completion::{Acknowledged, Completion};
pub use completion::{Delivery, RecordMetadata};
pub use machine::ProducerMachine;

/// How a producer batches and what it promises.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    pub acks: Acks,
    /// None, lz4 or zstd.
    pub compression: Compression,
    /// How long an open batch waits for more records; longer while the broker has much to answer.
    pub linger: Duration,
    /// Where a batch is full, before compression; a larger record makes a batch of its own, up to
    /// the topic's bound.
    pub batch_bytes: usize,
    /// Memory of all records whose fate is not known yet; sends wait at the bound.
    pub memory_bytes: usize,
    /// From the send to the last attempt; `None`: for ever.
    pub delivery_timeout: Option<Duration>,
    /// Retries neither repeat nor reorder records. Without acks it is always off.
    pub idempotent: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        ProducerOptions {
            acks: Acks::All,
            compression: Compression::None,
            linger: Duration::from_millis(5),
            batch_bytes: 1_000_000,
            memory_bytes: 64 << 20,
            delivery_timeout: Some(Duration::from_secs(120)),
            idempotent: true,
        }
    }
}

impl ProducerOptions {
    fn linger_ms(&self) -> Millis {
        millis(self.linger)
    }

    fn delivery_timeout_ms(&self) -> Option<Millis> {
        self.delivery_timeout.map(millis)
    }

    fn is_idempotent(&self) -> bool {
        self.idempotent && self.acks != Acks::None
    }
}

/// A record to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// `None`: by the key's hash (murmur2, as Kafka does), or without a key whichever partition
    /// has a batch open.
    pub partition: Option<u32>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970; `None`: the time of the send.
    pub timestamp: Option<i64>,
}

/// The time of a send, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub now: Millis,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

/// Sends records; clones share one producer. When the last clone is dropped the producer stops
/// without delivering what is left: call [`close`](Self::close) first.
#[derive(Debug)]
pub struct ProducerHandle(Arc<Front>);

/// What senders and the machine share.
#[derive(Debug)]
struct Front {
    options: ProducerOptions,
    topics: RwLock<BTreeMap<String, Topic>>,
    budget: Budget,
    bell: Arc<Bell>,
    /// Batches opened and not completed, by id.
    incomplete: Mutex<Map<u64, Arc<Completion>>>,
    batch_next: AtomicU64,
    ticket_next: AtomicU64,
    /// Partitions that the machine should look at.
    ready: Mutex<Vec<usize>>,
    /// Topics that senders wait to learn about.
    lookups: Mutex<Vec<Lookup>>,
    /// What keeps records from being delivered, as far as the last event told.
    trouble: Mutex<Option<String>>,
    /// Flushes under way: nothing lingers.
    flushing: AtomicUsize,
    closed: AtomicBool,
    handles: AtomicUsize,
}

#[derive(Debug)]
struct Topic {
    partitions: Vec<Arc<Accumulator>>,
    /// Where records without a key go for now.
    sticky: AtomicU32,
    /// Where a batch is full.
    batch_bytes: usize,
    /// What the topic accepts: a larger record makes a batch of its own up to this.
    batch_bytes_max: usize,
}

#[derive(Debug)]
struct Lookup {
    topic: String,
    asked: Millis,
    answer: Promise<Result<(), ProduceError>>,
}

/// Why a record cannot be appended right now.
enum Refusal {
    Error(ProduceError),
    UnknownTopic,
    NoMemory(usize),
}

impl Clone for ProducerHandle {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::AcqRel);
        ProducerHandle(self.0.clone())
    }
}

impl Drop for ProducerHandle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.bell.ring();
        }
    }
}

impl ProducerHandle {
    /// Sends a record; waits only for memory and, the first time, to learn about the topic.
    /// Whatever goes wrong, the delivery tells. `clock` is asked after each wait: a batch is as old as its
    /// first record.
    pub async fn send(&self, clock: impl Fn() -> Times, topic: &str, record: Record) -> Delivery {
        let mut taken = Taken { front: &self.0, bytes: None };
        loop {
            let times = clock();
            match self.0.append(times, topic, &record, &mut taken.bytes) {
                Ok(delivery) => return delivery,
                Err(Refusal::Error(error)) => return Delivery::failed(error),
                Err(Refusal::UnknownTopic) => {
                    if let Err(error) = self.0.look_up(times.now, topic).await {
                        return Delivery::failed(error);
                    }
                }
                Err(Refusal::NoMemory(bytes)) => {
                    self.0.wait_for_memory(bytes).await;
                    taken.bytes = Some(bytes);
                }
            }
        }
    }

    /// Sends a record if that can be done without waiting; else gives `None`.
    pub fn try_send(&self, times: Times, topic: &str, record: &Record) -> Option<Delivery> {
        match self.0.append(times, topic, record, &mut None) {
            Ok(delivery) => Some(delivery),
            Err(Refusal::Error(error)) => Some(Delivery::failed(error)),
            Err(Refusal::UnknownTopic | Refusal::NoMemory(_)) => None,
        }
    }

    /// Why records wait: the last refusal or failed connection since the last acknowledgement.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.0.trouble).clone()
    }

    /// Ends when the fate of every record sent before is known.
    pub async fn flush(&self) {
        let batches: Vec<_> = lock(&self.0.incomplete).values().cloned().collect();
        // The guard ends the flush even if this future is dropped.
        let flushing = Flushing::start(&self.0);
        for batch in batches {
            poll_fn(|context| batch.poll(context).map(drop)).await;
        }
        drop(flushing);
    }

    /// Refuses further sends, flushes, and ends the producer.
    pub async fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.flush().await;
        self.0.bell.ring();
    }

    /// Memory that unacknowledged records hold must be zero once everything is flushed.
    #[cfg(test)]
    fn memory_used(&self) -> usize {
        self.0.budget.used()
    }
}

/// Memory of a record that is not appended yet; it goes back if the sender gives up.
struct Taken<'a> {
    front: &'a Front,
    bytes: Option<usize>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes {
            self.front.budget.give_back(bytes);
        }
    }
}

struct Flushing<'a>(&'a Front);

impl<'a> Flushing<'a> {
    fn start(front: &'a Front) -> Flushing<'a> {
        front.flushing.fetch_add(1, Ordering::AcqRel);
        front.bell.ring();
        Flushing(front)
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.flushing.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Front {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether open batches are to be sent without lingering.
    fn is_urgent(&self) -> bool {
        self.flushing.load(Ordering::Acquire) > 0 || self.budget.is_starved()
    }

    /// The hot path. `taken` is memory that was reserved for this record before.
    fn append(
        &self,
        times: Times,
        name: &str,
        record: &Record,
        taken: &mut Option<usize>,
    ) -> Result<Delivery, Refusal> {
        if self.is_closed() {
            return Err(Refusal::Error(ProduceError::Closed));
        }
        let bytes = record_bytes(record).map_err(Refusal::Error)?;
        let topics = self.topics.read().expect("no code panics while it holds this lock");
        let topic = topics.get(name).ok_or(Refusal::UnknownTopic)?;
        self.check_size(topic, bytes).map_err(Refusal::Error)?;
        let accumulator = topic.choose(name, record).map_err(Refusal::Error)?;
        if taken.is_none() && !self.budget.try_take(bytes) {
            return Err(Refusal::NoMemory(bytes));
        }
        *taken = None;
        let timestamp = record.timestamp.unwrap_or(times.wall_ms).max(-1);
        // Under the partition's lock, so that ids grow and no batch is completed before it is known.
        let open = |completion: &Arc<Completion>| {
            let id = self.batch_next.fetch_add(1, Ordering::AcqRel);
            lock(&self.incomplete).insert(id, completion.clone());
            id
        };
        let appended = accumulator.append(times.now, record, timestamp, bytes, topic.batch_bytes, open);
        let filled = appended.filled.iter().flatten();
        for full in filled.clone() {
            accumulator.build(full, |bytes| self.budget.give_back(bytes));
        }
        if filled.count() > 0 && record.partition.is_none() && record.key.is_none() {
            topic.move_on(accumulator.partition);
        }
        if appended.opened || appended.filled.iter().any(Option::is_some) {
            lock(&self.ready).push(accumulator.index);
            self.bell.ring();
        }
        Ok(Delivery::new(appended.completion, accumulator.partition, appended.index, timestamp))
    }

    fn check_size(&self, topic: &Topic, bytes: usize) -> Result<(), ProduceError> {
        // What compression makes of a record is the broker's to judge.
        let bytes_max = match self.options.compression {
            Compression::None => topic.batch_bytes_max,
            _ => BATCH_BYTES_MAX,
        };
        let bytes = bytes + HEADER_BYTES;
        if bytes > bytes_max { Err(ProduceError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
    }

    /// The lingering batch of a partition has left: records without a key go elsewhere.
    fn move_on(&self, topic: &str, partition: u32) {
        let topics = self.topics.read().expect("no code panics while it holds this lock");
        if let Some(topic) = topics.get(topic) {
            topic.move_on(partition);
        }
    }

    async fn look_up(&self, now: Millis, topic: &str) -> Result<(), ProduceError> {
        let answer = Promise::default();
        {
            let mut lookups = lock(&self.lookups);
            // After its end the machine answers no more; it closes before it takes this lock.
            if self.is_closed() {
                return Err(ProduceError::Closed);
            }
            lookups.push(Lookup { topic: topic.to_owned(), asked: now, answer: answer.clone() });
        }
        self.bell.ring();
        answer.wait().await
    }

    async fn wait_for_memory(&self, bytes: usize) {
        let ticket = self.ticket_next.fetch_add(1, Ordering::AcqRel);
        let mut waiting = self.budget.wait(bytes, ticket);
        poll_fn(|context| {
            let poll = Pin::new(&mut waiting).poll(context);
            if poll.is_pending() {
                // Nothing may linger while somebody waits.
                self.bell.ring();
            }
            poll
        })
        .await;
    }

    /// The fate of a batch is known.
    fn complete(
        &self,
        id: u64,
        reserved: usize,
        completion: &Completion,
        outcome: Result<Acknowledged, ProduceError>,
    ) {
        lock(&self.incomplete).remove(&id);
        self.budget.give_back(reserved);
        completion.complete(outcome);
    }
}

/// Most bytes that the record adds to a batch.
fn record_bytes(record: &Record) -> Result<usize, ProduceError> {
    let (key, value) = (record.key.as_deref(), record.value.as_deref());
    let part_bytes_max = BATCH_BYTES_MAX;
    let largest = key.map_or(0, <[u8]>::len).max(value.map_or(0, <[u8]>::len));
    if largest > part_bytes_max {
        return Err(ProduceError::TooLarge { bytes: largest, bytes_max: part_bytes_max });
    }
    if record.headers.is_empty() {
        return Ok(BatchBuilder::record_bytes_max(key, value, &[]));
    }
    let headers: Vec<_> =
        record.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
    Ok(BatchBuilder::record_bytes_max(key, value, &headers))
}

impl Topic {
    fn choose(&self, name: &str, record: &Record) -> Result<&Accumulator, ProduceError> {
        let partitions = self.partitions.len() as u32;
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, partitions),
            (None, None) => self.sticky.load(Ordering::Relaxed) % partitions,
        };
        self.partitions
            .get(partition as usize)
            .map(Arc::as_ref)
            .ok_or_else(|| ProduceError::UnknownPartition { topic: name.to_owned(), partition, partitions })
    }

    /// Records without a key go elsewhere once a batch of `partition` has left.
    fn move_on(&self, partition: u32) {
        let next = (partition + 1) % self.partitions.len() as u32;
        let _ = self.sticky.compare_exchange(partition, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}
