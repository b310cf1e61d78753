//! Starting and joining executor threads.
//!
//! Floor 1. Owner: broker. A thread that panics takes the process down, with its message on stderr.

use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use super::abort::run_or_abort;
use super::executor::Executor;
use super::heart::{Beat, Heart};
use super::helpers::Helpers;
use super::{plain, system};
use crate::base::lock;

/// Memory that glommio registers with each ring, and that counts as locked: its minimum, because our
/// buffers come from our own pool.
const REGISTERED_BYTES: usize = 64 << 10;
/// Submission queue entries of each of glommio's three rings.
const RING_DEPTH: usize = 512;
/// Glommio's preemption timer, long enough never to matter. If it fires between a look at the rings and
/// the run of the tasks, glommio 0.9 runs none of them and goes to sleep with work in its queues (seen:
/// a shard that did not start, once in ten starts on a busy machine with 1 ms; see `heart` for what is left
/// of it). So our tasks yield by bytes instead ([`Executor::yield_now`], `Stream::read`), and each time the
/// rings are looked at.
const PREEMPT: Duration = Duration::from_secs(3600);

/// Starts executors.
#[derive(Clone)]
pub(in crate::rt) struct World {
    helpers: Arc<Helpers>,
    heart: Arc<Heart>,
}

impl World {
    pub(in crate::rt) fn new() -> World {
        system::raise_limits();
        World { helpers: Arc::default(), heart: Arc::default() }
    }

    pub(in crate::rt) fn executor<F, Fut>(
        &self,
        name: &str,
        cpu: Option<usize>,
        main: F,
    ) -> io::Result<Joiner>
    where
        F: FnOnce(Rc<Executor>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let (started, answer) = mpsc::channel();
        let (helpers, beat) = (self.helpers.clone(), self.heart.listen()?);
        let end = Arc::new(Mutex::new(End::default()));
        let shared = end.clone();
        let label = name.to_owned();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _finish = Finish(shared);
            run_or_abort(|| match build(cpu) {
                Ok(executor) => {
                    // The other side waits for exactly this message.
                    let _ = started.send(Ok(()));
                    executor.run(run_main(label, helpers, beat, main));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            });
        })?;
        match answer.recv() {
            Ok(Ok(())) => Ok(Joiner { end, thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the executor thread ended before it began")),
        }
    }
}

fn build(cpu: Option<usize>) -> io::Result<LocalExecutor> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    system::probe_io_uring()?;
    system::ask_short_slice();
    LocalExecutorBuilder::new(placement)
        .io_memory(REGISTERED_BYTES)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT)
        .make()
        .map_err(plain)
}

async fn run_main<F, Fut>(name: String, helpers: Arc<Helpers>, beat: Arc<Beat>, main: F)
where
    F: FnOnce(Rc<Executor>) -> Fut,
    Fut: Future<Output = ()>,
{
    let executor = Rc::new(Executor::new(name, helpers));
    let rt = executor.clone();
    let heart = glommio::spawn_local(async move {
        loop {
            beat.next().await;
            rt.measured(|| rt.pool().trim());
        }
    });
    // Ends with the executor: a task that is neither awaited nor cancelled.
    heart.detach();
    main(executor).await;
    // Dropped files are closed by the ring: give it one more turn.
    glommio::timer::sleep(Duration::from_millis(1)).await;
}

#[derive(Default)]
struct End {
    ended: bool,
    waker: Option<Waker>,
}

/// Says that the thread ended, however it did.
struct Finish(Arc<Mutex<End>>);

impl Drop for Finish {
    fn drop(&mut self) {
        let waker = {
            let mut end = lock(&self.0);
            end.ended = true;
            end.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Waits for one executor thread.
pub(in crate::rt) struct Joiner {
    end: Arc<Mutex<End>>,
    thread: JoinHandle<()>,
}

impl Joiner {
    pub(in crate::rt) async fn join(self) {
        poll_fn(|cx| {
            let mut end = lock(&self.end);
            if end.ended {
                return Poll::Ready(());
            }
            end.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(in crate::rt) fn join_blocking(self) {
        if let Err(payload) = self.thread.join() {
            std::panic::resume_unwind(payload);
        }
    }
}
