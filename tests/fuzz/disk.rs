//! Targets of `format`: everything that a journal keeps on disk.

use super::{Random, Target, run};
use ringlog::base::{Reader, crc};
use ringlog::format::block::{self, BlockWriter};
use ringlog::format::checkpoint::{self, Checkpoint, LaneRow, PartitionRow, ProducerRow, SequenceRow};
use ringlog::format::entry::{self, Entry, EntryKind, payload_crc};
use ringlog::format::footer::{BlockRef, RunRef, SegmentIndex};
use ringlog::format::frame::{Address, FrameHeader, FrameKind, Part, head_bytes};
use ringlog::format::manifest::{Manifest, Record, Role};
use ringlog::format::mark::{self, LaneEnd};
use ringlog::format::salvage;
use ringlog::model::{JournalId, LaneId, PartitionId, TopicId};

const JOURNAL: JournalId = JournalId(7);
const AT: Address = Address { segment: 3, byte: 8192 };
/// Error texts and first elements.
const CONSTANT_BYTES: usize = 4096;

fn id(random: &mut Random) -> PartitionId {
    PartitionId { topic: TopicId::new(random.next().into()), partition: random.below(100) as u32 }
}

fn entry_of(random: &mut Random, payload: &[u8]) -> Entry {
    let id = id(random);
    let kinds = [EntryKind::Data, EntryKind::LogStart, EntryKind::Drop, EntryKind::Forget, EntryKind::Lost];
    let first = random.below(1 << 40) as i64;
    Entry {
        length: payload.len() as u32,
        crc: payload_crc(id, payload),
        last_offset: first + random.below(100) as i64,
        ..Entry::control(kinds[random.below(5)], id, first)
    }
}

fn entry(random: &mut Random) -> Vec<u8> {
    entry_of(random, b"payload").encode().to_vec()
}

fn entry_seal(bytes: &mut [u8]) {
    put_crc(bytes, entry::BYTES - 4, |bytes| crc::crc32c(&bytes[..entry::BYTES - 4]));
}

fn put_crc(bytes: &mut [u8], at: usize, of: impl Fn(&[u8]) -> u32) {
    if bytes.len() >= at + 4 {
        let checksum = of(bytes);
        bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    Reader::new(bytes.get(at..).unwrap_or_default()).u32("field").unwrap_or(0) as usize
}

fn block_sample(random: &mut Random) -> Vec<u8> {
    let payloads: Vec<Vec<u8>> = (0..random.below(5)).map(|_| super::batch::sample(random)).collect();
    let bytes = block::length_of(payloads.len(), payloads.iter().map(Vec::len).sum());
    let mut out = vec![0; bytes];
    let mut writer = BlockWriter::new(&mut out, random.below(1 << 40) as u64, payloads.len());
    for payload in &payloads {
        writer.run(entry_of(random, payload), |slot, _| slot.copy_from_slice(payload));
    }
    writer.finish(LaneId(2), 1, random.next() as u32);
    out
}

fn block_seal(bytes: &mut [u8]) {
    let Some(directory) = u32_at(bytes, 28).checked_mul(entry::BYTES) else { return };
    if bytes.len() < block::HEADER_BYTES || directory > bytes.len() - block::HEADER_BYTES {
        return;
    }
    let (length, directory_at) = (bytes.len() as u32, bytes.len() - directory);
    bytes[24..28].copy_from_slice(&length.to_le_bytes());
    put_crc(bytes, 44, |bytes| crc::append(crc::crc32c(&bytes[..44]), &bytes[directory_at..]));
}

fn read_block(bytes: &[u8]) -> bool {
    let _ = block::decode_fields(bytes);
    let Ok(header) = block::decode(bytes) else { return false };
    let Ok(runs) = block::runs(bytes, &header) else { return false };
    runs.iter().all(|run| run.entry.verifies(&bytes[run.payload()]))
}

fn frame_sample(random: &mut Random) -> Vec<u8> {
    let blocks: Vec<Vec<u8>> = (0..1 + random.below(3)).map(|_| block_sample(random)).collect();
    let parts: Vec<Part> = blocks
        .iter()
        .map(|block| Part { length: block.len() as u32, checksum: u32_at(block, 44) as u32 })
        .collect();
    let header = FrameHeader {
        kind: [FrameKind::Block, FrameKind::Sorted][random.below(2)],
        address: AT,
        length: 0,
        previous: random.next() as u32,
        start: 4,
        durable: Address { segment: 3, byte: 4096 },
        parts,
        checksum: 0,
    };
    let mut out = vec![0; head_bytes(blocks.len())];
    out.extend(blocks.concat());
    header.encode(JOURNAL, &mut out);
    out
}

fn frame_seal(bytes: &mut [u8]) {
    let head = head_bytes(u32_at(bytes, 44).min(1 << 20));
    if head <= bytes.len() {
        put_crc(bytes, 56, |bytes| {
            let start = crc::append(crc::crc32c(&JOURNAL.0.to_le_bytes()), &bytes[..56]);
            crc::append(start, &bytes[60..head])
        });
    }
}

fn read_frame(bytes: &[u8]) -> bool {
    let Ok(header) = FrameHeader::decode(JOURNAL, bytes, AT) else { return false };
    header.part_ranges().all(|(_, range)| bytes.get(range).is_some_and(read_block))
}

fn footer(random: &mut Random) -> Vec<u8> {
    let run = |random: &mut Random| RunRef {
        first_offset: random.below(1 << 40) as i64,
        max_timestamp: random.next() as i64,
        retention_time: random.next() as i64,
        records: random.next() as u32,
        address: random.next() as u32,
        length: random.next() as u32,
        lost: random.flip(),
    };
    let mut ids: Vec<PartitionId> = (0..random.below(5)).map(|_| id(random)).collect();
    ids.sort();
    ids.dedup();
    let runs: Vec<Vec<RunRef>> =
        ids.iter().map(|_| (0..random.below(4)).map(|_| run(random)).collect()).collect();
    let blocks = (0..random.below(4))
        .map(|_| BlockRef { lane: LaneId(1), address: random.next() as u32, position: random.next() })
        .collect();
    SegmentIndex::build(ids.into_iter().zip(runs.iter().map(Vec::as_slice)), blocks).encode()
}

fn read_footer(bytes: &[u8]) -> bool {
    let Ok(index) = SegmentIndex::decode(bytes) else { return false };
    index.partitions().all(|(id, runs)| index.runs(id).len() == runs.len())
}

fn marks(random: &mut Random) -> Vec<u8> {
    let ends: Vec<LaneEnd> = (0..random.below(9))
        .map(|lane| LaneEnd { lane: LaneId(lane as u32), position: random.next(), checksum: 5 })
        .collect();
    mark::encode(&ends)
}

fn checkpoint_sample(random: &mut Random) -> Vec<u8> {
    let producer = |random: &mut Random| ProducerRow {
        id: random.below(1 << 40) as i64,
        epoch: 3,
        active_uptime_ms: random.next(),
        batches: (0..random.below(6))
            .map(|_| SequenceRow { first_sequence: 3, last_sequence: 9, base_offset: 70 })
            .collect(),
    };
    let lane = |random: &mut Random| LaneRow {
        lane: LaneId(random.next() as u32),
        epoch: 3,
        position: random.next(),
        checksum: 1,
        included: random.next(),
    };
    let head = Checkpoint {
        generation: random.next(),
        replay_segment: random.next(),
        lanes: (0..random.below(9)).map(|_| lane(random)).collect(),
        ..Checkpoint::default()
    };
    let mut encoder = checkpoint::Encoder::new(&head);
    for _ in 0..random.below(5) {
        encoder.partition(&PartitionRow {
            id: id(random),
            next_offset: 1 << 40,
            log_start: random.below(1 << 40) as i64,
            epochs: (0..random.below(4)).map(|epoch| (epoch as i32, 5)).collect(),
            producers: (0..random.below(4)).map(|_| producer(random)).collect(),
            ..PartitionRow::default()
        });
    }
    encoder.finish(JOURNAL)
}

fn checkpoint_seal(bytes: &mut [u8]) {
    if bytes.len() >= checkpoint::HEADER_BYTES {
        let body = (bytes.len() - checkpoint::HEADER_BYTES) as u64;
        bytes[16..24].copy_from_slice(&body.to_le_bytes());
        put_crc(bytes, 24, |bytes| crc::crc32c(&bytes[checkpoint::HEADER_BYTES..]));
        put_crc(bytes, 28, |bytes| crc::append(crc::crc32c(&JOURNAL.0.to_le_bytes()), &bytes[..28]));
    }
}

fn record(random: &mut Random) -> Record {
    let number = random.below(8) as u64;
    match random.below(9) {
        0 => Record::Identity { journal: JOURNAL, segment_bytes: 1 << 28 },
        1 => Record::Start { number: random.next() as u32 },
        2 => Record::Plan {
            number,
            role: [Role::Log, Role::Sorted][random.below(2)],
            inputs: vec![1; random.below(4)],
        },
        3 => Record::Complete { number, bytes: random.next() },
        4 => Record::Sealed { number, footer: random.next() as u32 },
        5 => Record::Remove { number },
        6 => Record::Checkpoint { generation: random.next(), replay: number },
        7 => Record::AcceptedFrames { from: AT, to: Address { segment: 4, byte: 0 } },
        _ => Record::AcceptedRange { id: id(random), first: 5, last: random.below(100) as i64 },
    }
}

/// Records behind a length byte each, as a twin log gives them back.
fn manifest(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.below(9) {
        let bytes = record(random).encode();
        out.push(bytes.len() as u8);
        out.extend(bytes);
    }
    out
}

/// A misfit is refused, and what was accepted can be told again.
fn read_manifest(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    let mut state = Manifest::default();
    while let Ok(length) = reader.u8("length") {
        let Ok(record) = reader.bytes(length.into(), "record").and_then(Record::decode) else { return false };
        if state.apply(&record).is_err() {
            break;
        }
    }
    let mut again = Manifest::default();
    state.snapshot().iter().all(|record| again.apply(record).is_ok())
}

fn no_seal(_: &mut [u8]) {}

#[test]
fn entries() {
    let decode = |bytes: &[u8]| Entry::decode(bytes).is_ok();
    run(&Target { name: "disk::entries", sample: entry, reseal: entry_seal, decode }, CONSTANT_BYTES);
}

#[test]
fn blocks() {
    let target =
        Target { name: "disk::blocks", sample: block_sample, reseal: block_seal, decode: read_block };
    run(&target, CONSTANT_BYTES);
}

#[test]
fn frames() {
    let target =
        Target { name: "disk::frames", sample: frame_sample, reseal: frame_seal, decode: read_frame };
    run(&target, CONSTANT_BYTES);
}

#[test]
fn salvaged() {
    let decode =
        |bytes: &[u8]| salvage::blocks(bytes).iter().all(|block| block.at + block.length <= bytes.len());
    run(&Target { name: "disk::salvaged", sample: frame_sample, reseal: no_seal, decode }, CONSTANT_BYTES);
}

#[test]
fn footers() {
    let target = Target { name: "disk::footers", sample: footer, reseal: no_seal, decode: read_footer };
    run(&target, CONSTANT_BYTES);
}

#[test]
fn mark_rows() {
    let decode = |bytes: &[u8]| mark::decode(bytes).is_ok();
    run(&Target { name: "disk::mark_rows", sample: marks, reseal: no_seal, decode }, CONSTANT_BYTES);
}

#[test]
fn checkpoints() {
    let decode = |bytes: &[u8]| checkpoint::decode(JOURNAL, bytes).is_ok();
    let target =
        Target { name: "disk::checkpoints", sample: checkpoint_sample, reseal: checkpoint_seal, decode };
    run(&target, CONSTANT_BYTES);
}

#[test]
fn manifests() {
    let target = Target { name: "disk::manifests", sample: manifest, reseal: no_seal, decode: read_manifest };
    run(&target, CONSTANT_BYTES);
}
