//! Control runs: facts about partitions (log start, drop, forgotten producers, epochs) that go into
//! the log like records and count once they are durable.
//!
//! Floor 5. Owner: the shard.

use crate::format::{Entry, EntryKind};
use crate::journal::Offline;
use crate::lane::LogRef;
use crate::model::{LaneId, Offset, PartitionId, ProducerId};

/// Producers that one run forgets.
pub(super) const FORGOTTEN_MAX: usize = 1024;

/// Told once the run is durable, or never will be.
pub(super) type Durable = Box<dyn FnOnce(Result<(), Offline>)>;

pub(super) struct ControlRun {
    pub lane: LaneId,
    pub entry: Entry,
    pub payload: Vec<u8>,
    pub partition: Option<LogRef>,
    /// Of a forget run: producers that were active since are kept after all.
    pub idle_before_ms: u64,
    pub durable: Durable,
}

impl ControlRun {
    fn of(log: &LogRef, kind: EntryKind, offset: Offset, payload: Vec<u8>, durable: Durable) -> ControlRun {
        ControlRun {
            lane: log.lane,
            entry: Entry::control(kind, log.id, offset),
            payload,
            partition: Some(log.clone()),
            idle_before_ms: 0,
            durable,
        }
    }

    pub fn log_start(log: &LogRef, before: Offset, durable: Durable) -> ControlRun {
        ControlRun::of(log, EntryKind::LogStart, before, Vec::new(), durable)
    }

    pub fn drop_partition(log: &LogRef, durable: Durable) -> ControlRun {
        ControlRun::of(log, EntryKind::Drop, 0, Vec::new(), durable)
    }

    /// At most [`FORGOTTEN_MAX`] producers, which had no batch since `idle_before_ms` of uptime.
    pub fn forget(
        log: &LogRef,
        producers: &[ProducerId],
        idle_before_ms: u64,
        durable: Durable,
    ) -> ControlRun {
        let payload = payload_of(producers);
        ControlRun { idle_before_ms, ..ControlRun::of(log, EntryKind::Forget, 0, payload, durable) }
    }

    /// A producer may have come back while the run waited for its frame: its last batch precedes this run
    /// then, and a retry of that batch must find it. False if nothing is left to be written.
    pub fn is_due(&mut self) -> bool {
        if self.entry.kind != EntryKind::Forget {
            return true;
        }
        let Some(log) = &self.partition else { return false };
        let idle = log.borrow().producers.idle_since(self.idle_before_ms);
        let ids = self.payload.chunks_exact(size_of::<ProducerId>());
        let ids = ids.filter_map(|bytes| Some(ProducerId::from_le_bytes(bytes.try_into().ok()?)));
        let left: Vec<_> = ids.filter(|id| idle.binary_search(id).is_ok()).collect();
        self.payload = payload_of(&left);
        !left.is_empty()
    }

    /// Opens a lane epoch; its first block.
    pub fn epoch(lane: LaneId, epoch: u32, durable: Durable) -> ControlRun {
        let entry = Entry {
            exposed_epoch: epoch as i32,
            ..Entry::control(EntryKind::Epoch, PartitionId::default(), 0)
        };
        ControlRun { lane, entry, payload: Vec::new(), partition: None, idle_before_ms: 0, durable }
    }
}

fn payload_of(producers: &[ProducerId]) -> Vec<u8> {
    producers.iter().flat_map(|id| id.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::SharedLog;
    use crate::lane::producers::Sequence;
    use crate::record::ProducerStamp;

    #[test]
    fn a_producer_that_came_back_is_not_forgotten() {
        let log = SharedLog::new(PartitionId::default(), LaneId(0));
        let batch = |id, uptime_ms| {
            let sequence = Sequence::new(ProducerStamp { id, epoch: 0, base_sequence: 0 }, 0);
            log.borrow_mut().producers.append(&sequence, 0, uptime_ms);
        };
        [3, 5, 9].into_iter().for_each(|id| batch(id, 10));
        let mut run = ControlRun::forget(&log, &[3, 5, 9], 100, Box::new(|_| ()));
        assert!(run.is_due() && run.payload == payload_of(&[3, 5, 9]));
        batch(5, 100);
        assert!(run.is_due() && run.payload == payload_of(&[3, 9]));
        [3, 9].into_iter().for_each(|id| batch(id, 200));
        assert!(!run.is_due());
        assert!(ControlRun::log_start(&log, 7, Box::new(|_| ())).is_due());
    }
}
