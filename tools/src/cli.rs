//! The words of the command line: what `ringctl` accepts and what its `--help` teaches.
//!
//! Owner: ringctl. The commands, options and defaults are a contract: people script against them.
//! Only parsing lives here; what a command does is in the module of its name.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::place::{FromTime, StartOffset};
use crate::value::{self, Separator};

/// Command line of the Ringlog message broker.
///
/// Data goes to stdout, messages and progress to stderr. The exit code is 0 only if everything
/// that was asked for was done; 1 if not; 2 if the command line could not be understood.
#[derive(Parser, Debug)]
#[command(name = "ringctl", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// The broker to talk to.
    #[arg(
        long,
        global = true,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:7100",
        value_parser = value::broker
    )]
    pub broker: String,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringctl topic create events --partitions 8 --config retention.ms=604800000
  seq 1000 | ringctl produce events
  ringctl consume events --offset -10 --format '%p %o %s\\n'
  ringctl consume events --follow
  ringctl offsets events
  ringctl verify ./ringlog-data        (the broker must be stopped)

Each command explains itself: ringctl produce --help";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Create, list, describe, alter, delete and trim topics.
    #[command(subcommand)]
    Topic(Topic),
    Produce(Produce),
    Consume(Consume),
    /// Print the earliest and the latest offset of every partition.
    ///
    /// One line `PARTITION EARLIEST LATEST` for each partition. LATEST is the offset that the next
    /// record will get, so LATEST - EARLIEST is the number of records that can be read.
    Offsets(Offsets),
    /// Check every byte of a stopped broker's data folder.
    ///
    /// Prints one line for every damaged file and place, with what it means for your records, and
    /// for every byte that is not zero although nothing uses it. Exit code 0: clean; 1: damage.
    Verify {
        /// The broker's data folder (`--data` of ringlog).
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print the segments, frames, runs and batches of a stopped broker's data folder.
    Dump {
        /// The broker's data folder (`--data` of ringlog).
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Give up what is damaged, so that the rest can be served again.
    ///
    /// Prints what `verify` finds before it changes a byte, and in the end every range of offsets
    /// that was lost. Nothing else in Ringlog ever makes a gap in a partition. Copy the folder
    /// first if you can.
    Repair {
        /// The broker's data folder (`--data` of ringlog).
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Yes, lose the damaged records. Without it the loss is only printed.
        #[arg(long)]
        accept_loss: bool,
    },
}

#[derive(Subcommand, Debug)]
pub enum Topic {
    /// Create a topic.
    #[command(after_help = "Examples:\n  ringctl topic create events --partitions 8\n  \
        ringctl topic create audit --config retention.ms=-1 --config max.message.bytes=4194304")]
    Create {
        /// Name of the topic.
        #[arg(value_name = "NAME")]
        name: String,
        /// Number of partitions [default: the broker's `num.partitions`].
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::partitions)]
        partitions: Option<u32>,
        /// A topic config, with Kafka's names: retention.ms, retention.bytes, max.message.bytes, ...;
        /// may be given several times.
        #[arg(long = "config", value_name = "K=V", value_parser = value::key_value)]
        configs: Vec<(String, String)>,
    },
    /// Print the names of all topics, one a line.
    List {
        /// Print a JSON array of objects instead.
        #[arg(long)]
        json: bool,
    },
    /// Print a topic's partitions, offsets and configuration.
    Describe {
        /// Name of the topic.
        #[arg(value_name = "NAME")]
        name: String,
        /// Print one JSON object instead.
        #[arg(long)]
        json: bool,
    },
    /// Add partitions or change the configuration of a topic.
    #[command(group = ArgGroup::new("change").args(["partitions", "configs"]).required(true).multiple(true))]
    #[command(after_help = "An empty value sets a config back to the broker's default: \
        --config retention.ms=\n\nPartitions can be added, never removed. Adding some changes the \
        partition of keyed records that are written later.")]
    Alter {
        /// Name of the topic.
        #[arg(value_name = "NAME")]
        name: String,
        /// The new number of partitions; must not be below the present one.
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::partitions)]
        partitions: Option<u32>,
        /// A topic config to set; may be given several times.
        #[arg(long = "config", value_name = "K=V", value_parser = value::key_value)]
        configs: Vec<(String, String)>,
    },
    /// Delete a topic and all its records.
    Delete {
        /// Name of the topic.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Delete a partition's records below an offset; prints the new earliest offset.
    Trim {
        /// Name of the topic.
        #[arg(value_name = "NAME")]
        name: String,
        /// The partition, counted from 0.
        #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = value::partition)]
        partition: u32,
        /// Every record below this offset goes; -1: all records there are now.
        #[arg(long, value_name = "OFFSET", allow_hyphen_values = true, value_parser = value::before)]
        before: i64,
    },
}

/// Write records from stdin, one a line.
///
/// An empty line is an empty record. Every byte but the line end is kept, so any text or binary
/// without `\n` passes unchanged. Records are batched, sent idempotently (a retry never writes a record
/// twice) and acknowledged when durable. A broker that dies and comes back is waited for.
///
/// Ends with the number of records on stderr; or with exit code 1 and how many were not delivered.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  seq 1000 | ringctl produce events
  printf 'k1:hello\\nk2:world\\n' | ringctl produce events --key-separator :
  ringctl produce events --acks 1 --compression lz4 < big.log
  tail -f app.log | ringctl produce logs --header host=web1 --print-acks")]
pub struct Produce {
    /// Name of the topic.
    #[arg(value_name = "TOPIC")]
    pub topic: String,
    /// Split each line at the first S into key and value; a line without S has no key.
    /// `\t`, `\n` and `\xHH` are understood.
    #[arg(long, value_name = "S", allow_hyphen_values = true, value_parser = value::separator)]
    pub key_separator: Option<Separator>,
    /// Write to this partition [default: by the key's hash as Kafka does; without a key, in turn].
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = value::partition)]
    pub partition: Option<u32>,
    /// 0: do not wait; 1: durable on the leader; all: durable on every in-sync replica.
    #[arg(long, value_enum, value_name = "0|1|all", default_value_t = Acks::All, allow_negative_numbers = true)]
    pub acks: Acks,
    /// Compress batches: none, lz4 or zstd.
    #[arg(long, value_enum, value_name = "C", default_value_t = Compression::None)]
    pub compression: Compression,
    /// A header that every record gets; may be given several times.
    #[arg(long = "header", value_name = "K=V", value_parser = value::key_value)]
    pub headers: Vec<(String, String)>,
    /// Give up on a record that is not acknowledged after this time [default: retry for ever].
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = value::seconds)]
    pub delivery_timeout: Option<Duration>,
    /// Print `LINE PARTITION OFFSET` on stdout for each record as soon as it is acknowledged;
    /// LINE counts from 1. With --acks 0 the offset is not known: -1.
    #[arg(long)]
    pub print_acks: bool,
}

/// Read records to stdout.
///
/// Reads every partition to its end as it stood at the start, then stops. Records of one partition
/// come in order; partitions are interleaved. A closed pipe (`| head`) is not an error.
#[derive(Args, Debug)]
#[command(after_help = "Format letters: %s value, %k key, %p partition, %o offset, %T timestamp in ms,
%t topic, %h headers as a=1,b=2, %% a percent sign, \\t tab, \\n line end, \\\\ a backslash.

Examples:
  ringctl consume events
  ringctl consume events --offset -10 --format '%p:%o %k=%s\\n'
  ringctl consume events --from-time 2026-01-31T09:00:00Z --count 100
  ringctl consume events --partition 3 --offset 4711 --follow")]
pub struct Consume {
    /// Name of the topic.
    #[arg(value_name = "TOPIC")]
    pub topic: String,
    /// Do not stop at the end: wait for new records.
    #[arg(long)]
    pub follow: bool,
    /// Read only this partition; may be given several times.
    #[arg(long = "partition", value_name = "P", allow_negative_numbers = true, value_parser = value::partition)]
    pub partitions: Vec<u32>,
    /// Where to begin in each partition: earliest, latest, an offset N, or -N: the last N records.
    #[arg(long, value_name = "earliest|latest|N|-N", default_value = "earliest", allow_hyphen_values = true)]
    pub offset: StartOffset,
    /// Begin at the first record that is not older than this: RFC 3339 or milliseconds since 1970.
    #[arg(long, value_name = "RFC3339|UNIXMS", conflicts_with = "offset", allow_hyphen_values = true)]
    pub from_time: Option<FromTime>,
    /// Stop after N records.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = value::count)]
    pub count: Option<u64>,
    /// How to print a record, with kcat's letters (see below).
    #[arg(
        long,
        value_name = "F",
        default_value = "%s\\n",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub format: crate::template::Template,
}

#[derive(Args, Debug)]
pub struct Offsets {
    /// Name of the topic.
    #[arg(value_name = "TOPIC")]
    pub topic: String,
    /// Print a JSON array of objects instead.
    #[arg(long)]
    pub json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1", alias = "leader")]
    Leader,
    #[value(name = "all", alias = "-1")]
    All,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4,
    Zstd,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contracted_words_are_understood() {
        for line in [
            "ringctl topic create t --partitions 3 --config a=1 --config b=2",
            "ringctl topic list --json --broker 127.0.0.1:9",
            "ringctl topic describe t --json",
            "ringctl topic alter t --partitions 4 --config retention.ms=-1",
            "ringctl topic delete t",
            "ringctl topic alter t --config retention.ms= --config retention.bytes=1",
            "ringctl topic trim t --partition 0 --before 17",
            "ringctl topic trim t --partition 0 --before -1",
            "ringctl --broker h:1 produce t --key-separator : --partition 1 --acks 0 --compression zstd \
             --header k=v=w --delivery-timeout 2.5 --print-acks",
            "ringctl produce t --acks all --compression lz4",
            "ringctl produce t --acks 1 --compression none",
            "ringctl consume t --follow --partition 1 --offset -5 --count 3 --format %s",
            "ringctl consume t --offset latest",
            "ringctl consume t --from-time 2026-01-31T09:00:00+02:00",
            "ringctl consume t --from-time 1700000000000",
            "ringctl offsets t --json",
            "ringctl verify d",
            "ringctl dump d",
            "ringctl repair d --accept-loss",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "ringctl",
            "ringctl topic create",
            "ringctl topic create t --partitions 0",
            "ringctl topic create t --config novalue",
            "ringctl topic alter t",
            "ringctl topic trim t --partition 0",
            "ringctl topic list --broker 127.0.0.1",
            "ringctl produce t --acks 2",
            "ringctl produce t --delivery-timeout 0",
            "ringctl produce t --delivery-timeout -1",
            "ringctl consume t --offset middle",
            "ringctl consume t --offset 3 --from-time 5",
            "ringctl consume t --format %z",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
