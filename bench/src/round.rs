//! One round: a server in an empty folder, the load on it, and the figures.
//!
//! Owner: ringbench.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep};

use crate::cli::Load;
use crate::load::{self, COUNTING, STOPPING, Shared};
use crate::process::{self, DiskUse, Server};
use crate::verify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Broker,
    Null,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Subject::Broker => "broker",
            Subject::Null => "null",
        }
    }
}

/// What one round measured.
pub struct Figures {
    pub subject: Subject,
    pub seconds: f64,
    /// Acknowledged while counting.
    pub records: u64,
    pub bytes: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    pub latency_us: Histogram<u64>,
    /// CPU time of the server's process, if it was started here.
    pub server_cpu: Option<Duration>,
    /// CPU time of this process.
    pub client_cpu: Duration,
    pub disk: Option<DiskUse>,
    pub verified: Option<Result<u64, String>>,
}

/// Runs one round against a server of its own, or against a running broker.
pub async fn run(subject: Subject, number: usize, load: &Load) -> Result<Figures, String> {
    if let Some(broker) = &load.broker {
        return measure(subject, broker, None, load).await;
    }
    let server = start(subject, number, load).await?;
    let address = server.address.to_string();
    let figures = measure(subject, &address, Some(&server), load).await;
    server.stop().await.map_err(|error| error.to_string())?;
    figures
}

async fn start(subject: Subject, number: usize, load: &Load) -> Result<Server, String> {
    let failed = |error: std::io::Error| format!("{} cannot be started: {error}", subject.name());
    let parent = load.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir: PathBuf = parent.join(format!("ringbench-{}-{number}-{}", std::process::id(), subject.name()));
    let address = process::free_address().map_err(failed)?;
    let mut command = match subject {
        Subject::Broker => {
            let mut command = Command::new(process::beside("ringlog").map_err(failed)?);
            command.arg("--listen").arg(address.to_string()).arg("--data").arg(dir.join("data"));
            command.args(["--set", "log.retention.check.interval.ms=1000"]);
            command
        }
        Subject::Null => {
            let mut command = Command::new(std::env::current_exe().map_err(failed)?);
            command.arg("serve-null").arg("--partitions").arg(load.partitions.to_string());
            command.arg("--keep").arg(load.keep.0.to_string());
            command.arg("--listen").arg(address.to_string()).arg("--data").arg(dir.join("data"));
            command
        }
    };
    match (load.shards, subject) {
        (Some(shards), _) => _ = command.arg("--shards").arg(shards.to_string()),
        (None, Subject::Null) => {
            let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
            command.arg("--shards").arg(cpus.to_string());
        }
        (None, Subject::Broker) => {}
    }
    Server::start(command, address, dir).await.map_err(failed)
}

async fn measure(
    subject: Subject,
    address: &str,
    server: Option<&Server>,
    load: &Load,
) -> Result<Figures, String> {
    let client = load::connect(address).await?;
    let topic = format!("ringbench-{}", std::process::id());
    let retention = (load.keep.0 / u64::from(load.partitions)).to_string();
    let configs = [("retention.bytes".to_owned(), retention)];
    let configs = if load.verify { &configs[..0] } else { &configs[..] };
    client.admin().create_topic(&topic, Some(load.partitions), configs).await.map_err(|e| e.to_string())?;
    let shared = Arc::new(Shared::default());
    let mut tasks = Vec::new();
    for number in 0..load.producers {
        let (client, topic, load) = (load::connect(address).await?, topic.clone(), load.clone());
        tasks.push(tokio::spawn(load::run(client, topic, number, load, shared.clone())));
    }
    sleep(load.warm_up.0).await;
    let before = Snapshot::take(server, load);
    shared.phase.store(COUNTING, Ordering::Relaxed);
    sleep(load.duration.0).await;
    shared.phase.store(STOPPING, Ordering::Relaxed);
    let after = Snapshot::take(server, load);
    let records = shared.acknowledged.load(Ordering::Relaxed);
    let mut figures = Figures {
        subject,
        seconds: (after.at - before.at).as_secs_f64(),
        records,
        bytes: records * load.size.0.max(load::STAMP_BYTES as u64),
        errors: 0,
        first_error: None,
        latency_us: Histogram::new(3).map_err(|error| error.to_string())?,
        server_cpu: after.server_cpu.zip(before.server_cpu).map(|(after, before)| after - before),
        client_cpu: after.client_cpu - before.client_cpu,
        disk: after.disk.zip(before.disk).map(|(after, before)| after.since(before)),
        verified: None,
    };
    let mut acknowledged = Vec::new();
    for task in tasks {
        let sent = task.await.map_err(|error| error.to_string())??;
        acknowledged.push(sent.acknowledged);
        figures.latency_us.add(&sent.latency_us).map_err(|error| error.to_string())?;
        figures.first_error = figures.first_error.or(sent.first_error);
    }
    figures.errors = shared.errors.load(Ordering::Relaxed);
    if load.verify && subject == Subject::Broker {
        figures.verified = Some(verify::run(&client, &topic, &acknowledged).await);
    }
    // A broker that was there before must not keep what we wrote.
    if load.broker.is_some() {
        client.admin().delete_topic(&topic).await.map_err(|error| error.to_string())?;
    }
    Ok(figures)
}

/// Totals at one moment.
struct Snapshot {
    at: Instant,
    server_cpu: Option<Duration>,
    client_cpu: Duration,
    disk: Option<DiskUse>,
}

impl Snapshot {
    fn take(server: Option<&Server>, load: &Load) -> Snapshot {
        let dir = load.dir.clone().unwrap_or_else(std::env::temp_dir);
        Snapshot {
            at: Instant::now(),
            server_cpu: server.map(Server::cpu),
            client_cpu: process::cpu_of(std::process::id()),
            disk: process::disk_use(&dir),
        }
    }
}
