//! Rebuilds lanes and partitions while a journal is recovered.
//!
//! Floor 5. Owner: the shard. Invariant: what the checkpoint includes is not counted twice; a lane
//! whose end cannot be established takes no records until an operator accepts the loss.

use std::collections::{BTreeMap, BTreeSet};

use super::retention::Seen;
use crate::format::EntryKind;
use crate::format::block;
use crate::format::checkpoint::Checkpoint;
use crate::format::mark::LaneEnd;
use crate::journal::{Replay, ReplayedBlock};
use crate::lane::{Lane, Logs, SharedLog};
use crate::model::LaneId;

pub(super) struct Rebuild {
    pub lanes: BTreeMap<LaneId, Lane>,
    pub partitions: Logs,
    /// Lanes that may end in a hole of the log: nothing has confirmed their ends since.
    suspects: BTreeSet<LaneId>,
    pub uptime_ms: u64,
    /// The clocks when the checkpoint was written.
    pub clock: Option<Seen>,
}

impl Rebuild {
    pub fn new(lanes: &[LaneId]) -> Rebuild {
        let lanes = lanes.iter().map(|id| (*id, Lane::new(*id))).collect();
        Rebuild { lanes, partitions: Logs::default(), suspects: BTreeSet::new(), uptime_ms: 0, clock: None }
    }

    /// After the log's end: a lane whose last blocks may lie in a hole takes no records.
    pub fn finish(&mut self) {
        for id in std::mem::take(&mut self.suspects) {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.offline
                .get_or_insert_with(|| offline(id, lane.position, "its last blocks may be among them"));
        }
    }

    /// The lane of a block whose header is damaged: that of any partition in it.
    fn lane_of(&self, block: &ReplayedBlock<'_>) -> Option<LaneId> {
        let known = block.runs.iter().find_map(|run| self.partitions.get(run.entry.id));
        known.map(|log| log.lane)
    }

    /// `position`: where the log goes on in this lane. Behind where it ended: a block is missing.
    fn expect(&mut self, lane: LaneId, position: u64, is_accepted: bool) -> Option<&mut Lane> {
        self.suspects.remove(&lane);
        let lane = self.lanes.get_mut(&lane)?;
        if position > lane.position && lane.offline.is_none() && !is_accepted {
            lane.offline =
                Some(offline(lane.id, lane.position, &format!("those up to {position} are among them")));
        }
        Some(lane)
    }
}

fn offline(lane: LaneId, position: u64, which: &str) -> String {
    format!(
        "lane {} is offline: blocks from its position {position} on are damaged beyond what their copies \
         tell, {which}, so the ends of its partitions are not known; stop the broker and run \
         'ringctl verify DIR' (names the place), then 'ringctl repair DIR --accept-loss'",
        lane.0
    )
}

impl Replay for Rebuild {
    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.uptime_ms = checkpoint.uptime_ms;
        self.clock = Some(Seen {
            wall_ms: checkpoint.wall_ms,
            boot_id: checkpoint.boot_id,
            uptime_ms: checkpoint.boot_uptime_ms,
        });
        for row in &checkpoint.lanes {
            self.lanes.insert(row.lane, Lane::from_row(row));
        }
        for row in &checkpoint.partitions {
            self.partitions.insert(SharedLog::from_row(row));
        }
    }

    fn block(&mut self, block: &ReplayedBlock<'_>) {
        let Some(lane_id) = block.header.map(|header| header.lane).or_else(|| self.lane_of(block)) else {
            return;
        };
        let first = block.runs.first().map(|run| run.entry.first_position - block::HEADER_BYTES as u64);
        let Some(position) = block.header.map(|header| header.position).or(first) else { return };
        let Some(lane) = self.expect(lane_id, position, block.is_accepted) else { return };
        if position >= lane.position {
            lane.position = position;
            lane.advance(block.bytes.len() as u64, block.header.map_or(0, |header| header.checksum));
            if let Some(header) = block.header {
                lane.epoch = lane.epoch.max(header.epoch);
            }
        }
        for run in block.runs {
            if run.entry.kind == EntryKind::Epoch {
                continue;
            }
            let log = self.partitions.get_or_new(run.entry.id, lane_id);
            let payload = block.bytes.get(run.payload());
            let payload = payload.filter(|payload| !block.is_damaged || run.entry.verifies(payload));
            log.borrow_mut().replay(&run.entry, payload, self.uptime_ms);
        }
    }

    fn hole(&mut self) {
        self.suspects = self.lanes.keys().copied().collect();
    }

    fn mark(&mut self, ends: &[LaneEnd], is_accepted: bool) {
        for end in ends {
            if let Some(lane) = self.expect(end.lane, end.position, is_accepted)
                && end.position > lane.position
            {
                lane.position = end.position;
                lane.checksum = end.checksum;
            }
        }
    }
}
