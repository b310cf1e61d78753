//! Between a machine and its shell: what the one wants done, and what the other reports.
//!
//! Floor 5; values, and the trait of a machine.

use std::time::Duration;

use bytes::Bytes;

use crate::wire::Header;

/// Milliseconds of a clock that only grows.
pub type Millis = u64;

/// A span that can be added to any moment.
pub fn millis(span: Duration) -> Millis {
    const LONGEST: Millis = Millis::MAX / 4;
    Millis::try_from(span.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST))
}

/// Names one connection attempt; never used twice by a machine.
pub type LinkId = u64;

/// What a machine wants its shell to do.
#[derive(Debug)]
pub enum Action {
    /// Connect to the `server`-th of the configured addresses, then report `Connected` or `Closed`.
    Connect { link: LinkId, server: usize },
    /// Write `head`, then `body`, in the order of the actions; report `Written`.
    Send { link: LinkId, head: Vec<u8>, body: Bytes },
    /// Close. Nothing need be reported.
    Close { link: LinkId },
}

/// What a shell reports to its machine. Reports about closed links are ignored.
#[derive(Debug)]
pub enum Event {
    Connected {
        link: LinkId,
    },
    Frame {
        link: LinkId,
        header: Header,
        body: Bytes,
    },
    /// The socket has taken this many bytes more.
    Written {
        link: LinkId,
        bytes: usize,
    },
    /// The connection failed, or could not be made.
    Closed {
        link: LinkId,
        reason: String,
    },
}

/// A pure state machine behind a shell; see the module documentation of `client`.
pub trait Machine {
    fn handle_event(&mut self, now: Millis, event: Event);
    /// Called at or after [`poll_timeout`](Self::poll_timeout), and after the bell rang.
    fn handle_timeout(&mut self, now: Millis);
    fn poll_action(&mut self) -> Option<Action>;
    fn poll_timeout(&self) -> Option<Millis>;
    /// True once nothing is left to do and the shell may go.
    fn is_finished(&self) -> bool;
}

/// Which connection a request takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    Any,
    Shard(u32),
}

/// Values that every machine of a client shares.
#[derive(Clone, Debug)]
pub struct Settings {
    pub client_id: String,
    /// How many addresses the shell knows.
    pub servers: usize,
    pub connect_timeout_ms: Millis,
    /// A link with unanswered requests that is silent for so long is given up.
    pub request_timeout_ms: Millis,
    pub backoff_ms_min: Millis,
    pub backoff_ms_max: Millis,
    /// How often partitions that were added meanwhile are looked for.
    pub metadata_age_ms_max: Millis,
    /// Largest frame that the client accepts.
    pub frame_bytes_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            client_id: "ringlog-client".into(),
            servers: 1,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 30_000,
            backoff_ms_min: 20,
            backoff_ms_max: 1_000,
            metadata_age_ms_max: 60_000,
            frame_bytes_max: 64 << 20,
        }
    }
}
