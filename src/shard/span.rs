//! The runs of a round of a fetch, and the reads of the disk that bring them: neighbours come with one.
//!
//! Floor 5. Owner: one fetch. Invariant: nothing unverified leaves.

use std::ops::Range;
use std::rc::Rc;

use crate::api::Chunk;
use crate::format::entry;
use crate::format::footer::RunRef;
use crate::journal::{Segment, verified_payload};
use crate::model::{JournalId, PartitionId};
use crate::rt::Buf;

/// One read of the disk covers at most this, unless one run is larger.
const SPAN_BYTES: u64 = 1 << 20;
/// Runs closer than this are read in one span.
const SPAN_GAP_BYTES: u64 = 32 << 10;
/// Reads that one fetch has under way, and their bytes.
const READS_MAX: usize = 8;
const READ_BYTES: u64 = 4 << 20;

/// Journal, segment and byte: runs are read in this order.
pub type Place = (JournalId, u64, u32);

/// A run to be read, and for which partition.
pub struct Item {
    pub reading: usize,
    pub id: PartitionId,
    pub place: Place,
    pub segment: Rc<Segment>,
    pub run: RunRef,
    pub source: Source,
}

pub enum Source {
    Memory(Chunk),
    Disk,
    /// A rewrite found it damaged.
    Lost,
}

/// Neighbours among the items, and the bytes of their segment that hold those on disk.
pub struct Span {
    pub items: Range<usize>,
    pub bytes: Range<u64>,
}

/// Bytes of a segment, and where in them a span begins.
pub type Bytes = (Rc<Buf>, usize);

/// The verified payloads of neighbours, of which `read` begins at byte `start`; `None` is damage.
/// `unchecked` is a deliberate bug of the simulator's.
pub fn payloads(items: &[Item], start: u64, read: Option<Bytes>, unchecked: bool) -> Vec<Option<Chunk>> {
    let in_memory = |item: &Item| match &item.source {
        Source::Memory(chunk) => Some(chunk.clone()),
        Source::Disk | Source::Lost => None,
    };
    let Some((buf, from)) = read else { return items.iter().map(in_memory).collect() };
    let payloads = items.iter().map(|item| {
        if !matches!(item.source, Source::Disk) {
            return None;
        }
        let run = &item.run;
        let at = from + run.range().start.checked_sub(start)? as usize;
        let payload = match verified_payload(buf.get(at..)?, item.id, run) {
            None if unchecked => Some(entry::BYTES..entry::BYTES + run.length as usize),
            payload => payload,
        }?;
        Some(at + payload.start..at + payload.end)
    });
    let payloads: Vec<Option<Range<usize>>> = payloads.collect();
    let used: usize = payloads.iter().flatten().map(Range::len).sum();
    let chunks: Vec<_> = if used * 2 >= buf.len() {
        payloads.into_iter().map(|range| Some(Chunk::new(buf.clone(), range?))).collect()
    } else {
        compact(&buf, used, payloads)
    };
    chunks.into_iter().zip(items).map(|(chunk, item)| chunk.or_else(|| in_memory(item))).collect()
}

/// Neighbours on disk that one read covers.
pub fn spans(items: &[Item]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let bytes = item.bytes();
        let is_on_disk = !bytes.is_empty();
        match spans.last_mut() {
            Some(span) if !is_on_disk => span.items.end = at + 1,
            Some(span) if span.reaches(&items[span.items.start], item) => {
                span.items.end = at + 1;
                span.bytes.end = bytes.end;
            }
            _ => spans.push(Span { items: at..at + 1, bytes }),
        }
    }
    spans
}

impl Item {
    /// What is to be read of the segment.
    pub fn bytes(&self) -> Range<u64> {
        let bytes = self.run.range();
        match self.source {
            Source::Disk => bytes,
            Source::Memory(_) | Source::Lost => bytes.start..bytes.start,
        }
    }
}

impl Span {
    pub fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    fn reaches(&self, first: &Item, next: &Item) -> bool {
        let bytes = next.run.range();
        Rc::ptr_eq(&first.segment, &next.segment)
            && !self.bytes.is_empty()
            && (self.bytes.end..=self.bytes.end + SPAN_GAP_BYTES).contains(&bytes.start)
            && bytes.end - self.bytes.start <= SPAN_BYTES
    }
}

/// Spans that are read at once.
pub fn groups(spans: Vec<Span>) -> Vec<Vec<Span>> {
    let mut groups: Vec<Vec<Span>> = Vec::new();
    let mut bytes = 0;
    for span in spans {
        bytes += span.len();
        match groups.last_mut() {
            Some(group) if group.len() < READS_MAX && bytes <= READ_BYTES => group.push(span),
            _ => {
                bytes = span.len();
                groups.push(vec![span]);
            }
        }
    }
    groups
}

/// Copies payloads out of a buffer that is mostly something else, so that it can go.
fn compact(buf: &[u8], used: usize, payloads: Vec<Option<Range<usize>>>) -> Vec<Option<Chunk>> {
    let mut bytes = Vec::with_capacity(used);
    let mut ends = Vec::with_capacity(payloads.len());
    for payload in payloads.iter().flatten() {
        bytes.extend_from_slice(&buf[payload.clone()]);
        ends.push(bytes.len());
    }
    let owner = Rc::new(bytes);
    let mut ends = ends.into_iter();
    let mut chunk = |range: Range<usize>| {
        let end = ends.next()?;
        Some(Chunk::new(owner.clone(), end - range.len()..end))
    };
    payloads.into_iter().map(|payload| chunk(payload?)).collect()
}
