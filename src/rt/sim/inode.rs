//! The content of one file: what programs see, what is durable, and the unflushed changes between.
//!
//! Floor 1. Owner: a disk. Pages share the immutable buffers that were written, so nothing is copied.

use std::rc::Rc;

use crate::rt::buffer::{Buf, Pool};
use crate::rt::random::Random;

pub(super) const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// 4 KiB of an immutable buffer.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) buf: Buf,
    pub(super) at: usize,
}

impl Page {
    fn bytes(&self) -> &[u8] {
        &self.buf[self.at..self.at + PAGE_BYTES]
    }
}

/// `None`: never written, reads as zero.
type Pages = Vec<Option<Page>>;

enum Change {
    Write {
        page: usize,
        content: Page,
    },
    /// The file was cut to so many pages.
    Cut {
        pages: usize,
    },
}

/// How much of the unflushed changes a power cut leaves.
#[derive(Clone, Copy)]
pub(super) enum Mercy {
    All,
    None,
    Each,
    Prefix,
}

/// Number of a write that was in flight when the power went.
pub(super) const IN_FLIGHT: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct Inode {
    current: Pages,
    durable: Pages,
    /// Completed and not yet flushed, oldest first, each with its number.
    pending: Vec<(u64, Change)>,
    pub(super) bytes: u64,
    durable_bytes: u64,
    /// Space taken; 0 once the file is gone.
    pub(super) allocated: u64,
    pub(super) opens: u32,
    pub(super) locked_by: Option<usize>,
    /// A flush failed: `current` holds what will never be durable.
    diverged: bool,
}

impl Inode {
    pub(super) fn new(bytes: u64) -> Inode {
        Inode { bytes, allocated: bytes.max(PAGE_BYTES as u64), ..Inode::default() }
    }

    /// Copies content from `position` on; beyond what was written it is zero.
    pub(super) fn copy_to(&self, position: u64, into: &mut [u8]) {
        let first = position as usize / PAGE_BYTES;
        for (index, chunk) in into.chunks_mut(PAGE_BYTES).enumerate() {
            match self.current.get(first + index) {
                Some(Some(page)) => chunk.copy_from_slice(&page.bytes()[..chunk.len()]),
                _ => chunk.fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, number: u64, page: usize, content: Page, durable: bool) {
        set(&mut self.current, page, content.clone());
        if !durable {
            self.pending.push((number, Change::Write { page, content }));
            return;
        }
        // An older unflushed version of the page can no longer reach the disk after this one, and a
        // cut of the file lasts with it.
        let pages_durable = &mut self.durable;
        self.pending.retain(|(_, change)| match change {
            Change::Write { page: other, .. } => *other != page,
            Change::Cut { pages } => {
                pages_durable.truncate(*pages);
                false
            }
        });
        set(&mut self.durable, page, content);
    }

    /// The file's length lasts, as it is.
    pub(super) fn keep_length(&mut self) {
        self.durable_bytes = self.bytes;
    }

    /// A write that a power cut interrupted.
    pub(super) fn interrupt(&mut self, page: usize, content: Page) {
        self.pending.push((IN_FLIGHT, Change::Write { page, content }));
    }

    pub(super) fn flushed(&mut self, (number_last, bytes): (u64, u64)) {
        let covered = self.pending.iter().take_while(|(number, _)| *number <= number_last).count();
        let changes: Vec<_> = self.pending.drain(..covered).collect();
        for (_, change) in changes {
            self.make_durable(change);
        }
        self.durable_bytes = bytes;
    }

    /// What the flush covered is lost, each change with an even chance, and the cache forgets that
    /// it ever was unflushed.
    pub(super) fn flush_failed(&mut self, random: &mut Random) {
        self.diverged = true;
        for (_, change) in std::mem::take(&mut self.pending) {
            if random.chance(500_000) {
                self.make_durable(change);
            }
        }
    }

    pub(super) fn truncate(&mut self, number: u64, bytes: u64) {
        let pages = (bytes as usize).div_ceil(PAGE_BYTES);
        self.current.truncate(pages);
        self.pending.retain(|(_, change)| !matches!(change, Change::Write { page, .. } if *page >= pages));
        self.pending.push((number, Change::Cut { pages }));
        self.bytes = bytes;
    }

    fn make_durable(&mut self, change: Change) {
        match change {
            Change::Write { page, content } => set(&mut self.durable, page, content),
            Change::Cut { pages } => self.durable.truncate(pages),
        }
    }

    pub(super) fn cut_power(&mut self, mercy: Mercy, random: &mut Random, pool: &Rc<Pool>) {
        if self.pending.is_empty() && self.bytes == self.durable_bytes && !self.diverged {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let prefix = random.below(pending.len() as u64 + 1) as usize;
        for (index, (number, change)) in pending.into_iter().enumerate() {
            // A write in flight is there or not, whatever else is.
            let kept = match mercy {
                _ if number == IN_FLIGHT => random.chance(500_000),
                Mercy::All => true,
                Mercy::None => false,
                Mercy::Prefix => index < prefix,
                Mercy::Each => random.chance(500_000),
            };
            if kept {
                self.make_durable(change);
            } else if random.chance(250_000)
                && let Change::Write { page, content } = change
            {
                let torn = self.torn(page, &content, random, pool);
                set(&mut self.durable, page, torn);
            }
        }
        if random.chance(500_000) {
            self.durable_bytes = self.bytes;
        }
        self.bytes = self.durable_bytes;
        self.durable.truncate((self.bytes as usize).div_ceil(PAGE_BYTES));
        self.current.clone_from(&self.durable);
        self.diverged = false;
    }

    /// Some sectors of the new content over the old one.
    fn torn(&self, page: usize, new: &Page, random: &mut Random, pool: &Rc<Pool>) -> Page {
        let mut bytes = pool.take(PAGE_BYTES);
        match self.durable.get(page) {
            Some(Some(old)) => bytes.copy_from_slice(old.bytes()),
            _ => bytes.fill(0),
        }
        for at in (0..PAGE_BYTES).step_by(SECTOR_BYTES) {
            if random.chance(500_000) {
                bytes[at..at + SECTOR_BYTES].copy_from_slice(&new.bytes()[at..at + SECTOR_BYTES]);
            }
        }
        Page { buf: bytes.freeze(), at: 0 }
    }

    /// Flips one bit, durably. False: that page was never written.
    pub(super) fn flip(&mut self, byte: u64, bit: u8, pool: &Rc<Pool>) -> bool {
        let index = byte as usize / PAGE_BYTES;
        let Some(Some(page)) = self.current.get(index) else { return false };
        let mut bytes = pool.take(PAGE_BYTES);
        bytes.copy_from_slice(page.bytes());
        bytes[byte as usize % PAGE_BYTES] ^= 1 << bit;
        let page = Page { buf: bytes.freeze(), at: 0 };
        set(&mut self.current, index, page.clone());
        set(&mut self.durable, index, page);
        true
    }
}

fn set(pages: &mut Pages, index: usize, content: Page) {
    if pages.len() <= index {
        pages.resize(index + 1, None);
    }
    pages[index] = Some(content);
}
