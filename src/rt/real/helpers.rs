//! Helper threads: blocking system calls and long computations, off the executors.
//!
//! Floor 1. Owner: broker. Jobs begin in order. Threads start when first needed, and never end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};

use super::abort::run_or_abort;
use crate::base::lock;

/// Blocking calls are short or rare; two let a long rewrite and a folder flush go on together, two are spare.
const THREADS_MAX: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The pool.
#[derive(Default)]
pub(super) struct Helpers {
    queue: Mutex<Queue>,
    ready: Condvar,
}

/// What a job leaves for the task that waits.
struct Slot<T> {
    result: Option<T>,
    waker: Option<Waker>,
}

impl Helpers {
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
        let shared = slot.clone();
        self.submit(Box::new(move || {
            let result = work();
            let waker = {
                let mut slot = lock(&shared);
                slot.result = Some(result);
                slot.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        poll_fn(|cx| {
            let mut slot = lock(&slot);
            match slot.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    slot.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn submit(self: &Arc<Self>, job: Job) {
        let mut queue = lock(&self.queue);
        queue.jobs.push_back(job);
        if queue.idle < queue.jobs.len() && queue.threads < THREADS_MAX {
            queue.threads += 1;
            let helpers = self.clone();
            let name = format!("helper-{}", queue.threads);
            let started =
                std::thread::Builder::new().name(name).spawn(move || run_or_abort(|| helpers.serve()));
            if started.is_err() {
                queue.threads -= 1;
                assert!(queue.threads > 0, "the system refuses the first helper thread");
            }
        }
        drop(queue);
        self.ready.notify_one();
    }

    fn serve(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = lock(&self.queue);
                continue;
            }
            queue.idle += 1;
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}
