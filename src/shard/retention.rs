//! Retention by time and size, forgetting of idle producers, and the clock they may believe.
//!
//! Floor 5. Owner: the shard. Retention only ever writes log-start runs; files follow later.
//! A record's age counts from the earlier of its own timestamp and its append time.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::Shard;
use super::control_runs::{ControlRun, FORGOTTEN_MAX};
use super::drive::Drive;
use crate::base::Map;
use crate::format::footer::RunRef;
use crate::journal::Segment;
use crate::lane::LogRef;
use crate::lane::compose::Clock;
use crate::model::{Offset, PartitionId, TopicConfig};
use crate::rt::{Level, Rt};

/// Wall clock and uptime may disagree by this much before time retention pauses.
const DISAGREEMENT_MS_MAX: i64 = 10 * 60 * 1000;
/// A new wall clock is believed after the machine has run with it for this long.
const BELIEVED_AFTER_MS: i64 = 24 * 60 * 60 * 1000;
/// Producers without a batch in this much summed uptime are forgotten (Kafka:
/// `transactional.id.expiration.ms`, of the same length).
const PRODUCER_IDLE_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Clocks read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub wall_ms: i64,
    pub boot_id: u128,
    /// Age of the boot.
    pub uptime_ms: i64,
}

impl Seen {
    fn wall_at_boot(&self) -> i64 {
        self.wall_ms - self.uptime_ms
    }
}

/// Compares the wall clock with the machine's uptime, across restarts of the broker too: a clock that
/// was set a week ahead by mistake must not expire a week of records.
pub(super) struct ClockGuard {
    anchor: Cell<Seen>,
    /// The anchor is what an earlier broker of this boot wrote down.
    is_bound: bool,
    /// Uptime at which the present disagreement began, and how large it is.
    disagrees: Cell<Option<(i64, i64)>>,
}

impl ClockGuard {
    pub fn new(rt: &Rt) -> ClockGuard {
        ClockGuard { anchor: Cell::new(ClockGuard::read(rt)), is_bound: false, disagrees: Cell::new(None) }
    }

    pub fn read(rt: &Rt) -> Seen {
        Seen { wall_ms: rt.wall_ms(), boot_id: rt.boot_id(), uptime_ms: rt.uptime_ms() }
    }

    /// Clocks that an earlier broker wrote down in one of its journals. Within one boot they bind; whether
    /// they are of this one. Of several the one that has records youngest: rather a pause than a loss.
    pub fn saw(&mut self, rt: &Rt, seen: Seen) -> bool {
        let binds = seen.boot_id == rt.boot_id();
        if binds && (!self.is_bound || seen.wall_at_boot() < self.anchor.get().wall_at_boot()) {
            self.anchor.set(seen);
            self.is_bound = true;
        }
        binds
    }

    /// For the next start to compare with: the clocks that are believed, not a wall clock that is off.
    pub fn seen(&self, rt: &Rt) -> Seen {
        Seen { wall_ms: self.now_ms(rt), ..ClockGuard::read(rt) }
    }

    /// From the earlier to the later of the wall clock and what the uptime makes of it; the wall clock while
    /// both agree.
    pub fn range_ms(&self, rt: &Rt) -> RangeInclusive<i64> {
        let (wall, now) = (rt.wall_ms(), self.now_ms(rt));
        wall.min(now)..=wall.max(now)
    }

    /// The wall clock as the uptime has it, in ms; the wall clock itself while both agree.
    pub fn now_ms(&self, rt: &Rt) -> i64 {
        let (wall, expected) = self.both(rt);
        if (wall - expected).abs() > DISAGREEMENT_MS_MAX { expected } else { wall }
    }

    fn both(&self, rt: &Rt) -> (i64, i64) {
        let anchor = self.anchor.get();
        (rt.wall_ms(), anchor.wall_ms + rt.uptime_ms() - anchor.uptime_ms)
    }

    /// Whether ages can be told now. Logs the alarm when it begins and when it ends.
    pub fn agrees(&self, rt: &Rt) -> bool {
        let (wall, expected) = self.both(rt);
        let ahead_ms = wall - expected;
        if ahead_ms.abs() <= DISAGREEMENT_MS_MAX {
            if self.disagrees.take().is_some() {
                rt.log(Level::Info, "the wall clock agrees with the uptime again: time retention goes on");
            }
            return true;
        }
        let uptime = rt.uptime_ms();
        match self.disagrees.get() {
            Some((since, ahead)) if (ahead_ms - ahead).abs() <= DISAGREEMENT_MS_MAX => {
                if uptime - since > BELIEVED_AFTER_MS {
                    rt.log(Level::Warn, "the wall clock has kept its new time for a day and is believed now");
                    self.anchor.set(ClockGuard::read(rt));
                    self.disagrees.set(None);
                }
            }
            _ => {
                self.disagrees.set(Some((uptime, ahead_ms)));
                rt.log(
                    Level::Error,
                    format!(
                        "the wall clock moved by {} s against the uptime: time retention is paused; \
                         set the clock right (it is believed after a day)",
                        ahead_ms / 1000
                    ),
                );
            }
        }
        false
    }
}

impl Shard {
    /// Times that blocks are stamped with: the later clock, for a record's age counts from it.
    pub(super) fn block_clock(&self, drive: &Drive) -> Clock {
        Clock { wall_ms: *self.clock.range_ms(&self.rt).end(), uptime_ms: drive.uptime_ms(&self.rt) }
    }

    /// Raises log starts as the topics' retention asks. Yields between segments.
    pub(super) async fn retain(&self, drive: &Rc<Drive>) {
        // Damage keeps a checkpoint from being written, and so the clocks of this boot: ages wait for the
        // operator.
        let is_whole = drive.lanes.borrow().values().all(|lane| lane.offline.is_none());
        let by_time = (self.clock.agrees(&self.rt) && is_whole).then(|| self.clock.now_ms(&self.rt));
        let bounds = self.bounds(drive, by_time);
        if bounds.is_empty() {
            return;
        }
        let segments = by_age(drive.journal.segments(), &bounds, by_time);
        let mut found = Found::default();
        let by_bytes = |id: &PartitionId| bounds.get(id).is_some_and(|config| config.retention_bytes >= 0);
        if bounds.keys().any(by_bytes) {
            self.find(drive, &segments.fresh, by_bytes, &mut found).await;
        }
        self.find(drive, &segments.old, |id| bounds.contains_key(id), &mut found).await;
        let mut open: BTreeSet<PartitionId> = BTreeSet::new();
        let mut starts = Vec::new();
        for (id, runs) in &mut found.runs {
            match self.retained(*id, &bounds, by_time, runs) {
                Some(retained) if retained.has_gap => _ = open.insert(*id),
                Some(retained) => starts.push((*id, retained.start)),
                None => {}
            }
        }
        // What lies before an old record may lie in a segment without any: clients' timestamps go back and
        // forth.
        if !open.is_empty() {
            let missing = |id: &PartitionId| open.contains(id) && !by_bytes(id);
            self.find(drive, &segments.fresh, missing, &mut found).await;
        }
        for id in open {
            let runs = found.runs.get_mut(&id).map_or(&mut [][..], |runs| &mut runs[..]);
            let Some(retained) = self.retained(id, &bounds, by_time, runs) else { continue };
            // What no segment has is lost: it holds nothing up.
            starts.push((id, if found.is_partial { retained.start } else { retained.start_over_gaps }));
        }
        starts.sort_unstable();
        for (id, start) in starts {
            let Ok(partition) = self.partition(id) else { continue };
            if start > partition.log.borrow().log_start {
                self.raise_log_start(drive, &partition.log, start);
            }
        }
    }

    /// Partitions whose topics have a bound that can be judged now.
    fn bounds(&self, drive: &Rc<Drive>, by_time: Option<i64>) -> Bounds {
        let here = self.logs_of(drive).into_iter();
        let configured = here.filter_map(|log| Some((log.id, self.config(log.id.topic)?)));
        let bounded = configured.filter(|(_, config)| {
            config.retention_bytes >= 0 || config.retention_ms >= 0 && by_time.is_some()
        });
        bounded.collect()
    }

    fn retained(
        &self,
        id: PartitionId,
        bounds: &Bounds,
        by_time: Option<i64>,
        runs: &mut [RunRef],
    ) -> Option<Retained> {
        runs.sort_unstable_by_key(|run| run.first_offset);
        let (config, partition) = (bounds.get(&id)?, self.partition(id).ok()?);
        let log = partition.log.borrow();
        Some(retained(config, by_time, runs, log.log_start, log.visible_end))
    }

    /// Adds the runs of wanted partitions. A segment whose index cannot be read is passed over, and said so.
    async fn find(
        &self,
        drive: &Rc<Drive>,
        segments: &[Rc<Segment>],
        wanted: impl Fn(&PartitionId) -> bool,
        found: &mut Found,
    ) {
        for segment in segments {
            if let Err(error) = drive.journal.load_index(segment).await {
                found.is_partial = true;
                let (id, number) = (drive.journal.id, segment.number);
                let text = format!(
                    "journal {id} segment {number} cannot be read: {error}; retention keeps what lies behind it"
                );
                self.rt.log(Level::Warn, text);
                continue;
            }
            segment.for_each_partition(|id, runs| {
                if wanted(&id) {
                    found.runs.entry(id).or_default().extend_from_slice(runs);
                }
            });
            self.rt.yield_now().await;
        }
    }

    fn raise_log_start(&self, drive: &Rc<Drive>, log: &LogRef, start: Offset) {
        let told = drive.clone();
        drive.push_control(ControlRun::log_start(
            log,
            start,
            Box::new(move |result| {
                if result.is_ok() {
                    told.note_death();
                }
            }),
        ));
    }

    /// Writes forget runs for producers that were idle for a week of uptime.
    pub(super) fn forget_idle_producers(&self, drive: &Rc<Drive>) {
        let Some(before) = drive.uptime_ms(&self.rt).checked_sub(PRODUCER_IDLE_MS) else { return };
        let here = self.logs_of(drive).into_iter();
        let idle = here.filter_map(|log| {
            let producers = log.borrow().producers.idle_since(before);
            (!producers.is_empty()).then_some((log, producers))
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable_by_key(|(log, _)| log.id);
        for (log, producers) in idle {
            for some in producers.chunks(FORGOTTEN_MAX) {
                drive.push_control(ControlRun::forget(&log, some, before, Box::new(|_| ())));
            }
        }
    }
}

type Bounds = Map<PartitionId, Rc<TopicConfig>>;

/// Runs that were found, of the partitions that were looked for.
#[derive(Default)]
struct Found {
    runs: Map<PartitionId, Vec<RunRef>>,
    /// Some segment could not be read.
    is_partial: bool,
}

/// Segments by their oldest run.
struct ByAge {
    /// Some run is too old for some topic, or may be.
    old: Vec<Rc<Segment>>,
    /// No run is too old for any topic: without a bound by bytes they need not be loaded.
    fresh: Vec<Rc<Segment>>,
}

fn by_age(segments: Vec<Rc<Segment>>, bounds: &Bounds, by_time: Option<i64>) -> ByAge {
    let aged = bounds.values().filter(|config| config.retention_ms >= 0);
    let oldest_kept = aged.filter_map(|config| Some(by_time? - config.retention_ms)).max();
    let (old, fresh) = segments
        .into_iter()
        .partition(|segment| segment.oldest_retention().is_none_or(|oldest| Some(oldest) < oldest_kept));
    ByAge { old, fresh }
}

/// What retention makes of a partition's runs.
#[derive(Debug, PartialEq, Eq)]
struct Retained {
    /// First offset that is kept.
    start: Offset,
    /// The same if what is missing between runs is nowhere.
    start_over_gaps: Offset,
    has_gap: bool,
}

/// Runs are in order; only a prefix of them goes.
fn retained(
    config: &TopicConfig,
    now_ms: Option<i64>,
    runs: &[RunRef],
    log_start: Offset,
    visible_end: Offset,
) -> Retained {
    let live = |run: &&RunRef| run.end_offset() > log_start && run.end_offset() <= visible_end;
    let mut bytes: u64 = runs.iter().filter(live).map(|run| u64::from(run.length)).sum();
    let mut retained = Retained { start: log_start, start_over_gaps: log_start, has_gap: false };
    for run in runs.iter().filter(live) {
        let too_old = match now_ms {
            Some(now) if config.retention_ms >= 0 => run.retention_time < now - config.retention_ms,
            _ => false,
        };
        // As in Kafka the bound is a floor: a run goes only if what stays still reaches it.
        let too_much = config.retention_bytes >= 0
            && bytes.saturating_sub(u64::from(run.length)) >= config.retention_bytes as u64;
        if !too_old && !too_much {
            break;
        }
        bytes -= u64::from(run.length);
        retained.has_gap |= run.first_offset > retained.start_over_gaps;
        retained.start_over_gaps = run.end_offset();
        if !retained.has_gap {
            retained.start = run.end_offset();
        }
    }
    retained
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_offset: Offset, time: i64) -> RunRef {
        RunRef {
            first_offset,
            max_timestamp: time,
            retention_time: time,
            records: 10,
            address: 0,
            length: 100,
            lost: false,
        }
    }

    #[test]
    fn only_a_prefix_expires() {
        let runs = [run(0, 50), run(10, 200), run(20, 60)];
        let mut config = TopicConfig { retention_ms: 100, ..TopicConfig::default() };
        let start = |config: &TopicConfig, now, log_start, end| {
            let retained = retained(config, now, &runs, log_start, end);
            assert!(!retained.has_gap && retained.start == retained.start_over_gaps);
            retained.start
        };
        assert_eq!(start(&config, Some(200), 0, 30), 10);
        assert_eq!(start(&config, None, 0, 30), 0);
        assert_eq!(start(&config, Some(1_000), 5, 20), 20);
        config.retention_ms = -1;
        config.retention_bytes = 150;
        assert_eq!(start(&config, Some(1_000), 0, 30), 10);
        assert_eq!(start(&config, Some(1_000), 10, 30), 10);
    }

    #[test]
    fn nothing_expires_behind_a_gap_unless_it_is_known_to_be_one() {
        let config = TopicConfig { retention_ms: 100, ..TopicConfig::default() };
        let runs = [run(0, 50), run(20, 60)];
        let wanted = Retained { start: 10, start_over_gaps: 30, has_gap: true };
        assert_eq!(retained(&config, Some(200), &runs, 0, 30), wanted);
        let wanted = Retained { start: 15, start_over_gaps: 30, has_gap: true };
        assert_eq!(retained(&config, Some(200), &runs, 15, 30), wanted);
        let fresh = [run(0, 150), run(20, 60)];
        assert!(!retained(&config, Some(200), &fresh, 0, 30).has_gap);
    }
}
