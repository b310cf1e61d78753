//! Retention by time and size, forgetting of idle producers, and the clock they may believe.
//!
//! Floor 5. Owner: the shard. Retention only ever writes log-start runs; files follow later.
//! A record's age counts from the earlier of its own timestamp and its append time.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use super::Shard;
use super::control_runs::{ControlRun, FORGOTTEN_MAX};
use super::drive::Drive;
use crate::base::Map;
use crate::format::footer::RunRef;
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

/// Compares the wall clock with the machine's uptime, across restarts of the broker too: a clock that
/// was set a week ahead by mistake must not expire a week of records.
pub(super) struct ClockGuard {
    anchor: Cell<Seen>,
    /// Uptime at which the present disagreement began, and how large it is.
    disagrees: Cell<Option<(i64, i64)>>,
}

impl ClockGuard {
    pub fn new(rt: &Rt) -> ClockGuard {
        ClockGuard { anchor: Cell::new(ClockGuard::read(rt)), disagrees: Cell::new(None) }
    }

    pub fn read(rt: &Rt) -> Seen {
        Seen { wall_ms: rt.wall_ms(), boot_id: rt.boot_id(), uptime_ms: rt.uptime_ms() }
    }

    /// Clocks that an earlier broker wrote down. Within one boot they bind; whether they are of this one.
    pub fn saw(&mut self, rt: &Rt, seen: Seen) -> bool {
        let anchor = self.anchor.get();
        let binds = seen.boot_id == rt.boot_id();
        if binds && seen.uptime_ms <= anchor.uptime_ms {
            self.anchor.set(seen);
        }
        binds
    }

    /// For the next start to compare with: the clocks that are believed, not a wall clock that is off.
    pub fn seen(&self, rt: &Rt) -> Seen {
        Seen { wall_ms: self.now_ms(rt), ..ClockGuard::read(rt) }
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
    /// Times that blocks are stamped with.
    pub(super) fn block_clock(&self, drive: &Drive) -> Clock {
        Clock { wall_ms: self.clock.now_ms(&self.rt), uptime_ms: drive.uptime_ms(&self.rt) }
    }

    /// Raises log starts as the topics' retention asks. Yields between segments.
    pub(super) async fn retain(&self, drive: &Rc<Drive>) -> io::Result<()> {
        let by_time = self.clock.agrees(&self.rt).then(|| self.clock.now_ms(&self.rt));
        let mut runs = self.runs_of_retained(drive, by_time).await?;
        let mut ids: Vec<_> = runs.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let (Some(config), Ok(partition)) = (self.config(id.topic), self.partition(id)) else { continue };
            let Some(mut of_partition) = runs.remove(&id) else { continue };
            of_partition.sort_unstable_by_key(|run| run.first_offset);
            let (log_start, visible_end) = {
                let log = partition.log.borrow();
                (log.log_start, log.visible_end)
            };
            let start = retained_start(&config, by_time, &of_partition, log_start, visible_end);
            if start > log_start {
                self.raise_log_start(drive, &partition.log, start);
            }
        }
        Ok(())
    }

    /// The runs of each partition that may have something to expire.
    async fn runs_of_retained(
        &self,
        drive: &Rc<Drive>,
        by_time: Option<i64>,
    ) -> io::Result<Map<PartitionId, Vec<RunRef>>> {
        let bounds: Map<PartitionId, Rc<TopicConfig>> = {
            let here = self.logs_of(drive).into_iter();
            let configured = here.filter_map(|log| Some((log.id, self.config(log.id.topic)?)));
            let bounded = configured.filter(|(_, config)| {
                config.retention_bytes >= 0 || config.retention_ms >= 0 && by_time.is_some()
            });
            bounded.collect()
        };
        let mut runs: Map<PartitionId, Vec<RunRef>> = Map::default();
        if bounds.is_empty() {
            return Ok(runs);
        }
        let by_age = bounds.values().filter(|config| config.retention_ms >= 0);
        let oldest_kept = by_age.filter_map(|config| Some(by_time? - config.retention_ms)).max();
        let by_bytes = bounds.values().any(|config| config.retention_bytes >= 0);
        for segment in drive.journal.segments() {
            // A segment without a run old enough for any topic is not even loaded.
            let expires = segment.oldest_retention().is_none_or(|oldest| Some(oldest) < oldest_kept);
            if !expires && !by_bytes {
                continue;
            }
            drive.journal.load_index(&segment).await?;
            segment.for_each_partition(|id, of_partition| {
                let wanted = bounds.get(&id).is_some_and(|config| expires || config.retention_bytes >= 0);
                if wanted {
                    runs.entry(id).or_default().extend_from_slice(of_partition);
                }
            });
            self.rt.yield_now().await;
        }
        Ok(runs)
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
                drive.push_control(ControlRun::forget(&log, some, Box::new(|_| ())));
            }
        }
    }
}

/// First offset that is kept. Runs are in order; only a prefix of them goes.
fn retained_start(
    config: &TopicConfig,
    now_ms: Option<i64>,
    runs: &[RunRef],
    log_start: Offset,
    visible_end: Offset,
) -> Offset {
    let live = |run: &&RunRef| run.end_offset() > log_start && run.end_offset() <= visible_end;
    let mut bytes: u64 = runs.iter().filter(live).map(|run| u64::from(run.length)).sum();
    let mut start = log_start;
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
        start = run.end_offset();
    }
    start
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
        assert_eq!(retained_start(&config, Some(200), &runs, 0, 30), 10);
        assert_eq!(retained_start(&config, None, &runs, 0, 30), 0);
        assert_eq!(retained_start(&config, Some(1_000), &runs, 5, 20), 20);
        config.retention_ms = -1;
        config.retention_bytes = 150;
        assert_eq!(retained_start(&config, Some(1_000), &runs, 0, 30), 10);
        assert_eq!(retained_start(&config, Some(1_000), &runs, 10, 30), 10);
    }
}
