//! The row of bad company: stalled consumers, idle connections, slow readers and writers, garbage on
//! the port, others flat out; and one victim that only wants its rate.
//!
//! Owner: ringbench's parent process.

use std::time::Duration;

use ringlog::model::PartitionId;
use ringlog::wire::{self, Fetch, FetchHandle, Reply, Request, TopicRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::case::tell;
use crate::cli::{Keys, Load};
use crate::figures::{put, ratio, summarise};
use crate::process;
use crate::rig::{self, Rig};
use crate::round::{self, timed};
use crate::row::{Row, at_least, at_most};
use crate::server::Subject;
use crate::units::{Bytes, Span, grouped, short};

use super::Plan;
use super::memory::{hello, idle};

const BUDGET: u64 = 1 << 30;
const IDLE: u32 = 5_000;
const STALLED: u32 = 20;
const SLOW: u32 = 20;
/// Filled before, so that stalled readers have something to stall on.
const FILL: u64 = 512 << 20;
const PARTITIONS: u32 = 16;
/// Bounds of p99.99 and of the longest step.
const STALL_US: (f64, f64) = (500.0, 2_000.0);

pub async fn run(plan: &Plan) -> Result<Vec<Row>, String> {
    let seconds = plan.amount(30, 8);
    let load = Load { duration: Span(Duration::from_secs(seconds)), partitions: PARTITIONS, ..plan.load() };
    let mut setup = rig::setup(&load, false);
    setup.settings.push(format!("memory.bytes={BUDGET}"));
    let rig = Rig::start(Subject::Broker, &load, &setup, Some(load.place.keep.0)).await?;
    round::fill("hostile: fill", &rig, &load, FILL).await?;
    let rate = round::saturate("hostile", &rig, &load).await? / 10.0;
    let victim = Load { rate: Some(rate), memory: Bytes(32 << 20), keys: Keys::None, ..load.clone() };
    let mut jobs = rig.producers_beside("victim", &victim).await?;
    jobs.extend(rig.producers(&load, None));
    let connections = idle(&rig.address, IDLE).await?;
    let mut company = JoinSet::new();
    for number in 0..STALLED {
        company.spawn(stall(rig.address.clone(), rig.topic.clone(), number));
    }
    for number in 0..SLOW {
        company.spawn(write_slowly(rig.address.clone(), number));
        company.spawn(read_slowly(rig.address.clone(), rig.topic.clone(), number));
    }
    company.spawn(throw_garbage(rig.address.clone()));
    let worked = round::work("hostile", rig.pid(), load.place.dir(), &jobs, timed(&load)).await?;
    company.abort_all();
    drop(connections);
    let own = worked.part(0..1).figures(Subject::Broker, &jobs[..1], timed(&load));
    let others = worked.part(1..jobs.len()).figures(Subject::Broker, &jobs[1..], timed(&load));
    let resident = rig.pid().and_then(process::use_of).map(|server| server.resident_bytes_max as f64);
    let said = rig.stop_and_hear().await?;
    let kept = ratio(own.main().map(|flow| flow.records_per_second()), Some(rate));
    let rounds = [own.of_one_among_others(), others];
    let mut metrics = summarise(&rounds[..1]);
    put(&mut metrics, "rate", Some(rate));
    put(&mut metrics, "victim_kept", kept);
    put(&mut metrics, "resident_share_of_budget", ratio(resident, Some(BUDGET as f64)));
    let mut row = Row::new(
        format!(
            "a victim at 10 % among {} idle, {STALLED} stalled, {} slow, garbage",
            grouped(IDLE.into()),
            2 * SLOW
        ),
        metrics,
    );
    row.add_errors(&rounds[1..]);
    tell(&mut row, &rounds);
    row.goals.extend([at_least("victim_kept", 0.9), at_most("resident_share_of_budget", 1.0)]);
    row.notes.push(format!(
        "the victim kept {} of its {} records a second; the broker's largest resident memory: {} MiB of a \
         budget of {} MiB",
        short(kept.unwrap_or(0.0)),
        grouped(rate),
        grouped(resident.unwrap_or(0.0) / f64::from(1 << 20)),
        BUDGET >> 20
    ));
    Ok(vec![row, stalls(&said)])
}

/// The longest working steps of the shards, as the broker tells them when it stops: a line with `stall`,
/// `p99.99 N us` and `max N us` for each shard. The worst counts.
fn stalls(said: &str) -> Row {
    let goals = [at_most("stall_p99_99_us", STALL_US.0), at_most("stall_max_us", STALL_US.1)];
    let name = "a working step of a shard, in thread CPU time";
    let after = |line: &str, word: &str| {
        let (_, rest) = line.split_once(word)?;
        rest.split_whitespace().next()?.replace(',', "").parse::<f64>().ok()
    };
    let worst = |word: &str| {
        let lines = said.lines().filter(|line| line.contains("stall"));
        lines.filter_map(|line| after(line, word)).reduce(f64::max)
    };
    let (Some(high), Some(most)) = (worst("p99.99 "), worst("max ")) else {
        return Row::failed(name, goals.into(), "the broker tells no stall histogram when it stops");
    };
    let mut metrics = crate::figures::Metrics::new();
    put(&mut metrics, "stall_p99_99_us", Some(high));
    put(&mut metrics, "stall_max_us", Some(most));
    let mut row = Row::new(name, metrics);
    row.goals.extend(goals);
    row
}

/// Sends a request and reads frames until the one that answers it.
async fn ask(stream: &mut TcpStream, request: &Request, corr: u32) -> Option<Reply> {
    let mut bytes = Vec::new();
    request.encode(corr, 0, &mut bytes);
    stream.write_all(&bytes).await.ok()?;
    let mut frames = wire::FrameReader::new(wire::FRAME_BYTES_MAX);
    loop {
        if let Some((header, body)) = frames.next().ok()? {
            return Reply::decode(header.op()?, &body).ok();
        }
        let count = stream.read(frames.space()).await.ok().filter(|count| *count > 0)?;
        frames.filled(count);
    }
}

/// Opens as many partitions as the connection's shard has; gives their handles.
async fn open(stream: &mut TcpStream, topic: &str) -> Vec<(PartitionId, u32)> {
    let mut handles = Vec::new();
    for partition in 0..PARTITIONS {
        let open = Request::Open { topic: TopicRef::Name(topic.to_owned()), partition };
        if let Some(Reply::Open(opened)) = ask(stream, &open, partition).await {
            handles.push((opened.partition, opened.handle));
        }
    }
    handles
}

fn fetch(handles: &[(PartitionId, u32)]) -> Vec<u8> {
    let entry =
        |(_, handle): &(PartitionId, u32)| FetchHandle { handle: *handle, bytes_max: 8 << 20, offset: 0 };
    let handles = handles.iter().map(entry).collect();
    let fetch = Fetch { wait_ms_max: 500, bytes_min: 1, bytes_max: 8 << 20, handles };
    let mut bytes = Vec::new();
    Request::Fetch(fetch).encode(99, 0, &mut bytes);
    bytes
}

/// Asks for much, again and again, and reads nothing of it.
async fn stall(address: String, topic: String, number: u32) {
    loop {
        if let Ok(mut stream) = hello(&address, number).await {
            let handles = open(&mut stream, &topic).await;
            let bytes = fetch(&handles);
            while stream.write_all(&bytes).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        // Thrown out: it comes back.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Reads what it asked for, a few bytes at a time.
async fn read_slowly(address: String, topic: String, number: u32) {
    let mut part = [0; 512];
    loop {
        if let Ok(mut stream) = hello(&address, number).await {
            let handles = open(&mut stream, &topic).await;
            if stream.write_all(&fetch(&handles)).await.is_ok() {
                while stream.read(&mut part).await.is_ok_and(|count| count > 0) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Announces a large produce, and sends it byte by byte.
async fn write_slowly(address: String, number: u32) {
    loop {
        if let Ok(mut stream) = hello(&address, number).await {
            let head = wire::encode_produce_prefix(1, 1, wire::Acks::All, 1_000_000);
            if stream.write_all(&head).await.is_ok() {
                while stream.write_all(&[0]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn throw_garbage(address: String) {
    let mut state = 1u64;
    loop {
        let garbage: Vec<u8> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        if let Ok(mut stream) = TcpStream::connect(&address).await {
            // Refused sooner or later, which is what is wanted.
            let _ = stream.write_all(&garbage).await;
        }
        if let Ok(mut stream) = hello(&address, 0).await {
            let _ = stream.write_all(&garbage).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_shard_counts() {
        let said = "ringlog shard-0: info: stall p99 10 us, p99.99 120 us, max 900 us\n\
                    ringlog shard-1: info: stall p99 10 us, p99.99 80 us, max 1,700 us\n";
        let row = stalls(said);
        assert_eq!(row.reached(), Some(true), "{}", row.json());
        assert_eq!(row.metrics["stall_max_us"], 1700.0);
        assert_eq!(stalls("nothing").reached(), Some(false));
    }
}
