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
const RATES: [(f64, (f64, f64)); 2] = [(10_000.0, (400.0, 2_000.0)), (50_000.0, (600.0, 3_000.0))];
const HALF_US: (f64, f64) = (1_000.0, 5_000.0);
const ONE_OVER_APPEND_US: f64 = 100.0;

pub async fn run(plan: &Plan) -> Result<Vec<Row>, String> {
    let linger = Some(Span(Duration::ZERO));
    let duration = Span(plan.duration.max(plan.amount(Duration::from_secs(15), Duration::from_secs(3))));
    let mut load = Load { linger, duration, ..plan.load() };
    load.place.pairs = plan.amount(2, 1);
    let ladder = Ladder::start(&load).await?;
    let mut rows = Vec::new();
    let goals = |(p50, p99)| vec![at_most("p50_us", p50), at_most("p99_us", p99)];
    for (rate, bounds) in RATES {
        rows.push(ladder.at("latency", rate, goals(bounds)).await);
    }
    match ladder.saturation().await {
        Ok(saturation) => {
            for share in SHARES {
                let goals = if share == 0.5 { goals(HALF_US) } else { Vec::new() };
                let what = format!("latency at {:.0} %", share * 100.0);
                rows.push(ladder.at(&what, saturation * share, goals).await);
            }
        }
        Err(why) => rows.push(Row::failed("latency at 50 %", goals(HALF_US), &why)),
    }
    let goal = at_most("p50_over_append_us", ONE_OVER_APPEND_US);
    rows.push(ladder.one_by_one("one record at a time, one client", vec![goal]).await);
    ladder.end(&mut rows).await;
    if let Some(dir) = &plan.options.plots {
        plot(&rows, dir)?;
    }
    Ok(rows)
}
