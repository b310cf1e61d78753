//! Compression of the records of a batch: none, lz4 (frames, as Kafka writes them), zstd.
//!
//! Floor 1. Decompression is bounded by its caller: a bomb costs its bound and no more. The lz4 frame
//! is read here rather than by `lz4_flex`, whose reader allocates the block size that a hostile
//! header claims (4 MiB for a batch of a few bytes). Frame checksums are skipped: the batch's CRC
//! covers the compressed bytes.

use std::io::{Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use crate::base::{DecodeError, Reader};

/// Kafka's codec numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

const ZSTD_LEVEL: i32 = 3;
/// Largest window that a zstd frame may ask for, 2^27 bytes: zstd's own default bound.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

impl Compression {
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    pub fn from_number(number: i16) -> Option<Compression> {
        Self::ALL.into_iter().find(|codec| *codec as i16 == number)
    }

    /// Kafka's name of the codec, as in `compression.type`.
    pub fn name(self) -> &'static str {
        ["none", "gzip", "snappy", "lz4", "zstd"][self as usize]
    }

    /// Whether this version reads and writes it. (The broker stores all of them unread.)
    pub fn is_implemented(self) -> bool {
        !matches!(self, Compression::Gzip | Compression::Snappy)
    }
}

/// Appends `raw`, compressed, to `out`. The codec is one that is implemented.
pub(super) fn compress(codec: Compression, raw: &[u8], out: &mut Vec<u8>) {
    match codec {
        Compression::None => out.extend_from_slice(raw),
        Compression::Lz4 => {
            // Independent blocks of 64 KiB: the only kind that the Java client reads.
            let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(raw).expect("writing to memory does not fail");
            encoder.finish().expect("writing to memory does not fail");
        }
        Compression::Zstd => {
            let mut encoder =
                zstd::stream::Encoder::new(out, ZSTD_LEVEL).expect("the level is one that zstd knows");
            encoder.set_pledged_src_size(Some(raw.len() as u64)).expect("nothing was written yet");
            encoder.write_all(raw).expect("writing to memory does not fail");
            encoder.finish().expect("writing to memory does not fail");
        }
        Compression::Gzip | Compression::Snappy => panic!("{} is not implemented", codec.name()),
    }
}

/// Decompresses to at most `bytes_max` bytes; more is an error.
pub(super) fn decompress(
    codec: Compression,
    compressed: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, DecodeError> {
    let error = |what| DecodeError { what, position: 0 };
    match codec {
        Compression::None if compressed.len() > bytes_max => Err(error("records larger than the limit")),
        Compression::None => Ok(compressed.to_vec()),
        Compression::Lz4 => lz4_frame(compressed, bytes_max),
        Compression::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(compressed).map_err(|_| error("zstd frame"))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|_| error("zstd frame"))?;
            let mut out = Vec::with_capacity(bytes_max.min(compressed.len().saturating_mul(4)));
            let read = decoder.take(bytes_max as u64 + 1).read_to_end(&mut out);
            read.map_err(|_| error("zstd frame"))?;
            if out.len() > bytes_max {
                return Err(error("zstd frame larger than the limit"));
            }
            Ok(out)
        }
        Compression::Gzip => Err(error("codec: gzip is not implemented")),
        Compression::Snappy => Err(error("codec: snappy is not implemented")),
    }
}

const LZ4_MAGIC: u32 = 0x184D_2204;
const LZ4_STORED: u32 = 1 << 31;
/// A byte of an lz4 block stands for at most this many bytes.
const LZ4_RATIO_MAX: usize = 255;

/// FLG bits of the lz4 frame header.
const LZ4_VERSION: u8 = 0b0100_0000;
const LZ4_VERSION_MASK: u8 = 0b1100_0000;
const LZ4_BLOCK_CHECKSUM: u8 = 1 << 4;
const LZ4_CONTENT_SIZE: u8 = 1 << 3;
const LZ4_CONTENT_CHECKSUM: u8 = 1 << 2;
const LZ4_DICTIONARY: u8 = 1;

fn lz4_frame(compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, DecodeError> {
    let mut reader = Reader::new(compressed);
    if reader.u32("lz4 magic")? != LZ4_MAGIC {
        return Err(DecodeError { what: "lz4 magic", position: 0 });
    }
    let flags = reader.u8("lz4 flags")?;
    let size_class = (reader.u8("lz4 block size")? >> 4) & 0b111;
    if flags & LZ4_VERSION_MASK != LZ4_VERSION || flags & LZ4_DICTIONARY != 0 || size_class < 4 {
        return Err(reader.error("lz4 frame header"));
    }
    // Classes 4..=7: 64 KiB, 256 KiB, 1 MiB, 4 MiB.
    let block_bytes_max = 1usize << (8 + 2 * size_class);
    if flags & LZ4_CONTENT_SIZE != 0 {
        reader.u64("lz4 content size")?;
    }
    reader.u8("lz4 header checksum")?;
    let mut out = Vec::new();
    loop {
        let word = reader.u32("lz4 block length")?;
        if word == 0 {
            break;
        }
        let block = reader.bytes((word & !LZ4_STORED) as usize, "lz4 block")?;
        lz4_block(block, word & LZ4_STORED != 0, block_bytes_max, bytes_max, &mut out)
            .ok_or_else(|| reader.error("lz4 block, or more than the limit"))?;
        if flags & LZ4_BLOCK_CHECKSUM != 0 {
            reader.u32("lz4 block checksum")?;
        }
    }
    if flags & LZ4_CONTENT_CHECKSUM != 0 {
        reader.u32("lz4 content checksum")?;
    }
    reader.finish("end of lz4 frame")?;
    Ok(out)
}

/// Appends one block. Earlier output serves as the dictionary of frames with linked blocks.
fn lz4_block(
    block: &[u8],
    stored: bool,
    block_bytes_max: usize,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let room = block_bytes_max.min(bytes_max - out.len());
    if stored {
        out.extend_from_slice((block.len() <= room).then_some(block)?);
        return Some(());
    }
    let start = out.len();
    // Not more than the block can hold: a short block must not cost a long allocation.
    out.resize(start + room.min(block.len().saturating_mul(LZ4_RATIO_MAX)), 0);
    let (dictionary, target) = out.split_at_mut(start);
    let written = lz4_flex::block::decompress_into_with_dict(block, target, dictionary).ok()?;
    out.truncate(start + written);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i / 7 % 251) as u8).collect()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
            for bytes in [0, 1, 100, 70_000, 1_000_000] {
                let raw = sample(bytes);
                let mut out = Vec::new();
                compress(codec, &raw, &mut out);
                assert_eq!(decompress(codec, &out, bytes).as_deref(), Ok(&raw[..]), "{codec:?} {bytes}");
                if bytes > 0 {
                    assert!(decompress(codec, &out, bytes - 1).is_err(), "{codec:?} {bytes}");
                }
            }
        }
    }

    #[test]
    fn lz4_frames_of_the_reference_writer_are_read_with_linked_blocks_and_checksums() {
        let raw = sample(300_000);
        let info = FrameInfo::new()
            .block_size(BlockSize::Max64KB)
            .block_mode(BlockMode::Linked)
            .block_checksums(true)
            .content_checksum(true)
            .content_size(Some(raw.len() as u64));
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&raw).unwrap();
        let out = encoder.finish().unwrap();
        assert_eq!(decompress(Compression::Lz4, &out, raw.len()), Ok(raw));
    }

    #[test]
    fn a_bomb_costs_its_bound() {
        let raw = vec![0; 50 << 20];
        for codec in [Compression::Lz4, Compression::Zstd] {
            let mut bomb = Vec::new();
            compress(codec, &raw, &mut bomb);
            assert!(bomb.len() < 300_000);
            assert!(decompress(codec, &bomb, 1 << 20).is_err());
        }
    }

    #[test]
    fn gzip_and_snappy_are_refused_by_name() {
        for codec in [Compression::Gzip, Compression::Snappy] {
            let error = decompress(codec, b"x", 10).unwrap_err();
            assert!(error.what.contains(codec.name()));
        }
    }
}
