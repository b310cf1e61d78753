//! Rewriting a batch's header in place.
//!
//! Floor 1. The caller holds a batch that was validated or built here; a shorter slice is our bug.
//! Base offset and leader epoch lie outside the CRC; the other setters recompute it, from the
//! checksum of the unchanged tail where that saves a second pass.

use super::layout::*;
use super::view::ProducerStamp;
use crate::base::crc;
use crate::model::Offset;

/// Below, reading the bytes costs no more than combining checksums does.
const COMBINED_BYTES_MIN: usize = 2048;

/// Assigns the offset of the first record and the leader epoch. The CRC stays as it is.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    assert!(base_offset >= 0 && leader_epoch >= 0);
    batch[BASE_OFFSET].copy_from_slice(&base_offset.to_be_bytes());
    batch[LEADER_EPOCH].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Continues a CRC32C over a whole batch whose own CRC holds, without reading its records again.
pub fn append_crc(crc: u32, batch: &[u8]) -> u32 {
    let (head, rest) = batch.split_at(CRC_START);
    if rest.len() < COMBINED_BYTES_MIN {
        return crc::append(crc, batch);
    }
    crc::combine(crc::append(crc, head), stored_crc(head), rest.len())
}

/// Gives all records the broker's time (`message.timestamp.type=LogAppendTime`).
pub fn set_log_append_time(batch: &mut [u8], now_ms: i64) {
    let attributes = i16::from_be_bytes([batch[ATTRIBUTES.start], batch[ATTRIBUTES.start + 1]]);
    rewrite(batch, |header| {
        header[ATTRIBUTES].copy_from_slice(&(attributes | LOG_APPEND_TIME).to_be_bytes());
        header[MAX_TIMESTAMP].copy_from_slice(&now_ms.to_be_bytes());
    });
}

/// Corrects a client's max timestamp (Kafka does so silently).
pub fn set_max_timestamp(batch: &mut [u8], max_ms: i64) {
    rewrite(batch, |header| header[MAX_TIMESTAMP].copy_from_slice(&max_ms.to_be_bytes()));
}

/// Gives a batch that no broker has taken another producer's identity (after an epoch bump, KIP-360).
pub fn set_producer(batch: &mut [u8], producer: ProducerStamp) {
    rewrite(batch, |header| put_producer(header, producer));
}

pub(super) fn put_producer(header: &mut [u8], producer: ProducerStamp) {
    header[PRODUCER_ID].copy_from_slice(&producer.id.to_be_bytes());
    header[PRODUCER_EPOCH].copy_from_slice(&producer.epoch.to_be_bytes());
    header[BASE_SEQUENCE].copy_from_slice(&producer.base_sequence.to_be_bytes());
}

fn stored_crc(head: &[u8]) -> u32 {
    u32::from_be_bytes([head[CRC.start], head[CRC.start + 1], head[CRC.start + 2], head[CRC.start + 3]])
}

/// Changes header fields and the CRC with them. CRC(header' ++ tail) is derived from
/// CRC(header ++ tail): they differ by what the header alone contributes, shifted over the tail.
fn rewrite(batch: &mut [u8], change: impl FnOnce(&mut [u8])) {
    let (header, tail) = batch.split_at_mut(HEADER_BYTES);
    let before = crc::crc32c(&header[CRC_START..]);
    change(header);
    let after = crc::crc32c(&header[CRC_START..]);
    let stored = stored_crc(header);
    // combine(a, b, n) = shift(a, n) ^ b, which is linear: b of the tail cancels out of the difference.
    let difference = crc::combine(before ^ after, 0, tail.len());
    header[CRC].copy_from_slice(&(stored ^ difference).to_be_bytes());
}
