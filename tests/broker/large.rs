//! Restarts of a large broker: many partitions, many producer ids, much data, kill -9 under load. Ready
//! means that it answers. Small in an ordinary run; `RINGLOG_LARGE=1` has 10,000 partitions, 10,000
//! producers and 10 GB, and then every restart must take less than two seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, Writer, batch};
use super::process::{Broker, folder};
use super::rounds;
use crate::fuzz::Random;
use ringlog::record::{Compression, ProducerStamp};
use ringlog::wire::At;

const FILLERS: u32 = 4;
const LOADED: u32 = 4;
const READY_WITHIN: Duration = Duration::from_secs(2);

/// Fills every `FILLERS`-th partition with two batches of its own producer. Records in each.
fn fill(address: &str, first: u32, partitions: u32, batch_bytes: usize) -> i64 {
    let mut client = Client::new(address);
    // Ten records that do not compress away, whatever is below.
    let values = vec!["d".repeat(batch_bytes / 10); 10];
    for partition in (first..partitions).step_by(FILLERS as usize) {
        let id = client.until(|client| client.producer_id());
        for base_sequence in [0, 10] {
            let stamp = ProducerStamp { id, epoch: 0, base_sequence };
            let batch = batch(&values, Some(stamp), Compression::None);
            client.until(|client| client.produce("large", partition, &batch));
        }
    }
    20
}

/// The end of every partition, as the broker tells it.
fn check_ends(address: &str, partitions: u32, wanted: i64) {
    let mut client = Client::new(address);
    for partition in 0..partitions {
        let end = client.until(|client| client.offset("large", partition, At::Latest));
        assert_eq!(end, wanted, "the end of partition {partition}");
    }
}

#[test]
fn a_large_broker_restarts_quickly() {
    let is_large = std::env::var("RINGLOG_LARGE").is_ok();
    let (partitions, batch_bytes) = if is_large { (10_000, 500_000) } else { (200, 20_000) };
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 2, &[]);
    if !broker.start() {
        return;
    }
    let mut client = Client::new(&broker.address);
    client.create("large", partitions).unwrap();
    client.create("loaded", LOADED).unwrap();
    let since = Instant::now();
    let fillers: Vec<_> = (0..FILLERS)
        .map(|first| {
            let address = broker.address.clone();
            std::thread::spawn(move || fill(&address, first, partitions, batch_bytes))
        })
        .collect();
    let filled = fillers.into_iter().map(|filler| filler.join().unwrap()).max().unwrap();
    println!("{partitions} partitions and producers filled in {:.1?}", since.elapsed());
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..LOADED)
        .map(|partition| {
            let (address, stop) = (broker.address.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut writer = Writer::new(&address, "loaded", partition);
                while !stop.load(Ordering::SeqCst) {
                    writer.write(20);
                }
                writer
            })
        })
        .collect();
    let mut random = Random::new(5, 5);
    let mut took = Vec::new();
    for _ in 0..rounds(3) {
        std::thread::sleep(Duration::from_millis(100 + random.below(400) as u64));
        broker.kill();
        if random.below(3) == 0 {
            broker.launch();
            std::thread::sleep(Duration::from_millis(random.below(300) as u64));
            broker.kill();
        }
        let since = Instant::now();
        broker.start();
        took.push(since.elapsed());
        if took.last() > Some(&READY_WITHIN) {
            println!("slow start after {:.2?}: {}", since.elapsed(), broker.said());
        }
    }
    stop.store(true, Ordering::SeqCst);
    let total: i64 = writers
        .into_iter()
        .map(|writer| {
            let mut writer = writer.join().unwrap();
            writer.check();
            writer.acknowledged
        })
        .sum();
    check_ends(&broker.address, partitions, filled);
    took.sort();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "restarts: median {median:.2?}, slowest {slowest:.2?}; {total} records under load, each exactly once"
    );
    assert!(!is_large || slowest < READY_WITHIN, "{slowest:.2?}");
}
