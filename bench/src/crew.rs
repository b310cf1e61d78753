//! The workers of one round, as their parent sees them.
//!
//! Owner: ringbench's parent process. Invariant: no worker outlives the crew.

use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::job::{Job, Report, Said, Window};
use crate::process;
use crate::progress::Meter;

/// From the start of a worker until it is connected.
const READY_MAX: Duration = Duration::from_secs(90);
/// From the end of the window until everything is acknowledged.
const END_MAX: Duration = Duration::from_secs(150);

struct Worker {
    /// Killed when it is dropped.
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

/// Workers that are connected and wait for their window.
pub struct Crew(Vec<Worker>);

impl Worker {
    fn start() -> std::io::Result<Worker> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg("worker");
        process::die_together(&mut command);
        let mut command = Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let missing = || std::io::Error::other("a worker has no pipes");
        let to = child.stdin.take().ok_or_else(missing)?;
        let from = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
        Ok(Worker { child, to, from })
    }

    async fn tell(&mut self, what: &impl Serialize) -> Result<(), String> {
        let mut line = serde_json::to_vec(what).map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.to.write_all(&line).await.map_err(|error| format!("a worker does not listen: {error}"))
    }

    async fn hear(&mut self) -> Result<Said, String> {
        let line = self.from.next_line().await.map_err(|error| format!("a worker: {error}"))?;
        let Some(line) = line else { return Err("a worker ended without a report".into()) };
        match serde_json::from_str(&line) {
            Ok(Said::Failed(text)) => Err(text),
            Ok(said) => Ok(said),
            Err(error) => Err(format!("a worker said what is not understood: {error}")),
        }
    }

    /// Waits for the report, telling the meter what is heard meanwhile.
    async fn follow(&mut self, number: usize, meter: &Meter) -> Result<Report, String> {
        loop {
            match self.hear().await? {
                Said::Done(report) => return Ok(report),
                Said::Progress(records) => meter.note(number, records),
                Said::Ready | Said::Failed(_) => {}
            }
        }
    }
}

impl Crew {
    /// Starts a worker for each job and waits until all are connected.
    pub async fn start(jobs: &[Job]) -> Result<Crew, String> {
        let mut workers = Vec::new();
        for job in jobs {
            let mut worker = Worker::start().map_err(|error| format!("a worker cannot start: {error}"))?;
            worker.tell(job).await?;
            workers.push(worker);
        }
        for worker in &mut workers {
            match timeout(READY_MAX, worker.hear()).await {
                Ok(Ok(_)) => {}
                Ok(Err(text)) => return Err(text),
                Err(_) => return Err(format!("a worker is not connected after {READY_MAX:?}")),
            }
        }
        Ok(Crew(workers))
    }

    /// Lets all of them work; gives their reports, in the order of the jobs. They must be done some
    /// time after the window, whatever happens.
    pub async fn work(mut self, window: Window, meter: Meter) -> Result<Vec<Report>, String> {
        for worker in &mut self.0 {
            worker.tell(&window).await?;
        }
        let left = Duration::from_nanos(window.stop_ns.saturating_sub(process::now_ns()));
        let mut tasks = JoinSet::new();
        for (number, mut worker) in self.0.into_iter().enumerate() {
            let meter = meter.clone();
            tasks.spawn(async move {
                let report = timeout(left + END_MAX, worker.follow(number, &meter)).await;
                let _ = worker.child.kill().await;
                (number, report)
            });
        }
        let mut reports: Vec<(usize, Report)> = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            let (number, report) = joined.map_err(|error| error.to_string())?;
            match report {
                Ok(report) => reports.push((number, report?)),
                Err(_) => return Err(format!("a worker is not done {END_MAX:?} after it should stop")),
            }
        }
        reports.sort_by_key(|(number, _)| *number);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }
}
