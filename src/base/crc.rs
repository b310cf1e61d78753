//! CRC32C (Castagnoli), the checksum of record batches (Kafka's) and of every structure on disk.
//!
//! Floor 0.

/// CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Continues a CRC32C: `append(crc32c(a), b) == crc32c(a ++ b)`; `append(0, b) == crc32c(b)`.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

/// CRC32C of `a ++ b` from the checksums of both and the length of `b` in bytes.
pub fn combine(crc_a: u32, crc_b: u32, bytes_b: usize) -> u32 {
    ::crc32c::crc32c_combine(crc_a, crc_b, bytes_b)
}
