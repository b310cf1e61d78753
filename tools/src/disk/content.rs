//! Verifies what a frame holds: blocks with their runs, or checksummed parts, and its padding.
//!
//! Owner: ringctl, offline. Pure over the file's bytes. Every byte of a frame is covered by exactly
//! one of: frame header and table, block header and directory, entry copy, run payload, padding.

use std::ops::Range;

use ringlog::base::crc;
use ringlog::format::block::{self, Run};
use ringlog::format::entry::{self, Entry, EntryKind};
use ringlog::format::frame::{FrameHeader, FrameKind};
use ringlog::format::salvage;

use super::walk;
use ringlog::format::flip::{self, Flip};

/// Something wrong in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Bytes in the file: one byte if the flipped bit was found, else the checksummed stretch.
    pub range: Range<usize>,
    pub bit: Option<u8>,
    pub kind: FlawKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlawKind {
    /// Header or directory of a block.
    Block {
        runs: Vec<Entry>,
    },
    /// One of the two copies of an entry; the other one is good.
    EntryCopy(Entry),
    /// The payload of a run.
    Run(Entry),
    /// A rewrite met a damaged run, and kept its offsets only.
    Lost(Entry),
    Part(FrameKind),
    /// A byte that nothing uses is not zero.
    Padding,
}

/// Everything wrong in the frame; `bytes` is the whole file.
pub fn check(bytes: &[u8], header: &FrameHeader) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for (part, range) in walk::parts(header) {
        if walk::holds_blocks(header.kind) {
            check_block(bytes, header, range, part.checksum, &mut flaws);
        } else if crc::crc32c(&bytes[range.clone()]) != part.checksum {
            let computed = crc::crc32c(&bytes[range.clone()]);
            let flip = flip::find(computed, part.checksum, range.len());
            flaws.push(Flaw::locate(range, flip, None, FlawKind::Part(header.kind)));
        }
    }
    let padding = walk::padding(header);
    let start = header.address.byte as usize;
    let padding = start + padding.start..start + padding.end;
    for (byte, value) in padding.clone().zip(&bytes[padding]) {
        if *value != 0 {
            flaws.push(Flaw { range: byte..byte + 1, bit: None, kind: FlawKind::Padding });
        }
    }
    flaws
}

impl Flaw {
    /// `checksum_at`: where the stored checksum lies, should the bit be in there.
    fn locate(covered: Range<usize>, flip: Option<Flip>, checksum_at: Option<usize>, kind: FlawKind) -> Flaw {
        let found = match flip {
            Some(Flip::Covered { byte, bit }) => Some((covered.start + byte, bit)),
            Some(Flip::Checksum { bit }) => checksum_at.map(|at| (at + usize::from(bit) / 8, bit % 8)),
            None => None,
        };
        match found {
            Some((byte, bit)) => Flaw { range: byte..byte + 1, bit: Some(bit), kind },
            None => Flaw { range: covered, bit: None, kind },
        }
    }
}

fn check_block(bytes: &[u8], frame: &FrameHeader, range: Range<usize>, checksum: u32, flaws: &mut Vec<Flaw>) {
    let block = &bytes[range.clone()];
    let good = block::decode(block).ok().filter(|header| header.checksum == checksum);
    match good.and_then(|header| block::runs(block, &header).ok()) {
        Some(runs) => runs.iter().for_each(|run| check_run(bytes, range.start, run, flaws)),
        None => check_bad_block(bytes, frame, range, checksum, flaws),
    }
}

/// The runs of a bad block, as far as one copy of their entries shows them.
fn salvaged_runs(bytes: &[u8], frame: &FrameHeader, block_at: usize) -> Vec<Run> {
    let start = frame.address.byte as usize;
    let blocks = salvage::blocks(&bytes[start..start + frame.length as usize]);
    let found = blocks.into_iter().find(|salvaged| start + salvaged.at == block_at);
    found.map(|salvaged| salvaged.runs).unwrap_or_default()
}

/// Header or directory do not verify: names the place, and checks the runs as far as one copy of
/// their entries shows them.
fn check_bad_block(
    bytes: &[u8],
    frame: &FrameHeader,
    range: Range<usize>,
    checksum: u32,
    flaws: &mut Vec<Flaw>,
) {
    let block = &bytes[range.clone()];
    let runs = salvaged_runs(bytes, frame, range.start);
    let kind = FlawKind::Block { runs: runs.iter().map(|run| run.entry).collect() };
    let flaw = match salvage::flipped_bit(block, checksum) {
        Some((byte, bit)) => {
            let byte = range.start + byte;
            Flaw { range: byte..byte + 1, bit: Some(bit), kind }
        }
        None => Flaw { range: range.clone(), bit: None, kind },
    };
    let known = flaw.range.clone();
    flaws.push(flaw);
    for run in &runs {
        let mut more = Vec::new();
        check_run(bytes, range.start, run, &mut more);
        flaws.extend(more.into_iter().filter(|flaw| flaw.range != known));
    }
}

fn check_run(bytes: &[u8], block_at: usize, run: &Run, flaws: &mut Vec<Flaw>) {
    let at = block_at + run.at;
    let raw = &bytes[at..at + entry::BYTES];
    if raw != run.entry.encode() {
        let wanted = run.entry.encode();
        let wrong: Vec<usize> = (0..entry::BYTES).filter(|&index| raw[index] != wanted[index]).collect();
        let range = match wrong[..] {
            [index] => at + index..at + index + 1,
            _ => at..at + entry::BYTES,
        };
        let bits = wrong.first().map_or(0, |&index| raw[index] ^ wanted[index]);
        let bit = (wrong.len() == 1 && bits.is_power_of_two()).then(|| bits.trailing_zeros() as u8);
        flaws.push(Flaw { range, bit, kind: FlawKind::EntryCopy(run.entry) });
    }
    if run.entry.kind == EntryKind::Lost {
        let kind = FlawKind::Lost(run.entry);
        flaws.push(Flaw { range: at..at + entry::BYTES, bit: None, kind });
    }
    let payload = block_at + run.payload().start..block_at + run.payload().end;
    if run.entry.verifies(&bytes[payload.clone()]) {
        return;
    }
    let computed = entry::payload_crc(run.entry.id, &bytes[payload.clone()]);
    let flip = flip::find(computed, run.entry.crc, payload.len());
    flaws.push(Flaw::locate(payload, flip, None, FlawKind::Run(run.entry)));
}

/// `offsets 5..=9 of TOPIC-3`, or what else a run says.
pub fn describe(entry: &Entry, topic: &str) -> String {
    let partition = entry.id.partition;
    match entry.kind {
        EntryKind::Data => {
            format!("offsets {}..={} of {topic}-{partition}", entry.first_offset, entry.last_offset)
        }
        EntryKind::LogStart => format!("log start {} of {topic}-{partition}", entry.first_offset),
        EntryKind::Drop => format!("deletion of {topic}-{partition}"),
        EntryKind::Epoch => format!("lane epoch {}", entry.exposed_epoch),
        EntryKind::Forget => format!("forgotten producers of {topic}-{partition}"),
        EntryKind::Lost => {
            format!("loss of offsets {}..={} of {topic}-{partition}", entry.first_offset, entry.last_offset)
        }
    }
}

#[cfg(test)]
mod tests {
    use ringlog::base::align::align_up;
    use ringlog::format::frame::{self, Address, Part};
    use ringlog::model::{JournalId, LaneId, PartitionId, TopicId};

    use super::super::walk::{Place, Segment};
    use super::*;

    const JOURNAL: JournalId = JournalId(77);

    /// A segment of three frames (two blocks of two runs; one block; a mark) and an unused rest.
    fn sample() -> (Vec<u8>, usize) {
        let mut bytes = vec![0; 7 * 4096];
        let (mut at, mut chain) = (0, 5);
        for blocks in [2, 1, 0] {
            let frame = &mut bytes[at..];
            let (mut part_at, mut parts) =
                (frame::head_bytes(if blocks == 0 { 1 } else { blocks }), Vec::new());
            for lane in 0..blocks {
                let length = block::length_of(2, 1400);
                let block = &mut frame[part_at..part_at + length];
                let mut writer = block::BlockWriter::new(block, 1000, 2);
                for partition in 0..2 {
                    let id = PartitionId { topic: TopicId::new(7), partition };
                    let entry = Entry { length: 700, ..Entry::control(EntryKind::Data, id, 5) };
                    writer.run(entry, |payload, entry| {
                        payload.fill(9);
                        entry.crc = entry::payload_crc(id, payload);
                    });
                }
                let checksum = writer.finish(LaneId(lane as u32), 1, 0);
                parts.push(Part { length: length as u32, checksum });
                part_at += length;
            }
            let kind = if blocks == 0 { FrameKind::Mark } else { FrameKind::Block };
            if blocks == 0 {
                frame[part_at..part_at + 16].fill(3);
                parts.push(Part { length: 16, checksum: crc::crc32c(&frame[part_at..part_at + 16]) });
            }
            let address = Address { segment: 4, byte: at as u32 };
            let durable = address;
            let header = FrameHeader {
                kind,
                address,
                length: 0,
                previous: chain,
                start: 1,
                durable,
                parts,
                checksum: 0,
            };
            chain = header.encode(JOURNAL, frame);
            let length = u32::from_le_bytes(frame[20..24].try_into().unwrap());
            at += align_up(length.into()) as usize;
        }
        (bytes, at)
    }

    fn flaws(bytes: &[u8]) -> (Vec<Flaw>, usize) {
        let walked = Segment { journal: JOURNAL, number: 4, bytes, proven: Address::default() }.walk(Some(5));
        let mut found = Vec::new();
        for place in &walked.places {
            match place {
                Place::Frame { header, flipped, unlinked } => {
                    assert!(!unlinked);
                    if let Some((byte, bit)) = *flipped {
                        let byte = header.address.byte as usize + byte;
                        let kind = FlawKind::Part(header.kind);
                        found.push(Flaw { range: byte..byte + 1, bit: Some(bit), kind });
                    }
                    found.extend(check(bytes, header));
                }
                Place::Bad { range } => panic!("{range:?} was not explained by one bit"),
            }
        }
        (found, walked.end)
    }

    #[test]
    fn every_flipped_bit_is_named_to_the_byte() {
        let (good, end) = sample();
        assert_eq!(flaws(&good), (vec![], end));
        for byte in 0..end {
            let bit = (byte * 5 % 8) as u8;
            let mut bad = good.clone();
            bad[byte] ^= 1 << bit;
            let (found, found_end) = flaws(&bad);
            assert_eq!(found_end, end, "byte {byte}");
            assert_eq!(found.len(), 1, "byte {byte}: {found:?}");
            assert_eq!(found[0].range, byte..byte + 1, "byte {byte}: {found:?}");
            assert!(found[0].bit == Some(bit) || found[0].kind == FlawKind::Padding, "byte {byte}");
        }
    }

    #[test]
    fn what_a_rewrite_lost_is_told() {
        let id = PartitionId { topic: TopicId::new(7), partition: 3 };
        let lost = Entry { last_offset: 9, ..Entry::control(EntryKind::Lost, id, 5) };
        let mut bytes = vec![0; block::length_of(1, 0)];
        let mut writer = block::BlockWriter::new(&mut bytes, 1000, 1);
        writer.run(lost, |_, _| ());
        let checksum = writer.finish(LaneId(0), 1, 0);
        let header = FrameHeader {
            kind: FrameKind::Sorted,
            address: Address::default(),
            length: 0,
            previous: 0,
            start: 1,
            durable: Address::default(),
            parts: Vec::new(),
            checksum: 0,
        };
        let mut flaws = Vec::new();
        check_block(&bytes, &header, 0..bytes.len(), checksum, &mut flaws);
        assert!(matches!(&flaws[..], [Flaw { kind: FlawKind::Lost(entry), .. }] if entry.last_offset == 9));
    }

    #[test]
    fn a_bad_frame_is_damage_only_if_a_later_one_proves_it_durable() {
        let (mut bytes, end) = sample();
        bytes[0..1000].fill(0xee);
        let walked =
            Segment { journal: JOURNAL, number: 4, bytes: &bytes, proven: Address::default() }.walk(Some(5));
        assert!(matches!(&walked.places[0], Place::Bad { range } if range.start == 0));
        assert_eq!(walked.end, end);

        let (mut bytes, end) = sample();
        bytes[end - 4096..end - 3000].fill(0xee);
        let segment = Segment { journal: JOURNAL, number: 4, bytes: &bytes, proven: Address::default() };
        let walked = segment.walk(Some(5));
        assert_eq!(walked.end, end - 4096);
    }
}
