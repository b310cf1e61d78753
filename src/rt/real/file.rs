//! Files with direct I/O over glommio's `DmaFile`.
//!
//! Floor 1. Owner: shard. After a failed write or flush the file refuses every later one: a second
//! fsync returned OK over lost data (6.18, ext4 and XFS).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use glommio::io::DmaFile;

use super::plain;
use crate::rt::buffer::Buf;
use crate::rt::local::Event;

pub(in crate::rt) struct File {
    file: DmaFile,
    flushes: Flushes,
    /// Error number of the first write or flush that failed.
    failed: Cell<Option<i32>>,
}

/// Shares flushes between writers: a flush covers the writes that completed before it was submitted.
#[derive(Default)]
struct Flushes {
    /// Writes completed so far.
    completed: Cell<u64>,
    /// Of these, the first so many are durable.
    durable: Cell<u64>,
    running: Cell<bool>,
    done: RefCell<Event>,
}

/// Ends a running flush, also when its task was dropped.
struct Running<'a>(&'a Flushes);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.done.borrow().notify();
    }
}

impl File {
    pub(super) fn new(file: DmaFile) -> File {
        File { file, flushes: Flushes::default(), failed: Cell::new(None) }
    }

    fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn check(&self) -> io::Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(number)),
        }
    }

    fn fail(&self, error: io::Error) -> io::Error {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        self.failed.set(Some(self.failed.get().unwrap_or(number)));
        error
    }

    pub(in crate::rt) async fn read_at(&self, position: u64, bytes: usize) -> io::Result<Buf> {
        let mut read = self.file.read_at_aligned(position, bytes).await.map_err(plain)?;
        while read.len() < bytes {
            // Short: at the end of the file, or the kernel was interrupted; then read it again whole.
            let end = self.bytes()?;
            if position + read.len() as u64 >= end {
                break;
            }
            let before = read.len();
            read = self.file.read_at_aligned(position, bytes).await.map_err(plain)?;
            if read.len() <= before && position + (read.len() as u64) < end {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "short read inside a file"));
            }
        }
        Ok(Buf::from_read(read))
    }

    pub(in crate::rt) async fn write_at(&self, buf: Buf, position: u64) -> io::Result<()> {
        self.check()?;
        let bytes = buf.len();
        let memory = match buf.dma() {
            Some(memory) => memory,
            None => {
                let mut copy = glommio::allocate_dma_buffer_global(bytes);
                copy.as_bytes_mut().copy_from_slice(&buf);
                std::rc::Rc::new(copy)
            }
        };
        match self.file.write_rc_at(memory, position).await {
            Ok(written) if written == bytes => {
                self.flushes.completed.set(self.flushes.completed.get() + 1);
                Ok(())
            }
            Ok(_) => Err(self.fail(io::Error::new(io::ErrorKind::WriteZero, "the system wrote a part"))),
            Err(error) => Err(self.fail(plain(error))),
        }
    }

    pub(in crate::rt) async fn flush(&self) -> io::Result<()> {
        let flushes = &self.flushes;
        let target = flushes.completed.get();
        // A flush that runs already may have been submitted too early to count: begin one after it.
        self.wait_running().await;
        self.check()?;
        if flushes.durable.get() >= target && target > 0 {
            // Another caller's flush, begun after this call, covered it.
            return Ok(());
        }
        self.run_flush().await
    }

    /// Why write then flush, not O_DSYNC: see `docs` of [`File::write_durable`] below.
    pub(in crate::rt) async fn write_durable(&self, buf: Buf, position: u64) -> io::Result<()> {
        self.write_at(buf, position).await?;
        let own = self.flushes.completed.get();
        loop {
            self.check()?;
            if self.flushes.durable.get() >= own {
                return Ok(());
            }
            if self.flushes.running.get() {
                self.wait_running().await;
            } else {
                self.run_flush().await?;
            }
        }
    }

    async fn wait_running(&self) {
        if self.flushes.running.get() {
            let done = self.flushes.done.borrow().clone();
            done.wait().await;
        }
    }

    async fn run_flush(&self) -> io::Result<()> {
        let covered = self.flushes.completed.get();
        self.flushes.running.set(true);
        let running = Running(&self.flushes);
        // Each flush has its own event, so that a notification is not left for a later one.
        self.flushes.done.replace(Event::new());
        let result = self.file.fdatasync().await.map_err(plain);
        match result {
            Ok(()) => self.flushes.durable.set(covered.max(self.flushes.durable.get())),
            Err(error) => {
                let error = self.fail(error);
                drop(running);
                return Err(error);
            }
        }
        drop(running);
        Ok(())
    }

    pub(in crate::rt) fn bytes(&self) -> io::Result<u64> {
        // Not glommio's file_size: it asks by path, which may name another file by now.
        // SAFETY: an all-zero stat is valid, the kernel fills it; the descriptor is open.
        unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(self.descriptor(), &mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stat.st_size as u64)
        }
    }

    pub(in crate::rt) async fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.pre_allocate(bytes, false).await.map_err(plain)
    }

    pub(in crate::rt) async fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes).await.map_err(plain)
    }

    pub(in crate::rt) fn lock(&self) -> io::Result<bool> {
        // SAFETY: the descriptor is open while the file lives.
        lock_result(unsafe { libc::flock(self.descriptor(), libc::LOCK_EX | libc::LOCK_NB) })
    }

    pub(in crate::rt) async fn close(self) -> io::Result<()> {
        self.file.close().await.map_err(plain)
    }
}

/// The answer of a non-blocking flock.
pub(super) fn lock_result(result: libc::c_int) -> io::Result<bool> {
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}
