//! What of a segment is zeroed ahead of the head, and what is to be zeroed next; see `zero`.
//!
//! Floor 3. Owner: one segment of the journal.

use std::ops::Range;

use crate::base::align::BLOCK_BYTES;

/// What is zeroed at once, at most; less in small segments.
const WINDOW_BYTES_MAX: u64 = 2 << 20;
const WINDOW_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;
const WINDOW_OF_SEGMENT: u64 = 128;

/// What of one segment is zeroed. It belongs to the segment, not to the head: zeros that end late
/// can only count where they were written.
#[derive(Default)]
pub(super) struct Ahead {
    /// Blocks below are zeroed, or were written by large frames; or zeroing broke off, and the journal
    /// is offline.
    pub zeroed_to: u32,
    /// Zeros on their way to the disk.
    pub under_way: Option<Range<u32>>,
}

impl Ahead {
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    pub fn overlaps(&self, byte: u32, bytes: u64) -> bool {
        self.under_way
            .as_ref()
            .is_some_and(|zeros| byte < zeros.end && u64::from(byte) + bytes > u64::from(zeros.start))
    }

    /// The next bytes to zero, if a head at `byte` comes close to the end of what is zeroed.
    pub fn next(&self, byte: u32, segment_bytes: u64) -> Option<Range<u32>> {
        let window = (segment_bytes / WINDOW_OF_SEGMENT).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        // A power of two: whole blocks, whole pieces.
        let window = 1 << window.ilog2();
        if self.is_under_way() || byte + window / 2 <= self.zeroed_to {
            return None;
        }
        // The next frames must not wait for it.
        let from = self.zeroed_to.max(byte + window / 4);
        (u64::from(from) + u64::from(window) <= segment_bytes).then(|| from..from + window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_stay_ahead_of_the_head_and_inside_the_segment() {
        let segment_bytes = 1 << 20;
        let mut ahead = Ahead::default();
        let range = ahead.next(4096, segment_bytes).unwrap();
        assert_eq!(range, 8192..24576);
        ahead.under_way = Some(range);
        assert_eq!(ahead.next(4096, segment_bytes), None);
        assert!(!ahead.overlaps(4096, 4096) && ahead.overlaps(4096, 8192) && ahead.overlaps(20480, 4096));
        assert!(!ahead.overlaps(24576, 4096));
        ahead = Ahead { zeroed_to: 24576, under_way: None };
        assert_eq!(ahead.next(8192, segment_bytes), None);
        assert_eq!(ahead.next(20480, segment_bytes), Some(24576..40960));
        // A head that large frames carried past the zeros.
        assert_eq!(ahead.next(400 << 10, segment_bytes), Some(413696..430080));
        assert_eq!(ahead.next((1 << 20) - 8192, segment_bytes), None);
    }
}
