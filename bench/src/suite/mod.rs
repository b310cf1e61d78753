//! `suite`: everything that is to be reached, as rows of one table.
//!
//! Owner: ringbench's parent process. A group is a function that gives rows; one that cannot be measured
//! is a row that says why, and the others go on.

mod hostile;
mod latency;
mod longrun;
mod memory;
mod neighbours;
mod partitions;
mod restart;
mod throughput;

use std::time::Duration;

use crate::cli::{Keys, Load, Place, Suite};
use crate::commands::{judge, single};
use crate::process::now_ns;
use crate::progress::{print, say, show};
use crate::row::{Row, table};
use crate::units::{Bytes, Span};

/// What all groups share.
pub struct Plan {
    pub quick: bool,
    pub pairs: u32,
    pub duration: Duration,
    /// Sets that spread are measured again until here; then the rest of the suite needs the time.
    again_until_ns: u64,
    pub options: Suite,
}

/// Names of the groups, in the order of the table.
const GROUPS: [&str; 16] = [
    "null",
    "produce-1KiB",
    "produce-100B",
    "shapes",
    "verify",
    "prodcons",
    "tail",
    "cold",
    "partitions",
    "latency",
    "neighbours",
    "wanderers",
    "restart",
    "memory",
    "hostile",
    "longrun",
];

impl Plan {
    fn new(options: &Suite) -> Plan {
        let quick = options.quick;
        let duration = options.duration.map_or(Duration::from_secs(if quick { 2 } else { 8 }), |span| span.0);
        let pairs = options.pairs.unwrap_or(if quick { 2 } else { 5 });
        let again = Duration::from_secs(60 * if quick { 6 } else { 35 });
        let again_until_ns = now_ns() + again.as_nanos() as u64;
        Plan { quick, pairs, duration, again_until_ns, options: options.clone() }
    }

    /// The load that the rows begin with: uniform keys, 64 MiB of client memory, linger 5 ms.
    pub fn load(&self) -> Load {
        let standard = Load::standard();
        let place = Place {
            dir: self.options.dir.clone(),
            pairs: self.pairs,
            again_until_ns: Some(self.again_until_ns),
            ..standard.place
        };
        let warm_up = Span(Duration::from_millis(if self.quick { 500 } else { 1000 }));
        Load { place, warm_up, duration: Span(self.duration), keys: Keys::Uniform, ..standard }
    }

    /// An amount, or what of it a quick run has.
    pub fn amount<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }

    pub fn bytes(&self, whole: u64, quick: u64) -> Bytes {
        Bytes(self.amount(whole, quick))
    }

    async fn group(&self, name: &str) -> Result<Vec<Row>, String> {
        match name {
            "null" => single::null_row(&self.load()).await.map(|row| vec![row]),
            "produce-1KiB" => throughput::produce_large(self).await,
            "produce-100B" => throughput::produce_small(self).await,
            "shapes" => throughput::shapes(self).await,
            "verify" => throughput::verify(self).await,
            "prodcons" => throughput::both(self).await,
            "tail" => throughput::tail(self).await,
            "cold" => throughput::cold(self).await,
            "partitions" => partitions::run(self).await,
            "latency" => latency::run(self).await,
            "neighbours" => neighbours::beside_a_large_one(self).await,
            "wanderers" => neighbours::beside_old_readers(self).await,
            "restart" => restart::run(self).await,
            "memory" => memory::run(self).await,
            "hostile" => hostile::run(self).await,
            "longrun" => longrun::run(self).await,
            _ => Err("there is no such group".into()),
        }
    }
}

pub async fn run(options: &Suite) -> Result<(), String> {
    let wanted =
        |name: &&str| options.only.is_empty() || options.only.iter().any(|word| name.contains(&word[..]));
    let groups: Vec<&str> = GROUPS.into_iter().filter(wanted).collect();
    if options.list {
        groups.iter().for_each(|name| show(&format!("{name}\n")));
        return Ok(());
    }
    if groups.is_empty() {
        return Err(format!("no group has such a name; there are {}", GROUPS.join(", ")));
    }
    let plan = Plan::new(options);
    let start = now_ns();
    let mut rows: Vec<Row> = Vec::new();
    for (number, name) in groups.iter().enumerate() {
        let minutes = (now_ns() - start) as f64 / 60e9;
        say(&format!("group {} of {}: {name} ({minutes:.1} minutes so far)", number + 1, groups.len()));
        let of_group = match plan.group(name).await {
            Ok(rows) => rows,
            Err(why) => vec![Row::failed(*name, Vec::new(), &why)],
        };
        for row in &of_group {
            if options.json {
                show(&format!("{}\n", row.json()));
            }
            // What is known already survives an interruption.
            say(&line(row));
        }
        rows.extend(of_group);
    }
    let text = table(&rows);
    if options.json {
        print(&text);
    } else {
        show(&text);
    }
    let (reached, all) = count(&rows);
    let minutes = (now_ns() - start) as f64 / 60e9;
    say(&format!("{reached} of {all} rows reached what they were to reach, in {minutes:.1} minutes"));
    judge(&rows)
}

fn line(row: &Row) -> String {
    let reached = match row.reached() {
        Some(true) => ": reached",
        Some(false) => ": NOT reached",
        None => "",
    };
    format!("  {}{reached} {}", row.case, row.verdicts())
}

fn count(rows: &[Row]) -> (usize, usize) {
    let judged: Vec<bool> = rows.iter().filter_map(Row::reached).collect();
    (judged.iter().filter(|reached| **reached).count(), judged.len())
}
