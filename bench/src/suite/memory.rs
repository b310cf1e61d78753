//! Rows of memory: what a partition, a topic and an idle connection cost.
//!
//! Owner: ringbench's parent process. Slopes of the broker's resident memory: what it takes however
//! little there is falls out of the difference, and so does what the first of a kind takes. Its budget for
//! records is small and full before the first look, so that the records themselves do not count.

use std::time::Duration;

use ringlog::client::{Client, Producer, ProducerOptions, Record};
use ringlog::wire::{Hello, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cli::{Keys, Load};
use crate::figures::{Metrics, put};
use crate::process;
use crate::progress::say;
use crate::rig::{self, Rig};
use crate::round;
use crate::row::{Row, at_most};
use crate::server::Subject;
use crate::units::grouped;
use crate::worker::connect;

use super::Plan;

const BUDGET: u64 = 256 << 20;
/// Written before the first look.
const FILL: u64 = 1 << 30;
/// What was let go of is given back to the system by then.
const SETTLE: Duration = Duration::from_secs(3);
const CREATORS: u32 = 32;
const IDLE: u32 = 5_000;
/// What comes before the first look, as a part of what comes after it.
const FIRST_SHARE: u32 = 5;

pub async fn run(plan: &Plan) -> Result<Vec<Row>, String> {
    let partitions = plan.amount(100_000, 20_000);
    let topics = plan.amount(100_000, 5_000);
    let mut rows = Vec::new();
    let rig = start(plan).await?;
    let name = format!("a partition of {} in one topic, written once", grouped(partitions.into()));
    let slope = of_partitions(&rig, partitions).await;
    rows.push(row(name, "bytes_per_partition", 300.0, slope));
    rig.stop().await?;
    let rig = start(plan).await?;
    let name = format!("a topic of {}, written once", grouped(topics.into()));
    let slope = of_topics(&rig, topics).await;
    rows.push(row(name, "bytes_per_topic", 1024.0, slope));
    rig.stop().await?;
    let rig = start(plan).await?;
    let name = format!("an idle connection of {}", grouped(IDLE.into()));
    let slope = of_connections(&rig).await;
    rows.push(row(name, "bytes_per_connection", 16384.0, slope));
    rig.stop().await?;
    Ok(rows)
}

fn row(name: String, figure: &'static str, most: f64, slope: Result<f64, String>) -> Row {
    let goal = at_most(figure, most);
    match slope {
        Ok(slope) => {
            let mut metrics = Metrics::new();
            put(&mut metrics, figure, Some(slope));
            let mut row = Row::new(name, metrics);
            row.goals.push(goal);
            row.notes.push(format!("{} bytes of resident memory each", grouped(slope)));
            row
        }
        Err(why) => Row::failed(name, vec![goal], &why),
    }
}

/// A broker whose memory for records is in use already.
async fn start(plan: &Plan) -> Result<Rig, String> {
    let load = Load { keys: Keys::None, ..plan.load() };
    let mut setup = rig::setup(&load, false);
    setup.settings.push(format!("memory.bytes={BUDGET}"));
    let rig = Rig::start(Subject::Broker, &load, &setup, Some(FILL)).await?;
    round::fill("memory: fill", &rig, &load, FILL).await?;
    Ok(rig)
}

async fn resident(rig: &Rig) -> Result<f64, String> {
    let pid = rig.pid().ok_or("the broker must be started here")?;
    tokio::time::sleep(SETTLE).await;
    let server = process::use_of(pid).ok_or("the broker has ended")?;
    Ok(server.resident_bytes as f64)
}

async fn slope(rig: &Rig, before: f64, count: u32) -> Result<f64, String> {
    let more = resident(rig).await? - before;
    if more <= 0.0 {
        return Err(format!("resident memory fell by {} bytes: what was freed hides them", grouped(-more)));
    }
    Ok(more / f64::from(count))
}

async fn of_partitions(rig: &Rig, partitions: u32) -> Result<f64, String> {
    // Once before, and smaller: what the first use of anything takes is no slope.
    write_partitions(rig, "few", partitions / FIRST_SHARE).await?;
    let before = resident(rig).await?;
    write_partitions(rig, "many", partitions).await?;
    slope(rig, before, partitions).await
}

async fn write_partitions(rig: &Rig, topic: &str, partitions: u32) -> Result<(), String> {
    let created = rig.client.admin().create_topic(topic, Some(partitions), &[]).await;
    created.map_err(|error| error.to_string())?;
    let client = connect(&rig.address).await?;
    let targets = (0..partitions).map(|partition| (topic.to_owned(), Some(partition)));
    write_once(&client, targets.collect()).await
}

/// Writes a record of 100 bytes to each, and waits until all are acknowledged.
async fn write_once(client: &Client, targets: Vec<(String, Option<u32>)>) -> Result<(), String> {
    let settings = ProducerOptions { linger: Duration::ZERO, ..ProducerOptions::default() };
    let producer = Producer::new(client, settings);
    let mut deliveries = Vec::with_capacity(targets.len());
    for (topic, partition) in targets {
        let value = Some(bytes::Bytes::from_static(&[b'm'; 100]));
        let record = Record { partition, value, ..Record::default() };
        deliveries.push(producer.send(&topic, record).await);
    }
    for delivery in deliveries {
        delivery.await.map_err(|error| error.to_string())?;
    }
    producer.close().await;
    Ok(())
}

async fn of_topics(rig: &Rig, topics: u32) -> Result<f64, String> {
    write_topics(rig, "few", topics / FIRST_SHARE).await?;
    let before = resident(rig).await?;
    write_topics(rig, "many", topics).await?;
    slope(rig, before, topics).await
}

async fn write_topics(rig: &Rig, prefix: &'static str, topics: u32) -> Result<(), String> {
    let mut creators = JoinSet::new();
    for creator in 0..CREATORS {
        let client = connect(&rig.address).await?;
        creators.spawn(async move {
            let numbers = (creator..topics).step_by(CREATORS as usize);
            let mine: Vec<String> = numbers.map(|number| format!("{prefix}-{number}")).collect();
            for (number, topic) in mine.iter().enumerate() {
                let created = client.admin().create_topic(topic, Some(1), &[]).await;
                created.map_err(|error| error.to_string())?;
                if creator == 0 && number % 500 == 499 {
                    say(&format!("memory: {} topics", grouped((number as f64 + 1.0) * f64::from(CREATORS))));
                }
            }
            // A producer remembers its topics: some at a time keep the client small.
            for part in mine.chunks(500) {
                write_once(&client, part.iter().map(|topic| (topic.clone(), None)).collect()).await?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(created) = creators.join_next().await {
        created.map_err(|error| error.to_string())??;
    }
    Ok(())
}

async fn of_connections(rig: &Rig) -> Result<f64, String> {
    let first = idle(&rig.address, IDLE / FIRST_SHARE).await?;
    let before = resident(rig).await?;
    let connections = idle(&rig.address, IDLE).await?;
    let slope = slope(rig, before, IDLE).await;
    drop((first, connections));
    slope
}

/// Connections that said hello and then nothing.
pub async fn idle(address: &str, count: u32) -> Result<Vec<TcpStream>, String> {
    // This process needs a descriptor for each: the runtime raises the limit to what is allowed.
    let _ = ringlog::rt::World::real();
    let mut connections = Vec::new();
    for number in 0..count {
        let connection = hello(address, number).await;
        connections.push(connection.map_err(|error| format!("connection {number}: {error}"))?);
    }
    Ok(connections)
}

/// A connection that the broker has greeted.
pub async fn hello(address: &str, number: u32) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let hello = Hello {
        version_min: ringlog::wire::VERSION_MIN,
        version_max: ringlog::wire::VERSION_MAX,
        // Spread over the shards; one that does not exist is as any.
        shard: number % 2,
        features: 0,
        frame_bytes_max: ringlog::wire::FRAME_BYTES_MAX,
        client_id: "ringbench-idle".into(),
    };
    let mut bytes = ringlog::wire::PREFACE.to_vec();
    Request::Hello(hello).encode(0, 0, &mut bytes);
    stream.write_all(&bytes).await?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).await?;
    // The first field is the length of what follows it.
    let length = u32::from_le_bytes([answer[0], answer[1], answer[2], answer[3]]) as usize;
    let mut rest = vec![0; (length + 4).saturating_sub(answer.len())];
    stream.read_exact(&mut rest).await?;
    Ok(stream)
}
