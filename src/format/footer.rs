//! The payload of a footer frame, and the index in memory: the data runs of one segment, sorted by
//! partition and offset, with what lookups by offset and timestamp and retention need.
//!
//! Floor 2. Owner: nobody. Little-endian:
//!
//! ```text
//! partition count u32 | run count u32 | block count u32 | reserved u32
//! partitions: topic id u128 | partition u32 | first run u32 | run count u32      (28 bytes each)
//! runs: first offset i64 | max timestamp i64 | retention time i64
//!       records u32 | address u32 (of the entry) | length u32 (payload) | flags u32   (40 bytes each)
//! blocks: lane u32 | address u32 | position u64                                 (16 bytes each)
//! ```

use std::ops::Range;

use super::entry::{self, Entry, EntryKind};
use crate::base::{DecodeError, Reader};
use crate::model::{LaneId, Offset, PartitionId, Position, TopicId};

pub const PARTITION_BYTES: usize = 28;
pub const RUN_BYTES: usize = 40;
pub const BLOCK_BYTES: usize = 16;
pub const HEAD_BYTES: usize = 16;
const FLAG_LOST: u32 = 1;

/// One run, or one lost range, of a partition in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRef {
    pub first_offset: Offset,
    pub max_timestamp: i64,
    /// The earlier of max timestamp and append time.
    pub retention_time: i64,
    pub records: u32,
    /// Byte of the run's entry in the segment.
    pub address: u32,
    /// Payload bytes.
    pub length: u32,
    /// The payload is gone: reads in this range answer CORRUPT_MESSAGE.
    pub lost: bool,
}

impl RunRef {
    pub fn new(entry: &Entry, address: u32) -> RunRef {
        RunRef {
            first_offset: entry.first_offset,
            max_timestamp: entry.max_timestamp,
            retention_time: entry.retention_time(),
            records: (entry.last_offset - entry.first_offset + 1) as u32,
            address,
            length: entry.length,
            lost: entry.kind == EntryKind::Lost,
        }
    }

    /// The offset after the run's last.
    pub fn end_offset(&self) -> Offset {
        self.first_offset + i64::from(self.records)
    }

    /// Where the entry and its payload lie in the segment.
    pub fn range(&self) -> Range<u64> {
        let start = u64::from(self.address);
        start..start + entry::BYTES as u64 + u64::from(self.length)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRef {
    pub lane: LaneId,
    pub address: u32,
    pub position: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    id: PartitionId,
    first_run: u32,
    run_count: u32,
}

/// The index of a sealed segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    rows: Vec<Row>,
    runs: Vec<RunRef>,
    blocks: Vec<BlockRef>,
}

/// Bytes of a footer's payload.
pub const fn bytes_of(partitions: usize, runs: usize, blocks: usize) -> usize {
    HEAD_BYTES + partitions * PARTITION_BYTES + runs * RUN_BYTES + blocks * BLOCK_BYTES
}

impl SegmentIndex {
    /// `partitions` in order of their ids, each with its runs in order of their offsets.
    pub fn build<'a>(
        partitions: impl Iterator<Item = (PartitionId, &'a [RunRef])>,
        blocks: Vec<BlockRef>,
    ) -> SegmentIndex {
        let mut index = SegmentIndex { blocks, ..SegmentIndex::default() };
        for (id, runs) in partitions {
            assert!(index.rows.last().is_none_or(|row| row.id < id), "partitions come in order");
            let first_run = index.runs.len() as u32;
            index.rows.push(Row { id, first_run, run_count: runs.len() as u32 });
            index.runs.extend_from_slice(runs);
        }
        index
    }

    pub fn runs(&self, id: PartitionId) -> &[RunRef] {
        match self.rows.binary_search_by(|row| row.id.cmp(&id)) {
            Ok(at) => self.slice(self.rows[at]),
            Err(_) => &[],
        }
    }

    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &[RunRef])> {
        self.rows.iter().map(|row| (row.id, self.slice(*row)))
    }

    pub fn blocks(&self) -> &[BlockRef] {
        &self.blocks
    }

    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Bytes in memory, for the index budget.
    pub fn memory_bytes(&self) -> usize {
        bytes_of(self.rows.len(), self.runs.len(), self.blocks.len())
    }

    fn slice(&self, row: Row) -> &[RunRef] {
        &self.runs[row.first_run as usize..][..row.run_count as usize]
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.memory_bytes());
        for count in [self.rows.len(), self.runs.len(), self.blocks.len(), 0] {
            out.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for row in &self.rows {
            out.extend_from_slice(&row.id.topic.number().to_le_bytes());
            out.extend_from_slice(&row.id.partition.to_le_bytes());
            out.extend_from_slice(&row.first_run.to_le_bytes());
            out.extend_from_slice(&row.run_count.to_le_bytes());
        }
        for run in &self.runs {
            let flags = u32::from(run.lost) * FLAG_LOST;
            out.extend_from_slice(&run.first_offset.to_le_bytes());
            out.extend_from_slice(&run.max_timestamp.to_le_bytes());
            out.extend_from_slice(&run.retention_time.to_le_bytes());
            out.extend_from_slice(&run.records.to_le_bytes());
            out.extend_from_slice(&run.address.to_le_bytes());
            out.extend_from_slice(&run.length.to_le_bytes());
            out.extend_from_slice(&flags.to_le_bytes());
        }
        for block in &self.blocks {
            out.extend_from_slice(&block.lane.0.to_le_bytes());
            out.extend_from_slice(&block.address.to_le_bytes());
            out.extend_from_slice(&block.position.to_le_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<SegmentIndex, DecodeError> {
        let mut r = Reader::new(bytes);
        let mut counts = [0usize; 3];
        for count in &mut counts {
            *count = r.u32("footer count")? as usize;
        }
        r.u32("footer reserved")?;
        let [partitions, run_count, blocks] = counts;
        // Three u32 counts cannot overflow a u64, and must fit the input exactly.
        if bytes_of(partitions, run_count, blocks) != bytes.len() {
            return Err(r.error("footer length"));
        }
        let mut index = SegmentIndex {
            rows: Vec::with_capacity(partitions),
            runs: Vec::with_capacity(run_count),
            blocks: Vec::with_capacity(blocks),
        };
        let mut next_run = 0u32;
        for _ in 0..partitions {
            let topic = TopicId::new(r.u128("footer topic id")?);
            let id = PartitionId { topic, partition: r.u32("footer partition")? };
            let row = Row { id, first_run: r.u32("footer run")?, run_count: r.u32("footer run count")? };
            let in_order = index.rows.last().is_none_or(|last: &Row| last.id < id);
            let end = next_run.checked_add(row.run_count);
            if !in_order || row.first_run != next_run || end.is_none_or(|end| end as usize > run_count) {
                return Err(r.error("footer row"));
            }
            next_run += row.run_count;
            index.rows.push(row);
        }
        if next_run as usize != run_count {
            return Err(r.error("footer run count"));
        }
        for _ in 0..run_count {
            index.runs.push(decode_run(&mut r)?);
        }
        for _ in 0..blocks {
            index.blocks.push(BlockRef {
                lane: LaneId(r.u32("footer lane")?),
                address: r.u32("footer block")?,
                position: r.u64("footer position")?,
            });
        }
        Ok(index)
    }
}

fn decode_run(r: &mut Reader<'_>) -> Result<RunRef, DecodeError> {
    let first_offset = r.i64("run offset")?;
    let max_timestamp = r.i64("run timestamp")?;
    let retention_time = r.i64("run retention time")?;
    let records = r.u32("run records")?;
    let address = r.u32("run address")?;
    let length = r.u32("run length")?;
    let flags = r.u32("run flags")?;
    if first_offset < 0 || first_offset.checked_add(records.into()).is_none() {
        return Err(r.error("run offset"));
    }
    let lost = flags & FLAG_LOST != 0;
    Ok(RunRef { first_offset, max_timestamp, retention_time, records, address, length, lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_round_trips_and_finds_its_runs() {
        let id = |partition| PartitionId { topic: TopicId::new(5), partition };
        let run = |first_offset| RunRef {
            first_offset,
            max_timestamp: 7,
            retention_time: 6,
            records: 10,
            address: 4096,
            length: 300,
            lost: first_offset == 20,
        };
        let (a, b) = ([run(0), run(10)], [run(20)]);
        let blocks = vec![BlockRef { lane: LaneId(1), address: 64, position: 9 }];
        let index = SegmentIndex::build([(id(1), &a[..]), (id(4), &b[..])].into_iter(), blocks);
        let decoded = SegmentIndex::decode(&index.encode()).expect("just encoded");
        assert_eq!(decoded, index);
        assert_eq!(decoded.runs(id(4)), &b);
        assert_eq!(decoded.runs(id(2)), &[]);
        let bytes = index.encode();
        for cut in 0..bytes.len() {
            assert!(SegmentIndex::decode(&bytes[..cut]).is_err());
        }
    }
}
