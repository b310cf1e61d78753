//! Target of `twinlog`: both files of a log, one after the other. The samples are written from the
//! format's description, not by its encoder, and so hold the description to its word.

use super::{Random, Target, run};
use ringlog::base::crc;
use ringlog::twinlog::scan;

const NAME: &str = "log";
const IDENTITY: u64 = 9;
const BLOCK: usize = 4096;
/// Each file: two headers and up to six blocks of groups.
const FILE_BYTES: usize = 8 * BLOCK;
/// What the scan keeps of a log of 64 KiB.
const CONSTANT_BYTES: usize = 4096;

fn seed() -> u32 {
    crc::append(crc::crc32c(&IDENTITY.to_le_bytes()), NAME.as_bytes())
}

/// CRC of everything but the four bytes at `place`.
fn around(bytes: &[u8], place: usize) -> u32 {
    crc::append(crc::append(seed(), &bytes[..place]), &bytes[place + 4..])
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn header(generation: u64, snapshot_groups: u32) -> Vec<u8> {
    let mut out = vec![0; BLOCK];
    put(&mut out, 0, b"RINGTWIN");
    put(&mut out, 8, &1u16.to_le_bytes());
    put(&mut out, 16, &generation.to_le_bytes());
    put(&mut out, 24, &5u64.to_le_bytes());
    put(&mut out, 32, &snapshot_groups.to_le_bytes());
    put(&mut out, 36, &77u64.to_le_bytes());
    let checksum = around(&out, 12);
    put(&mut out, 12, &checksum.to_le_bytes());
    out
}

fn group(random: &mut Random, sequence: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    for _ in 0..=random.below(3) {
        let count = random.below(1200);
        payload.extend((count as u32).to_le_bytes());
        payload.extend(vec![b'r'; count]);
    }
    let mut out = vec![0; (36 + payload.len()).next_multiple_of(BLOCK)];
    put(&mut out, 0, b"TWGR");
    put(&mut out, 4, &1u16.to_le_bytes());
    put(&mut out, 12, &(payload.len() as u32).to_le_bytes());
    put(&mut out, 16, &77u64.to_le_bytes());
    put(&mut out, 24, &sequence.to_le_bytes());
    put(&mut out, 36, &payload);
    seal_group(&mut out);
    out
}

fn seal_group(out: &mut [u8]) {
    let head = crc::append(crc::append(seed(), &out[..8]), &out[12..32]);
    put(out, 32, &head.to_le_bytes());
    let checksum = around(out, 8);
    put(out, 8, &checksum.to_le_bytes());
}

fn sample(random: &mut Random) -> Vec<u8> {
    let mut out = header(random.below(9) as u64 + 1, 1).repeat(2);
    for sequence in 5..6 + random.below(3) as u64 {
        let group = group(random, sequence);
        if out.len() + 2 * group.len() <= FILE_BYTES {
            out.extend(group.repeat(2));
        }
    }
    out.resize(FILE_BYTES, 0);
    out.extend(header(0, 0).repeat(2));
    out.resize(2 * FILE_BYTES, 0);
    out
}

/// Sets every header's and one-block group's checksum right.
fn reseal(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block.starts_with(b"RINGTWIN") {
            let checksum = around(block, 12);
            put(block, 12, &checksum.to_le_bytes());
        } else if block.starts_with(b"TWGR") {
            seal_group(block);
        }
    }
}

/// Accepted: believed, with every byte of both files accounted for.
fn decode(bytes: &[u8]) -> bool {
    let (first, second) = bytes.split_at(FILE_BYTES.min(bytes.len()));
    let scan = scan(NAME, IDENTITY, [first, second]);
    for (slot, file) in [first, second].into_iter().enumerate() {
        let covered: u64 = scan.regions.iter().filter(|r| r.slot == slot).map(|r| r.end - r.start).sum();
        assert_eq!(covered, file.len() as u64);
    }
    scan.unusable.is_none()
}

#[test]
fn twin_logs() {
    run(&Target { name: "twin::twin_logs", sample, reseal, decode }, CONSTANT_BYTES);
}
