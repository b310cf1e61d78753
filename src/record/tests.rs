//! Tests of record batches as a whole: bytes made by a Kafka client, round trips, refusals, hostile bytes.
//!
//! Floor 1. The golden batches come from kafka-python 3.0.12 (`DefaultRecordBatchBuilder`).

use super::layout::*;
use super::validate::Validation;
use super::*;
use crate::base::crc;
use crate::model::ErrorCode;

// `X` stands for 200 bytes 0x78.
const GOLDEN_NONE: &str = concat!(
    "00000000000000000000012e0000000002c3854f580000000000020000018bcfe568000000018bcfe5687b000000",
    "000000232800030000001100000003240000000a6b65792d300e76616c75652d3000c20300f60102019003X040a7",
    "472616365066162630a656d707479010c001304000100",
);

const GOLDEN_LZ4: &str = concat!(
    "0000000000000000000000850000000002ab464b0b0003000000020000018bcfe568000000018bcfe5687b000000",
    "00000023280003000000110000000304224d186840fd00000000000000a23d000000ff0e240000000a6b65792d30",
    "0e76616c75652d3000c20300f60102019003780100b4f00a040a7472616365066162630a656d707479010c001304",
    "00010000000000",
);

const GOLDEN_ZSTD: &str = concat!(
    "0000000000000000000000780000000002672cc41b0004000000020000018bcfe568000000018bcfe5687b000000",
    "00000023280003000000110000000328b52ffd20fdf501006403240000000a6b65792d300e76616c75652d3000c2",
    "0300f6010201900378040a7472616365066162630a656d707479010c00130400010001001129e004",
);

fn golden(hex: &str) -> Vec<u8> {
    let hex = hex.replace('X', &"78".repeat(200));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

const NOW: i64 = 1_700_000_001_000;

fn limits() -> Limits {
    Limits {
        bytes_max: 1 << 20,
        log_append_time: false,
        now_ms_min: NOW,
        now_ms_max: NOW,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
    }
}

const PRODUCER: ProducerStamp = ProducerStamp { id: 9000, epoch: 3, base_sequence: 17 };

/// The three records of the golden batches.
fn three() -> BatchBuilder {
    let mut builder = BatchBuilder::new(100);
    builder.append(1_700_000_000_000, Some(b"key-0"), Some(b"value-0"), &[]);
    let headers = [Header { name: "trace", value: Some(b"abc") }, Header { name: "empty", value: None }];
    builder.append(1_700_000_000_123, None, Some(&[b'x'; 200]), &headers);
    builder.append(1_699_999_999_990, Some(b""), None, &[]);
    builder
}

/// One line a record.
fn told(batch: &[u8]) -> Vec<String> {
    let view = BatchView::new(batch).unwrap();
    let payload = payload(&view, 1 << 20).unwrap();
    let text = |part: Option<&[u8]>| part.map_or("-".into(), |p| format!("{}:{}", p.len(), p.escape_ascii()));
    Records::new(&view, &payload)
        .map(|record| {
            let r = record.unwrap();
            let headers: Vec<String> = r.headers.map(|(n, v)| format!("{n}={}", text(v))).collect();
            format!("{} {} {} {} [{}]", r.offset, r.timestamp, text(r.key), text(r.value), headers.join(","))
        })
        .collect()
}

fn fix_crc(batch: &mut [u8]) {
    let checksum = crc::crc32c(&batch[CRC_START..]);
    batch[CRC].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn batches_of_a_kafka_client_are_valid_and_read_back() {
    let x = "x".repeat(200);
    let expected = vec![
        "0 1700000000000 5:key-0 7:value-0 []".to_string(),
        format!("1 1700000000123 - 200:{x} [trace=3:abc,empty=-]"),
        "2 1699999999990 0: - []".to_string(),
    ];
    for (hex, codec) in
        [(GOLDEN_NONE, Compression::None), (GOLDEN_LZ4, Compression::Lz4), (GOLDEN_ZSTD, Compression::Zstd)]
    {
        let batch = golden(hex);
        let info = validate(&batch, &limits()).unwrap();
        let producer = Some(PRODUCER);
        let max_timestamp = 1_700_000_000_123;
        let bytes = batch.len();
        let wanted = BatchInfo {
            bytes,
            record_count: 3,
            last_offset_delta: 2,
            max_timestamp,
            max_timestamp_is_wrong: false,
            producer,
            compression: codec,
        };
        assert_eq!(info, wanted);
        assert_eq!(told(&batch), expected, "{codec:?}");
    }
}

#[test]
fn what_is_built_is_what_a_kafka_client_builds() {
    let mut built = three().build(Compression::None, Some(PRODUCER));
    // kafka-python sends leader epoch 0, the Java client -1; it lies outside the CRC.
    stamp(&mut built, 0, 0);
    assert_eq!(built, golden(GOLDEN_NONE));
}

#[test]
fn built_batches_round_trip_under_every_codec() {
    let plain = told(&three().build(Compression::None, None));
    for codec in [Compression::Lz4, Compression::Zstd] {
        let batch = three().build(codec, Some(PRODUCER));
        let info = validate(&batch, &limits()).unwrap();
        assert_eq!((info.record_count, info.producer, info.compression), (3, Some(PRODUCER), codec));
        assert_eq!(told(&batch), plain);
    }
    // What does not shrink stays as it is.
    let mut builder = BatchBuilder::new(0);
    builder.append(5, None, Some(b"q"), &[]);
    let batch = builder.build(Compression::Zstd, None);
    assert_eq!(BatchView::new(&batch).unwrap().compression(), Some(Compression::None));
}

#[test]
fn stamping_keeps_the_crc_and_restamping_renews_it() {
    let mut batch = golden(GOLDEN_LZ4);
    stamp(&mut batch, 1_000_000, 7);
    let view = BatchView::new(&batch).unwrap();
    assert!(view.crc_holds());
    assert_eq!((view.base_offset(), view.last_offset(), view.leader_epoch()), (1_000_000, 1_000_002, 7));

    set_log_append_time(&mut batch, NOW);
    let view = BatchView::new(&batch).unwrap();
    assert!(view.crc_holds() && view.has_log_append_time());
    assert_eq!(view.max_timestamp(), NOW);
    assert!(told(&batch).iter().all(|line| line.contains(&NOW.to_string())));

    let other = ProducerStamp { id: 1, epoch: 2, base_sequence: i32::MAX };
    set_producer(&mut batch, other);
    let view = BatchView::new(&batch).unwrap();
    assert!(view.crc_holds());
    assert_eq!(view.producer(), Some(other));
    assert_eq!(other.last_sequence(2), 1);
}

#[test]
fn rewriting_a_header_does_not_hide_damage() {
    let mut batch = golden(GOLDEN_NONE);
    batch[70] ^= 1;
    set_max_timestamp(&mut batch, NOW);
    assert!(!BatchView::new(&batch).unwrap().crc_holds());
}

#[test]
fn a_wrong_max_timestamp_is_reported_and_can_be_corrected() {
    let mut batch = golden(GOLDEN_NONE);
    set_max_timestamp(&mut batch, 1);
    let info = validate(&batch, &limits()).unwrap();
    assert!(info.max_timestamp_is_wrong);
    set_max_timestamp(&mut batch, info.max_timestamp);
    assert_eq!(batch, golden(GOLDEN_NONE));
}

#[test]
fn each_broken_rule_has_its_code() {
    use ErrorCode::*;
    type Change = fn(&mut Vec<u8>);
    let cases: &[(ErrorCode, &str, Change)] = &[
        (CorruptMessage, "CRC32C", |b| b[100] ^= 1),
        (CorruptMessage, "header", |b| b.truncate(60)),
        (CorruptMessage, "length", |b| b.truncate(200)),
        (CorruptMessage, "magic", |b| b[MAGIC] = 1),
        (InvalidRecord, "more than one", |b| b.extend(golden(GOLDEN_LZ4))),
        (InvalidRecord, "base offset", |b| b[7] = 1),
        (InvalidRecord, "last offset delta", |b| b[LAST_OFFSET_DELTA.start + 3] = 7),
        (InvalidRecord, "0 records", |b| b[RECORD_COUNT.start + 3] = 0),
        (InvalidRecord, "control", |b| b[ATTRIBUTES.start + 1] |= 0x20),
        (InvalidRecord, "transactions", |b| b[ATTRIBUTES.start + 1] |= 0x10),
        (InvalidTimestamp, "LogAppendTime", |b| b[ATTRIBUTES.start + 1] |= 8),
        (UnsupportedCompressionType, "codec 7", |b| b[ATTRIBUTES.start + 1] |= 7),
        (InvalidRecord, "at least 0", |b| b[BASE_SEQUENCE].fill(0xff)),
        (InvalidRecord, "-1 or", |b| b[PRODUCER_ID].copy_from_slice(&(-2i64).to_be_bytes())),
        (InvalidRecord, "malformed", |b| b[HEADER_BYTES] += 2),
        (InvalidRecord, "offset delta", |b| b[HEADER_BYTES + 3] = 2),
        (InvalidTimestamp, "outside", |b| b[BASE_TIMESTAMP].fill(0x01)),
        (InvalidRecord, "malformed", |b| {
            b[LAST_OFFSET_DELTA.start + 3] = 1;
            b[RECORD_COUNT.start + 3] = 2;
        }),
        (InvalidRecord, "3 records", |b| {
            b[LAST_OFFSET_DELTA.start + 3] = 3;
            b[RECORD_COUNT.start + 3] = 4;
        }),
    ];
    for (code, text, change) in cases {
        let mut batch = golden(GOLDEN_NONE);
        change(&mut batch);
        if *code != CorruptMessage {
            fix_crc(&mut batch);
        }
        let failure = validate(&batch, &limits()).unwrap_err();
        assert_eq!(failure.code, *code, "{text}: {failure}");
        assert!(failure.text.contains(text), "{text}: {failure}");
    }
    let small = Limits { bytes_max: 200, ..limits() };
    assert_eq!(validate(&golden(GOLDEN_NONE), &small).unwrap_err().code, MessageTooLarge);
}

#[test]
fn timestamps_are_judged_against_the_brokers_clock() {
    let old = Limits { timestamp_before_max_ms: 1000, ..limits() };
    assert_eq!(validate(&golden(GOLDEN_NONE), &old).unwrap_err().code, ErrorCode::InvalidTimestamp);
    let unsure = Limits { now_ms_min: NOW - 2_000_000_000, timestamp_before_max_ms: 1000, ..limits() };
    assert!(validate(&golden(GOLDEN_NONE), &unsure).is_ok());
    let ahead = Limits { now_ms_max: NOW - 3_602_000, ..limits() };
    for hex in [GOLDEN_NONE, GOLDEN_LZ4] {
        assert_eq!(validate(&golden(hex), &ahead).unwrap_err().code, ErrorCode::InvalidTimestamp);
        assert!(validate(&golden(hex), &Limits { log_append_time: true, ..ahead }).is_ok());
    }
    let mut none = BatchBuilder::new(0);
    none.append(-1, None, None, &[]);
    assert_eq!(validate(&none.build(Compression::None, None), &old).unwrap().max_timestamp, -1);
}

#[test]
fn a_check_in_stretches_finds_the_same() {
    let mut builder = BatchBuilder::new(1 << 20);
    for index in 0..2000 {
        builder.append(NOW, Some(&[7; 10]), Some(&vec![index as u8; index % 500]), &[]);
    }
    let mut batch = builder.build(Compression::None, None);
    let whole = validate(&batch, &limits());
    let stretched = |batch: &[u8], bytes| {
        let mut validation = Validation::start(batch, &limits())?;
        loop {
            if let Some(info) = validation.advance(batch, bytes)? {
                return Ok(info);
            }
        }
    };
    for bytes in [1, 100, 4096, 1 << 30] {
        assert_eq!(stretched(&batch, bytes), whole);
    }
    let last = batch.len() - 1;
    batch[last] ^= 1;
    assert_eq!(stretched(&batch, 4096).unwrap_err().code, ErrorCode::CorruptMessage);
}

#[test]
fn searches_by_timestamp_look_at_records() {
    for hex in [GOLDEN_NONE, GOLDEN_ZSTD] {
        let batch = golden(hex);
        let view = BatchView::new(&batch).unwrap();
        let find = |timestamp| first_at_or_after(&view, timestamp, 1 << 20).unwrap();
        assert_eq!(find(0), Some((0, 1_700_000_000_000)));
        assert_eq!(find(1_700_000_000_001), Some((1, 1_700_000_000_123)));
        assert_eq!(find(1_700_000_000_124), None);
        assert_eq!(first_with_max_timestamp(&view, 1 << 20).unwrap(), Some((1, 1_700_000_000_123)));
    }
}

#[test]
fn batches_end_to_end_are_told_apart() {
    let mut bytes = golden(GOLDEN_NONE);
    bytes.extend(golden(GOLDEN_LZ4));
    bytes.extend(golden(GOLDEN_ZSTD));
    let whole = bytes.len();
    assert_eq!(batches(&bytes).map(|b| b.unwrap().bytes().len()).sum::<usize>(), whole);
    bytes.truncate(whole - 1);
    let found: Vec<bool> = batches(&bytes).map(|b| b.is_ok()).collect();
    assert_eq!(found, [true, true, false]);
    let error = batches(&bytes).last().unwrap().unwrap_err();
    assert!(error.position >= golden(GOLDEN_NONE).len() + golden(GOLDEN_LZ4).len());
}

/// xorshift64: enough randomness for mutations, and the same in every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn hostile_bytes_are_refused_without_a_panic() {
    let mut state = 0x5eed;
    let samples = [golden(GOLDEN_NONE), golden(GOLDEN_LZ4), golden(GOLDEN_ZSTD)];
    let mut valid = 0;
    for round in 0..60_000 {
        let mut batch = samples[round % 3].clone();
        for _ in 0..=random(&mut state) % 4 {
            let at = (random(&mut state) % batch.len() as u64) as usize;
            batch[at] = random(&mut state) as u8;
        }
        if round % 5 == 0 {
            batch.truncate((random(&mut state) % batch.len() as u64) as usize);
        } else if round % 2 == 0 {
            fix_crc(&mut batch);
        }
        valid += u32::from(validate(&batch, &limits()).is_ok());
        for view in batches(&batch).flatten() {
            let _ = first_at_or_after(&view, 0, 10_000);
            if let Ok(payload) = payload(&view, 10_000) {
                assert!(payload.len() <= 10_000);
                let records = Records::new(&view, &payload);
                for record in records.take_while(Result::is_ok).flatten() {
                    assert!(record.offset >= view.base_offset() && record.offset <= view.last_offset());
                    record.headers.for_each(drop);
                }
            }
        }
    }
    assert!(valid > 100, "some mutations are harmless: {valid}");
}
