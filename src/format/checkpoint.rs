//! A checkpoint: the state of all partitions of a journal, from which recovery replays.
//!
//! Floor 2. Owner: nobody. Little-endian; a file is padded with zeros to whole disk blocks:
//!
//! ```text
//!  0 magic "RLCP" u32 | 4 version u16 | 6 reserved u16
//!  8 generation u64
//! 16 body bytes u64 | 24 body checksum u32 | 28 header checksum u32 (journal id, bytes 0..28)
//! 32 body:
//!    replay segment u64 | chain u32: checksum of the frame before it | uptime ms u64 | wall ms i64
//!    boot id u128 | boot uptime ms i64
//!    lane count u32; each: lane u32 | epoch u32 | position u64 | last checksum u32 | included u64
//!    partition count u32; each:
//!      topic id u128 | partition u32 | lane u32 | flags u32 (1: dropped) | included u64
//!      next offset i64 | log start i64 | max timestamp i64
//!      epoch count u32; each: epoch i32 | first offset i64
//!      producer count u32; each: id i64 | epoch i16 | last active uptime ms u64 | batch count u8;
//!        each: first sequence i32 | last sequence i32 | base offset i64
//! ```
//!
//! `included` is the lane position up to which the row already counts: replay skips what lies below.

use crate::base::{DecodeError, Reader, crc};
use crate::model::{JournalId, LaneId, Offset, PartitionId, Position, ProducerId, TopicId};

pub const MAGIC: u32 = u32::from_le_bytes(*b"RLCP");
pub const VERSION: u16 = 1;
pub const HEADER_BYTES: usize = 32;
const LANE_BYTES: usize = 28;
const PARTITION_BYTES: usize = 64;
const EPOCH_BYTES: usize = 12;
const PRODUCER_BYTES: usize = 19;
const BATCH_BYTES: usize = 16;
const FLAG_DROPPED: u32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub generation: u64,
    /// Replay begins with the first frame of this segment.
    pub replay_segment: u64,
    /// Checksum of the frame before it.
    pub chain: u32,
    /// Summed time that brokers ran on this journal.
    pub uptime_ms: u64,
    pub wall_ms: i64,
    /// Boot of the machine, and its age when `wall_ms` was read: tells after a restart of the broker
    /// whether the wall clock was moved in between.
    pub boot_id: u128,
    pub boot_uptime_ms: i64,
    pub lanes: Vec<LaneRow>,
    pub partitions: Vec<PartitionRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRow {
    pub lane: LaneId,
    pub epoch: u32,
    pub position: Position,
    pub checksum: u32,
    pub included: Position,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionRow {
    pub id: PartitionId,
    pub lane: LaneId,
    pub dropped: bool,
    pub included: Position,
    pub next_offset: Offset,
    pub log_start: Offset,
    pub max_timestamp: i64,
    pub epochs: Vec<(i32, Offset)>,
    pub producers: Vec<ProducerRow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerRow {
    pub id: ProducerId,
    pub epoch: i16,
    pub active_uptime_ms: u64,
    pub batches: Vec<SequenceRow>,
}

/// One of the last five batches of a producer in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRow {
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
}

impl PartitionRow {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.topic.number().to_le_bytes());
        out.extend_from_slice(&self.id.partition.to_le_bytes());
        out.extend_from_slice(&self.lane.0.to_le_bytes());
        out.extend_from_slice(&(u32::from(self.dropped) * FLAG_DROPPED).to_le_bytes());
        out.extend_from_slice(&self.included.to_le_bytes());
        out.extend_from_slice(&self.next_offset.to_le_bytes());
        out.extend_from_slice(&self.log_start.to_le_bytes());
        out.extend_from_slice(&self.max_timestamp.to_le_bytes());
        out.extend_from_slice(&(self.epochs.len() as u32).to_le_bytes());
        for (epoch, offset) in &self.epochs {
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
        }
        out.extend_from_slice(&(self.producers.len() as u32).to_le_bytes());
        for producer in &self.producers {
            out.extend_from_slice(&producer.id.to_le_bytes());
            out.extend_from_slice(&producer.epoch.to_le_bytes());
            out.extend_from_slice(&producer.active_uptime_ms.to_le_bytes());
            out.push(producer.batches.len() as u8);
            for batch in &producer.batches {
                out.extend_from_slice(&batch.first_sequence.to_le_bytes());
                out.extend_from_slice(&batch.last_sequence.to_le_bytes());
                out.extend_from_slice(&batch.base_offset.to_le_bytes());
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<PartitionRow, DecodeError> {
        let topic = TopicId::new(r.u128("checkpoint topic id")?);
        let mut row = PartitionRow {
            id: PartitionId { topic, partition: r.u32("checkpoint partition")? },
            lane: LaneId(r.u32("checkpoint lane")?),
            dropped: r.u32("checkpoint flags")? & FLAG_DROPPED != 0,
            included: r.u64("checkpoint position")?,
            next_offset: r.i64("next offset")?,
            log_start: r.i64("log start")?,
            max_timestamp: r.i64("max timestamp")?,
            ..PartitionRow::default()
        };
        if !(0..=row.next_offset).contains(&row.log_start) {
            return Err(r.error("log start"));
        }
        for _ in 0..r.count_u32(EPOCH_BYTES, "epoch count")? {
            row.epochs.push((r.i32("epoch")?, r.i64("epoch offset")?));
        }
        for _ in 0..r.count_u32(PRODUCER_BYTES, "producer count")? {
            let mut producer = ProducerRow {
                id: r.i64("producer id")?,
                epoch: r.i16("producer epoch")?,
                active_uptime_ms: r.u64("producer activity")?,
                batches: Vec::new(),
            };
            let count = usize::from(r.u8("sequence count")?);
            if count * BATCH_BYTES > r.remaining() {
                return Err(r.error("sequence count"));
            }
            for _ in 0..count {
                producer.batches.push(SequenceRow {
                    first_sequence: r.i32("sequence")?,
                    last_sequence: r.i32("sequence")?,
                    base_offset: r.i64("sequence offset")?,
                });
            }
            row.producers.push(producer);
        }
        Ok(row)
    }
}

/// Builds a checkpoint file row by row, so that a shard may yield between partitions.
pub struct Encoder {
    out: Vec<u8>,
    count_at: usize,
    count: u32,
}

impl Encoder {
    /// `head.partitions` is ignored: rows are added by [`Encoder::partition`].
    pub fn new(head: &Checkpoint) -> Encoder {
        let mut out = vec![0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&head.generation.to_le_bytes());
        out.extend_from_slice(&head.replay_segment.to_le_bytes());
        out.extend_from_slice(&head.chain.to_le_bytes());
        out.extend_from_slice(&head.uptime_ms.to_le_bytes());
        out.extend_from_slice(&head.wall_ms.to_le_bytes());
        out.extend_from_slice(&head.boot_id.to_le_bytes());
        out.extend_from_slice(&head.boot_uptime_ms.to_le_bytes());
        out.extend_from_slice(&(head.lanes.len() as u32).to_le_bytes());
        for lane in &head.lanes {
            out.extend_from_slice(&lane.lane.0.to_le_bytes());
            out.extend_from_slice(&lane.epoch.to_le_bytes());
            out.extend_from_slice(&lane.position.to_le_bytes());
            out.extend_from_slice(&lane.checksum.to_le_bytes());
            out.extend_from_slice(&lane.included.to_le_bytes());
        }
        let count_at = out.len();
        out.extend_from_slice(&0u32.to_le_bytes());
        Encoder { out, count_at, count: 0 }
    }

    pub fn partition(&mut self, row: &PartitionRow) {
        row.encode(&mut self.out);
        self.count += 1;
    }

    /// Bytes so far, of which a file's size can be planned.
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    pub fn finish(mut self, journal: JournalId) -> Vec<u8> {
        self.out[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_le_bytes());
        let body_bytes = (self.out.len() - HEADER_BYTES) as u64;
        let body_check = crc::crc32c(&self.out[HEADER_BYTES..]);
        self.out[16..24].copy_from_slice(&body_bytes.to_le_bytes());
        self.out[24..28].copy_from_slice(&body_check.to_le_bytes());
        let check = header_check(journal, &self.out);
        self.out[28..32].copy_from_slice(&check.to_le_bytes());
        self.out
    }
}

fn header_check(journal: JournalId, bytes: &[u8]) -> u32 {
    crc::append(crc::crc32c(&journal.0.to_le_bytes()), &bytes[..28])
}

/// What stands in the header of a checkpoint file: how much to read.
pub fn decode_header(journal: JournalId, bytes: &[u8]) -> Result<(u64, u64), DecodeError> {
    let mut r = Reader::new(bytes);
    if r.u32("checkpoint magic")? != MAGIC {
        return Err(r.error("checkpoint magic"));
    }
    let version = r.u16("checkpoint version")?;
    r.u16("checkpoint reserved")?;
    let generation = r.u64("checkpoint generation")?;
    let body = r.u64("checkpoint length")?;
    r.u32("checkpoint body checksum")?;
    let check = r.u32("checkpoint header checksum")?;
    if header_check(journal, bytes) != check {
        return Err(r.error("checkpoint header checksum"));
    }
    if version != VERSION {
        return Err(DecodeError { what: "checkpoint version (written by a newer broker)", position: 4 });
    }
    Ok((generation, body))
}

/// Decodes a file; bytes after the body are padding.
pub fn decode(journal: JournalId, bytes: &[u8]) -> Result<Checkpoint, DecodeError> {
    let (generation, body_bytes) = decode_header(journal, bytes)?;
    let mut r = Reader::new(bytes);
    r.bytes(HEADER_BYTES, "checkpoint header")?;
    let body = usize::try_from(body_bytes).map_err(|_| r.error("checkpoint length"))?;
    let body = r.bytes(body, "checkpoint body")?;
    let mut stored = [0; 4];
    stored.copy_from_slice(&bytes[24..28]);
    if crc::crc32c(body) != u32::from_le_bytes(stored) {
        return Err(r.error("checkpoint body checksum"));
    }
    let mut r = Reader::new(body);
    let mut checkpoint = Checkpoint {
        generation,
        replay_segment: r.u64("replay segment")?,
        chain: r.u32("replay chain")?,
        uptime_ms: r.u64("uptime")?,
        wall_ms: r.i64("wall clock")?,
        boot_id: r.u128("boot id")?,
        boot_uptime_ms: r.i64("boot uptime")?,
        ..Checkpoint::default()
    };
    for _ in 0..r.count_u32(LANE_BYTES, "lane count")? {
        checkpoint.lanes.push(LaneRow {
            lane: LaneId(r.u32("lane")?),
            epoch: r.u32("lane epoch")?,
            position: r.u64("lane position")?,
            checksum: r.u32("lane checksum")?,
            included: r.u64("lane included")?,
        });
    }
    let partitions = r.count_u32(PARTITION_BYTES, "partition count")?;
    checkpoint.partitions.reserve_exact(partitions);
    for _ in 0..partitions {
        checkpoint.partitions.push(PartitionRow::decode(&mut r)?);
    }
    r.finish("checkpoint body")?;
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_round_trips_and_every_flipped_bit_is_noticed() {
        let sequence = SequenceRow { first_sequence: 3, last_sequence: 9, base_offset: 70 };
        let checkpoint = Checkpoint {
            generation: 4,
            replay_segment: 12,
            chain: 99,
            uptime_ms: 5,
            wall_ms: 6,
            boot_id: 7,
            boot_uptime_ms: 8,
            lanes: vec![LaneRow { lane: LaneId(2), epoch: 3, position: 500, checksum: 1, included: 500 }],
            partitions: vec![PartitionRow {
                next_offset: 77,
                log_start: 7,
                epochs: vec![(1, 0), (2, 40)],
                producers: vec![ProducerRow {
                    id: 8,
                    epoch: 1,
                    active_uptime_ms: 2,
                    batches: vec![sequence],
                }],
                ..PartitionRow::default()
            }],
        };
        let mut encoder = Encoder::new(&checkpoint);
        checkpoint.partitions.iter().for_each(|row| encoder.partition(row));
        let bytes = encoder.finish(JournalId(1));
        assert_eq!(decode(JournalId(1), &bytes), Ok(checkpoint));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(JournalId(1), &bad).is_err(), "bit {bit}");
        }
    }
}
