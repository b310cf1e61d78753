//! Keys of the load: none, uniform, or so that few keys are most of it.
//!
//! Owner: ringbench. Deterministic: the same producer draws the same keys in every round.

use bytes::{Bytes, BytesMut};

use crate::cli::Keys;

const KEYS: u64 = 1_000_000;
/// Exponent of the Zipf distribution: about what access logs show.
const SKEW: f64 = 0.99;

/// `key-` and six digits.
const KEY_BYTES: usize = 10;
/// Keys are cut from blocks of this size: one allocation for many.
const BLOCK_BYTES: usize = 64 << 10;

pub struct KeySource {
    keys: Keys,
    state: u64,
    block: BytesMut,
}

impl KeySource {
    pub fn new(keys: Keys, producer: u32) -> KeySource {
        let state = u64::from(producer + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        KeySource { keys, state, block: BytesMut::new() }
    }

    pub fn next(&mut self) -> Option<Bytes> {
        let number = match self.keys {
            Keys::None => return None,
            Keys::Uniform => self.random() % KEYS,
            Keys::Zipf => {
                // The inverse of the continuous distribution with density x^-SKEW over 1..=KEYS.
                let uniform = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
                let power = 1.0 - SKEW;
                let top = (KEYS as f64).powf(power);
                ((1.0 + uniform * (top - 1.0)).powf(1.0 / power) as u64 - 1).min(KEYS - 1)
            }
        };
        Some(self.text(number))
    }

    fn text(&mut self, number: u64) -> Bytes {
        let mut key = *b"key-000000";
        let mut rest = number;
        for digit in key[4..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        if self.block.capacity() < KEY_BYTES {
            self.block = BytesMut::with_capacity(BLOCK_BYTES);
        }
        self.block.extend_from_slice(&key);
        self.block.split().freeze()
    }

    /// xorshift64*.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_prefers_few_keys_and_uniform_does_not() {
        let share_of_first_hundred = |keys| {
            let mut source = KeySource::new(keys, 1);
            let drawn = (0..20_000).filter_map(|_| source.next());
            drawn.filter(|key| &key[..] < b"key-000100".as_slice()).count() as f64 / 20_000.0
        };
        assert!(share_of_first_hundred(Keys::Zipf) > 0.3);
        assert!(share_of_first_hundred(Keys::Uniform) < 0.01);
        assert!(KeySource::new(Keys::None, 1).next().is_none());
        assert_eq!(KeySource::new(Keys::Uniform, 1).text(40_962), &b"key-040962"[..]);
    }
}
