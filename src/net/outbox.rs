//! Replies on their way to the socket: small ones side by side in one buffer, record chunks as
//! they lie; and the order of a handle's produce replies.
//!
//! Floor 4. Owner: one connection.

use std::collections::VecDeque;

use crate::api::Chunk;

/// A buffer of small replies is not filled further than this.
const SMALL_BYTES: usize = 64 << 10;

pub(super) enum Part {
    Small(Vec<u8>),
    Chunk(Chunk),
}

impl Part {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Part::Small(bytes) => bytes,
            Part::Chunk(chunk) => chunk,
        }
    }
}

#[derive(Default)]
pub(super) struct Outbox {
    parts: VecDeque<Part>,
    /// Of all parts, and of those that the writer took and has not written yet.
    bytes: usize,
}

impl Outbox {
    /// Appends what `encode` writes.
    pub(super) fn small(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let fits = matches!(self.parts.back(), Some(Part::Small(bytes)) if bytes.len() < SMALL_BYTES);
        if !fits {
            self.parts.push_back(Part::Small(Vec::with_capacity(256)));
        }
        let Some(Part::Small(bytes)) = self.parts.back_mut() else { unreachable!("just pushed") };
        let before = bytes.len();
        encode(bytes);
        self.bytes += bytes.len() - before;
        if bytes.is_empty() {
            self.parts.pop_back();
        }
    }

    pub(super) fn chunk(&mut self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.parts.push_back(Part::Chunk(chunk));
        }
    }

    /// Everything that waits, for the writer.
    pub(super) fn take(&mut self) -> VecDeque<Part> {
        std::mem::take(&mut self.parts)
    }

    /// The writer is done with this many bytes.
    pub(super) fn written(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// Bytes that have not reached the socket.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nobody will send it: lets go of the memory.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
    }
}

/// Keeps replies of one handle in the order of their requests.
#[derive(Default)]
pub(super) struct Order {
    /// Ticket of the first one that is missing.
    first: u64,
    /// Encoded replies from `first` on; `None`: not answered yet.
    waiting: VecDeque<Option<Vec<u8>>>,
}

impl Order {
    /// A place in the order.
    pub(super) fn begin(&mut self) -> u64 {
        self.waiting.push_back(None);
        self.first + self.waiting.len() as u64 - 1
    }

    /// The reply of a place; answers what may leave now, in order.
    pub(super) fn finish(&mut self, ticket: u64, reply: Vec<u8>) -> impl Iterator<Item = Vec<u8>> + '_ {
        let place = &mut self.waiting[(ticket - self.first) as usize];
        assert!(place.is_none(), "a request is answered once");
        *place = Some(reply);
        std::iter::from_fn(move || {
            if !matches!(self.waiting.front(), Some(Some(_))) {
                return None;
            }
            self.first += 1;
            let reply = self.waiting.pop_front().flatten();
            if self.waiting.is_empty() {
                // Of a hundred thousand handles few have a request under way.
                self.waiting = VecDeque::new();
            }
            reply
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_the_order_of_their_requests() {
        let mut order = Order::default();
        let tickets: Vec<_> = (0..4).map(|_| order.begin()).collect();
        let finish = |order: &mut Order, at: usize| {
            order.finish(tickets[at], vec![at as u8]).map(|reply| reply[0]).collect::<Vec<_>>()
        };
        assert_eq!(finish(&mut order, 2), []);
        assert_eq!(finish(&mut order, 0), [0]);
        assert_eq!(finish(&mut order, 1), [1, 2]);
        assert_eq!(finish(&mut order, 3), [3]);
        assert_eq!(order.begin(), 4);
    }

    #[test]
    fn small_replies_share_a_buffer() {
        let mut outbox = Outbox::default();
        for _ in 0..1000 {
            outbox.small(|out| out.extend_from_slice(&[0; 100]));
        }
        assert_eq!(outbox.bytes(), 100_000);
        assert_eq!(outbox.take().len(), 2);
        outbox.written(100_000);
        assert_eq!(outbox.bytes(), 0);
    }
}
