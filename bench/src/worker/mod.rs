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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringlog::client::{Client, Options};
use tokio::runtime::Runtime;

use crate::job::{Job, Report, Said, Window, Work};
use crate::process;

/// A server that was just started on a busy machine may take a while to answer.
const CONNECT_MAX: Duration = Duration::from_secs(30);
const PROGRESS: Duration = Duration::from_secs(1);

/// Records that this worker's clients have handled so far.
pub type Progress = Arc<AtomicU64>;

pub async fn connect(address: &str) -> Result<Client, String> {
    let mut options = Options::new(address);
    options.client_id = "ringbench".into();
    options.connect_timeout = CONNECT_MAX;
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
    let client = runtime.block_on(connect(&job.broker))?;
    say(&Said::Ready);
    let window: Window = parse(&read("window")?)?;
    watch_parent(&runtime);
    let progress = Progress::default();
    tell_progress(&runtime, progress.clone());
    let report = match &job.work {
        Work::Produce(work) => produce::run(&runtime, &client, &job, work, window, &progress),
        Work::Consume(work) => runtime.block_on(consume::run(&client, &job, work, window, &progress)),
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

/// Looks at this process's CPU time at both ends of the window; to be ended when the work is done.
fn watch_cpu(window: Window) -> tokio::task::JoinHandle<CpuWatch> {
    tokio::spawn(async move {
        let mut cpu = CpuWatch::default();
        sleep_until(window.count_ns).await;
        cpu.look(&window, process::now_ns());
        sleep_until(window.stop_ns).await;
        cpu.look(&window, process::now_ns());
        cpu
    })
}

async fn cpu_watched(watch: tokio::task::JoinHandle<CpuWatch>, window: &Window) -> u64 {
    if !watch.is_finished() {
        // The work was over before the window was.
        watch.abort();
    }
    watch.await.map_or(0, |cpu| cpu.end(window))
}

impl Report {
    /// Adds what another client of the same process did; latencies are added elsewhere.
    fn add(&mut self, other: Report) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.records_total += other.records_total;
        self.bytes_total += other.bytes_total;
        self.sum = self.sum.wrapping_add(other.sum);
        self.unsent += other.unsent;
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
    fn end(mut self, window: &Window) -> u64 {
        self.look(window, window.stop_ns.max(process::now_ns()));
        self.after.zip(self.before).map_or(0, |(after, before)| after.saturating_sub(before))
    }
}
