//! Rows of neighbours: a small producer beside a large one, and readers of old records beside producers.
//!
//! Owner: ringbench's parent process. Each is measured without its neighbour as well, in the same run.

use std::time::Duration;

use crate::case::tell;
use crate::cli::{Keys, Load};
use crate::figures::{Figures, get, put, ratio, summarise};
use crate::job::From;
use crate::rig::{self, Rig};
use crate::round::{self, Span, timed};
use crate::row::{Row, at_least, at_most};
use crate::server::Subject;
use crate::stats::median;
use crate::units::{self, Bytes, bytes_text, grouped, short};

use super::Plan;

const SMALL_RATE: f64 = 100.0;
/// Consumers of old records, and what each reads at one place.
const WANDERERS: u32 = 100;
const WANDERER_BYTES: u64 = 4 << 20;
const WANDERER_PREFETCH: u64 = 1 << 20;
const OLD_PARTITIONS: u32 = 10_000;

fn rate_of(rounds: &[Figures]) -> Option<f64> {
    median(&rounds.iter().map(Figures::bytes_per_second).collect::<Vec<_>>())
}

pub async fn beside_a_large_one(plan: &Plan) -> Result<Vec<Row>, String> {
    // The small one sends a thousand records at least, or its p99 says nothing.
    let duration = units::Span(plan.duration.max(Duration::from_secs(plan.amount(12, 6))));
    let large = Load { duration, ..plan.load() };
    let small = Load {
        rate: Some(SMALL_RATE),
        linger: Some(units::Span::default()),
        partitions: 1,
        keys: Keys::None,
        memory: Bytes(8 << 20),
        ..large.clone()
    };
    let (mut alone, mut together, mut smalls) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..plan.amount(5, 1) {
        let order = if number % 2 == 0 { [false, true] } else { [true, false] };
        for is_beside in order {
            let small = is_beside.then_some(&small);
            let (big, little) = beside(number + 1, &large, small).await?;
            if is_beside {
                together.push(big)
            } else {
                alone.push(big)
            }
            smalls.extend(little);
        }
    }
    let kept = ratio(rate_of(&together), rate_of(&alone));
    let mut metrics = summarise(&smalls);
    put(&mut metrics, "large_bytes_per_second", rate_of(&together));
    put(&mut metrics, "large_kept", kept);
    let mut row = Row::new("100 records/s beside one flat out", metrics);
    row.add_errors(&alone);
    row.add_errors(&together);
    row.goals.extend([at_most("p99_us", 8_000.0), at_least("large_kept", 0.95)]);
    row.notes.push(format!(
        "the large one: {} MB/s, {} of what it reaches alone",
        grouped(rate_of(&together).unwrap_or(0.0) / 1e6),
        short(kept.unwrap_or(0.0))
    ));
    smalls.extend(together.into_iter().chain(alone));
    tell(&mut row, &smalls);
    Ok(vec![row])
}

/// One round on a fresh broker: the large producer, and the small one if there is to be one.
async fn beside(
    number: u32,
    large: &Load,
    small: Option<&Load>,
) -> Result<(Figures, Option<Figures>), String> {
    let setup = rig::setup(large, false);
    let rig = Rig::start(Subject::Broker, large, &setup, Some(large.place.keep.0)).await?;
    let mut jobs = rig.producers(large, None);
    if let Some(small) = small {
        jobs.extend(rig.producers_beside("small", small).await?);
    }
    let title = format!("neighbours: {}, round {number}", if small.is_some() { "together" } else { "alone" });
    let worked = round::work(&title, rig.pid(), large.place.dir(), &jobs, timed(large)).await?;
    let big = worked.part(0..1).figures(Subject::Broker, &jobs[..1], timed(large));
    let little = small.map(|_| {
        let little = worked.part(1..2).figures(Subject::Broker, &jobs[1..], timed(large));
        little.of_one_among_others()
    });
    rig.stop().await?;
    Ok((big, little))
}

/// Producers fixed at half of saturation, without and with consumers at random old offsets.
pub async fn beside_old_readers(plan: &Plan) -> Result<Vec<Row>, String> {
    let old = plan.bytes(8_000_000_000, 3_000_000_000);
    let load = Load {
        partitions: OLD_PARTITIONS,
        batch: Some(Bytes(16 << 10)),
        keys: Keys::None,
        duration: units::Span(plan.duration.max(Duration::from_secs(plan.amount(15, 6)))),
        ..plan.load()
    };
    let mut setup = rig::setup(&load, false);
    setup.settings.push(format!("memory.bytes={}", 1u64 << 30));
    let rig = Rig::start(Subject::Broker, &load, &setup, None).await?;
    round::fill("old readers: fill", &rig, &load, old.0).await?;
    // Old is what is there now.
    let offsets = rig.client.admin().offsets(&rig.topic).await.map_err(|error| error.to_string())?;
    let from = From::Random { bytes: WANDERER_BYTES, offsets };
    let half = round::saturate("old readers", &rig, &load).await? / 2.0;
    let fixed = Load { rate: Some(half), ..load.clone() };
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    // Without, with, with, without: what drifts hits both alike.
    for is_beside in [false, true, true, false] {
        let mut jobs = rig.producers(&fixed, None);
        if is_beside {
            jobs.push(rig.wanderers(WANDERERS, from.clone(), WANDERER_PREFETCH));
        }
        let what = if is_beside { "old readers: together" } else { "old readers: producers alone" };
        let span: Span = timed(&fixed);
        let worked = round::work(what, rig.pid(), load.place.dir(), &jobs, span).await?;
        let figures = worked.figures(Subject::Broker, &jobs, span);
        if is_beside { together.push(figures) } else { alone.push(figures) }
    }
    rig.stop().await?;
    let kept = ratio(rate_of(&together), rate_of(&alone));
    let mut metrics = summarise(&together);
    put(&mut metrics, "producers_kept", kept);
    put(&mut metrics, "rate", Some(half));
    let name = format!(
        "{WANDERERS} consumers at random offsets of {} in {} partitions",
        bytes_text(old.0),
        grouped(OLD_PARTITIONS.into())
    );
    let mut row = Row::new(name, metrics);
    row.add_errors(&alone);
    let read = get(&row.metrics, "consumed_bytes_per_second").unwrap_or(0.0);
    row.goals.extend([at_least("producers_kept", 0.95), at_least("consumed_bytes_per_second", 200e6)]);
    row.notes.push(format!(
        "consumers together: {} MB/s; producers: {} of what they reach alone",
        grouped(read / 1e6),
        short(kept.unwrap_or(0.0))
    ));
    together.extend(alone);
    tell(&mut row, &together);
    Ok(vec![row])
}
