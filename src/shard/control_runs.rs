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
    pub durable: Durable,
}

impl ControlRun {
    fn of(log: &LogRef, kind: EntryKind, offset: Offset, payload: Vec<u8>, durable: Durable) -> ControlRun {
        ControlRun {
            lane: log.lane,
            entry: Entry::control(kind, log.id, offset),
            payload,
            partition: Some(log.clone()),
            durable,
        }
    }

    pub fn log_start(log: &LogRef, before: Offset, durable: Durable) -> ControlRun {
        ControlRun::of(log, EntryKind::LogStart, before, Vec::new(), durable)
    }

    pub fn drop_partition(log: &LogRef, durable: Durable) -> ControlRun {
        ControlRun::of(log, EntryKind::Drop, 0, Vec::new(), durable)
    }

    /// At most [`FORGOTTEN_MAX`] producers.
    pub fn forget(log: &LogRef, producers: &[ProducerId], durable: Durable) -> ControlRun {
        let payload = producers.iter().flat_map(|id| id.to_le_bytes()).collect();
        ControlRun::of(log, EntryKind::Forget, 0, payload, durable)
    }

    /// Opens a lane epoch; its first block.
    pub fn epoch(lane: LaneId, epoch: u32, durable: Durable) -> ControlRun {
        let entry = Entry {
            exposed_epoch: epoch as i32,
            ..Entry::control(EntryKind::Epoch, PartitionId::default(), 0)
        };
        ControlRun { lane, entry, payload: Vec::new(), partition: None, durable }
    }
}
