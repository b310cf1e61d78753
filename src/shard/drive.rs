//! One journal as a shard drives it: its lanes, what is ready to be written, what maintenance owes.
//!
//! Floor 5. Owner: the shard.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::control_runs::ControlRun;
use super::ready::Ready;
use crate::journal::{Journal, Offline};
use crate::lane::{Lane, LogRef, Logs};
use crate::model::{ErrorCode, Failure, LaneId};
use crate::rt::Rt;
use crate::rt::local::Event;

pub(super) struct Drive {
    pub journal: Rc<Journal>,
    pub lanes: RefCell<BTreeMap<LaneId, Lane>>,
    /// Partitions with staged batches, in turn.
    pub ready: RefCell<Ready<LogRef>>,
    pub control: RefCell<VecDeque<ControlRun>>,
    /// There is something to write.
    pub wake: Event,
    /// There is something to maintain.
    pub maintain: Event,
    /// The next segment is wanted.
    pub provision: Event,
    pub stopped_writing: Event,
    pub stopped_maintaining: Event,
    pub stopped_provisioning: Event,
    /// The write loop has ended; nothing more is composed.
    pub is_written_out: Cell<bool>,
    /// Deleted partitions of which some file may still hold runs.
    pub dropped: RefCell<Logs>,
    /// Counts deaths (log start raised, topic dropped): segments surveyed before are out of date.
    pub deaths: Cell<u64>,
    /// A checkpoint of this boot says what the clocks were: a later start can tell whether one was moved.
    pub knows_clock: Cell<bool>,
    pub noted_clock: Event,
    /// Why produce is refused until space comes back.
    pub full: RefCell<Option<String>>,
    /// The disk is above its high watermark.
    pub is_high: Cell<bool>,
    /// Segment in which a fetch last found what it looked for.
    pub found_last: Cell<u64>,
    /// Summed time that brokers ran on this journal, up to this start.
    pub uptime_before_ms: u64,
    started_ms: i64,
}

impl Drive {
    pub fn new(
        rt: &Rt,
        journal: Rc<Journal>,
        lanes: BTreeMap<LaneId, Lane>,
        dropped: Logs,
        uptime_before_ms: u64,
    ) -> Rc<Drive> {
        Rc::new(Drive {
            journal,
            lanes: RefCell::new(lanes),
            ready: RefCell::default(),
            control: RefCell::default(),
            wake: Event::new(),
            maintain: Event::new(),
            provision: Event::new(),
            stopped_writing: Event::new(),
            stopped_maintaining: Event::new(),
            stopped_provisioning: Event::new(),
            is_written_out: Cell::new(false),
            dropped: RefCell::new(dropped),
            deaths: Cell::new(1),
            knows_clock: Cell::new(false),
            noted_clock: Event::new(),
            full: RefCell::new(None),
            is_high: Cell::new(false),
            found_last: Cell::new(0),
            uptime_before_ms,
            started_ms: rt.uptime_ms(),
        })
    }

    /// Summed time that brokers ran on this journal.
    pub fn uptime_ms(&self, rt: &Rt) -> u64 {
        self.uptime_before_ms + (rt.uptime_ms() - self.started_ms).max(0) as u64
    }

    /// Why a batch for this lane cannot be taken now.
    pub fn refusal(&self, lane: LaneId) -> Option<Failure> {
        if let Some(offline) = self.journal.offline() {
            return Some(storage_failure(&offline));
        }
        if let Some(reason) = self.lanes.borrow().get(&lane).and_then(|lane| lane.offline.clone()) {
            return Some(Failure::new(ErrorCode::KafkaStorageError, reason).retry_after(5_000));
        }
        let full = self.full.borrow();
        full.as_ref().map(|text| Failure::new(ErrorCode::KafkaStorageError, text.clone()).retry_after(500))
    }

    pub fn has_work(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.control.borrow().is_empty()
    }

    /// Something became removable.
    pub fn note_death(&self) {
        self.deaths.set(self.deaths.get() + 1);
        self.maintain.notify();
    }
}

pub(super) fn storage_failure(offline: &Offline) -> Failure {
    Failure::new(ErrorCode::KafkaStorageError, offline.0.clone()).retry_after(5_000)
}
