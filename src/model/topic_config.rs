//! Typed configuration of a topic, with Kafka's names where the meaning is Kafka's.
//!
//! Floor 0. A topic stores only the keys that were set on it; the others follow the broker's
//! defaults, also when these change later (as Kafka's dynamic defaults do).
//! Invariant: a [`TopicConfig`] never holds a value that [`TopicConfig::set`] would refuse.

use std::num::IntErrorKind;

use crate::base::nearest;

/// Configuration of one topic; see `docs/operations.md` for the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Records older than this may be removed; -1: never.
    pub retention_ms: i64,
    /// Oldest records of a partition go once it is larger than this; -1: no bound.
    pub retention_bytes: i64,
    /// Largest record batch, in bytes, as the client compressed it.
    pub max_message_bytes: u32,
    /// `message.timestamp.type=LogAppendTime`: the broker's clock replaces the client's.
    pub log_append_time: bool,
    pub message_timestamp_before_max_ms: i64,
    pub message_timestamp_after_max_ms: i64,
    pub min_insync_replicas: u32,
}

/// Upper bound of `max.message.bytes`: such a batch, with its entry and directory, still makes a
/// block of at most 16 MiB.
pub const MESSAGE_BYTES_MAX: u32 = 15 << 20;

/// Lower bound of `max.message.bytes`, where Kafka has 0. A batch of one record without key and value has
/// 68 bytes, and producers reckon with the longest form of a record's numbers: below this nothing would
/// ever be accepted.
pub const MESSAGE_BYTES_MIN: u32 = 128;

/// A refused key or value; the text names the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// One effective configuration value of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: &'static str,
    pub value: String,
    /// Set on the topic itself, rather than inherited from the broker's defaults.
    pub is_set: bool,
}

/// The keys that a topic accepts, in the order in which they are listed.
pub const KEYS: [&str; 10] = [
    "cleanup.policy",
    "compression.type",
    "durability",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
];

/// Kafka's topic keys that do not exist here, and why: a user who comes from Kafka sets them.
const ABSENT: [(&str, &str); 18] = [
    (
        "segment.bytes",
        "partitions share segments here, so it is a broker key: start the broker with --set segment.bytes=N",
    ),
    (
        "segment.ms",
        "partitions share segments here, and retention does not wait for a segment to close: leave it out",
    ),
    ("segment.jitter.ms", "partitions share segments here: leave it out"),
    ("segment.index.bytes", "an index here is part of its segment: leave it out"),
    ("index.interval.bytes", "an index here is part of its segment: leave it out"),
    ("flush.messages", "every acknowledged record is flushed already: leave it out"),
    ("flush.ms", "every acknowledged record is flushed already: leave it out"),
    ("preallocate", "segments are always allocated ahead of need: leave it out"),
    (
        "file.delete.delay.ms",
        "space returns by rewriting segments, not by deleting a topic's files: leave it out",
    ),
    ("delete.retention.ms", "compaction is not available in this version: leave it out"),
    ("min.cleanable.dirty.ratio", "compaction is not available in this version: leave it out"),
    ("min.compaction.lag.ms", "compaction is not available in this version: leave it out"),
    ("max.compaction.lag.ms", "compaction is not available in this version: leave it out"),
    ("unclean.leader.election.enable", "replication is not available in this version: leave it out"),
    ("leader.replication.throttled.replicas", "replication is not available in this version: leave it out"),
    ("follower.replication.throttled.replicas", "replication is not available in this version: leave it out"),
    ("remote.storage.enable", "tiered storage is not available in this version: leave it out"),
    ("message.format.version", "record batches are always format 2: leave it out"),
];

impl Default for TopicConfig {
    /// Kafka 4's defaults.
    fn default() -> TopicConfig {
        TopicConfig {
            retention_ms: 7 * 24 * 3600 * 1000,
            retention_bytes: -1,
            max_message_bytes: 1_048_588,
            log_append_time: false,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: 3_600_000,
            min_insync_replicas: 1,
        }
    }
}

impl TopicConfig {
    /// Sets one key. On an error nothing is changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        match key {
            "retention.ms" => {
                self.retention_ms = number(key, value, -1, i64::MAX, "milliseconds; -1 keeps for ever")?
            }
            "retention.bytes" => {
                self.retention_bytes =
                    number(key, value, -1, i64::MAX, "bytes per partition; -1 is no bound")?;
            }
            "max.message.bytes" => {
                let (least, most) = (MESSAGE_BYTES_MIN.into(), MESSAGE_BYTES_MAX.into());
                let bytes = number(key, value, least, most, "bytes of one record batch")?;
                self.max_message_bytes = bytes as u32;
            }
            "message.timestamp.type" => {
                self.log_append_time =
                    choice(key, value, &["CreateTime", "LogAppendTime"], "")? == "LogAppendTime";
            }
            "message.timestamp.before.max.ms" => {
                self.message_timestamp_before_max_ms = number(key, value, 0, i64::MAX, "milliseconds")?;
            }
            "message.timestamp.after.max.ms" => {
                self.message_timestamp_after_max_ms = number(key, value, 0, i64::MAX, "milliseconds")?;
            }
            "min.insync.replicas" => {
                self.min_insync_replicas = number(key, value, 1, 32767, "replicas")? as u32
            }
            "cleanup.policy" => {
                choice(key, value, &["delete"], "compaction is not available in this version")?;
            }
            "compression.type" => {
                choice(
                    key,
                    value,
                    &["producer"],
                    "the broker keeps batches as the producer compressed them",
                )?;
            }
            "durability" => {
                choice(
                    key,
                    value,
                    &["durable"],
                    "the name is reserved; every acknowledged record is durable",
                )?;
            }
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// This configuration with the keys of one topic on top.
    pub fn with<'a>(
        &self,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<TopicConfig, ConfigError> {
        let mut config = self.clone();
        for (key, value) in set {
            config.set(key, value)?;
        }
        Ok(config)
    }

    /// The value of a known key, as [`TopicConfig::set`] would read it.
    fn value(&self, key: &str) -> String {
        match key {
            "retention.ms" => self.retention_ms.to_string(),
            "retention.bytes" => self.retention_bytes.to_string(),
            "max.message.bytes" => self.max_message_bytes.to_string(),
            "message.timestamp.type" if self.log_append_time => "LogAppendTime".to_owned(),
            "message.timestamp.type" => "CreateTime".to_owned(),
            "message.timestamp.before.max.ms" => self.message_timestamp_before_max_ms.to_string(),
            "message.timestamp.after.max.ms" => self.message_timestamp_after_max_ms.to_string(),
            "min.insync.replicas" => self.min_insync_replicas.to_string(),
            "cleanup.policy" => "delete".to_owned(),
            "compression.type" => "producer".to_owned(),
            "durability" => "durable".to_owned(),
            _ => unreachable!("entries() asks for KEYS only"),
        }
    }

    /// Every key with its effective value, sorted by key; `is_set` says which ones the topic set.
    pub fn entries(&self, is_set: impl Fn(&str) -> bool) -> Vec<Entry> {
        KEYS.iter().map(|&key| Entry { key, value: self.value(key), is_set: is_set(key) }).collect()
    }
}

/// Whether `key` is a topic key that can be set.
pub fn is_known(key: &str) -> bool {
    KEYS.contains(&key)
}

/// The error for a key that no topic has.
pub fn unknown(key: &str) -> ConfigError {
    if let Some((_, why)) = ABSENT.iter().find(|(absent, _)| *absent == key) {
        return ConfigError(format!("{key} is a topic key of Kafka that Ringlog does not have: {why}"));
    }
    match nearest(key, KEYS) {
        Some(known) => ConfigError(format!("unknown topic key {key}: did you mean {known}?")),
        None => ConfigError(format!("unknown key {key}; the keys of topics are {}", KEYS.join(", "))),
    }
}

fn number(key: &str, value: &str, least: i64, most: i64, unit: &str) -> Result<i64, ConfigError> {
    let refuse = |why: String| Err(ConfigError(format!("{key}={value} {why} ({unit})")));
    match value.trim().parse::<i64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) if most == i64::MAX => refuse(format!("is too small: at least {least}")),
        Err(error) if !matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => {
            refuse("is not a whole number".to_owned())
        }
        _ => refuse(format!("is out of range: {least} to {most}")),
    }
}

fn choice<'a>(key: &str, value: &str, known: &[&'a str], why: &str) -> Result<&'a str, ConfigError> {
    let value = value.trim();
    if let Some(word) = known.iter().find(|word| **word == value) {
        return Ok(word);
    }
    let known = known.join(" or ");
    let because = if why.is_empty() { String::new() } else { format!(" ({why})") };
    Err(ConfigError(format!("{key}={value} is not available: use {known}{because}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> String {
        TopicConfig::default().set(key, value).unwrap_err().0
    }

    #[test]
    fn every_listed_key_accepts_its_own_default() {
        let defaults = TopicConfig::default();
        for entry in defaults.entries(|_| false) {
            let mut config = defaults.clone();
            config.set(entry.key, &entry.value).unwrap();
            assert_eq!(config, defaults, "{}", entry.key);
        }
    }

    #[test]
    fn texts_name_the_cure() {
        assert_eq!(
            refused("retension.ms", "1"),
            "unknown topic key retension.ms: did you mean retention.ms?"
        );
        assert!(refused("segment.bytes", "1").contains("--set segment.bytes=N"));
        assert!(refused("cleanup.policy", "compact").contains("compaction is not available"));
        assert!(refused("cleanup.policy", "compact,delete").contains("use delete"));
        assert_eq!(
            refused("retention.ms", "7d"),
            "retention.ms=7d is not a whole number (milliseconds; -1 keeps for ever)"
        );
        for value in ["0", "1", "127", "99999999", "99999999999999999999"] {
            assert!(refused("max.message.bytes", value).contains("128 to 15728640"), "{value}");
        }
        assert!(refused("retention.ms", "9223372036854775808").contains("-1 to 9223372036854775807"));
        assert!(refused("min.insync.replicas", "0").contains("1 to 32767"));
        assert!(refused("retention.bytes", "-2").contains("at least -1"));
        assert!(refused("colour", "red").contains("the keys of topics are cleanup.policy"));
    }

    #[test]
    fn set_keys_lie_on_top_of_the_defaults() {
        let mut defaults = TopicConfig::default();
        defaults.set("retention.ms", "-1").unwrap();
        let config = defaults.with([("message.timestamp.type", "LogAppendTime")]).unwrap();
        assert_eq!(config.retention_ms, -1);
        assert!(config.log_append_time);
        let entries = config.entries(|key| key == "message.timestamp.type");
        let set: Vec<_> = entries.iter().filter(|entry| entry.is_set).collect();
        assert_eq!(set.len(), 1);
        assert_eq!(set[0].value, "LogAppendTime");
        assert!(entries.is_sorted_by_key(|entry| entry.key));
    }
}
