//! Why the broker does not start, each time with what to do about it.
//!
//! Floor 6. Owner: broker.

use std::fmt;
use std::io;
use std::path::Path;

/// Linux error numbers that have a cure of their own.
const EPERM: i32 = 1;
const ENOMEM: i32 = 12;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const ENOSYS: i32 = 38;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    pub what: String,
    /// What the operator can do.
    pub cure: String,
}

impl StartError {
    pub fn new(what: impl Into<String>, cure: impl Into<String>) -> StartError {
        StartError { what: what.into(), cure: cure.into() }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if !self.cure.is_empty() {
            write!(f, "\n  what to do: {}", self.cure)?;
        }
        Ok(())
    }
}

impl std::error::Error for StartError {}

/// The kernel refused an executor: io_uring, locked memory, descriptors.
pub fn executor(error: &io::Error, io_uring_disabled: Option<&str>) -> StartError {
    let what = format!("io_uring cannot be used: {error}");
    if let Some(value @ ("1" | "2")) = io_uring_disabled {
        let cure = format!(
            "kernel.io_uring_disabled is {value} on this machine; allow it with `sysctl kernel.io_uring_disabled=0`"
        );
        return StartError::new(what, cure);
    }
    let too_little_memory = error.raw_os_error() == Some(ENOMEM) || error.to_string().contains("MemLock");
    let cure = match error.raw_os_error() {
        Some(EPERM | EACCES) => {
            "a seccomp profile forbids it, as Docker's default profile does: run the container with \
             `--security-opt seccomp=unconfined`, or with a profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register"
        }
        Some(ENOSYS) => {
            "this kernel has no io_uring: Ringlog needs Linux 5.15 or newer, built with CONFIG_IO_URING"
        }
        _ if too_little_memory => {
            "the limit of locked memory is too small: raise it with `ulimit -l unlimited` (systemd: LimitMEMLOCK=infinity; \
             Docker: --ulimit memlock=-1)"
        }
        Some(EMFILE) => {
            "too few file descriptors: raise the limit with `ulimit -n 65536` (systemd: LimitNOFILE=65536)"
        }
        _ => "check that this kernel and container allow io_uring (`--shards 1` needs the least)",
    };
    StartError::new(what, cure)
}

/// A file or folder of the data folder could not be made or opened.
pub fn storage(path: &Path, error: &io::Error) -> StartError {
    let what = format!("{}: {error}", path.display());
    let cure = match (error.kind(), error.raw_os_error()) {
        (_, Some(EINVAL)) => {
            "its filesystem cannot do direct I/O (O_DIRECT), which Ringlog needs for every write: put the data folder \
             on ext4, XFS or btrfs with --data DIR (old tmpfs, ramfs and some network filesystems cannot)"
        }
        (io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory, _) => {
            "a file is in the way: name a folder, or one that can be made, with --data DIR"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "run the broker as the owner of that folder, or choose another with --data DIR"
        }
        (io::ErrorKind::StorageFull, _) => {
            "free some space on that filesystem, or choose another with --data DIR; a broker that already ran there \
             needs no new space to start"
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "mount it writable, or choose another place with --data DIR"
        }
        (_, Some(EMFILE)) => {
            "raise the limit of open files with `ulimit -n 65536` (systemd: LimitNOFILE=65536)"
        }
        _ => "check the folder and its disk (`dmesg` names disk errors), or choose another with --data DIR",
    };
    StartError::new(what, cure)
}
