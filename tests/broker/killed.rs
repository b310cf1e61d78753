//! kill -9 in a loop under load, some of it during recovery: nothing acknowledged is lost, nothing is
//! there twice, and offsets are dense.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::{Client, Writer};
use super::process::{Broker, folder};
use super::rounds;
use crate::fuzz::Random;

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 6;

#[test]
fn killed_under_load() {
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 2, &["--set", "segment.bytes=1048576"]);
    if !broker.start() {
        return;
    }
    Client::new(&broker.address).create(TOPIC, PARTITIONS).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            let (address, stop) = (broker.address.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut writer = Writer::new(&address, TOPIC, partition);
                let mut random = Random::new(3, partition.into());
                while !stop.load(Ordering::SeqCst) {
                    writer.write(1 + random.below(40) as i64);
                }
                writer
            })
        })
        .collect();
    let mut random = Random::new(1, 1);
    for round in 0..rounds(6) {
        std::thread::sleep(Duration::from_millis(100 + random.below(400) as u64));
        broker.kill();
        if round % 3 == 2 {
            // Again, while it recovers.
            broker.launch();
            std::thread::sleep(Duration::from_millis(random.below(60) as u64));
            broker.kill();
        }
        broker.start();
    }
    std::thread::sleep(Duration::from_millis(200));
    stop.store(true, Ordering::SeqCst);
    let mut total = 0;
    for writer in writers {
        let mut writer = writer.join().unwrap();
        writer.check();
        total += writer.acknowledged;
    }
    // And once more from a start after an orderly stop.
    broker.stop();
    broker.start();
    println!("{total} records, each exactly once");
    assert!(total > 0);
}
