//! Targets of `record`: the broker's check of a batch, and the client's walk through its records.

use super::{Random, Target, run};
use ringlog::base::crc;
use ringlog::record::{
    BatchBuilder, Compression, Header, Limits, ProducerStamp, Records, batches, first_at_or_after, payload,
    validate,
};

pub fn sample(random: &mut Random) -> Vec<u8> {
    let mut builder = BatchBuilder::new(256);
    for _ in 0..=random.below(8) {
        let (key_bytes, value_bytes) = (random.below(20), random.below(100));
        let (key, value) = (random.bytes(key_bytes), vec![b'v'; value_bytes]);
        let headers = [Header { name: "h", value: Some(&key) }, Header { name: "none", value: None }];
        let headers = &headers[..random.below(3)];
        builder.append(
            random.below(1 << 40) as i64,
            random.flip().then_some(&key[..]),
            Some(&value),
            headers,
        );
    }
    let codec = [Compression::None, Compression::Lz4, Compression::Zstd][random.below(3)];
    let producer = ProducerStamp { id: 7, epoch: 0, base_sequence: random.below(1 << 31) as i32 };
    builder.build(codec, random.flip().then_some(producer))
}

pub fn reseal(bytes: &mut [u8]) {
    if bytes.len() >= 61 {
        let length = (bytes.len() - 12) as u32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let checksum = crc::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn check(bytes: &[u8]) -> bool {
    let limits = Limits {
        bytes_max: 1 << 20,
        log_append_time: false,
        now_ms_min: 1 << 40,
        now_ms_max: 1 << 40,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 1000,
    };
    validate(bytes, &limits).is_ok()
}

fn read(bytes: &[u8]) -> bool {
    // A reader bounds what a batch may become; here so that bombs show as allocations.
    let bytes_max = bytes.len() * 4;
    batches(bytes).all(|view| {
        let Ok(view) = view else { return false };
        let Ok(payload) = payload(&view, bytes_max.max(4096)) else { return false };
        let _ = first_at_or_after(&view, 1 << 39, bytes_max.max(4096));
        Records::new(&view, &payload)
            .all(|record| record.is_ok_and(|record| record.headers.count() < 1 << 20))
    })
}

#[test]
fn batch_check() {
    run(&Target { name: "batch::batch_check", sample, reseal, decode: check }, 4096);
}

#[test]
fn batch_read() {
    run(&Target { name: "batch::batch_read", sample, reseal, decode: read }, 64 << 10);
}
