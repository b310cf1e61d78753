//! Targets of `coordinator` and of typed configuration: what the control plane reads.

use super::{Random, Target, run};
use ringlog::base::Reader;
use ringlog::coordinator::{Change, Image, Partition, Record, Topic, check_topic_name};
use ringlog::model::{JournalId, LaneId, TopicConfig, TopicId, topic_config};
use std::sync::Arc;

const CONSTANT_BYTES: usize = 8192;

fn change(random: &mut Random) -> Change {
    let id = TopicId::new(random.below(3) as u128);
    let partitions = vec![Partition { lane: LaneId(random.below(4) as u32) }; random.below(5)];
    let text = |random: &mut Random| "retention.ms"[..random.below(13)].to_owned();
    match random.below(9) {
        0 => Change::BrokerEpoch { epoch: random.below(9) as u64 },
        1 => Change::JournalPlanned {
            id: JournalId(random.below(3) as u64),
            lanes: vec![LaneId(0), LaneId(1)],
        },
        2 => Change::JournalCompleted { id: JournalId(random.below(3) as u64) },
        3 => Change::TopicCreated(Arc::new(Topic {
            id,
            name: text(random),
            created_ms: 9,
            configs: (0..random.below(4)).map(|_| (text(random), text(random))).collect(),
            partitions: Arc::new(partitions),
        })),
        4 => Change::TopicDeleted { id },
        5 => Change::TopicForgotten { id },
        6 => Change::TopicConfigured {
            id,
            configs: (0..random.below(4))
                .map(|_| (text(random), random.flip().then(|| text(random))))
                .collect(),
        },
        7 => Change::PartitionsAdded { id, partitions },
        _ => Change::ProducerIds { next: random.below(9) as i64 },
    }
}

fn record(random: &mut Random) -> Vec<u8> {
    Record { term: 1, index: random.next(), change: change(random) }.encode()
}

/// Records behind a two-byte length each, with rising indices.
fn log(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for index in 1..2 + random.below(9) as u64 {
        let bytes = Record { term: 1, index, change: change(random) }.encode();
        out.extend((bytes.len() as u16).to_le_bytes());
        out.extend(bytes);
    }
    out
}

/// A log is believed whole or refused; one that does not fit together is refused too.
fn restore(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    let mut records = Vec::new();
    while let Ok(length) = reader.u16("length") {
        let Ok(bytes) = reader.bytes(length.into(), "record") else { return false };
        match Record::decode(bytes) {
            Ok(record) => records.push(record),
            Err(_) => return false,
        }
    }
    if let Ok(image) = Image::restore(&records) {
        let snapshot = image.snapshot();
        assert_eq!(Image::restore(&snapshot).map(|image| image.topic_count()), Ok(image.topic_count()));
    }
    true
}

fn setting(random: &mut Random) -> Vec<u8> {
    let entries = TopicConfig::default().entries(|_| false);
    let entry = &entries[random.below(entries.len())];
    format!("{}={}", entry.key, entry.value).into_bytes()
}

fn set(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let _ = (check_topic_name(key), topic_config::is_known(key));
    TopicConfig::default().set(key, value).is_ok()
}

fn no_seal(_: &mut [u8]) {}

#[test]
fn records() {
    let decode = |bytes: &[u8]| Record::decode(bytes).is_ok();
    run(&Target { name: "metadata::records", sample: record, reseal: no_seal, decode }, CONSTANT_BYTES);
}

#[test]
fn logs() {
    let target = Target { name: "metadata::logs", sample: log, reseal: no_seal, decode: restore };
    run(&target, CONSTANT_BYTES);
}

#[test]
fn topic_settings() {
    let target = Target { name: "metadata::topic_settings", sample: setting, reseal: no_seal, decode: set };
    run(&target, CONSTANT_BYTES);
}
