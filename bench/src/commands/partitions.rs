//! `partitions`: throughput over the number of partitions.
//!
//! Owner: ringbench's parent process. What drifts hits all alike: the numbers are measured in turn, up
//! and then down again.

use std::path::Path;

use serde_json::json;

use super::finish;
use crate::case::{self, tell};
use crate::cli::{Keys, Load, Partitions};
use crate::figures::{Figures, get, put, ratio, summarise};
use crate::plot::{Axis, Line, Plot};
use crate::round;
use crate::row::Row;
use crate::units::{Bytes, bytes_text, grouped};

/// Batches of the comparison, unless others were asked for.
const BATCH: Bytes = Bytes(16 << 10);

pub async fn run(options: &Partitions) -> Result<(), String> {
    let mut load = options.load.clone();
    if load.keys == Keys::None {
        load.batch = load.batch.or(Some(BATCH));
    }
    let rows = measure(&load, &options.counts).await?;
    if let Some(dir) = &options.plots {
        plot(&rows, dir)?;
    }
    finish(&rows, load.place.json)
}

/// A row for each number of partitions, with its ratio to the first.
pub async fn measure(load: &Load, counts: &[u32]) -> Result<Vec<Row>, String> {
    let mut rounds: Vec<Vec<Figures>> = counts.iter().map(|_| Vec::new()).collect();
    for pair in 0..load.place.pairs {
        let mut order: Vec<usize> = (0..counts.len()).collect();
        if pair % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let load = Load { partitions: counts[index], ..load.clone() };
            for subject in case::pair(pair, load.place.broker.is_none()) {
                let count = grouped(counts[index].into());
                let (number, of, who) = (pair + 1, load.place.pairs, subject.name());
                let title = format!("{count} partitions: round {number} of {of}, {who}");
                rounds[index].push(round::run(&title, *subject, &load, false).await?);
            }
        }
    }
    let mut rows = Vec::new();
    let mut first = None;
    for (count, rounds) in counts.iter().zip(&rounds) {
        let keyed = if load.keys == Keys::None { "" } else { ", keyed" };
        let batches = bytes_text(load.batch().0);
        let name = format!("{} partitions, {batches} batches{keyed}", grouped((*count).into()));
        let mut row = Row::new(name, summarise(rounds));
        let rate = get(&row.metrics, "bytes_per_second");
        first = first.or(rate);
        put(&mut row.metrics, "share_of_first", ratio(rate, first));
        row.metrics.insert("partitions".into(), json!(count));
        if let Some(share) = ratio(rate, first) {
            row.notes.push(format!("{share:.2} of the throughput at {}", grouped(counts[0].into())));
        }
        tell(&mut row, rounds);
        rows.push(row);
    }
    Ok(rows)
}

pub fn plot(rows: &[Row], dir: &Path) -> Result<(), String> {
    let points = rows.iter().filter_map(|row| {
        Some((get(&row.metrics, "partitions")?, get(&row.metrics, "bytes_per_second")? / 1e6))
    });
    let plot = Plot {
        title: "Throughput over the number of partitions".into(),
        x: Axis { label: "partitions".into(), logarithmic: true },
        y: Axis { label: "MB/s".into(), logarithmic: false },
        lines: vec![Line { label: "produce".into(), points: points.collect() }],
    };
    plot.write(&dir.join("partitions.svg"))
}
