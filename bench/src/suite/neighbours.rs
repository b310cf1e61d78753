//! Rows of neighbours: a small producer beside a large one, and readers of old records beside producers.
//!
//! Owner: ringbench's parent process. Each is measured without its neighbour as well, in the same run.

use std::time::Duration;

use crate::cli::{Keys, Load};
use crate::figures::{Figures, get, put, ratio, summarise};
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
    let setup = rig::setup(&large, false);
    let (mut alone, mut together, mut smalls) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..plan.amount(3, 1) {
        let rig = Rig::start(Subject::Broker, &large, &setup, Some(large.place.keep.0)).await?;
        let jobs = rig.producers(&large, None);
        let title = format!("neighbours: alone, round {}", number + 1);
        let worked = round::work(&title, rig.pid(), large.place.dir(), &jobs, timed(&large)).await?;
        alone.push(worked.figures(Subject::Broker, &jobs, timed(&large)));
        let mut jobs = rig.producers(&large, None);
        jobs.extend(rig.producers_beside("small", &small).await?);
        let title = format!("neighbours: together, round {}", number + 1);
        let worked = round::work(&title, rig.pid(), large.place.dir(), &jobs, timed(&large)).await?;
        let (big, little) = (worked.part(0..1), worked.part(1..2));
        together.push(big.figures(Subject::Broker, &jobs[..1], timed(&large)));
        let little = little.figures(Subject::Broker, &jobs[1..], timed(&large));
        smalls.push(little.of_one_among_others());
        rig.stop().await?;
    }
    let rate = |rounds: &[Figures]| median(&rounds.iter().map(Figures::bytes_per_second).collect::<Vec<_>>());
    let kept = ratio(rate(&together), rate(&alone));
    let mut metrics = summarise(&smalls);
    put(&mut metrics, "large_bytes_per_second", rate(&together));
    put(&mut metrics, "large_kept", kept);
    let mut row = Row::new("100 records/s beside one flat out", metrics);
    row.goals.extend([at_most("p99_us", 8_000.0), at_least("large_kept", 0.95)]);
    row.notes.push(format!(
        "the large one: {} MB/s, {} of what it reaches alone",
        grouped(rate(&together).unwrap_or(0.0) / 1e6),
        short(kept.unwrap_or(0.0))
    ));
    Ok(vec![row])
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
    let flat = Load { duration: units::Span(Duration::from_secs(3)), ..load.clone() };
    let figures = round::on("old readers: saturation", &rig, Subject::Broker, &flat, false).await?;
    let half = figures.main().map_or(0.0, |flow| flow.records_per_second()) / 2.0;
    let fixed = Load { rate: Some(half), ..load.clone() };
    let alone = round::on("old readers: producers alone", &rig, Subject::Broker, &fixed, false).await?;
    let mut jobs = rig.producers(&fixed, None);
    jobs.push(rig.wanderers(WANDERERS, WANDERER_BYTES, WANDERER_PREFETCH));
    let span: Span = timed(&fixed);
    let worked = round::work("old readers: together", rig.pid(), load.place.dir(), &jobs, span).await?;
    let together = worked.figures(Subject::Broker, &jobs, span);
    rig.stop().await?;
    let kept = ratio(Some(together.bytes_per_second()), Some(alone.bytes_per_second()));
    let first_error = together.first_error.clone();
    let mut metrics = summarise(&[together]);
    put(&mut metrics, "producers_kept", kept);
    put(&mut metrics, "rate", Some(half));
    let name = format!(
        "{WANDERERS} consumers at random offsets of {} in {} partitions",
        bytes_text(old.0),
        grouped(OLD_PARTITIONS.into())
    );
    let mut row = Row::new(name, metrics);
    let read = get(&row.metrics, "consumed_bytes_per_second").unwrap_or(0.0);
    row.goals.extend([at_least("producers_kept", 0.95), at_least("consumed_bytes_per_second", 200e6)]);
    row.notes.push(format!(
        "consumers together: {} MB/s; producers: {} of what they reach alone",
        grouped(read / 1e6),
        short(kept.unwrap_or(0.0))
    ));
    row.notes.extend(first_error);
    Ok(vec![row])
}
