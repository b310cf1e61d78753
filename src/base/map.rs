//! Hash maps with a fixed seed: the same inserts give the same order in every process, which
//! the deterministic simulator needs. Keys are ours (ids), never chosen by a client.
//!
//! Floor 0.

use std::hash::{BuildHasherDefault, Hash, Hasher};

// The one place where the standard maps may be named: with a hasher that has no random state.
#[allow(clippy::disallowed_types)]
pub type Map<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<IdHasher>>;
#[allow(clippy::disallowed_types)]
pub type Set<K> = std::collections::HashSet<K, BuildHasherDefault<IdHasher>>;

/// Multiply-rotate hash over 8-byte words (the "Fx" scheme of Firefox and rustc).
#[derive(Default, Clone, Copy)]
pub struct IdHasher(u64);

const SEED: u64 = 0x51_7c_c1_b7_27_22_0a_95;

impl IdHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(SEED);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.add(value.into());
    }
    fn write_u32(&mut self, value: u32) {
        self.add(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }
    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }
    fn finish(&self) -> u64 {
        // The low bits select the bucket; fold the well mixed high bits into them.
        self.0 ^ (self.0 >> 32)
    }
}

/// What [`Map`] makes of a key, for tables whose elements hold their keys.
pub fn hash_of(key: &impl Hash) -> u64 {
    let mut hasher = IdHasher::default();
    key.hash(&mut hasher);
    hasher.finish()
}
