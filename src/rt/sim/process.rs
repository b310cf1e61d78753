//! A process of the simulation and the door as one of its executors sees it.
//!
//! Floor 1. Owner: shard. `World` is `Send`, as its users expect, so it starts executors through a
//! queue that the driver empties before each turn.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::core::{Core, Event};
use super::tasks::{TaskFuture, TaskId};
use crate::base::lock;
use crate::rt::buffer::Pool;
use crate::rt::{Instant, Level, Stalls};

pub(super) type SharedEnd = Arc<Mutex<End>>;

/// An executor that is to start.
pub(super) struct Start {
    pub(super) process: u32,
    pub(super) name: String,
    pub(super) main: Box<dyn FnOnce(Process) -> TaskFuture + Send>,
    pub(super) end: SharedEnd,
}

/// What must be reachable from handles that are `Send`.
#[derive(Default)]
pub(super) struct Shared {
    starts: Mutex<Vec<Start>>,
    /// Ends of connections whose handle was dropped on its way between executors.
    orphans: Mutex<Vec<(u32, u8)>>,
    listening: Mutex<BTreeSet<SocketAddr>>,
}

impl Shared {
    pub(super) fn take_starts(&self) -> Vec<Start> {
        std::mem::take(&mut *lock(&self.starts))
    }

    pub(super) fn take_orphans(&self) -> Vec<(u32, u8)> {
        std::mem::take(&mut *lock(&self.orphans))
    }

    pub(super) fn orphan(&self, connection: u32, side: u8) {
        lock(&self.orphans).push((connection, side));
    }

    pub(super) fn set_listening(&self, addresses: BTreeSet<SocketAddr>) {
        *lock(&self.listening) = addresses;
    }
}

#[derive(Default)]
pub(super) struct End {
    ended: bool,
    waker: Option<Waker>,
}

/// Says that the executor ended.
pub(super) fn finish(end: &Mutex<End>) {
    let waker = {
        let mut end = lock(end);
        end.ended = true;
        end.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// An executor: alive while its first task is.
pub(super) struct Executor {
    pub(super) process: u32,
    pub(super) main: TaskId,
    pub(super) alive: bool,
    pub(super) end: SharedEnd,
}

#[derive(Clone)]
pub(in crate::rt) struct World {
    pub(super) shared: Arc<Shared>,
    pub(super) process: u32,
    pub(super) cpus: usize,
    pub(super) memory: u64,
}

impl World {
    pub(in crate::rt) fn executor<F, Fut>(&self, name: &str, main: F) -> Joiner
    where
        F: FnOnce(Process) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let end = SharedEnd::default();
        lock(&self.shared.starts).push(Start {
            process: self.process,
            name: name.to_owned(),
            main: Box::new(move |process| Box::pin(main(process))),
            end: end.clone(),
        });
        Joiner(end)
    }

    pub(in crate::rt) fn cpus(&self) -> Vec<usize> {
        (0..self.cpus).collect()
    }

    pub(in crate::rt) fn memory(&self) -> u64 {
        self.memory
    }

    pub(in crate::rt) fn check_port(&self, address: SocketAddr) -> io::Result<()> {
        if lock(&self.shared.listening).contains(&address) {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        Ok(())
    }
}

pub(in crate::rt) struct Joiner(SharedEnd);

impl Joiner {
    pub(in crate::rt) async fn join(self) {
        poll_fn(|cx| {
            let mut end = lock(&self.0);
            if end.ended {
                return Poll::Ready(());
            }
            end.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One executor's view of the world.
#[derive(Clone)]
pub(in crate::rt) struct Process {
    pub(super) core: Rc<Core>,
    pub(super) pid: u32,
    pub(super) executor: u32,
    pub(super) machine: u32,
    pub(super) name: Rc<str>,
}

impl Process {
    pub(super) fn boot(&self) -> u64 {
        // No machine is left once the simulation is dropped.
        self.core.machines.borrow().get(self.machine as usize).map_or(u64::MAX, |machine| machine.boot)
    }

    pub(in crate::rt) fn now(&self) -> Instant {
        Instant::from_nanos(self.core.now.get())
    }

    pub(in crate::rt) fn wall_ms(&self) -> i64 {
        let elapsed = (self.core.now.get() / 1_000_000) as i64;
        self.core.machines.borrow()[self.machine as usize].wall_ms + elapsed
    }

    pub(in crate::rt) fn uptime_ms(&self) -> i64 {
        let boot_ns = self.core.machines.borrow()[self.machine as usize].boot_ns;
        ((self.core.now.get() - boot_ns) / 1_000_000) as i64
    }

    pub(in crate::rt) fn boot_id(&self) -> u128 {
        self.core.machines.borrow()[self.machine as usize].boot_id
    }

    pub(in crate::rt) fn random(&self) -> u64 {
        self.core.program.borrow_mut().u64()
    }

    pub(in crate::rt) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // While an executor is being started it has no entry yet.
        let alive = self.core.executors.borrow().get(self.executor as usize).is_none_or(|own| own.alive);
        if alive {
            self.core.tasks.borrow_mut().add(self.executor, Box::pin(task));
        }
    }

    pub(in crate::rt) fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { core: self.core.clone(), deadline: self.core.after(duration), scheduled: false }
    }

    pub(in crate::rt) async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    pub(in crate::rt) async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        // As on another thread, other tasks run first.
        self.yield_now().await;
        work()
    }

    pub(in crate::rt) fn pool(&self) -> &Rc<Pool> {
        &self.core.pool
    }

    pub(in crate::rt) fn measured<T>(&self, step: impl FnOnce() -> T) -> T {
        step()
    }

    pub(in crate::rt) fn stalls(&self) -> Stalls {
        Stalls::default()
    }

    pub(in crate::rt) fn step(&self, step: &'static str) {
        self.core.step(self.pid, step);
    }

    pub(in crate::rt) fn mutated(&self, mutation: &'static str) -> bool {
        self.core.mutated(mutation)
    }

    pub(in crate::rt) fn log(&self, level: Level, text: &str) {
        self.core.trace.bytes(text.as_bytes());
        self.core.line(|| format!("{} {level:?}: {text}", self.name));
    }
}

/// Waits for a time. A task's waker does not change in this world, so it is stored once.
pub(in crate::rt) struct Sleep {
    core: Rc<Core>,
    deadline: u64,
    scheduled: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.now.get() >= self.deadline {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut self.scheduled, true) {
            self.core.schedule(self.deadline, Event::Wake(cx.waker().clone()));
        }
        Poll::Pending
    }
}
