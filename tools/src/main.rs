//! `ringctl`: the command line of Ringlog.
//!
//! Data on stdout, messages on stderr, exit code 0 only if everything was done.

mod acks;
mod cli;
mod connect;
mod consume;
mod disk;
mod lines;
mod offline;
mod output;
mod place;
mod produce;
mod progress;
mod template;
mod topic;
mod value;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use output::{Outcome, Stop};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return answer(&error),
    };
    match run(cli) {
        Ok(()) | Err(Stop::PipeClosed) => ExitCode::SUCCESS,
        Err(Stop::Failed(text)) => {
            eprintln!("ringctl: {text}");
            ExitCode::FAILURE
        }
    }
}

/// What clap says instead of a command: help and version on stdout, usage errors on stderr.
fn answer(error: &clap::Error) -> ExitCode {
    match error.print().and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("ringctl: stdout: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(error.exit_code() as u8),
    }
}

fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Verify { dir } => offline::verify(&dir),
        Command::Dump { dir } => offline::dump(&dir),
        Command::Repair { dir, accept_loss } => offline::repair(&dir, accept_loss),
        online => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .map_err(|error| Stop::Failed(format!("cannot start: {error}")))?;
            let outcome = runtime.block_on(run_online(&cli.broker, online));
            // A thread that waits for stdin cannot be joined.
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn run_online(broker: &str, command: Command) -> Outcome {
    match command {
        Command::Topic(command) => topic::run(&connect::connect(broker).await?, command).await,
        Command::Offsets(options) => topic::offsets(&connect::connect(broker).await?, &options).await,
        Command::Consume(options) => consume::run(connect::connect(broker).await?, options).await,
        Command::Produce(options) => match connect::wait_for_broker(broker, options.delivery_timeout).await {
            Ok(client) => produce::run(&client, options).await,
            Err(Stop::Failed(reason)) => produce::nothing_delivered(reason).await,
            Err(stop) => Err(stop),
        },
        Command::Verify { .. } | Command::Dump { .. } | Command::Repair { .. } => {
            unreachable!("these need no broker")
        }
    }
}
