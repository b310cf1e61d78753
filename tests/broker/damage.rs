//! One flipped bit anywhere in a data folder: the broker never serves it, keeps every other range,
//! and either starts and says what is damaged or refuses to start with the cure.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::client::{Client, Trouble, Writer};
use super::process::{Broker, folder};
use super::rounds;
use crate::fuzz::Random;
use ringlog::model::ErrorCode;
use ringlog::wire::At;

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 4;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.metadata().unwrap().len() > 0 {
            found.push(path);
        }
    }
}

/// Some segments of two writers a partition, ended by an orderly stop.
fn prepare(data: &Path) -> Option<Vec<Writer>> {
    let mut broker = Broker::new(data, 2, &["--set", "segment.bytes=1048576"]);
    if !broker.start() {
        return None;
    }
    Client::new(&broker.address).create(TOPIC, PARTITIONS).unwrap();
    let mut writers: Vec<Writer> =
        (0..PARTITIONS).map(|partition| Writer::new(&broker.address, TOPIC, partition)).collect();
    for round in 0..60 {
        writers.iter_mut().for_each(|writer| writer.write(1 + (round * 7) % 40));
    }
    writers.iter_mut().for_each(Writer::check);
    broker.stop();
    Some(writers)
}

/// Flips a bit, mostly where something was written. The file and the byte.
fn flip(data: &Path, random: &mut Random) -> (PathBuf, usize) {
    let mut found = Vec::new();
    files(data, &mut found);
    found.sort();
    let path = found[random.below(found.len())].clone();
    let mut bytes = std::fs::read(&path).unwrap();
    let mut at = random.below(bytes.len());
    if random.below(8) > 0 {
        // The next byte that is not zero, if there is one.
        at = (at..bytes.len()).chain(0..at).find(|at| bytes[*at] != 0).unwrap_or(at);
    }
    bytes[at] ^= 1 << random.below(8);
    std::fs::write(&path, bytes).unwrap();
    (path, at)
}

/// Reads a partition around its damage. How many records could not be read.
fn read_around(client: &mut Client, writer: &Writer) -> Result<i64, Trouble> {
    let end = client.offset(TOPIC, writer.partition, At::Latest)?;
    assert_eq!(end, writer.acknowledged, "the end of partition {}", writer.partition);
    let (mut next, mut lost) = (0, 0);
    while next < end {
        match client.fetch(TOPIC, writer.partition, next)? {
            Ok(records) => {
                for record in records {
                    assert_eq!(
                        (record.offset, record.value),
                        (next, Writer::value(next)),
                        "never served wrong"
                    );
                    next += 1;
                }
            }
            Err((failure, after)) => {
                assert_eq!(failure.code, ErrorCode::CorruptMessage, "{failure}");
                let after = if after < 0 { end } else { after };
                assert!(after > next && after <= end, "{failure}: next offset {after} after {next}");
                lost += after - next;
                next = after;
            }
        }
    }
    Ok(lost)
}

#[test]
fn a_flipped_bit_is_never_served() {
    let folder = folder();
    let pristine = folder.path().join("pristine");
    let Some(writers) = prepare(&pristine) else { return };
    let total: i64 = writers.iter().map(|writer| writer.acknowledged).sum();
    let (mut harmless, mut closed, mut refused, mut worst) = (0, 0, 0, 0);
    for round in 0..rounds(25) {
        let data = folder.path().join("damaged");
        let _ = std::fs::remove_dir_all(&data);
        let copied = Command::new("cp").arg("-a").args([&pristine, &data]).status().unwrap();
        assert!(copied.success());
        let (path, at) = flip(&data, &mut Random::new(7, round));
        let place = format!("round {round}: byte {at} of {}", path.strip_prefix(&data).unwrap().display());
        let mut broker = Broker::new(&data, 2, &["--set", "segment.bytes=1048576"]);
        if let Err(said) = broker.try_start() {
            assert!(said.contains("damage") && said.contains("repair"), "{place}: {said}");
            refused += 1;
            continue;
        }
        let mut client = Client::new(&broker.address);
        let mut lost = 0;
        for writer in &writers {
            lost += read_around(&mut client, writer).unwrap_or_else(|trouble| panic!("{place}: {trouble}"));
            let offset = client.produce(TOPIC, writer.partition, &writer.next_batch(3));
            assert_eq!(offset.unwrap(), writer.acknowledged, "{place}: produce goes on");
        }
        assert!(lost < total / 4, "{place}: {lost} of {total} records closed off");
        worst = worst.max(lost);
        if lost > 0 { closed += 1 } else { harmless += 1 }
    }
    println!(
        "{harmless} repaired or unused, {closed} closed a range (at most {worst} of {total} records), {refused} refused to start"
    );
}
