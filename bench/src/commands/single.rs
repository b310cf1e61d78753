//! `null`, `produce`, `consume` and `prodcons`: one case each.
//!
//! Owner: ringbench's parent process.

use crate::case::{self, Case, Kind, tell};
use crate::ceiling;
use crate::cli::{Consume, Load};
use crate::figures::{get, put, ratio, summarise};
use crate::progress::{say, show};
use crate::round;
use crate::row::{Row, at_least};
use crate::server::Subject;
use crate::stats::median;
use crate::units::{grouped, short};

use super::{blocking, finish};

/// What null must reach of the smaller ceiling, or eta means nothing.
const NULL_SHARE: f64 = 0.8;

pub async fn produce(load: &Load) -> Result<(), String> {
    one(Case::new("produce", Kind::Produce, load.clone())).await
}

pub async fn prodcons(load: &Load) -> Result<(), String> {
    one(Case::new("prodcons", Kind::Both, load.clone())).await
}

pub async fn consume(options: &Consume) -> Result<(), String> {
    let (load, bytes) = (&options.load, options.bytes().0);
    let (what, kind) = match options.cold {
        true => ("consume cold", Kind::Cold { bytes, budget: options.budget.0 }),
        false => ("consume tail", Kind::Tail { bytes }),
    };
    one(Case::new(what, kind, load.clone())).await
}

async fn one(case: Case) -> Result<(), String> {
    let row = case.run().await?;
    let json = case.load.place.json;
    if !json {
        print_details(&row);
    }
    finish(&[row], json)
}

/// What the table has no room for.
pub fn print_details(row: &Row) {
    let of = |name: &str| get(&row.metrics, name);
    for (prefix, what) in
        [("", "to acknowledgement"), ("end_to_end_", "end to end"), ("late_", "generator late")]
    {
        let cells: Vec<String> = crate::figures::QUANTILES
            .iter()
            .filter_map(|(name, _)| Some((name, of(&format!("{prefix}{name}_us"))?)))
            .map(|(name, us)| {
                format!("{} {}", name.replacen('_', ".", 1).replace('_', ""), short(us / 1000.0))
            })
            .collect();
        if !cells.is_empty() {
            show(&format!("{what}, ms: {}\n", cells.join(", ")));
        }
    }
    if let (Some(read), Some(eta)) = (of("consumed_bytes_per_second"), of("consumed_eta")) {
        show(&format!("consumed: {} MB/s, eta {eta:.2}\n", grouped(read / 1e6)));
    }
}

pub async fn null(load: &Load) -> Result<(), String> {
    let row = null_row(load).await?;
    if !load.place.json {
        print_details(&row);
    }
    finish(&[row], load.place.json)
}

/// The roofline beside the ceilings of the machine.
pub async fn null_row(load: &Load) -> Result<Row, String> {
    let (mut disks, mut loopbacks, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..load.place.pairs {
        // In turn: a machine that is slower for a while is so for all three.
        let (dir, time) = (load.place.dir(), ceiling::DURATION);
        say("what the disk and the loopback do by themselves");
        disks.push(blocking(move || ceiling::disk_write(&dir, time)).await?);
        loopbacks.push(blocking(move || ceiling::loopback(time)).await?);
        let title = format!("null: round {} of {}", number + 1, load.place.pairs);
        rounds.push(round::run(&title, Subject::Null, load, false).await?);
    }
    let (disk, loopback) = (median(&disks).unwrap_or(0.0), median(&loopbacks).unwrap_or(0.0));
    let mut row = Row::new(case::name("null", Kind::Produce, load), summarise(&rounds));
    let least = disk.min(loopback);
    let share = ratio(get(&row.metrics, "bytes_per_second"), Some(least));
    put(&mut row.metrics, "disk_write_bytes_per_second", Some(disk));
    put(&mut row.metrics, "loopback_bytes_per_second", Some(loopback));
    put(&mut row.metrics, "share_of_the_smaller", share);
    row.goals.push(at_least("share_of_the_smaller", NULL_SHARE));
    row.notes.push(format!(
        "disk {} MB/s, loopback {} MB/s; null reaches {:.2} of the smaller",
        grouped(disk / 1e6),
        grouped(loopback / 1e6),
        share.unwrap_or(0.0)
    ));
    tell(&mut row, &rounds);
    Ok(row)
}
