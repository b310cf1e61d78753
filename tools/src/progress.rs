//! A line on stderr now and then, for work that takes long.
//!
//! Owner: ringctl.

use std::time::Duration;

use tokio::time::Instant;

/// The first line comes after this time; each later pause is twice as long, up to a minute.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub struct Progress {
    /// What happens to the records: "read".
    verb: &'static str,
    start: Instant,
    next: Instant,
    pause: Duration,
}

impl Progress {
    pub fn new(verb: &'static str) -> Progress {
        let start = Instant::now();
        Progress { verb, start, next: start + PAUSE_MIN, pause: PAUSE_MIN }
    }

    /// Says where the work stands, if it is time to. `waiting`: records not acknowledged yet, and why if
    /// that is known.
    pub fn tell(
        &mut self,
        records: u64,
        bytes: u64,
        waiting: usize,
        trouble: impl FnOnce() -> Option<String>,
    ) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.next = now + self.pause;
        let seconds = (now - self.start).as_secs();
        let megabytes = bytes / 1_000_000;
        let mut line = format!("ringctl: {seconds} s: {records} records {}, {megabytes} MB", self.verb);
        if waiting > 0 {
            line += &format!(", {waiting} sent and not acknowledged yet");
            line.extend(trouble().map(|trouble| format!(" ({trouble})")));
        }
        eprintln!("{line}");
    }
}
