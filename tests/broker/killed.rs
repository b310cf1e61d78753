//! kill -9 in a loop under load, some of it during recovery: nothing acknowledged is lost, nothing is
//! there twice, and offsets are dense.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, Writer};
use super::process::{Broker, folder};
use super::rounds;
use crate::fuzz::Random;

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 6;
/// How long a broker that answers may keep a writer waiting.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn killed_under_load() {
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 2, &["--set", "segment.bytes=1048576"]);
    if !broker.start() {
        return;
    }
    Client::new(&broker.address).create(TOPIC, PARTITIONS).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let written: Arc<[AtomicI64]> = (0..PARTITIONS).map(|_| AtomicI64::new(0)).collect();
    let writers: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            let (address, stop, written) = (broker.address.clone(), stop.clone(), written.clone());
            std::thread::spawn(move || {
                let mut writer = Writer::new(&address, TOPIC, partition);
                let mut random = Random::new(3, partition.into());
                while !stop.load(Ordering::SeqCst) {
                    writer.write(1 + random.below(40) as i64);
                    written[partition as usize].store(writer.acknowledged, Ordering::SeqCst);
                }
                writer
            })
        })
        .collect();
    let mut random = Random::new(1, 1);
    for round in 0..rounds(6) {
        if round % 2 == 1 {
            // What keeps one writer waiting must not hide behind the next kill.
            serves_all(&broker, &written);
        }
        std::thread::sleep(Duration::from_millis(100 + random.below(400) as u64));
        assert!(broker.runs(), "it ended by itself: {}", broker.said());
        broker.kill();
        if round % 3 == 2 {
            // Again, while it recovers.
            broker.launch();
            std::thread::sleep(Duration::from_millis(random.below(60) as u64));
            broker.kill();
        }
        assert!(broker.start());
    }
    serves_all(&broker, &written);
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    for writer in writers {
        let mut writer = writer.join().unwrap();
        writer.check();
        total += writer.acknowledged;
    }
    // And once more from a start after an orderly stop.
    broker.stop();
    assert!(broker.start());
    println!("{total} records, each exactly once");
    assert!(total > 0);
}

/// Waits until every writer has got an acknowledgement.
fn serves_all(broker: &Broker, written: &[AtomicI64]) {
    let now = || written.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let (since, before) = (Instant::now(), now());
    while now().iter().zip(&before).any(|(now, before)| now == before) {
        assert!(
            since.elapsed() < SERVED_WITHIN,
            "some writer got no acknowledgement within {SERVED_WITHIN:?}: {before:?} records then, {:?} now; {}",
            now(),
            broker.symptoms()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
