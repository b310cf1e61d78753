//! What records contain: a stamp, then text that compresses about as well as logs do.
//!
//! Owner: ringbench. The stamp says which producer made the record, its number, and when it was meant
//! to be sent: enough to find losses and repetitions, and to measure from end to end.

use bytes::{Bytes, BytesMut};

/// `u64 producer | u64 number | u64 intended time (ns of the monotonic clock)`, little-endian.
pub const STAMP_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub producer: u64,
    pub number: u64,
    pub intended_ns: u64,
}

/// `None`: too short to be a value of ours.
pub fn stamp_of(value: &[u8]) -> Option<Stamp> {
    let word = |at: usize| Some(u64::from_le_bytes(*value.get(at..)?.first_chunk()?));
    Some(Stamp { producer: word(0)?, number: word(8)?, intended_ns: word(16)? })
}

/// Bytes of a record's value, which are at least the stamp's.
pub fn value_bytes(size: u64) -> usize {
    (size as usize).max(STAMP_BYTES)
}

/// Mixed into a sum that does not depend on order: the sums of what was acknowledged and of what was
/// read are equal only if the values are.
pub fn checksum(value: &[u8]) -> u64 {
    u64::from(ringlog::base::crc::crc32c(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub struct Values {
    producer: u64,
    next: u64,
    size: usize,
    text: Vec<u8>,
    block: BytesMut,
}

/// The text of a record begins somewhere in the first of these bytes.
const SHIFTS: usize = 64;
/// Values are cut from blocks of about this size: one allocation for many.
const BLOCK_BYTES: usize = 64 << 10;

impl Values {
    pub fn new(producer: u32, size: usize) -> Values {
        let size = size.max(STAMP_BYTES);
        let mut state = u64::from(producer) + 1;
        let word = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b"etaoinshrdlucmfw"[(state >> 60) as usize]
        };
        let text = (0..size + SHIFTS).map(word).collect();
        Values { producer: producer.into(), next: 0, size, text, block: BytesMut::new() }
    }

    pub fn next(&mut self, intended_ns: u64) -> Bytes {
        let number = self.next;
        self.next += 1;
        if self.block.capacity() < self.size {
            self.block = BytesMut::with_capacity(BLOCK_BYTES.max(self.size));
        }
        self.block.extend_from_slice(&self.producer.to_le_bytes());
        self.block.extend_from_slice(&number.to_le_bytes());
        self.block.extend_from_slice(&intended_ns.to_le_bytes());
        let from = number as usize % SHIFTS;
        self.block.extend_from_slice(&self.text[from..from + self.size - STAMP_BYTES]);
        self.block.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_say_where_they_come_from() {
        for size in [24, 100, 1024, 4096, 1 << 20] {
            let mut values = Values::new(3, size);
            for number in 0..300 {
                let value = values.next(number * 10);
                let stamp = Stamp { producer: 3, number, intended_ns: number * 10 };
                assert_eq!((value.len(), stamp_of(&value)), (size, Some(stamp)));
            }
        }
        assert_eq!(Values::new(0, 1).next(0).len(), value_bytes(1));
        assert_eq!(stamp_of(&[0; 23]), None);
    }

    #[test]
    fn checksums_tell_values_apart() {
        let mut values = Values::new(0, 100);
        let (a, b) = (values.next(5), values.next(5));
        assert_ne!(checksum(&a), checksum(&b));
        assert_eq!(checksum(&a), checksum(&a.clone()));
    }
}
