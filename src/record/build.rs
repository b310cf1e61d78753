//! Builds a record batch: records are appended straight into the bytes that will be sent.
//!
//! Floor 1. Owner: one producer. The 61 header bytes are reserved at the start and filled by `build`.
//! Invariant: what is built passes [`super::validate`].

use super::codec::{self, Compression};
use super::layout::*;
use super::stamp::put_producer;
use super::view::ProducerStamp;
use crate::base::crc;
use crate::base::cursor::put_varlong;

/// A header of a record: a name and a value, which may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
}

/// A batch under construction.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    out: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

const NO_PRODUCER: ProducerStamp = ProducerStamp { id: -1, epoch: -1, base_sequence: -1 };

fn varlong_bytes(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (raw | 1).leading_zeros() as usize).div_ceil(7)
}

fn nullable_bytes(part: Option<&[u8]>) -> usize {
    part.map_or(1, |part| varlong_bytes(part.len() as i64) + part.len())
}

fn put_nullable(out: &mut Vec<u8>, part: Option<&[u8]>) {
    match part {
        None => out.push(1), // -1
        Some(part) => {
            put_varlong(out, part.len() as i64);
            out.extend_from_slice(part);
        }
    }
}

/// Key, value and headers as they will lie in the record.
fn parts_bytes(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> usize {
    let headers_bytes: usize =
        headers.iter().map(|h| nullable_bytes(Some(h.name.as_bytes())) + nullable_bytes(h.value)).sum();
    nullable_bytes(key) + nullable_bytes(value) + varlong_bytes(headers.len() as i64) + headers_bytes
}

impl BatchBuilder {
    /// `bytes` is the expected size of the batch before compression.
    pub fn new(bytes: usize) -> BatchBuilder {
        let mut out = Vec::with_capacity(bytes.max(HEADER_BYTES));
        out.resize(HEADER_BYTES, 0);
        BatchBuilder { out, count: 0, base_timestamp: -1, max_timestamp: -1 }
    }

    /// Most bytes that a record can add to a batch.
    pub fn record_bytes_max(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> usize {
        const LENGTH_MAX: usize = 5;
        const ATTRIBUTES: usize = 1;
        const TIMESTAMP_DELTA_MAX: usize = 10;
        const OFFSET_DELTA_MAX: usize = 5;
        LENGTH_MAX + ATTRIBUTES + TIMESTAMP_DELTA_MAX + OFFSET_DELTA_MAX + parts_bytes(key, value, headers)
    }

    /// Appends a record and gives back its index in the batch. `timestamp`: ms since 1970, or -1.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> u32 {
        assert!(timestamp >= -1, "a timestamp is at least 0, or -1 for none");
        let index = self.count;
        if index == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let timestamp_delta = timestamp - self.base_timestamp;
        let length = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(i64::from(index))
            + parts_bytes(key, value, headers);
        assert!(self.out.len() + length < i32::MAX as usize, "the caller bounds the batch");
        let out = &mut self.out;
        put_varlong(out, length as i64);
        let start = out.len();
        out.push(0); // attributes
        put_varlong(out, timestamp_delta);
        put_varlong(out, i64::from(index));
        put_nullable(out, key);
        put_nullable(out, value);
        put_varlong(out, headers.len() as i64);
        for header in headers {
            put_nullable(out, Some(header.name.as_bytes()));
            put_nullable(out, header.value);
        }
        assert_eq!(out.len(), start + length);
        self.count += 1;
        index as u32
    }

    pub fn record_count(&self) -> u32 {
        self.count as u32
    }

    /// Size so far, before compression.
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// Completes a batch of at least one record, with base offset 0. The codec is one that is
    /// implemented; records that it would not make smaller stay as they are.
    pub fn build(mut self, codec: Compression, producer: Option<ProducerStamp>) -> Vec<u8> {
        assert!(self.count > 0, "a batch has at least one record");
        let mut used = Compression::None;
        if codec != Compression::None {
            let mut compressed = Vec::with_capacity(HEADER_BYTES + self.out.len() / 2);
            compressed.resize(HEADER_BYTES, 0);
            codec::compress(codec, &self.out[HEADER_BYTES..], &mut compressed);
            if compressed.len() < self.out.len() {
                self.out = compressed;
                used = codec;
            }
        }
        let batch = &mut self.out;
        let length = (batch.len() - LENGTH_EXCLUDES) as i32;
        batch[LENGTH].copy_from_slice(&length.to_be_bytes());
        // No leader yet: the broker stamps its epoch.
        batch[LEADER_EPOCH].copy_from_slice(&(-1i32).to_be_bytes());
        batch[MAGIC] = MAGIC_V2;
        batch[ATTRIBUTES].copy_from_slice(&(used as i16).to_be_bytes());
        batch[LAST_OFFSET_DELTA].copy_from_slice(&(self.count - 1).to_be_bytes());
        batch[BASE_TIMESTAMP].copy_from_slice(&self.base_timestamp.to_be_bytes());
        batch[MAX_TIMESTAMP].copy_from_slice(&self.max_timestamp.to_be_bytes());
        put_producer(batch, producer.unwrap_or(NO_PRODUCER));
        batch[RECORD_COUNT].copy_from_slice(&self.count.to_be_bytes());
        let checksum = crc::crc32c(&batch[CRC_START..]);
        batch[CRC].copy_from_slice(&checksum.to_be_bytes());
        self.out
    }
}
