//! Alignment of disk I/O.
//!
//! Floor 0. Every address and length that reaches a disk is a multiple of [`BLOCK_BYTES`].

/// Unit of direct I/O: the size to which every write to a disk is padded.
pub const BLOCK_BYTES: usize = 4096;

/// Rounds `bytes` up to a whole number of disk blocks: 1 -> 4096, 4096 -> 4096.
pub const fn align_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64) * BLOCK_BYTES as u64
}

/// Rounds `bytes` down to a whole number of disk blocks: 4095 -> 0, 4097 -> 4096.
pub const fn align_down(bytes: u64) -> u64 {
    bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64
}

/// Whether `bytes` is a whole number of disk blocks.
pub const fn is_aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(BLOCK_BYTES as u64)
}
