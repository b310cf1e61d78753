//! The vocabulary: ids, error codes, typed configuration values.
//!
//! Floor 0. Values only; no I/O and no behaviour beyond parsing and printing.

pub mod error;
pub mod ids;
pub mod topic_config;

pub use error::{ErrorCode, Failure};
pub use ids::{JournalId, LaneId, PartitionId, TopicId};
pub use topic_config::TopicConfig;

/// Number of a record in its partition.
pub type Offset = i64;
/// Byte in a lane, counted in unpadded block bytes, equal on all replicas.
pub type Position = u64;
/// Kafka's producer id; -1 is "none".
pub type ProducerId = i64;
