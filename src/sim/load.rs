//! The clients of a schedule: producers, consumers, an administrator.
//!
//! Floor 6. They are programs as a user would write them, on the real client's handles.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::history::{History, Place, Promise, value};
use super::shell::{drive, millis};
use super::topics::{Role, TopicPlan};
use crate::client::{
    Acks, Admin, Compression, ConsumeError, ConsumerHandle, ConsumerOptions, OffsetReset, Position,
    ProducerOptions, Record, Settings, Times,
};
use crate::model::{ErrorCode, Offset};
use crate::rt::{Level, Random, Rt};

pub(super) type Shared = Rc<RefCell<History>>;

/// Patience of an administrator's question: longer than a broker is ever away.
const ADMIN_TIMEOUT_MS: u64 = 600_000;

/// Then the administrator rests, so that what its acts left over can come to an end.
const ADMIN_ACTS_MAX: u32 = 30;

fn settings() -> Settings {
    Settings {
        connect_timeout_ms: 300,
        request_timeout_ms: 2_000,
        backoff_ms_max: 100,
        ..Settings::default()
    }
}

pub(super) fn admin(rt: &Rt, broker: SocketAddr) -> Admin {
    let (admin, machine) = Admin::start(broker.to_string(), ADMIN_TIMEOUT_MS, settings(), rt.random() | 1);
    let bell = machine.bell();
    rt.spawn(drive(rt.clone(), machine, bell, broker, settings().frame_bytes_max));
    admin
}

pub(super) fn consumer(rt: &Rt, broker: SocketAddr) -> ConsumerHandle {
    let options =
        ConsumerOptions { reset: OffsetReset::Earliest, prefetch_bytes: 256 << 10, wait_ms_max: 50 };
    let (handle, machine) = options.start(settings(), rt.random() | 1);
    let bell = machine.bell();
    rt.spawn(drive(rt.clone(), machine, bell, broker, settings().frame_bytes_max));
    handle
}

/// Creates the topics, then lets the others begin.
pub(super) async fn prepare(admin: &Admin, topics: &[TopicPlan], history: &Shared) {
    for topic in topics {
        let created = admin.create_topic(&topic.name, Some(topic.partitions), &topic.configs()).await;
        if let Err(error) = created
            && error.code() != Some(ErrorCode::TopicAlreadyExists)
        {
            history.borrow_mut().violation(format!("topic {} was not created: {error}", topic.name));
        }
        history.borrow_mut().succeeded();
    }
    history.borrow_mut().topics_ready = true;
}

async fn ready(rt: &Rt, history: &Shared) {
    while !history.borrow().topics_ready {
        rt.sleep(Duration::from_millis(2)).await;
    }
}

/// What kind of producer it is.
fn producer_options(random: &mut Random) -> ProducerOptions {
    let idempotent = random.chance(800_000);
    ProducerOptions {
        acks: match random.below(10) {
            0 => Acks::None,
            1 => Acks::Leader,
            _ => Acks::All,
        },
        compression: [Compression::None, Compression::Lz4, Compression::Zstd][random.below(3) as usize],
        linger: Duration::from_millis(random.below(6)),
        batch_bytes: 2_000 << random.below(5),
        memory_bytes: 64 << 10,
        delivery_timeout: None,
        idempotent,
    }
}

pub(super) async fn produce(
    rt: Rt,
    broker: SocketAddr,
    number: u32,
    records: u32,
    topics: Vec<TopicPlan>,
    history: Shared,
) {
    ready(&rt, &history).await;
    let mut random = Random::new(rt.random());
    let options = producer_options(&mut random);
    let durable = options.acks != Acks::None;
    let promise = Promise { idempotent: options.idempotent && durable, durable };
    let (handle, machine) = options.start(settings(), rt.random() | 1);
    let bell = machine.bell();
    rt.spawn(drive(rt.clone(), machine, bell, broker, settings().frame_bytes_max));
    let pause_us = random.below(8_000);
    for _ in 0..records {
        let topic = &topics[random.below(topics.len() as u64) as usize];
        let bytes = if random.chance(100_000) { random.below(9_000) } else { random.below(2_500) } as usize;
        let id = history.borrow_mut().send(&topic.name, bytes, number, promise);
        let record = Record {
            partition: Some(random.below(u64::from(topic.partitions)) as u32),
            value: Some(value(id, bytes)),
            ..Record::default()
        };
        let partition = record.partition.unwrap_or(0);
        let clock = || Times { now: millis(&rt), wall_ms: rt.wall_ms() };
        let delivery = handle.send(clock, &topic.name, record).await;
        let told = history.clone();
        rt.spawn(async move {
            let outcome = delivery.await;
            let offset = outcome.as_ref().map(|metadata| metadata.offset);
            told.borrow_mut().ended(id, partition, offset);
        });
        if pause_us > 0 && random.chance(300_000) {
            rt.sleep(Duration::from_micros(random.below(pause_us * 4))).await;
        }
    }
    handle.close().await;
    rt.yield_now().await;
    history.borrow_mut().producers_done += 1;
}

/// Reads all partitions from the beginning until it is told to stop.
pub(super) async fn consume(rt: Rt, broker: SocketAddr, topics: Vec<TopicPlan>, history: Shared) {
    ready(&rt, &history).await;
    let handle = consumer(&rt, broker);
    for topic in &topics {
        for partition in 0..topic.partitions {
            handle.assign(&topic.name, partition, Position::Earliest);
        }
    }
    while !history.borrow().stop_consuming {
        match handle.next_batch().await {
            Ok(batch) => {
                let place: Place = (batch.topic.to_string(), batch.partition);
                for record in batch.records() {
                    match record {
                        Ok(record) => history.borrow_mut().read(&place, record.offset, record.value),
                        Err(error) => history.borrow_mut().violation(format!("{place:?}: {error}")),
                    }
                }
            }
            Err(error) => recover(&handle, error, &history),
        }
    }
    handle.close();
}

/// Goes on behind what a partition cannot give.
pub(super) fn recover(handle: &ConsumerHandle, error: ConsumeError, history: &Shared) {
    // A partition that is no longer assigned needs no seek.
    let _ = match error {
        ConsumeError::Corrupt { topic, partition, offset, next_offset, text } => {
            if text.contains("checksum is wrong") {
                // The client found it: the broker should have.
                let text = format!("{topic}-{partition} offset {offset}: damaged bytes were served");
                history.borrow_mut().violation(text);
            }
            let next = next_offset.unwrap_or(offset + 1);
            history.borrow_mut().damaged.push(((topic.clone(), partition), offset, next));
            handle.seek(&topic, partition, Position::Offset(next))
        }
        ConsumeError::Compressed { topic, partition, offset, .. } => {
            let text = format!("{topic}-{partition} offset {offset}: a codec that nobody used was served");
            history.borrow_mut().violation(text);
            Ok(())
        }
        ConsumeError::OffsetOutOfRange { topic, partition, .. } => {
            handle.seek(&topic, partition, Position::Earliest)
        }
        ConsumeError::TopicGone { topic, partition, .. } | ConsumeError::Refused { topic, partition, .. } => {
            handle.assign(&topic, partition, Position::Earliest);
            Ok(())
        }
        ConsumeError::NotAssigned { .. } | ConsumeError::Closed => Ok(()),
    };
}

/// Trims, deletes and creates again, until the producers are done.
pub(super) async fn administer(
    rt: Rt,
    broker: SocketAddr,
    topics: Vec<TopicPlan>,
    producers: u32,
    history: Shared,
) {
    let admin = admin(&rt, broker);
    prepare(&admin, &topics, &history).await;
    let mut random = Random::new(rt.random());
    for _ in 0..ADMIN_ACTS_MAX {
        if history.borrow().producers_done == producers {
            break;
        }
        rt.sleep(Duration::from_millis(random.below(200))).await;
        let topic = &topics[random.below(topics.len() as u64) as usize];
        match topic.role {
            Role::Trim => trim(&rt, &admin, topic, &mut random, &history).await,
            Role::Churn => churn(&rt, &admin, topic, &history).await,
            Role::Keep | Role::Size => (),
        }
    }
    history.borrow_mut().admin_done = true;
}

async fn trim(rt: &Rt, admin: &Admin, topic: &TopicPlan, random: &mut Random, history: &Shared) {
    let partition = random.below(u64::from(topic.partitions)) as u32;
    let place: Place = (topic.name.clone(), partition);
    let known = history.borrow().sent.values().filter(|sent| sent.place == place).count() as u64;
    let before = random.below(known + 1) as Offset;
    {
        let mut history = history.borrow_mut();
        let asked = history.trims_asked.entry(place.clone()).or_insert(0);
        *asked = before.max(*asked);
    }
    let trimmed = admin.delete_records(&topic.name, partition, Some(before)).await;
    rt.log(Level::Info, format!("trimmed {place:?} below {before}: {trimmed:?}"));
    if let Ok(log_start) = trimmed {
        let mut history = history.borrow_mut();
        history.succeeded();
        let done = history.trims_done.entry(place).or_insert(0);
        *done = log_start.max(before).max(*done);
    }
}

async fn churn(rt: &Rt, admin: &Admin, topic: &TopicPlan, history: &Shared) {
    let count = || *history.borrow_mut().deletions.entry(topic.name.clone()).or_insert(0) += 1;
    count();
    let deleted = admin.delete_topic(&topic.name).await;
    rt.log(Level::Info, format!("deleted {}: {deleted:?}", topic.name));
    history.borrow_mut().succeeded();
    let created = admin.create_topic(&topic.name, Some(topic.partitions), &topic.configs()).await;
    rt.log(Level::Info, format!("created {}: {created:?}", topic.name));
    let failures = [deleted.err(), created.err()].into_iter().flatten();
    for error in failures {
        let expected = [ErrorCode::TopicAlreadyExists, ErrorCode::UnknownTopicOrPartition];
        if !error.code().is_some_and(|code| expected.contains(&code)) {
            history.borrow_mut().violation(format!("topic {} was not renewed: {error}", topic.name));
        }
    }
    count();
}
