//! The library's own client against the real broker: administration, and records through stops,
//! kills and other shard counts.
//!
//! Owner: the tests. A test returns at once where the machine forbids io_uring.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ringlog::client::{
    Acks, Admin, Client, Consumer, ConsumerOptions, Options, Position, Producer, ProducerOptions, Record,
};
use ringlog::model::ErrorCode;

use super::process::{Broker, folder};

const PARTITIONS: u32 = 8;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn connect(broker: &Broker) -> Client {
    let options = Options { connect_timeout: Duration::from_secs(30), ..Options::new(&broker.address) };
    Client::connect(options).await.unwrap()
}

/// Runs `work` with a started broker of small segments.
fn with_broker(shards: u32, work: impl AsyncFnOnce(Broker)) {
    let folder = folder();
    let small = ["--set", "segment.bytes=4MiB", "--set", "memory.bytes=64MiB"];
    let mut broker = Broker::new(&folder.path().join("data"), shards, &small);
    if broker.start() {
        run(work(broker));
    }
}

async fn create(admin: &Admin, name: &str, partitions: u32) -> Option<ErrorCode> {
    admin.create_topic(name, Some(partitions), &[]).await.err().and_then(|error| error.code())
}

#[test]
fn topics_survive_restarts() {
    with_broker(2, async |mut broker| {
        let admin = connect(&broker).await.admin();
        assert_eq!(create(&admin, "a", 3).await, None);
        assert_eq!(create(&admin, "b", 1).await, None);
        assert_eq!(create(&admin, "a", 3).await, Some(ErrorCode::TopicAlreadyExists));
        assert_eq!(create(&admin, "a/b", 3).await, Some(ErrorCode::InvalidTopic));
        assert_eq!(create(&admin, "c", 100_001).await, Some(ErrorCode::InvalidPartitions));
        let set = [("retention.ms".to_owned(), Some("5000".to_owned()))];
        assert_eq!(admin.alter_topic("a", Some(5), &set).await, Ok(5));
        let wrong = [("segment.bytes".to_owned(), Some("5000".to_owned()))];
        let error = admin.alter_topic("a", None, &wrong).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::InvalidConfig));
        admin.delete_topic("b").await.unwrap();
        let error = admin.delete_topic("b").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));

        for round in 0..4 {
            if round % 2 == 0 {
                broker.stop()
            } else {
                broker.kill()
            }
            broker.start();
            let admin = connect(&broker).await.admin();
            let names: Vec<_> =
                admin.list_topics().await.unwrap().into_iter().map(|topic| topic.name).collect();
            assert_eq!(names, ["a"]);
            let topic = admin.describe("a").await.unwrap();
            assert_eq!(topic.shards.len(), 5);
            let set: Vec<_> = topic.configs.iter().filter(|(_, _, is_set)| *is_set).collect();
            assert_eq!(set.len(), 1);
            assert_eq!((set[0].0.as_str(), set[0].1.as_str()), ("retention.ms", "5000"));
        }
    });
}

#[test]
fn a_name_can_be_deleted_and_created_again_and_again() {
    with_broker(2, async |broker| {
        let admin = connect(&broker).await.admin();
        for _ in 0..50 {
            assert_eq!(create(&admin, "t", 4).await, None);
            admin.delete_topic("t").await.unwrap();
        }
        assert!(admin.list_topics().await.unwrap().is_empty());
    });
}

#[test]
fn producer_ids_are_never_given_out_twice() {
    with_broker(1, async |mut broker| {
        let mut last = -1;
        for _ in 0..3 {
            let admin = connect(&broker).await.admin();
            for _ in 0..3 {
                let (id, epoch) = admin.init_producer_id().await.unwrap();
                assert!(id > last && epoch == 0);
                last = id;
            }
            broker.kill();
            broker.start();
        }
    });
}

#[test]
fn thousands_of_topics_and_partitions() {
    with_broker(2, async |mut broker| {
        let admin = connect(&broker).await.admin();
        assert_eq!(create(&admin, "wide", 10_000).await, None);
        let many: Vec<_> = (0..500)
            .map(|number| {
                let admin = admin.clone();
                tokio::spawn(async move { create(&admin, &format!("topic-{number}"), 1).await })
            })
            .collect();
        for one in many {
            assert_eq!(one.await.unwrap(), None);
        }
        broker.kill();
        broker.start();
        let admin = connect(&broker).await.admin();
        assert_eq!(admin.list_topics().await.unwrap().len(), 501);
        assert_eq!(admin.describe("wide").await.unwrap().shards.len(), 10_000);
    });
}

fn record(number: u64, bytes: usize) -> Record {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(bytes.max(8), number as u8);
    Record {
        key: Some(format!("key-{}", number % 100).into()),
        value: Some(value.into()),
        ..Record::default()
    }
}

/// Sends `numbers`; answers how many each partition acknowledged.
async fn produce(client: &Client, numbers: std::ops::Range<u64>, options: ProducerOptions) {
    let producer = Producer::new(client, options);
    let mut deliveries = Vec::new();
    for number in numbers {
        deliveries.push(producer.send("t", record(number, 200)).await);
    }
    producer.flush().await;
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    producer.close().await;
}

#[test]
fn full_batches_fit_small_segments() {
    let folder = folder();
    let small = ["--set", "segment.bytes=1MiB", "--set", "memory.bytes=64MiB"];
    let mut broker = Broker::new(&folder.path().join("data"), 2, &small);
    if !broker.start() {
        return;
    }
    run(async {
        let client = connect(&broker).await;
        assert_eq!(create(&client.admin(), "t", 2).await, None);
        let options = ProducerOptions { linger: Duration::from_secs(1), ..ProducerOptions::default() };
        let producer = Producer::new(&client, options);
        let mut deliveries = Vec::new();
        for number in 0..100 {
            deliveries.push(producer.send("t", record(number, 100_000)).await);
        }
        producer.flush().await;
        for delivery in deliveries {
            delivery.await.unwrap();
        }
        producer.close().await;
        assert_eq!(consume(&client).await.values().map(Vec::len).sum::<usize>(), 100);
    });
    broker.stop();
}

/// Every record of the topic, by partition, in order.
async fn consume(client: &Client) -> BTreeMap<u32, Vec<u64>> {
    let offsets = client.admin().offsets("t").await.unwrap();
    let consumer = Consumer::new(client, ConsumerOptions::default());
    let mut left = 0;
    for (partition, (first, end)) in offsets.iter().enumerate() {
        consumer.assign("t", partition as u32, Position::Earliest);
        left += end - first;
    }
    let mut found: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    while left > 0 {
        let next = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await;
        let record = next.expect("records arrive").unwrap();
        let of = found.entry(record.partition).or_default();
        assert_eq!(
            record.offset,
            offsets[record.partition as usize].0 + of.len() as i64,
            "offsets are dense"
        );
        of.push(u64::from_le_bytes(record.value.unwrap()[..8].try_into().unwrap()));
        left -= 1;
    }
    found
}

fn check(found: &BTreeMap<u32, Vec<u64>>, count: u64) {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut all: Vec<u64> = Vec::new();
    for numbers in found.values() {
        for number in numbers {
            let before = last.insert(number % 100, *number);
            assert!(before.is_none_or(|before| before < *number), "records of a key are in order");
        }
        all.extend(numbers);
    }
    all.sort_unstable();
    assert_eq!(all.len() as u64, count);
    assert!(all.iter().copied().eq(0..count), "each record once");
}

#[test]
fn records_survive_stops_kills_and_other_shard_counts() {
    with_broker(2, async |mut broker| {
        let client = connect(&broker).await;
        client.admin().create_topic("t", Some(PARTITIONS), &[]).await.unwrap();
        let mut count = 0;
        for (round, shards) in [2, 1, 4, 3, 1, 2].into_iter().enumerate() {
            if round > 0 {
                if round % 2 == 0 {
                    broker.stop()
                } else {
                    broker.kill()
                }
                broker.set_shards(shards);
                broker.start();
            }
            let client = connect(&broker).await;
            produce(&client, count..count + 5000, ProducerOptions::default()).await;
            count += 5000;
            check(&consume(&client).await, count);
        }
    });
}

#[test]
fn a_producer_outlives_its_broker() {
    with_broker(2, async |mut broker| {
        let client = connect(&broker).await;
        client.admin().create_topic("t", Some(PARTITIONS), &[]).await.unwrap();
        let options = ProducerOptions { delivery_timeout: None, ..ProducerOptions::default() };
        let sender = client.clone();
        let sending = tokio::spawn(async move { produce(&sender, 0..40_000, options).await });
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            broker.kill();
            broker.start();
            connect(&broker).await;
        }
        sending.await.unwrap();
        check(&consume(&connect(&broker).await).await, 40_000);
    });
}

#[test]
fn every_kind_of_acknowledgement() {
    with_broker(1, async |broker| {
        let client = connect(&broker).await;
        client.admin().create_topic("t", Some(2), &[]).await.unwrap();
        let mut count = 0;
        for acks in [Acks::All, Acks::Leader, Acks::None] {
            produce(&client, count..count + 1000, ProducerOptions { acks, ..ProducerOptions::default() })
                .await;
            count += 1000;
        }
        let began = Instant::now();
        while client.admin().offsets("t").await.unwrap().iter().map(|(_, end)| end).sum::<i64>()
            < count as i64
        {
            assert!(began.elapsed() < Duration::from_secs(10), "what was not acknowledged arrives too");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        check(&consume(&client).await, count);
    });
}
