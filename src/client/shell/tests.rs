//! The tokio shell over real sockets, against the fake broker.
//!
//! Floor 5.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::base::lock;
use crate::client::testing::broker::{Answer, FakeBroker, Session};
use crate::client::{At, OffsetReset, ProduceError};
use crate::wire::{FRAME_BYTES_MAX, FrameReader, Header};

type Shared = Arc<Mutex<FakeBroker>>;

async fn listen(broker: FakeBroker) -> (String, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let broker: Shared = Arc::new(Mutex::new(broker));
    let shared = broker.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, shared.clone()));
        }
    });
    (address, broker)
}

async fn serve(mut stream: TcpStream, broker: Shared) {
    let mut frames = FrameReader::new(FRAME_BYTES_MAX);
    let mut session = Session::default();
    let mut preface = false;
    while let Ok(count @ 1..) = stream.read(frames.space()).await {
        frames.filled(count);
        preface = preface || frames.take_preface().expect("our preface");
        while let Some((header, body)) = frames.next().expect("well-formed frames") {
            let answer = answer(&broker, &mut session, &header, &body).await;
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

async fn answer(broker: &Shared, session: &mut Session, header: &Header, body: &bytes::Bytes) -> Vec<u8> {
    for is_late in [false, true] {
        let answer = lock(broker).handle(session, header, body, is_late);
        match answer {
            Answer::Now(bytes) => return bytes,
            Answer::None => return Vec::new(),
            Answer::Park(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    Vec::new()
}

fn record(value: String) -> Record {
    Record { value: Some(value.into()), ..Default::default() }
}

#[tokio::test]
async fn records_go_there_and_back() {
    let (address, _broker) = listen(FakeBroker::new(2)).await;
    let client = Client::connect(Options::new(address)).await.expect("it listens");
    let admin = client.admin();
    assert_eq!(admin.create_topic("t", Some(3), &[]).await, Ok(3));
    let producer = Producer::new(&client, ProducerOptions::default());
    let mut deliveries = Vec::new();
    for i in 0..5000 {
        deliveries.push(producer.send("t", record(format!("{i}"))).await);
    }
    producer.flush().await;
    for delivery in deliveries {
        delivery.await.expect("acknowledged");
    }
    let consumer = Consumer::new(&client, ConsumerOptions::default());
    for partition in 0..3 {
        consumer.assign("t", partition, Position::Earliest);
    }
    let mut seen = Vec::new();
    while seen.len() < 5000 {
        let record = consumer.next().await.expect("nothing is damaged");
        let value = record.value.expect("each has a value");
        seen.push(std::str::from_utf8(&value).expect("digits").parse::<u32>().expect("digits"));
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..5000));
    let offsets = admin.offsets("t").await.expect("the topic exists");
    assert_eq!(offsets.iter().map(|(_, latest)| latest).sum::<i64>(), 5000);
    producer.close().await;
    consumer.close();
    assert_eq!(consumer.next().await, Err(ConsumeError::Closed));
    let late = producer.send("t", record("late".into())).await;
    assert_eq!(late.await, Err(ProduceError::Closed));
}

#[tokio::test]
async fn topics_are_administered() {
    let (address, broker) = listen(FakeBroker::new(2)).await;
    let client = Client::connect(Options::new(address)).await.expect("it listens");
    let admin = client.admin();
    let configs = [("retention.ms".to_owned(), "5".to_owned())];
    admin.create_topic("a", Some(2), &configs).await.expect("new");
    admin.create_topic("b", None, &[]).await.expect("new");
    let names: Vec<_> =
        admin.list_topics().await.expect("listed").into_iter().map(|topic| topic.name).collect();
    assert_eq!(names, ["a", "b"]);
    let described = admin.describe("a").await.expect("it exists");
    assert_eq!(described.shards, [0, 1]);
    assert_eq!(described.configs, [("retention.ms".into(), "5".into(), true)]);
    assert_eq!(admin.alter_topic("a", Some(4), &[]).await, Ok(4));
    lock(&broker).topics.get_mut("a").expect("created").partitions[1].end = 10;
    let latest = admin.list_offset("a", 1, At::Latest).await.expect("it exists");
    assert_eq!(latest.offset, 10);
    assert_eq!(admin.delete_records("a", 1, Some(7)).await, Ok(7));
    assert_eq!(admin.offsets("a").await.expect("it exists")[1], (7, 10));
    admin.delete_topic("a").await.expect("it exists");
    for result in [
        admin.delete_topic("a").await.map(drop),
        admin.describe("a").await.map(drop),
        admin.offsets("a").await.map(drop),
        admin.list_offset("a", 0, At::Latest).await.map(drop),
        admin.list_offset("b", 7, At::Latest).await.map(drop),
    ] {
        let code = result.expect_err("it is gone").code();
        assert_eq!(code, Some(crate::model::ErrorCode::UnknownTopicOrPartition));
    }
    let exists = admin.create_topic("b", None, &[]).await.expect_err("it exists");
    assert_eq!(exists.code(), Some(crate::model::ErrorCode::TopicAlreadyExists));
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let options = Options { connect_timeout: Duration::from_millis(200), ..Options::new(address.clone()) };
    let error = Client::connect(options).await.expect_err("nobody listens");
    assert!(matches!(&error, ClientError::Unreachable { broker, .. } if *broker == address), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_reader_waits_for_what_is_written_later() {
    let mut broker = FakeBroker::new(1);
    broker.create("t", 1);
    let (address, _broker) = listen(broker).await;
    let client = Client::connect(Options::new(address)).await.expect("it listens");
    let options = ConsumerOptions { reset: OffsetReset::Error, ..Default::default() };
    let consumer = Consumer::new(&client, options);
    consumer.assign("t", 0, Position::Latest);
    let reading = tokio::spawn(async move { consumer.next().await });
    while !reading.is_finished() {
        let producer = Producer::new(&client, ProducerOptions::default());
        tokio::time::sleep(Duration::from_millis(50)).await;
        producer.send("t", record("news".into())).await.await.expect("acknowledged");
        producer.close().await;
    }
    let record = reading.await.expect("no panic").expect("nothing is damaged");
    assert_eq!(record.value.as_deref(), Some(&b"news"[..]));
}
