//! A line on stderr now and then, for work that takes long.
//!
//! Owner: ringctl.

use std::time::Duration;

use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_secs(5);

pub struct Progress {
    /// What happens to the records: "read".
    verb: &'static str,
    start: Instant,
    next: Instant,
}

impl Progress {
    pub fn new(verb: &'static str) -> Progress {
        let start = Instant::now();
        Progress { verb, start, next: start + INTERVAL }
    }

    /// Says where the work stands, if it is time to. `waiting`: records not acknowledged yet.
    pub fn tell(&mut self, records: u64, bytes: u64, waiting: usize) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        let seconds = (now - self.start).as_secs();
        let megabytes = bytes / 1_000_000;
        let mut line = format!("ringctl: {seconds} s: {records} records {}, {megabytes} MB", self.verb);
        if waiting > 0 {
            line += &format!(", {waiting} sent and not acknowledged yet");
        }
        eprintln!("{line}");
    }
}
