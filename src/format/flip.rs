//! Which single bit, flipped, explains a wrong CRC32C.
//!
//! Floor 2. Owner: nobody. A checksum is linear: the difference between the stored and the
//! computed one depends only on how far from the end the flipped bit lies. So the bit is found by
//! stepping that difference back, byte by byte, in one pass and without trying anything.
//!
//! An unfinished write never looks like one flipped bit; so the answer also tells bit rot in the
//! last frame from the torn tail of a power loss.

use crate::base::crc::POLYNOMIAL;

/// A flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// In the bytes that the checksum covers: counted from their start.
    Covered { byte: usize, bit: u8 },
    /// In the stored checksum itself.
    Checksum { bit: u8 },
}

/// What one byte adds to a checksum that ends right behind it.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The byte whose table row has this uppermost byte; each occurs once.
const BY_TOP_BYTE: [u8; 256] = {
    let mut found = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        found[(TABLE[byte] >> 24) as usize] = byte as u8;
        byte += 1;
    }
    found
};

/// `covered_bytes`: how many bytes the checksum covers. `None`: no single bit explains it.
pub fn find(computed: u32, stored: u32, covered_bytes: usize) -> Option<Flip> {
    let mut difference = computed ^ stored;
    if difference.is_power_of_two() {
        return Some(Flip::Checksum { bit: difference.trailing_zeros() as u8 });
    }
    if difference == 0 {
        return None;
    }
    for byte in (0..covered_bytes).rev() {
        let row = BY_TOP_BYTE[(difference >> 24) as usize];
        if row.is_power_of_two() && TABLE[row as usize] == difference {
            return Some(Flip::Covered { byte, bit: row.trailing_zeros() as u8 });
        }
        difference = (difference ^ TABLE[row as usize]) << 8 | u32::from(row);
    }
    None
}

/// The first bit of the first `reach` bytes that, flipped back, makes `bytes` decode: byte and bit, and
/// what was decoded. For small headers whose very length is in doubt.
pub fn search<T>(
    bytes: &[u8],
    reach: usize,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Option<((usize, u8), T)> {
    let mut copy = bytes.to_vec();
    for byte in 0..reach.min(copy.len()) {
        for bit in 0..8 {
            copy[byte] ^= 1 << bit;
            if let Some(decoded) = decode(&copy) {
                return Some(((byte, bit), decoded));
            }
            copy[byte] ^= 1 << bit;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::base::crc::crc32c;

    use super::*;

    #[test]
    fn every_single_bit_is_found() {
        let good: Vec<u8> = (0..300u32).map(|i| (i * 7 % 251) as u8).collect();
        let stored = crc32c(&good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let wanted = Flip::Covered { byte: bit / 8, bit: (bit % 8) as u8 };
            assert_eq!(find(crc32c(&bad), stored, bad.len()), Some(wanted));
        }
        for bit in 0..32 {
            let flip = Flip::Checksum { bit };
            assert_eq!(find(stored, stored ^ 1 << bit, good.len()), Some(flip));
        }
    }

    #[test]
    fn a_torn_sector_is_not_taken_for_a_bit() {
        let good: Vec<u8> = (0..8192u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut torn = good.clone();
        torn[4096..].fill(0);
        assert_eq!(find(crc32c(&torn), crc32c(&good), good.len()), None);
    }
}
