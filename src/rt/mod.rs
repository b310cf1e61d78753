//! The one door to the world: time, randomness, tasks, buffers, files, sockets, channels between executors.
//!
//! Floor 1. Owner: shard (every handle belongs to one executor, except `World`, `Joiner`,
//! `mesh::Sender`, `mesh::Receiver` and `Handover`, which travel). Two worlds live behind the same
//! types: glommio on Linux, and, with the feature `sim`, a seeded simulation in virtual time.
//! Nothing above this module reads a clock, draws a random number, or opens a file or a socket;
//! no type of glommio leaves it.

mod budget;
mod buffer;
mod file;
pub mod local;
pub mod mesh;
mod net;
mod random;
mod real;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(test)]
mod tests;
mod time;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub use budget::{Budget, Lease};
pub use buffer::{Buf, BufMut};
use file::FolderKind;
pub use file::{Access, Entry, File, Folder, Lock, Space};
pub use net::{Handover, Listener, Stream};
use net::{HandoverKind, ListenerKind, StreamKind};
pub use random::Random;
pub use time::Instant;

/// How a process starts executors. Clones may travel between threads.
#[derive(Clone)]
pub struct World(WorldKind);

#[derive(Clone)]
enum WorldKind {
    Real(real::World),
    #[cfg(feature = "sim")]
    Sim(sim::World),
}

impl World {
    /// The machine. Raises the soft limits of locked memory and open files to the hard ones.
    pub fn real() -> World {
        World(WorldKind::Real(real::World::new()))
    }

    #[cfg(feature = "sim")]
    fn sim(world: sim::World) -> World {
        World(WorldKind::Sim(world))
    }

    /// Starts an executor of its own thread, pinned to `cpu`, and runs `main` on it; the executor
    /// ends when that returns. Fails if the kernel refuses io_uring, its memory or the thread.
    pub fn executor<F, Fut>(&self, name: &str, cpu: Option<usize>, main: F) -> io::Result<Joiner>
    where
        F: FnOnce(Rt) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        match &self.0 {
            WorldKind::Real(world) => {
                let joiner = world.executor(name, cpu, move |rt| main(Rt(RtKind::Real(rt))))?;
                Ok(Joiner(JoinerKind::Real(joiner)))
            }
            #[cfg(feature = "sim")]
            WorldKind::Sim(world) => {
                let joiner = world.executor(name, move |rt| main(Rt(RtKind::Sim(rt))));
                Ok(Joiner(JoinerKind::Sim(joiner)))
            }
        }
    }

    /// The CPUs that this process may use.
    pub fn cpus(&self) -> Vec<usize> {
        match &self.0 {
            WorldKind::Real(_) => real::system::cpus(),
            #[cfg(feature = "sim")]
            WorldKind::Sim(world) => world.cpus(),
        }
    }

    /// Bytes of memory: RAM, or the limit of the control group if that is less.
    pub fn memory(&self) -> u64 {
        match &self.0 {
            WorldKind::Real(_) => real::system::memory(),
            #[cfg(feature = "sim")]
            WorldKind::Sim(world) => world.memory(),
        }
    }

    /// Fails with `AddrInUse` if any process listens on `address`, or has a claim to it: listeners of this
    /// module share a port (SO_REUSEPORT), so `Rt::listen` would not notice another broker of the same user.
    pub fn check_port(&self, address: SocketAddr) -> io::Result<PortClaim> {
        match &self.0 {
            WorldKind::Real(_) => real::check_port(address).map(|claim| PortClaim { _held: Some(claim) }),
            #[cfg(feature = "sim")]
            WorldKind::Sim(world) => world.check_port(address).map(|()| PortClaim { _held: None }),
        }
    }

    /// Whether what listens on the port is left of a process that is gone: the system lets go of it
    /// once the last write of that process has landed.
    pub fn is_orphaned(&self, port: u16) -> bool {
        match &self.0 {
            WorldKind::Real(_) => real::is_orphaned(port),
            // A machine that kills a process has done with it.
            #[cfg(feature = "sim")]
            WorldKind::Sim(_) => false,
        }
    }
}

/// Keeps other brokers from an address while it lives.
pub struct PortClaim {
    _held: Option<std::os::unix::net::UnixListener>,
}

/// Whether an error says that there is no room for one more open file, for now.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// A message for each SIGTERM or SIGINT of this process, which no longer end it. Call it before any
/// thread is started. Real world only.
pub fn signals() -> io::Result<mesh::Receiver<()>> {
    real::signals()
}

/// Waits for the end of an executor.
pub struct Joiner(JoinerKind);

enum JoinerKind {
    Real(real::Joiner),
    #[cfg(feature = "sim")]
    Sim(sim::Joiner),
}

impl Joiner {
    pub async fn join(self) {
        match self.0 {
            JoinerKind::Real(joiner) => joiner.join().await,
            #[cfg(feature = "sim")]
            JoinerKind::Sim(joiner) => joiner.join().await,
        }
    }

    /// Blocks this thread, which must not be an executor's. Real world only.
    pub fn join_blocking(self) {
        match self.0 {
            JoinerKind::Real(joiner) => joiner.join_blocking(),
            #[cfg(feature = "sim")]
            JoinerKind::Sim(_) => unreachable!("the simulated world has one thread"),
        }
    }
}

/// Of the steps that the tasks of an executor took without giving way: CPU time of its thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stalls {
    pub steps: u64,
    pub p99_us: u64,
    pub p99_99_us: u64,
    pub max_us: u64,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// The door, as one executor sees it. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Rt(RtKind);

#[derive(Clone)]
enum RtKind {
    Real(Rc<real::Executor>),
    #[cfg(feature = "sim")]
    Sim(sim::Process),
}

macro_rules! dispatch {
    ($self:ident, $inner:ident => $body:expr) => {
        match &$self.0 {
            RtKind::Real($inner) => $body,
            #[cfg(feature = "sim")]
            RtKind::Sim($inner) => $body,
        }
    };
}

impl Rt {
    pub fn now(&self) -> Instant {
        dispatch!(self, rt => rt.now())
    }

    /// Milliseconds since 1970 on the wall clock, which may jump.
    pub fn wall_ms(&self) -> i64 {
        dispatch!(self, rt => rt.wall_ms())
    }

    /// Milliseconds since the machine booted; goes on over a restart of the process.
    pub fn uptime_ms(&self) -> i64 {
        dispatch!(self, rt => rt.uptime_ms())
    }

    /// Identity of this boot of the machine.
    pub fn boot_id(&self) -> u128 {
        dispatch!(self, rt => rt.boot_id())
    }

    pub fn random(&self) -> u64 {
        dispatch!(self, rt => rt.random())
    }

    /// Runs a task on this executor, never inside this call. Tasks end by a message, not by cancelling.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        dispatch!(self, rt => rt.spawn(task))
    }

    pub async fn sleep(&self, duration: Duration) {
        dispatch!(self, rt => rt.sleep(duration).await)
    }

    /// Lets the other ready tasks run, and I/O complete.
    pub async fn yield_now(&self) {
        dispatch!(self, rt => rt.yield_now().await)
    }

    /// Runs blocking or long work on a helper thread.
    pub async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        dispatch!(self, rt => rt.offload(work).await)
    }

    /// A 4 KiB-aligned buffer of `bytes` rounded up to 4 KiB. Its contents are initialised but
    /// unspecified: overwrite or zero all that you submit.
    pub fn buffer(&self, bytes: usize) -> BufMut {
        dispatch!(self, rt => rt.pool().take(bytes))
    }

    /// An existing folder.
    pub async fn folder(&self, path: &Path) -> io::Result<Folder> {
        match &self.0 {
            RtKind::Real(rt) => Ok(Folder(FolderKind::Real(Rc::new(real::Folder::at(rt, path).await?)))),
            #[cfg(feature = "sim")]
            RtKind::Sim(rt) => Ok(Folder(FolderKind::Sim(rt.folder(path).await?))),
        }
    }

    /// A folder, made durably with its missing parents.
    pub async fn create_folder(&self, path: &Path) -> io::Result<Folder> {
        match &self.0 {
            RtKind::Real(rt) => Ok(Folder(FolderKind::Real(Rc::new(real::Folder::create(rt, path).await?)))),
            #[cfg(feature = "sim")]
            RtKind::Sim(rt) => Ok(Folder(FolderKind::Sim(rt.create_folder(path).await?))),
        }
    }

    /// Listens; several executors of one process may listen on the same address.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match &self.0 {
            RtKind::Real(_) => Ok(Listener(ListenerKind::Real(real::Listener::bind(address)?))),
            #[cfg(feature = "sim")]
            RtKind::Sim(rt) => Ok(Listener(ListenerKind::Sim(rt.listen(address)?))),
        }
    }

    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        match &self.0 {
            RtKind::Real(_) => Ok(Stream(StreamKind::Real(Rc::new(real::Stream::connect(address).await?)))),
            #[cfg(feature = "sim")]
            RtKind::Sim(rt) => Ok(Stream(StreamKind::Sim(Rc::new(rt.connect(address).await?)))),
        }
    }

    /// Takes over a socket from another executor. The caller has taken what it wants of the preface.
    pub fn adopt(&self, handover: Handover) -> io::Result<Stream> {
        match (&self.0, handover.socket) {
            (RtKind::Real(_), HandoverKind::Real(socket)) => {
                Ok(Stream(StreamKind::Real(Rc::new(real::Stream::adopt(socket)))))
            }
            #[cfg(feature = "sim")]
            (RtKind::Sim(rt), HandoverKind::Sim(socket)) => {
                Ok(Stream(StreamKind::Sim(Rc::new(rt.adopt(socket)))))
            }
            #[cfg(feature = "sim")]
            _ => unreachable!("a socket does not change worlds"),
        }
    }

    /// Does a step of the executor's main task so that it counts among the working steps, as those of
    /// spawned tasks do.
    pub fn measured<T>(&self, step: impl FnOnce() -> T) -> T {
        dispatch!(self, rt => rt.measured(step))
    }

    /// How long the working steps of this executor's tasks took; nothing in the simulated world, where
    /// a step takes no time.
    pub fn stalls(&self) -> Stalls {
        dispatch!(self, rt => rt.stalls())
    }

    /// Names a point of a procedure of several steps, such as "seal.footer_written": nothing in the
    /// real world; in the simulated one it is counted, and the process may crash right there.
    pub fn step(&self, step: &'static str) {
        dispatch!(self, rt => rt.step(step))
    }

    /// Whether a deliberate bug is switched on. Always false in the real world.
    pub fn mutated(&self, mutation: &'static str) -> bool {
        dispatch!(self, rt => rt.mutated(mutation))
    }

    /// One line for the operator, on stderr; in the trace of a simulation.
    pub fn log(&self, level: Level, text: impl AsRef<str>) {
        dispatch!(self, rt => rt.log(level, text.as_ref()))
    }
}
