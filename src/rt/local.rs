//! Small tools for the tasks of one executor: an event, a choice of two futures, a deadline.
//!
//! Floor 1. Owner: shard. A notification is never lost: it wakes every waiter, or, with none
//! waiting, the next one. Choices are biased to their first future, so they are deterministic.
//! Never let `select2` or `timeout` drop a disk operation: glommio would cancel it in the kernel.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Rt;

/// Wakes tasks of the same executor.
#[derive(Clone, Default)]
pub struct Event(Rc<RefCell<EventState>>);

#[derive(Default)]
struct EventState {
    generation: u64,
    latched: bool,
    waiter_last: u64,
    waiters: Vec<(u64, Waker)>,
}

impl Event {
    pub fn new() -> Event {
        Event::default()
    }

    /// Wakes all that wait; if none does, the next `wait` returns at once.
    pub fn notify(&self) {
        let waiters = {
            let mut state = self.0.borrow_mut();
            state.generation += 1;
            state.latched |= state.waiters.is_empty();
            std::mem::take(&mut state.waiters)
        };
        for (_, waker) in waiters {
            waker.wake();
        }
    }

    /// Returns after the next `notify`, or at once if one came while nobody waited.
    pub fn wait(&self) -> Wait {
        Wait { event: self.clone(), registered: None }
    }
}

/// Of [`Event::wait`].
pub struct Wait {
    event: Event,
    /// Identity and the generation at which it began to wait.
    registered: Option<(u64, u64)>,
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let event = self.event.clone();
        let mut state = event.0.borrow_mut();
        let Some((id, generation)) = self.registered else {
            if std::mem::take(&mut state.latched) {
                return Poll::Ready(());
            }
            state.waiter_last += 1;
            let id = state.waiter_last;
            state.waiters.push((id, cx.waker().clone()));
            self.registered = Some((id, state.generation));
            return Poll::Pending;
        };
        if state.generation != generation {
            self.registered = None;
            return Poll::Ready(());
        }
        if let Some((_, waker)) = state.waiters.iter_mut().find(|(waiter, _)| *waiter == id) {
            waker.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some((id, generation)) = self.registered else { return };
        let mut state = self.event.0.borrow_mut();
        if state.generation == generation {
            state.waiters.retain(|(waiter, _)| *waiter != id);
        } else {
            // Woken, but it went before it looked: the notification is the next waiter's.
            state.latched = true;
        }
    }
}

/// What [`select2`] saw first.
#[derive(Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

/// Runs both; returns the first result and drops the other future. Ready together: the first wins.
pub async fn select2<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> Either<A, B> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        if let Poll::Ready(value) = a.as_mut().poll(cx) {
            return Poll::Ready(Either::First(value));
        }
        b.as_mut().poll(cx).map(Either::Second)
    })
    .await
}

/// Runs both to their end.
pub async fn join2<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut done_a, mut done_b) = (None, None);
    poll_fn(|cx| {
        if done_a.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            done_a = Some(value);
        }
        if done_b.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            done_b = Some(value);
        }
        if done_a.is_some() && done_b.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (done_a.expect("both are done"), done_b.expect("both are done"))
}

/// Runs all of a few futures to their end.
pub async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    let mut done: Vec<_> = running.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, done) in running.iter_mut().zip(&mut done) {
            if let Some(Poll::Ready(value)) = future.as_mut().map(|future| future.as_mut().poll(cx)) {
                (*future, *done) = (None, Some(value));
            }
        }
        if running.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().map(|value| value.expect("all are done")).collect()
}

/// The result of `work`, or `None` if it takes longer than `limit`.
pub async fn timeout<T>(rt: &Rt, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    match select2(work, rt.sleep(limit)).await {
        Either::First(value) => Some(value),
        Either::Second(()) => None,
    }
}
