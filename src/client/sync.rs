//! What tasks of any runtime, and threads, wait on: plain `std::task` wakers.
//!
//! Floor 5. Invariant: no waker is woken under a lock, so that an executor may poll in place.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::base::{Few, lock};

/// Tells the one driver of a machine that something was put where it should look.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    driver: Mutex<Option<Waker>>,
}

impl Bell {
    pub fn ring(&self) {
        // A bell that already rings has woken its driver, or the driver is about to look.
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let waker = lock(&self.driver).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once for any number of rings. Only the driver polls.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.rung.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        *lock(&self.driver) = Some(context.waker().clone());
        if self.rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }

    pub async fn wait(&self) {
        poll_fn(|context| self.poll(context)).await;
    }
}

/// A value that somebody else provides once.
#[derive(Debug)]
pub struct Promise<T>(Arc<Mutex<Promised<T>>>);

#[derive(Debug)]
struct Promised<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Promise(self.0.clone())
    }
}

impl<T> Default for Promise<T> {
    fn default() -> Self {
        Promise(Arc::new(Mutex::new(Promised { value: None, waker: None })))
    }
}

impl<T> Promise<T> {
    pub fn fulfil(&self, value: T) {
        let waker = {
            let mut promised = lock(&self.0);
            promised.value = Some(value);
            promised.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the value; for one waiter.
    pub async fn wait(self) -> T {
        poll_fn(|context| {
            let mut promised = lock(&self.0);
            match promised.value.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    promised.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Wakers of everybody who waits for one condition, which each checks again: mostly one.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<Few<Waker>>);

impl Waiters {
    pub fn add(&self, context: &Context<'_>) {
        let mut wakers = lock(&self.0);
        if !wakers.last().is_some_and(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
    }

    pub fn wake_all(&self) {
        let wakers = std::mem::take(&mut *lock(&self.0));
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A sender that waits for memory is woken once this part of all is free: woken for each small batch, it
/// would run for one record, and the switch of threads costs more than the record.
const RESUME_PART: usize = 32;

/// Memory of a producer: records reserve it before they are kept, batches give it back when their
/// fate is known. Waiting senders are served in the order they came. Sequentially consistent: a
/// sender that announces itself and then finds no room is seen by whoever then makes room.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
    /// Senders that wait; while there are any, newcomers queue behind them.
    waiting: AtomicUsize,
    queue: Mutex<VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    bytes: usize,
    waker: Waker,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Budget {
        Budget {
            bytes_max,
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(VecDeque::new()),
        }
    }

    /// Whether senders wait for memory: then nothing may linger.
    pub fn is_starved(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Takes `bytes` if they fit and nobody waits. One reservation always fits an empty budget.
    pub fn try_take(&self, bytes: usize) -> bool {
        !self.is_starved() && self.take(bytes)
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| (used == 0 || used + bytes <= self.bytes_max).then_some(used + bytes);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    pub fn give_back(&self, bytes: usize) {
        let used = self.used.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if self.is_starved() {
            let resumes = |waiter: &&Waiter| {
                used + waiter.bytes.max(self.bytes_max / RESUME_PART) <= self.bytes_max || used == 0
            };
            self.wake_front(resumes);
        }
    }

    fn wake_front(&self, which: impl FnOnce(&&Waiter) -> bool) {
        let waker = lock(&self.queue).front().filter(which).map(|waiter| waiter.waker.clone());
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A place in the queue of those who wait.
    pub fn wait(&self, bytes: usize, ticket: u64) -> Waiting<'_> {
        Waiting { budget: self, bytes, ticket, queued: false }
    }
}

/// A future that ends with the bytes taken. `ticket` is unique among those who wait.
pub(super) struct Waiting<'a> {
    budget: &'a Budget,
    bytes: usize,
    ticket: u64,
    queued: bool,
}

impl Future for Waiting<'_> {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let budget = self.budget;
        {
            let mut queue = lock(&budget.queue);
            if !self.queued {
                self.queued = true;
                let (ticket, bytes, waker) = (self.ticket, self.bytes, context.waker().clone());
                queue.push_back(Waiter { ticket, bytes, waker });
                budget.waiting.fetch_add(1, Ordering::SeqCst);
            }
            let front = queue.front().is_some_and(|waiter| waiter.ticket == self.ticket);
            if !front || !budget.take(self.bytes) {
                if let Some(waiter) = queue.iter_mut().find(|waiter| waiter.ticket == self.ticket) {
                    waiter.waker.clone_from(context.waker());
                }
                return Poll::Pending;
            }
        }
        self.leave();
        Poll::Ready(())
    }
}

impl Waiting<'_> {
    /// Leaves the queue and lets the next one try.
    fn leave(&mut self) {
        if std::mem::take(&mut self.queued) {
            lock(&self.budget.queue).retain(|waiter| waiter.ticket != self.ticket);
            self.budget.waiting.fetch_sub(1, Ordering::SeqCst);
            self.budget.wake_front(|_| true);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_sender_without_memory_is_woken_when_it_is_worth_it() {
        for (wanted, resumes_at) in [(1, 10), (100, 100), (2000, 320)] {
            let budget = Budget::new(320);
            assert!((0..32).all(|_| budget.try_take(10)));
            let wakes = Arc::new(Count::default());
            let waker = Waker::from(wakes.clone());
            let mut context = Context::from_waker(&waker);
            let mut waiting = pin!(budget.wait(wanted, 1));
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            let mut freed = 0;
            while wakes.0.load(Ordering::SeqCst) == 0 {
                budget.give_back(5);
                freed += 5;
            }
            assert_eq!(freed, resumes_at, "for {wanted} bytes");
            assert!(waiting.as_mut().poll(&mut context).is_ready());
            assert!(!budget.is_starved());
        }
    }
}
