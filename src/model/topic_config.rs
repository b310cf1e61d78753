//! Typed configuration of a topic, with Kafka's names where the meaning is Kafka's.
//!
//! Floor 0.

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
