//! A frame: what a journal appends. It starts on a disk block, never crosses a segment, and carries
//! the checksum of the frame before it; recovery follows that chain, never the address alone.
//!
//! Floor 2. Owner: nobody. Little-endian; the checksum is seeded with the journal's random id, so
//! that no payload can forge a frame:
//!
//! ```text
//!  0 magic "RLFR" u32 | 4 version u16 | 6 kind u16
//!  8 segment u64: number of the file
//! 16 address u32: byte of the frame in it   20 length u32: header, table and parts, unpadded
//! 24 previous u32: checksum of the frame before   28 start u32: number of the broker's start
//! 32 durable segment u64, 40 durable address u32: all before this was durable when the frame was built
//! 44 part count u32
//! 48 reserved u64 (0)
//! 56 checksum u32: journal id, bytes 0..56, bytes 60.. up to the end of the table
//! 60 reserved u32 (0)
//! 64 table: part count x { length u32, checksum u32 }
//!    parts, one after the other; zeros up to the next disk block
//! ```
//!
//! A part's checksum is a block's own checksum (kinds block and sorted), or the CRC32C of its bytes.

use crate::base::align::{BLOCK_BYTES, align_up};
use crate::base::{DecodeError, Reader, crc};
use crate::model::JournalId;

pub const MAGIC: u32 = u32::from_le_bytes(*b"RLFR");
pub const VERSION: u16 = 1;
pub const HEADER_BYTES: usize = 64;
pub const TABLE_ROW_BYTES: usize = 8;
/// More parts than lanes that a journal can have.
pub const PARTS_MAX: usize = 1024;
const CHECKSUM_AT: usize = 56;

const _: () = assert!(HEADER_BYTES + PARTS_MAX * TABLE_ROW_BYTES < 4 * BLOCK_BYTES);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// Parts are blocks of lanes.
    Block = 1,
    /// Parts are blocks whose runs a rewrite sorted.
    Sorted = 2,
    // 3 (truncate a lane) is reserved for followers.
    /// Proves by its durable address that the frames before it were not torn; see `mark`.
    Mark = 4,
    /// The index of this segment; its last frame.
    Footer = 5,
    /// Fills a segment to its end.
    Pad = 6,
    // 7 (install) is reserved for followers.
}

impl FrameKind {
    fn from_number(number: u16) -> Option<FrameKind> {
        use FrameKind::*;
        [Block, Sorted, Mark, Footer, Pad].into_iter().find(|kind| *kind as u16 == number)
    }
}

/// A place in a journal; ordered. Local, never an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Address {
    pub segment: u64,
    pub byte: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub length: u32,
    pub checksum: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub address: Address,
    pub length: u32,
    pub previous: u32,
    pub start: u32,
    /// Everything before this address was durable when the frame was built.
    pub durable: Address,
    pub parts: Vec<Part>,
    pub checksum: u32,
}

/// Bytes before the first part.
pub const fn head_bytes(parts: usize) -> usize {
    HEADER_BYTES + parts * TABLE_ROW_BYTES
}

impl FrameHeader {
    /// Bytes that the frame takes in its segment.
    pub fn padded(&self) -> u64 {
        align_up(self.length.into())
    }

    /// Where the next frame begins.
    pub fn end(&self) -> Address {
        Address { segment: self.address.segment, byte: self.address.byte + self.padded() as u32 }
    }

    /// The byte range of each part in the frame.
    pub fn part_ranges(&self) -> impl Iterator<Item = (Part, std::ops::Range<usize>)> + '_ {
        let mut at = head_bytes(self.parts.len());
        self.parts.iter().map(move |part| {
            let range = at..at + part.length as usize;
            at = range.end;
            (*part, range)
        })
    }

    /// Writes header and table at the start of `frame`; returns the checksum. `length` and
    /// `checksum` of `self` are ignored: the length follows from the parts.
    pub fn encode(&self, journal: JournalId, frame: &mut [u8]) -> u32 {
        let parts: usize = self.parts.iter().map(|part| part.length as usize).sum();
        let length = u32::try_from(head_bytes(self.parts.len()) + parts).expect("frames are far below 4 GiB");
        assert!(self.parts.len() <= PARTS_MAX && length as usize <= frame.len());
        frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..6].copy_from_slice(&VERSION.to_le_bytes());
        frame[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        frame[8..16].copy_from_slice(&self.address.segment.to_le_bytes());
        frame[16..20].copy_from_slice(&self.address.byte.to_le_bytes());
        frame[20..24].copy_from_slice(&length.to_le_bytes());
        frame[24..28].copy_from_slice(&self.previous.to_le_bytes());
        frame[28..32].copy_from_slice(&self.start.to_le_bytes());
        frame[32..40].copy_from_slice(&self.durable.segment.to_le_bytes());
        frame[40..44].copy_from_slice(&self.durable.byte.to_le_bytes());
        frame[44..48].copy_from_slice(&(self.parts.len() as u32).to_le_bytes());
        frame[48..HEADER_BYTES].fill(0);
        for (row, part) in frame[HEADER_BYTES..].chunks_exact_mut(TABLE_ROW_BYTES).zip(&self.parts) {
            row[..4].copy_from_slice(&part.length.to_le_bytes());
            row[4..].copy_from_slice(&part.checksum.to_le_bytes());
        }
        let checksum = checksum_of(journal, &frame[..head_bytes(self.parts.len())]);
        frame[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// Decodes and verifies header and table; `bytes` must hold at least those.
    /// `at` is where the bytes were read: a frame that says otherwise is none.
    pub fn decode(journal: JournalId, bytes: &[u8], at: Address) -> Result<FrameHeader, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u32("frame magic")? != MAGIC {
            return Err(r.error("frame magic"));
        }
        let version = r.u16("frame version")?;
        let kind = r.u16("frame kind")?;
        let address = Address { segment: r.u64("frame segment")?, byte: r.u32("frame address")? };
        let length = r.u32("frame length")?;
        let previous = r.u32("previous frame")?;
        let start = r.u32("start")?;
        let durable = Address { segment: r.u64("durable segment")?, byte: r.u32("durable address")? };
        let count = r.u32("part count")? as usize;
        r.u64("frame reserved")?;
        let checksum = r.u32("frame checksum")?;
        r.u32("frame reserved")?;
        if count > PARTS_MAX || head_bytes(count) > bytes.len() {
            return Err(r.error("part count"));
        }
        if checksum_of(journal, &bytes[..head_bytes(count)]) != checksum {
            return Err(r.error("frame checksum"));
        }
        // Only below here is the frame ours: a strange kind or version is a newer broker's.
        if version != VERSION {
            return Err(DecodeError { what: UNKNOWN_VERSION, position: 4 });
        }
        let kind = FrameKind::from_number(kind).ok_or(DecodeError { what: UNKNOWN_KIND, position: 6 })?;
        if address != at {
            return Err(r.error("frame address"));
        }
        let mut parts = Vec::with_capacity(count);
        let mut total = head_bytes(count) as u64;
        for _ in 0..count {
            let part = Part { length: r.u32("part length")?, checksum: r.u32("part checksum")? };
            total += u64::from(part.length);
            parts.push(part);
        }
        if total != u64::from(length) {
            return Err(r.error("frame length"));
        }
        Ok(FrameHeader { kind, address, length, previous, start, durable, parts, checksum })
    }
}

/// `DecodeError::what` of a frame that verifies but that a newer broker wrote.
pub const UNKNOWN_VERSION: &str = "frame version (written by a newer broker)";
/// `DecodeError::what` of a frame that verifies but whose kind a newer broker added.
pub const UNKNOWN_KIND: &str = "frame kind (written by a newer broker)";

fn checksum_of(journal: JournalId, head: &[u8]) -> u32 {
    let seed = crc::crc32c(&journal.0.to_le_bytes());
    let crc = crc::append(seed, &head[..CHECKSUM_AT]);
    crc::append(crc, &head[CHECKSUM_AT + 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_bound_to_its_journal_and_address() {
        let at = Address { segment: 3, byte: 8192 };
        let header = FrameHeader {
            kind: FrameKind::Mark,
            address: at,
            length: 0,
            previous: 5,
            start: 2,
            durable: Address { segment: 3, byte: 4096 },
            parts: vec![Part { length: 10, checksum: 1 }],
            checksum: 0,
        };
        let mut bytes = vec![0; 4096];
        let checksum = header.encode(JournalId(9), &mut bytes);
        let decoded = FrameHeader::decode(JournalId(9), &bytes, at).expect("just written");
        assert_eq!(decoded, FrameHeader { length: 82, checksum, ..header });
        assert!(FrameHeader::decode(JournalId(8), &bytes, at).is_err());
        assert!(FrameHeader::decode(JournalId(9), &bytes, Address { segment: 3, byte: 4096 }).is_err());
        for bit in 0..72 * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(JournalId(9), &bad, at).is_err(), "bit {bit}");
        }
    }
}
