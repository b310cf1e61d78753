//! Message channels between executors: unbounded, in order per sender, many senders and one receiver.
//!
//! Floor 1. Owner: shard (the receiver). A send wakes the receiving task in whatever thread it
//! runs; in the simulated world that is one more entry of the ready queue, so the order is fixed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use crate::base::lock;

struct State<T> {
    queue: VecDeque<T>,
    waker: Option<Waker>,
    senders: usize,
    received: bool,
}

type Shared<T> = Arc<Mutex<State<T>>>;

/// A new channel.
pub fn channel<T: Send>() -> (Sender<T>, Receiver<T>) {
    let state = State { queue: VecDeque::new(), waker: None, senders: 1, received: true };
    let shared = Arc::new(Mutex::new(state));
    (Sender(shared.clone()), Receiver(shared))
}

/// Sends from any thread. When the last one is dropped, the receiver sees the end.
pub struct Sender<T>(Shared<T>);

impl<T: Send> Sender<T> {
    /// Never blocks. A message to a receiver that is gone is dropped.
    pub fn send(&self, message: T) {
        let waker = {
            let mut state = lock(&self.0);
            if !state.received {
                return;
            }
            state.queue.push_back(message);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0).senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.0);
            state.senders -= 1;
            if state.senders > 0 { None } else { state.waker.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Receives in one task of one executor.
pub struct Receiver<T>(Shared<T>);

impl<T: Send> Receiver<T> {
    /// The next message, or `None` once every sender is gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            if let Some(message) = state.queue.pop_front() {
                return Poll::Ready(Some(message));
            }
            if state.senders == 0 {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub fn try_recv(&mut self) -> Option<T> {
        lock(&self.0).queue.pop_front()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.received = false;
        state.waker = None;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        // Dropped outside the lock: a message may itself hold a sender of this channel.
        drop(queue);
    }
}
