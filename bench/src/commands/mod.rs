//! The commands: what is measured for each, and how it is told.
//!
//! Owner: ringbench's parent process, whose one runtime only starts, watches and adds up.

mod disk;
pub mod latency;
pub mod partitions;
pub mod single;

use crate::cli::Command;
use crate::figures::get;
use crate::row::{Row, table};

/// Runs a command to its end; an interruption ends it early, and takes its processes and folders along.
pub fn run(command: &Command) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        tokio::select! {
            outcome = dispatch(command) => outcome,
            _ = interrupted() => Err("interrupted".into()),
        }
    })
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
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
        true => rows.iter().for_each(|row| println!("{}", row.json())),
        false => print!("{}", table(rows)),
    }
    let errors: f64 = rows.iter().filter_map(|row| get(&row.metrics, "errors")).sum();
    if errors > 0.0 {
        return Err(format!("{errors} records failed"));
    }
    let not_verified = rows.iter().find_map(|row| row.metrics.get("not_verified")?.as_str());
    not_verified.map_or(Ok(()), |error| Err(format!("not verified: {error}")))
}

/// Work that blocks its thread for seconds, off the runtime's own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}
