//! Keys of the load: none, uniform, or so that few keys are most of it.
//!
//! Owner: ringbench. Deterministic: the same producer draws the same keys in every round.

use bytes::Bytes;

use crate::cli::Keys;

const KEYS: u64 = 1_000_000;
/// Exponent of the Zipf distribution: about what access logs show.
const SKEW: f64 = 0.99;

pub struct KeySource {
    keys: Keys,
    state: u64,
}

impl KeySource {
    pub fn new(keys: Keys, producer: u32) -> KeySource {
        KeySource { keys, state: u64::from(producer).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
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
        Some(Bytes::from(format!("key-{number:06}")))
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
    }
}
