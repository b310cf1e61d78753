//! The broker as a process: configuration, start-up checks, the control plane, and its end.
//!
//! Floor 6. Owner: broker. [`Broker`] is the same on the machine and in a simulated world; only
//! [`run`] and what it uses of the machine (command line, signals, /proc) are not simulated.

mod banner;
mod broker;
mod checks;
mod cli;
mod config;
mod control;
mod error;
mod metadata;

pub use broker::{Broker, Started};
pub use config::Config;
pub use error::StartError;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;

use clap::Parser;

use crate::rt::{self, Level, Rt, World, mesh};

/// The program `ringlog`.
pub fn run() -> ExitCode {
    let started = cli::Cli::parse().config().and_then(start);
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(std::io::stderr(), "ringlog: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal asks for the end.
fn start(mut config: Config) -> Result<(), StartError> {
    let signals =
        rt::signals().map_err(|error| StartError::new(format!("signals cannot be received: {error}"), ""))?;
    let world = World::real();
    let shards = config.shards.unwrap_or(world.cpus().len() as u32);
    checks::port(config.listen)?;
    let checks::Descriptors { clients_per_shard, warning } = checks::descriptors(shards)?;
    config.connections_max = config.connections_max.min(clients_per_shard);
    let (sender, outcome) = mpsc::channel();
    let inner = world.clone();
    let main = move |rt: Rt| async move {
        if let Some(warning) = warning {
            rt.log(Level::Warn, warning);
        }
        let ended = serve(&rt, &inner, config, signals).await;
        // The other side waits for exactly this message.
        let _ = sender.send(ended);
    };
    let joiner = world
        .executor("control", None, main)
        .map_err(|error| error::executor(&error, checks::io_uring_disabled().as_deref()))?;
    joiner.join_blocking();
    outcome.recv().unwrap_or(Ok(()))
}

async fn serve(
    rt: &Rt,
    world: &World,
    config: Config,
    mut signals: mesh::Receiver<()>,
) -> Result<(), StartError> {
    let mut broker = Broker::start(rt, world, config);
    let (stop, log) = (broker.stopper(), rt.clone());
    rt.spawn(async move {
        signals.recv().await;
        log.log(Level::Info, "stopping; once more to end at once");
        stop();
        signals.recv().await;
        std::process::exit(130);
    });
    if let Some(Ok(started)) = broker.ready().await {
        let text = banner::banner(&started, world.cpus().len(), &ringctl());
        // A closed stdout does not concern the data.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
    broker.ended().await
}

/// How the reader of the banner can call ringctl: beside this program, in the build folder, or by name.
fn ringctl() -> String {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("ringctl")));
    let folder = std::env::current_dir().unwrap_or_default();
    match beside {
        Some(path) if path.is_file() => {
            let short = path.strip_prefix(&folder).unwrap_or(&path);
            short.display().to_string()
        }
        _ if folder.join("tools/Cargo.toml").is_file() => "cargo run --release -q -p ringctl --".to_owned(),
        _ => "ringctl".to_owned(),
    }
}
