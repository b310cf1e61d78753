//! The entry of a run: it precedes the run's payload in a block and is repeated in the block's
//! directory. A run verifies alone, wherever a rewrite puts it: `crc` covers its identity and bytes.
//!
//! Floor 2. Owner: nobody. Little-endian:
//!
//! ```text
//!  0 kind u8 | 1 version u8 | 2 flags u16 | 4 partition u32
//!  8 topic id u128
//! 24 first offset i64              32 last offset i64 (inclusive; first - 1 for no records)
//! 40 first position u64            48 last position u64 (inclusive)
//! 56 exposed epoch i32             60 length u32: payload bytes that follow the entry
//! 64 max timestamp i64, ms         72 append time i64, ms
//! 80 crc u32: topic id, partition, payload
//! 84 check u32: bytes 0..84
//! 88 payload
//! ```

use crate::base::{DecodeError, Reader, crc};
use crate::model::{Offset, PartitionId, Position, TopicId};

pub const BYTES: usize = 88;
pub const VERSION: u8 = 1;
const CRC_AT: usize = 80;
const CHECK_AT: usize = 84;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Record batches.
    Data = 1,
    /// `first offset` is the partition's new log start offset.
    LogStart = 2,
    /// The topic was deleted: kills this partition's runs at every position.
    Drop = 3,
    /// Opens a lane epoch (`exposed epoch`); topic id and partition are zero.
    Epoch = 4,
    /// Payload: producer ids (u64 each) whose state is forgotten.
    Forget = 5,
    /// Offsets `first..=last` were damaged when a rewrite came to them.
    Lost = 6,
    // 7 (close) and 8 (open) are reserved for moving a partition between lanes.
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<EntryKind> {
        use EntryKind::*;
        [Data, LogStart, Drop, Epoch, Forget, Lost].into_iter().find(|kind| *kind as u8 == byte)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: EntryKind,
    pub flags: u16,
    pub id: PartitionId,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub first_position: Position,
    pub last_position: Position,
    pub exposed_epoch: i32,
    pub length: u32,
    pub max_timestamp: i64,
    pub append_time: i64,
    pub crc: u32,
}

/// CRC32C over topic id, partition and payload.
pub fn payload_crc(id: PartitionId, payload: &[u8]) -> u32 {
    crc::append(identity_crc(id), payload)
}

/// The part of [`payload_crc`] that covers the identity; continue it with `crc::append`.
pub fn identity_crc(id: PartitionId) -> u32 {
    crc::append(crc::crc32c(&id.topic.number().to_le_bytes()), &id.partition.to_le_bytes())
}

impl Entry {
    /// An entry without records or payload, to be completed by struct update.
    pub fn control(kind: EntryKind, id: PartitionId, offset: Offset) -> Entry {
        Entry {
            kind,
            flags: 0,
            id,
            first_offset: offset,
            last_offset: offset,
            first_position: 0,
            last_position: 0,
            exposed_epoch: 0,
            length: 0,
            max_timestamp: -1,
            append_time: -1,
            crc: identity_crc(id),
        }
    }

    pub fn encode(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[0] = self.kind as u8;
        out[1] = VERSION;
        out[2..4].copy_from_slice(&self.flags.to_le_bytes());
        out[4..8].copy_from_slice(&self.id.partition.to_le_bytes());
        out[8..24].copy_from_slice(&self.id.topic.number().to_le_bytes());
        out[24..32].copy_from_slice(&self.first_offset.to_le_bytes());
        out[32..40].copy_from_slice(&self.last_offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_position.to_le_bytes());
        out[48..56].copy_from_slice(&self.last_position.to_le_bytes());
        out[56..60].copy_from_slice(&self.exposed_epoch.to_le_bytes());
        out[60..64].copy_from_slice(&self.length.to_le_bytes());
        out[64..72].copy_from_slice(&self.max_timestamp.to_le_bytes());
        out[72..80].copy_from_slice(&self.append_time.to_le_bytes());
        out[CRC_AT..CHECK_AT].copy_from_slice(&self.crc.to_le_bytes());
        let check = crc::crc32c(&out[..CHECK_AT]);
        out[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        out
    }

    /// Decodes and verifies the first [`BYTES`] of `bytes`; the payload is verified apart.
    pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
        let mut reader = Reader::new(bytes);
        let raw = reader.bytes(BYTES, "entry")?;
        let mut r = Reader::new(raw);
        let kind = EntryKind::from_byte(r.u8("entry kind")?).ok_or(r.error("entry kind"))?;
        if r.u8("entry version")? != VERSION {
            return Err(r.error("entry version"));
        }
        let flags = r.u16("entry flags")?;
        let partition = r.u32("entry partition")?;
        let topic = TopicId::new(r.u128("entry topic id")?);
        let entry = Entry {
            kind,
            flags,
            id: PartitionId { topic, partition },
            first_offset: r.i64("first offset")?,
            last_offset: r.i64("last offset")?,
            first_position: r.u64("first position")?,
            last_position: r.u64("last position")?,
            exposed_epoch: r.i32("exposed epoch")?,
            length: r.u32("entry length")?,
            max_timestamp: r.i64("max timestamp")?,
            append_time: r.i64("append time")?,
            crc: r.u32("run crc")?,
        };
        if crc::crc32c(&raw[..CHECK_AT]) != r.u32("entry check")? {
            return Err(r.error("entry check"));
        }
        if entry.first_offset < 0 || entry.last_offset < entry.first_offset - 1 {
            return Err(r.error("entry offsets"));
        }
        Ok(entry)
    }

    /// Whether `payload` is the payload that this entry was written for.
    pub fn verifies(&self, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && payload_crc(self.id, payload) == self.crc
    }

    /// From when time retention counts the run's age: the earlier of what the client and we say;
    /// a client that says nothing (-1) leaves it to us.
    pub fn retention_time(&self) -> i64 {
        if self.max_timestamp < 0 { self.append_time } else { self.max_timestamp.min(self.append_time) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_an_entry_is_noticed() {
        let id = PartitionId { topic: TopicId::new(7), partition: 3 };
        let entry =
            Entry { length: 5, crc: payload_crc(id, b"hello"), ..Entry::control(EntryKind::Data, id, 9) };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        assert!(entry.verifies(b"hello") && !entry.verifies(b"hellp"));
        for bit in 0..BYTES * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
