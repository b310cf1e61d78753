//! Folders and files of a simulated disk, as one process uses them.
//!
//! Floor 1. Owner: shard. An operation of a crashing machine never completes. As in the real world a
//! file refuses everything after its first failed write or flush.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::disk::{Disk, InFlight};
use super::machine::{Operation, What};
use super::process::Process;
use super::tree::{FileId, FolderId, Node};
use crate::rt::buffer::Buf;
use crate::rt::file::{Access, Entry, Space, check_name};

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Process {
    fn disk<T>(&self, use_disk: impl FnOnce(&mut Disk) -> T) -> T {
        use_disk(&mut self.core.machines.borrow_mut()[self.machine as usize].disk)
    }

    async fn complete(&self, operation: Option<Rc<Operation>>) -> io::Result<()> {
        let Some(operation) = operation else { return pending().await };
        let well = poll_fn(|cx| operation.poll(cx)).await;
        if well { Ok(()) } else { Err(broken()) }
    }

    /// One operation whose effect the task applies itself when it is complete.
    async fn plain(&self) -> io::Result<()> {
        self.complete(self.core.begin(self.pid, What::Plain)).await?;
        if self.core.acts(self.pid) { Ok(()) } else { pending().await }
    }

    pub(in crate::rt) async fn folder(&self, path: &Path) -> io::Result<Folder> {
        self.plain().await?;
        match self.disk(|disk| disk.tree.resolve(path)) {
            Some(Node::Folder(id)) => Ok(Folder { process: self.clone(), id, path: path.into() }),
            Some(Node::File(_)) => Err(error(io::ErrorKind::NotADirectory)),
            None => Err(error(io::ErrorKind::NotFound)),
        }
    }

    pub(in crate::rt) async fn create_folder(&self, path: &Path) -> io::Result<Folder> {
        self.plain().await?;
        match self.disk(|disk| disk.tree.create_all(path)) {
            Some(id) => Ok(Folder { process: self.clone(), id, path: path.into() }),
            None => Err(error(io::ErrorKind::NotADirectory)),
        }
    }
}

#[derive(Clone)]
pub(in crate::rt) struct Folder {
    process: Process,
    id: FolderId,
    path: PathBuf,
}

impl Folder {
    pub(in crate::rt) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, handle: usize, access: Access, name: &str) -> File {
        let process = self.process.clone();
        let (boot, path) = (process.boot(), self.path.join(name));
        File { process, boot, handle, writes: access == Access::Write, failed: Cell::new(false), path }
    }

    pub(in crate::rt) async fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        check_name(name)?;
        self.process.plain().await?;
        let handle = self.process.disk(|disk| match disk.tree.find(self.id, name) {
            Some(Node::File(file)) => Ok(disk.open(file, self.process.pid)),
            Some(Node::Folder(_)) => Err(error(io::ErrorKind::IsADirectory)),
            None => Err(error(io::ErrorKind::NotFound)),
        })?;
        Ok(self.file(handle, access, name))
    }

    pub(in crate::rt) async fn create_file(&self, name: &str, bytes: u64) -> io::Result<File> {
        check_name(name)?;
        self.process.plain().await?;
        let handle = self.process.disk(|disk| {
            if disk.tree.find(self.id, name).is_some() {
                return Err(error(io::ErrorKind::AlreadyExists));
            }
            let file = disk.create(bytes).ok_or_else(|| error(io::ErrorKind::StorageFull))?;
            disk.tree.add_file(self.id, name, file);
            Ok(disk.open(file, self.process.pid))
        })?;
        self.process.core.line(|| format!("create {}", self.path.join(name).display()));
        Ok(self.file(handle, Access::Write, name))
    }

    pub(in crate::rt) async fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.process.plain().await?;
        self.process.core.line(|| format!("remove {}", self.path.join(name).display()));
        self.process.disk(|disk| {
            let file = disk.tree.remove(self.id, name).ok_or_else(|| error(io::ErrorKind::NotFound))?;
            disk.free_if_gone(file);
            Ok(())
        })
    }

    pub(in crate::rt) async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.process.plain().await?;
        self.process.disk(|disk| {
            let renamed = disk.tree.rename(self.id, from, to);
            if let Some(file) = renamed.ok_or_else(|| error(io::ErrorKind::NotFound))? {
                disk.free_if_gone(file);
            }
            Ok(())
        })
    }

    pub(in crate::rt) async fn sync(&self) -> io::Result<()> {
        let point = self.process.disk(|disk| disk.tree.sync_point(self.id));
        let what = What::Sync { folder: self.id, point };
        self.process.complete(self.process.core.begin(self.process.pid, what)).await
    }

    pub(in crate::rt) async fn list(&self) -> io::Result<Vec<Entry>> {
        self.process.plain().await?;
        Ok(self.process.disk(|disk| {
            let entry = |(name, node): (&String, Node)| {
                let (bytes, is_folder) = match node {
                    Node::File(file) => (disk.file_bytes(file), false),
                    Node::Folder(_) => (0, true),
                };
                Entry { name: name.clone(), bytes, is_folder }
            };
            disk.tree.names(self.id).map(entry).collect()
        }))
    }

    pub(in crate::rt) async fn folder(&self, name: &str) -> io::Result<Folder> {
        check_name(name)?;
        self.process.folder(&self.path.join(name)).await
    }

    pub(in crate::rt) async fn create_folder(&self, name: &str) -> io::Result<Folder> {
        check_name(name)?;
        self.process.plain().await?;
        let id = self.process.disk(|disk| match disk.tree.find(self.id, name) {
            Some(Node::Folder(inner)) => Ok(inner),
            Some(Node::File(_)) => Err(error(io::ErrorKind::NotADirectory)),
            None => Ok(disk.tree.add_folder(self.id, name)),
        })?;
        Ok(Folder { process: self.process.clone(), id, path: self.path.join(name) })
    }

    pub(in crate::rt) async fn space(&self) -> io::Result<Space> {
        self.process.plain().await?;
        Ok(self.process.disk(|disk| Space { total: disk.capacity, available: disk.available() }))
    }

    pub(in crate::rt) async fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        check_name(name)?;
        self.process.plain().await?;
        let file = self.process.disk(|disk| match disk.tree.find(self.id, name) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Folder(_)) => Err(error(io::ErrorKind::IsADirectory)),
            None => {
                let file = disk.create(0).ok_or_else(|| error(io::ErrorKind::StorageFull))?;
                disk.tree.add_file(self.id, name, file);
                Ok(file)
            }
        })?;
        let locked = self.process.disk(|disk| disk.lock_file(file, self.process.pid));
        let boot = self.process.boot();
        Ok(locked.then(|| Lock { process: self.process.clone(), boot, file }))
    }
}

pub(in crate::rt) struct Lock {
    process: Process,
    boot: u64,
    file: FileId,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.process.boot() == self.boot {
            self.process.disk(|disk| disk.unlock_file(self.file, self.process.pid));
        }
    }
}

pub(in crate::rt) struct File {
    process: Process,
    boot: u64,
    handle: usize,
    writes: bool,
    failed: Cell<bool>,
    path: PathBuf,
}

impl File {
    fn check(&self) -> io::Result<()> {
        if self.failed.get() { Err(broken()) } else { Ok(()) }
    }

    fn check_write(&self) -> io::Result<()> {
        if self.writes { self.check() } else { Err(io::Error::from_raw_os_error(libc::EBADF)) }
    }

    fn checked(&self, result: io::Result<()>) -> io::Result<()> {
        self.failed.set(self.failed.get() || result.is_err());
        result
    }

    pub(in crate::rt) async fn read_at(&self, position: u64, bytes: usize) -> io::Result<Buf> {
        self.process.plain().await?;
        let pool = self.process.core.pool.clone();
        Ok(self.process.disk(|disk| disk.read(self.handle, position, bytes, &pool)))
    }

    pub(in crate::rt) async fn write_at(&self, buf: Buf, position: u64) -> io::Result<()> {
        self.write(buf, position, false).await
    }

    pub(in crate::rt) async fn write_durable(&self, buf: Buf, position: u64) -> io::Result<()> {
        let durable = !self.process.core.mutated("disk.flush_lies");
        self.write(buf, position, durable).await
    }

    async fn write(&self, buf: Buf, position: u64, durable: bool) -> io::Result<()> {
        self.check_write()?;
        let core = &self.process.core;
        let bytes = buf.len();
        core.line(|| format!("write {} {position}+{bytes} durable={durable}", self.path.display()));
        core.trace.word(position << 1 ^ bytes as u64);
        let write = InFlight { handle: self.handle, position, buf, durable };
        let result = self.process.complete(core.begin_write(self.process.pid, write)).await;
        self.checked(result)
    }

    pub(in crate::rt) async fn flush(&self) -> io::Result<()> {
        self.check()?;
        let point = self.process.disk(|disk| disk.flush_point(self.handle));
        let what = What::Flush { handle: self.handle, point };
        let result = self.process.complete(self.process.core.begin(self.process.pid, what)).await;
        self.checked(result)
    }

    pub(in crate::rt) fn bytes(&self) -> io::Result<u64> {
        Ok(self.process.disk(|disk| disk.bytes(self.handle)))
    }

    pub(in crate::rt) async fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.check_write()?;
        self.process.plain().await?;
        let done = self.process.disk(|disk| disk.allocate(self.handle, bytes));
        if done { Ok(()) } else { Err(error(io::ErrorKind::StorageFull)) }
    }

    pub(in crate::rt) async fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.check_write()?;
        self.process.plain().await?;
        self.process.disk(|disk| disk.truncate(self.handle, bytes));
        Ok(())
    }

    pub(in crate::rt) fn lock(&self) -> io::Result<bool> {
        Ok(self.process.disk(|disk| disk.lock(self.handle)))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // After a power cut the descriptor is of a system that is no more.
        if self.process.boot() == self.boot {
            self.process.disk(|disk| disk.close(self.handle));
        }
    }
}
