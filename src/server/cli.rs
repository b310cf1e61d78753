//! The command line of the broker.
//!
//! Floor 6. Owner: broker.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use super::config::{Config, KEYS, LISTEN, SHARDS_MAX};
use super::error::StartError;
use crate::model::topic_config;

/// A message broker that keeps what it acknowledges.
///
/// Without any option it listens on 127.0.0.1:7100 and keeps its data in ./ringlog-data. Every record
/// that it acknowledges is on stable storage first.
#[derive(Parser, Debug)]
#[command(name = "ringlog", version, after_help = examples(), after_long_help = examples_and_keys())]
pub struct Cli {
    /// Folder of all data; made if it is missing [default: ./ringlog-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where clients connect; 0.0.0.0:7100 lets other machines in [default: 127.0.0.1:7100]
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen)]
    listen: Option<SocketAddr>,
    /// Cores to use; may change from start to start [default: one per CPU]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = shards)]
    shards: Option<u32>,
    /// Reads keys from a TOML file, before --set and the options above
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets a broker key, or a topic key as the default of topics; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("expected {LISTEN}"))
}

fn shards(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=SHARDS_MAX).contains(number));
    number.ok_or_else(|| format!("expected a whole number, 1 to {SHARDS_MAX}"))
}

fn examples() -> &'static str {
    "Examples:\n  ringlog\n  ringlog --data /var/lib/ringlog --listen 0.0.0.0:7100\n  \
     ringlog --set retention.ms=86400000 --set memory.bytes=2GiB\n\nThen, in another terminal:\n  \
     ringctl topic create greetings\n  echo hello | ringctl produce greetings\n  ringctl consume greetings\n\n\
     --help (not -h) lists all keys."
}

fn examples_and_keys() -> String {
    let mut text = examples().replace("\n\n--help (not -h) lists all keys.", "");
    text.push_str("\n\nKeys of the broker, for --set and the configuration file:\n");
    for (key, meaning) in KEYS {
        text.push_str(&format!("  {key:<32} {meaning}\n"));
    }
    text.push_str(
        "\nKeys of topics; set here, they are the default of every topic that does not set them:\n",
    );
    for key in topic_config::KEYS {
        text.push_str(&format!("  {key}\n"));
    }
    text
}

impl Cli {
    /// The configuration that file, `--set` and options add up to.
    pub fn config(self) -> Result<Config, StartError> {
        let mut config = Config::default();
        if let Some(path) = self.config {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                StartError::new(
                    format!("{}: {error}", path.display()),
                    "name a readable file with --config FILE",
                )
            })?;
            config.read_toml(&text).map_err(|error| {
                let what = format!("{}: {error}", path.display());
                StartError::new(what, "correct the file; `ringlog --help` lists all keys")
            })?;
        }
        for pair in &self.set {
            let Some((key, value)) = pair.split_once('=') else {
                let what = format!("--set {pair}: there is no '='");
                return Err(StartError::new(
                    what,
                    "write --set KEY=VALUE, for instance --set retention.ms=86400000",
                ));
            };
            let set = config.set(key.trim(), value.trim());
            set.map_err(|error| {
                StartError::new(format!("--set: {error}"), "`ringlog --help` lists all keys")
            })?;
        }
        config.data = self.data.unwrap_or(config.data);
        config.listen = self.listen.unwrap_or(config.listen);
        config.shards = self.shards.or(config.shards);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Config, StartError> {
        Cli::parse_from(std::iter::once("ringlog").chain(line.split_whitespace())).config()
    }

    #[test]
    fn options_win_over_set() {
        let config = parse("--shards 2 --set shards=5 --set retention.bytes=7 --data /x").unwrap();
        assert_eq!((config.shards, config.topic_defaults.retention_bytes), (Some(2), 7));
        assert_eq!(config.data, PathBuf::from("/x"));
        assert!(parse("--set nonsense").unwrap_err().what.contains("no '='"));
        assert!(parse("--set retension.ms=1").unwrap_err().to_string().contains("did you mean retention.ms"));
        assert!(parse("--config /nowhere.toml").unwrap_err().what.starts_with("/nowhere.toml"));
    }

    #[test]
    fn options_say_what_they_take() {
        let refused = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        for value in ["127.0.0.1", "localhost:7100", "7100"] {
            let text = refused(&format!("ringlog --listen {value}"));
            assert!(text.contains(value) && text.contains("such as 127.0.0.1:7100"), "{text}");
        }
        for value in ["0", "-1", "1025", "all"] {
            let text = refused(&format!("ringlog --shards {value}"));
            assert!(text.contains(&format!("'{value}'")) && text.contains("1 to 1024"), "{text}");
        }
    }

    #[test]
    fn help_teaches_every_key() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for (key, _) in KEYS {
            assert!(help.contains(key), "{key}");
        }
        assert!(help.contains("ringctl topic create"));
    }
}
