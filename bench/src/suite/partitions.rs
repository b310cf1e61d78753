//! Rows over the number of partitions.
//!
//! Owner: ringbench's parent process.

use crate::case::{Case, Kind};
use crate::cli::{Keys, Load};
use crate::commands::partitions;
use crate::row::{Row, at_least, at_most};
use crate::units::Bytes;

use super::Plan;

pub async fn run(plan: &Plan) -> Result<Vec<Row>, String> {
    let mut load = Load { keys: Keys::None, batch: Some(Bytes(16 << 10)), ..plan.load() };
    load.place.pairs = plan.amount(plan.pairs, plan.pairs.min(2));
    let counts = plan.amount(&[10, 100, 1_000, 10_000, 100_000][..], &[10, 1_000, 10_000, 100_000][..]);
    let mut rows = partitions::measure(&load, counts).await?;
    for (count, row) in counts.iter().zip(&mut rows) {
        match count {
            10_000 => {
                row.goals.push(at_least("share_of_first", 0.95));
                row.goals.push(at_most("device_bytes_per_payload_byte", 2.2));
            }
            100_000 => row.goals.push(at_least("share_of_first", 0.85)),
            _ => {}
        }
    }
    if let Some(dir) = &plan.options.plots {
        partitions::plot(&rows, dir)?;
    }
    let keyed = Load { partitions: 10_000, ..plan.load() };
    let goals = [at_least("bytes_per_second", 240e6), at_most("device_bytes_per_payload_byte", 2.2)];
    let case = Case::new("keyed", Kind::Produce, keyed).goals(goals);
    rows.push(case.judged().await);
    Ok(rows)
}
