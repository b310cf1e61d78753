//! How long the working steps of an executor's tasks take, in CPU time of its thread: while one runs,
//! everything else that the shard serves waits.
//!
//! Floor 1. Owner: one executor. Asking for the thread's CPU time is a system call (535 ns here, against
//! 23 for the clock on the wall). So steps are timed by the wall, and a long one is corrected: it cannot
//! have taken more than the thread used since it was last asked, which is at most [`SAMPLE_NS`] before the
//! step. What the histogram says is an upper bound, too high by no more than that.

use std::cell::{Cell, RefCell};

use hdrhistogram::Histogram;

use super::system;
use crate::rt::Stalls;

/// Steps from this on are corrected.
const LONG_NS: u64 = 100_000;
/// The thread's CPU time is asked for this often while there is work.
const SAMPLE_NS: u64 = 100_000;
const STEP_NS_MAX: u64 = 60_000_000_000;

pub(super) struct Steps {
    histogram: RefCell<Histogram<u64>>,
    /// Clock on the wall and CPU time of the thread when they were last read together.
    sampled: Cell<(u64, u64)>,
}

impl Steps {
    pub fn new() -> Steps {
        let histogram = Histogram::new_with_bounds(1, STEP_NS_MAX, 2).expect("the bounds are in order");
        Steps { histogram: RefCell::new(histogram), sampled: Cell::default() }
    }

    pub fn measure<T>(&self, step: impl FnOnce() -> T) -> T {
        let began = system::clock_ns(libc::CLOCK_MONOTONIC);
        if began.saturating_sub(self.sampled.get().0) >= SAMPLE_NS {
            self.sampled.set((began, system::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)));
        }
        let result = step();
        let mut took = system::clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(began);
        if took >= LONG_NS {
            took = took.min(system::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - self.sampled.get().1);
        }
        self.histogram.borrow_mut().saturating_record(took);
        result
    }

    pub fn stalls(&self) -> Stalls {
        let histogram = self.histogram.borrow();
        let us = |ns: u64| ns.div_ceil(1_000);
        Stalls {
            steps: histogram.len(),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p99_99_us: us(histogram.value_at_quantile(0.9999)),
            max_us: us(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_counts_and_waiting_does_not() {
        let steps = Steps::new();
        for _ in 0..100 {
            steps.measure(|| ());
        }
        let (_sender, nothing) = mpsc::channel::<()>();
        steps.measure(|| nothing.recv_timeout(Duration::from_millis(50)).is_err());
        let slept = steps.stalls();
        assert!(slept.steps == 101 && slept.max_us < 20_000, "{slept:?}");
        let before = system::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let cpu = || system::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - before;
        steps.measure(|| while cpu() < 20_000_000 {});
        let worked = steps.stalls();
        assert!((19_000..60_000).contains(&worked.max_us), "{worked:?}");
        assert_eq!(worked.p99_99_us, worked.max_us);
    }
}
