//! One file of a journal and what is known of its runs.
//!
//! Floor 3. Owner: the journal. A segment that a reader holds stays readable after its removal.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::ahead::Ahead;
use hashbrown::HashTable;

use crate::base::Few;
use crate::base::map::hash_of;
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
    /// In the order in which they came.
    rows: Vec<Row>,
    /// Places in `rows`, by id.
    places: HashTable<u32>,
    pub run_count: usize,
    pub blocks: Vec<BlockRef>,
}

/// The runs of a partition. Of a hundred thousand partitions most have one in a segment.
struct Row {
    id: PartitionId,
    runs: Few<RunRef>,
}

impl OpenIndex {
    pub fn push(&mut self, id: PartitionId, run: RunRef) {
        self.run_count += 1;
        let next = self.rows.len() as u32;
        let rows = &self.rows;
        let is_it = |at: &u32| rows[*at as usize].id == id;
        let entry = self.places.entry(hash_of(&id), is_it, |at| hash_of(&rows[*at as usize].id));
        let at = *entry.or_insert(next).get();
        if at == next {
            self.rows.push(Row { id, runs: Few::None });
        }
        self.rows[at as usize].runs.push(run);
    }

    fn runs(&self, id: PartitionId) -> &[RunRef] {
        let place = self.places.find(hash_of(&id), |at| self.rows[*at as usize].id == id);
        place.map_or(&[], |at| &self.rows[*at as usize].runs)
    }

    /// Bytes of the footer if this much is added.
    pub fn footer_bytes(&self, partitions: usize, runs: usize, blocks: usize) -> usize {
        footer::bytes_of(self.rows.len() + partitions, self.run_count + runs, self.blocks.len() + blocks)
    }

    pub fn seal(&self) -> SegmentIndex {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_unstable_by_key(|row| row.id);
        SegmentIndex::build(rows.into_iter().map(|row| (row.id, &row.runs[..])), self.blocks.clone())
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
            Index::Open(open) => open.rows.iter().for_each(|row| visit(row.id, &row.runs)),
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
            Index::Open(open) => Some(visit(open.runs(id))),
            Index::Loaded(index) => Some(visit(index.runs(id))),
            Index::OnDisk => None,
        }
    }
}
