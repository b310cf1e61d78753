//! Rows of latency: fixed rates in an open loop, and one record at a time.
//!
//! Owner: ringbench's parent process.

use std::time::Duration;

use crate::cli::Load;
use crate::commands::latency::{Ladder, plot};
use crate::row::{Row, at_most};
use crate::units::Span;

use super::Plan;

/// Shares of saturation beside the fixed rates; half of it has a goal.
const SHARES: [f64; 6] = [0.1, 0.25, 0.5, 0.75, 0.9, 1.0];

/// Rate, and bounds of p50 and p99 in microseconds.
const RATES: [(f64, f64, f64); 2] = [(10_000.0, 400.0, 2_000.0), (50_000.0, 600.0, 3_000.0)];
const HALF_US: (f64, f64) = (1_000.0, 5_000.0);
const ONE_OVER_APPEND_US: f64 = 100.0;

pub async fn run(plan: &Plan) -> Result<Vec<Row>, String> {
    let linger = Some(Span(Duration::ZERO));
    let duration = Span(plan.duration.max(plan.amount(Duration::from_secs(15), Duration::from_secs(3))));
    let mut load = Load { linger, duration, ..plan.load() };
    load.place.pairs = plan.amount(2, 1);
    let ladder = Ladder::start(&load).await?;
    let mut rows = Vec::new();
    for (rate, p50, p99) in RATES {
        let mut row = ladder.at("latency", rate).await?;
        row.goals.extend([at_most("p50_us", p50), at_most("p99_us", p99)]);
        rows.push(row);
    }
    let saturation = ladder.saturation().await?;
    for share in SHARES {
        let mut row = ladder.at(&format!("latency at {:.0} %", share * 100.0), saturation * share).await?;
        if share == 0.5 {
            row.goals.extend([at_most("p50_us", HALF_US.0), at_most("p99_us", HALF_US.1)]);
        }
        rows.push(row);
    }
    let mut single = ladder.one_by_one("one record at a time, one client").await?;
    single.goals.push(at_most("p50_over_append_us", ONE_OVER_APPEND_US));
    rows.push(single);
    ladder.end(&mut rows).await?;
    if let Some(dir) = &plan.options.plots {
        plot(&rows, dir)?;
    }
    Ok(rows)
}
