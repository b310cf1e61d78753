//! One connection to one shard: its state and its unanswered requests.
//!
//! Floor 5; owned by a session.

use std::collections::VecDeque;

use crate::base::Map;
use crate::wire::HelloReply;

use super::{LinkId, Millis, Settings};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not connected; not before this time again.
    Waiting {
        until: Millis,
    },
    Connecting {
        since: Millis,
    },
    Greeting {
        since: Millis,
    },
    Up,
}

struct Asked<T> {
    at: Millis,
    is_counted: bool,
    tag: T,
}

pub(super) struct Link<T> {
    pub id: LinkId,
    pub state: State,
    /// Somebody asked for it since it last failed.
    pub wanted: bool,
    /// Failed ones in a row.
    pub attempts: u32,
    pub heard_ms: Millis,
    /// Bytes given to the shell, and bytes that it has written.
    pub queued: u64,
    written: u64,
    requests_max: usize,
    corr_next: u32,
    /// Unanswered requests by correlation id; ids grow (2^32 requests on one connection aside).
    replies: Map<u32, Asked<T>>,
    /// The oldest of them, if there is one.
    oldest: u32,
    /// How many of them a machine counts.
    pub counted: usize,
    /// Requests without a reply: answered once so many bytes have been written.
    writes: VecDeque<(u64, T)>,
}

impl<T> Link<T> {
    pub fn new(id: LinkId, now: Millis, attempts: u32) -> Link<T> {
        Link {
            id,
            state: State::Connecting { since: now },
            wanted: true,
            attempts,
            heard_ms: now,
            queued: 0,
            written: 0,
            requests_max: 1,
            // The hello is 0.
            corr_next: 1,
            replies: Map::default(),
            oldest: 0,
            counted: 0,
            writes: VecDeque::new(),
        }
    }

    pub fn up(&mut self, hello: &HelloReply) {
        self.state = State::Up;
        self.attempts = 0;
        self.requests_max = hello.requests_max.max(1) as usize;
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether the shell holds a connection, or is making one.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Waiting { .. })
    }

    pub fn has_room(&self, unwritten_bytes_max: u64) -> bool {
        self.replies.len() < self.requests_max && self.queued - self.written < unwritten_bytes_max
    }

    pub fn expect_reply(&mut self, at: Millis, is_counted: bool, tag: T) -> u32 {
        let corr = self.corr();
        if self.replies.is_empty() {
            self.oldest = corr;
        }
        self.replies.insert(corr, Asked { at, is_counted, tag });
        self.counted += usize::from(is_counted);
        corr
    }

    /// To be called after the bytes were counted as queued.
    pub fn expect_write(&mut self, tag: T) -> u32 {
        self.writes.push_back((self.queued, tag));
        self.corr()
    }

    fn corr(&mut self) -> u32 {
        let corr = self.corr_next;
        self.corr_next = corr.wrapping_add(1);
        corr
    }

    pub fn replied(&mut self, corr: u32) -> Option<T> {
        let asked = self.replies.remove(&corr)?;
        self.counted -= usize::from(asked.is_counted);
        while !self.replies.is_empty() && !self.replies.contains_key(&self.oldest) {
            self.oldest = self.oldest.wrapping_add(1);
        }
        Some(asked.tag)
    }

    pub fn wrote(&mut self, bytes: u64) -> Vec<T> {
        self.written += bytes;
        let due = self.writes.iter().take_while(|(mark, _)| *mark <= self.written).count();
        self.writes.drain(..due).map(|(_, tag)| tag).collect()
    }

    /// Gives up all requests, oldest first.
    pub fn fail(&mut self) -> Vec<T> {
        self.wanted = false;
        let mut replies: Vec<_> = std::mem::take(&mut self.replies).into_iter().collect();
        replies.sort_unstable_by_key(|(corr, _)| corr.wrapping_sub(self.oldest));
        self.counted = 0;
        let replies = replies.into_iter().map(|(_, asked)| asked.tag);
        replies.chain(self.writes.drain(..).map(|(_, tag)| tag)).collect()
    }

    /// When the session must act on this link by itself.
    pub fn deadline(&self, settings: &Settings) -> Option<Millis> {
        match self.state {
            State::Waiting { until } => self.wanted.then_some(until),
            State::Connecting { since } | State::Greeting { since } => {
                Some(since + settings.connect_timeout_ms)
            }
            State::Up => {
                let oldest = self.replies.get(&self.oldest)?;
                Some(oldest.at.max(self.heard_ms) + settings.request_timeout_ms)
            }
        }
    }
}
