//! Buffers for direct I/O: 4 KiB-aligned, pooled per executor by their exact number of 4 KiB pages,
//! because glommio writes a buffer whole.
//!
//! Floor 1. Owner: shard. A `BufMut` has one owner; once frozen, nobody writes to it again, so the
//! kernel may read it while others do. The memory goes back to the pool with the last `Buf`.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use glommio::io::{DmaBuffer, ReadResult};

use crate::base::align::{BLOCK_BYTES, align_up};

/// Larger buffers are not pooled.
const POOLED_BYTES_MAX: usize = 1 << 20;
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
    bytes: usize,
}

/// Idle buffers of one size.
#[derive(Default)]
struct Class {
    buffers: Vec<DmaBuffer>,
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
        let buffer = reused.unwrap_or_else(|| {
            let mut fresh = glommio::allocate_dma_buffer_global(bytes);
            fresh.as_bytes_mut().fill(0);
            fresh
        });
        BufMut { buffer: Some(buffer), pool: self.clone() }
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

    fn give(&self, buffer: DmaBuffer) {
        let bytes = buffer.len();
        let mut idle = self.idle.borrow_mut();
        if bytes <= POOLED_BYTES_MAX && idle.bytes + bytes <= IDLE_BYTES_MAX {
            idle.bytes += bytes;
            idle.by_pages[bytes / BLOCK_BYTES - 1].buffers.push(buffer);
        }
    }
}

impl Idle {
    fn take(&mut self, bytes: usize) -> Option<DmaBuffer> {
        let class = self.by_pages.get_mut(bytes / BLOCK_BYTES - 1)?;
        let buffer = class.buffers.pop()?;
        class.spare = class.spare.min(class.buffers.len());
        self.bytes -= bytes;
        Some(buffer)
    }

    fn trim(&mut self, bytes_max: usize) {
        let mut left = bytes_max;
        for (pages, class) in (1..).zip(&mut self.by_pages) {
            let freed = class.spare.min(left / (pages * BLOCK_BYTES));
            // The oldest: what was used last is still in the caches.
            class.buffers.drain(..freed);
            left -= freed * pages * BLOCK_BYTES;
            class.spare = class.buffers.len();
        }
        self.bytes -= bytes_max - left;
    }
}

/// A writable buffer with one owner.
pub struct BufMut {
    /// `None` only once frozen or dropped.
    buffer: Option<DmaBuffer>,
    pool: Rc<Pool>,
}

impl BufMut {
    /// Makes it immutable and shareable.
    pub fn freeze(mut self) -> Buf {
        let buffer = Rc::new(self.buffer.take().expect("a buffer is frozen once"));
        let bytes = buffer.len();
        Buf(Rc::new(Frozen { memory: Memory::Pooled(buffer, self.pool.clone()), bytes }))
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
            self.pool.give(buffer);
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
    Pooled(Rc<DmaBuffer>, Rc<Pool>),
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
            Memory::Pooled(buffer, _) => Some(buffer.clone()),
            Memory::Read(_) => None,
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Read(ReadResult::default()));
        if let Memory::Pooled(buffer, pool) = memory {
            // A write still in flight (its task was dropped) keeps the memory: then it is freed later, not reused.
            if let Ok(buffer) = Rc::try_unwrap(buffer) {
                pool.give(buffer);
            }
        }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0.memory {
            Memory::Pooled(buffer, _) => &buffer.as_bytes()[..self.0.bytes],
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
        assert_eq!(pool.idle.borrow().bytes, IDLE_BYTES_MAX);
        drop(pool.take(3 << 20));
        assert_eq!(pool.idle.borrow().bytes, IDLE_BYTES_MAX);
    }

    #[test]
    fn what_nobody_asks_for_is_freed() {
        let pool = Pool::new();
        let taken: Vec<_> = (0..8).map(|_| pool.take(1 << 20)).collect();
        drop(taken);
        pool.trim();
        assert_eq!(pool.idle.borrow().bytes, 8 << 20, "they were in use since the last time");
        drop((0..3).map(|_| pool.take(1 << 20)).collect::<Vec<_>>());
        pool.trim();
        assert_eq!(pool.idle.borrow().bytes, 4 << 20, "a call frees this much");
        drop((0..3).map(|_| pool.take(1 << 20)).collect::<Vec<_>>());
        pool.trim();
        assert_eq!(pool.idle.borrow().bytes, 3 << 20, "three were in use");
        pool.trim();
        assert_eq!(pool.idle.borrow().bytes, 0);
    }
}
