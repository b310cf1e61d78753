//! Bytes of a twin log: file headers and groups, encoded and checked.
//!
//! Floor 2. Pure. Little-endian; every structure starts on a 4 KiB block, is padded to whole
//! blocks, and lies twice, in separate blocks. Checksums cover the padding, so that no flipped
//! bit of a group or header goes unseen.
//!
//! ```text
//! file    | header A | header B | group A | group B | group A | group B | ... | unused |
//!
//! header  0 magic u64 | 8 version u16 | 10 zero u16 | 12 crc u32 | 16 generation u64
//!         24 first sequence u64 | 32 snapshot groups u32 | 36 stamp u64 | 44 zero up to 4096
//! group   0 magic u32 | 4 version u16 | 6 zero u16 | 8 crc u32 | 12 payload bytes u32
//!         16 stamp u64 | 24 sequence u64 | 32 head crc u32 | 36 payload | zero up to a block
//! payload (length u32, record)...
//! crc       CRC32C, seeded, over the whole blocks without the crc itself
//! head crc  CRC32C, seeded, over bytes 0..8 and 12..32: the length can be trusted before the rest is read
//! seed      CRC32C of the identity (u64) and the log's name: another broker's file never verifies
//! ```
//!
//! Generation 0 marks the spare file of a new log. The stamp is drawn anew for each snapshot and
//! repeated by its groups: what an interrupted snapshot, or an earlier use of the file, left
//! behind never counts. Magic, version and checksum keep their places
//! in every later version, so that an old broker can tell newer from damaged.

use crate::base::align::{BLOCK_BYTES, align_up};
use crate::base::{Reader, crc};

pub(super) const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"RINGTWIN");
pub(super) const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"TWGR");
pub(super) const VERSION: u16 = 1;
/// Both copies of the header.
pub(super) const HEADERS_BYTES: u64 = 2 * BLOCK_BYTES as u64;
const GROUP_HEAD_BYTES: usize = 36;
const RECORD_HEAD_BYTES: usize = 4;
/// A longer payload is not even looked at.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// What checksums of one log start from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(identity: u64, name: &str) -> Seed {
        Seed(crc::append(crc::crc32c(&identity.to_le_bytes()), name.as_bytes()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub generation: u64,
    /// Sequence of the first group of this file.
    pub first_sequence: u64,
    /// The first groups, which rebuild everything before them; all written before the header.
    pub snapshot_groups: u32,
    /// Repeated by the groups that belong to this header.
    pub stamp: u64,
}

/// What lies at a place that should hold a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    Good(T),
    /// It verifies, and a newer version wrote it.
    Newer(u16),
    Bad,
}

impl Header {
    pub(super) fn encode(&self, seed: Seed, out: &mut [u8]) {
        out[..BLOCK_BYTES].fill(0);
        out[..8].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[32..36].copy_from_slice(&self.snapshot_groups.to_le_bytes());
        out[36..44].copy_from_slice(&self.stamp.to_le_bytes());
        let crc = checksum(seed, &out[..BLOCK_BYTES], 12);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    pub(super) fn decode(seed: Seed, bytes: &[u8]) -> Found<Header> {
        let Some(block) = bytes.get(..BLOCK_BYTES) else { return Found::Bad };
        let mut reader = Reader::new(block);
        let mut read = || {
            let magic = reader.u64("magic")?;
            let version = reader.u16("version")?;
            reader.u16("zero")?;
            let crc = reader.u32("crc")?;
            let header = Header {
                generation: reader.u64("generation")?,
                first_sequence: reader.u64("first sequence")?,
                snapshot_groups: reader.u32("snapshot groups")?,
                stamp: reader.u64("stamp")?,
            };
            Ok::<_, crate::base::DecodeError>((magic, version, crc, header))
        };
        let Ok((magic, version, crc, header)) = read() else { return Found::Bad };
        if magic != HEADER_MAGIC || crc != checksum(seed, block, 12) {
            return Found::Bad;
        }
        if version == VERSION { Found::Good(header) } else { Found::Newer(version) }
    }
}

/// A verified group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub stamp: u64,
    pub sequence: u64,
    /// Of one copy, whole blocks.
    pub bytes: usize,
    payload: &'a [u8],
}

/// Bytes of one copy of a group of these records.
pub(super) fn group_bytes(records: &[Vec<u8>]) -> usize {
    group_bytes_of(records.iter().map(|record| RECORD_HEAD_BYTES + record.len()).sum())
}

/// Bytes of one copy of a group of this payload.
pub(super) fn group_bytes_of(payload_bytes: usize) -> usize {
    align_up((GROUP_HEAD_BYTES + payload_bytes) as u64) as usize
}

/// Writes both copies into `out`, which is exactly twice [`group_bytes`].
pub(super) fn encode_group(seed: Seed, stamp: u64, sequence: u64, records: &[Vec<u8>], out: &mut [u8]) {
    let (first, second) = out.split_at_mut(group_bytes(records));
    let mut at = GROUP_HEAD_BYTES;
    for record in records {
        first[at..at + RECORD_HEAD_BYTES].copy_from_slice(&(record.len() as u32).to_le_bytes());
        at += RECORD_HEAD_BYTES;
        first[at..at + record.len()].copy_from_slice(record);
        at += record.len();
    }
    first[at..].fill(0);
    let payload_bytes = at - GROUP_HEAD_BYTES;
    assert!(payload_bytes <= PAYLOAD_BYTES_MAX, "a group is bounded by its callers");
    first[..4].copy_from_slice(&GROUP_MAGIC.to_le_bytes());
    first[4..6].copy_from_slice(&VERSION.to_le_bytes());
    first[6..8].fill(0);
    first[12..16].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    first[16..24].copy_from_slice(&stamp.to_le_bytes());
    first[24..32].copy_from_slice(&sequence.to_le_bytes());
    let head_crc = head_checksum(seed, first);
    first[32..36].copy_from_slice(&head_crc.to_le_bytes());
    let crc = checksum(seed, first, 8);
    first[8..12].copy_from_slice(&crc.to_le_bytes());
    second.copy_from_slice(first);
}

impl<'a> Group<'a> {
    /// The group that starts at the first byte of `bytes`, if it verifies.
    pub(super) fn decode(seed: Seed, bytes: &'a [u8]) -> Found<Group<'a>> {
        let Some(head) = bytes.get(..GROUP_HEAD_BYTES) else { return Found::Bad };
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let payload_bytes = u32_at(12) as usize;
        if u32_at(0) != GROUP_MAGIC
            || u32_at(32) != head_checksum(seed, head)
            || payload_bytes > PAYLOAD_BYTES_MAX
        {
            return Found::Bad;
        }
        let whole = group_bytes_of(payload_bytes);
        let Some(blocks) = bytes.get(..whole) else { return Found::Bad };
        if u32_at(8) != checksum(seed, blocks, 8) {
            return Found::Bad;
        }
        let version = u32_at(4) as u16;
        if version != VERSION {
            return Found::Newer(version);
        }
        let payload = &blocks[GROUP_HEAD_BYTES..GROUP_HEAD_BYTES + payload_bytes];
        Found::Good(Group { stamp: u64_at(16), sequence: u64_at(24), bytes: whole, payload })
    }

    /// The records in their order. A payload that verifies and still is no list of records was
    /// not written by us: it yields what can be read.
    pub(super) fn records(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut reader = Reader::new(self.payload);
        std::iter::from_fn(move || {
            let bytes = reader.u32("record length").ok()? as usize;
            reader.bytes(bytes, "record").ok()
        })
    }
}

/// Over everything but the checksum's own four bytes at `place`.
pub(super) fn checksum(seed: Seed, bytes: &[u8], place: usize) -> u32 {
    crc::append(crc::append(seed.0, &bytes[..place]), &bytes[place + 4..])
}

fn head_checksum(seed: Seed, head: &[u8]) -> u32 {
    crc::append(crc::append(seed.0, &head[..8]), &head[12..32])
}
