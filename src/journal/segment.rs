//! One file of a journal and what is known of its runs.
//!
//! Floor 3. Owner: the journal. A segment that a reader holds stays readable after its removal.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::ahead::Ahead;
use crate::base::{Map, sparing};
use crate::format::footer::{self, BlockRef, RunRef, SegmentIndex};
use crate::format::manifest::Role;
use crate::model::PartitionId;
use crate::rt::File;

pub struct Segment {
    pub number: u64,
    pub role: Role,
    pub file: File,
    pub bytes: u64,
    /// Byte of the footer frame, once the manifest names it.
    pub footer: Cell<Option<u32>>,
    /// Checksum of the frame before the segment's first one.
    pub(super) first_chain: Cell<u32>,
    pub(super) index: RefCell<Index>,
    pub(super) index_used: Cell<u64>,
    pub(super) ahead: RefCell<Ahead>,
    oldest_retention: Cell<Option<i64>>,
}

pub(super) enum Index {
    /// Still appended to, or not sealed yet.
    Open(OpenIndex),
    /// Sealed and in memory.
    Loaded(Rc<SegmentIndex>),
    /// Sealed; its footer is on disk.
    OnDisk,
}

/// The index of a segment that still grows.
#[derive(Default)]
pub(super) struct OpenIndex {
    pub partitions: Map<PartitionId, Vec<RunRef>>,
    pub run_count: usize,
    pub blocks: Vec<BlockRef>,
}

impl OpenIndex {
    pub fn push(&mut self, id: PartitionId, run: RunRef) {
        sparing::push(self.partitions.entry(id).or_default(), run);
        self.run_count += 1;
    }

    /// Bytes of the footer if this much is added.
    pub fn footer_bytes(&self, partitions: usize, runs: usize, blocks: usize) -> usize {
        footer::bytes_of(
            self.partitions.len() + partitions,
            self.run_count + runs,
            self.blocks.len() + blocks,
        )
    }

    pub fn seal(&self) -> SegmentIndex {
        let mut ids: Vec<_> = self.partitions.keys().copied().collect();
        ids.sort_unstable();
        SegmentIndex::build(ids.into_iter().map(|id| (id, &self.partitions[&id][..])), self.blocks.clone())
    }
}

impl Segment {
    pub(super) fn new(number: u64, role: Role, file: File, bytes: u64, index: Index) -> Rc<Segment> {
        Rc::new(Segment {
            number,
            role,
            file,
            bytes,
            footer: Cell::new(None),
            first_chain: Cell::new(0),
            index: RefCell::new(index),
            index_used: Cell::new(0),
            ahead: RefCell::default(),
            oldest_retention: Cell::new(None),
        })
    }

    /// Name of the file of a segment.
    pub fn name(number: u64) -> String {
        format!("{number:012}.seg")
    }

    /// Still without a footer that the manifest names.
    pub fn is_open(&self) -> bool {
        matches!(*self.index.borrow(), Index::Open(_))
    }

    /// Retention time of the oldest run, as far as it was ever looked up since the start.
    pub fn oldest_retention(&self) -> Option<i64> {
        self.oldest_retention.get()
    }

    /// Visits every partition that has runs here, in order of ids if the segment is sealed. Nothing
    /// is visited if the index is not in memory.
    pub fn for_each_partition(&self, mut visit: impl FnMut(PartitionId, &[RunRef])) {
        let mut oldest = i64::MAX;
        let mut note = |id, runs: &[RunRef]| {
            oldest = runs.iter().map(|run| run.retention_time).fold(oldest, i64::min);
            visit(id, runs);
        };
        match &*self.index.borrow() {
            Index::Open(open) => open.partitions.iter().for_each(|(id, runs)| visit(*id, runs)),
            Index::Loaded(index) => {
                index.partitions().for_each(|(id, runs)| note(id, runs));
                self.oldest_retention.set(Some(oldest));
            }
            Index::OnDisk => {}
        }
    }

    /// Calls `visit` with the runs of a partition if they are in memory.
    pub fn with_runs<T>(&self, id: PartitionId, visit: impl FnOnce(&[RunRef]) -> T) -> Option<T> {
        match &*self.index.borrow() {
            Index::Open(open) => Some(visit(open.partitions.get(&id).map_or(&[], |runs| &runs[..]))),
            Index::Loaded(index) => Some(visit(index.runs(id))),
            Index::OnDisk => None,
        }
    }
}
