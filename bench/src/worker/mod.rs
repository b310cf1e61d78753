//! A worker: one client process of a round, started by the tool itself.
//!
//! Owner: ringbench. Producers and consumers are processes of their own, as they are in life: one client
//! process is itself a limit. The parent's window is in times of the machine's clock, so that phases
//! need no messages; when the parent goes away the worker ends.

mod consume;
mod produce;
mod single;
mod tracker;

use std::io::BufRead;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringlog::base::lock;
use ringlog::client::{Client, Options, ProducerOptions};
use ringlog::record::Compression;
use ringlog::wire;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::job::{Job, Produce, Report, Said, Window, Work};
use crate::stats::{self, Latency};
use crate::{cli, process};

/// A server that was just started on a busy machine may take a while to answer.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// A broker that somebody names is there, or is not.
const CONNECT_NAMED_MAX: Duration = Duration::from_secs(5);
const PROGRESS: Duration = Duration::from_secs(1);
const DELIVERY_MAX: Duration = Duration::from_secs(60);

/// Records that this worker's clients have handled so far.
pub type Progress = Arc<AtomicU64>;

/// What a worker has, whatever its work.
struct Task {
    job: Job,
    /// One for each instance.
    clients: Vec<Client>,
    window: Window,
    progress: Progress,
}

pub async fn connect(address: &str) -> Result<Client, String> {
    connect_within(address, CONNECT_MAX).await
}

pub async fn connect_named(address: &str) -> Result<Client, String> {
    connect_within(address, CONNECT_NAMED_MAX).await
}

/// Clients with connections of their own: all there before the window is known.
async fn connect_all(address: &str, count: u32) -> Result<Vec<Client>, String> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(connect(address).await?);
    }
    Ok(clients)
}

async fn connect_within(address: &str, within: Duration) -> Result<Client, String> {
    let mut options = Options::new(address);
    options.client_id = "ringbench".into();
    options.connect_timeout = within;
    Client::connect(options).await.map_err(|error| error.to_string())
}

/// Does one job; what goes wrong is said to the parent.
pub fn run() -> Result<(), String> {
    let said = match work() {
        Ok(report) => Said::Done(report),
        Err(text) => Said::Failed(text),
    };
    say(&said);
    Ok(())
}

fn say(said: &Said) {
    match serde_json::to_string(said) {
        // Nobody listens any more: the watch on stdin ends this process.
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("ringbench: a worker cannot report: {error}"),
    }
}

fn work() -> Result<Report, String> {
    let mut line = String::new();
    let mut read = |what: &str| {
        line.clear();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(1..) => Ok(line.clone()),
            _ => Err(format!("the parent went away before it sent the {what}")),
        }
    };
    let job: Job = parse(&read("job")?)?;
    // One thread for the client's tasks: the other one of this process makes the load.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let clients = runtime.block_on(connect_all(&job.broker, job.work.instances()))?;
    say(&Said::Ready);
    let window: Window = parse(&read("window")?)?;
    watch_parent(&runtime);
    let task = Task { job, clients, window, progress: Progress::default() };
    tell_progress(&runtime, task.progress.clone());
    let report = match &task.job.work {
        Work::Produce(work) => produce::run(&runtime, &task, work),
        Work::Consume(work) => runtime.block_on(consume::run(&task, work)),
    };
    // Not dropped: that would wait for the watch, which waits for the parent.
    runtime.shutdown_background();
    report
}

fn parse<T: for<'a> serde::Deserialize<'a>>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| format!("not understood: {error}"))
}

fn watch_parent(runtime: &Runtime) {
    runtime.spawn_blocking(|| {
        let mut line = String::new();
        while std::io::stdin().lock().read_line(&mut line).is_ok_and(|count| count > 0) {
            line.clear();
        }
        std::process::exit(1);
    });
}

fn tell_progress(runtime: &Runtime, progress: Progress) {
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(PROGRESS).await;
            say(&Said::Progress(progress.load(Ordering::Relaxed)));
        }
    });
}

async fn sleep_until(at_ns: u64) {
    tokio::time::sleep(Duration::from_nanos(at_ns.saturating_sub(process::now_ns()))).await;
}

/// What a producer of this work is told.
fn producer_options(work: &Produce) -> ProducerOptions {
    ProducerOptions {
        acks: match work.acks {
            cli::Acks::None => wire::Acks::None,
            cli::Acks::Leader => wire::Acks::Leader,
            cli::Acks::All => wire::Acks::All,
        },
        compression: match work.compression {
            cli::Compression::None => Compression::None,
            cli::Compression::Lz4 => Compression::Lz4,
            cli::Compression::Zstd => Compression::Zstd,
        },
        linger: Duration::from_micros(work.linger_us),
        batch_bytes: work.batch_bytes as usize,
        memory_bytes: work.memory_bytes as usize,
        delivery_timeout: Some(DELIVERY_MAX),
        ..ProducerOptions::default()
    }
}

/// What the clients of this process did together, and what it cost.
async fn sum_of(tasks: Vec<JoinHandle<(Report, Latency)>>, window: Window) -> Result<Report, String> {
    let cpu = Arc::new(Mutex::new(CpuWatch::default()));
    let watch = watch_cpu(cpu.clone(), window);
    let (mut sum, mut latency) = (Report::default(), stats::latency());
    for task in tasks {
        let (report, own) = task.await.map_err(|error| error.to_string())?;
        latency.add(&own).map_err(|error| error.to_string())?;
        sum.add(report);
    }
    // The work may be over before the window is.
    watch.abort();
    sum.cpu_ns = lock(&cpu).end(&window);
    sum.latency_us = stats::to_counts(&latency);
    Ok(sum)
}

/// Looks at this process's CPU time at both ends of the window.
fn watch_cpu(cpu: Arc<Mutex<CpuWatch>>, window: Window) -> JoinHandle<()> {
    tokio::spawn(async move {
        for at_ns in [window.count_ns, window.stop_ns] {
            sleep_until(at_ns).await;
            lock(&cpu).look(&window, process::now_ns());
        }
    })
}

impl Report {
    /// Adds what another client of the same process did; latencies are added elsewhere.
    fn add(&mut self, other: Report) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.records_total += other.records_total;
        self.bytes_total += other.bytes_total;
        self.sum = self.sum.wrapping_add(other.sum);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}

/// CPU time of this process at the two ends of a window.
#[derive(Default)]
struct CpuWatch {
    before: Option<u64>,
    after: Option<u64>,
}

impl CpuWatch {
    fn look(&mut self, window: &Window, now_ns: u64) {
        if now_ns < window.count_ns || self.after.is_some() {
            return;
        }
        let slot = match self.before {
            None => &mut self.before,
            Some(_) if now_ns >= window.stop_ns => &mut self.after,
            Some(_) => return,
        };
        *slot = Some(process::cpu_of(std::process::id()).as_nanos() as u64);
    }

    /// Ends the measurement if the window did not.
    fn end(&mut self, window: &Window) -> u64 {
        self.look(window, window.stop_ns.max(process::now_ns()));
        self.after.zip(self.before).map_or(0, |(after, before)| after.saturating_sub(before))
    }
}
