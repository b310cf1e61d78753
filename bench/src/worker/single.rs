//! Clients that send one record and wait for its acknowledgement before the next.
//!
//! Owner: the worker's runtime, whose one thread also drives the clients: no time goes into waking
//! another thread.

use std::sync::atomic::Ordering;

use ringlog::client::{Producer, Record};

use super::{Progress, Task, producer_options, sleep_until, sum_of};
use crate::job::{Produce, Report, Window};
use crate::keys::KeySource;
use crate::process::now_ns;
use crate::stats::{self, Latency};
use crate::values::{self, Values};

pub(super) async fn run(task: &Task, work: &Produce) -> Result<Report, String> {
    let window = task.window;
    let mut tasks = Vec::new();
    for (number, client) in (work.number..).zip(&task.clients) {
        let producer = Producer::new(client, producer_options(work));
        let (topic, work, progress) = (task.job.topic.clone(), work.clone(), task.progress.clone());
        tasks.push(tokio::spawn(async move {
            let sent = send(&producer, &topic, &work, number, window, &progress).await;
            producer.close().await;
            sent
        }));
    }
    sum_of(tasks, window).await
}

async fn send(
    producer: &Producer,
    topic: &str,
    work: &Produce,
    number: u32,
    window: Window,
    progress: &Progress,
) -> (Report, Latency) {
    let (mut report, mut latency) = (Report::default(), stats::latency());
    let mut values = Values::new(number, work.size as usize);
    let mut keys = KeySource::new(work.keys, number);
    let value_bytes = values::value_bytes(work.size) as u64;
    let records_max = work.records_max.unwrap_or(u64::MAX);
    sleep_until(window.start_ns).await;
    for _ in 0..records_max {
        let start = now_ns();
        if start >= window.stop_ns {
            break;
        }
        let value = values.next(start);
        let sum = if work.sums { values::checksum(&value) } else { 0 };
        let record = Record { key: keys.next(), value: Some(value), ..Record::default() };
        if let Err(error) = producer.send(topic, record).await.await {
            report.errors += 1;
            report.first_error.get_or_insert(error.to_string());
            continue;
        }
        let now = now_ns();
        report.records_total += 1;
        report.bytes_total += value_bytes;
        report.sum = report.sum.wrapping_add(sum);
        report.last_ns = now;
        progress.fetch_add(1, Ordering::Relaxed);
        if window.counts(now) {
            report.records += 1;
            report.bytes += value_bytes;
        }
        if window.counts(start) {
            latency.saturating_record((now - start) / 1000);
        }
    }
    (report, latency)
}
