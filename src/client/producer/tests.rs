//! The producer against a fake broker, a network that cuts, and seeds.
//!
//! Floor 5. A failing seed is named in the panic; run the test again with that seed alone.

use std::task::{Context, Waker};
use std::time::Duration;

use super::serve::EARLY_MAX;
use super::*;
use crate::client::session::Settings;
use crate::client::testing::broker::FakeBroker;
use crate::client::testing::{Random, World};
use crate::model::{ErrorCode, Failure};

type Fixture = (ProducerHandle, World<ProducerMachine>);

fn fixture(options: ProducerOptions, broker: FakeBroker, seed: u64) -> Fixture {
    let (handle, machine) = options.start(Settings::default(), seed);
    (handle, World::new(machine, broker, seed))
}

fn options() -> ProducerOptions {
    ProducerOptions { batch_bytes: 400, delivery_timeout: None, ..Default::default() }
}

fn broker(partitions: u32) -> FakeBroker {
    let mut broker = FakeBroker::new(2);
    broker.create("t", partitions);
    broker
}

fn record(value: &str) -> Record {
    Record { value: Some(value.to_owned().into()), ..Default::default() }
}

fn to(partition: u32, value: &str) -> Record {
    Record { partition: Some(partition), ..record(value) }
}

/// Sends, running the world whenever the send has to wait.
fn send(handle: &ProducerHandle, world: &mut World<ProducerMachine>, record: Record) -> Delivery {
    let times = Times { now: world.now, wall_ms: 1_700_000_000_000 };
    let mut sending = Box::pin(handle.send(move || times, "t", record));
    let mut delivery = None;
    world.run_while(|_| match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(sent) => {
            delivery = Some(sent);
            false
        }
        Poll::Pending => true,
    });
    delivery.expect("the send ended")
}

use std::task::Poll;

fn wait(world: &mut World<ProducerMachine>, delivery: &Delivery) -> Result<RecordMetadata, ProduceError> {
    world.run_while(|_| delivery.outcome().is_none());
    delivery.outcome().expect("just seen")
}

#[test]
fn records_arrive_in_order_with_their_offsets() {
    let (handle, mut world) = fixture(options(), broker(1), 1);
    let deliveries: Vec<_> =
        (0..100).map(|i| send(&handle, &mut world, record(&format!("value {i}")))).collect();
    for (i, delivery) in deliveries.iter().enumerate() {
        let metadata = wait(&mut world, delivery).expect("acknowledged");
        assert_eq!((metadata.partition, metadata.offset), (0, i as i64));
    }
    let expected: Vec<_> = (0..100).map(|i| format!("value {i}")).collect();
    assert_eq!(world.broker.values("t", 0), expected);
    assert!(world.broker.produced < 20, "records were batched");
    assert_eq!(handle.memory_used(), 0);
}

#[test]
fn keys_go_where_kafka_sends_them() {
    let (handle, mut world) = fixture(options(), broker(7), 1);
    for i in 0..50 {
        let key = format!("key {i}");
        let keyed = Record { key: Some(key.clone().into()), ..record("v") };
        let delivery = send(&handle, &mut world, keyed);
        assert_eq!(delivery.partition(), partition_for_key(key.as_bytes(), 7));
    }
}

#[test]
fn records_without_a_key_reach_every_partition() {
    let (handle, mut world) = fixture(options(), broker(4), 1);
    let deliveries: Vec<_> = (0..400).map(|i| send(&handle, &mut world, record(&format!("{i}")))).collect();
    for delivery in &deliveries {
        wait(&mut world, delivery).expect("acknowledged");
    }
    for partition in 0..4 {
        assert!(!world.broker.values("t", partition).is_empty());
    }
}

#[test]
fn lingering_ends_in_time() {
    let options = ProducerOptions { linger: Duration::from_millis(50), ..options() };
    let (handle, mut world) = fixture(options, broker(1), 1);
    wait_for_topic(&handle, &mut world);
    let sent = world.now;
    let delivery = send(&handle, &mut world, record("slow"));
    wait(&mut world, &delivery).expect("acknowledged");
    assert!((50..70).contains(&(world.now - sent)), "after {} ms", world.now - sent);
}

#[test]
fn a_timeout_without_end_never_passes() {
    let options = ProducerOptions { delivery_timeout: Some(Duration::MAX), ..options() };
    let (handle, mut world) = fixture(options, broker(1), 1);
    wait_for_topic(&handle, &mut world);
    let delivery = send(&handle, &mut world, record("patient"));
    wait(&mut world, &delivery).expect("acknowledged");
}

fn wait_for_topic(handle: &ProducerHandle, world: &mut World<ProducerMachine>) {
    let delivery = send(handle, world, record("first"));
    wait(world, &delivery).expect("acknowledged");
}

#[test]
fn an_unknown_topic_is_an_error_at_once() {
    let (handle, mut world) = fixture(options(), FakeBroker::new(1), 1);
    let delivery = send(&handle, &mut world, record("x"));
    assert!(matches!(wait(&mut world, &delivery), Err(ProduceError::UnknownTopic { .. })));
    // It may be created later.
    world.broker.create("t", 1);
    let delivery = send(&handle, &mut world, record("x"));
    wait(&mut world, &delivery).expect("acknowledged");
}

#[test]
fn a_record_that_fits_no_batch_is_refused_here() {
    let mut small = broker(1);
    small.topics.get_mut("t").expect("created").configs = vec![("max.message.bytes".into(), "300".into())];
    let (handle, mut world) = fixture(options(), small, 1);
    let delivery = send(&handle, &mut world, record(&"x".repeat(300)));
    assert!(matches!(wait(&mut world, &delivery), Err(ProduceError::TooLarge { bytes_max: 300, .. })));
    let delivery = send(&handle, &mut world, record(&"x".repeat(200)));
    wait(&mut world, &delivery).expect("acknowledged");
}

#[test]
fn sends_wait_for_memory_and_flush_gives_it_back() {
    let options = ProducerOptions { memory_bytes: 2000, linger: Duration::from_secs(60), ..options() };
    let (handle, mut world) = fixture(options, broker(3), 1);
    let deliveries: Vec<_> =
        (0..200).map(|i| send(&handle, &mut world, record(&format!("{i:0100}")))).collect();
    let mut flushing = Box::pin(handle.flush());
    let mut context = Context::from_waker(Waker::noop());
    world.run_while(|_| flushing.as_mut().poll(&mut context).is_pending());
    assert!(deliveries.iter().all(|delivery| matches!(delivery.outcome(), Some(Ok(_)))));
    assert_eq!(handle.memory_used(), 0);
}

#[test]
fn a_refusal_for_good_fails_its_batch_and_no_other() {
    let (handle, mut world) = fixture(options(), broker(1), 1);
    wait_for_topic(&handle, &mut world);
    world.broker.refusals = [None, Some(Failure::new(ErrorCode::InvalidRecord, "bad")), None].into();
    let deliveries: Vec<_> =
        (0..6).map(|i| send(&handle, &mut world, record(&format!("{i:0300}")))).collect();
    let outcomes: Vec<_> = deliveries.iter().map(|delivery| wait(&mut world, delivery).is_ok()).collect();
    assert_eq!(outcomes, [true, false, true, true, true, true]);
    assert_eq!(world.broker.values("t", 0).len(), 6, "the first record, and all but one");
}

#[test]
fn nothing_is_delivered_when_its_time_is_up() {
    let timeout = Some(Duration::from_millis(500));
    let (handle, mut world) =
        fixture(ProducerOptions { delivery_timeout: timeout, ..options() }, broker(1), 1);
    wait_for_topic(&handle, &mut world);
    world.is_down = true;
    world.cut_all();
    let sent = world.now;
    let delivery = send(&handle, &mut world, record("late"));
    let error = wait(&mut world, &delivery).expect_err("the broker is down");
    assert!(matches!(error, ProduceError::TimedOut { maybe_written: false, .. }));
    assert!((500..520).contains(&(world.now - sent)), "after {} ms", world.now - sent);
    world.is_down = false;
    let delivery = send(&handle, &mut world, record("in time"));
    wait(&mut world, &delivery).expect("acknowledged");
    assert_eq!(world.broker.values("t", 0), ["first", "in time"]);
    assert_eq!(handle.memory_used(), 0);
}

#[test]
fn a_topic_that_was_created_anew_gets_only_what_was_never_sent() {
    let (handle, mut world) = fixture(options(), broker(1), 1);
    wait_for_topic(&handle, &mut world);
    // One batch reaches the old topic, but its answer is lost.
    let maybe = send(&handle, &mut world, record("maybe"));
    world.is_mute = true;
    world.run_while(|world| world.broker.values("t", 0).len() < 2);
    world.cut_all();
    world.is_mute = false;
    world.broker.topics.remove("t");
    world.broker.create("t", 1);
    let fresh = send(&handle, &mut world, record("fresh"));
    assert!(matches!(wait(&mut world, &maybe), Err(ProduceError::TopicDeleted { .. })));
    assert_eq!(wait(&mut world, &fresh).expect("acknowledged").offset, 0);
    assert_eq!(world.broker.values("t", 0), ["fresh"]);
}

#[test]
fn a_deleted_topic_is_an_error_for_what_waits() {
    let (handle, mut world) = fixture(options(), broker(1), 1);
    wait_for_topic(&handle, &mut world);
    world.broker.topics.remove("t");
    let delivery = send(&handle, &mut world, record("too late"));
    assert!(matches!(wait(&mut world, &delivery), Err(ProduceError::UnknownTopic { .. })));
}

#[test]
fn without_acks_records_are_delivered_once_written_out() {
    let options = ProducerOptions { acks: Acks::None, ..options() };
    let (handle, mut world) = fixture(options, broker(1), 1);
    for i in 0..50 {
        let delivery = send(&handle, &mut world, record(&format!("{i}")));
        assert_eq!(wait(&mut world, &delivery).expect("written out").offset, -1);
    }
    let now = world.now;
    world.run_until(now + 100);
    assert_eq!(world.broker.values("t", 0).len(), 50);
}

#[test]
fn the_end_of_the_machine_fails_what_is_left() {
    let (handle, mut world) = fixture(options(), broker(1), 1);
    wait_for_topic(&handle, &mut world);
    let delivery = send(&handle, &mut world, record("unsent"));
    drop(world);
    assert_eq!(delivery.outcome(), Some(Err(ProduceError::Closed)));
    let times = Times { now: 0, wall_ms: 0 };
    let late = handle.try_send(times, "t", &record("late")).expect("answered at once");
    assert_eq!(late.outcome(), Some(Err(ProduceError::Closed)));
}

#[test]
fn close_delivers_everything_first() {
    let (handle, mut world) = fixture(options(), broker(2), 1);
    let deliveries: Vec<_> = (0..30).map(|i| send(&handle, &mut world, record(&format!("{i}")))).collect();
    let mut closing = Box::pin(handle.close());
    let mut context = Context::from_waker(Waker::noop());
    world.run_while(|_| closing.as_mut().poll(&mut context).is_pending());
    assert!(deliveries.iter().all(|delivery| matches!(delivery.outcome(), Some(Ok(_)))));
    world.run_while(|world| !crate::client::Machine::is_finished(&world.machine));
}

#[test]
fn partitions_that_are_added_are_found() {
    let (handle, mut world) = fixture(options(), broker(1), 1);
    wait_for_topic(&handle, &mut world);
    world.broker.topics.get_mut("t").expect("created").partitions.resize_with(3, Default::default);
    let delivery = send(&handle, &mut world, to(2, "x"));
    assert!(matches!(wait(&mut world, &delivery), Err(ProduceError::UnknownPartition { .. })));
    let now = world.now;
    world.run_until(now + 61_000);
    let delivery = send(&handle, &mut world, to(2, "x"));
    assert_eq!(wait(&mut world, &delivery).expect("acknowledged").partition, 2);
}

#[test]
fn partitions_share_a_slow_link_fairly() {
    const PARTITIONS: u32 = 12;
    let options = ProducerOptions { memory_bytes: 200 << 20, ..ProducerOptions::default() };
    let mut broker = FakeBroker::new(1);
    broker.create("t", PARTITIONS);
    let (handle, mut world) = fixture(options, broker, 1);
    wait_for_topic(&handle, &mut world);
    world.socket_bytes_per_ms = 100_000;
    let value = "x".repeat(900_000);
    let sent = |world: &mut World<ProducerMachine>, partition| send(&handle, world, to(partition, &value));
    // The first partition has much to say, the others a little, later.
    let mut loud: Vec<_> = (0..40).map(|_| sent(&mut world, 0)).collect();
    let quiet: Vec<_> = (1..PARTITIONS).map(|partition| sent(&mut world, partition)).collect();
    for delivery in &quiet {
        wait(&mut world, delivery).expect("acknowledged");
    }
    loud.retain(|delivery| delivery.outcome().is_none());
    assert!(loud.len() > 20, "the others waited until {} of 40 batches were through", 40 - loud.len());
}

/// What one seed does to a producer; checks that nothing is lost, repeated or reordered.
fn torture(seed: u64, timeout: Option<u64>) {
    let mut random = Random(seed);
    let compression = [Compression::None, Compression::Lz4][random.below(2) as usize];
    let partitions = 1 + random.below(4) as u32;
    let options = ProducerOptions {
        batch_bytes: 100 + random.below(600) as usize,
        linger: Duration::from_millis(random.below(10)),
        memory_bytes: 1000 + random.below(20_000) as usize,
        delivery_timeout: timeout.map(Duration::from_millis),
        compression,
        ..Default::default()
    };
    let mut broker = FakeBroker::new(1 + random.below(3) as u32);
    broker.create("t", partitions);
    let (handle, mut world) = fixture(options, broker, seed);
    world.cut_every = 5 + random.below(200);
    world.latency_ms_max = random.below(40);
    let mut sent = Vec::new();
    for i in 0..300 {
        let partition = random.below(u64::from(partitions)) as u32;
        let value = format!("{partition}:{i}");
        match random.below(60) {
            0 => {
                world.is_down = true;
                world.cut_all();
                let until = world.now + random.below(1500);
                world.run_until(until);
                world.is_down = false;
            }
            1 => {
                // The broker restarts with another number of shards.
                world.broker.shards = 1 + random.below(4) as u32;
                world.broker.epoch += 1;
                world.cut_all();
            }
            2..6 => {
                let code = [ErrorCode::ThrottlingQuotaExceeded, ErrorCode::NotLeaderOrFollower];
                let failure = Failure::new(code[random.below(2) as usize], "not now").retry_after(7);
                world.broker.refusals.push_back(Some(failure));
            }
            6..20 => {
                let until = world.now + random.below(30);
                world.run_until(until);
            }
            _ => {}
        }
        let delivery = send(&handle, &mut world, to(partition, &value));
        sent.push((partition, value, delivery));
    }
    // The end is undisturbed, so that everything is decided; late copies arrive as well.
    world.cut_every = 0;
    for (_, _, delivery) in &sent {
        let _ = wait(&mut world, delivery);
    }
    let now = world.now;
    world.run_until(now + 1000);
    assert_eq!(handle.memory_used(), 0);
    for partition in 0..partitions {
        check_log(&world, partition, &sent, timeout.is_some());
    }
}

fn check_log(
    world: &World<ProducerMachine>,
    partition: u32,
    sent: &[(u32, String, Delivery)],
    may_fail: bool,
) {
    let log = world.broker.values("t", partition as usize);
    let own = || sent.iter().filter(|(of, ..)| *of == partition);
    let order: Vec<_> = own().map(|(_, value, _)| value).collect();
    let places: Vec<_> = log.iter().map(|value| order.iter().position(|sent| *sent == value)).collect();
    assert!(places.is_sorted(), "reordered: {log:?}");
    let mut unique = log.clone();
    unique.dedup();
    assert_eq!(unique.len(), log.len(), "repeated: {log:?}");
    for (_, value, delivery) in own() {
        let outcome = delivery.outcome().expect("all were awaited");
        let written = log.contains(value);
        match &outcome {
            Ok(metadata) if metadata.offset == -1 => assert!(written),
            Ok(metadata) => assert_eq!(&log[metadata.offset as usize], value),
            Err(error) => {
                assert!(may_fail, "without a timeout everything is delivered: {error}");
                assert!(error.maybe_written() || !written, "said to be unwritten: {value}, {error:?}");
            }
        }
    }
}

/// The topic is deleted and created anew while records are on their way: each is written once or
/// not at all, to the old topic or to the new one.
fn recreate(seed: u64) {
    let mut random = Random(seed);
    let (handle, mut world) = fixture(options(), broker(2), seed);
    world.cut_every = 5 + random.below(100);
    world.latency_ms_max = random.below(40);
    let mut sent = Vec::new();
    let mut written = Vec::new();
    for i in 0..200 {
        match random.below(30) {
            0 => {
                written.extend((0..2).flat_map(|partition| world.broker.values("t", partition)));
                world.broker.topics.remove("t");
                world.broker.create("t", 2);
            }
            1..8 => {
                let until = world.now + random.below(60);
                world.run_until(until);
            }
            _ => {}
        }
        let value = format!("{i}");
        let delivery = send(&handle, &mut world, to(i % 2, &value));
        sent.push((value, delivery));
    }
    world.cut_every = 0;
    for (_, delivery) in &sent {
        let _ = wait(&mut world, delivery);
    }
    let now = world.now;
    world.run_until(now + 1000);
    written.extend((0..2).flat_map(|partition| world.broker.values("t", partition)));
    for (value, delivery) in &sent {
        let count = written.iter().filter(|written| *written == value).count();
        match delivery.outcome().expect("all were awaited") {
            Ok(_) => assert_eq!(count, 1, "record {value}"),
            Err(ProduceError::TopicDeleted { .. }) => assert!(count <= 1, "record {value}"),
            Err(error) => panic!("record {value}: {error}"),
        }
    }
}

#[test]
fn a_topic_created_anew_never_gets_a_record_twice() {
    for seed in seeds() {
        println!("RINGLOG_CLIENT_SEED={seed}");
        recreate(seed);
    }
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("RINGLOG_CLIENT_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..300,
    }
}

#[test]
fn nothing_is_lost_repeated_or_reordered() {
    for seed in seeds() {
        println!("RINGLOG_CLIENT_SEED={seed}");
        torture(seed, None);
    }
}

#[test]
fn timeouts_never_repeat_or_reorder_records() {
    for seed in seeds() {
        println!("RINGLOG_CLIENT_SEED={seed}");
        torture(seed, Some(200 + seed % 7 * 100));
    }
}

#[test]
fn batches_stay_open_while_the_broker_has_enough_to_answer() {
    let options = ProducerOptions { batch_bytes: 100_000, linger: Duration::ZERO, ..options() };
    let (handle, mut world) = fixture(options, broker(3000), 1);
    for _ in 0..2 {
        let deliveries: Vec<_> =
            (0..3000).map(|partition| send(&handle, &mut world, to(partition, "x"))).collect();
        for delivery in &deliveries {
            wait(&mut world, delivery).expect("acknowledged");
        }
    }
    let before = world.broker.produced;
    world.is_mute = true;
    for partition in 0..3000 {
        drop(send(&handle, &mut world, to(partition, "x")));
    }
    world.run_until(world.now + 500);
    // On each of two links.
    assert_eq!(world.broker.produced - before, 2 * EARLY_MAX as u64);
}

#[test]
fn a_partition_with_little_does_not_wait_for_one_that_fills_its_batches() {
    let options = ProducerOptions {
        memory_bytes: 200_000,
        batch_bytes: 4_000,
        linger: Duration::from_millis(5),
        ..options()
    };
    let (handle, mut world) = fixture(options, broker(2), 1);
    world.latency_ms_max = 20;
    wait_for_topic(&handle, &mut world);
    let to =
        |partition: u32, bytes: usize| Record { partition: Some(partition), ..record(&"x".repeat(bytes)) };
    for _ in 0..20 {
        let sent = world.now;
        let little = send(&handle, &mut world, to(1, 10));
        while little.outcome().is_none() {
            drop(send(&handle, &mut world, to(0, 1000)));
        }
        assert!(world.now - sent < 200, "after {} ms", world.now - sent);
    }
}
