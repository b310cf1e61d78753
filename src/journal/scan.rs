//! Reading frames back from a segment: one at a time along the chain, or searching for any.
//!
//! Floor 3. Owner: recovery, index rebuilding, offline tools.

use std::io;
use std::ops::Range;

use crate::base::align::{BLOCK_BYTES, align_down, align_up};
use crate::format::block::{self, Run};
use crate::format::frame::{self, Address, FrameHeader, FrameKind};
use crate::format::{BlockHeader, mark};
use crate::model::JournalId;
use crate::rt::{Buf, File};

const WINDOW_BYTES: usize = 1 << 20;

/// A segment's bytes through a window that follows the reader.
pub(super) struct Scanner {
    file: File,
    journal: JournalId,
    segment: u64,
    bytes: u64,
    window_at: u64,
    window: Option<Buf>,
}

/// Why there is no frame.
#[derive(Debug)]
pub(super) enum NoFrame {
    Io(io::Error),
    /// The bytes are not a frame of this place.
    Bad,
    /// They are, but of a newer broker.
    Newer(&'static str),
}

/// One block of a frame and whether every run of it verifies.
pub(super) struct CheckedBlock {
    pub range: Range<usize>,
    pub header: BlockHeader,
    pub runs: Vec<Run>,
    pub is_intact: bool,
}

impl Scanner {
    pub fn new(file: File, journal: JournalId, segment: u64, bytes: u64) -> Scanner {
        Scanner { file, journal, segment, bytes, window_at: 0, window: None }
    }

    /// `len` bytes at `at`, fewer only at the end of the file.
    pub async fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let end = (at + len as u64).min(self.bytes);
        let covered = self
            .window
            .as_ref()
            .is_some_and(|window| self.window_at <= at && end <= self.window_at + window.len() as u64);
        if !covered {
            let start = align_down(at);
            let want = align_up(end - start).max((WINDOW_BYTES as u64).min(align_up(self.bytes) - start));
            self.window = None;
            let window = self.file.read_at(start, want as usize).await?;
            if start + (window.len() as u64) < end {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file is shorter than its manifest says",
                ));
            }
            self.window_at = start;
            self.window = Some(window);
        }
        let window = self.window.as_ref().expect("just read");
        let from = (at - self.window_at) as usize;
        Ok(&window[from..from + (end.saturating_sub(at)) as usize])
    }

    /// The frame at `byte`, its header verified.
    pub async fn frame(&mut self, byte: u32) -> Result<FrameHeader, NoFrame> {
        let (journal, segment) = (self.journal, self.segment);
        let head = frame::head_bytes(frame::PARTS_MAX);
        let bytes = self.bytes(byte.into(), head).await.map_err(NoFrame::Io)?;
        match FrameHeader::decode(journal, bytes, Address { segment, byte }) {
            Ok(header) if u64::from(byte) + header.padded() <= self.bytes => Ok(header),
            Err(error) if [frame::UNKNOWN_KIND, frame::UNKNOWN_VERSION].contains(&error.what) => {
                Err(NoFrame::Newer(error.what))
            }
            _ => Err(NoFrame::Bad),
        }
    }

    /// All bytes of a frame.
    pub async fn whole(&mut self, header: &FrameHeader) -> io::Result<&[u8]> {
        self.bytes(header.address.byte.into(), header.length as usize).await
    }

    /// The first address from `from` on where a frame stands that `wanted` accepts.
    pub async fn search(
        &mut self,
        from: u32,
        mut wanted: impl FnMut(&FrameHeader) -> bool,
    ) -> io::Result<Option<FrameHeader>> {
        let mut at = align_up(from.into());
        while at < self.bytes {
            let bytes = self.bytes(at, BLOCK_BYTES).await?;
            if bytes.starts_with(&frame::MAGIC.to_le_bytes()) {
                match self.frame(at as u32).await {
                    Ok(header) if wanted(&header) => return Ok(Some(header)),
                    Err(NoFrame::Io(error)) => return Err(error),
                    _ => {}
                }
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(None)
    }
}

/// Checks the blocks of a frame; `None` if one is not what the frame's table says.
pub(super) fn blocks(header: &FrameHeader, bytes: &[u8]) -> Option<Vec<CheckedBlock>> {
    let mut out = Vec::with_capacity(header.parts.len());
    for (part, range) in header.part_ranges() {
        let raw = &bytes[range.clone()];
        let block = block::decode(raw).ok().filter(|block| block.checksum == part.checksum)?;
        let runs = block::runs(raw, &block).ok()?;
        let inline = runs.iter().all(|run| raw[run.at..].starts_with(&run.entry.encode()));
        let is_intact = inline && runs.iter().all(|run| run.entry.verifies(&raw[run.payload()]));
        out.push(CheckedBlock { range, header: block, runs, is_intact });
    }
    Some(out)
}

/// Whether everything in a frame verifies, header aside.
pub(super) fn is_whole(header: &FrameHeader, bytes: &[u8]) -> bool {
    let padding_at = header.length as usize;
    if bytes.len() < padding_at {
        return false;
    }
    match header.kind {
        FrameKind::Block | FrameKind::Sorted => {
            blocks(header, bytes).is_some_and(|blocks| blocks.iter().all(|block| block.is_intact))
        }
        FrameKind::Mark | FrameKind::Footer | FrameKind::Pad => {
            header.part_ranges().all(|(part, range)| crate::base::crc::crc32c(&bytes[range]) == part.checksum)
        }
    }
}

/// The lane ends of a mark that verifies.
pub(super) fn mark_of(header: &FrameHeader, bytes: &[u8]) -> Option<Vec<mark::LaneEnd>> {
    let (part, range) = header.part_ranges().next()?;
    let payload = &bytes[range];
    if crate::base::crc::crc32c(payload) != part.checksum {
        return None;
    }
    mark::decode(payload).ok()
}
