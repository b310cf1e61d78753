//! A journal: a folder of segment files written sequentially. One write and one flush serve every
//! lane in it.
//!
//! Floor 3. Owner: one shard at a time. Invariant: what [`Journal::durable`] covers is the longest
//! completed prefix of what was submitted; after the first I/O error nothing more counts.
//!
//! ```text
//! journals/ID/manifest.0|1    which files there are (twin log)
//!             checkpoint-0|1  state of all partitions; the newer generation counts
//!             reserve         space for one rewrite, used for nothing else
//!             NUMBER.seg      frames; the last one is the footer
//! ```

mod ahead;
mod append;
mod checkpoint;
mod files;
mod flipped;
mod open;
mod opening;
mod read;
mod recover;
mod rewrite;
mod scan;
mod segment;
mod unproven;
mod zero;

#[cfg(all(test, feature = "sim"))]
mod tests;

pub use append::{FrameSlot, Growth, Offline, Then, Turn, block_part};
pub use open::{Budget, Loss};
pub use opening::OpenError;
pub use read::verified_payload;
pub use recover::{Damage, Recovery, Replay, ReplayedBlock};
pub use rewrite::RewriteOutcome;
pub use segment::Segment;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use crate::format::frame::Address;
use crate::format::manifest::Manifest;
use crate::model::JournalId;
use crate::rt::local::Event;
use crate::rt::{Folder, Rt, is_out_of_descriptors};
use crate::twinlog::TwinLog;

/// Default size of a segment; at most 1/64 of the filesystem.
pub const SEGMENT_BYTES: u64 = 256 << 20;
/// Smallest segment that the formats allow (the simulator's).
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Whether an error says that the disk, or a quota, is full; or that no file can be opened for now, which
/// passes as well.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || is_out_of_descriptors(error)
}

/// For `or_else`: a full disk is no error here, it is tried again later.
pub fn unless_full(error: io::Error) -> io::Result<()> {
    if is_full(&error) { Ok(()) } else { Err(error) }
}

pub fn folder_name(id: JournalId) -> String {
    id.to_string()
}

pub struct Journal {
    pub id: JournalId,
    pub segment_bytes: u64,
    rt: Rt,
    folder: Folder,
    /// Number of this start of the journal.
    start: u32,
    /// Something that waiters may want to look at changed: durable address, next segment, zeros that
    /// have ended, offline.
    pub changed: Event,
    head: RefCell<append::Head>,
    segments: RefCell<BTreeMap<u64, Rc<Segment>>>,
    tail: RefCell<append::Tail>,
    manifest: RefCell<Manifest>,
    /// Taken for the time of an append.
    manifest_log: RefCell<Option<TwinLog>>,
    /// The manifest's log is there again.
    manifest_free: Event,
    /// Number of the next file; above every number ever used.
    number_next: Cell<u64>,
    /// Generation of the next checkpoint; its parity is that of the slot that may be overwritten.
    checkpoint_next: Cell<u64>,
    /// Segments whose footer was submitted, in order, until maintenance has noted it.
    sealing: RefCell<VecDeque<(Rc<Segment>, Address)>>,
    index_bytes_max: usize,
    index_clock: Cell<u64>,
    has_reserve: Cell<bool>,
}

impl Journal {
    /// Why nothing can be appended any more.
    pub fn offline(&self) -> Option<Offline> {
        self.head.borrow().offline.clone()
    }

    /// Everything below this address is on stable storage.
    pub fn durable(&self) -> Address {
        self.head.borrow().durable
    }

    pub fn segments(&self) -> Vec<Rc<Segment>> {
        self.segments.borrow().values().cloned().collect()
    }

    pub fn segment(&self, number: u64) -> Option<Rc<Segment>> {
        self.segments.borrow().get(&number).cloned()
    }

    /// Bytes that the journal's files take on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.segments.borrow().values().map(|segment| segment.bytes).sum()
    }
}
