//! Protocol outcomes. The numbers are Kafka's (`org.apache.kafka.common.protocol.Errors`).
//!
//! Floor 0.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $number:literal $kafka:literal $retriable:literal;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(i16)]
        pub enum ErrorCode { $($name = $number,)* }

        impl ErrorCode {
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The code of a number; `None` for one that this version does not know.
            pub fn from_number(number: i16) -> Option<ErrorCode> {
                match number { $($number => Some(ErrorCode::$name),)* _ => None }
            }
            /// Kafka's name, as users know it from Kafka's logs and documentation.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => $kafka,)* }
            }
            /// Whether the same request may succeed later.
            pub fn retriable(self) -> bool {
                match self { $(ErrorCode::$name => $retriable,)* }
            }
        }
    };
}

codes! {
    UnknownServerError = -1 "UNKNOWN_SERVER_ERROR" false;
    None = 0 "NONE" false;
    OffsetOutOfRange = 1 "OFFSET_OUT_OF_RANGE" false;
    CorruptMessage = 2 "CORRUPT_MESSAGE" false;
    UnknownTopicOrPartition = 3 "UNKNOWN_TOPIC_OR_PARTITION" true;
    NotLeaderOrFollower = 6 "NOT_LEADER_OR_FOLLOWER" true;
    RequestTimedOut = 7 "REQUEST_TIMED_OUT" true;
    MessageTooLarge = 10 "MESSAGE_TOO_LARGE" false;
    InvalidTopic = 17 "INVALID_TOPIC_EXCEPTION" false;
    RecordListTooLarge = 18 "RECORD_LIST_TOO_LARGE" false;
    NotEnoughReplicas = 19 "NOT_ENOUGH_REPLICAS" true;
    InvalidRequiredAcks = 21 "INVALID_REQUIRED_ACKS" false;
    InvalidTimestamp = 32 "INVALID_TIMESTAMP" false;
    UnsupportedVersion = 35 "UNSUPPORTED_VERSION" false;
    TopicAlreadyExists = 36 "TOPIC_ALREADY_EXISTS" false;
    InvalidPartitions = 37 "INVALID_PARTITIONS" false;
    InvalidReplicationFactor = 38 "INVALID_REPLICATION_FACTOR" false;
    InvalidConfig = 40 "INVALID_CONFIG" false;
    NotController = 41 "NOT_CONTROLLER" true;
    InvalidRequest = 42 "INVALID_REQUEST" false;
    PolicyViolation = 44 "POLICY_VIOLATION" false;
    OutOfOrderSequenceNumber = 45 "OUT_OF_ORDER_SEQUENCE_NUMBER" false;
    DuplicateSequenceNumber = 46 "DUPLICATE_SEQUENCE_NUMBER" false;
    InvalidProducerEpoch = 47 "INVALID_PRODUCER_EPOCH" false;
    KafkaStorageError = 56 "KAFKA_STORAGE_ERROR" true;
    UnknownProducerId = 59 "UNKNOWN_PRODUCER_ID" false;
    ThrottlingQuotaExceeded = 89 "THROTTLING_QUOTA_EXCEEDED" true;
    FencedLeaderEpoch = 74 "FENCED_LEADER_EPOCH" true;
    UnsupportedCompressionType = 76 "UNSUPPORTED_COMPRESSION_TYPE" false;
    InvalidRecord = 87 "INVALID_RECORD" false;
    UnknownTopicId = 100 "UNKNOWN_TOPIC_ID" true;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refused request: the code, the reason with its cure, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Failure {
    pub code: ErrorCode,
    pub text: String,
    /// 0: no advice (the client's own backoff applies).
    pub retry_after_ms: u32,
}

impl Failure {
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into(), retry_after_ms: 0 }
    }

    pub fn retry_after(mut self, ms: u32) -> Failure {
        self.retry_after_ms = ms;
        self
    }
}
