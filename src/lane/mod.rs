//! Lanes and the partitions in them: offsets, producer windows, staging, block composition.
//!
//! Floor 3. Owner: a shard. Pure: no I/O, clock or randomness; the shard passes in times and takes
//! out blocks. Invariant: what a partition knows (next offset, producer windows) changes only when a
//! block is composed or replayed, never when a batch is merely staged.

pub mod compose;
pub mod logs;
pub mod partition;
pub mod producers;

pub use compose::{LanePlan, RunPlan};
pub use logs::{LogRef, Logs, SharedLog};
pub use partition::{Admission, PartitionLog, Share, Staged};
pub use producers::Producers;

use crate::format::checkpoint::LaneRow;
use crate::format::mark::LaneEnd;
use crate::model::{LaneId, Position};

/// A replicated log inside a journal. With one broker its high watermark is its durable position.
#[derive(Debug, Clone)]
pub struct Lane {
    pub id: LaneId,
    /// Granted by the metadata to this start of the broker; each epoch opens with an epoch block.
    pub epoch: u32,
    /// Where the next block begins.
    pub position: Position,
    /// Checksum of the last block.
    pub checksum: u32,
    pub high_watermark: Position,
    /// Why nothing may be appended: its end was not established by recovery.
    pub offline: Option<String>,
}

impl Lane {
    pub fn new(id: LaneId) -> Lane {
        Lane { id, epoch: 0, position: 0, checksum: 0, high_watermark: 0, offline: None }
    }

    pub fn from_row(row: &LaneRow) -> Lane {
        Lane {
            epoch: row.epoch,
            position: row.position,
            checksum: row.checksum,
            high_watermark: row.position,
            ..Lane::new(row.lane)
        }
    }

    pub fn row(&self) -> LaneRow {
        LaneRow {
            lane: self.id,
            epoch: self.epoch,
            position: self.position,
            checksum: self.checksum,
            included: self.position,
        }
    }

    pub fn end(&self) -> LaneEnd {
        LaneEnd { lane: self.id, position: self.position, checksum: self.checksum }
    }

    /// Follows a block that was composed or replayed.
    pub fn advance(&mut self, length: u64, checksum: u32) {
        self.position += length;
        self.checksum = checksum;
    }

    /// All blocks below `position` are durable on the in-sync replicas.
    pub fn raise_high_watermark(&mut self, position: Position) {
        assert!(position <= self.position, "the high watermark never passes the end of the lane");
        self.high_watermark = self.high_watermark.max(position);
    }
}
