//! Walks the frames of one segment file, past damage.
//!
//! Owner: ringctl, offline. Pure over the file's bytes. It follows the chain as recovery does, and
//! goes further where recovery stops: a header with one flipped bit is read as it was, and behind
//! any other bad place the next frame is searched that proves this place to have been durable.
//! A frame that follows a bad place and proves nothing is a remainder of an unfinished write.

use std::ops::Range;

use ringlog::base::align::{BLOCK_BYTES, align_up};
use ringlog::base::crc;
use ringlog::format::frame::{self, Address, FrameHeader, FrameKind, Part};
use ringlog::model::JournalId;

use ringlog::format::flip;

/// A stretch of a segment.
#[derive(Debug)]
pub enum Place {
    /// A frame whose header verifies, perhaps once one bit is flipped back. Its parts are not
    /// verified yet.
    Frame { header: FrameHeader, flipped: Option<(usize, u8)>, unlinked: bool },
    /// No frame verifies here, although one was acknowledged as durable.
    Bad { range: Range<usize> },
}

#[derive(Debug)]
pub struct Walked {
    pub places: Vec<Place>,
    /// Byte behind the last frame.
    pub end: usize,
    /// Checksum of the last frame, which the next segment's first one must name.
    pub chain: Option<u32>,
    /// Everything before this was durable, says the last frame that says so.
    pub durable: Address,
    /// Set if the walk ended at a frame of a newer broker.
    pub newer: Option<&'static str>,
}

pub struct Segment<'a> {
    pub journal: JournalId,
    pub number: u64,
    pub bytes: &'a [u8],
    /// Everything before this is known to have been durable, from other files.
    pub proven: Address,
}

impl Segment<'_> {
    /// `chain`: checksum of the frame before the first one, if it is known.
    pub fn walk(&self, chain: Option<u32>) -> Walked {
        let first = Address { segment: self.number, byte: 0 };
        let mut walked = Walked { places: Vec::new(), end: 0, chain, durable: first, newer: None };
        while walked.end < self.bytes.len() {
            let at = walked.end;
            let (header, flipped) = match self.decode(at) {
                Ok(header) => (header, None),
                Err(what) if what == frame::UNKNOWN_KIND || what == frame::UNKNOWN_VERSION => {
                    walked.newer = Some(what);
                    break;
                }
                Err(_) => match self.decode_flipped(at) {
                    Some((header, bit)) => (header, Some(bit)),
                    None if self.resume(&mut walked) => continue,
                    None => break,
                },
            };
            let unlinked = walked.chain.is_some_and(|chain| chain != header.previous);
            let proof = header.durable.max(self.proven);
            // A frame of an earlier attempt may lie behind an unfinished write.
            if unlinked && proof <= (Address { byte: at as u32, ..first }) {
                break;
            }
            walked.push(header, flipped, unlinked);
        }
        walked
    }

    /// Decodes header and table of the frame at byte `at`.
    fn decode(&self, at: usize) -> Result<FrameHeader, &'static str> {
        self.decode_bytes(&self.bytes[at..], at)
    }

    fn decode_bytes(&self, bytes: &[u8], at: usize) -> Result<FrameHeader, &'static str> {
        let address = Address { segment: self.number, byte: at as u32 };
        let header = FrameHeader::decode(self.journal, bytes, address).map_err(|error| error.what)?;
        if header.padded() > (self.bytes.len() - at) as u64 { Err("frame length") } else { Ok(header) }
    }

    /// The header at `at` with one bit flipped back.
    fn decode_flipped(&self, at: usize) -> Option<(FrameHeader, (usize, u8))> {
        let head = &self.bytes[at..self.bytes.len().min(at + frame::head_bytes(frame::PARTS_MAX))];
        if head[..head.len().min(BLOCK_BYTES)].iter().all(|&byte| byte == 0) {
            return None;
        }
        let decode = |bytes: &[u8]| self.decode_bytes(bytes, at).ok();
        if let Some((bit, header)) = flip::search(head, frame::HEADER_BYTES, decode) {
            return Some((header, bit));
        }
        let bit = self.flipped_in_table(head)?;
        let mut fixed = head.to_vec();
        fixed[bit.0] ^= 1 << bit.1;
        self.decode_bytes(&fixed, at).ok().map(|header| (header, bit))
    }

    /// With a good header the table's length is known, and its bit follows from the checksum.
    fn flipped_in_table(&self, head: &[u8]) -> Option<(usize, u8)> {
        let count = u32::from_le_bytes(*head.get(44..48)?.first_chunk()?) as usize;
        let table = head.get(frame::HEADER_BYTES..frame::head_bytes(count.min(frame::PARTS_MAX)))?;
        let stored = u32::from_le_bytes(*head.get(56..60)?.first_chunk()?);
        let seed = crc::crc32c(&self.journal.0.to_le_bytes());
        let computed = crc::append(crc::append(crc::append(seed, &head[..56]), &head[60..64]), table);
        match flip::find(computed, stored, table.len())? {
            flip::Flip::Covered { byte, bit } => Some((frame::HEADER_BYTES + byte, bit)),
            flip::Flip::Checksum { .. } => None,
        }
    }

    /// Looks behind a bad place for a frame that proves it to have been durable, and goes on there.
    fn resume(&self, walked: &mut Walked) -> bool {
        let bad = Address { segment: self.number, byte: walked.end as u32 };
        let candidates = (walked.end + BLOCK_BYTES..self.bytes.len()).step_by(BLOCK_BYTES);
        for at in candidates {
            if !self.bytes[at..].starts_with(&frame::MAGIC.to_le_bytes()) {
                continue;
            }
            if self.decode(at).is_ok_and(|header| header.durable.max(self.proven) > bad) {
                walked.places.push(Place::Bad { range: walked.end..at });
                walked.end = at;
                walked.chain = None;
                return true;
            }
        }
        false
    }
}

impl Walked {
    fn push(&mut self, header: FrameHeader, flipped: Option<(usize, u8)>, unlinked: bool) {
        self.end += header.padded() as usize;
        self.chain = Some(header.checksum);
        self.durable = self.durable.max(header.durable);
        self.places.push(Place::Frame { header, flipped, unlinked });
    }
}

/// Bytes of a frame that its header and parts do not use, relative to the frame.
pub fn padding(header: &FrameHeader) -> Range<usize> {
    header.length as usize..align_up(header.length.into()) as usize
}

/// Whether the parts of this frame are blocks.
pub fn holds_blocks(kind: FrameKind) -> bool {
    matches!(kind, FrameKind::Block | FrameKind::Sorted)
}

/// The parts of a frame with their byte ranges in the file.
pub fn parts(header: &FrameHeader) -> impl Iterator<Item = (Part, Range<usize>)> + '_ {
    let at = header.address.byte as usize;
    header.part_ranges().map(move |(part, range)| (part, at + range.start..at + range.end))
}
