//! A case: a load, compared with its roofline in rounds that take turns.
//!
//! Owner: ringbench's parent process. What drifts while we measure hits both alike: the order changes
//! from pair to pair (A B, B A, ...), medians count, and a set whose null spreads by more than 5 % is
//! measured again, once.

use crate::ceiling;
use crate::cli::Load;
use crate::commands::blocking;
use crate::figures::{Figures, get, put, ratio, summarise};
use crate::process::now_ns;
use crate::progress::say;
use crate::rig::{self, Rig};
use crate::round;
use crate::row::{Goal, Row};
use crate::server::Subject;
use crate::stats::{SPREAD_MAX, spread};
use crate::units::{bytes_text, grouped};
use crate::values::value_bytes;

/// What null sends from memory at most, however much is read cold.
const NULL_READ_BYTES: u64 = 1 << 30;

/// What the kernel's own threads may take for our disk and network without a word.
const OTHER_CORES_MAX: f64 = 0.3;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Produce,
    /// Producers and consumers at once.
    Both,
    /// Reads so many bytes from the tail.
    Tail {
        bytes: u64,
    },
    /// Reads so many bytes after a restart with a memory budget.
    Cold {
        bytes: u64,
        budget: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub kind: Kind,
    pub load: Load,
    pub goals: Vec<Goal>,
}

/// Who is measured in which order.
pub fn order(pairs: u32, with_null: bool) -> Vec<Subject> {
    (0..pairs).flat_map(|number| pair(number, with_null)).copied().collect()
}

/// The order of one pair.
pub fn pair(number: u32, with_null: bool) -> &'static [Subject] {
    match (with_null, number % 2) {
        (false, _) => &[Subject::Broker],
        (true, 0) => &[Subject::Null, Subject::Broker],
        (true, _) => &[Subject::Broker, Subject::Null],
    }
}

/// `produce 1 KiB, 16 partitions, 4 producers`.
pub fn name(what: &str, kind: Kind, load: &Load) -> String {
    let count = |count: u32, what: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!(", {} {what}{plural}", grouped(count.into()))
    };
    let mut name = format!("{what} {}{}", bytes_text(load.size.0), count(load.partitions, "partition"));
    if load.producers > 1 && load.single.is_none() {
        name.push_str(&count(load.producers, "producer"));
    }
    if load.consumers > 1 && kind != Kind::Produce {
        name.push_str(&count(load.consumers, "consumer"));
    }
    if let Some(shards) = load.place.shards {
        name.push_str(&count(shards, "shard"));
    }
    name
}

impl Case {
    pub fn new(what: &str, kind: Kind, load: Load) -> Case {
        Case { name: name(what, kind, &load), kind, load, goals: Vec::new() }
    }

    pub fn goals(mut self, goals: impl Into<Vec<Goal>>) -> Case {
        self.goals = goals.into();
        self
    }

    /// Measures it; what cannot be measured is a row that says why.
    pub async fn judged(self) -> Row {
        let told = self.run().await;
        Row::judged(&self.name, self.goals, told)
    }

    /// Measures it. What cannot be measured is an error; records that failed are figures.
    pub async fn run(&self) -> Result<Row, String> {
        let mut rounds = self.set().await?;
        let (wide, mut other) = (null_spread(&rounds), Vec::new());
        let in_time = self.load.place.again_until_ns.is_none_or(|until| now_ns() < until);
        if wide > SPREAD_MAX && in_time {
            say(&format!("{}: null spread by {:.0} %: measured again", self.name, wide * 100.0));
            other = self.set().await?;
            if null_spread(&other) < wide {
                std::mem::swap(&mut rounds, &mut other);
            }
        }
        let mut row = Row::new(&self.name[..], summarise(&rounds));
        row.metrics.insert("measured_again".into(), (!other.is_empty()).into());
        // Of the set that does not count, what went wrong does.
        row.add_errors(&other);
        if wide > SPREAD_MAX && !in_time {
            row.notes.push(format!("null spread by {:.0} %: no time to measure it again", wide * 100.0));
        }
        self.describe(&mut row);
        if let Kind::Cold { bytes, .. } = self.kind {
            self.add_disk_roofline(&mut row, bytes.min(ceiling::READ_FILE_BYTES)).await?;
        }
        rounds.extend(other);
        tell(&mut row, &rounds);
        Ok(row)
    }

    async fn set(&self) -> Result<Vec<Figures>, String> {
        match self.kind {
            Kind::Produce => self.loads(false).await,
            Kind::Both => self.loads(true).await,
            Kind::Tail { bytes } => self.reads(bytes, bytes, None).await,
            Kind::Cold { bytes, budget } => self.reads(bytes, bytes.min(NULL_READ_BYTES), Some(budget)).await,
        }
    }

    fn order(&self) -> Vec<Subject> {
        order(self.load.place.pairs, self.load.place.broker.is_none())
    }

    fn title(&self, number: usize, count: usize, subject: Subject) -> String {
        format!("{}: round {} of {count}, {}", self.name, number + 1, subject.name())
    }

    /// Every round on a server of its own, in an empty folder.
    async fn loads(&self, with_consumers: bool) -> Result<Vec<Figures>, String> {
        let order = self.order();
        let mut rounds = Vec::new();
        for (number, subject) in order.iter().enumerate() {
            let title = self.title(number, order.len(), *subject);
            rounds.push(round::run(&title, *subject, &self.load, with_consumers).await?);
        }
        Ok(rounds)
    }

    /// Both servers are filled once, and then read in turn; a broker that is to be cold restarts
    /// before each round.
    async fn reads(&self, bytes: u64, null_bytes: u64, budget: Option<u64>) -> Result<Vec<Figures>, String> {
        if self.load.place.broker.is_some() && budget.is_some() {
            return Err("--cold restarts the broker: it must be started here, without --broker".into());
        }
        let load = &self.load;
        let mut setup = rig::setup(load, true);
        setup.keep = u64::MAX;
        setup.store = null_bytes + null_bytes / 4;
        let order = self.order();
        let mut broker = Rig::start(Subject::Broker, load, &setup, None).await?;
        let filled = round::fill(&format!("{}: fill", self.name), &broker, load, bytes).await?;
        let null = match order.contains(&Subject::Null) {
            true => Some(Rig::start(Subject::Null, load, &setup, None).await?),
            false => None,
        };
        let mut null_filled = 0;
        if let Some(null) = &null {
            null_filled = round::fill(&format!("{}: fill null", self.name), null, load, null_bytes).await?;
        }
        let mut rounds = Vec::new();
        for (number, subject) in order.iter().enumerate() {
            let title = self.title(number, order.len(), *subject);
            let (rig, records) = match (subject, &null) {
                (Subject::Null, Some(null)) => (null, null_filled),
                _ => (&broker, filled),
            };
            rounds.push(round::read(&title, rig, *subject, load, records).await?);
            let next_is_broker = order.get(number + 1) == Some(&Subject::Broker);
            if next_is_broker {
                self.cool(&mut broker, budget).await?;
            }
        }
        broker.stop().await?;
        if let Some(null) = null {
            null.stop().await?;
        }
        Ok(rounds)
    }

    async fn cool(&self, broker: &mut Rig, budget: Option<u64>) -> Result<(), String> {
        let Some(budget) = budget else { return Ok(()) };
        let Some(server) = &mut broker.server else { return Ok(()) };
        let mut settings = self.load.place.settings.clone();
        settings.push(format!("memory.bytes={budget}"));
        server.restart(settings).await
    }

    /// Cold reads are bounded by the disk as well.
    async fn add_disk_roofline(&self, row: &mut Row, bytes: u64) -> Result<(), String> {
        let (time, dir) = (self.load.duration.0.min(ceiling::DURATION), self.load.place.dir());
        let (disk, _) = blocking(move || ceiling::disk_reads(&dir, time, bytes)).await?;
        let null = get(&row.metrics, "null_bytes_per_second");
        let least = null.map_or(disk, |null| null.min(disk));
        let own = get(&row.metrics, "bytes_per_second");
        put(&mut row.metrics, "disk_read_bytes_per_second", Some(disk));
        put(&mut row.metrics, "eta", ratio(own, Some(least)));
        row.notes.push(format!(
            "reading the disk directly: {:.0} MB/s; eta is to the smaller of it and null",
            disk / 1e6
        ));
        Ok(())
    }

    /// What was asked for, beside the figures.
    fn describe(&self, row: &mut Row) {
        let load = &self.load;
        let mut tell = |name: &str, value: serde_json::Value| row.metrics.insert(name.into(), value);
        tell("record_bytes", value_bytes(load.size.0).into());
        tell("partitions", load.partitions.into());
        tell("producers", load.single.unwrap_or(load.producers).into());
        let consumers = if self.kind == Kind::Produce { 0 } else { load.consumers };
        tell("consumers", consumers.into());
        tell("memory_bytes", load.memory.0.into());
        tell("linger_ms", (load.linger().as_secs_f64() * 1000.0).into());
        tell("batch_bytes", load.batch().0.into());
        tell("shards", load.place.shards.into());
        if matches!(self.kind, Kind::Produce | Kind::Both) {
            tell("rate", load.rate.into());
            tell("seconds", load.duration.0.as_secs_f64().into());
        }
    }
}

/// What a person should know of rounds beside their figures: the first error, what reading back found,
/// company.
pub fn tell(row: &mut Row, rounds: &[Figures]) {
    row.notes.extend(rounds.iter().find_map(|round| round.first_error.clone()));
    tell_verified(row, rounds);
    tell_others(row);
}

/// A machine that does something else at the same time measures that as well.
fn tell_others(row: &mut Row) {
    let cores = get(&row.metrics, "other_cores").unwrap_or(0.0);
    if cores > OTHER_CORES_MAX {
        row.notes.push(format!("DISTURBED: something else took {cores:.1} cores meanwhile"));
    }
}

/// What reading back found.
fn tell_verified(row: &mut Row, rounds: &[Figures]) {
    for verified in rounds.iter().filter_map(|round| round.verified.as_ref()) {
        let note = match verified {
            Ok(records) => format!("verified: {records} records, each once, in order and unchanged"),
            Err(error) => {
                row.metrics.insert("not_verified".into(), error.clone().into());
                format!("NOT VERIFIED: {error}")
            }
        };
        row.notes.push(note);
        let all = !row.metrics.contains_key("not_verified");
        put(&mut row.metrics, "verified", Some(f64::from(u8::from(all))));
    }
}

fn null_spread(rounds: &[Figures]) -> f64 {
    let nulls = rounds.iter().filter(|round| round.subject == Subject::Null);
    spread(&nulls.map(Figures::bytes_per_second).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_changes_from_pair_to_pair() {
        let (a, b) = (Subject::Null, Subject::Broker);
        assert_eq!(order(2, true), [a, b, b, a]);
        assert_eq!(order(3, true), [a, b, b, a, a, b]);
        assert_eq!(order(2, false), [b, b]);
    }
}
