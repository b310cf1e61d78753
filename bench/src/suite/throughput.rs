//! Rows of throughput: produce, produce and consume, consume from memory and from the disk.
//!
//! Owner: ringbench's parent process.

use crate::case::{Case, Kind};
use crate::cli::{Compression, Keys, Load, TAIL_BYTES};
use crate::row::{Goal, Row, at_least, at_most};
use crate::units::{Bytes, Span, bytes_text};

use super::Plan;

/// Measures cases; one that cannot be measured does not stop the others.
async fn all(cases: Vec<Case>) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for case in cases {
        rows.push(case.judged().await);
    }
    Ok(rows)
}

fn with_shards(load: &Load, shards: u32) -> Load {
    let mut load = load.clone();
    load.place.shards = Some(shards);
    load
}

fn case(what: &str, kind: Kind, load: Load, goals: impl Into<Vec<Goal>>) -> Case {
    Case::new(what, kind, load).goals(goals)
}

/// One producer and four, on two shards and on one. What one shard cannot reach is only told.
fn by_producers(plan: &Plan, size: u64, goals: [Vec<Goal>; 2]) -> Vec<Case> {
    let mut cases = Vec::new();
    for shards in [2, 1] {
        for (producers, goals) in [1, 4].into_iter().zip(&goals) {
            let load = Load { size: Bytes(size), producers, ..with_shards(&plan.load(), shards) };
            cases.push(case("produce", Kind::Produce, load, goals.clone()));
        }
    }
    cases
}

pub async fn produce_large(plan: &Plan) -> Result<Vec<Row>, String> {
    let goals = |rate| {
        vec![
            at_least("eta", 0.8),
            at_least("bytes_per_second", rate),
            at_most("device_bytes_per_payload_byte", 1.05),
        ]
    };
    all(by_producers(plan, 1024, [goals(500e6), goals(860e6)])).await
}

pub async fn produce_small(plan: &Plan) -> Result<Vec<Row>, String> {
    let goals = |rate| {
        vec![
            at_least("eta", 0.7),
            at_least("records_per_second", rate),
            at_most("broker_cpu_ns_per_record", 75.0),
        ]
    };
    all(by_producers(plan, 100, [goals(2.2e6), goals(3.8e6)])).await
}

pub async fn shapes(plan: &Plan) -> Result<Vec<Row>, String> {
    let mut load = plan.load();
    load.place.pairs = plan.amount(plan.pairs, 1);
    let goals = [at_least("eta", 0.6)];
    let mut cases = vec![
        case("produce", Kind::Produce, Load { partitions: 1, ..load.clone() }, goals),
        case("produce", Kind::Produce, Load { size: Bytes(64 << 10), ..load.clone() }, goals),
        case("produce", Kind::Produce, Load { size: Bytes(1 << 20), ..load.clone() }, goals),
    ];
    let single = Load { single: Some(64), linger: Some(Span::default()), ..load.clone() };
    cases.push(case("single records of 64 connections,", Kind::Produce, single, goals));
    for (what, compression) in [("lz4", Compression::Lz4), ("zstd", Compression::Zstd)] {
        let load = Load { compression, ..load.clone() };
        cases.push(case(&format!("produce {what}"), Kind::Produce, load, goals));
    }
    all(cases).await
}

/// Everything that was acknowledged is read back: few keys that are most of the load, compressed, from
/// several producers.
pub async fn verify(plan: &Plan) -> Result<Vec<Row>, String> {
    let mut load = Load { verify: true, producers: 3, keys: Keys::Zipf, ..plan.load() };
    load.place.pairs = 1;
    let mut cases = Vec::new();
    for (what, compression) in [("verify", Compression::None), ("verify lz4", Compression::Lz4)] {
        let load = Load { compression, ..load.clone() };
        cases.push(case(what, Kind::Produce, load, [at_least("verified", 1.0)]));
    }
    all(cases).await
}

pub async fn both(plan: &Plan) -> Result<Vec<Row>, String> {
    let goals = [
        at_least("eta", 0.7),
        at_least("bytes_per_second", 500e6),
        at_least("consumed_bytes_per_second", 500e6),
    ];
    all(vec![case("prodcons", Kind::Both, plan.load(), goals)]).await
}

pub async fn tail(plan: &Plan) -> Result<Vec<Row>, String> {
    let load = plan.load();
    let what = format!("consume {} from the tail,", bytes_text(TAIL_BYTES));
    let tail = case(&what, Kind::Tail { bytes: TAIL_BYTES }, load.clone(), [at_least("eta", 0.8)]);
    let eight = Load { consumers: 8, ..load };
    let eight = case("fan-out", Kind::Both, eight, [at_least("consumed_eta", 0.8)]);
    all(vec![tail, eight]).await
}

pub async fn cold(plan: &Plan) -> Result<Vec<Row>, String> {
    let bytes = plan.amount(10_000_000_000, 3_000_000_000);
    let kind = Kind::Cold { bytes, budget: 1 << 30 };
    let what = format!("consume {} cold,", bytes_text(bytes));
    let mut cases = Vec::new();
    for (partitions, eta) in [(16, 0.8), (1_000, 0.5)] {
        let mut load = Load { partitions, keys: Keys::Uniform, ..plan.load() };
        load.place.pairs = plan.amount(plan.pairs.min(3), 1);
        cases.push(case(&what, kind, load, [at_least("eta", eta)]));
    }
    all(cases).await
}
