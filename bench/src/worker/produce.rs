//! A producer worker: sends flat out, at a fixed rate, or one record at a time.
//!
//! Owner: the worker's main thread, which is no thread of the client's runtime: a generator that is late
//! delays nothing but itself, and says by how much.

use std::future::poll_fn;
use std::sync::atomic::Ordering;

use ringlog::client::{Producer, Record};
use tokio::runtime::Runtime;

use super::tracker::{Group, Tracker};
use super::{CpuWatch, Progress, Task, producer_options, single};
use crate::job::{Pace, Produce, Report, Window};
use crate::keys::KeySource;
use crate::process::{now_ns, sleep_until, tighten_timer};
use crate::schedule::Schedule;
use crate::stats::{self, Latency};
use crate::values::{self, Values};

/// Records made between two looks at the clock: so many bytes, so many records at most.
const CHUNK_BYTES: usize = 16 << 10;
const CHUNK: usize = 16;
/// The shortest sleep: at higher rates the records that are due at one wake-up go together. Each wake-up
/// costs about 5 us of CPU time, which the broker would miss; the times that were meant still count.
const SLEEP_NS_MIN: u64 = 50_000;

struct Sender<'a> {
    runtime: &'a Runtime,
    producer: Producer,
    topic: &'a str,
    window: Window,
    values: Values,
    keys: KeySource,
    sums: bool,
    tracker: Tracker,
    sent: u64,
    sent_max: u64,
    tally: Tally,
    progress: &'a Progress,
}

/// What is known so far.
struct Tally {
    report: Report,
    latency: Latency,
    unsent: Latency,
    late: Latency,
    cpu: CpuWatch,
}

pub(super) fn run(runtime: &Runtime, task: &Task, work: &Produce) -> Result<Report, String> {
    let Task { job, clients, window, progress } = task;
    let client = match &clients[..] {
        [client] if work.pace != Pace::OneByOne => client,
        _ => return runtime.block_on(single::run(task, work)),
    };
    let producer = {
        let _inside = runtime.enter();
        Producer::new(client, producer_options(work))
    };
    let tally = Tally {
        report: Report::default(),
        latency: stats::latency(),
        unsent: stats::latency(),
        late: stats::latency(),
        cpu: CpuWatch::default(),
    };
    let mut sender = Sender {
        runtime,
        producer,
        topic: &job.topic,
        window: *window,
        values: Values::new(work.number, work.size as usize),
        keys: KeySource::new(work.keys, work.number),
        sums: work.sums,
        tracker: Tracker::new(job.partitions),
        sent: 0,
        sent_max: work.records_max.unwrap_or(u64::MAX),
        tally,
        progress,
    };
    tighten_timer();
    sleep_until(window.start_ns);
    match work.pace {
        Pace::Flat => sender.flat_out(values::value_bytes(work.size)),
        Pace::Rate(rate) => {
            let part = f64::from(work.number) / f64::from(work.producers.max(1));
            sender.at_rate(Schedule::new(window.start_ns, rate).shifted(part));
        }
        // Taken above.
        Pace::OneByOne => {}
    }
    Ok(sender.finish(values::value_bytes(work.size) as u64))
}

impl Sender<'_> {
    fn is_over(&mut self, now: u64) -> bool {
        self.tally.cpu.look(&self.window, now);
        now >= self.window.stop_ns || self.sent >= self.sent_max
    }

    fn flat_out(&mut self, value_bytes: usize) {
        let chunk = (CHUNK_BYTES / value_bytes).clamp(1, CHUNK);
        loop {
            let now = now_ns();
            if self.is_over(now) {
                return;
            }
            for _ in 0..chunk.min((self.sent_max - self.sent) as usize) {
                self.send(now);
            }
            self.settle();
        }
    }

    fn at_rate(&mut self, mut schedule: Schedule) {
        loop {
            let now = now_ns();
            if self.is_over(now) {
                return self.count_unsent(schedule);
            }
            let mut left = CHUNK;
            while left > 0
                && let Some(intended) = schedule.take(now)
            {
                self.send(intended);
                left -= 1;
                if self.window.counts(intended) {
                    self.tally.late.saturating_record(now_ns().saturating_sub(intended) / 1000);
                }
            }
            self.settle();
            if left > 0 {
                let next = schedule.next_ns().max(now + SLEEP_NS_MIN);
                sleep_until(next.min(self.window.stop_ns));
            }
        }
    }

    /// What was due and could not be sent in time has waited at least until now: left out, the worst
    /// records would flatter the figures.
    fn count_unsent(&mut self, mut schedule: Schedule) {
        if self.sent >= self.sent_max {
            return;
        }
        let stop = self.window.stop_ns;
        while let Some(intended) = schedule.take(stop - 1) {
            if self.window.counts(intended) {
                self.tally.unsent.saturating_record((stop - intended) / 1000);
            }
        }
    }

    /// Waits for memory if there is none.
    fn send(&mut self, intended_ns: u64) {
        let value = self.values.next(intended_ns);
        let sum = if self.sums { values::checksum(&value) } else { 0 };
        let record = Record { key: self.keys.next(), value: Some(value), ..Record::default() };
        let delivery = match self.producer.try_send(self.topic, &record) {
            Some(delivery) => delivery,
            None => self.runtime.block_on(self.producer.send(self.topic, record)),
        };
        self.sent += 1;
        self.tracker.add(delivery, intended_ns, sum);
    }

    fn settle(&mut self) {
        let (window, tally) = (self.window, &mut self.tally);
        self.tracker.settle(|at_ns, group, outcome| match outcome {
            Ok(()) => tally.acknowledged(&window, at_ns, group),
            Err(error) => {
                tally.report.errors += group.records;
                tally.report.first_error.get_or_insert(error.to_string());
            }
        });
        self.progress.store(self.tally.report.records_total, Ordering::Relaxed);
    }

    fn wait_for_all(&mut self) {
        while !self.tracker.is_empty() {
            let tracker = &self.tracker;
            self.runtime.block_on(poll_fn(|context| tracker.poll(context)));
            self.settle();
        }
    }

    fn finish(mut self, value_bytes: u64) -> Report {
        // Nothing lingers while a flush is under way.
        self.runtime.block_on(self.producer.flush());
        self.wait_for_all();
        self.runtime.block_on(self.producer.close());
        let Tally { mut report, latency, unsent, late, mut cpu } = self.tally;
        report.bytes = report.records * value_bytes;
        report.bytes_total = report.records_total * value_bytes;
        report.cpu_ns = cpu.end(&self.window);
        report.latency_us = stats::to_counts(&latency);
        report.unsent_us = stats::to_counts(&unsent);
        report.late_us = stats::to_counts(&late);
        report
    }
}

impl Tally {
    fn acknowledged(&mut self, window: &Window, at_ns: u64, group: &Group) {
        self.report.records_total += group.records;
        self.report.sum = self.report.sum.wrapping_add(group.sum);
        self.report.last_ns = self.report.last_ns.max(at_ns);
        if window.counts(at_ns) {
            self.report.records += group.records;
        }
        for (start, count) in &group.starts {
            // By the intended time: a record that was due in the window counts however late it came.
            if window.counts(*start) {
                let latency = at_ns.saturating_sub(*start) / 1000;
                self.latency.saturating_record_n(latency, u64::from(*count));
            }
        }
    }
}
