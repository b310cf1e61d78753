//! What null keeps to be read: the newest batches, in memory, as they came.
//!
//! Owner: one shard of the null server. Offsets are counted here in any case; batches are kept only
//! within a budget, the oldest of the whole shard going first.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ringlog::model::{Offset, PartitionId};
use ringlog::rt::local::Event;

pub struct Store {
    state: RefCell<State>,
    bytes_max: usize,
    /// Rings when a batch has become visible.
    pub grown: Event,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<PartitionId, Partition>,
    /// Whose batch was kept first, second, ...
    kept: VecDeque<PartitionId>,
    bytes: usize,
}

#[derive(Default)]
struct Partition {
    /// Offset of the next batch that arrives.
    next: Offset,
    /// Everything below is durable.
    visible: Offset,
    /// First offset, the offset after the last, and the batch; durable ones, by offset.
    batches: VecDeque<(Offset, Offset, Bytes)>,
}

/// A batch as it is sent: its base offset was not known when it came.
pub type Placed = (Offset, Bytes);

pub struct Found {
    pub batches: Vec<Placed>,
    pub high_watermark: Offset,
    pub log_start: Offset,
}

impl Store {
    pub fn new(bytes_max: usize) -> Store {
        Store { state: RefCell::default(), bytes_max, grown: Event::new() }
    }

    /// Whether batches are kept at all.
    pub fn is_on(&self) -> bool {
        self.bytes_max > 0
    }

    /// Gives out the next offsets of a partition.
    pub fn assign(&self, partition: PartitionId, records: i64) -> Offset {
        let mut state = self.state.borrow_mut();
        let own = state.partitions.entry(partition).or_default();
        own.next += records;
        own.next - records
    }

    /// A batch is durable: readers may have it. Writes may end out of order; what is visible has no gaps.
    pub fn publish(&self, partition: PartitionId, base: Offset, records: i64, batch: Bytes) {
        let mut state = self.state.borrow_mut();
        state.bytes += batch.len();
        state.kept.push_back(partition);
        let own = state.partitions.entry(partition).or_default();
        let at = own.batches.partition_point(|(first, _, _)| *first < base);
        own.batches.insert(at, (base, base + records, batch));
        for (first, next, _) in own.batches.range(at..) {
            if *first != own.visible {
                break;
            }
            own.visible = *next;
        }
        while state.bytes > self.bytes_max
            && let Some(oldest) = state.kept.pop_front()
        {
            let partition = state.partitions.get_mut(&oldest);
            if let Some((_, _, batch)) = partition.and_then(|partition| partition.batches.pop_front()) {
                state.bytes -= batch.len();
            }
        }
        drop(state);
        self.grown.notify();
    }

    /// The first offset that is kept, and the end of what is visible.
    pub fn ends(&self, partition: PartitionId) -> (Offset, Offset) {
        let state = self.state.borrow();
        state.partitions.get(&partition).map_or((0, 0), |own| (own.start(), own.visible))
    }

    /// Visible batches from `offset` on, up to `bytes_max`, but at least one; `None`: out of range.
    pub fn read(&self, partition: PartitionId, offset: Offset, bytes_max: usize) -> Option<Found> {
        let state = self.state.borrow();
        let Some(own) = state.partitions.get(&partition) else {
            return (offset == 0).then(|| Found { batches: Vec::new(), high_watermark: 0, log_start: 0 });
        };
        let log_start = own.start();
        if offset < log_start || offset > own.visible {
            return None;
        }
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let from = own.batches.partition_point(|(_, next, _)| *next <= offset);
        for (first, next, batch) in own.batches.range(from..) {
            if *next > own.visible || (!batches.is_empty() && bytes + batch.len() > bytes_max) {
                break;
            }
            bytes += batch.len();
            batches.push((*first, batch.clone()));
        }
        Some(Found { batches, high_watermark: own.visible, log_start })
    }
}

impl Partition {
    fn start(&self) -> Offset {
        self.batches.front().map_or(self.visible, |(first, _, _)| *first)
    }
}

#[cfg(test)]
mod tests {
    use ringlog::model::TopicId;

    use super::*;

    const P: PartitionId = PartitionId { topic: TopicId::new(1), partition: 0 };

    fn batch(bytes: usize) -> Bytes {
        Bytes::from(vec![0; bytes])
    }

    #[test]
    fn only_what_has_no_gap_is_visible() {
        let store = Store::new(1000);
        assert_eq!((store.assign(P, 5), store.assign(P, 5)), (0, 5));
        store.publish(P, 5, 5, batch(10));
        assert_eq!(store.ends(P).1, 0);
        assert!(store.read(P, 0, 100).is_none_or(|found| found.batches.is_empty()));
        store.publish(P, 0, 5, batch(10));
        assert_eq!(store.ends(P), (0, 10));
        let found = store.read(P, 3, 100).unwrap();
        assert_eq!(found.batches.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0, 5]);
        assert_eq!(store.read(P, 0, 1).unwrap().batches.len(), 1);
        assert!(store.read(P, 10, 100).unwrap().batches.is_empty() && store.read(P, 11, 100).is_none());
    }

    #[test]
    fn the_oldest_go_beyond_the_budget() {
        let store = Store::new(100);
        for _ in 0..10 {
            let base = store.assign(P, 1);
            store.publish(P, base, 1, batch(30));
        }
        assert_eq!(store.ends(P), (7, 10));
        assert!(store.read(P, 0, 100).is_none());
    }
}
