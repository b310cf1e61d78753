//! The maintenance task of one journal: seals, checkpoints, retention,
//! removal and rewrite. It is the only one that changes files.
//!
//! Floor 5. Owner: the shard. Order of effects: a log start or drop is durable before anything is
//! removed for it; a segment goes only below the older of two checkpoints.

use std::cmp::Reverse;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::drive::Drive;
use crate::base::Map;
use crate::base::align::align_up;
use crate::format::block;
use crate::format::checkpoint::{Checkpoint, Encoder};
use crate::format::footer::{self, RunRef};
use crate::format::frame::{self, Address};
use crate::format::manifest::Role;
use crate::journal::{self, Journal, Segment};
use crate::model::{Offset, PartitionId};
use crate::rt::{Instant, Level, local};

/// How often a journal that has nothing to do looks at its disk.
const TICK: Duration = Duration::from_secs(1);
/// Segments are rewritten once this share of all of them together would be saved: 1.3 x live data is the
/// bound, and 1 - 1/1.3 of the files may then be dead. The deadest go first. Judged one by one, each
/// segment at the edge of retention would be copied shortly before it dies anyway (measured: 1.11 bytes
/// written for each byte of payload instead of 1.0).
const DEAD_PERCENT: u64 = 23;
/// While the disk is above its high watermark: any segment of which this share would be saved.
const DEAD_PERCENT_HIGH: u64 = 5;
/// Rows of a checkpoint between two yields.
const ROWS_PER_STEP: usize = 64;

struct Maintenance {
    shard: Rc<Shard>,
    drive: Rc<Drive>,
    journal: Rc<Journal>,
    /// Of each segment: deaths counted when it was last surveyed, and what a rewrite would have saved.
    surveyed: Map<u64, (u64, u64)>,
    retention_due: Instant,
    /// What the last collection saw; without a change there is nothing to collect.
    collected: Option<Seen>,
}

/// Whatever can make a segment worth a rewrite when it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    deaths: u64,
    settled_below: u64,
    segments: usize,
    is_high: bool,
    is_full: bool,
    has_reserve: bool,
}

/// Log starts and drops that are durable.
struct Liveness {
    log_starts: Map<PartitionId, Offset>,
    dropped: Vec<PartitionId>,
}

pub(super) async fn run(shard: Rc<Shard>, drive: Rc<Drive>) {
    let journal = drive.journal.clone();
    let mut maintenance = Maintenance {
        retention_due: shard.rt.now(),
        shard: shard.clone(),
        drive: drive.clone(),
        journal: journal.clone(),
        surveyed: Map::default(),
        collected: None,
    };
    maintenance.note_clock().await;
    while !drive.is_written_out.get() {
        if journal.offline().is_none()
            && let Err(error) = maintenance.turn().await
        {
            maintenance.failed(&error);
        }
        local::timeout(&shard.rt, TICK, drive.maintain.wait()).await;
    }
    if journal.offline().is_none()
        && let Err(error) = maintenance.seal_and_checkpoint(true).await
    {
        maintenance.failed(&error);
    }
    drive.stopped_maintaining.notify();
}

impl Maintenance {
    fn failed(&self, error: &io::Error) {
        // A failed write or flush took the journal offline where it happened; a read harms nothing else.
        self.shard
            .rt
            .log(Level::Warn, format!("journal {}: maintenance stopped short: {error}", self.journal.id));
    }

    /// Before anything of this boot is acknowledged, and before retention asks: writes the clocks down, in a
    /// checkpoint. Else a kill, and a clock that is set ahead before the next start, would expire what is
    /// new.
    async fn note_clock(&self) {
        if !self.drive.knows_clock.get()
            && self.journal.offline().is_none()
            && let Err(error) = self.checkpoint().await
        {
            self.failed(&error);
        }
        self.drive.knows_clock.set(true);
        self.drive.noted_clock.notify();
    }

    async fn turn(&mut self) -> io::Result<()> {
        self.seal_and_checkpoint(false).await?;
        if self.shard.rt.now() >= self.retention_due {
            let pause = Duration::from_millis(self.shard.settings.retention_check_ms);
            self.retention_due = self.shard.rt.now() + pause;
            if self.drive.control.borrow().is_empty() {
                self.shard.retain(&self.drive).await;
            }
        }
        self.collect().await?;
        self.journal.ensure_reserve().await.or_else(journal::unless_full)
    }

    async fn seal_and_checkpoint(&mut self, at_stop: bool) -> io::Result<()> {
        let sealed = self.note_sealed_below(u64::MAX).await?;
        if sealed && !at_stop {
            self.shard.forget_idle_producers(&self.drive);
        }
        if sealed || at_stop { self.checkpoint().await } else { Ok(()) }
    }

    /// Names footers that are durable in the manifest; whether there were any.
    async fn note_sealed_below(&self, end: u64) -> io::Result<bool> {
        let mut sealed = false;
        while let Some((segment, footer)) = self.journal.next_sealed()
            && segment.number < end
        {
            self.journal.note_sealed(&segment, footer).await?;
            sealed = true;
        }
        Ok(sealed)
    }

    /// Captures every partition, waits until all that was captured is durable, publishes.
    async fn checkpoint(&self) -> io::Result<()> {
        let rt = &self.shard.rt;
        if self.drive.lanes.borrow().values().any(|lane| lane.offline.is_some()) {
            // The damage has to be met again at every start until an operator accepts it.
            return Ok(());
        }
        // Partitions are captured later than this: they include all of the earlier segments.
        let (replay_segment, chain, _) = self.journal.replay_point();
        let seen = self.shard.clock.seen(rt);
        let generation = self.journal.next_checkpoint();
        let mut encoder = Encoder::new(&Checkpoint {
            generation,
            replay_segment,
            chain,
            uptime_ms: self.drive.uptime_ms(rt),
            wall_ms: self.shard.clock.now_ms(rt),
            boot_id: seen.boot_id,
            boot_uptime_ms: seen.uptime_ms,
            lanes: self.drive.lanes.borrow().values().map(|lane| lane.row()).collect(),
            partitions: Vec::new(),
        });
        let mut logs = self.shard.logs_of(&self.drive);
        logs.extend(self.drive.dropped.borrow().iter().cloned());
        logs.sort_unstable_by_key(|log| log.id);
        for (at, log) in logs.iter().enumerate() {
            let row = log.row();
            if row.included > 0 {
                encoder.partition(&row);
            }
            if at % ROWS_PER_STEP == ROWS_PER_STEP - 1 {
                rt.yield_now().await;
            }
        }
        rt.step("checkpoint.captured");
        let (_, _, end) = self.journal.replay_point();
        if !rt.mutated("checkpoint-before-durable") && !self.durable_up_to(end).await {
            return Ok(());
        }
        // A recovery from here on does not scan these: it finds their footers by the manifest, or nowhere.
        self.note_sealed_below(replay_segment).await?;
        let content = encoder.finish(self.journal.id);
        self.journal.write_checkpoint(generation, replay_segment, &content).await
    }

    /// Waits until all below `end` is durable; false if it never will be.
    async fn durable_up_to(&self, end: Address) -> bool {
        while self.journal.durable() < end && !self.journal.is_idle() {
            if self.journal.offline().is_some() {
                return false;
            }
            self.journal.changed.wait().await;
        }
        self.journal.offline().is_none()
    }

    /// Removes and rewrites segments of which enough is dead.
    async fn collect(&mut self) -> io::Result<()> {
        let deaths = self.drive.deaths.get();
        let seen = Seen {
            deaths,
            settled_below: self.journal.settled_below(),
            segments: self.journal.segments().len(),
            is_high: self.drive.is_high.get(),
            is_full: self.drive.full.borrow().is_some(),
            has_reserve: self.journal.has_reserve(),
        };
        if self.collected == Some(seen) {
            return Ok(());
        }
        let Some(liveness) = self.liveness().await else { return Ok(()) };
        let mut waits_for_checkpoint = false;
        for (segment, saved) in self.survey(deaths, &liveness).await? {
            if segment.role != Role::Sorted && segment.number >= self.journal.settled_below() {
                waits_for_checkpoint = true;
                continue;
            }
            if !self.journal.has_reserve() && saved < segment.bytes {
                continue;
            }
            let rewritten = self.journal.rewrite(&segment, |id, run| liveness.is_live(id, run)).await;
            let outcome = match rewritten {
                Ok(outcome) => outcome,
                Err(error) if self.journal.offline().is_some() || journal::is_full(&error) => {
                    return Err(error);
                }
                Err(error) => {
                    self.unreadable(&segment, &error);
                    self.surveyed.insert(segment.number, (deaths, 0));
                    continue;
                }
            };
            self.surveyed.remove(&segment.number);
            let text = format!(
                "journal {} segment {}: {} KiB became {} KiB",
                self.journal.id,
                segment.number,
                outcome.bytes_before >> 10,
                outcome.bytes_after >> 10
            );
            self.shard.rt.log(Level::Info, text);
            if outcome.runs_lost > 0 {
                let text = format!(
                    "damage: journal {} segment {}: {} runs of records did not verify when it was rewritten, and are \
                     lost; 'ringctl verify' names their offsets, 'ringctl repair --accept-loss' lets readers pass",
                    self.journal.id, segment.number, outcome.runs_lost
                );
                self.shard.rt.log(Level::Error, text);
            }
            self.journal.ensure_reserve().await.or_else(journal::unless_full)?;
            self.drive.provision.notify();
        }
        if waits_for_checkpoint {
            // Two generations have to pass what died before its segment can go.
            self.checkpoint().await?;
            self.drive.maintain.notify();
        }
        self.release_dropped(&liveness).await;
        // Only what was done to its end need not be done again.
        self.collected = Some(seen);
        Ok(())
    }

    /// What cannot be read stays as it is, and holds nothing else up.
    fn unreadable(&self, segment: &Segment, error: &io::Error) {
        let text =
            format!("journal {} segment {} cannot be reclaimed: {error}", self.journal.id, segment.number);
        self.shard.rt.log(Level::Warn, text);
    }

    /// The segments that are worth a rewrite, the deadest first, and what each would save.
    async fn survey(&mut self, deaths: u64, liveness: &Liveness) -> io::Result<Vec<(Rc<Segment>, u64)>> {
        let mut sealed = Vec::new();
        for segment in self.journal.segments().into_iter().filter(|segment| !segment.is_open()) {
            let saved = match self.surveyed.get(&segment.number) {
                Some((surveyed, saved)) if *surveyed == deaths => *saved,
                _ => match self.savings(&segment, liveness).await {
                    Ok(saved) => saved,
                    Err(error) => {
                        self.unreadable(&segment, &error);
                        0
                    }
                },
            };
            self.surveyed.insert(segment.number, (deaths, saved));
            sealed.push((segment, saved));
        }
        sealed.sort_by_key(|(segment, saved)| Reverse(saved * 1_000 / segment.bytes));
        let is_high = self.drive.is_high.get() || self.drive.full.borrow().is_some();
        let mut bytes: u64 = sealed.iter().map(|(segment, _)| segment.bytes).sum();
        let mut dead: u64 = sealed.iter().map(|(_, saved)| saved).sum();
        sealed.retain(|(segment, saved)| {
            let is_worth = *saved == segment.bytes
                || dead * 100 > bytes * DEAD_PERCENT
                || is_high && saved * 100 > segment.bytes * DEAD_PERCENT_HIGH;
            if is_worth {
                (bytes, dead) = (bytes - saved, dead - saved);
            }
            is_worth
        });
        Ok(sealed)
    }

    /// What is dead now and durably so.
    async fn liveness(&self) -> Option<Liveness> {
        let here = self.shard.logs_of(&self.drive).into_iter();
        let log_starts = here.map(|log| (log.id, log.borrow().log_start)).collect();
        let mut dropped = Vec::new();
        for log in self.drive.dropped.borrow().iter() {
            if log.borrow().is_dropped {
                dropped.push(log.id);
            }
        }
        dropped.sort_unstable();
        let (_, _, end) = self.journal.replay_point();
        self.durable_up_to(end).await.then_some(Liveness { log_starts, dropped })
    }

    /// Bytes that a rewrite of the segment would save at least; all of them if nothing lives.
    async fn savings(&self, segment: &Rc<Segment>, liveness: &Liveness) -> io::Result<u64> {
        self.journal.load_index(segment).await?;
        let (mut bytes, mut runs, mut partitions) = (0u64, 0usize, 0usize);
        segment.for_each_partition(|id, of_partition| {
            let mut live = of_partition.iter().filter(|run| liveness.is_live(id, run)).peekable();
            partitions += usize::from(live.peek().is_some());
            for run in live {
                bytes += u64::from(run.length) + block::RUN_OVERHEAD_BYTES as u64;
                runs += 1;
            }
        });
        self.shard.rt.yield_now().await;
        if runs == 0 {
            return Ok(segment.bytes);
        }
        let head = (frame::head_bytes(1) + block::HEADER_BYTES) as u64;
        // One frame a MiB, each padded to a disk block.
        let frames = align_up(bytes + (1 + bytes / (1 << 20)) * (head + 4096));
        let footer = align_up((frame::head_bytes(1) + footer::bytes_of(partitions, runs, 0)) as u64);
        Ok(segment.bytes.saturating_sub(frames + footer))
    }

    /// Lets go of deleted partitions that no file holds any more.
    async fn release_dropped(&self, liveness: &Liveness) {
        if liveness.dropped.is_empty() {
            return;
        }
        let mut held = Map::default();
        for segment in self.journal.segments() {
            if let Err(error) = self.journal.load_index(&segment).await {
                // It may hold any of them.
                self.unreadable(&segment, &error);
                return;
            }
            segment.for_each_partition(|id, _| {
                held.insert(id, ());
            });
        }
        let before = self.drive.dropped.borrow().len();
        for id in &liveness.dropped {
            if !held.contains_key(id) {
                self.drive.dropped.borrow_mut().remove(*id);
            }
        }
        if self.drive.dropped.borrow().len() != before {
            self.shard.report_forgotten_topics();
        }
    }
}

impl Liveness {
    fn is_live(&self, id: PartitionId, run: &RunRef) -> bool {
        match self.log_starts.get(&id) {
            Some(log_start) => run.end_offset() > *log_start,
            // Runs die only by a drop, never because the metadata does not know them.
            None => self.dropped.binary_search(&id).is_err(),
        }
    }
}
