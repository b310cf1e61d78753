//! Tasks and their ready queue: first woken, first run.
//!
//! Floor 1. A task is named by its place and a generation, so a late wake of a task that is gone is
//! ignored.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use crate::base::lock;

pub(super) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    pub(super) fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// Tasks that were woken, oldest first. Wakers must be `Send`, so it is behind a lock that nobody contends.
type Ready = Mutex<VecDeque<TaskId>>;

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.ready).push_back(self.id);
        }
    }
}

struct Task {
    /// `None` while it runs.
    future: Option<TaskFuture>,
    executor: u32,
    shared: Arc<TaskWaker>,
    waker: Waker,
}

/// A task that is to run now.
pub(super) struct Turn {
    pub(super) id: TaskId,
    pub(super) future: TaskFuture,
    pub(super) waker: Waker,
}

#[derive(Default)]
pub(super) struct Tasks {
    /// Each with its generation.
    slots: Vec<(u32, Option<Task>)>,
    free: Vec<u32>,
    ready: Arc<Ready>,
}

impl Tasks {
    /// Adds a task and queues it.
    pub(super) fn add(&mut self, executor: u32, future: TaskFuture) -> TaskId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        let id = TaskId { index, generation: slot.0 };
        let shared = Arc::new(TaskWaker { id, queued: AtomicBool::new(true), ready: self.ready.clone() });
        let waker = Waker::from(shared.clone());
        slot.1 = Some(Task { future: Some(future), executor, shared, waker });
        lock(&self.ready).push_back(id);
        id
    }

    /// Takes the next ready task to run it; it comes back with `put_back`, or goes with `remove`.
    pub(super) fn next(&mut self) -> Option<Turn> {
        loop {
            let id = lock(&self.ready).pop_front()?;
            let (generation, slot) = &mut self.slots[id.index as usize];
            if *generation != id.generation {
                continue;
            }
            let task = slot.as_mut().expect("a slot of the current generation has its task");
            task.shared.queued.store(false, Ordering::Relaxed);
            let future = task.future.take().expect("a task runs once at a time");
            return Some(Turn { id, future, waker: task.waker.clone() });
        }
    }

    /// Answers the future if the task was ended while it ran: the caller drops it.
    pub(super) fn put_back(&mut self, id: TaskId, future: TaskFuture) -> Option<TaskFuture> {
        let (generation, slot) = &mut self.slots[id.index as usize];
        match slot {
            Some(task) if *generation == id.generation => {
                task.future = Some(future);
                None
            }
            _ => Some(future),
        }
    }

    pub(super) fn remove(&mut self, id: TaskId) {
        if self.slots[id.index as usize].0 == id.generation {
            self.release(id.index);
        }
    }

    fn release(&mut self, index: u32) -> Option<TaskFuture> {
        let slot = &mut self.slots[index as usize];
        let task = slot.1.take()?;
        slot.0 += 1;
        self.free.push(index);
        task.future
    }

    /// Takes out the tasks of the executors that `dead` names. The caller drops them, in order, after
    /// it let go of its borrow: their drops run code.
    pub(super) fn take(&mut self, dead: impl Fn(u32) -> bool) -> Vec<TaskFuture> {
        let mut futures = Vec::new();
        for index in 0..self.slots.len() as u32 {
            let task = &self.slots[index as usize].1;
            if task.as_ref().is_some_and(|task| dead(task.executor)) {
                futures.extend(self.release(index));
            }
        }
        futures
    }
}
