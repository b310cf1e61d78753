//! What a seed decides about a schedule before it begins.
//!
//! Floor 6. Plain values, drawn in one place so that a schedule can be read off its plan.

use std::time::Duration;

use super::topics::{Role, TopicPlan};
use crate::rt::Random;
use crate::rt::sim::{CrashKind, CrashPlan, Faults};

/// What makes this schedule hard. All have crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// Nothing but crashes.
    Crashes,
    /// A network that delays, refuses and cuts.
    Network,
    /// A disk that stalls.
    SlowDisk,
    /// Writes and flushes that fail.
    DiskErrors,
    /// A disk that fills up, and has space again at the end.
    FullDisk,
    /// Bits that flip while the broker is down.
    Damage,
    /// A wall clock that jumps.
    Clock,
}

const THEMES: [Theme; 9] = [
    Theme::Crashes,
    Theme::Crashes,
    Theme::Crashes,
    Theme::Network,
    Theme::SlowDisk,
    Theme::DiskErrors,
    Theme::FullDisk,
    Theme::Damage,
    Theme::Clock,
];

/// Steps whose names begin so belong to one procedure.
const PROCEDURES: [&str; 10] =
    ["seal", "checkpoint", "rewrite", "remove", "recover", "twinlog", "allocate", "metadata", "broker", ""];

/// Steps that chance alone hardly crashes at, each behind the crash in the life before that leads to it.
const RARE: [(Option<&str>, &str); 8] = [
    (Some("remove.noted"), "recover.unlinked"),
    (Some("allocate.created"), "recover.removal_noted"),
    (Some("twinlog.header_written"), "twinlog.copy_written"),
    (None, "twinlog.snapshot_group_written"),
    (None, "twinlog.snapshot_flushed"),
    (None, "twinlog.snapshot_done"),
    (None, "index.loaded"),
    (None, "ahead.zeroed"),
];

/// One life of the broker.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub shards: u32,
    pub crash: CrashPlan,
    /// If the crash has not come by then, it comes now.
    pub length: Duration,
    /// Ends by a graceful stop instead.
    pub graceful: bool,
    /// Crashes at the moment when a client hears of its so many-th success.
    pub provoked_after: Option<u32>,
    pub clock_jump_ms: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub theme: Theme,
    pub faults: Faults,
    /// After the first life the disk has only so much space left.
    pub spare_bytes: Option<u64>,
    pub topics: Vec<TopicPlan>,
    pub producers: u32,
    pub records_each: u32,
    pub consumers: u32,
    pub lives: Vec<Life>,
}

impl Plan {
    pub(super) fn new(random: &mut Random, focus: Focus) -> Plan {
        let drawn = THEMES[random.below(THEMES.len() as u64) as usize];
        let theme = focus.theme.unwrap_or(drawn);
        let lives = 2 + random.below(5);
        let mut plan = Plan {
            theme,
            faults: faults(theme, random),
            spare_bytes: (theme == Theme::FullDisk).then(|| random.below(16) * (64 << 10)),
            topics: topics(random),
            producers: 1 + random.below(3) as u32,
            records_each: 40 + random.below(120) as u32,
            consumers: 1 + random.below(2) as u32,
            lives: (0..lives).map(|_| life(theme, random)).collect(),
        };
        if random.chance(150_000) {
            plan.aim(RARE[random.below(RARE.len() as u64) as usize], random);
        }
        if let Some(step) = focus.power_cut_at {
            for life in &mut plan.lives {
                let at_step = Some((step.to_owned(), 1 + random.below(8)));
                life.crash = CrashPlan { kind: CrashKind::Power, at_step, ..CrashPlan::default() };
            }
        }
        plan
    }

    /// Makes one life crash at `step`, and the one before it where that leads there.
    fn aim(&mut self, (before, step): (Option<&str>, &str), random: &mut Random) {
        let life = 1 + random.below(self.lives.len() as u64 - 1) as usize;
        if let Some(before) = before {
            self.lives[life - 1].crash_at(before, 1 + random.below(8));
        }
        self.lives[life].crash_at(step, 1 + random.below(3));
    }
}

impl Life {
    fn crash_at(&mut self, step: &str, visit: u64) {
        let at_step = Some((step.to_owned(), visit));
        self.crash = CrashPlan { kind: self.crash.kind, at_step, ..CrashPlan::default() };
        self.length = Duration::from_millis(2000);
        self.graceful = false;
        self.provoked_after = None;
    }
}

/// Where a deliberate bug is likely to show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Focus {
    pub theme: Option<Theme>,
    /// Every life ends by a power cut at this step, at one of its first visits.
    pub power_cut_at: Option<&'static str>,
}

fn faults(theme: Theme, random: &mut Random) -> Faults {
    let mut faults = Faults::default();
    match theme {
        Theme::Network => {
            faults.net_cut_ppm = random.below(30_000) as u32;
            faults.net_delay_ppm = random.below(30_000) as u32;
            faults.net_refuse_ppm = random.below(300_000) as u32;
            faults.net_partial_ppm = 400_000;
        }
        Theme::SlowDisk => {
            faults.disk_us = (100, 100 + random.below(20_000));
            faults.disk_stall_ppm = random.below(150_000) as u32;
        }
        Theme::DiskErrors => {
            faults.write_error_ppm = random.below(2_000) as u32;
            faults.flush_error_ppm = random.below(4_000) as u32;
            faults.read_error_ppm = random.below(200) as u32;
        }
        _ => faults.net_cut_ppm = random.below(2_000) as u32,
    }
    faults
}

fn topics(random: &mut Random) -> Vec<TopicPlan> {
    let mut topics = Vec::new();
    for role in [Role::Keep, Role::Trim, Role::Size, Role::Churn] {
        if role == Role::Keep || random.chance(600_000) {
            let partitions = 1 + random.below(3) as u32;
            topics.push(TopicPlan { name: format!("{role:?}").to_lowercase(), role, partitions });
        }
    }
    topics
}

fn life(theme: Theme, random: &mut Random) -> Life {
    let kind = if random.chance(500_000) { CrashKind::Kill } else { CrashKind::Power };
    let mut crash = CrashPlan { kind, ..CrashPlan::default() };
    match random.below(5) {
        // Early enough to fall into the recovery.
        0 => crash.after_operations = Some(random.below(80)),
        1 => crash.after_operations = Some(random.below(1200)),
        2 | 3 => {
            let procedure = PROCEDURES[random.below(PROCEDURES.len() as u64) as usize];
            crash.step_prefix = Some(procedure.to_owned());
            crash.step_ppm = 10_000 + random.below(400_000) as u32;
        }
        _ => (),
    }
    // A jump and a power cut together cannot be told from a long rest, so the clock theme only kills.
    let mut clock_jump_ms = 0;
    if theme == Theme::Clock {
        crash.kind = CrashKind::Kill;
        let week = 7 * 24 * 3600 * 1000 + 1000;
        clock_jump_ms = [week, -week, 3 * week, -3 * week][random.below(4) as usize];
    }
    Life {
        shards: 1 + random.below(4) as u32,
        crash,
        length: Duration::from_millis(50 + random.below(1500)),
        graceful: random.chance(200_000),
        provoked_after: random.chance(250_000).then(|| random.below(40) as u32),
        clock_jump_ms,
    }
}
