//! The broker's configuration: keys, their values and where they come from.
//!
//! Floor 6. Owner: broker. Kafka's names where the meaning is Kafka's. A later source wins: built-in
//! defaults, `--config FILE`, `--set KEY=VALUE`, then the options of their own (`--data`, ...).
//! Invariant: a key that is not understood is refused, never ignored.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use crate::base::align::BLOCK_BYTES;
use crate::base::nearest;
use crate::journal::SEGMENT_BYTES_MIN;
use crate::model::topic_config::{self, ConfigError, TopicConfig};
use crate::wire::FRAME_BYTES_MAX;

pub const SHARDS_MAX: u32 = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// `None`: one per CPU that the process may use.
    pub shards: Option<u32>,
    /// `None`: half of the machine's memory, or of the control group's limit.
    pub memory_bytes: Option<u64>,
    /// `None`: by the size of the filesystem.
    pub segment_bytes: Option<u64>,
    /// Of a topic whose creator names no number.
    pub partitions_default: u32,
    pub retention_check_ms: u64,
    /// Of one shard.
    pub connections_max: u32,
    pub frame_bytes_max: u32,
    /// What topics follow that do not set a key themselves.
    pub topic_defaults: TopicConfig,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: PathBuf::from("./ringlog-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7100)),
            shards: None,
            memory_bytes: None,
            segment_bytes: None,
            partitions_default: 1,
            retention_check_ms: 30_000,
            connections_max: 10_000,
            frame_bytes_max: FRAME_BYTES_MAX,
            topic_defaults: TopicConfig::default(),
        }
    }
}

/// What a value of `listen` is.
pub const LISTEN: &str = "an IP address and a port, such as 127.0.0.1:7100, 0.0.0.0:7100 or [::]:7100";

/// The broker's own keys: name, and what it is in a few words.
pub const KEYS: [(&str, &str); 9] = [
    ("data", "folder of all data; as --data"),
    ("listen", "address and port; as --listen"),
    ("shards", "cores to use; as --shards"),
    ("memory.bytes", "budget for staged, recent and cached records; default: half of the memory"),
    ("segment.bytes", "size of new journal files; default: 1/64 of the filesystem, at most 256 MiB"),
    ("num.partitions", "partitions of a topic whose creator names no number; default 1"),
    ("log.retention.check.interval.ms", "how often retention looks for expired records; default 30000"),
    ("max.connections", "client connections of one shard; more are refused; default 10000"),
    ("socket.request.max.bytes", "largest request of a client; default 16 MiB and 64 KiB"),
];

/// Names of a Kafka broker that are called differently here.
const KAFKA_NAMES: [(&str, &str); 9] = [
    ("log.dir", "data"),
    ("log.dirs", "data"),
    ("listeners", "listen"),
    ("log.retention.ms", "retention.ms"),
    ("log.retention.bytes", "retention.bytes"),
    ("log.segment.bytes", "segment.bytes"),
    ("message.max.bytes", "max.message.bytes"),
    ("log.message.timestamp.type", "message.timestamp.type"),
    ("log.cleanup.policy", "cleanup.policy"),
];

impl Config {
    /// Sets one key, of the broker or as the default of topics. On an error nothing is changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        match key {
            "data" if value.is_empty() => return Err(bad(key, value, "a folder")),
            "data" => self.data = PathBuf::from(value),
            "listen" => self.listen = value.parse().map_err(|_| bad(key, value, LISTEN))?,
            "shards" => self.shards = Some(number(key, value, 1, u64::from(SHARDS_MAX))? as u32),
            "memory.bytes" => self.memory_bytes = Some(number(key, value, 16 << 20, 1 << 50)?),
            "segment.bytes" => {
                let bytes = number(key, value, SEGMENT_BYTES_MIN, 2 << 30)?;
                if !bytes.is_multiple_of(BLOCK_BYTES as u64) {
                    return Err(bad(key, value, "a multiple of 4096"));
                }
                self.segment_bytes = Some(bytes);
            }
            "num.partitions" => self.partitions_default = number(key, value, 1, 100_000)? as u32,
            "log.retention.check.interval.ms" => {
                self.retention_check_ms = number(key, value, 1, 86_400_000)?;
            }
            "max.connections" => self.connections_max = number(key, value, 1, 10_000_000)? as u32,
            "socket.request.max.bytes" => {
                self.frame_bytes_max = number(key, value, 64 << 10, FRAME_BYTES_MAX.into())? as u32;
            }
            _ if topic_config::is_known(key) => self.topic_defaults.set(key, value)?,
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// Takes in a TOML file; tables may be written out or dotted: `[retention] ms = 1` is
    /// `"retention.ms" = 1`.
    pub fn read_toml(&mut self, text: &str) -> Result<(), ConfigError> {
        let at = |byte: usize, what: &str| {
            ConfigError(format!("line {}: {what}", 1 + text[..byte].matches('\n').count()))
        };
        let table = DeTable::parse(text)
            .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message()))?;
        self.take("", table.get_ref(), &at)
    }

    fn take(&mut self, prefix: &str, table: &DeTable<'_>, at: Located<'_>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let set = match value.get_ref() {
                DeValue::Table(table) => {
                    self.take(&format!("{key}."), table, at)?;
                    continue;
                }
                DeValue::String(text) => self.set(&key, text),
                DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => self.set(&key, &number.to_string()),
                    Err(_) => self.set(&key, &number.to_string()),
                },
                DeValue::Boolean(flag) => self.set(&key, &flag.to_string()),
                other => {
                    let kind = other.type_str();
                    Err(ConfigError(format!("{key} is of type {kind}: write a number or a string")))
                }
            };
            set.map_err(|error| at(name.span().start, &error.0))?;
        }
        Ok(())
    }
}

/// An error at a byte of the text.
type Located<'a> = &'a dyn Fn(usize, &str) -> ConfigError;

fn unknown(key: &str) -> ConfigError {
    if let Some((_, ours)) = KAFKA_NAMES.iter().find(|(kafka, _)| *kafka == key) {
        return ConfigError(format!("{key} is called {ours} here"));
    }
    let known = KEYS.iter().map(|(key, _)| *key).chain(topic_config::KEYS);
    match nearest(key, known) {
        Some(known) => ConfigError(format!("unknown key {key}: did you mean {known}?")),
        // Kafka's topic keys that do not exist here have reasons of their own.
        None => {
            let ours: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
            ConfigError(format!("{}; those of the broker {}", topic_config::unknown(key), ours.join(", ")))
        }
    }
}

fn bad(key: &str, value: &str, wanted: &str) -> ConfigError {
    ConfigError(format!("{key}={value}: expected {wanted}"))
}

/// A number; of bytes also with a unit: `256MiB`.
fn number(key: &str, value: &str, least: u64, most: u64) -> Result<u64, ConfigError> {
    let value = value.trim();
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &value[digits.len()..] {
        "" => Some(1),
        _ if !key.ends_with("bytes") => None,
        "KiB" | "K" => Some(1 << 10),
        "MiB" | "M" => Some(1 << 20),
        "GiB" | "G" => Some(1u64 << 30),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    number.filter(|number| (least..=most).contains(number)).ok_or_else(|| match key.ends_with("bytes") {
        true => {
            bad(key, value, &format!("{least} to {most} bytes, as a whole number or with a unit: 256MiB"))
        }
        false => bad(key, value, &format!("a whole number, {least} to {most}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> String {
        Config::default().set(key, value).unwrap_err().0
    }

    #[test]
    fn toml_dotted_or_in_tables_is_the_same() {
        let mut dotted = Config::default();
        dotted
            .read_toml("listen = '[::1]:9'\n'segment.bytes' = 1048576\nretention.ms = -1\nshards = 3")
            .unwrap();
        let mut tables = Config::default();
        tables
            .read_toml("listen = '[::1]:9'\nshards = 3\n[segment]\nbytes = '1MiB'\n[retention]\nms = '-1'")
            .unwrap();
        assert_eq!(dotted, tables);
        assert_eq!((dotted.segment_bytes, dotted.shards), (Some(1 << 20), Some(3)));
        assert_eq!(dotted.topic_defaults.retention_ms, -1);
    }

    #[test]
    fn errors_say_what_was_meant() {
        assert_eq!(refused("segment.byte", "1"), "unknown key segment.byte: did you mean segment.bytes?");
        assert_eq!(refused("retention.mss", "1"), "unknown key retention.mss: did you mean retention.ms?");
        assert_eq!(refused("log.dirs", "x"), "log.dirs is called data here");
        assert!(refused("flush.messages", "1").contains("every acknowledged record is flushed"));
        for value in ["0", "-1", "1025", "99999999999999999999", "many"] {
            assert!(refused("shards", value).contains("1 to 1024"), "{value}");
        }
        assert!(refused("segment.bytes", "100001").contains("multiple of 4096"));
        assert!(refused("memory.bytes", "12 parsecs").contains("256MiB"));
        assert!(refused("listen", "localhost").contains("127.0.0.1:7100"));
        let mut config = Config::default();
        assert!(config.read_toml("a = 1\nb = = 2").unwrap_err().0.starts_with("line 2"));
        assert_eq!(
            config.read_toml("[shards]\n").and_then(|()| config.read_toml("\nshards = 1.5")).unwrap_err().0,
            "line 2: shards is of type float: write a number or a string"
        );
        assert_eq!(
            config.read_toml("shards = 3\n[retension]\nms = 1").unwrap_err().0,
            "line 3: unknown key retension.ms: did you mean retention.ms?"
        );
        let mut config = Config::default();
        assert!(config.read_toml("shards = 0x100000").unwrap_err().0.contains("shards=1048576"));
        assert!(config.read_toml("shards = 99999999999999999999").unwrap_err().0.contains("1 to 1024"));
        assert_eq!(config, Config::default());
    }

    #[test]
    fn every_listed_key_can_be_set() {
        let value = |key: &str| match key {
            "data" => "x",
            "listen" => "0.0.0.0:1",
            "shards" | "num.partitions" => "2",
            "socket.request.max.bytes" => "1MiB",
            _ => "67108864",
        };
        for (key, _) in KEYS {
            let mut config = Config::default();
            let result = config.set(key, if key == "max.connections" { "5" } else { value(key) });
            assert_eq!(result, Ok(()), "{key}");
        }
    }
}
