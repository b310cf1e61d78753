//! Bit rot in the last frame, told from an unfinished write: a torn write misses whole sectors and never
//! looks like one flipped bit.
//!
//! Floor 3. Owner: recovery. Pure. Without it one bit of the last acknowledged frame, in the few
//! milliseconds before a mark proves it whole, would be cut as a torn tail. A checksum of 32 bits
//! is not evidence enough by itself: a torn frame of 1 MiB looks, once in 500 times, as if one of its
//! eight million bits had flipped. What a write missed reads as zeros, for segments are new files: a frame
//! with a sector of zeros is taken for torn.

use crate::base::crc;
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::{block, entry, flip, salvage};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Whether exactly one flipped bit explains why a frame does not verify, whose header does.
pub(super) fn is_one_bit(header: &FrameHeader, bytes: &[u8]) -> bool {
    let used = header.part_ranges().map(|(_, range)| range.end).max().unwrap_or(0);
    let Some(used) = bytes.get(..used) else { return false };
    if used.chunks_exact(SECTOR_BYTES).any(|sector| sector.iter().all(|byte| *byte == 0)) {
        return false;
    }
    let mut flips = 0;
    for (part, range) in header.part_ranges() {
        let Some(raw) = bytes.get(range) else { return false };
        let found = match header.kind {
            FrameKind::Block | FrameKind::Sorted => of_block(raw, part.checksum),
            FrameKind::Mark | FrameKind::Footer | FrameKind::Pad => of_bytes(raw, part.checksum),
        };
        let Some(found) = found else { return false };
        flips += found;
    }
    flips == 1
}

/// Flipped bits of a part that has one checksum; `None`: something else is wrong.
fn of_bytes(bytes: &[u8], checksum: u32) -> Option<usize> {
    let computed = crc::crc32c(bytes);
    if computed == checksum { Some(0) } else { flip::find(computed, checksum, bytes.len()).map(|_| 1) }
}

fn of_block(raw: &[u8], checksum: u32) -> Option<usize> {
    let Some(header) = block::decode(raw).ok().filter(|block| block.checksum == checksum) else {
        return salvage::flipped_bit(raw, checksum).map(|_| 1);
    };
    let mut flips = 0;
    for run in block::runs(raw, &header).ok()? {
        let inline = &raw[run.at..run.at + entry::BYTES];
        let differing = inline.iter().zip(run.entry.encode()).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        if differing > 1 {
            return None;
        }
        flips += differing as usize;
        let payload = &raw[run.payload()];
        let computed = entry::payload_crc(run.entry.id, payload);
        if computed != run.entry.crc {
            flip::find(computed, run.entry.crc, payload.len())?;
            flips += 1;
        }
    }
    Some(flips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::BlockWriter;
    use crate::format::frame::{Address, Part};
    use crate::format::{Entry, EntryKind};
    use crate::model::{JournalId, LaneId, PartitionId};

    fn two_runs() -> (Vec<u8>, u32) {
        let mut raw = vec![0; block::length_of(2, 700)];
        let mut writer = BlockWriter::new(&mut raw, 4096, 2);
        for (partition, length) in [(0, 300), (1, 400)] {
            let id = PartitionId { partition, ..PartitionId::default() };
            let entry = Entry { length, ..Entry::control(EntryKind::Data, id, 7) };
            writer.run(entry, |out, entry| {
                out.fill(partition as u8 + 1);
                entry.crc = entry::payload_crc(entry.id, out);
            });
        }
        let checksum = writer.finish(LaneId(3), 1, 9);
        (raw, checksum)
    }

    #[test]
    fn a_sector_of_zeros_means_a_torn_write() {
        let payload = vec![7; 4000];
        let part = Part { length: 4000, checksum: crc::crc32c(&payload) };
        let header = FrameHeader {
            kind: FrameKind::Mark,
            address: Address { segment: 1, byte: 4096 },
            length: 0,
            previous: 0,
            start: 1,
            durable: Address { segment: 1, byte: 0 },
            parts: vec![part],
            checksum: 0,
        };
        let mut bytes = vec![0; 8192];
        header.encode(JournalId(1), &mut bytes);
        let header = FrameHeader::decode(JournalId(1), &bytes, header.address).expect("just encoded");
        let at = header.part_ranges().next().expect("one part").1.start;
        bytes[at..at + payload.len()].copy_from_slice(&payload);
        bytes[at + 3000] ^= 4;
        assert!(is_one_bit(&header, &bytes));
        bytes[1024..1536].fill(0);
        let part = Part { length: 4000, checksum: crc::crc32c(&bytes[at..at + 4000]) };
        let header = FrameHeader { parts: vec![part], ..header };
        bytes[at + 3000] ^= 4;
        assert!(!is_one_bit(&header, &bytes));
    }

    #[test]
    fn every_single_bit_is_told_from_a_torn_write() {
        let (good, checksum) = two_runs();
        assert_eq!(of_block(&good, checksum), Some(0));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(of_block(&bad, checksum), Some(1), "bit {bit}");
        }
        for torn in [0..512, 512..1024, good.len() - 100..good.len(), 200..260] {
            let mut bad = good.clone();
            bad[torn.clone()].fill(0);
            assert!(of_block(&bad, checksum).is_none_or(|flips| flips > 1), "{torn:?}");
        }
    }
}
