//! The consumer: a machine fetches ahead within a budget; readers take batches, check them and
//! take them apart.
//!
//! Floor 5. [`ConsumerHandle`] is what readers hold, on any thread and any runtime;
//! [`ConsumerMachine`] belongs to one driver. Between them: the fetched batches, by partition,
//! behind one lock taken once per batch. Invariant: after a seek no record from before it is
//! given: whatever is under way carries the generation of the assignment it was fetched for.

mod batch;
mod fetch;
mod machine;
mod partition;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;

use super::error::ConsumeError;
use super::sync::{Bell, Waiters};
use crate::base::{DecodeError, lock};
use crate::model::Offset;
use crate::record::BatchView;
pub use batch::{ConsumedBatch, ConsumerRecord};
pub use machine::ConsumerMachine;

/// Where to begin to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    Earliest,
    /// Behind the last record: what is written from now on.
    Latest,
    Offset(Offset),
    /// The first record at or after this time (ms since 1970), or the end if there is none.
    Timestamp(i64),
}

/// What to do if the wanted offset is not in the log (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetReset {
    Earliest,
    Latest,
    Error,
}

#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    pub reset: OffsetReset,
    /// Memory of what is fetched and not read yet. One batch is fetched whatever its size.
    pub prefetch_bytes: usize,
    /// How long the broker may wait for new records before it answers "none".
    pub wait_ms_max: u32,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        ConsumerOptions { reset: OffsetReset::Earliest, prefetch_bytes: 64 << 20, wait_ms_max: 500 }
    }
}

/// Reads records; clones share one consumer.
#[derive(Debug)]
pub struct ConsumerHandle(Arc<Front>);

#[derive(Debug)]
struct Front {
    state: Mutex<State>,
    /// Readers that wait for something to read.
    readers: Waiters,
    bell: Arc<Bell>,
    handles: AtomicUsize,
}

/// A topic's partition.
type Key = (Arc<str>, u32);

#[derive(Debug, Default)]
struct State {
    assigned: BTreeMap<Key, Assigned>,
    /// Partitions with something to read, each once; read in turn.
    ready: VecDeque<Key>,
    /// Assignments that the machine has not seen yet.
    changes: Vec<Key>,
    generation_next: u64,
    /// Bytes in all queues.
    buffered: usize,
    /// What `next` has taken and not given yet.
    opened: VecDeque<Opened>,
    closed: bool,
}

#[derive(Debug)]
struct Assigned {
    /// Unique to this assignment or seek.
    generation: u64,
    start: Position,
    paused: bool,
    /// The next offset to be given.
    position: Option<Offset>,
    high_watermark: Option<Offset>,
    queue: VecDeque<Item>,
    buffered: usize,
    /// A fetched batch was damaged: nothing more is fetched until a seek.
    damaged: bool,
}

#[derive(Debug)]
enum Item {
    /// Whole record batches, headers checked; records below `from` are to be skipped.
    Batches {
        bytes: Bytes,
        from: Offset,
    },
    /// Nothing is to be read before this offset: a loss that an operator accepted.
    Gap(Offset),
    Error(ConsumeError),
}

/// The rest of a batch.
#[derive(Debug)]
struct Opened {
    key: Key,
    generation: u64,
    records: VecDeque<ConsumerRecord>,
}

/// What a reader was given.
enum Found {
    Record(ConsumerRecord),
    Batch { key: Key, generation: u64, bytes: Bytes, from: Offset },
    Error(ConsumeError),
}

impl Clone for ConsumerHandle {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::AcqRel);
        ConsumerHandle(self.0.clone())
    }
}

impl Drop for ConsumerHandle {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.bell.ring();
        }
    }
}

impl ConsumerHandle {
    pub fn assign(&self, topic: &str, partition: u32, position: Position) {
        let key: Key = (topic.into(), partition);
        let mut state = lock(&self.0.state);
        let paused = state.forget(&key).is_some_and(|assigned| assigned.paused);
        let generation = state.generation_next;
        state.generation_next += 1;
        let assigned = Assigned {
            generation,
            start: position,
            paused,
            position: match position {
                Position::Offset(offset) => Some(offset),
                _ => None,
            },
            high_watermark: None,
            queue: VecDeque::new(),
            buffered: 0,
            damaged: false,
        };
        state.assigned.insert(key.clone(), assigned);
        state.changes.push(key);
        drop(state);
        self.0.bell.ring();
    }

    pub fn unassign(&self, topic: &str, partition: u32) {
        let key: Key = (topic.into(), partition);
        let mut state = lock(&self.0.state);
        state.forget(&key);
        state.changes.push(key);
        drop(state);
        self.0.bell.ring();
    }

    pub fn seek(&self, topic: &str, partition: u32, position: Position) -> Result<(), ConsumeError> {
        self.with(topic, partition, |_| ())?;
        self.assign(topic, partition, position);
        Ok(())
    }

    pub fn set_paused(&self, topic: &str, partition: u32, paused: bool) -> Result<(), ConsumeError> {
        let has_items = self.with(topic, partition, |assigned| {
            let changed = std::mem::replace(&mut assigned.paused, paused) != paused;
            changed && !paused && !assigned.queue.is_empty()
        })?;
        if has_items {
            let key: Key = (topic.into(), partition);
            let mut state = lock(&self.0.state);
            if !state.ready.contains(&key) {
                state.ready.push_back(key);
            }
        }
        self.0.readers.wake_all();
        self.0.bell.ring();
        Ok(())
    }

    pub fn position(&self, topic: &str, partition: u32) -> Option<Offset> {
        self.with(topic, partition, |assigned| assigned.position).ok()?
    }

    pub fn high_watermark(&self, topic: &str, partition: u32) -> Option<Offset> {
        self.with(topic, partition, |assigned| assigned.high_watermark).ok()?
    }

    fn with<T>(
        &self,
        topic: &str,
        partition: u32,
        read: impl FnOnce(&mut Assigned) -> T,
    ) -> Result<T, ConsumeError> {
        let mut state = lock(&self.0.state);
        match state.assigned.get_mut(&(topic.into(), partition)) {
            Some(assigned) => Ok(read(assigned)),
            None => Err(ConsumeError::NotAssigned { topic: topic.to_owned(), partition }),
        }
    }

    /// The next record batch of any partition.
    pub async fn next_batch(&self) -> Result<ConsumedBatch, ConsumeError> {
        loop {
            let found = self.find(|front| front.take()).await?;
            if let Some(batch) = self.0.open(found)? {
                return Ok(batch);
            }
        }
    }

    /// The next record of any partition.
    pub async fn next(&self) -> Result<ConsumerRecord, ConsumeError> {
        loop {
            // Records of a batch that was opened before come first.
            let found = self.find(|front| {
                let opened = lock(&front.state).next_opened();
                opened.map(Found::Record).or_else(|| front.take())
            });
            let batch = match found.await? {
                Found::Record(record) => return Ok(record),
                found => self.0.open(found)?,
            };
            let Some(batch) = batch else { continue };
            let mut records = VecDeque::new();
            for record in batch.records() {
                let record = record.map_err(|error| malformed(&batch, &error))?;
                records.push_back(batch.own(&record));
            }
            let mut state = lock(&self.0.state);
            let key: Key = (batch.topic.clone(), batch.partition);
            if let Some(assigned) = state.of_generation(&key, batch.generation) {
                assigned.position = Some(records.front().map_or(batch.next_offset, |record| record.offset));
                state.opened.push_back(Opened { key, generation: batch.generation, records });
            }
        }
    }

    async fn find(&self, take: impl Fn(&Front) -> Option<Found>) -> Result<Found, ConsumeError> {
        poll_fn(|context| {
            if lock(&self.0.state).closed {
                return Poll::Ready(Err(ConsumeError::Closed));
            }
            if let Some(found) = take(&self.0) {
                return Poll::Ready(Ok(found));
            }
            self.0.readers.add(context);
            // Something may have come before this reader was added.
            take(&self.0).map_or(Poll::Pending, |found| Poll::Ready(Ok(found)))
        })
        .await
    }

    pub fn close(&self) {
        lock(&self.0.state).closed = true;
        self.0.readers.wake_all();
        self.0.bell.ring();
    }
}

fn malformed(batch: &ConsumedBatch, error: &DecodeError) -> ConsumeError {
    ConsumeError::Corrupt {
        topic: batch.topic.to_string(),
        partition: batch.partition,
        offset: batch.from,
        next_offset: Some(batch.next_offset),
        text: format!("{error}, though the checksum holds: it was produced so"),
    }
}

impl Front {
    /// One batch, or an error, of the partition whose turn it is.
    fn take(&self) -> Option<Found> {
        let (found, freed) = lock(&self.state).take()?;
        if freed {
            self.bell.ring();
        }
        Some(found)
    }

    /// Checks a batch; `None` if it is not wanted any more.
    fn open(&self, found: Found) -> Result<Option<ConsumedBatch>, ConsumeError> {
        let (key, generation, bytes, from) = match found {
            Found::Batch { key, generation, bytes, from } => (key, generation, bytes, from),
            Found::Error(error) => return Err(error),
            Found::Record(_) => return Ok(None),
        };
        match ConsumedBatch::open(key.0.clone(), key.1, generation, from, bytes.clone()) {
            Ok(batch) => Ok(self.advance(&key, generation, batch.next_offset).then_some(batch)),
            Err(error) => {
                self.stop(&key, generation);
                Err(unreadable(&key, from, &bytes, &error))
            }
        }
    }

    /// Notes what is given to the reader; false if the assignment has changed.
    fn advance(&self, key: &Key, generation: u64, next: Offset) -> bool {
        let mut state = lock(&self.state);
        let assigned = state.of_generation(key, generation);
        assigned.map(|assigned| assigned.position = Some(next)).is_some()
    }

    /// Drops what is fetched of a damaged partition, until a seek.
    fn stop(&self, key: &Key, generation: u64) {
        let mut state = lock(&self.state);
        if let Some(assigned) = state.of_generation(key, generation) {
            assigned.damaged = true;
            state.drop_queue(key);
        }
    }
}

/// Why a batch that was fetched cannot be opened.
fn unreadable(key: &Key, from: Offset, bytes: &[u8], error: &DecodeError) -> ConsumeError {
    let (topic, partition) = (key.0.to_string(), key.1);
    let view = BatchView::new(bytes).ok();
    let offset = view.as_ref().map_or(from, |view| view.base_offset().max(from));
    let next_offset = view.as_ref().map(|view| view.next_offset());
    let codec = view.filter(|view| view.crc_holds()).and_then(|view| view.compression());
    match (codec.filter(|codec| !codec.is_implemented()), next_offset) {
        (Some(codec), Some(next_offset)) => {
            ConsumeError::Compressed { topic, partition, offset, next_offset, codec: codec.name() }
        }
        _ => {
            let text = format!("{error}, in a batch of {} bytes", bytes.len());
            ConsumeError::Corrupt { topic, partition, offset, next_offset, text }
        }
    }
}

impl State {
    /// Removes an assignment with all that was fetched for it.
    fn forget(&mut self, key: &Key) -> Option<Assigned> {
        self.drop_queue(key);
        self.opened.retain(|opened| opened.key != *key);
        self.assigned.remove(key)
    }

    fn drop_queue(&mut self, key: &Key) {
        if let Some(assigned) = self.assigned.get_mut(key) {
            self.buffered -= std::mem::take(&mut assigned.buffered);
            assigned.queue.clear();
        }
        self.ready.retain(|ready| ready != key);
    }

    /// Adds what was fetched, unless the assignment has changed meanwhile.
    fn push(&mut self, key: &Key, generation: u64, item: Item) {
        let Some(assigned) = self.of_generation(key, generation) else { return };
        if assigned.damaged {
            return;
        }
        let bytes = match &item {
            Item::Batches { bytes, .. } => bytes.len(),
            Item::Gap(_) | Item::Error(_) => 0,
        };
        assigned.buffered += bytes;
        assigned.queue.push_back(item);
        let is_first = assigned.queue.len() == 1 && !assigned.paused;
        self.buffered += bytes;
        if is_first {
            self.ready.push_back(key.clone());
        }
    }

    fn of_generation(&mut self, key: &Key, generation: u64) -> Option<&mut Assigned> {
        self.assigned.get_mut(key).filter(|assigned| assigned.generation == generation)
    }

    /// What comes next, and whether memory of a fetch was freed by taking it.
    fn take(&mut self) -> Option<(Found, bool)> {
        while let Some(key) = self.ready.pop_front() {
            let Some(assigned) = self.assigned.get_mut(&key).filter(|assigned| !assigned.paused) else {
                continue;
            };
            let (generation, before) = (assigned.generation, assigned.queue.len());
            let Some((item, bytes)) = assigned.pop() else { continue };
            assigned.buffered -= bytes;
            self.buffered -= bytes;
            let freed = assigned.queue.len() < before;
            if let Item::Gap(next) = item {
                // Behind all that was fetched before it.
                assigned.position = Some(next);
            }
            if !assigned.queue.is_empty() {
                self.ready.push_back(key.clone());
            }
            let found = match item {
                Item::Batches { bytes, from } => Found::Batch { key, generation, bytes, from },
                Item::Error(error) => Found::Error(error),
                Item::Gap(_) => continue,
            };
            return Some((found, freed));
        }
        None
    }

    fn next_opened(&mut self) -> Option<ConsumerRecord> {
        let assigned = &mut self.assigned;
        self.opened.retain(|opened| {
            let is_current = |assigned: &Assigned| assigned.generation == opened.generation;
            !opened.records.is_empty() && assigned.get(&opened.key).is_some_and(is_current)
        });
        for opened in &mut self.opened {
            let Some(assigned) = assigned.get_mut(&opened.key).filter(|assigned| !assigned.paused) else {
                continue;
            };
            let record = opened.records.pop_front()?;
            assigned.position = Some(record.offset + 1);
            return Some(record);
        }
        None
    }
}

impl Assigned {
    /// One batch, gap or error from the queue, and the bytes that it takes out.
    fn pop(&mut self) -> Option<(Item, usize)> {
        let Item::Batches { bytes, from } = self.queue.front_mut()? else {
            return self.queue.pop_front().map(|item| (item, 0));
        };
        let (view, rest) = BatchView::first(bytes).expect("the machine queues whole batches only");
        let (length, is_last) = (view.bytes().len(), rest.is_empty());
        let item = Item::Batches { bytes: bytes.split_to(length), from: *from };
        if is_last {
            self.queue.pop_front();
        }
        Some((item, length))
    }
}
