//! The two clocks of a client. Floor 5; the only place of the client that reads one.

use tokio::time::Instant;

use crate::client::producer::Times;
use crate::client::session::Millis;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Milliseconds since the client started, rounded down.
    pub fn now(&self) -> Millis {
        self.start.elapsed().as_millis() as Millis
    }

    pub fn at(&self, millis: Millis) -> Instant {
        self.start + std::time::Duration::from_millis(millis)
    }

    pub fn times(&self) -> Times {
        Times { now: self.now(), wall_ms: wall_ms() }
    }
}

/// Milliseconds since 1970.
// The broker's `rt` is not there in a client alone: this is its door to the wall clock.
#[allow(clippy::disallowed_types)]
fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
