//! When each record of an open loop is meant to be sent.
//!
//! Owner: ringbench. Pure. The times are fixed in advance: whatever keeps the generator or the broker
//! from keeping up counts into the latency of every record that it delayed (no coordinated omission).

pub struct Schedule {
    start_ns: u64,
    per_second: f64,
    /// Number of the next record.
    next: u64,
}

impl Schedule {
    /// `per_second` records, evenly spaced, the first at `start_ns`.
    pub fn new(start_ns: u64, per_second: f64) -> Schedule {
        assert!(per_second > 0.0, "a rate is positive");
        Schedule { start_ns, per_second, next: 0 }
    }

    /// Begins later by a part of the pause between two records: several generators do not send at once.
    pub fn shifted(mut self, part: f64) -> Schedule {
        self.start_ns = self.start_ns.saturating_add((part * 1e9 / self.per_second) as u64);
        self
    }

    /// When the next record is meant to be sent. Computed from the start each time, so that rounding
    /// does not add up.
    pub fn next_ns(&self) -> u64 {
        self.start_ns.saturating_add((self.next as f64 * 1e9 / self.per_second) as u64)
    }

    /// Takes the next record if it is due, with its intended time.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let at = self.next_ns();
        (at <= now_ns).then(|| {
            self.next += 1;
            at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_does_not_move_the_intended_times() {
        let mut schedule = Schedule::new(1_000, 1e6);
        assert_eq!(schedule.take(999), None);
        assert_eq!(schedule.take(1_000), Some(1_000));
        assert_eq!(schedule.take(1_000), None);
        // Nobody looked for 10 us: ten records are due, each at its own time.
        let late: Vec<u64> = std::iter::from_fn(|| schedule.take(11_000)).collect();
        assert_eq!(late, (1..=10).map(|n| 1_000 + n * 1_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_rate_is_held_for_hours() {
        let mut schedule = Schedule::new(0, 3.0).shifted(0.5);
        assert_eq!(schedule.next_ns(), 166_666_666);
        let hour_ns = 3_600_000_000_000;
        let count = std::iter::from_fn(|| schedule.take(hour_ns)).count();
        assert_eq!(count, 3 * 3600);
        // Once, and not again in the life of the machine.
        let mut rare = Schedule::new(7, 1e-20);
        assert_eq!((rare.take(u64::MAX - 1), rare.take(u64::MAX - 1)), (Some(7), None));
    }
}
