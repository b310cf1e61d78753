//! Buffers for direct I/O: 4 KiB-aligned, pooled per executor by their number of 4 KiB pages. Glommio writes
//! a buffer whole, and cannot make one longer: an idle one that is a little too large is cut for good.
//!
//! Floor 1. Owner: shard. A `BufMut` has one owner; once frozen, nobody writes to it again, so the
//! kernel may read it while others do. The memory goes back to the pool with the last `Buf`.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use glommio::io::{DmaBuffer, ReadResult};

use crate::base::align::{BLOCK_BYTES, align_up};

/// Larger buffers are not pooled: a large frame of the journal with its headers is.
const POOLED_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// An idle buffer is cut by this part at most for one use, and given up once less than half of it is left.
/// Taken only for its exact size, most frames of a bulk load had new memory: page faults and zeroing were a
/// fifth of a shard's CPU time.
const CUT_PART: usize = 8;
const CUT_MAX: usize = 2;
/// Idle memory that one executor's pool keeps.
const IDLE_BYTES_MAX: usize = 32 << 20;
/// Freed by one call of [`Pool::trim`]: unmapping takes time, and a caller's step is short.
const TRIM_BYTES: usize = 4 << 20;

/// The idle buffers of one executor.
pub(super) struct Pool {
    idle: RefCell<Idle>,
}

struct Idle {
    /// By number of pages - 1.
    by_pages: Vec<Class>,
    /// Of memory that is allocated.
    bytes: usize,
}

/// A buffer that nobody uses.
struct Piece {
    buffer: DmaBuffer,
    /// What was allocated; the buffer may have been cut since.
    allocated: usize,
}

/// Idle buffers of one size.
#[derive(Default)]
struct Class {
    buffers: Vec<Piece>,
    /// So many were idle all the time since the last trim.
    spare: usize,
}

impl Pool {
    pub(super) fn new() -> Rc<Pool> {
        let by_pages = (0..POOLED_BYTES_MAX / BLOCK_BYTES).map(|_| Class::default()).collect();
        Rc::new(Pool { idle: RefCell::new(Idle { by_pages, bytes: 0 }) })
    }

    /// A buffer of `bytes` rounded up to whole pages (at least one). New memory is zeroed; pooled
    /// memory holds what its last user left.
    pub(super) fn take(self: &Rc<Self>, bytes: usize) -> BufMut {
        let bytes = (align_up(bytes as u64) as usize).max(BLOCK_BYTES);
        let reused = self.idle.borrow_mut().take(bytes);
        let Piece { buffer, allocated } = reused.unwrap_or_else(|| {
            let mut buffer = glommio::allocate_dma_buffer_global(bytes);
            buffer.as_bytes_mut().fill(0);
            Piece { buffer, allocated: bytes }
        });
        BufMut { buffer: Some(buffer), allocated, pool: self.clone() }
    }

    /// Frees some of the buffers that nobody asked for since the last call: a load of large frames leaves
    /// behind what a load of small ones never takes.
    pub(super) fn trim(&self) {
        self.idle.borrow_mut().trim(TRIM_BYTES);
    }

    /// Frees the idle buffers.
    #[cfg(feature = "sim")]
    pub(super) fn clear(&self) {
        let mut idle = self.idle.borrow_mut();
        idle.by_pages.fill_with(Class::default);
        idle.bytes = 0;
    }

    #[cfg(test)]
    pub(super) fn idle_bytes(&self) -> usize {
        self.idle.borrow().bytes
    }

    fn give(&self, buffer: DmaBuffer, allocated: usize) {
        let bytes = buffer.len();
        let mut idle = self.idle.borrow_mut();
        let is_whole = bytes * CUT_MAX >= allocated;
        if is_whole && bytes <= POOLED_BYTES_MAX && idle.bytes + allocated <= IDLE_BYTES_MAX {
            idle.bytes += allocated;
            idle.by_pages[bytes / BLOCK_BYTES - 1].buffers.push(Piece { buffer, allocated });
        }
    }
}

impl Idle {
    /// The smallest one that has `bytes`, cut to them.
    fn take(&mut self, bytes: usize) -> Option<Piece> {
        let pages = bytes / BLOCK_BYTES;
        let most = (pages + pages / CUT_PART).min(self.by_pages.len());
        let fitting = self.by_pages.get_mut(pages - 1..most)?;
        let class = fitting.iter_mut().find(|class| !class.buffers.is_empty())?;
        let mut piece = class.buffers.pop()?;
        class.spare = class.spare.min(class.buffers.len());
        self.bytes -= piece.allocated;
        piece.buffer.trim_to_size(bytes);
        Some(piece)
    }

    fn trim(&mut self, bytes_max: usize) {
        let mut left = bytes_max;
        for class in &mut self.by_pages {
            // The oldest: what was used last is still in the caches.
            let within = |piece: &&Piece| {
                let fits = piece.allocated <= left;
                left -= if fits { piece.allocated } else { 0 };
                fits
            };
            let freed = class.buffers.iter().take(class.spare).take_while(within).count();
            class.buffers.drain(..freed);
            class.spare = class.buffers.len();
        }
        self.bytes -= bytes_max - left;
    }
}

/// A writable buffer with one owner.
pub struct BufMut {
    /// `None` only once frozen or dropped.
    buffer: Option<DmaBuffer>,
    allocated: usize,
    pool: Rc<Pool>,
}

impl BufMut {
    /// Makes it immutable and shareable.
    pub fn freeze(mut self) -> Buf {
        let buffer = Rc::new(self.buffer.take().expect("a buffer is frozen once"));
        let bytes = buffer.len();
        let memory = Memory::Pooled { buffer, allocated: self.allocated, pool: self.pool.clone() };
        Buf(Rc::new(Frozen { memory, bytes }))
    }

    /// Freezes the first `bytes`: what a read at the end of a file found.
    #[cfg(feature = "sim")]
    pub(super) fn freeze_short(self, bytes: usize) -> Buf {
        let mut buf = self.freeze();
        Rc::get_mut(&mut buf.0).expect("just frozen").bytes = bytes;
        buf
    }
}

impl Drop for BufMut {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give(buffer, self.allocated);
        }
    }
}

impl Deref for BufMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_ref().expect("not frozen").as_bytes()
    }
}

impl DerefMut for BufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().expect("not frozen").as_bytes_mut()
    }
}

impl fmt::Debug for BufMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufMut({} bytes)", self.len())
    }
}

/// Immutable bytes, cheap to clone.
#[derive(Clone)]
pub struct Buf(Rc<Frozen>);

struct Frozen {
    memory: Memory,
    bytes: usize,
}

enum Memory {
    Pooled { buffer: Rc<DmaBuffer>, allocated: usize, pool: Rc<Pool> },
    Read(ReadResult),
}

impl Buf {
    pub(super) fn from_read(read: ReadResult) -> Buf {
        let bytes = read.len();
        Buf(Rc::new(Frozen { memory: Memory::Read(read), bytes }))
    }

    /// The memory to submit to a write; `None` for what came from a read.
    pub(super) fn dma(&self) -> Option<Rc<DmaBuffer>> {
        match &self.0.memory {
            Memory::Pooled { buffer, .. } => Some(buffer.clone()),
            Memory::Read(_) => None,
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Read(ReadResult::default()));
        if let Memory::Pooled { buffer, allocated, pool } = memory {
            // A write still in flight (its task was dropped) keeps the memory: then it is freed later, not
            // reused.
            if let Ok(buffer) = Rc::try_unwrap(buffer) {
                pool.give(buffer, allocated);
            }
        }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0.memory {
            Memory::Pooled { buffer, .. } => &buffer.as_bytes()[..self.0.bytes],
            Memory::Read(read) => read,
        }
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_returns_with_the_last_clone() {
        let pool = Pool::new();
        let mut buffer = pool.take(5000);
        assert_eq!(buffer.len(), 8192);
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer[0] = 7;
        let address = buffer.as_ptr() as usize;
        assert_eq!(address % BLOCK_BYTES, 0);
        let frozen = buffer.freeze();
        let clone = frozen.clone();
        drop(frozen);
        assert_ne!(pool.take(8192).as_ptr() as usize, address);
        assert_eq!(clone[0], 7);
        drop(clone);
        assert_eq!(pool.take(8192).as_ptr() as usize, address);
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = Pool::new();
        let taken: Vec<_> = (0..40).map(|_| pool.take(1 << 20)).collect();
        drop(taken);
        assert_eq!(pool.idle_bytes(), IDLE_BYTES_MAX);
        drop(pool.take(3 << 20));
        assert_eq!(pool.idle_bytes(), IDLE_BYTES_MAX);
    }

    #[test]
    fn what_nobody_asks_for_is_freed() {
        let pool = Pool::new();
        let taken: Vec<_> = (0..8).map(|_| pool.take(1 << 20)).collect();
        drop(taken);
        pool.trim();
        assert_eq!(pool.idle_bytes(), 8 << 20, "they were in use since the last time");
        drop((0..3).map(|_| pool.take(1 << 20)).collect::<Vec<_>>());
        pool.trim();
        assert_eq!(pool.idle_bytes(), 4 << 20, "a call frees this much");
        drop((0..3).map(|_| pool.take(1 << 20)).collect::<Vec<_>>());
        pool.trim();
        assert_eq!(pool.idle_bytes(), 3 << 20, "three were in use");
        pool.trim();
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn an_idle_buffer_is_cut_for_one_that_is_a_little_smaller() {
        let pool = Pool::new();
        drop(pool.take(1 << 20));
        drop(pool.take(800 << 10));
        assert_eq!(pool.idle_bytes(), 1824 << 10, "too much would have been lost");
        let pool = Pool::new();
        let address = |bytes: usize| pool.take(bytes).as_ptr() as usize;
        let whole = address(1 << 20);
        for kib in [960, 900, 820, 740, 660, 600, 540, 504] {
            assert_eq!(address(kib << 10), whole, "{kib} KiB");
        }
        assert_eq!(pool.idle_bytes(), 0, "less than half of it was left");
    }
}
