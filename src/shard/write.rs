//! The write loop of one journal: natural group commit. While a write is in flight the partitions
//! accumulate; then everything staged goes out as one frame.
//!
//! Floor 5. Owner: the shard. Order of effects: offsets are assigned as the block is composed, the
//! frame is durable, the high watermark rises, then acknowledgements leave and consumers wake.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::control_runs::{ControlRun, Durable};
use super::drive::{Drive, storage_failure};
use crate::api::{Produced, Reply};
use crate::format::block;
use crate::format::frame::FrameKind;
use crate::journal::{Growth, Offline, Turn, block_part};
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

/// What the next frame will hold. Never kept across an await: what it holds is neither staged nor
/// appended, so that nobody could judge a duplicate of it.
#[derive(Default)]
struct FramePlan {
    lanes: BTreeMap<LaneId, PlannedLane>,
    runs: usize,
    bytes: usize,
    /// Batches, besides control runs.
    batches: usize,
}

#[derive(Default)]
struct PlannedLane {
    plan: LanePlan,
    /// Of the lane's control runs, in their order.
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
        } else {
            write(&shard, &drive, journal.turn()).await;
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

/// Writes what may go out now, or waits until something may.
async fn write(shard: &Rc<Shard>, drive: &Rc<Drive>, turn: Turn) {
    let journal = &drive.journal;
    if !drive.has_work_for(turn) {
        local::select2(drive.wake.wait(), journal.changed.wait()).await;
    } else if write_one(shard, drive, turn == Turn::Small) {
        if drive.has_work() {
            // One frame a step: whoever else this shard serves comes in between.
            shard.rt.yield_now().await;
        }
    } else if shard.stopping.get() && drive.full.borrow().is_some() && !journal.is_zeroing() {
        drive.give_up_control();
    } else {
        if drive.full.borrow().is_none() {
            // Else it is tried again from time to time.
            drive.provision.notify();
        }
        journal.changed.wait().await;
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

/// Composes and submits one frame; `small`: of what is small. False: there is no room before the next segment
/// is there or zeros under way have ended; everything waits where it was, or, on a full disk, was refused.
fn write_one(shard: &Rc<Shard>, drive: &Rc<Drive>, small: bool) -> bool {
    let journal = &drive.journal;
    let plan = drive.plan(small);
    if plan.runs == 0 {
        return true;
    }
    let part_bytes = plan.lanes.values().map(|lane| lane.plan.block_bytes()).sum();
    let spare = if plan.batches == 0 { 0 } else { journal.segment_bytes / 4 };
    let growth = Growth { runs: plan.runs, blocks: plan.lanes.len(), spare };
    let Some(mut slot) = journal.reserve(FrameKind::Block, plan.lanes.len(), part_bytes, growth) else {
        drive.restore(plan);
        if drive.full.borrow().is_some() && !journal.is_zeroing() {
            drive.refuse_staged(shard);
        }
        return false;
    };
    let clock = shard.block_clock(drive);
    let mut parts = Vec::with_capacity(plan.lanes.len());
    let mut written = Written {
        drive: drive.clone(),
        shard: shard.clone(),
        lanes: Vec::with_capacity(plan.lanes.len()),
        placed: Vec::new(),
        durable: Vec::new(),
    };
    let mut at = slot.parts_at;
    let mut lanes = drive.lanes.borrow_mut();
    for (id, planned) in plan.lanes {
        let lane = lanes.get_mut(&id).expect("partitions lie in this journal's lanes");
        let end = at + planned.plan.block_bytes();
        let composed = planned.plan.compose(lane, clock, &mut slot.buf[at..end]);
        let (header, part) = block_part(&slot.buf[at..end]);
        journal.note_block(&slot, at, &header, &composed.runs);
        parts.push(part);
        written.lanes.push((id, lane.position));
        written.placed.extend(composed.placed);
        written.durable.extend(planned.durable);
        at = end;
    }
    drop(lanes);
    let batches = written.placed.iter().flat_map(|placed| &placed.batches);
    shard.release_staged(batches.map(|(staged, _)| staged.batch.len()).sum());
    journal.submit(slot, parts, Box::new(move |result| written.settle(result)));
    true
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
        if self.drive.journal.wants_next() {
            self.drive.provision.notify();
        }
        if self.drive.journal.next_sealed().is_some() {
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
            (log.log_start, log.take_watchers())
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
    /// Whether there is a write of this kind to be made.
    fn has_work_for(&self, turn: Turn) -> bool {
        let ready = self.ready.borrow();
        match turn {
            Turn::Any => true,
            Turn::Small => ready.has_sparse() || !self.control.borrow().is_empty(),
            Turn::Large => {
                let staged = ready.front_of_round().map_or(0, |log| log.borrow().staged_bytes());
                staged >= self.journal.large_write_bytes()
            }
            Turn::Nobody => false,
        }
    }

    /// Takes turns over the ready partitions until the frame is full; `small`: only over the
    /// sparse ones.
    fn plan(&self, small: bool) -> FramePlan {
        let mut plan = FramePlan::default();
        let target = FRAME_BYTES.min(self.journal.frame_bytes_max() / 2);
        while plan.runs < CONTROL_RUNS_MAX && plan.bytes < target {
            let Some(mut control) = self.control.borrow_mut().pop_front() else { break };
            let reason = self.lanes.borrow().get(&control.lane).and_then(|lane| lane.offline.clone());
            match reason {
                // A lane whose end is not known takes nothing, not even small facts.
                Some(reason) => (control.durable)(Err(Offline(reason))),
                None if control.is_due() => plan.control(control),
                None => (control.durable)(Ok(())),
            }
        }
        while plan.bytes < target {
            let Some(log) = self.ready.borrow().front(small).cloned() else { break };
            let (next_bytes, share) = {
                let log = log.borrow();
                (log.staged_next_bytes(), log.share)
            };
            if plan.runs > 0 && next_bytes + block::RUN_OVERHEAD_BYTES > target - plan.bytes {
                self.ready.borrow_mut().owe_round();
                break;
            }
            let is_alone = self.ready.borrow().len() == 1;
            let room = (target - plan.bytes).min(if is_alone { usize::MAX } else { TURN_BYTES });
            let batches = log.borrow_mut().take_staged(room);
            let bytes = batches.iter().map(|staged| staged.batch.len()).sum();
            let mut ready = self.ready.borrow_mut();
            log.borrow_mut().share = ready.pop(small, bytes, share);
            if log.borrow().staged_bytes() > 0 {
                ready.push_back(log.clone());
            }
            if batches.is_empty() {
                continue;
            }
            plan.batches += batches.len();
            plan.add(log.lane, RunPlan::Data { partition: log, batches });
        }
        plan
    }

    /// Puts everything back where it was taken from.
    fn restore(&self, plan: FramePlan) {
        for (lane, planned) in plan.lanes.into_iter().rev() {
            let mut durable = planned.durable.into_iter().rev();
            for run in planned.plan.runs.into_iter().rev() {
                match run {
                    RunPlan::Control { entry, payload, partition } => {
                        let durable = durable.next().expect("one for each control run");
                        // What was to be forgotten is at the next look again.
                        let control =
                            ControlRun { lane, entry, payload, partition, idle_before_ms: 0, durable };
                        self.control.borrow_mut().push_front(control);
                    }
                    RunPlan::Data { partition, batches } => {
                        let was_ready = partition.borrow_mut().unstage(batches);
                        if !was_ready {
                            self.ready.borrow_mut().push_front(partition);
                        }
                    }
                }
            }
        }
    }

    /// Refuses all that is staged: the disk is full, or the journal offline.
    fn refuse_staged(&self, shard: &Shard) {
        let waiting = self.ready.borrow_mut().take_all();
        for log in waiting {
            let failure =
                self.refusal(log.lane).unwrap_or_else(|| storage_failure(&Offline("no room".to_string())));
            let batches = log.borrow_mut().take_staged(usize::MAX);
            for staged in batches {
                shard.release_staged(staged.batch.len());
                log.borrow_mut().refuse(&staged.info, &failure);
                staged.done.into_iter().for_each(|done| done(Err(failure.clone())));
            }
        }
    }

    /// The journal is offline for good: nothing that waits will ever be written.
    fn refuse_all(&self, shard: &Shard) {
        self.refuse_staged(shard);
        self.give_up_control();
    }

    fn give_up_control(&self) {
        let offline =
            self.journal.offline().unwrap_or(Offline("the disk is full and the broker stops".to_string()));
        let waiting = std::mem::take(&mut *self.control.borrow_mut());
        for control in waiting {
            (control.durable)(Err(offline.clone()));
        }
    }

    /// Where lanes end, for a mark. Of a lane that is offline that is not known: a mark would confirm it at
    /// the next start.
    pub(super) fn lane_ends(&self) -> Vec<crate::format::mark::LaneEnd> {
        let lanes = self.lanes.borrow();
        let serving = lanes.values().filter(|lane| lane.offline.is_none());
        serving.map(crate::lane::Lane::end).collect()
    }

    pub(super) fn push_control(&self, control: ControlRun) {
        self.control.borrow_mut().push_back(control);
        self.wake.notify();
    }
}

impl FramePlan {
    fn control(&mut self, control: ControlRun) {
        let ControlRun { lane, entry, payload, partition, durable, .. } = control;
        self.add(lane, RunPlan::Control { entry, payload, partition });
        self.lanes.entry(lane).or_default().durable.push(durable);
    }

    fn add(&mut self, lane: LaneId, run: RunPlan) {
        self.runs += 1;
        self.bytes += run.payload_bytes() + block::RUN_OVERHEAD_BYTES;
        self.lanes.entry(lane).or_default().plan.runs.push(run);
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
