//! A consumer worker: reads everything from the start, or a little here and there.
//!
//! Owner: the worker's runtime; one task for each consumer of the process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringlog::client::{ConsumedBatch, Consumer, ConsumerOptions, Position};
use ringlog::rt::Random;
use tokio::time::timeout;

use super::{Progress, Task, sleep_until, sum_of};
use crate::job::{Consume, From, Job, Report, Window};
use crate::process::now_ns;
use crate::stats::{self, Latency};
use crate::values::stamp_of;

/// How often a reader that gets nothing looks at the clock.
const LOOK: Duration = Duration::from_millis(100);

/// After the window, producers may still wait for a broker that stands still.
const REST: Duration = Duration::from_secs(3);

/// After so long without a record the rest is taken for lost.
const SILENCE: Duration = Duration::from_secs(60);

struct Reader {
    consumer: Consumer,
    window: Window,
    records_max: u64,
    report: Report,
    latency: Latency,
    progress: Progress,
}

pub(super) async fn run(task: &Task, work: &Consume) -> Result<Report, String> {
    let (job, work, window) = (Arc::new(task.job.clone()), Arc::new(work.clone()), task.window);
    let mut tasks = Vec::new();
    for (instance, client) in (0u64..).zip(&task.clients) {
        let options = ConsumerOptions { prefetch_bytes: work.prefetch_bytes as usize, ..Default::default() };
        let mut reader = Reader {
            consumer: Consumer::new(client, options),
            window,
            records_max: work.records_max.unwrap_or(u64::MAX),
            report: Report::default(),
            latency: stats::latency(),
            progress: task.progress.clone(),
        };
        let (job, work) = (job.clone(), work.clone());
        tasks.push(tokio::spawn(async move {
            sleep_until(window.start_ns).await;
            match &work.from {
                From::Earliest => {
                    reader.read_all(&job).await;
                    if work.to_the_end {
                        reader.read_the_rest(&job).await;
                    }
                }
                From::Random { bytes, offsets } => {
                    let seed = u64::from(std::process::id()) << 32 | instance;
                    reader.read_here_and_there(&job, offsets, *bytes, seed).await;
                }
            }
            reader.consumer.close();
            (reader.report, reader.latency)
        }));
    }
    sum_of(tasks, window).await
}

impl Reader {
    async fn read_all(&mut self, job: &Job) {
        for partition in 0..job.partitions {
            self.consumer.assign(&job.topic, partition, Position::Earliest);
        }
        let mut heard_ns = now_ns();
        while !self.is_over() {
            if self.next().await.is_some() {
                heard_ns = now_ns();
            } else if now_ns().saturating_sub(heard_ns) > SILENCE.as_nanos() as u64 {
                let (read, wanted) = (self.report.records_total, self.records_max);
                self.fail(&format!("nothing came for {SILENCE:?}: {read} of {wanted} records were read"));
                return;
            }
        }
    }

    /// What was due in the window and is not here yet. It counts into the latency only.
    async fn read_the_rest(&mut self, job: &Job) {
        let mut heard_ns = now_ns();
        loop {
            if self.next().await.is_some() {
                heard_ns = now_ns();
                continue;
            }
            let is_at_end = |partition| {
                let position = self.consumer.position(&job.topic, partition);
                position.is_some() && position >= self.consumer.high_watermark(&job.topic, partition)
            };
            let silent_ns = now_ns().saturating_sub(heard_ns);
            if silent_ns > REST.as_nanos() as u64 && (0..job.partitions).all(is_at_end) {
                return;
            }
            if silent_ns > SILENCE.as_nanos() as u64 {
                return self.fail(&format!("nothing came for {SILENCE:?}, and there is more to read"));
            }
        }
    }

    async fn read_here_and_there(&mut self, job: &Job, offsets: &[(i64, i64)], bytes: u64, seed: u64) {
        let mut random = Random::new(seed);
        let filled: Vec<u32> = (0..offsets.len() as u32)
            .filter(|partition| offsets[*partition as usize].0 < offsets[*partition as usize].1)
            .collect();
        if filled.is_empty() {
            self.fail("there is nothing to read");
            return;
        }
        while !self.is_over() {
            let partition = filled[(random.u64() % filled.len() as u64) as usize];
            let (first, end) = offsets[partition as usize];
            let offset = first + (random.u64() % (end - first) as u64) as i64;
            self.consumer.assign(&job.topic, partition, Position::Offset(offset));
            let until = self.report.bytes_total + bytes;
            while self.report.bytes_total < until && !self.is_over() {
                // What follows is no old offset.
                if self.next().await.is_some_and(|next| next >= end) {
                    break;
                }
            }
            self.consumer.unassign(&job.topic, partition);
        }
    }

    fn is_over(&self) -> bool {
        now_ns() >= self.window.stop_ns || self.report.records_total >= self.records_max
    }

    fn fail(&mut self, text: &str) {
        self.report.errors += 1;
        self.report.first_error.get_or_insert(text.to_owned());
    }

    /// Reads a batch, if one comes soon, and gives the offset behind it.
    async fn next(&mut self) -> Option<i64> {
        match timeout(LOOK, self.consumer.next_batch()).await {
            Ok(Ok(batch)) => {
                self.take(&batch);
                Some(batch.next_offset)
            }
            Ok(Err(error)) => {
                self.fail(&error.to_string());
                // An error that repeats must not spin.
                tokio::time::sleep(LOOK).await;
                None
            }
            Err(_) => None,
        }
    }

    fn take(&mut self, batch: &ConsumedBatch) {
        let now = now_ns();
        let (mut records, mut bytes) = (0, 0);
        for record in batch.records() {
            match record {
                Ok(record) => {
                    let value = record.value.unwrap_or_default();
                    records += 1;
                    bytes += value.len() as u64;
                    let stamp = stamp_of(value).filter(|stamp| self.window.counts(stamp.intended_ns));
                    if let Some(stamp) = stamp {
                        self.latency.saturating_record(now.saturating_sub(stamp.intended_ns) / 1000);
                    }
                }
                Err(error) => {
                    self.report.errors += 1;
                    self.report.first_error.get_or_insert(error.to_string());
                }
            }
        }
        self.report.records_total += records;
        self.report.bytes_total += bytes;
        self.report.last_ns = now;
        if self.window.counts(now) {
            self.report.records += records;
            self.report.bytes += bytes;
        }
        self.progress.fetch_add(records, Ordering::Relaxed);
    }
}
