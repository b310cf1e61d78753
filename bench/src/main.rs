//! `ringbench`: the load generator of Ringlog. Figures on stdout, messages on stderr.

mod case;
mod ceiling;
mod cli;
mod commands;
mod crew;
mod figures;
mod job;
mod keys;
mod null;
mod plot;
mod process;
mod progress;
mod promised;
mod rig;
mod round;
mod row;
mod schedule;
mod server;
mod stats;
mod suite;
mod units;
mod values;
mod verify;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::ServeNull(options) => null::serve(&options).map_err(|error| format!("null: {error}")),
        Command::Worker => worker::run(),
        command => commands::run(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("ringbench: {text}");
            ExitCode::FAILURE
        }
    }
}
