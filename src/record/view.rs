//! A checked view over the header of one record batch, and an iterator over batches laid end to end.
//!
//! Floor 1. A `BatchView` exists only over bytes whose length, magic, counts and offset range are
//! sane; its getters therefore never fail. The CRC is a separate question: [`BatchView::crc_holds`].

use super::codec::Compression;
use super::layout::*;
use crate::base::{DecodeError, crc};
use crate::model::{Offset, ProducerId};

/// One whole record batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
}

/// Identity of a batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    pub id: ProducerId,
    pub epoch: i16,
    /// Of the batch's first record; the next batch continues after its last, wrapping at 2^31.
    pub base_sequence: i32,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident $field:ident $type:ty;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> $type {
            let mut array = [0; size_of::<$type>()];
            array.copy_from_slice(&self.bytes[$field]);
            <$type>::from_be_bytes(array)
        })*
    };
}

impl<'a> BatchView<'a> {
    /// Views `bytes` as exactly one batch.
    pub fn new(bytes: &'a [u8]) -> Result<BatchView<'a>, DecodeError> {
        let (view, rest) = BatchView::first(bytes)?;
        if rest.is_empty() {
            Ok(view)
        } else {
            Err(DecodeError { what: "end of record batch", position: view.bytes.len() })
        }
    }

    /// Views the batch that `bytes` begins with, and gives back what follows it.
    pub fn first(bytes: &'a [u8]) -> Result<(BatchView<'a>, &'a [u8]), DecodeError> {
        let error = |what, position| Err(DecodeError { what, position });
        if bytes.len() < HEADER_BYTES {
            return error("record batch header", bytes.len());
        }
        let header = BatchView { bytes };
        let length = usize::try_from(header.length()).unwrap_or(0);
        if length < HEADER_BYTES - LENGTH_EXCLUDES || length > bytes.len() - LENGTH_EXCLUDES {
            return error("record batch length", LENGTH.start);
        }
        if header.magic() != MAGIC_V2 {
            return error("record batch magic", MAGIC);
        }
        let delta = i64::from(header.last_offset_delta());
        if delta < 0 || header.base_offset() < 0 || header.base_offset() > i64::MAX - 1 - delta {
            return error("record batch offsets", BASE_OFFSET.start);
        }
        if header.record_count() < 0 {
            return error("record count", RECORD_COUNT.start);
        }
        let (bytes, rest) = bytes.split_at(LENGTH_EXCLUDES + length);
        Ok((BatchView { bytes }, rest))
    }

    getters! {
        base_offset BASE_OFFSET i64;
        /// The length field: bytes after itself; all of the batch is [`Self::bytes`].
        length LENGTH i32;
        leader_epoch LEADER_EPOCH i32;
        crc CRC u32;
        attributes ATTRIBUTES i16;
        last_offset_delta LAST_OFFSET_DELTA i32;
        base_timestamp BASE_TIMESTAMP i64;
        /// The largest timestamp of its records, or the broker's append time ([`Self::has_log_append_time`]).
        max_timestamp MAX_TIMESTAMP i64;
        producer_id PRODUCER_ID i64;
        producer_epoch PRODUCER_EPOCH i16;
        base_sequence BASE_SEQUENCE i32;
        /// May be smaller than the offset range of a compacted batch.
        record_count RECORD_COUNT i32;
    }

    /// All bytes of the batch.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records as they lie in the batch: compressed as one piece unless `compression()` is none.
    pub fn records_bytes(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    pub fn magic(&self) -> u8 {
        self.bytes[MAGIC]
    }

    /// Offset of the batch's last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset() + i64::from(self.last_offset_delta())
    }

    /// Offset after the batch's last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// Whether the stored checksum is that of the stored bytes.
    pub fn crc_holds(&self) -> bool {
        crc::crc32c(&self.bytes[CRC_START..]) == self.crc()
    }

    /// `None` for a codec number that Kafka has not given out.
    pub fn compression(&self) -> Option<Compression> {
        Compression::from_number(self.attributes() & CODEC_MASK)
    }

    /// Whether all records carry the broker's append time, kept as the max timestamp.
    pub fn has_log_append_time(&self) -> bool {
        self.attributes() & LOG_APPEND_TIME != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }

    /// The producer's stamp, if an idempotent producer made the batch.
    pub fn producer(&self) -> Option<ProducerStamp> {
        (self.producer_id() >= 0).then(|| ProducerStamp {
            id: self.producer_id(),
            epoch: self.producer_epoch(),
            base_sequence: self.base_sequence(),
        })
    }
}

impl ProducerStamp {
    /// Sequence of the last of `count` records: sequences wrap from 2^31 - 1 to 0.
    /// For example base 2147483647 and 2 records: the last is 0.
    pub fn last_sequence(&self, last_offset_delta: i32) -> i32 {
        ((i64::from(self.base_sequence) + i64::from(last_offset_delta)) & i64::from(i32::MAX)) as i32
    }
}

/// The record batches laid end to end in `bytes`, each checked ([`BatchView::first`]). Ends after
/// the first error.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes, position: 0 }
}

#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
    position: usize,
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<BatchView<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match BatchView::first(self.rest) {
            Ok((view, rest)) => {
                self.position += view.bytes.len();
                self.rest = rest;
                Some(Ok(view))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(DecodeError { what: error.what, position: self.position + error.position }))
            }
        }
    }
}
