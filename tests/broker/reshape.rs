//! The shard count changes over live data; a topic name comes and goes many times under load.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, Writer, batch};
use super::process::{Broker, folder};
use super::rounds;
use ringlog::model::ErrorCode;
use ringlog::record::Compression;

#[test]
fn shards_change_over_live_data() {
    let folder = folder();
    let mut broker = Broker::new(&folder.path().join("data"), 2, &["--set", "segment.bytes=1048576"]);
    if !broker.start() {
        return;
    }
    Client::new(&broker.address).create("orders", 8).unwrap();
    let mut writers: Vec<Writer> =
        (0..8).map(|partition| Writer::new(&broker.address, "orders", partition)).collect();
    for (round, shards) in [1, 4, 2, 1, 4].into_iter().enumerate() {
        for writer in &mut writers {
            (0..20).for_each(|count| writer.write(1 + count));
            writer.check();
        }
        if round % 2 == 0 {
            broker.stop();
        } else {
            broker.kill();
        }
        broker.set_shards(shards);
        broker.start();
        for writer in &mut writers {
            writer.client.forget();
            writer.check();
        }
    }
}

/// Bytes that the files under `folder` take on the disk.
fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes_of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes_of).sum()
}

#[test]
fn a_topic_is_deleted_and_created_again_and_again() {
    let folder = folder();
    let data = folder.path().join("data");
    let mut broker = Broker::new(&data, 2, &["--set", "segment.bytes=1048576"]);
    if !broker.start() {
        return;
    }
    let mut client = Client::new(&broker.address);
    client.create("steady", 1).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (address, stopped) = (broker.address.clone(), stop.clone());
    let steady = std::thread::spawn(move || {
        let mut writer = Writer::new(&address, "steady", 0);
        while !stopped.load(Ordering::SeqCst) {
            writer.write(5);
            std::thread::sleep(Duration::from_millis(10));
        }
        writer
    });
    let values: Vec<String> = (0..20).map(|number| format!("{number} {}", "z".repeat(2000))).collect();
    let batch = batch(&values, None, Compression::None);
    let mut baseline = 0;
    for round in 0..rounds(40) {
        client.create("fleeting", 4).unwrap();
        let (shard, handle) = client.open("fleeting", 1).unwrap();
        for partition in 0..4 {
            assert_eq!(client.produce("fleeting", partition, &batch).unwrap(), 0, "a new topic begins at 0");
        }
        client.delete("fleeting").unwrap();
        let refused = client.produce_at(shard, handle, &batch).unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::UnknownTopicId), "round {round}: {refused}");
        if round == 4 {
            baseline = disk_bytes(&data);
        }
    }
    // Space comes back by itself.
    let since = Instant::now();
    let slack = 16 << 20;
    while disk_bytes(&data) > baseline + slack {
        let bytes = disk_bytes(&data);
        assert!(since.elapsed() < Duration::from_secs(60), "{bytes} bytes, {baseline} at first");
        std::thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Ordering::SeqCst);
    let mut writer = steady.join().unwrap();
    writer.check();
    assert!(writer.acknowledged > 0);
}
