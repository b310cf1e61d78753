//! Where the fields of a record batch lie; the diagram is in `record/mod.rs`.
//!
//! Floor 1. All integers are big-endian.

use std::ops::Range;

use crate::model::topic_config::MESSAGE_BYTES_MIN;

pub const BASE_OFFSET: Range<usize> = 0..8;
pub const LENGTH: Range<usize> = 8..12;
pub const LEADER_EPOCH: Range<usize> = 12..16;
pub const MAGIC: usize = 16;
pub const CRC: Range<usize> = 17..21;
pub const ATTRIBUTES: Range<usize> = 21..23;
pub const LAST_OFFSET_DELTA: Range<usize> = 23..27;
pub const BASE_TIMESTAMP: Range<usize> = 27..35;
pub const MAX_TIMESTAMP: Range<usize> = 35..43;
pub const PRODUCER_ID: Range<usize> = 43..51;
pub const PRODUCER_EPOCH: Range<usize> = 51..53;
pub const BASE_SEQUENCE: Range<usize> = 53..57;
pub const RECORD_COUNT: Range<usize> = 57..61;

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = RECORD_COUNT.end;
/// The `length` field counts the bytes after itself.
pub const LENGTH_EXCLUDES: usize = LENGTH.end;
/// The checksum covers everything from here on.
pub const CRC_START: usize = ATTRIBUTES.start;
/// Length, attributes, timestamp delta, offset delta, key length, value length, header count: a byte each.
pub const RECORD_BYTES_MIN: usize = 7;

pub const MAGIC_V2: u8 = 2;

pub const CODEC_MASK: i16 = 0b111;
pub const LOG_APPEND_TIME: i16 = 1 << 3;
pub const TRANSACTIONAL: i16 = 1 << 4;
pub const CONTROL: i16 = 1 << 5;
pub const DELETE_HORIZON: i16 = 1 << 6;

const _: () = assert!(HEADER_BYTES == 61);
const _: () = assert!(CRC_START == CRC.end);
const _: () = assert!(HEADER_BYTES + RECORD_BYTES_MIN <= MESSAGE_BYTES_MIN as usize);
