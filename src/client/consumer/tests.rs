//! The consumer against a fake broker, a network that cuts, and seeds.
//!
//! Floor 5.

use std::task::{Context, Poll, Waker};

use super::*;
use crate::client::session::{Machine, Settings};
use crate::client::testing::broker::FakeBroker;
use crate::client::testing::{Random, World};
use crate::record::{BatchBuilder, Compression, Header, ProducerStamp};

type Fixture = (ConsumerHandle, World<ConsumerMachine>);

fn fixture(options: ConsumerOptions, broker: FakeBroker, seed: u64) -> Fixture {
    let (handle, machine) = options.start(Settings::default(), seed);
    (handle, World::new(machine, broker, seed))
}

/// A topic whose records are "PARTITION:OFFSET", with timestamps of 1000 + offset.
fn broker(partitions: u32, records: i64, each: i64, codec: Compression) -> FakeBroker {
    let mut broker = FakeBroker::new(2);
    broker.create("t", partitions);
    for partition in 0..partitions {
        append(&mut broker, partition, records, each, codec);
    }
    broker
}

fn append(broker: &mut FakeBroker, partition: u32, records: i64, each: i64, codec: Compression) {
    let fake = &mut broker.topics.get_mut("t").expect("created").partitions[partition as usize];
    let end = fake.end + records;
    while fake.end < end {
        let mut builder = BatchBuilder::new(0);
        for offset in fake.end..(fake.end + each).min(end) {
            let value = format!("{partition}:{offset}");
            let header = Header { name: "h", value: Some(b"x") };
            builder.append(1000 + offset, Some(b"key"), Some(value.as_bytes()), &[header]);
        }
        fake.append(&builder.build(codec, None::<ProducerStamp>).into());
    }
}

fn next(handle: &ConsumerHandle, world: &mut World<ConsumerMachine>) -> Result<ConsumerRecord, ConsumeError> {
    let mut reading = Box::pin(handle.next());
    let mut found = None;
    world.run_while(|_| match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(record) => {
            found = Some(record);
            false
        }
        Poll::Pending => true,
    });
    found.expect("the reading ended")
}

/// What can be read without anything new being written.
fn rest(handle: &ConsumerHandle, world: &mut World<ConsumerMachine>) -> Vec<ConsumerRecord> {
    let mut records = Vec::new();
    let end = world.now + 5000;
    while world.now < end {
        let mut reading = Box::pin(handle.next());
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(record) => records.push(record.expect("nothing is damaged")),
            Poll::Pending => {
                world.step(end);
            }
        }
    }
    records
}

fn text(record: &ConsumerRecord) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

#[test]
fn every_record_comes_once_and_in_order() {
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (handle, mut world) = fixture(ConsumerOptions::default(), broker(3, 100, 7, codec), 1);
        for partition in 0..3 {
            handle.assign("t", partition, Position::Earliest);
        }
        let records = rest(&handle, &mut world);
        assert_eq!(records.len(), 300);
        for partition in 0..3 {
            let own: Vec<_> = records.iter().filter(|record| record.partition == partition).collect();
            for (offset, record) in own.iter().enumerate() {
                assert_eq!((record.offset, record.timestamp), (offset as i64, 1000 + offset as i64));
                assert_eq!(text(record), format!("{partition}:{offset}"));
                assert_eq!(record.key.as_deref(), Some(&b"key"[..]));
                assert_eq!(record.headers, [("h".to_owned(), Some(Bytes::from("x")))]);
            }
            assert_eq!(handle.position("t", partition), Some(100));
            assert_eq!(handle.high_watermark("t", partition), Some(100));
        }
    }
}

#[test]
fn reading_begins_where_it_is_asked_to() {
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker(1, 100, 10, Compression::None), 1);
    handle.assign("t", 0, Position::Offset(55));
    assert_eq!(next(&handle, &mut world).expect("a record").offset, 55);
    assert_eq!(handle.position("t", 0), Some(56));
    handle.seek("t", 0, Position::Offset(13)).expect("assigned");
    assert_eq!(next(&handle, &mut world).expect("a record").offset, 13);
    // The fake broker knows whole batches only; the real one finds the record.
    handle.seek("t", 0, Position::Timestamp(1085)).expect("assigned");
    assert_eq!(next(&handle, &mut world).expect("a record").offset, 80);
    handle.seek("t", 0, Position::Timestamp(1_000_000)).expect("assigned");
    assert!(rest(&handle, &mut world).is_empty());
    append(&mut world.broker, 0, 1, 1, Compression::None);
    assert_eq!(next(&handle, &mut world).expect("a record").offset, 100);
    handle.seek("t", 0, Position::Latest).expect("assigned");
    assert!(rest(&handle, &mut world).is_empty());
    assert!(matches!(handle.seek("t", 9, Position::Latest), Err(ConsumeError::NotAssigned { .. })));
}

#[test]
fn a_paused_partition_is_silent_until_it_is_resumed() {
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker(2, 50, 10, Compression::None), 1);
    for partition in 0..2 {
        handle.assign("t", partition, Position::Earliest);
    }
    next(&handle, &mut world).expect("a record");
    handle.set_paused("t", 0, true).expect("assigned");
    assert!(rest(&handle, &mut world).iter().all(|record| record.partition == 1));
    handle.set_paused("t", 0, false).expect("assigned");
    let records = rest(&handle, &mut world);
    assert!(!records.is_empty() && records.iter().all(|record| record.partition == 0));
    assert_eq!(handle.position("t", 0), Some(50));
}

#[test]
fn an_offset_that_is_gone_is_reset_or_reported() {
    let trimmed = || {
        let mut broker = broker(1, 50, 10, Compression::None);
        broker.topics.get_mut("t").expect("created").partitions[0].log_start = 30;
        broker
    };
    for (reset, expected) in [(OffsetReset::Earliest, Some(30)), (OffsetReset::Latest, None)] {
        let options = ConsumerOptions { reset, ..Default::default() };
        let (handle, mut world) = fixture(options, trimmed(), 1);
        handle.assign("t", 0, Position::Offset(5));
        assert_eq!(rest(&handle, &mut world).first().map(|record| record.offset), expected);
    }
    let options = ConsumerOptions { reset: OffsetReset::Error, ..Default::default() };
    let (handle, mut world) = fixture(options, trimmed(), 1);
    handle.assign("t", 0, Position::Offset(5));
    assert!(matches!(next(&handle, &mut world), Err(ConsumeError::OffsetOutOfRange { offset: 5, .. })));
    handle.seek("t", 0, Position::Offset(40)).expect("assigned");
    assert_eq!(next(&handle, &mut world).expect("a record").offset, 40);
}

#[test]
fn damage_is_named_with_the_next_good_offset() {
    let mut damaged = broker(1, 50, 10, Compression::None);
    damaged.topics.get_mut("t").expect("created").partitions[0].damaged = Some((20, 40));
    let (handle, mut world) = fixture(ConsumerOptions::default(), damaged, 1);
    handle.assign("t", 0, Position::Earliest);
    for offset in 0..20 {
        assert_eq!(next(&handle, &mut world).expect("a record").offset, offset);
    }
    let error = next(&handle, &mut world).expect_err("damaged");
    assert!(matches!(error, ConsumeError::Corrupt { offset: 20, next_offset: Some(40), .. }), "{error}");
    handle.seek("t", 0, Position::Offset(40)).expect("assigned");
    assert_eq!(next(&handle, &mut world).expect("a record").offset, 40);
}

#[test]
fn a_flipped_bit_is_never_given_to_the_reader() {
    let mut flipped = broker(1, 50, 10, Compression::None);
    let batch = &mut flipped.topics.get_mut("t").expect("created").partitions[0].batches[2];
    let mut bytes = batch.to_vec();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    *batch = bytes.into();
    let (handle, mut world) = fixture(ConsumerOptions::default(), flipped, 1);
    handle.assign("t", 0, Position::Earliest);
    for offset in 0..20 {
        assert_eq!(next(&handle, &mut world).expect("a record").offset, offset);
    }
    let error = next(&handle, &mut world).expect_err("damaged");
    assert!(matches!(error, ConsumeError::Corrupt { next_offset: Some(30), .. }), "{error}");
    assert!(rest(&handle, &mut world).is_empty(), "it waits for a seek");
    handle.seek("t", 0, Position::Offset(30)).expect("assigned");
    assert_eq!(next(&handle, &mut world).expect("a record").offset, 30);
}

#[test]
fn a_topic_that_goes_is_reported() {
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker(1, 10, 10, Compression::None), 1);
    handle.assign("t", 0, Position::Earliest);
    assert_eq!(rest(&handle, &mut world).len(), 10);
    world.broker.topics.remove("t");
    world.broker.create("t", 1);
    append(&mut world.broker, 0, 3, 3, Compression::None);
    assert!(matches!(next(&handle, &mut world), Err(ConsumeError::TopicGone { .. })));
    handle.assign("t", 0, Position::Earliest);
    assert_eq!(rest(&handle, &mut world).len(), 3);
    // One that the wire has no room for is never asked for.
    for nowhere in ["missing", &"x".repeat(70_000)] {
        handle.assign(nowhere, 0, Position::Earliest);
        assert!(matches!(next(&handle, &mut world), Err(ConsumeError::TopicGone { .. })));
    }
}

#[test]
fn a_topic_that_came_again_is_reported_to_a_reader_that_has_sought() {
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker(1, 10, 10, Compression::None), 1);
    handle.assign("t", 0, Position::Earliest);
    assert_eq!(rest(&handle, &mut world).len(), 10);
    handle.seek("t", 0, Position::Offset(0)).expect("assigned");
    assert_eq!(rest(&handle, &mut world).len(), 10);
    world.broker.topics.remove("t");
    world.broker.create("t", 1);
    append(&mut world.broker, 0, 20, 10, Compression::None);
    assert!(matches!(next(&handle, &mut world), Err(ConsumeError::TopicGone { .. })));
    handle.seek("t", 0, Position::Offset(0)).expect("assigned");
    assert_eq!(rest(&handle, &mut world).len(), 20, "a seek after that means the new one");
}

#[test]
fn what_paused_partitions_hold_does_not_starve_the_others() {
    let options = ConsumerOptions { prefetch_bytes: 300_000, ..Default::default() };
    let (handle, mut world) = fixture(options, broker(4, 40_000, 100, Compression::None), 1);
    (0..3).for_each(|partition| handle.assign("t", partition, Position::Earliest));
    next(&handle, &mut world).expect("a record");
    let end = world.now + 5000;
    while world.now < end {
        world.step(end);
    }
    (0..3).for_each(|partition| handle.set_paused("t", partition, true).expect("assigned"));
    // The memory is as full as the machine makes it.
    lock(&handle.0.state).buffered += 300_000;
    handle.assign("t", 3, Position::Earliest);
    assert_eq!(next(&handle, &mut world).expect("a record").partition, 3);
}

#[test]
fn the_budget_bounds_what_is_fetched_ahead() {
    let options = ConsumerOptions { prefetch_bytes: 300_000, ..Default::default() };
    let (handle, mut world) = fixture(options, broker(4, 40_000, 100, Compression::None), 1);
    for partition in 0..4 {
        handle.assign("t", partition, Position::Earliest);
    }
    let mut seen = 0;
    let mut context = Context::from_waker(Waker::noop());
    while seen < 160_000 {
        let buffered = lock(&handle.0.state).buffered;
        assert!(buffered <= 300_000 + 2 * (64 << 10), "{buffered}");
        match Box::pin(handle.next_batch()).as_mut().poll(&mut context) {
            Poll::Ready(batch) => seen += batch.expect("nothing is damaged").records().count(),
            Poll::Pending => {
                world.step(u64::MAX);
            }
        }
    }
    assert_eq!(seen, 160_000);
    assert_eq!(lock(&handle.0.state).buffered, 0);
}

#[test]
fn close_ends_readers() {
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker(1, 1, 1, Compression::None), 1);
    handle.assign("t", 0, Position::Latest);
    assert!(rest(&handle, &mut world).is_empty());
    handle.close();
    assert_eq!(next(&handle, &mut world), Err(ConsumeError::Closed));
    world.run_while(|world| !world.machine.is_finished());
}

#[test]
fn cuts_and_seeks_neither_lose_nor_repeat_records() {
    for seed in 0..200 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let (handle, mut world) =
            fixture(ConsumerOptions::default(), broker(3, 60, 4, Compression::None), seed);
        world.cut_every = 5 + random.below(100);
        world.latency_ms_max = random.below(30);
        let mut expected = [0; 3];
        for partition in 0..3 {
            handle.assign("t", partition, Position::Earliest);
        }
        for round in 0..150 {
            match random.below(30) {
                0 => {
                    let partition = random.below(3) as u32;
                    let offset = random.below(60) as i64;
                    handle.seek("t", partition, Position::Offset(offset)).expect("assigned");
                    expected[partition as usize] = offset;
                }
                1 => append(&mut world.broker, random.below(3) as u32, 5, 2, Compression::None),
                2 => {
                    world.broker.shards = 1 + random.below(4) as u32;
                    world.broker.epoch += 1;
                    world.cut_all();
                }
                _ => {}
            }
            let ends = &world.broker.topics["t"].partitions;
            if expected.iter().zip(ends).all(|(next, partition)| *next == partition.end) {
                append(&mut world.broker, round % 3, 5, 2, Compression::None);
            }
            let record = next(&handle, &mut world).expect("nothing is damaged");
            let next = &mut expected[record.partition as usize];
            assert_eq!(record.offset, *next, "partition {}", record.partition);
            *next += 1;
        }
    }
}

#[test]
fn an_accepted_loss_at_the_end_is_passed_behind_what_was_read_before_it() {
    let mut broker = broker(1, 50, 10, Compression::None);
    let partition = &mut broker.topics.get_mut("t").expect("created").partitions[0];
    (partition.damaged, partition.is_accepted) = (Some((20, 50)), true);
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker, 1);
    handle.assign("t", 0, Position::Earliest);
    // All is fetched before the reader takes the first record.
    let until = world.now + 5000;
    while world.now < until {
        world.step(until);
    }
    for offset in 0..20 {
        assert_eq!(next(&handle, &mut world).expect("not damaged").offset, offset);
    }
    assert_eq!(rest(&handle, &mut world), []);
    assert_eq!(handle.position("t", 0), Some(50));
}

#[test]
fn partitions_that_do_not_fit_into_one_fetch_are_read_too() {
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker(2500, 2, 1, Compression::None), 1);
    for partition in 0..2500 {
        handle.assign("t", partition, Position::Earliest);
    }
    assert_eq!(rest(&handle, &mut world).len(), 5000);
}

/// How many partitions each of the first fetches has, by a broker of one shard.
fn first_fetches(partitions: u32) -> Vec<usize> {
    let mut broker = FakeBroker::new(1);
    broker.create("t", partitions);
    (0..partitions).for_each(|partition| append(&mut broker, partition, 1, 1, Compression::None));
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker, 1);
    for partition in 0..partitions {
        handle.assign("t", partition, Position::Earliest);
    }
    assert_eq!(rest(&handle, &mut world).len(), partitions as usize);
    world.broker.fetched
}

#[test]
fn many_partitions_are_fetched_once_all_are_open_and_a_few_at_once() {
    assert_eq!(first_fetches(200)[0], 200);
    let few = first_fetches(60);
    assert!(few[0] < 60, "{few:?}");
}

#[test]
fn a_timestamp_that_hangs_in_a_disk_keeps_no_other_partition_waiting() {
    let (handle, mut world) = fixture(ConsumerOptions::default(), broker(200, 2, 1, Compression::None), 1);
    world.broker.hangs_timestamps = true;
    handle.assign("t", 0, Position::Timestamp(1001));
    for partition in 1..200 {
        handle.assign("t", partition, Position::Earliest);
    }
    let records = rest(&handle, &mut world);
    assert_eq!(records.len(), 398);
    assert!(records.iter().all(|record| record.partition > 0));
}
