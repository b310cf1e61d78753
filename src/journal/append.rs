//! Appending: frames are reserved, filled in place, submitted; completions are taken in order.
//!
//! Floor 3. Owner: the journal. Order of effects: the write is durable, then the durable address is
//! raised, then whoever waits is told: an acknowledgement promises exactly that.

use std::collections::VecDeque;
use std::rc::Rc;

use super::segment::{Index, OpenIndex, Segment};
use super::{Journal, SEGMENT_BYTES_MIN, zero};
use crate::api::Chunk;
use crate::base::align::{BLOCK_BYTES, align_down, align_up};
use crate::base::crc;
use crate::format::block::Run;
use crate::format::footer::{BlockRef, RunRef};
use crate::format::frame::{self, Address, FrameHeader, FrameKind, Part};
use crate::format::mark::{self, LaneEnd};
use crate::format::{BlockHeader, EntryKind, block};
use crate::rt::{Buf, BufMut};

/// Large writes in flight; of small ones there is one (group commit).
const IN_FLIGHT_MAX: usize = 4;
/// The next segment is made once this part of the active one is full: until then what retention and rewrites
/// let go of is not on the disk beside it.
const NEXT_AT_SHARE: u64 = 4;
/// A write from this size on does not wait for the one before it; less where segments are small.
const LARGE_WRITE_BYTES: usize = 256 << 10;
const LARGE_WRITE_SHARE: u64 = 8;

const _: () = assert!(SEGMENT_BYTES_MIN >= 16 * BLOCK_BYTES as u64);

/// The journal met an I/O error and stays off until the broker is started again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Offline(pub String);

/// Which write may go out now. A small one does not wait for the large ones, nor they for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Any,
    Small,
    Large,
    Nobody,
}

/// Told in order of submission, once the frame is durable or never will be.
pub type Then = Box<dyn FnOnce(Result<(), Offline>)>;

pub(super) struct Head {
    pub active: Rc<Segment>,
    /// Where the next frame begins.
    pub byte: u32,
    /// Checksum of the last frame.
    pub chain: u32,
    pub next: Option<Rc<Segment>>,
    /// A frame found no room, and no next segment.
    pub is_starved: bool,
    pub durable: Address,
    pub in_flight: VecDeque<InFlight>,
    pub offline: Option<Offline>,
    /// End of the newest mark: nothing was appended since if the head stands here.
    pub marked: Address,
    /// Small frames of blocks since the last large one.
    pub small_frames: u32,
}

pub(super) struct InFlight {
    end: Address,
    pub bytes: usize,
    is_done: bool,
    then: Option<Then>,
}

/// Space in the active segment for one frame, to be filled and submitted at once.
pub struct FrameSlot {
    pub buf: BufMut,
    /// Byte of the first part in the buffer.
    pub parts_at: usize,
    kind: FrameKind,
    address: Address,
    used: usize,
}

/// What a frame adds to its segment's footer, at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Growth {
    pub runs: usize,
    pub blocks: usize,
    /// Bytes to leave free while there is no next segment: small facts (a deletion, a new epoch)
    /// must find room on a full disk.
    pub spare: u64,
}

/// The newest frames, from which followers of the log are served.
pub(super) struct Tail {
    frames: VecDeque<TailFrame>,
    bytes: usize,
    bytes_max: usize,
}

struct TailFrame {
    address: Address,
    buf: Rc<Buf>,
}

impl Tail {
    pub fn new(bytes_max: usize) -> Tail {
        Tail { frames: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// A frame that is still being written stays, however small the budget.
    fn push(&mut self, frame: TailFrame, durable: Address) {
        self.bytes += frame.buf.len();
        self.frames.push_back(frame);
        while self.bytes > self.bytes_max && self.frames.front().is_some_and(|front| front.address < durable)
        {
            self.bytes -= self.frames.pop_front().map_or(0, |frame| frame.buf.len());
        }
    }

    fn get(&self, address: Address, bytes: usize) -> Option<Chunk> {
        let at = self.frames.partition_point(|frame| frame.address <= address).checked_sub(1)?;
        let frame = &self.frames[at];
        if frame.address.segment != address.segment {
            return None;
        }
        let start = (address.byte - frame.address.byte) as usize;
        (start + bytes <= frame.buf.len()).then(|| Chunk::new(frame.buf.clone(), start..start + bytes))
    }
}

impl Journal {
    /// Bytes that one frame may have: half of a segment, and never over 16 MiB and a bit.
    pub fn frame_bytes_max(&self) -> usize {
        (align_down(self.segment_bytes / 2) as usize).min(17 << 20)
    }

    /// A write of this size is a large one.
    pub fn large_write_bytes(&self) -> usize {
        LARGE_WRITE_BYTES.min((self.segment_bytes / LARGE_WRITE_SHARE) as usize)
    }

    /// Which write group commit lets go out now.
    pub fn turn(&self) -> Turn {
        let head = self.head.borrow();
        let large_bytes = self.large_write_bytes();
        let large = head.in_flight.iter().filter(|write| write.bytes >= large_bytes).count();
        match (large == head.in_flight.len(), large < IN_FLIGHT_MAX) {
            _ if head.offline.is_some() => Turn::Nobody,
            (true, true) => Turn::Any,
            (true, false) => Turn::Small,
            (false, true) => Turn::Large,
            (false, false) => Turn::Nobody,
        }
    }

    /// Number of the active segment, the checksum before its first frame, and where the log ends.
    /// Whatever was composed so far lies before that end.
    pub fn replay_point(&self) -> (u64, u32, Address) {
        let head = self.head.borrow();
        let number = head.active.number;
        (number, head.active.first_chain.get(), Address { segment: number, byte: head.byte })
    }

    /// Nothing is on its way to the segments.
    pub fn is_idle(&self) -> bool {
        self.head.borrow().in_flight.is_empty() && !self.is_zeroing()
    }

    /// Zeros are on their way to the active segment.
    pub fn is_zeroing(&self) -> bool {
        self.head.borrow().active.ahead.borrow().is_under_way()
    }

    /// Whether the segment after the active one is there: without it only small facts are appended.
    pub fn has_next(&self) -> bool {
        self.head.borrow().next.is_some()
    }

    /// Whether the next segment should be made now.
    pub fn wants_next(&self) -> bool {
        let head = self.head.borrow();
        let is_due = u64::from(head.byte) >= head.active.bytes / NEXT_AT_SHARE;
        head.next.is_none() && (is_due || head.is_starved)
    }

    /// Reserves a frame of these parts. `None`: the active segment is full and the next one is not
    /// there yet, or its place is still being zeroed; wait for `changed`.
    pub fn reserve(
        self: &Rc<Self>,
        kind: FrameKind,
        parts: usize,
        part_bytes: usize,
        growth: Growth,
    ) -> Option<FrameSlot> {
        let used = frame::head_bytes(parts) + part_bytes;
        let padded = align_up(used as u64);
        assert!(padded as usize <= self.frame_bytes_max(), "frames are bounded before they are reserved");
        let fits = self.fits(padded, growth);
        if self.waits_for_zeros(padded, fits) {
            return None;
        }
        if !fits {
            self.roll()?;
            assert!(self.fits(padded, growth), "an empty segment takes any frame");
        }
        let head = self.head.borrow();
        let address = Address { segment: head.active.number, byte: head.byte };
        let mut buf = self.rt.buffer(padded as usize);
        buf[used..].fill(0);
        Some(FrameSlot { buf, parts_at: frame::head_bytes(parts), kind, address, used })
    }

    fn waits_for_zeros(&self, padded: u64, fits: bool) -> bool {
        let head = self.head.borrow();
        let ahead = head.active.ahead.borrow();
        ahead.overlaps(head.byte, padded) || !fits && ahead.is_under_way()
    }

    fn fits(&self, padded: u64, growth: Growth) -> bool {
        let head = self.head.borrow();
        let index = head.active.index.borrow();
        let Index::Open(open) = &*index else { panic!("the active segment is open") };
        // Every run might be of a partition that the segment has not seen.
        let payload = open.footer_bytes(growth.runs, growth.runs, growth.blocks);
        let footer = align_up((frame::head_bytes(1) + payload) as u64);
        let spare = if head.next.is_some() { 0 } else { growth.spare };
        u64::from(head.byte) + padded + footer + spare <= head.active.bytes
    }

    /// Writes the active segment's footer and goes on in the next segment.
    fn roll(self: &Rc<Self>) -> Option<()> {
        let next = self.head.borrow_mut().next.take();
        let Some(next) = next else {
            self.head.borrow_mut().is_starved = true;
            return None;
        };
        let old = self.head.borrow().active.clone();
        let index = match &*old.index.borrow() {
            Index::Open(open) => open.seal(),
            _ => panic!("the active segment is open"),
        };
        let payload = index.encode();
        let slot = self.frame(FrameKind::Footer, payload.len());
        let address = slot.address;
        let part = Part { length: payload.len() as u32, checksum: crc::crc32c(&payload) };
        self.rt.step("seal.footer");
        self.submit_raw(slot, &payload, part, Box::new(|_| ()));
        // Readers find the runs in the sealed form from now on; on disk it counts once it is durable.
        *old.index.borrow_mut() = Index::Loaded(Rc::new(index));
        self.sealing.borrow_mut().push_back((old, address));
        let mut head = self.head.borrow_mut();
        next.first_chain.set(head.chain);
        head.active = next;
        head.byte = 0;
        self.changed.notify();
        Some(())
    }

    fn frame(&self, kind: FrameKind, part_bytes: usize) -> FrameSlot {
        let used = frame::head_bytes(1) + part_bytes;
        let head = self.head.borrow();
        let address = Address { segment: head.active.number, byte: head.byte };
        let mut buf = self.rt.buffer(align_up(used as u64) as usize);
        buf[used..].fill(0);
        FrameSlot { buf, parts_at: frame::head_bytes(1), kind, address, used }
    }

    fn submit_raw(self: &Rc<Self>, mut slot: FrameSlot, payload: &[u8], part: Part, then: Then) {
        slot.buf[slot.parts_at..slot.parts_at + payload.len()].copy_from_slice(payload);
        self.submit(slot, vec![part], then);
    }

    /// Appends a durable mark if anything was appended since the last one: it proves that the
    /// frames before it were whole. Returns whether one was written.
    pub fn mark(self: &Rc<Self>, lanes: &[LaneEnd], then: Then) -> bool {
        let payload = mark::encode(lanes);
        let Some(slot) = self.reserve(FrameKind::Mark, 1, payload.len(), Growth::default()) else {
            return false;
        };
        let part = Part { length: payload.len() as u32, checksum: crc::crc32c(&payload) };
        self.submit_raw(slot, &payload, part, then);
        let mut head = self.head.borrow_mut();
        head.marked = Address { segment: head.active.number, byte: head.byte };
        true
    }

    pub fn needs_mark(&self) -> bool {
        let head = self.head.borrow();
        head.offline.is_none() && head.marked != Address { segment: head.active.number, byte: head.byte }
    }

    /// Notes the blocks of a slot in the active segment's index; before [`Journal::submit`].
    pub fn note_block(&self, slot: &FrameSlot, block_at: usize, header: &BlockHeader, runs: &[Run]) {
        let head = self.head.borrow();
        assert_eq!(slot.address, Address { segment: head.active.number, byte: head.byte });
        let Index::Open(open) = &mut *head.active.index.borrow_mut() else {
            panic!("the active segment is open")
        };
        note(open, slot.address.byte + block_at as u32, header, runs);
    }

    /// Seals the frame with its header and sends it to the disk.
    pub fn submit(self: &Rc<Self>, mut slot: FrameSlot, parts: Vec<Part>, then: Then) {
        if let Some(offline) = self.offline() {
            then(Err(offline));
            return;
        }
        let mut head = self.head.borrow_mut();
        assert_eq!(slot.address, Address { segment: head.active.number, byte: head.byte });
        let segment = head.active.clone();
        let overlaps = segment.ahead.borrow().overlaps(head.byte, slot.buf.len() as u64);
        assert!(!overlaps, "zeros under way would overwrite the frame");
        let durable = head.durable;
        let header = FrameHeader {
            kind: slot.kind,
            address: slot.address,
            length: 0,
            previous: head.chain,
            start: self.start,
            durable,
            parts,
            checksum: 0,
        };
        head.chain = header.encode(self.id, &mut slot.buf);
        assert!(slot.used <= slot.buf.len());
        let buf = slot.buf.freeze();
        let padded = buf.len();
        head.byte += padded as u32;
        let end = Address { segment: slot.address.segment, byte: head.byte };
        head.in_flight.push_back(InFlight { end, bytes: padded, is_done: false, then: Some(then) });
        if slot.kind == FrameKind::Block {
            let frame = TailFrame { address: slot.address, buf: Rc::new(buf.clone()) };
            self.tail.borrow_mut().push(frame, durable);
            head.small_frames = zero::small_frames(head.small_frames, padded);
        }
        drop(head);
        // Not after a footer, which ends the segment, nor after a mark, which may end the journal.
        if slot.kind == FrameKind::Block {
            self.zero_ahead(&segment, end.byte);
        }
        let file = segment.file.clone();
        let journal = Rc::downgrade(self);
        if self.rt.mutated("ack-before-durable") {
            self.completed(end, Ok(()));
            self.rt.spawn(async move {
                let _ = file.write_durable(buf, slot.address.byte.into()).await;
            });
            return;
        }
        self.rt.spawn(async move {
            let result = file.write_durable(buf, slot.address.byte.into()).await;
            if let Some(journal) = journal.upgrade() {
                journal.completed(end, result);
            }
        });
    }

    fn completed(&self, end: Address, result: std::io::Result<()>) {
        if let Err(error) = result {
            let what = format!(
                "journal {} is offline: write to segment {} failed: {error}; \
                 nothing is retried (a second flush may lie): check the disk, then restart the broker",
                self.id, end.segment
            );
            self.go_offline(what);
            return;
        }
        let mut ready = Vec::new();
        {
            let mut head = self.head.borrow_mut();
            if head.offline.is_some() {
                return;
            }
            let write = head.in_flight.iter_mut().find(|write| write.end == end);
            write.expect("a completed write was in flight").is_done = true;
            while head.in_flight.front().is_some_and(|write| write.is_done) {
                let write = head.in_flight.pop_front().expect("just seen");
                assert!(head.durable < write.end, "the durable address only grows");
                head.durable = write.end;
                ready.extend(write.then);
            }
        }
        for then in ready {
            then(Ok(()));
        }
        self.changed.notify();
    }

    /// The first I/O error ends the journal: all that waits is refused, nothing later counts.
    pub(super) fn go_offline(&self, what: String) {
        let offline = Offline(what);
        let refused: Vec<Then> = {
            let mut head = self.head.borrow_mut();
            if head.offline.is_some() {
                return;
            }
            self.rt.log(crate::rt::Level::Error, &offline.0);
            head.offline = Some(offline.clone());
            head.in_flight.drain(..).filter_map(|write| write.then).collect()
        };
        for then in refused {
            then(Err(offline.clone()));
        }
        self.changed.notify();
    }

    /// Bytes of the log that are still in memory.
    pub fn in_tail(&self, address: Address, bytes: usize) -> Option<Chunk> {
        self.tail.borrow().get(address, bytes)
    }
}

/// Enters the data runs of a block at `address` into an index.
pub(super) fn note(open: &mut OpenIndex, address: u32, header: &BlockHeader, runs: &[Run]) {
    open.blocks.push(BlockRef { lane: header.lane, address, position: header.position });
    for run in runs {
        if matches!(run.entry.kind, EntryKind::Data | EntryKind::Lost) {
            open.push(run.entry.id, RunRef::new(&run.entry, address + run.at as u32));
        }
    }
}

/// Part of a finished block in a slot.
pub fn block_part(bytes: &[u8]) -> (BlockHeader, Part) {
    let header = block::decode_fields(bytes).expect("just composed");
    (header, Part { length: header.length, checksum: header.checksum })
}
