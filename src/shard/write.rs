//! The write loop of one journal: natural group commit. While a write is in flight the partitions
//! accumulate; then everything staged goes out as one frame.
//!
//! Floor 5. Owner: the shard. Order of effects: offsets are assigned as the block is composed, the
//! frame is durable, the high watermark rises, then acknowledgements leave and consumers wake.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::control_runs::{ControlRun, Durable};
use super::drive::{Drive, storage_failure};
use super::{LogRef, Shard};
use crate::api::{Produced, Reply};
use crate::format::block;
use crate::format::frame::FrameKind;
use crate::journal::{Growth, Offline, block_part};
use crate::lane::compose::Placed;
use crate::lane::{LanePlan, RunPlan};
use crate::model::{LaneId, Position};
use crate::rt::local;

/// A frame is closed at this size; one larger batch may exceed it.
const FRAME_BYTES: usize = 1 << 20;
/// What one partition may put into a frame while others wait.
const TURN_BYTES: usize = 256 << 10;
/// Deletions and the like that one frame takes.
const CONTROL_RUNS_MAX: usize = 256;
/// After this long without an append a durable mark proves that the last frame was whole.
const MARK_AFTER: Duration = Duration::from_millis(10);

/// What the next frame will hold.
#[derive(Default)]
struct FramePlan {
    lanes: BTreeMap<LaneId, LanePlan>,
    runs: usize,
    bytes: usize,
    /// Batches, besides control runs.
    batches: usize,
    durable: Vec<Durable>,
}

/// What follows once a frame is durable.
struct Written {
    drive: Rc<Drive>,
    shard: Rc<Shard>,
    lanes: Vec<(LaneId, Position)>,
    placed: Vec<Placed>,
    durable: Vec<Durable>,
}

pub(super) async fn run(shard: Rc<Shard>, drive: Rc<Drive>) {
    let journal = drive.journal.clone();
    loop {
        if journal.offline().is_some() {
            drive.refuse_all(&shard);
            if shard.stopping.get() {
                break;
            }
            drive.wake.wait().await;
        } else if !drive.has_work() {
            if shard.stopping.get() && journal.is_idle() {
                break;
            }
            wait_or_mark(&shard, &drive).await;
        } else if !journal.may_submit() {
            journal.changed.wait().await;
        } else {
            write_one(&shard, &drive).await;
        }
    }
    if journal.needs_mark() {
        let written = local::Event::new();
        let told = written.clone();
        if journal.mark(&drive.lane_ends(), Box::new(move |_| told.notify())) {
            written.wait().await;
        }
    }
    drive.is_written_out.set(true);
    drive.stopped_writing.notify();
}

/// Writes all that waits, before the write loop runs.
pub(super) async fn write_now(shard: &Rc<Shard>, drive: &Rc<Drive>) {
    while drive.has_work() && drive.journal.offline().is_none() {
        write_one(shard, drive).await;
    }
}

async fn wait_or_mark(shard: &Rc<Shard>, drive: &Rc<Drive>) {
    let journal = &drive.journal;
    if !journal.is_idle() {
        local::select2(drive.wake.wait(), journal.changed.wait()).await;
    } else if !journal.needs_mark() {
        drive.wake.wait().await;
    } else if local::timeout(&shard.rt, MARK_AFTER, drive.wake.wait()).await.is_none() && !drive.has_work() {
        journal.mark(&drive.lane_ends(), Box::new(|_| ()));
    }
}

/// Composes and submits one frame, waiting for the next segment if need be.
async fn write_one(shard: &Rc<Shard>, drive: &Rc<Drive>) {
    let journal = &drive.journal;
    let plan = drive.plan();
    let part_bytes = plan.lanes.values().map(LanePlan::block_bytes).sum();
    let spare = if plan.batches == 0 { 0 } else { journal.segment_bytes / 4 };
    let growth = Growth { runs: plan.runs, blocks: plan.lanes.len(), spare };
    let slot = loop {
        if let Some(slot) = journal.reserve(FrameKind::Block, plan.lanes.len(), part_bytes, growth) {
            break slot;
        }
        if journal.offline().is_some() || drive.full.borrow().is_some() && plan.batches > 0 {
            drive.dissolve(shard, plan);
            return;
        }
        drive.maintain.notify();
        journal.changed.wait().await;
    };
    let mut slot = slot;
    let clock = shard.block_clock(drive);
    let mut parts = Vec::with_capacity(plan.lanes.len());
    let mut written = Written {
        drive: drive.clone(),
        shard: shard.clone(),
        lanes: Vec::with_capacity(plan.lanes.len()),
        placed: Vec::new(),
        durable: plan.durable,
    };
    let mut at = slot.parts_at;
    {
        let mut lanes = drive.lanes.borrow_mut();
        for (id, lane_plan) in plan.lanes {
            let lane = lanes.get_mut(&id).expect("partitions lie in this journal's lanes");
            let end = at + lane_plan.block_bytes();
            let composed = lane_plan.compose(lane, clock, &mut slot.buf[at..end]);
            let (header, part) = block_part(&slot.buf[at..end]);
            journal.note_block(&slot, at, &header, &composed.runs);
            parts.push(part);
            written.lanes.push((id, lane.position));
            written.placed.extend(composed.placed);
            at = end;
        }
    }
    let staged: usize =
        written.placed.iter().flat_map(|placed| &placed.batches).map(|(staged, _)| staged.batch.len()).sum();
    shard.release_staged(staged);
    journal.submit(slot, parts, Box::new(move |result| written.settle(result)));
}

impl Written {
    fn settle(self, result: Result<(), Offline>) {
        if let Err(offline) = &result {
            let failure = storage_failure(offline);
            let batches = self.placed.into_iter().flat_map(|placed| placed.batches);
            for done in batches.flat_map(|(staged, _)| staged.done) {
                done(Err(failure.clone()));
            }
        } else {
            let mut lanes = self.drive.lanes.borrow_mut();
            for (id, position) in self.lanes {
                lanes.get_mut(&id).expect("lanes stay").raise_high_watermark(position);
            }
            drop(lanes);
            self.placed.into_iter().for_each(|placed| self.shard.acknowledge(placed));
        }
        for durable in self.durable {
            durable(result.clone());
        }
        if !self.drive.journal.has_next() || self.drive.journal.next_sealed().is_some() {
            self.drive.maintain.notify();
        }
    }
}

impl Shard {
    /// The high watermark has passed these batches.
    fn acknowledge(&self, placed: Placed) {
        let (log_start, watchers) = {
            let mut log = placed.partition.borrow_mut();
            assert!(log.visible_end <= placed.end_offset, "the high watermark only grows");
            log.visible_end = placed.end_offset;
            (log.log_start, std::mem::take(&mut log.watchers))
        };
        for (_, watcher) in watchers {
            watcher.notify();
        }
        for (staged, base_offset) in placed.batches {
            for done in staged.done {
                done(Ok(Reply::Produced(Produced {
                    base_offset,
                    log_append_time_ms: staged.append_time_ms,
                    log_start,
                })));
            }
        }
    }
}

impl Drive {
    /// Takes turns over the ready partitions until the frame is full.
    fn plan(&self) -> FramePlan {
        let mut plan = FramePlan::default();
        let target = FRAME_BYTES.min(self.journal.frame_bytes_max() / 2);
        while plan.runs < CONTROL_RUNS_MAX && plan.bytes < target {
            let Some(control) = self.control.borrow_mut().pop_front() else { break };
            plan.control(control);
        }
        while plan.bytes < target {
            let Some(log) = self.ready.borrow_mut().pop_front() else { break };
            let room = (target - plan.bytes).min(TURN_BYTES);
            let (lane, next_bytes) = {
                let log = log.borrow();
                (log.lane, log.staged_next_bytes())
            };
            if plan.batches > 0 && next_bytes + block::RUN_OVERHEAD_BYTES > target - plan.bytes {
                self.ready.borrow_mut().push_front(log);
                break;
            }
            let batches = log.borrow_mut().take_staged(room);
            if log.borrow().staged_bytes() > 0 {
                self.ready.borrow_mut().push_back(log.clone());
            }
            if batches.is_empty() {
                continue;
            }
            plan.batches += batches.len();
            plan.add(lane, RunPlan::Data { partition: log, batches });
        }
        plan
    }

    /// Puts control runs back and refuses the batches: the disk is full.
    fn dissolve(&self, shard: &Shard, plan: FramePlan) {
        let mut durable = plan.durable.into_iter();
        for (lane, lane_plan) in plan.lanes {
            for run in lane_plan.runs {
                match run {
                    RunPlan::Control { entry, payload, partition } => {
                        let durable = durable.next().expect("one for each control run");
                        let control = ControlRun { lane, entry, payload, partition, durable };
                        self.control.borrow_mut().push_back(control);
                    }
                    RunPlan::Data { partition, batches } => self.refuse(shard, &partition, lane, batches),
                }
            }
        }
        self.refuse_all(shard);
    }

    fn refuse(&self, shard: &Shard, log: &LogRef, lane: LaneId, batches: Vec<crate::lane::Staged>) {
        let Some(failure) = self.refusal(lane) else { return };
        for staged in batches {
            shard.release_staged(staged.batch.len());
            log.borrow_mut().refuse(&staged.info, &failure);
            staged.done.into_iter().for_each(|done| done(Err(failure.clone())));
        }
    }

    /// Refuses all that is staged, and control runs too if the journal is offline for good.
    fn refuse_all(&self, shard: &Shard) {
        while let Some(log) = { self.ready.borrow_mut().pop_front() } {
            let lane = log.borrow().lane;
            let batches = log.borrow_mut().take_staged(usize::MAX);
            self.refuse(shard, &log, lane, batches);
        }
        if let Some(offline) = self.journal.offline() {
            while let Some(control) = { self.control.borrow_mut().pop_front() } {
                (control.durable)(Err(offline.clone()));
            }
        }
    }

    pub(super) fn lane_ends(&self) -> Vec<crate::format::mark::LaneEnd> {
        self.lanes.borrow().values().map(crate::lane::Lane::end).collect()
    }

    pub(super) fn push_control(&self, control: ControlRun) {
        self.control.borrow_mut().push_back(control);
        self.wake.notify();
    }
}

impl FramePlan {
    fn control(&mut self, control: ControlRun) {
        let ControlRun { lane, entry, payload, partition, durable } = control;
        self.durable.push(durable);
        self.add(lane, RunPlan::Control { entry, payload, partition });
    }

    fn add(&mut self, lane: LaneId, run: RunPlan) {
        self.runs += 1;
        self.bytes += run.payload_bytes() + block::RUN_OVERHEAD_BYTES;
        self.lanes.entry(lane).or_default().runs.push(run);
    }
}

impl Shard {
    pub(super) fn release_staged(&self, bytes: usize) {
        let before = self.staged_bytes.get();
        self.staged_bytes.set(before - bytes);
        if before >= self.staged_bytes_max && before - bytes < self.staged_bytes_max {
            self.room.notify();
        }
    }

    pub(super) fn take_room(&self, bytes: usize) {
        self.staged_bytes.set(self.staged_bytes.get() + bytes);
    }
}
