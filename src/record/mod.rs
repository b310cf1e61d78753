//! Record batches: Kafka's RecordBatch v2, on the wire, in memory and on disk alike.
//!
//! Floor 1. Owner: whoever holds the bytes; values and pure functions only. The broker checks a batch
//! once ([`validate`]), stamps what lies outside its CRC ([`stamp`]) and never decompresses it to
//! serve it. Invariant: nothing here panics on, or allocates from, an unchecked length.
//!
//! ```text
//!  0 base offset i64 | 8 length i32 (bytes after it) | 12 leader epoch i32 | 16 magic=2 i8 | 17 crc u32
//! 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64
//! 43 producer id i64 | 51 producer epoch i16 | 53 base sequence i32 | 57 record count i32 | 61 records
//! ```
//! Big-endian. The CRC32C covers byte 21 to the end.

mod build;
mod codec;
mod layout;
mod partition;
mod records;
mod stamp;
mod validate;
mod view;

#[cfg(test)]
mod tests;

pub use build::{BatchBuilder, Header};
pub use codec::Compression;
pub use layout::{HEADER_BYTES, RECORD_BYTES_MIN};
pub use partition::{murmur2, partition_for_key};
pub use records::{Headers, Record, Records, first_at_or_after, first_with_max_timestamp, payload};
pub use stamp::{append_crc, set_log_append_time, set_max_timestamp, set_producer, stamp};
pub use validate::{BatchInfo, Limits, validate};
pub use view::{BatchView, Batches, ProducerStamp, batches};
