//! Folders and files. Every length and position of file content is a multiple of 4 KiB.
//!
//! Floor 1. Owner: shard. What lasts through a power cut: bytes once a flush that was submitted
//! after their write completed has returned; an entry of a folder once [`Folder::sync`] has.
//! After the first failed write or flush a file is to be given up: a later flush may lie.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::buffer::Buf;
use super::real;
#[cfg(feature = "sim")]
use super::sim;
use crate::base::align::is_aligned;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Reads too.
    Write,
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub bytes: u64,
    pub is_folder: bool,
}

/// Space of the filesystem under a folder, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What a process without privileges may still allocate.
    pub available: u64,
}

#[derive(Clone)]
pub struct Folder(pub(super) FolderKind);

#[derive(Clone)]
pub(super) enum FolderKind {
    Real(Rc<real::Folder>),
    #[cfg(feature = "sim")]
    Sim(sim::Folder),
}

/// A file lock that dies with its holder. Dropping it releases it.
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] pub(super) LockKind);

#[allow(dead_code, reason = "held for its drop")]
pub(super) enum LockKind {
    Real(real::Lock),
    #[cfg(feature = "sim")]
    Sim(sim::Lock),
}

macro_rules! dispatch {
    ($self:ident, $kind:ident, $inner:ident => $body:expr) => {
        match &$self.0 {
            $kind::Real($inner) => $body,
            #[cfg(feature = "sim")]
            $kind::Sim($inner) => $body,
        }
    };
}

impl Folder {
    pub fn path(&self) -> PathBuf {
        dispatch!(self, FolderKind, folder => folder.path().to_owned())
    }

    /// Opens an existing file.
    pub async fn open(&self, name: &str, access: Access) -> io::Result<File> {
        match &self.0 {
            FolderKind::Real(folder) => {
                Ok(File(FileKind::Real(Rc::new(folder.open_file(name, access).await?))))
            }
            #[cfg(feature = "sim")]
            FolderKind::Sim(folder) => {
                Ok(File(FileKind::Sim(Rc::new(folder.open_file(name, access).await?))))
            }
        }
    }

    /// Creates a file of `bytes`, all allocated (so that no later write into it meets a full disk) and zero.
    /// Fails with `AlreadyExists` if the name is taken; leaves nothing behind when it fails.
    pub async fn create(&self, name: &str, bytes: u64) -> io::Result<File> {
        assert!(is_aligned(bytes), "a file is allocated in whole blocks");
        match &self.0 {
            FolderKind::Real(folder) => {
                Ok(File(FileKind::Real(Rc::new(folder.create_file(name, bytes).await?))))
            }
            #[cfg(feature = "sim")]
            FolderKind::Sim(folder) => {
                Ok(File(FileKind::Sim(Rc::new(folder.create_file(name, bytes).await?))))
            }
        }
    }

    pub async fn remove(&self, name: &str) -> io::Result<()> {
        dispatch!(self, FolderKind, folder => folder.remove(name).await)
    }

    /// Renames within the folder, over an existing file if there is one.
    pub async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        dispatch!(self, FolderKind, folder => folder.rename(from, to).await)
    }

    /// Makes the folder's entries last.
    pub async fn sync(&self) -> io::Result<()> {
        dispatch!(self, FolderKind, folder => folder.sync().await)
    }

    /// Entries, sorted by name.
    pub async fn list(&self) -> io::Result<Vec<Entry>> {
        dispatch!(self, FolderKind, folder => folder.list().await)
    }

    /// An existing folder in this one.
    pub async fn folder(&self, name: &str) -> io::Result<Folder> {
        match &self.0 {
            FolderKind::Real(folder) => Ok(Folder(FolderKind::Real(Rc::new(folder.folder(name).await?)))),
            #[cfg(feature = "sim")]
            FolderKind::Sim(folder) => Ok(Folder(FolderKind::Sim(folder.folder(name).await?))),
        }
    }

    /// A folder in this one, made if it is missing. It lasts after `sync`.
    pub async fn create_folder(&self, name: &str) -> io::Result<Folder> {
        match &self.0 {
            FolderKind::Real(folder) => {
                Ok(Folder(FolderKind::Real(Rc::new(folder.create_folder(name).await?))))
            }
            #[cfg(feature = "sim")]
            FolderKind::Sim(folder) => Ok(Folder(FolderKind::Sim(folder.create_folder(name).await?))),
        }
    }

    pub async fn space(&self) -> io::Result<Space> {
        dispatch!(self, FolderKind, folder => folder.space().await)
    }

    /// Locks a file of that name, made if it is missing. `None`: another process holds it.
    pub async fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        match &self.0 {
            FolderKind::Real(folder) => Ok(folder.lock(name).await?.map(|lock| Lock(LockKind::Real(lock)))),
            #[cfg(feature = "sim")]
            FolderKind::Sim(folder) => Ok(folder.lock(name).await?.map(|lock| Lock(LockKind::Sim(lock)))),
        }
    }
}

#[derive(Clone)]
pub struct File(pub(super) FileKind);

#[derive(Clone)]
pub(super) enum FileKind {
    Real(Rc<real::File>),
    #[cfg(feature = "sim")]
    Sim(Rc<sim::File>),
}

impl File {
    /// Reads `bytes` from `position`; fewer only at the end of the file.
    pub async fn read_at(&self, position: u64, bytes: usize) -> io::Result<Buf> {
        assert!(is_aligned(position) && is_aligned(bytes as u64), "direct reads are aligned");
        dispatch!(self, FileKind, file => file.read_at(position, bytes).await)
    }

    /// Writes the whole buffer or fails. Not durable before a flush that begins after it returned.
    pub async fn write_at(&self, buf: Buf, position: u64) -> io::Result<()> {
        assert!(is_aligned(position) && is_aligned(buf.len() as u64), "direct writes are aligned");
        dispatch!(self, FileKind, file => file.write_at(buf, position).await)
    }

    /// Makes every write that completed before this call durable.
    pub async fn flush(&self) -> io::Result<()> {
        dispatch!(self, FileKind, file => file.flush().await)
    }

    /// Writes the whole buffer and returns once it is durable.
    pub async fn write_durable(&self, buf: Buf, position: u64) -> io::Result<()> {
        assert!(is_aligned(position) && is_aligned(buf.len() as u64), "direct writes are aligned");
        dispatch!(self, FileKind, file => file.write_durable(buf, position).await)
    }

    pub async fn bytes(&self) -> io::Result<u64> {
        dispatch!(self, FileKind, file => file.bytes())
    }

    /// Grows the file to at least `bytes`, all allocated; what is new reads as zero.
    pub async fn allocate(&self, bytes: u64) -> io::Result<()> {
        dispatch!(self, FileKind, file => file.allocate(bytes).await)
    }

    /// Cuts or grows (without allocating) the file to exactly `bytes`.
    pub async fn truncate(&self, bytes: u64) -> io::Result<()> {
        dispatch!(self, FileKind, file => file.truncate(bytes).await)
    }

    /// Locks the file for writing. True proves that no earlier process still has
    /// a write in flight, because the kernel keeps a dead process's descriptor until then.
    pub async fn lock(&self) -> io::Result<bool> {
        dispatch!(self, FileKind, file => file.lock())
    }

    /// Closes the descriptor if this is the last clone; else only lets go of it, as a drop does.
    pub async fn close(self) -> io::Result<()> {
        match self.0 {
            FileKind::Real(file) => match Rc::try_unwrap(file) {
                Ok(file) => file.close().await,
                Err(_) => Ok(()),
            },
            #[cfg(feature = "sim")]
            FileKind::Sim(_) => Ok(()),
        }
    }
}

/// The name of an entry: no path may hide in it.
pub(super) fn check_name(name: &str) -> io::Result<&Path> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a file name: {name:?}")));
    }
    Ok(Path::new(name))
}
