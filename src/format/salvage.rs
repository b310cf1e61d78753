//! What can be told of a frame that does not verify but that is proven to have been durable: the
//! entries stand twice, so that with one flipped bit either copy rebuilds the other.
//!
//! Floor 2. Owner: nobody. Nothing that salvage finds is served before its run's own checksum
//! verifies; it establishes which offsets a damaged place held.

use super::entry::{self, Entry};
use super::flip::{self, Flip};
use super::frame::{Address, FrameHeader};
use super::{block, frame};
use crate::base::crc;
use crate::model::{JournalId, Position};

/// Lanes of a journal in v1, and room for more.
const PARTS_TRIED: usize = 64;

/// Decodes what would decode if one bit were not flipped. A CRC32C tells any single flipped bit of
/// these lengths from every other, so there is at most one answer. `reach`: bytes that are tried.
pub fn corrected<T>(bytes: &[u8], reach: usize, decode: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    flip::search(bytes, reach, decode).map(|(_, decoded)| decoded)
}

/// The one flipped bit because of which a block's header and directory do not verify.
pub fn flipped_bit(block: &[u8], checksum: u32) -> Option<(usize, u8)> {
    let decode = |bytes: &[u8]| block::decode(bytes).ok().filter(|header| header.checksum == checksum);
    if let Some((place, _)) = flip::search(block, block::HEADER_BYTES, decode) {
        return Some(place);
    }
    let header = block::decode_fields(block).ok().filter(|header| header.checksum == checksum)?;
    let directory_bytes = header.run_count as usize * entry::BYTES;
    let at = block.len().checked_sub(directory_bytes).filter(|at| *at >= block::HEADER_BYTES)?;
    let computed = crc::append(crc::crc32c(&block[..block::CHECKSUM_AT]), &block[at..]);
    match flip::find(computed, checksum, directory_bytes)? {
        Flip::Covered { byte, bit } => Some((at + byte, bit)),
        Flip::Checksum { .. } => None,
    }
}

/// The header of a frame with one flipped bit.
pub fn frame_header(journal: JournalId, bytes: &[u8], at: Address) -> Option<FrameHeader> {
    let head = &bytes[..bytes.len().min(frame::head_bytes(frame::PARTS_MAX))];
    // Frames have a part for each lane at most; a flip behind those is no part of the header.
    let reach = frame::head_bytes(PARTS_TRIED);
    corrected(head, reach, |bytes| FrameHeader::decode(journal, bytes, at).ok())
}

/// An entry with one flipped bit.
pub fn entry(bytes: &[u8]) -> Option<Entry> {
    corrected(bytes.get(..entry::BYTES)?, entry::BYTES, |bytes| Entry::decode(bytes).ok())
}

/// A block of which at least its place and length are believed.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// Byte of the block in `bytes`.
    pub at: usize,
    pub length: usize,
    /// The header, if it or its fields are plausible.
    pub header: Option<block::BlockHeader>,
    pub runs: Vec<block::Run>,
    /// Whether every run of the block was established.
    pub is_complete: bool,
}

/// Searches the bytes of a bad frame for its blocks. `bytes` reaches to the next good frame.
pub fn blocks(bytes: &[u8]) -> Vec<Salvaged> {
    // The part count may be the damaged place: try every plausible one.
    let Some(first) = first_block(bytes) else { return Vec::new() };
    let mut found = Vec::new();
    let mut at = first;
    while at + block::HEADER_BYTES <= bytes.len() {
        let Some(salvaged) = one_block(bytes, at) else { break };
        at += salvaged.length;
        found.push(salvaged);
    }
    found
}

fn first_block(bytes: &[u8]) -> Option<usize> {
    (1..=frame::PARTS_MAX)
        .map(frame::head_bytes)
        .take_while(|at| at + block::HEADER_BYTES <= bytes.len())
        .find(|&at| whole_block(bytes, at).is_some() || !inline_runs(bytes, at).is_empty())
        // Only a block whose first entry is the damaged place is left to find by its magic.
        .or_else(|| (1..=frame::PARTS_MAX).map(frame::head_bytes).find(|&at| one_block(bytes, at).is_some()))
}

fn whole_block(bytes: &[u8], at: usize) -> Option<block::BlockHeader> {
    let header = block::decode_fields(bytes.get(at..)?).ok()?;
    let end = at.checked_add(header.length as usize)?;
    block::decode(bytes.get(at..end)?).ok()
}

fn one_block(bytes: &[u8], at: usize) -> Option<Salvaged> {
    if let Some(header) = whole_block(bytes, at) {
        let length = header.length as usize;
        let runs = block::runs(&bytes[at..at + length], &header).ok()?;
        return Some(Salvaged { at, length, header: Some(header), runs, is_complete: true });
    }
    let flipped = corrected(bytes.get(at..)?, block::HEADER_BYTES, |bytes| {
        let header = whole_block(bytes, 0)?;
        Some((header, block::runs(&bytes[..header.length as usize], &header).ok()?))
    });
    if let Some((header, runs)) = flipped {
        return Some(Salvaged {
            at,
            length: header.length as usize,
            header: Some(header),
            runs,
            is_complete: true,
        });
    }
    let inline = inline_runs(bytes, at);
    let by_entries = block_by_entries(bytes, at, &inline);
    if by_entries.as_ref().is_some_and(|salvaged| salvaged.is_complete) {
        return by_entries;
    }
    let header = block::decode_fields(bytes.get(at..)?).ok();
    match header.and_then(|header| Some((header, bytes.get(at..at + header.length as usize)?))) {
        Some((header, block)) => {
            let runs = merged_runs(block, &header, &inline);
            let is_complete = runs.len() == header.run_count as usize;
            Some(Salvaged { at, length: block.len(), header: Some(header), runs, is_complete })
        }
        None => by_entries,
    }
}

/// Without a header: the inline entries run up to the directory, which repeats them.
fn block_by_entries(bytes: &[u8], at: usize, inline: &[block::Run]) -> Option<Salvaged> {
    let directory_at = at + inline.last()?.payload().end;
    let directory_end = directory_at + inline.len() * entry::BYTES;
    let repeats = bytes.get(directory_at..directory_end)?.chunks_exact(entry::BYTES);
    let is_complete = repeats.zip(inline).all(|(raw, run)| Entry::decode(raw).is_ok_and(|e| e == run.entry));
    Some(Salvaged { at, length: directory_end - at, header: None, runs: inline.to_vec(), is_complete })
}

/// Follows the entries in front of the payloads until one does not verify.
fn inline_runs(bytes: &[u8], at: usize) -> Vec<block::Run> {
    let mut runs: Vec<block::Run> = Vec::new();
    let mut run_at = block::HEADER_BYTES;
    while let Some(raw) = bytes.get(at + run_at..at + run_at + entry::BYTES) {
        let Ok(entry) = Entry::decode(raw) else { break };
        // The directory's copies verify too, but do not say where they stand.
        let position: Option<Position> = runs.last().map(|last| last.entry.last_position + 1);
        if position.is_some_and(|position| position != entry.first_position) {
            break;
        }
        let run = block::Run { entry, at: run_at };
        run_at = run.payload().end;
        if at + run_at > bytes.len() {
            break;
        }
        runs.push(run);
    }
    runs
}

/// For each run the directory's copy, or else the inline one.
fn merged_runs(bytes: &[u8], header: &block::BlockHeader, inline: &[block::Run]) -> Vec<block::Run> {
    let count = header.run_count as usize;
    let directory_at = bytes.len() - count * entry::BYTES;
    let mut runs = Vec::new();
    let mut run_at = block::HEADER_BYTES;
    for index in 0..count {
        let copy = Entry::decode(&bytes[directory_at + index * entry::BYTES..]).ok();
        let Some(entry) = copy.or_else(|| inline.get(index).map(|run| run.entry)) else { break };
        let run = block::Run { entry, at: run_at };
        run_at = run.payload().end;
        if run_at > directory_at {
            break;
        }
        runs.push(run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::entry::{EntryKind, payload_crc};
    use super::super::frame::{FrameKind, Part};
    use super::*;
    use crate::model::{LaneId, PartitionId, TopicId};

    /// A frame of two blocks with two runs each.
    fn sample() -> Vec<u8> {
        let length = block::length_of(2, 60);
        let head = frame::head_bytes(2);
        let mut bytes = vec![0; head + 2 * length];
        let mut parts = Vec::new();
        for index in 0..2 {
            let at = head + index * length;
            let mut writer = block::BlockWriter::new(&mut bytes[at..at + length], 1000, 2);
            for partition in 0..2 {
                let id = PartitionId { topic: TopicId::new(7), partition };
                let entry = Entry { length: 30, ..Entry::control(EntryKind::Data, id, 5) };
                writer.run(entry, |payload, entry| {
                    payload.fill(9);
                    entry.crc = payload_crc(id, payload);
                });
            }
            let checksum = writer.finish(LaneId(index as u32), 1, 0);
            parts.push(Part { length: length as u32, checksum });
        }
        let header = FrameHeader {
            kind: FrameKind::Block,
            address: Address::default(),
            length: 0,
            previous: 0,
            start: 1,
            durable: Address::default(),
            parts,
            checksum: 0,
        };
        header.encode(JournalId(1), &mut bytes);
        bytes
    }

    #[test]
    fn one_flipped_bit_anywhere_loses_no_entry() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = blocks(&bad);
            assert_eq!(found.len(), 2, "bit {bit} of byte {}", bit / 8);
            assert!(found.iter().all(|block| block.runs.len() == 2), "bit {bit} of byte {}", bit / 8);
            assert!(found.iter().all(|block| block.header.is_some()), "bit {bit} of byte {}", bit / 8);
        }
    }
}
