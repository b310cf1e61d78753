//! Memory of large frames, used again once nobody holds their bytes.
//!
//! Floor 3; shared by the connections of a shard, or owned by one of a client. Buffers come back from
//! wherever the bytes were dropped; a bounded number is kept.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::base::lock;

/// Buffers kept, and their bytes in all.
const BUFFERS_MAX: usize = 64;
const BYTES_MAX: usize = 32 << 20;

/// Buffers whose bytes are all initialised.
#[derive(Clone, Debug, Default)]
pub struct Recycler(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer on loan: it goes back when the last reference to its bytes is dropped.
struct Loan {
    bytes: Vec<u8>,
    home: Recycler,
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut kept = lock(&self.home.0);
        let total: usize = kept.iter().map(Vec::len).sum();
        if kept.len() < BUFFERS_MAX && total + bytes.len() <= BYTES_MAX {
            kept.push(bytes);
        }
    }
}

impl Recycler {
    /// A buffer of at least `bytes`, its content unspecified.
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let mut kept = lock(&self.0);
        // The one that was used last is the warmest; frames of a connection are of a size. None is made
        // shorter, or all that it was longer would have to be zeroed the next time.
        match kept.iter().rposition(|buffer| buffer.len() >= bytes) {
            Some(at) => kept.swap_remove(at),
            None => {
                kept.pop();
                vec![0; bytes]
            }
        }
    }

    /// The buffer as shared bytes.
    pub fn lend(&self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Loan { bytes, home: self.clone() })
    }

    pub fn clear(&self) {
        lock(&self.0).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_bytes_are_dropped() {
        let recycler = Recycler::default();
        let buffer = recycler.take(100_000);
        let place = buffer.as_ptr();
        let bytes = recycler.lend(buffer);
        let part = bytes.slice(10..20);
        drop(bytes);
        let other = recycler.take(100_000);
        assert_ne!(other.as_ptr(), place, "a part of it is still held");
        drop(part);
        let again = recycler.take(90_000);
        assert_eq!((again.as_ptr(), again.len()), (place, 100_000));
    }
}
