//! The words of `ringbench`.
//!
//! Owner: ringbench. Only parsing; every default is what the help says.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::units::{Bytes, Span};

/// Load generator of the Ringlog message broker.
///
/// Every figure comes with the roofline of the same run: `null` is a server that speaks the same
/// frames and only receives, copies, writes, flushes as durably as the broker, and answers. The ratio
/// eta = broker / null says what the broker itself costs, whatever the machine.
#[derive(Parser, Debug)]
#[command(name = "ringbench", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringbench produce                        broker and null in turn (A B B A), 1 KiB records
  ringbench produce --duration 60s --size 1KiB --partitions 16 --memory 64MiB --linger 5ms
  ringbench produce --broker 127.0.0.1:7100 --json
  ringbench null --shards 2                the roofline alone, with disk and loopback ceilings";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the roofline alone, beside what the disk and the loopback can do.
    Null(Load),
    /// Measure produce, broker and null in turn; without --broker both are started here.
    Produce(Load),
    /// The null server itself; started by the other commands.
    #[command(hide = true)]
    ServeNull(ServeNull),
}

#[derive(Args, Debug, Clone)]
pub struct Load {
    /// Measure this broker, which is running already; then null is not run beside it.
    #[arg(long, value_name = "ADDR:PORT")]
    pub broker: Option<String>,
    /// Where started servers keep their data: a fresh folder in here for each round, removed after it
    /// [default: the system's folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Disk that one round may take: both servers remove the oldest beyond it as they go (the topic gets
    /// it as its retention.bytes). With --verify all is kept, whatever this says.
    #[arg(long, value_name = "BYTES", default_value = "8GiB")]
    pub keep: Bytes,
    /// Length of one round.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub duration: Span,
    /// Time before a round counts, for connections and buffers to warm up.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub warm_up: Span,
    /// Bytes of each record's value.
    #[arg(long, value_name = "BYTES", default_value = "1KiB")]
    pub size: Bytes,
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: u32,
    /// Clients, each with its own connections and memory.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub producers: u32,
    /// Largest batch.
    #[arg(long, value_name = "BYTES", default_value = "1MB")]
    pub batch: Bytes,
    /// How long a batch waits to fill.
    #[arg(long, value_name = "TIME", default_value = "5ms")]
    pub linger: Span,
    /// Memory of each client for records that are not acknowledged.
    #[arg(long, value_name = "BYTES", default_value = "64MiB")]
    pub memory: Bytes,
    #[arg(long, value_enum, value_name = "0|1|all", default_value_t = Acks::All)]
    pub acks: Acks,
    #[arg(long, value_enum, value_name = "C", default_value_t = Compression::None)]
    pub compression: Compression,
    /// How keys are drawn out of a million; without keys partitions are filled in turn.
    #[arg(long, value_enum, value_name = "K", default_value_t = Keys::None)]
    pub keys: Keys,
    /// Shards of a started server [default: one for each CPU].
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// Afterwards, read everything back and check that each acknowledged record is there, once and in
    /// order.
    #[arg(long)]
    pub verify: bool,
    /// One JSON object on stdout instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug, Clone)]
pub struct ServeNull {
    #[arg(long)]
    pub listen: SocketAddr,
    #[arg(long)]
    pub data: PathBuf,
    #[arg(long)]
    pub shards: u32,
    #[arg(long)]
    pub partitions: u32,
    /// Bytes of files that each shard keeps.
    #[arg(long)]
    pub keep: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    All,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4,
    Zstd,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    Uniform,
    /// A few keys are most of the load.
    Zipf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        for line in ["ringbench produce --size 1KiB --linger 5ms --memory 64MiB", "ringbench null --json"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
