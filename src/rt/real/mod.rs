//! The real world: glommio executors on io_uring, one thread each, and a few helper threads.
//!
//! Floor 1. Owner: broker (the world), shard (an executor). A panic in any thread aborts the process:
//! half a broker must not go on. Glommio's traps are met here and named where they are met.

mod abort;
mod executor;
mod file;
mod folder;
mod heart;
mod helpers;
mod net;
mod port;
mod signals;
mod stalls;
pub(super) mod system;
mod world;

pub(super) use executor::Executor;
pub(super) use file::File;
pub(super) use folder::{Folder, Lock};
pub(super) use net::{Listener, Socket, Stream};
pub(super) use port::{check_port, is_orphaned};
pub(super) use signals::signals;
pub(super) use world::{Joiner, World};

use glommio::GlommioError;
use std::io;

/// The system's error inside glommio's, so that its number survives; glommio's own text otherwise.
fn plain<T>(error: GlommioError<T>) -> io::Error {
    match error {
        GlommioError::IoError(error) => error,
        GlommioError::EnhancedIoError { source, .. } => source,
        other => io::Error::from(other),
    }
}
