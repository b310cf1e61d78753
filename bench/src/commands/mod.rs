//! The commands: what is measured for each, and how it is told.
//!
//! Owner: ringbench's parent process, whose one runtime only starts, watches and adds up.

mod disk;
pub mod latency;
pub mod partitions;
pub mod single;

use crate::ceiling;
use crate::cli::{Acks, Command};
use crate::figures::get;
use crate::progress::{not_shown, show};
use crate::rig;
use crate::row::{Row, table};

/// Runs a command to its end; an interruption ends it early, and takes its processes and folders along.
pub fn run(command: &Command) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let outcome = runtime.block_on(async {
        refuse(command)?;
        let outcome = tokio::select! {
            outcome = dispatch(command) => outcome,
            _ = interrupted() => Err("interrupted".into()),
        };
        rig::forget_named().await;
        outcome
    });
    // Not dropped: that would wait for a measurement of the disk that nobody waits for any more.
    runtime.shutdown_background();
    ceiling::forget();
    outcome.and_then(|()| not_shown().map_or(Ok(()), Err))
}

/// What the options say together makes no sense, or would not be done.
fn refuse(command: &Command) -> Result<(), String> {
    let load = match command {
        Command::Null(load) | Command::Produce(load) | Command::Prodcons(load) => load,
        Command::Consume(options) => &options.load,
        Command::Latency(options) => &options.load,
        Command::Partitions(options) => &options.load,
        _ => return Ok(()),
    };
    let why = match command {
        Command::Null(_) if load.place.broker.is_some() => {
            "null is a server that is started here; to measure a broker that runs: ringbench produce --broker"
        }
        Command::Null(_) if load.verify => "null keeps nothing that could be verified",
        Command::Consume(_) if load.verify => {
            "--verify compares what was produced: ringbench produce --verify, or prodcons --verify"
        }
        _ if load.verify && load.acks == Acks::None => {
            "--verify compares what was acknowledged, and with --acks 0 nothing is: use 1 or all"
        }
        Command::Latency(_) if load.single.is_some() => {
            "clients of --single have no rate: ringbench produce --single N, or latency --one-by-one"
        }
        _ => return Ok(()),
    };
    Err(why.into())
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

async fn dispatch(command: &Command) -> Result<(), String> {
    match command {
        Command::Null(load) => single::null(load).await,
        Command::Produce(load) => single::produce(load).await,
        Command::Consume(options) => single::consume(options).await,
        Command::Prodcons(load) => single::prodcons(load).await,
        Command::Latency(options) => latency::run(options).await,
        Command::Partitions(options) => partitions::run(options).await,
        Command::Disk(options) => disk::run(options).await,
        Command::Suite(options) => crate::suite::run(options).await,
        _ => Err("this command is not for people".into()),
    }
}

/// Prints rows as they were asked for; fails if any record did.
fn finish(rows: &[Row], json: bool) -> Result<(), String> {
    match json {
        true => rows.iter().for_each(|row| show(&format!("{}\n", row.json()))),
        false => show(&table(rows)),
    }
    judge(rows)
}

/// An error if something could not be measured, if any record failed, or was not there when it was read back.
pub fn judge(rows: &[Row]) -> Result<(), String> {
    let failed: Vec<&str> = rows.iter().filter(|row| row.is_failed()).map(|row| &row.case[..]).collect();
    if !failed.is_empty() {
        return Err(format!("could not be measured: {}", failed.join("; ")));
    }
    let errors: f64 = rows.iter().filter_map(|row| get(&row.metrics, "errors")).sum();
    if errors > 0.0 {
        return Err(format!("{errors} records failed"));
    }
    let not_verified = rows.iter().find_map(|row| row.metrics.get("not_verified")?.as_str());
    not_verified.map_or(Ok(()), |error| Err(format!("not verified: {error}")))
}

/// Work that blocks its thread for seconds, off the runtime's own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}
