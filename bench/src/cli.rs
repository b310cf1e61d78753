//! The words of `ringbench`.
//!
//! Owner: ringbench. Only parsing; every default is what the help says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Span, some_bytes, some_rate, some_share, some_time};

/// Load generator of the Ringlog message broker.
///
/// Every figure comes with the roofline of the same run: `null` is a server that speaks the same
/// frames and only receives, copies, writes, flushes as durably as the broker, and answers. The ratio
/// eta = broker / null says what the broker itself costs, whatever the machine. Rounds of both take
/// turns (A B B A), and medians count.
#[derive(Parser, Debug)]
#[command(name = "ringbench", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What is read from the tail: each shard keeps the newest 512 MiB in memory.
pub const TAIL_BYTES: u64 = 768 << 20;

const EXAMPLES: &str = "\
Examples:
  ringbench suite --quick                  everything, one table, under 15 minutes
  ringbench produce                        broker and null in turn (A B B A), 1 KiB records
  ringbench produce --duration 60s --size 100 --producers 4 --pairs 5
  ringbench latency --rate 10000           open loop: from the intended time, to acknowledgement and
                                           from end to end
  ringbench consume --cold --bytes 10GB    after a restart, from the disk
  ringbench produce --broker 127.0.0.1:7100 --json | jq .p99_us";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the roofline alone, beside what the disk and the loopback can do.
    #[command(after_help = "Examples:
  ringbench null --shards 2
  ringbench null --dir /data --size 100 --producers 4")]
    Null(Load),
    /// Measure produce, broker and null in turn; without --broker both are started here.
    #[command(after_help = "Examples:
  ringbench produce
  ringbench produce --size 100 --producers 4 --duration 60s --pairs 5
  ringbench produce --partitions 10000 --batch 16KiB
  ringbench produce --keys zipf --compression lz4 --producers 3 --verify
  ringbench produce --single 64 --linger 0
  ringbench produce --rate 50000 --linger 0")]
    Produce(Load),
    /// Measure reading what was just written (from memory) or, with --cold, from the disk.
    ///
    /// A bounded amount is written first and then read by --consumers readers, each of which reads all
    /// of it. From the tail the roofline is null sending the same batches from memory. Cold means:
    /// the broker is restarted with a memory budget of --budget before it is read; the roofline is the
    /// smaller of null and of reading the disk directly.
    #[command(after_help = "Examples:
  ringbench consume
  ringbench consume --consumers 8
  ringbench consume --cold --bytes 10GB --partitions 1000 --batch 16KiB")]
    Consume(Consume),
    /// Measure producers and consumers at once; every consumer reads everything, as it comes.
    #[command(after_help = "Examples:
  ringbench prodcons
  ringbench prodcons --consumers 8 --producers 1")]
    Prodcons(Load),
    /// Measure latency in an open loop: at fixed rates, from the intended send time, to acknowledgement
    /// and from end to end.
    ///
    /// The times at which records are meant to be sent are fixed in advance; whatever delays a record,
    /// the generator included, counts into its latency (no coordinated omission). How late the
    /// generator itself was is told beside it, as is the raw durable append of 4 KiB of the same
    /// minute. Without --rate: a ladder of shares of the rate that saturates the broker.
    #[command(after_help = "Examples:
  ringbench latency --rate 10000
  ringbench latency --plots .              the ladder up to saturation, and its plot
  ringbench latency --one-by-one           one client, one record at a time")]
    Latency(Latency),
    /// Measure throughput over the number of partitions.
    #[command(after_help = "Examples:
  ringbench partitions --plots .
  ringbench partitions --counts 10,1000 --keys uniform --batch 1MB")]
    Partitions(Partitions),
    /// Measure what the disk under a folder and the loopback can do by themselves, through the
    /// broker's own runtime.
    #[command(after_help = "Example:
  ringbench disk --dir /data --duration 5s")]
    Disk(Disk),
    /// Measure everything, and print one table: what to reach, and what was reached.
    #[command(after_help = "Examples:
  ringbench suite --quick
  ringbench suite --plots . --json >suite.jsonl
  ringbench suite --only produce,latency")]
    Suite(Suite),
    /// The null server itself; started by the other commands.
    #[command(hide = true)]
    ServeNull(ServeNull),
    /// One client process; started by the other commands.
    #[command(hide = true)]
    Worker,
}

/// Where and how often is measured, and how it is told.
#[derive(Args, Debug, Clone)]
pub struct Place {
    /// Measure this broker, which is running already; then null is not run beside it.
    #[arg(long, value_name = "ADDR:PORT")]
    pub broker: Option<String>,
    /// Where started servers keep their data: a fresh folder in here for each round, removed after it
    /// [default: the system's folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Disk that one round may take: both servers remove the oldest beyond it as they go (the topic gets
    /// it as its retention.bytes). With --verify, and where all is read back, all is kept.
    #[arg(long, value_name = "BYTES", default_value = "8GiB", value_parser = some_bytes)]
    pub keep: Bytes,
    /// Shards of a started server [default: one for each CPU].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub shards: Option<u32>,
    /// A key of the started broker; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Pairs of rounds, broker and null; the order changes from pair to pair. Medians count; of produce,
    /// prodcons and consume a set whose null differs by more than 5 % is measured again, once.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// One JSON object a line and case on stdout instead of a table.
    #[arg(long)]
    pub json: bool,
    /// No set is measured again after this time of the monotonic clock: a suite has an end to keep.
    #[arg(skip)]
    pub again_until_ns: Option<u64>,
}

impl Place {
    pub fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

#[derive(Args, Debug, Clone)]
pub struct Load {
    #[command(flatten)]
    pub place: Place,
    /// Length of one round.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = some_time)]
    pub duration: Span,
    /// Time before a round counts, for connections and buffers to warm up; at least 80 us for each
    /// partition.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub warm_up: Span,
    /// Bytes of each record's value (at least 24).
    #[arg(long, value_name = "BYTES", default_value = "1KiB")]
    pub size: Bytes,
    /// Records a second, of all producers together, in an open loop [default: as fast as it goes].
    #[arg(long, value_name = "N", value_parser = some_rate)]
    pub rate: Option<f64>,
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: u32,
    /// Producers, each a process with its own connections.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub producers: u32,
    /// Consumers, each a process that reads everything.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub consumers: u32,
    /// Largest batch [default: 1MB; of `partitions` without keys: 16KiB].
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    pub batch: Option<Bytes>,
    /// How long a batch waits to fill [default: 5ms; of `latency`: 0].
    #[arg(long, value_name = "TIME")]
    pub linger: Option<Span>,
    /// Memory of all producers together for records that are not acknowledged, and again of all
    /// consumers together for what is fetched ahead: each one gets its part.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = some_bytes)]
    pub memory: Bytes,
    #[arg(long, value_enum, value_name = "0|1|all", default_value_t = Acks::All)]
    pub acks: Acks,
    #[arg(long, value_enum, value_name = "C", default_value_t = Compression::None)]
    pub compression: Compression,
    /// How keys are drawn out of a million; without keys partitions are filled in turn.
    #[arg(long, value_enum, value_name = "K", default_value_t = Keys::None)]
    pub keys: Keys,
    /// Instead of --producers: N clients in one process, each with its own connections, that send one
    /// record and wait for its acknowledgement before the next.
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub single: Option<u32>,
    /// Afterwards, read everything back and check that each acknowledged record is there, once and in
    /// order, and that the sums of all checksums agree.
    #[arg(long)]
    pub verify: bool,
}

impl Load {
    pub fn batch(&self) -> Bytes {
        self.batch.unwrap_or(Bytes(1_000_000))
    }

    pub fn linger(&self) -> Duration {
        self.linger.map_or(Duration::from_millis(5), |linger| linger.0)
    }

    /// The load of a command line without options.
    pub fn standard() -> Load {
        match Cli::try_parse_from(["ringbench", "produce"]).map(|cli| cli.command) {
            Ok(Command::Produce(load)) => load,
            _ => unreachable!("the words are part of this program"),
        }
    }
}

#[derive(Args, Debug, Clone)]
pub struct Consume {
    #[command(flatten)]
    pub load: Load,
    /// Bytes of values that are written first, and then read by each consumer [default: 768MiB, of which two
    /// shards keep all in memory; with --cold 2GiB].
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    pub bytes: Option<Bytes>,
    /// Restart the broker before it is read.
    #[arg(long)]
    pub cold: bool,
    /// With --cold: the memory budget of the restarted broker.
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    pub budget: Bytes,
}

impl Consume {
    pub fn bytes(&self) -> Bytes {
        self.bytes.unwrap_or(Bytes(if self.cold { 2 << 30 } else { TAIL_BYTES }))
    }
}

#[derive(Args, Debug, Clone)]
pub struct Latency {
    #[command(flatten)]
    pub load: Load,
    /// Rates of the ladder, as shares of saturation.
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', value_parser = some_share,
          default_values_t = [0.01, 0.05, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0])]
    pub ladder: Vec<f64>,
    /// One client that sends one record and waits for its acknowledgement before the next.
    #[arg(long, conflicts_with = "rate")]
    pub one_by_one: bool,
    /// Write a plot of the ladder (SVG) into this folder.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub struct Partitions {
    #[command(flatten)]
    pub load: Load,
    /// Numbers of partitions; the ratio is to the first.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..),
          default_values_t = [10, 100, 1_000, 10_000, 100_000])]
    pub counts: Vec<u32>,
    /// Write a plot (SVG) into this folder.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub struct Disk {
    /// The folder whose disk is measured [default: the system's folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Length of each measurement.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = some_time)]
    pub duration: Span,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug, Clone)]
pub struct Suite {
    /// Under 15 minutes instead of under two hours: shorter rounds, fewer pairs, smaller amounts; what
    /// is smaller is said in the row's name.
    #[arg(long)]
    pub quick: bool,
    /// Where started servers keep their data [default: the system's folder for temporary files]; it
    /// takes up to 45 GB (--quick: 20 GB), on a machine that writes 1 GB/s.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Only the groups of rows whose names hold one of these words; --list names them.
    #[arg(long, value_name = "WORD,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Print the names of the groups, and nothing else.
    #[arg(long)]
    pub list: bool,
    /// Pairs of rounds of each comparison [default: 5; --quick: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: Option<u32>,
    /// Length of one round of a comparison [default: 8s; --quick: 2s].
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    pub duration: Option<Span>,
    /// Write plots (SVG) into this folder.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// One JSON object a line and case on stdout as well; the table goes to stderr then.
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
    /// Bytes of files that are kept, of all shards.
    #[arg(long)]
    pub keep: u64,
    /// Bytes of records that each shard keeps in memory for fetches: partitions need not be shared out
    /// evenly.
    #[arg(long, default_value_t = 0)]
    pub store: u64,
}

#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    All,
}

#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4,
    Zstd,
}

#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
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
        let standard = Load::standard();
        assert_eq!((standard.size, standard.partitions), (Bytes(1024), 16));
    }

    #[test]
    fn every_example_of_the_help_is_understood() {
        let mut texts = vec![EXAMPLES.to_owned()];
        for command in Cli::command().get_subcommands() {
            texts.extend(command.get_after_help().map(|help| help.to_string()));
        }
        let mut count = 0;
        for line in texts.iter().flat_map(|text| text.lines()).filter(|line| line.contains("ringbench")) {
            let words = line.trim().split("  ").next().unwrap().split([' ']);
            let words: Vec<&str> = words.take_while(|word| !["|", ">"].contains(word)).collect();
            let words = words.into_iter().filter(|word| !word.starts_with('>'));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
            count += 1;
        }
        assert!(count > 20, "{count}");
    }
}
