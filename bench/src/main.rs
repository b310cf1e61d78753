//! `ringbench`: the load generator of Ringlog. Figures on stdout, messages on stderr.

mod ceiling;
mod cli;
mod keys;
mod load;
mod null;
mod process;
mod report;
mod round;
mod units;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cli::{Cli, Command, Load};
use report::Ceilings;
use round::Subject;

/// How long each ceiling is measured.
const CEILING: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::ServeNull(options) => null::serve(&options).map_err(|error| format!("null: {error}")),
        Command::Null(load) => run(&load, &[Subject::Null], true),
        Command::Produce(load) if load.broker.is_some() => run(&load, &[Subject::Broker], false),
        Command::Produce(load) => {
            // What drifts while we measure hits both alike.
            run(&load, &[Subject::Null, Subject::Broker, Subject::Broker, Subject::Null], false)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("ringbench: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the rounds in this order and prints the figures; fails if any record was not acknowledged.
fn run(load: &Load, subjects: &[Subject], with_ceilings: bool) -> Result<(), String> {
    let ceilings = if with_ceilings { Some(measure_ceilings(load)?) } else { None };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let mut rounds = Vec::new();
    for (number, subject) in subjects.iter().enumerate() {
        eprintln!("ringbench: round {} of {}: {}", number + 1, subjects.len(), subject.name());
        rounds.push(runtime.block_on(round::run(*subject, number, load))?);
    }
    report::print(load, &rounds, ceilings);
    let errors: u64 = rounds.iter().map(|round| round.errors).sum();
    if errors > 0 {
        return Err(format!("{errors} records were not acknowledged"));
    }
    match rounds.iter().find_map(|round| round.verified.as_ref()?.as_ref().err()) {
        Some(error) => Err(format!("not verified: {error}")),
        None => Ok(()),
    }
}

fn measure_ceilings(load: &Load) -> Result<Ceilings, String> {
    let dir = load.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = dir.join(format!("ringbench-{}-disk", std::process::id()));
    eprintln!("ringbench: what disk and loopback can do by themselves");
    let disk = ceiling::disk(&dir, CEILING).map_err(|error| format!("disk: {error}"));
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        eprintln!("ringbench: {} was left behind: {error}", dir.display());
    }
    let loopback = ceiling::loopback(CEILING).map_err(|error| format!("loopback: {error}"))?;
    Ok(Ceilings { disk: disk?, loopback })
}
