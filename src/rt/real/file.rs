//! Files with direct I/O over glommio's `DmaFile`.
//!
//! Floor 1. Owner: shard. After a failed write or flush the file refuses every later one: a second
//! fsync returned OK over lost data (6.18, ext4 and XFS).

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use glommio::io::{DmaFile, OpenOptions};

use super::plain;
use crate::rt::buffer::Buf;

/// Why durable writes have a descriptor with O_DSYNC of their own. Measured as operations a second,
/// O_DSYNC against write then fdatasync (one flush for all that had completed), with the CPU time of
/// one in microseconds; ext4 on virtio, 6.18, two cores, glommio, a file allocated but never written:
///
/// ```text
/// bytes    in flight   O_DSYNC        write + fdatasync
/// 4 KiB    1           3274  (88)     2697 (169)
/// 4 KiB    4           8767  (40)     6447  (79)
/// 1 MiB    1           1167 (186)     1046 (216)
/// 1 MiB    4           1880  (88)     1345 (198)
/// ```
///
/// Over blocks that were written before: 5489 (80) against 3981 (144) and 16410 (31) against 9569 (71)
/// for 4 KiB; equal within the noise for 1 MiB. And the write needs no second turn of the executor.
pub(in crate::rt) struct File {
    /// Reads, and writes that a flush makes durable.
    file: DmaFile,
    /// The same file, opened for writing with O_DSYNC; `None` if it was opened for reading.
    durable: Option<DmaFile>,
    /// Error number of the first write or flush that failed.
    failed: Cell<Option<i32>>,
}

impl File {
    pub(super) async fn open(path: &Path, options: &OpenOptions, writes: bool) -> io::Result<File> {
        let file = options.dma_open(path).await.map_err(plain)?;
        if !writes {
            return Ok(File { file, durable: None, failed: Cell::new(None) });
        }
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_DSYNC);
        let durable = options.dma_open(path).await.map_err(plain)?;
        if !durable.is_same(&file) {
            return Err(io::Error::other("the file was replaced while it was opened"));
        }
        Ok(File { file, durable: Some(durable), failed: Cell::new(None) })
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
        self.write(&self.file, buf, position).await
    }

    pub(in crate::rt) async fn write_durable(&self, buf: Buf, position: u64) -> io::Result<()> {
        match &self.durable {
            Some(file) => self.write(file, buf, position).await,
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    async fn write(&self, file: &DmaFile, buf: Buf, position: u64) -> io::Result<()> {
        self.check()?;
        let bytes = buf.len();
        let memory = buf.dma().unwrap_or_else(|| {
            let mut copy = glommio::allocate_dma_buffer_global(bytes);
            copy.as_bytes_mut().copy_from_slice(&buf);
            Rc::new(copy)
        });
        match file.write_rc_at(memory, position).await {
            Ok(written) if written == bytes => Ok(()),
            Ok(_) => Err(self.fail(io::Error::new(io::ErrorKind::WriteZero, "the system wrote a part"))),
            Err(error) => Err(self.fail(plain(error))),
        }
    }

    pub(in crate::rt) async fn flush(&self) -> io::Result<()> {
        self.check()?;
        self.file.fdatasync().await.map_err(|error| self.fail(plain(error)))
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

    /// Exclusive while it looks, shared then, because the two descriptors would exclude each other:
    /// any descriptor of another process, shared or not, makes the look fail.
    pub(in crate::rt) fn lock(&self) -> io::Result<bool> {
        if !flock(self.descriptor(), libc::LOCK_EX)? {
            return Ok(false);
        }
        let Some(durable) = &self.durable else { return Ok(true) };
        Ok(flock(self.descriptor(), libc::LOCK_SH)? && flock(durable.as_raw_fd(), libc::LOCK_SH)?)
    }

    pub(in crate::rt) async fn close(self) -> io::Result<()> {
        if let Some(durable) = self.durable {
            durable.close().await.map_err(plain)?;
        }
        self.file.close().await.map_err(plain)
    }
}

/// Takes a lock of an open descriptor; false if another descriptor's lock is in the way.
pub(super) fn flock(descriptor: RawFd, operation: libc::c_int) -> io::Result<bool> {
    // SAFETY: flock takes numbers only; a descriptor that is not open makes it fail.
    if unsafe { libc::flock(descriptor, operation | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}
