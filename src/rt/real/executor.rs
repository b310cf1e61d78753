//! One executor: clocks, randomness, tasks, timers, helpers, log lines.
//!
//! Floor 1. Owner: shard.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::helpers::Helpers;
use super::stalls::Steps;
use super::system;
use crate::rt::buffer::Pool;
use crate::rt::{Instant, Level, Random, Stalls};

pub(in crate::rt) struct Executor {
    name: String,
    helpers: Arc<Helpers>,
    pool: Rc<Pool>,
    random: RefCell<Random>,
    steps: Rc<Steps>,
    boot_id: u128,
}

/// Over by the time the rings have been looked at, and not yet when the timer is first asked: one that
/// is over already would not give way at all.
pub(super) const YIELD: Duration = Duration::from_micros(2);

impl Executor {
    pub(super) fn new(name: String, helpers: Arc<Helpers>) -> Executor {
        Executor {
            name,
            helpers,
            pool: Pool::new(),
            random: RefCell::new(Random::new(system::seed())),
            steps: Rc::new(Steps::new()),
            boot_id: system::boot_id(),
        }
    }

    pub(in crate::rt) fn now(&self) -> Instant {
        Instant::from_nanos(system::clock_ns(libc::CLOCK_MONOTONIC))
    }

    pub(in crate::rt) fn wall_ms(&self) -> i64 {
        (system::clock_ns(libc::CLOCK_REALTIME) / 1_000_000) as i64
    }

    pub(in crate::rt) fn uptime_ms(&self) -> i64 {
        // CLOCK_BOOTTIME is what /proc/uptime shows.
        (system::clock_ns(libc::CLOCK_BOOTTIME) / 1_000_000) as i64
    }

    pub(in crate::rt) fn boot_id(&self) -> u128 {
        self.boot_id
    }

    pub(in crate::rt) fn random(&self) -> u64 {
        self.random.borrow_mut().u64()
    }

    pub(in crate::rt) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // Not `spawn_local`: it runs the task inside the call, where the caller may hold a borrow.
        let steps = self.steps.clone();
        let mut task = Box::pin(task);
        let task = poll_fn(move |cx| steps.measure(|| task.as_mut().poll(cx)));
        let queue = glommio::executor().current_task_queue();
        let task = glommio::spawn_local_into(task, queue).expect("the current queue exists");
        task.detach();
    }

    pub(in crate::rt) async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    pub(in crate::rt) async fn yield_now(&self) {
        // Through a timer, because glommio looks at the rings only once no task is ready.
        glommio::timer::sleep(YIELD).await;
    }

    pub(in crate::rt) async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.helpers.run(work).await
    }

    pub(in crate::rt) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    pub(in crate::rt) fn measured<T>(&self, step: impl FnOnce() -> T) -> T {
        self.steps.measure(step)
    }

    pub(in crate::rt) fn stalls(&self) -> Stalls {
        self.steps.stalls()
    }

    pub(in crate::rt) fn step(&self, _step: &'static str) {}

    pub(in crate::rt) fn mutated(&self, _mutation: &'static str) -> bool {
        false
    }

    pub(in crate::rt) fn log(&self, level: Level, text: &str) {
        let level = match level {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => return,
        };
        // Nobody may read it any more, or its disk is full: the broker goes on.
        let _ = writeln!(std::io::stderr(), "ringlog {}: {level}: {text}", self.name);
    }
}
