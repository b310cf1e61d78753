//! Folders: opening and creating files; names; flushing; locks.
//!
//! Floor 1. Owner: shard. Calls that io_uring lacks, or that may take long, run on a helper thread.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::io::OpenOptions;

use super::executor::Executor;
use super::file::{File, flock};
use crate::rt::file::{Access, Entry, Space, check_name};

pub(in crate::rt) struct Folder {
    path: PathBuf,
    executor: Rc<Executor>,
}

/// An open, locked file. The kernel releases the lock with the descriptor.
#[allow(clippy::disallowed_types, reason = "this is the door")]
pub(in crate::rt) struct Lock(#[allow(dead_code, reason = "held for its drop")] fs::File);

impl Folder {
    pub(in crate::rt) async fn at(executor: &Rc<Executor>, path: &Path) -> io::Result<Folder> {
        let asked = path.to_owned();
        let path = executor.offload(move || real_folder(&asked)).await?;
        settle_iopoll(&path).await;
        Ok(Folder { path, executor: executor.clone() })
    }

    pub(in crate::rt) async fn create(executor: &Rc<Executor>, path: &Path) -> io::Result<Folder> {
        let asked = path.to_owned();
        executor.offload(move || create_durably(&asked)).await?;
        Folder::at(executor, path).await
    }

    pub(in crate::rt) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::rt) async fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        let path = self.path.join(check_name(name)?);
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        File::open(&path, &options, access == Access::Write).await
    }

    pub(in crate::rt) async fn create_file(&self, name: &str, bytes: u64) -> io::Result<File> {
        let path = self.path.join(check_name(name)?);
        let made = path.clone();
        self.executor.offload(move || create_name(&made)).await?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match File::open(&path, &options, true).await {
            Ok(file) => file,
            Err(error) => {
                self.remove(name).await?;
                return Err(error);
            }
        };
        if bytes > 0
            && let Err(error) = file.allocate(bytes).await
        {
            file.close().await?;
            self.remove(name).await?;
            return Err(error);
        }
        Ok(file)
    }

    pub(in crate::rt) async fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(check_name(name)?);
        self.executor.offload(move || fs::remove_file(path)).await
    }

    pub(in crate::rt) async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path.join(check_name(from)?), self.path.join(check_name(to)?));
        self.executor.offload(move || fs::rename(from, to)).await
    }

    pub(in crate::rt) async fn sync(&self) -> io::Result<()> {
        let path = self.path.clone();
        self.executor.offload(move || sync_folder(&path)).await
    }

    pub(in crate::rt) async fn list(&self) -> io::Result<Vec<Entry>> {
        let path = self.path.clone();
        self.executor.offload(move || list(&path)).await
    }

    pub(in crate::rt) async fn folder(&self, name: &str) -> io::Result<Folder> {
        Folder::at(&self.executor, &self.path.join(check_name(name)?)).await
    }

    pub(in crate::rt) async fn create_folder(&self, name: &str) -> io::Result<Folder> {
        let path = self.path.join(check_name(name)?);
        let made = path.clone();
        let result = self.executor.offload(move || fs::create_dir(made)).await;
        match result {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Folder::at(&self.executor, &path).await,
        }
    }

    pub(in crate::rt) async fn space(&self) -> io::Result<Space> {
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        self.executor.offload(move || space(&path)).await
    }

    pub(in crate::rt) async fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        let path = self.path.join(check_name(name)?);
        self.executor.offload(move || lock_file(&path)).await
    }
}

/// Glommio finds out once per device whether it can poll for completions, by a read from the first file
/// that is opened; an empty file answers a read at once, and glommio then believes in a support that
/// is not there. A descriptor that cannot read settles it: no polling, which would spin anyway.
async fn settle_iopoll(folder: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).tmpfile(true);
    if let Ok(file) = options.dma_open(folder).await {
        // It has no name; a failure to close it loses nothing.
        let _ = file.close().await;
    }
}

fn real_folder(path: &Path) -> io::Result<PathBuf> {
    let path = fs::canonicalize(path)?;
    if fs::metadata(&path)?.is_dir() {
        return Ok(path);
    }
    Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is not a folder", path.display())))
}

/// Makes the folder and its missing parents, and flushes all above it: an earlier process may have been
/// killed between making one of them and its flush.
fn create_durably(path: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    let path = std::path::absolute(path)?;
    let existed = path.ancestors().find(|folder| folder.exists()).map(Path::to_path_buf);
    fs::create_dir_all(&path)?;
    for parent in path.ancestors().skip(1) {
        let is_old = existed.as_ref().is_some_and(|existed| existed.starts_with(parent));
        match sync_folder(parent) {
            // What this user may not read, this user has not made.
            Err(error) if error.kind() == PermissionDenied => break,
            // Folders of autofs and of read-only filesystems cannot be flushed: nothing was made in them.
            Err(error)
                if is_old && matches!(error.kind(), InvalidInput | ReadOnlyFilesystem | Unsupported) => {}
            result => result?,
        }
    }
    Ok(())
}

/// By itself, so that whatever fails after it is known to have left an empty file of ours.
#[allow(clippy::disallowed_types, reason = "this is the door")]
fn create_name(path: &Path) -> io::Result<()> {
    fs::File::create_new(path).map(drop)
}

/// A full fsync. Glommio's `Directory::sync` is an fdatasync, which on ext4 need not commit new entries.
#[allow(clippy::disallowed_types, reason = "this is the door")]
fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

fn list(path: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        let (bytes, is_folder) = (metadata.len(), metadata.is_dir());
        entries.push(Entry { name, bytes, is_folder });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn space(path: &CString) -> io::Result<Space> {
    // SAFETY: the path ends in a zero byte; an all-zero statvfs is valid, and the kernel fills it.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut found) != 0 {
            return Err(io::Error::last_os_error());
        }
        found
    };
    let unit = found.f_frsize;
    Ok(Space { total: found.f_blocks * unit, available: found.f_bavail * unit })
}

#[allow(clippy::disallowed_types, reason = "this is the door")]
fn lock_file(path: &Path) -> io::Result<Option<Lock>> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    Ok(flock(file.as_raw_fd(), libc::LOCK_EX)?.then_some(Lock(file)))
}
