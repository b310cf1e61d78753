//! A disk with a volatile cache: files, open descriptors, writes in flight, space.
//!
//! Floor 1. Owner: a machine. A flush makes durable what had completed when it was submitted, of one
//! file. After a power cut any subset of the unflushed and of the interrupted writes remains, some
//! torn at 512-byte sectors.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::inode::{Inode, Mercy, PAGE_BYTES, Page};
use super::tree::{FileId, Tree};
use crate::rt::buffer::{Buf, Pool};
use crate::rt::random::Random;

/// An open descriptor.
struct Handle {
    file: FileId,
    process: u32,
    in_flight: u32,
    closed: bool,
}

/// A write that the kernel has and that is not complete.
pub(super) struct InFlight {
    pub(super) handle: usize,
    pub(super) position: u64,
    pub(super) buf: Buf,
    pub(super) durable: bool,
}

impl InFlight {
    fn pages(&self) -> impl Iterator<Item = (usize, Page)> + '_ {
        let first = self.position as usize / PAGE_BYTES;
        (0..self.buf.len() / PAGE_BYTES)
            .map(move |index| (first + index, Page { buf: self.buf.clone(), at: index * PAGE_BYTES }))
    }
}

pub(super) struct Disk {
    inodes: Vec<Inode>,
    handles: Vec<Handle>,
    pub(super) tree: Tree,
    pub(super) capacity: u64,
    used: u64,
    /// Numbers the changes of content.
    changes: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// Locked by name, with the process that holds it.
    locks: BTreeMap<FileId, u32>,
}

impl Disk {
    pub(super) fn new(capacity: u64) -> Disk {
        Disk {
            inodes: Vec::new(),
            handles: Vec::new(),
            tree: Tree::new(),
            capacity,
            used: 0,
            changes: 0,
            in_flight: BTreeMap::new(),
            locks: BTreeMap::new(),
        }
    }

    pub(super) fn available(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    fn inode(&mut self, handle: usize) -> &mut Inode {
        &mut self.inodes[self.handles[handle].file]
    }

    /// A new file without a name; `None` if the disk is full.
    pub(super) fn create(&mut self, bytes: u64) -> Option<FileId> {
        let inode = Inode::new(bytes);
        if inode.allocated > self.available() {
            return None;
        }
        self.used += inode.allocated;
        self.inodes.push(inode);
        Some(self.inodes.len() - 1)
    }

    pub(super) fn open(&mut self, file: FileId, process: u32) -> usize {
        self.inodes[file].opens += 1;
        self.handles.push(Handle { file, process, in_flight: 0, closed: false });
        self.handles.len() - 1
    }

    /// The descriptor itself lives on until its writes are complete, as the kernel's does.
    pub(super) fn close(&mut self, handle: usize) {
        if !std::mem::replace(&mut self.handles[handle].closed, true) {
            self.finish_close(handle);
        }
    }

    /// What the kernel does at the end of a process, whatever the process itself remembers.
    pub(super) fn close_all(&mut self, process: u32) {
        for handle in 0..self.handles.len() {
            if self.handles[handle].process == process {
                self.close(handle);
            }
        }
        self.locks.retain(|_, holder| *holder != process);
    }

    fn finish_close(&mut self, handle: usize) {
        if !self.handles[handle].closed || self.handles[handle].in_flight > 0 {
            return;
        }
        let file = self.handles[handle].file;
        let inode = &mut self.inodes[file];
        inode.opens -= 1;
        if inode.locked_by == Some(handle) {
            inode.locked_by = None;
        }
        self.free_if_gone(file);
    }

    /// Gives the space of a file back once it has neither a name nor a descriptor.
    pub(super) fn free_if_gone(&mut self, file: FileId) {
        let inode = &mut self.inodes[file];
        if inode.opens == 0 && !self.tree.is_linked(file) {
            self.used -= inode.allocated;
            inode.allocated = 0;
        }
    }

    pub(super) fn lock(&mut self, handle: usize) -> bool {
        let holder = &mut self.inode(handle).locked_by;
        *holder.get_or_insert(handle) == handle
    }

    pub(super) fn lock_file(&mut self, file: FileId, process: u32) -> bool {
        let is_free = !self.locks.contains_key(&file);
        self.locks.entry(file).or_insert(process);
        is_free
    }

    pub(super) fn unlock_file(&mut self, file: FileId, process: u32) {
        if self.locks.get(&file) == Some(&process) {
            self.locks.remove(&file);
        }
    }

    pub(super) fn bytes(&mut self, handle: usize) -> u64 {
        self.inode(handle).bytes
    }

    pub(super) fn file_bytes(&self, file: FileId) -> u64 {
        self.inodes[file].bytes
    }

    pub(super) fn read(&mut self, handle: usize, position: u64, bytes: usize, pool: &Rc<Pool>) -> Buf {
        let inode = self.inode(handle);
        let bytes = inode.bytes.saturating_sub(position).min(bytes as u64) as usize;
        let mut into = pool.take(bytes);
        inode.copy_to(position, &mut into[..bytes]);
        into.freeze_short(bytes)
    }

    /// All bytes of a file as programs see it.
    pub(super) fn contents(&self, file: FileId) -> Vec<u8> {
        let mut bytes = vec![0; self.inodes[file].bytes as usize];
        self.inodes[file].copy_to(0, &mut bytes);
        bytes
    }

    pub(super) fn submit(&mut self, sequence: u64, write: InFlight) {
        self.handles[write.handle].in_flight += 1;
        self.in_flight.insert(sequence, write);
    }

    /// The write is complete; or it failed, and some of its pages are written.
    /// `kept`: its own promise to be durable holds; that of a dead process may not.
    pub(super) fn complete(&mut self, sequence: u64, failed: bool, kept: bool, random: &mut Random) {
        let Some(write) = self.in_flight.remove(&sequence) else { return };
        let durable = write.durable && kept && !failed;
        let inode = &mut self.inodes[self.handles[write.handle].file];
        for (page, content) in write.pages() {
            if !failed || random.chance(500_000) {
                self.changes += 1;
                inode.write(self.changes, page, content, durable);
            }
        }
        let end = write.position + write.buf.len() as u64;
        if !failed && end > inode.bytes {
            inode.bytes = end;
            self.used += end.saturating_sub(inode.allocated);
            inode.allocated = inode.allocated.max(end);
        }
        if durable {
            inode.keep_length();
        }
        self.handles[write.handle].in_flight -= 1;
        self.finish_close(write.handle);
    }

    /// What a flush submitted now will cover: the last change and the file's bytes.
    pub(super) fn flush_point(&mut self, handle: usize) -> (u64, u64) {
        (self.changes, self.inode(handle).bytes)
    }

    pub(super) fn flushed(&mut self, handle: usize, point: (u64, u64)) {
        self.inode(handle).flushed(point);
    }

    pub(super) fn flush_failed(&mut self, handle: usize, random: &mut Random) {
        self.inode(handle).flush_failed(random);
    }

    /// Grows a file, all allocated. False: the disk is full.
    pub(super) fn allocate(&mut self, handle: usize, bytes: u64) -> bool {
        let available = self.available();
        let inode = self.inode(handle);
        let more = bytes.saturating_sub(inode.allocated);
        if more > available {
            return false;
        }
        inode.allocated += more;
        inode.bytes = inode.bytes.max(bytes);
        self.used += more;
        true
    }

    pub(super) fn truncate(&mut self, handle: usize, bytes: u64) {
        self.changes += 1;
        let number = self.changes;
        let inode = self.inode(handle);
        inode.truncate(number, bytes);
        let less = inode.allocated.saturating_sub(bytes.max(PAGE_BYTES as u64));
        inode.allocated -= less;
        self.used -= less;
    }

    /// The power goes and returns: what is durable, and what luck adds, is all there is.
    pub(super) fn cut_power(&mut self, random: &mut Random, pool: &Rc<Pool>) {
        let mercy = [Mercy::All, Mercy::None, Mercy::Each, Mercy::Prefix][random.below(4) as usize];
        for (_, write) in std::mem::take(&mut self.in_flight) {
            let inode = &mut self.inodes[self.handles[write.handle].file];
            write.pages().for_each(|(page, content)| inode.interrupt(page, content));
        }
        for inode in &mut self.inodes {
            inode.cut_power(mercy, random, pool);
        }
        self.tree.cut_power(random);
        self.handles.clear();
        self.locks.clear();
        self.used = 0;
        for (file, inode) in self.inodes.iter_mut().enumerate() {
            (inode.opens, inode.locked_by) = (0, None);
            let linked = self.tree.is_linked(file);
            inode.allocated = if linked { inode.bytes.max(PAGE_BYTES as u64) } else { 0 };
            self.used += inode.allocated;
        }
    }

    /// Flips one bit of a file, durably. False: that page was never written.
    pub(super) fn flip(&mut self, file: FileId, byte: u64, bit: u8, pool: &Rc<Pool>) -> bool {
        self.inodes[file].flip(byte, bit, pool)
    }
}
