//! What of the runs that were read fits the answer of a fetch.
//!
//! Floor 5. Owner: one fetch. Invariant: whole batches, in order, without a gap.

use std::rc::Rc;

use crate::api::Chunk;
use crate::format::footer::RunRef;
use crate::model::Offset;
use crate::record;

/// What an answer may still take.
pub(super) struct Room {
    pub left: usize,
    /// Only the first batch of all may be larger than what is left.
    pub is_empty: bool,
    /// A batch did not fit what was left.
    pub is_full: bool,
}

impl Room {
    pub fn new(bytes: usize) -> Room {
        Room { left: bytes, is_empty: true, is_full: false }
    }
}

/// A partition's part of an answer.
pub(super) struct Part {
    /// Where it goes on.
    pub next: Offset,
    pub chunks: Vec<Chunk>,
    pub bytes: usize,
    pub bytes_max: usize,
}

impl Part {
    pub fn new(next: Offset, bytes_max: usize) -> Part {
        Part { next, chunks: Vec::new(), bytes: 0, bytes_max }
    }

    /// Takes the whole batches of a run's payload that are wanted, as many as there is room for. True
    /// if the part is full.
    pub fn take(&mut self, payload: &Chunk, run: &RunRef, room: &mut Room) -> bool {
        let wanted = self.bytes_max.min(self.bytes + room.left);
        let first = if room.is_empty { usize::MAX } else { room.left };
        let fits = |before: usize, batch| before + batch <= wanted || before == 0 && batch <= first;
        let (mut start, mut end) = (0, 0);
        let mut next = run.end_offset();
        let mut is_full = false;
        for batch in record::batches(payload).map_while(Result::ok) {
            let bytes = batch.bytes().len();
            if batch.next_offset() <= self.next {
                start = end + bytes;
            } else if !fits(self.bytes + end - start, bytes) {
                is_full = true;
                room.is_full |= end - start + bytes > room.left;
                next = batch.base_offset().max(self.next);
                break;
            }
            end += bytes;
        }
        if end > start {
            // A small part must not keep all that was read with it.
            let is_small = (end - start) * 2 < payload.len();
            self.chunks.push(if is_small { copy(&payload[start..end]) } else { payload.slice(start..end) });
            self.bytes += end - start;
            room.left = room.left.saturating_sub(end - start);
            room.is_empty = false;
            room.is_full |= room.left == 0;
        }
        self.next = next;
        is_full || self.bytes >= wanted.max(1)
    }
}

fn copy(bytes: &[u8]) -> Chunk {
    Chunk::new(Rc::new(bytes.to_vec()), 0..bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    use crate::record::{BatchBuilder, Compression};

    /// A run of batches of one record each, and the bytes of one.
    fn run(first_offset: Offset, batches: i64) -> (Chunk, RunRef, usize) {
        let mut payload = Vec::new();
        for offset in first_offset..first_offset + batches {
            let mut builder = BatchBuilder::new(0);
            builder.append(0, None, Some(&[7; 100]), &[]);
            let mut batch = builder.build(Compression::None, None);
            record::stamp(&mut batch, offset, 0);
            payload.extend_from_slice(&batch);
        }
        let bytes = payload.len();
        let run = RunRef {
            first_offset,
            max_timestamp: 0,
            retention_time: 0,
            records: batches as u32,
            address: 0,
            length: bytes as u32,
            lost: false,
        };
        (Chunk::new(Rc::new(payload), 0..bytes), run, bytes / batches as usize)
    }

    #[test]
    fn only_the_first_batch_of_all_may_exceed_the_room() {
        let (payload, run, batch) = run(10, 5);
        let take = |left: usize, is_empty: bool, from: Offset| {
            let mut part = Part::new(from, 10 * batch);
            let is_full = part.take(&payload, &run, &mut Room { left, is_empty, is_full: false });
            (part.bytes / batch, part.next, is_full)
        };
        assert_eq!(take(10 * batch, false, 10), (5, 15, false));
        assert_eq!(take(10 * batch, false, 12), (3, 15, false));
        assert_eq!(take(3 * batch - 1, false, 10), (2, 12, true));
        assert_eq!(take(1, true, 10), (1, 11, true));
        assert_eq!(take(batch, false, 13), (1, 14, true));
        assert_eq!(take(batch - 1, false, 10), (0, 10, true));
    }

    #[test]
    fn runs_behind_each_other_fill_the_room_and_no_more() {
        let ((first, first_run, batch), (second, second_run, _)) = (run(0, 3), run(3, 3));
        let mut room = Room::new(10 * batch);
        let mut part = Part::new(0, 4 * batch + 1);
        assert!(!part.take(&first, &first_run, &mut room));
        assert!(part.take(&second, &second_run, &mut room));
        assert_eq!((part.bytes, part.next, room.left), (4 * batch, 4, 6 * batch));
    }

    #[test]
    fn a_small_part_does_not_keep_what_was_read_with_it() {
        let (payload, run, batch) = run(10, 5);
        let is_copied = |from: Offset| {
            let mut part = Part::new(from, 10 * batch);
            part.take(&payload, &run, &mut Room::new(10 * batch));
            !payload.as_ptr_range().contains(&part.chunks[0].as_ptr())
        };
        assert_eq!([10, 11, 12, 13, 14].map(is_copied), [false, false, false, true, true]);
    }
}
