//! What can go wrong, as a user of the client sees it.
//!
//! Floor 5. Every error says whether trying again may help, and never hides that a fate is unknown.

use crate::model::{ErrorCode, Failure, Offset};

/// The client could not do what was asked of a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No broker answered in time; the text is the last attempt's outcome.
    #[error("no answer from {broker}: {text}")]
    Unreachable { broker: String, text: String },
    /// The broker refused.
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("{0}")]
    Invalid(String),
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// The broker's error code, if it was the broker that refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused(failure) => Some(failure.code),
            _ => None,
        }
    }
}

/// Why a record was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// Definitely not written: the broker refused it for good.
    #[error(transparent)]
    Refused(Failure),
    /// The delivery timeout passed. With `maybe_written` an attempt was under way whose outcome is
    /// not known: the record may be in the log, once.
    #[error("not acknowledged within the delivery timeout ({last}){}", fate(*.maybe_written))]
    TimedOut { maybe_written: bool, last: String },
    /// The topic was deleted, or deleted and created again, while an attempt was under way: the
    /// record went with the old topic or was never written; it was not written to the new one.
    #[error("topic {topic} was deleted while the record was on its way")]
    TopicDeleted { topic: String },
    /// The broker no longer knows this producer's sequence; the record may have been written.
    #[error("its fate is unknown: {0}")]
    FateUnknown(String),
    #[error("topic {topic}: {failure}")]
    UnknownTopic { topic: String, failure: Failure },
    #[error("topic {topic} has {partitions} partitions, there is no partition {partition}")]
    UnknownPartition { topic: String, partition: u32, partitions: u32 },
    #[error(
        "a record of {bytes} bytes is larger than the {bytes_max} bytes that fit a batch (see the topic's \
         max.message.bytes)"
    )]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("{0}")]
    Invalid(String),
    #[error("the producer is closed")]
    Closed,
}

fn fate(maybe_written: bool) -> &'static str {
    if maybe_written { "; it may have been written" } else { "; it was not written" }
}

impl ProduceError {
    /// Whether the record may be in the log in spite of the error.
    pub fn maybe_written(&self) -> bool {
        match self {
            ProduceError::TimedOut { maybe_written, .. } => *maybe_written,
            ProduceError::FateUnknown(_) => true,
            _ => false,
        }
    }
}

/// Why a partition cannot be read on. Other partitions go on; this one waits for a seek.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// Stored bytes are damaged. Seek to `next_offset` to go on behind the damage.
    #[error("{topic}-{partition}: records from offset {offset} are damaged ({text}){}", next(*.next_offset))]
    Corrupt {
        topic: String,
        partition: u32,
        offset: Offset,
        /// `None`: not known.
        next_offset: Option<Offset>,
        text: String,
    },
    /// The records are whole, and compressed in a way that this client does not read.
    #[error(
        "{topic}-{partition}: records from offset {offset} are compressed with {codec}, which this client does \
         not read{}",
        next(Some(*.next_offset))
    )]
    Compressed { topic: String, partition: u32, offset: Offset, next_offset: Offset, codec: &'static str },
    /// The wanted offset is not (or no longer) in the log, and the reset policy is an error.
    #[error("{topic}-{partition}: offset {offset} is out of range")]
    OffsetOutOfRange { topic: String, partition: u32, offset: Offset },
    /// The topic is gone, or was created anew under the same name: assign again.
    #[error("{topic}-{partition}: {failure}")]
    TopicGone { topic: String, partition: u32, failure: Failure },
    #[error("{topic}-{partition}: {failure}")]
    Refused { topic: String, partition: u32, failure: Failure },
    #[error("{topic}-{partition} is not assigned")]
    NotAssigned { topic: String, partition: u32 },
    #[error("the consumer is closed")]
    Closed,
}

fn next(offset: Option<Offset>) -> String {
    offset.map_or_else(String::new, |offset| format!("; the next good offset is {offset}"))
}
