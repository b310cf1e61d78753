//! Partitions with something to write, and whose turn it is.
//!
//! Floor 5. Owner: a drive. Turns go round in order of arrival. A partition that writes little beside one
//! that writes much (a sparse flow, as in FQ-CoDel, RFC 8290) comes first: a record alone does not wait for a
//! round of megabytes.

use std::collections::VecDeque;

use crate::lane::Share;

/// A partition with more than this staged is not sparse.
const SPARSE_BYTES_MAX: usize = 64 << 10;
/// A sparse partition has written at most this part of what the busiest one has. (Of the fair share it
/// would not do: partitions that take what they get, all alike, are some a little behind and some ahead,
/// and those ahead would stay there.)
const SPARSE_SHARE: u64 = 16;
/// Bytes of the journal over which that is counted: this window and the one before.
const WINDOW_BYTES: u64 = 64 << 20;

pub struct Ready<T> {
    sparse: VecDeque<T>,
    round: VecDeque<T>,
    /// Number and bytes of the window.
    window: u32,
    bytes: u64,
    /// Most bytes of one partition in the window, and in the one before.
    busiest: u64,
    busiest_before: u64,
    /// Sparse ones have filled a frame: the next one begins with the round.
    round_is_due: bool,
}

impl<T> Default for Ready<T> {
    fn default() -> Ready<T> {
        Ready {
            sparse: VecDeque::new(),
            round: VecDeque::new(),
            window: 0,
            bytes: 0,
            busiest: 0,
            busiest_before: 0,
            round_is_due: false,
        }
    }
}

impl<T> Ready<T> {
    pub fn len(&self) -> usize {
        self.sparse.len() + self.round.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A partition that had nothing staged has `bytes` now. `share` is what [`Ready::pop`] said of it.
    pub fn push(&mut self, partition: T, bytes: usize, share: Share) {
        let written = share.in_window(self.window);
        let recent = u64::from(written.now) + u64::from(written.before);
        if bytes <= SPARSE_BYTES_MAX && recent * SPARSE_SHARE <= self.busiest_before {
            self.sparse.push_back(partition);
        } else {
            self.round.push_back(partition);
        }
    }

    /// Had its turn, and has more.
    pub fn push_back(&mut self, partition: T) {
        self.round.push_back(partition);
    }

    /// Takes back a turn that was not used.
    pub fn push_front(&mut self, partition: T) {
        self.sparse.push_front(partition);
    }

    pub fn has_sparse(&self) -> bool {
        !self.sparse.is_empty()
    }

    pub fn front_of_round(&self) -> Option<&T> {
        self.round.front()
    }

    /// Whose turn it is; `sparse`: among the sparse ones.
    pub fn front(&self, sparse: bool) -> Option<&T> {
        if sparse || self.is_turn_of_sparse() { self.sparse.front() } else { self.round.front() }
    }

    /// Takes that one, whose share is `share`, for a turn of `bytes`; answers its share then.
    pub fn pop(&mut self, sparse: bool, bytes: usize, share: Share) -> Share {
        if sparse || self.is_turn_of_sparse() {
            self.sparse.pop_front();
        } else {
            self.round.pop_front();
            self.round_is_due = false;
        }
        let mut share = share.in_window(self.window);
        share.now = share.now.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.busiest = self.busiest.max(share.now.into());
        self.bytes += bytes as u64;
        if self.bytes >= WINDOW_BYTES {
            self.window = self.window.wrapping_add(1);
            self.bytes = 0;
            self.busiest_before = std::mem::take(&mut self.busiest);
        }
        share
    }

    /// A frame was closed before the round had a turn.
    pub fn owe_round(&mut self) {
        self.round_is_due = true;
    }

    fn is_turn_of_sparse(&self) -> bool {
        let round_first = self.round_is_due && !self.round.is_empty();
        !self.sparse.is_empty() && !round_first
    }

    /// Everyone.
    pub fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        let sparse = std::mem::take(&mut self.sparse);
        sparse.into_iter().chain(std::mem::take(&mut self.round))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1 << 20;

    /// Three that always have a batch of 1 MiB, and one that has `bytes` after every turn of theirs.
    /// Answers how many turns the fourth waited, each time.
    fn beside_large(bytes: usize) -> Vec<usize> {
        let mut ready = Ready::default();
        let mut shares = [Share::default(); 4];
        (0..3).for_each(|large| ready.push(large, LARGE, Share::default()));
        let (mut waited, mut waits, mut in_queue) = (0, Vec::new(), false);
        while waits.len() < 1000 {
            if !in_queue {
                ready.push(3, bytes, shares[3]);
                (in_queue, waited) = (true, 0);
            }
            let at = *ready.front(false).expect("the large ones ask again");
            shares[at] = ready.pop(false, if at == 3 { bytes } else { LARGE }, shares[at]);
            if at == 3 {
                waits.push(waited);
                in_queue = false;
                // One more turn before it asks again.
                let large = *ready.front(false).expect("three are there");
                shares[large] = ready.pop(false, LARGE, shares[large]);
                ready.push_back(large);
            } else {
                waited += 1;
                ready.push_back(at);
            }
        }
        waits
    }

    #[test]
    fn one_that_asks_for_little_waits_for_nobody() {
        let waits = beside_large(10 << 10);
        assert!(waits[70..].iter().all(|&waited| waited == 0), "{waits:?}");
    }

    #[test]
    fn one_that_writes_as_much_as_others_waits_its_turn() {
        assert!(beside_large(LARGE).iter().all(|&waited| waited >= 2));
        let waits = beside_large(SPARSE_BYTES_MAX);
        assert!(waits[70..].iter().filter(|&&waited| waited >= 2).count() > 700, "{waits:?}");
    }

    #[test]
    fn many_small_ones_do_not_keep_the_round_from_its_turn() {
        let mut ready = Ready { busiest_before: 1 << 30, ..Ready::default() };
        let none = Share::default();
        ready.push("large", LARGE, none);
        ready.push("a", 100, none);
        ready.push("b", 100, none);
        assert_eq!(ready.front(false), Some(&"a"));
        ready.pop(false, 100, none);
        ready.owe_round();
        assert_eq!(ready.front(true), Some(&"b"));
        assert_eq!(ready.front(false), Some(&"large"));
        ready.pop(false, LARGE, none);
        assert_eq!(ready.front(false), Some(&"b"));
    }

    #[test]
    fn a_turn_that_was_not_used_comes_first() {
        let mut ready = Ready::default();
        let none = Share::default();
        for partition in ["a", "b", "c"] {
            ready.push(partition, 9, none);
        }
        ready.pop(false, 9, none);
        ready.pop(false, 9, none);
        ready.push_front("b");
        ready.push_front("a");
        assert_eq!(ready.take_all().collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
