//! A block: what a lane appends. Byte-identical on every replica: it says nothing of a journal.
//!
//! Floor 2. Owner: nobody. Little-endian:
//!
//! ```text
//!  0 magic "RLBK" u32 | 4 version u16 | 6 flags u16 (0)
//!  8 lane u32         | 12 lane epoch u32
//! 16 position u64: where the block begins in its lane
//! 24 length u32: the whole block    28 run count u32
//! 32 previous u32: checksum of the lane's previous block (0 for the first)
//! 36 reserved u64 (0)
//! 44 checksum u32: bytes 0..44, then the directory
//! 48 runs: entry (88), payload; ...
//!    directory: the entries once more, at the end
//! ```
//!
//! Example: a block at position 1000 with one run of 100 payload bytes is 48 + 88 + 100 + 88 = 324
//! bytes; its run covers positions 1048..=1235, and the lane's next block begins at 1324.

use std::ops::Range;

use super::entry::{self, Entry};
use crate::base::{DecodeError, Reader, crc};
use crate::model::{LaneId, Position};

pub const MAGIC: u32 = u32::from_le_bytes(*b"RLBK");
pub const VERSION: u16 = 1;
pub const HEADER_BYTES: usize = 48;
/// Lane of the blocks of sorted frames: their runs come from many lanes.
pub const SORTED_LANE: LaneId = LaneId(u32::MAX);
/// Bytes that a run takes besides its payload: its entry, twice.
pub const RUN_OVERHEAD_BYTES: usize = 2 * entry::BYTES;
pub(super) const CHECKSUM_AT: usize = 44;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    pub lane: LaneId,
    pub epoch: u32,
    pub position: Position,
    pub length: u32,
    pub run_count: u32,
    pub previous: u32,
    pub checksum: u32,
}

/// Bytes of a block with these runs: `payload_bytes` in all.
pub const fn length_of(run_count: usize, payload_bytes: usize) -> usize {
    HEADER_BYTES + run_count * RUN_OVERHEAD_BYTES + payload_bytes
}

/// Writes a block's header once its runs and directory are in place; returns its checksum.
/// `block` is the whole block; `header.length` and `header.checksum` are computed here.
pub fn finish(block: &mut [u8], header: BlockHeader) -> u32 {
    let directory_at = block.len() - header.run_count as usize * entry::BYTES;
    assert!(directory_at >= HEADER_BYTES);
    let length = u32::try_from(block.len()).expect("blocks are far below 4 GiB");
    block[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    block[4..6].copy_from_slice(&VERSION.to_le_bytes());
    block[6..8].fill(0);
    block[8..12].copy_from_slice(&header.lane.0.to_le_bytes());
    block[12..16].copy_from_slice(&header.epoch.to_le_bytes());
    block[16..24].copy_from_slice(&header.position.to_le_bytes());
    block[24..28].copy_from_slice(&length.to_le_bytes());
    block[28..32].copy_from_slice(&header.run_count.to_le_bytes());
    block[32..36].copy_from_slice(&header.previous.to_le_bytes());
    block[36..CHECKSUM_AT].fill(0);
    let checksum = crc::append(crc::crc32c(&block[..CHECKSUM_AT]), &block[directory_at..]);
    block[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    checksum
}

/// Decodes the fields of a header without verifying the checksum.
pub fn decode_fields(bytes: &[u8]) -> Result<BlockHeader, DecodeError> {
    let mut r = Reader::new(bytes);
    if r.u32("block magic")? != MAGIC {
        return Err(r.error("block magic"));
    }
    if r.u16("block version")? != VERSION {
        return Err(r.error("block version"));
    }
    if r.u16("block flags")? != 0 {
        return Err(r.error("block flags"));
    }
    let header = BlockHeader {
        lane: LaneId(r.u32("lane")?),
        epoch: r.u32("lane epoch")?,
        position: r.u64("block position")?,
        length: r.u32("block length")?,
        run_count: r.u32("run count")?,
        previous: r.u32("previous block")?,
        checksum: {
            r.u64("block reserved")?;
            r.u32("block checksum")?
        },
    };
    let least = (header.run_count as u64) * RUN_OVERHEAD_BYTES as u64 + HEADER_BYTES as u64;
    if u64::from(header.length) < least || header.position.checked_add(header.length.into()).is_none() {
        return Err(r.error("block length"));
    }
    Ok(header)
}

/// Decodes a whole block (`bytes` is exactly its length) and verifies header and directory.
pub fn decode(bytes: &[u8]) -> Result<BlockHeader, DecodeError> {
    let header = decode_fields(bytes)?;
    let bad = |what| DecodeError { what, position: CHECKSUM_AT };
    if bytes.len() != header.length as usize {
        return Err(bad("block length"));
    }
    let directory_at = bytes.len() - header.run_count as usize * entry::BYTES;
    let checksum = crc::append(crc::crc32c(&bytes[..CHECKSUM_AT]), &bytes[directory_at..]);
    if checksum != header.checksum { Err(bad("block checksum")) } else { Ok(header) }
}

/// One run of a block: its entry, and where its entry and payload lie in the block.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub entry: Entry,
    /// Byte of the entry in the block.
    pub at: usize,
}

impl Run {
    pub fn payload(&self) -> Range<usize> {
        let start = self.at + entry::BYTES;
        start..start + self.entry.length as usize
    }
}

/// The runs of a block that [`decode`] accepted, from its directory.
pub fn runs(bytes: &[u8], header: &BlockHeader) -> Result<Vec<Run>, DecodeError> {
    let count = header.run_count as usize;
    let directory_at = bytes.len() - count * entry::BYTES;
    let mut at = HEADER_BYTES;
    let mut runs = Vec::with_capacity(count);
    for index in 0..count {
        let entry = Entry::decode(&bytes[directory_at + index * entry::BYTES..])?;
        let run = Run { entry, at };
        at = run.payload().end;
        if at > directory_at {
            return Err(DecodeError { what: "run length", position: at });
        }
        runs.push(run);
    }
    if at != directory_at {
        return Err(DecodeError { what: "block length", position: at });
    }
    Ok(runs)
}

/// Assembles a block in place: runs are put one after the other, the directory follows.
pub struct BlockWriter<'a> {
    block: &'a mut [u8],
    position: Position,
    at: usize,
    directory: Vec<u8>,
}

impl<'a> BlockWriter<'a> {
    /// `block` has exactly the length of the finished block ([`length_of`]).
    pub fn new(block: &'a mut [u8], position: Position, run_count: usize) -> Self {
        BlockWriter {
            block,
            position,
            at: HEADER_BYTES,
            directory: Vec::with_capacity(run_count * entry::BYTES),
        }
    }

    /// Adds a run whose payload `fill` writes into the slice of `entry.length` bytes, and which may
    /// complete the entry (crc, offsets). Positions are set here. Returns the entry as written and
    /// the byte of it in the block.
    pub fn run(&mut self, mut entry: Entry, fill: impl FnOnce(&mut [u8], &mut Entry)) -> Run {
        let payload_at = self.at + entry::BYTES;
        let end = payload_at + entry.length as usize;
        entry.first_position = self.position + self.at as u64;
        entry.last_position = self.position + end as u64 - 1;
        fill(&mut self.block[payload_at..end], &mut entry);
        let bytes = entry.encode();
        self.block[self.at..payload_at].copy_from_slice(&bytes);
        self.directory.extend_from_slice(&bytes);
        let run = Run { entry, at: self.at };
        self.at = end;
        run
    }

    /// Adds a run that keeps the positions it was written with (a rewrite's output).
    pub fn carry(&mut self, entry: Entry, parts: &[&[u8]]) -> Run {
        let payload_at = self.at + entry::BYTES;
        let bytes = entry.encode();
        self.block[self.at..payload_at].copy_from_slice(&bytes);
        let mut at = payload_at;
        for part in parts {
            self.block[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        assert_eq!(at, payload_at + entry.length as usize, "an entry states its payload");
        self.directory.extend_from_slice(&bytes);
        let run = Run { entry, at: self.at };
        self.at = at;
        run
    }

    /// Writes directory and header; returns the checksum.
    pub fn finish(self, lane: LaneId, epoch: u32, previous: u32) -> u32 {
        assert_eq!(self.at + self.directory.len(), self.block.len(), "a block is sized before it is written");
        self.block[self.at..].copy_from_slice(&self.directory);
        let run_count = (self.directory.len() / entry::BYTES) as u32;
        let header =
            BlockHeader { lane, epoch, position: self.position, length: 0, run_count, previous, checksum: 0 };
        finish(self.block, header)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{EntryKind, payload_crc};
    use super::*;
    use crate::model::{PartitionId, TopicId};

    #[test]
    fn blocks_round_trip_and_state_their_positions() {
        let id = PartitionId { topic: TopicId::new(1), partition: 2 };
        let mut bytes = vec![0xaa; length_of(1, 100)];
        let mut writer = BlockWriter::new(&mut bytes, 1000, 1);
        writer.run(Entry { length: 100, ..Entry::control(EntryKind::Data, id, 5) }, |payload, entry| {
            payload.fill(9);
            entry.crc = payload_crc(id, payload);
        });
        let checksum = writer.finish(LaneId(4), 2, 77);
        let header = decode(&bytes).expect("just written");
        assert_eq!((header.checksum, header.length, header.previous), (checksum, 324, 77));
        let runs = runs(&bytes, &header).expect("just written");
        assert_eq!((runs[0].entry.first_position, runs[0].entry.last_position), (1048, 1235));
        assert!(runs[0].entry.verifies(&bytes[runs[0].payload()]));
    }
}
