//! Wakes every executor from outside, four times a second.
//!
//! Floor 1. Owner: broker. Glommio 0.9 may go to sleep with tasks in its queues: if a completion that wakes
//! nobody (such as a late write to the eventfd of another thread's wake-up) arrives between its look at the
//! rings and the run of the tasks, it runs none of them. A timer of the executor's own cannot heal that, for
//! its task may be among those; a wake-up by another thread is work that glommio sees before it sleeps. The
//! thread ends after the last world does.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::base::lock;

const PAUSE: Duration = Duration::from_millis(250);

/// The beats of all executors.
#[derive(Default)]
pub(super) struct Heart(Mutex<Beats>);

#[derive(Default)]
struct Beats {
    all: Vec<Weak<Beat>>,
    has_thread: bool,
}

/// What one executor hears.
#[derive(Default)]
pub(super) struct Beat(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    is_due: bool,
    waker: Option<Waker>,
}

impl Heart {
    /// The beat of one more executor.
    pub(super) fn listen(self: &Arc<Self>) -> io::Result<Arc<Beat>> {
        let beat = Arc::new(Beat::default());
        let mut beats = lock(&self.0);
        if !beats.has_thread {
            let heart = Arc::downgrade(self);
            std::thread::Builder::new().name("heart".into()).spawn(move || run(&heart))?;
            beats.has_thread = true;
        }
        beats.all.push(Arc::downgrade(&beat));
        Ok(beat)
    }

    fn beat(&self) {
        let mut beats = lock(&self.0);
        beats.all.retain(|beat| match beat.upgrade() {
            Some(beat) => {
                beat.give();
                true
            }
            None => false,
        });
    }
}

fn run(heart: &Weak<Heart>) {
    while let Some(heart) = heart.upgrade() {
        heart.beat();
        drop(heart);
        std::thread::park_timeout(PAUSE);
    }
}

impl Beat {
    fn give(&self) {
        let waker = {
            let mut heard = lock(&self.0);
            heard.is_due = true;
            heard.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends with the next beat; for one task.
    pub(super) async fn next(&self) {
        poll_fn(|context| {
            let mut heard = lock(&self.0);
            if std::mem::take(&mut heard.is_due) {
                return Poll::Ready(());
            }
            heard.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn beats_come_until_nobody_listens() {
        let heart = Arc::new(Heart::default());
        let beat = heart.listen().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let mut next = pin!(beat.next());
            while next.as_mut().poll(&mut context).is_pending() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        drop(beat);
        heart.beat();
        assert!(lock(&heart.0).all.is_empty());
    }
}
