//! Cuts a byte stream into frames.
//!
//! Floor 3; owned by one connection's reading side. A frame's length is checked against the bound
//! before any memory is taken for it, and memory grows with the bytes that really arrived: a peer
//! that only announces large frames costs one [`CHUNK_BYTES_MAX`] buffer.
//!
//! ```text
//! loop {
//!     while let Some((header, body)) = frames.next()? { .. }
//!     let read = stream.read(frames.space()).await?;   // 0: end of stream
//!     frames.filled(read);
//! }
//! ```

use bytes::{Bytes, BytesMut};

use super::header::{HEADER_BYTES, Header};
use super::recycle::Recycler;
use super::{PREFACE, PREFACE_BYTES};

/// Memory taken ahead of what has been announced: little while a connection is idle, more as it
/// is used.
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 64 << 10;
const CHUNK_GROWTH: usize = 4;

/// A frame from this size on gets memory of its own: allocated and zeroed anew for each frame, it cost
/// the broker 40 % of its CPU time under bulk load (page faults and their zeroing).
const LARGE_BYTES: usize = 32 << 10;

/// Memory granted to a large frame, as a multiple of the bytes that have arrived.
const GROWTH: usize = 8;

/// The stream is unusable from here on: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {bytes} bytes is larger than the bound of {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("a frame's length does not cover its header")]
    TooShort,
    #[error("not the native protocol (the first eight bytes are not its preface)")]
    NotNative,
}

#[derive(Debug)]
struct Large {
    /// At least as long as the frame.
    memory: Vec<u8>,
    frame_bytes: usize,
}

/// An incremental splitter. After an error it keeps answering that error.
#[derive(Debug)]
pub struct FrameReader {
    /// All of it is initialised; the first `filled` bytes came from the peer.
    buffer: BytesMut,
    filled: usize,
    frame_bytes_max: usize,
    /// Largest frame that was received whole: memory of that size has been earned.
    frame_bytes_seen: usize,
    /// Size of the next buffer for frames that are not announced yet.
    chunk_bytes: usize,
    /// A large frame that is arriving has memory of its own, which comes back once its bytes are used.
    large: Option<Large>,
    recycler: Recycler,
    /// Bytes of a refused frame that are still to be dropped.
    skip: usize,
    failed: Option<FrameError>,
}

impl FrameReader {
    /// `frame_bytes_max` bounds header and body of one frame.
    pub fn new(frame_bytes_max: u32) -> FrameReader {
        FrameReader {
            buffer: BytesMut::new(),
            filled: 0,
            frame_bytes_max: frame_bytes_max as usize,
            frame_bytes_seen: 0,
            chunk_bytes: CHUNK_BYTES_MIN,
            large: None,
            recycler: Recycler::default(),
            skip: 0,
            failed: None,
        }
    }

    /// Takes memory for large frames from `recycler`, and lets it go back there.
    pub fn set_recycler(&mut self, recycler: Recycler) {
        self.recycler = recycler;
    }

    /// Bytes of the frame that has begun, if it wants memory of its own; else 0.
    pub fn large_bytes(&self) -> usize {
        let header = self.pending().first_chunk::<HEADER_BYTES>().and_then(Header::decode);
        let bytes = header.map_or(0, |header| header.frame_bytes());
        if self.skip == 0 && (LARGE_BYTES..=self.frame_bytes_max).contains(&bytes) { bytes } else { 0 }
    }

    /// Changes the bound, once the hello has agreed on one.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max as usize;
    }

    /// Gives back memory that an idle connection does not need. What was received stays.
    pub fn relax(&mut self) {
        if self.filled == 0 {
            self.buffer = BytesMut::new();
            if self.frame_bytes_seen >= LARGE_BYTES {
                self.recycler.clear();
            }
            self.frame_bytes_seen = 0;
            self.chunk_bytes = CHUNK_BYTES_MIN;
        }
    }

    /// Goes on behind a frame that was refused as too large: its bytes are dropped as they come.
    /// Answers its header; `None` if the reader did not fail for that reason.
    pub fn skip_too_large(&mut self) -> Option<Header> {
        let Some(FrameError::TooLarge { .. }) = self.failed else { return None };
        let header = Header::decode(self.pending().first_chunk::<HEADER_BYTES>()?)?;
        self.failed = None;
        self.skip = header.frame_bytes();
        self.drop_skipped();
        Some(header)
    }

    fn drop_skipped(&mut self) {
        let dropped = self.skip.min(self.filled);
        if dropped > 0 {
            drop(self.take(dropped));
            self.skip -= dropped;
        }
    }

    /// Takes bytes that were read elsewhere, for instance by the shard that handed the socket over.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
    }

    /// Where the next bytes from the peer belong; never empty. While a large frame is arriving
    /// it ends where that frame ends, so that no byte of the next one has to be moved.
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled == self.capacity() {
            self.grow();
        }
        match &mut self.large {
            Some(large) => &mut large.memory[self.filled..large.frame_bytes],
            None => &mut self.buffer[self.filled..],
        }
    }

    fn capacity(&self) -> usize {
        self.large.as_ref().map_or(self.buffer.len(), |large| large.frame_bytes)
    }

    /// The first `count` bytes of [`space`](Self::space) are from the peer now.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.capacity() - self.filled, "more bytes than there was space for");
        self.filled += count;
        self.drop_skipped();
    }

    /// Bytes received and not yet answered by [`next`](Self::next).
    pub fn pending(&self) -> &[u8] {
        match &self.large {
            Some(large) => &large.memory[..self.filled],
            None => &self.buffer[..self.filled],
        }
    }

    /// Removes the preface; `false` while it has not arrived whole.
    pub fn take_preface(&mut self) -> Result<bool, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let count = self.filled.min(PREFACE_BYTES);
        if self.pending()[..count] != PREFACE[..count] {
            return Err(self.fail(FrameError::NotNative));
        }
        if count < PREFACE_BYTES {
            return Ok(false);
        }
        drop(self.take(PREFACE_BYTES));
        Ok(true)
    }

    /// The next whole frame, if it has arrived.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Header, Bytes)>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Some(header) = self.peek()? else { return Ok(None) };
        let frame_bytes = header.frame_bytes();
        if frame_bytes > self.filled {
            return Ok(None);
        }
        self.frame_bytes_seen = self.frame_bytes_seen.max(frame_bytes);
        if let Some(large) = self.large.take() {
            // It holds this frame and nothing else.
            self.filled = 0;
            return Ok(Some((header, self.recycler.lend(large.memory).slice(HEADER_BYTES..frame_bytes))));
        }
        let mut frame = self.take(frame_bytes);
        Ok(Some((header, frame.split_off(HEADER_BYTES))))
    }

    /// The next frame's header, checked against the bound.
    fn peek(&mut self) -> Result<Option<Header>, FrameError> {
        let Some(bytes) = self.pending().first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let Some(header) = Header::decode(bytes) else {
            return Err(self.fail(FrameError::TooShort));
        };
        let bytes_max = self.frame_bytes_max;
        if header.frame_bytes() > bytes_max {
            return Err(self.fail(FrameError::TooLarge { bytes: header.frame_bytes(), bytes_max }));
        }
        Ok(Some(header))
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        self.failed = Some(error);
        error
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.filled -= count;
        self.buffer.split_to(count).freeze()
    }

    /// Replaces a full buffer by a larger one, and moves the bytes of the frame that has begun.
    fn grow(&mut self) {
        if let Some(large) = self.large.take() {
            // Whole, but not taken yet: it goes on in front of what follows.
            self.buffer = BytesMut::from(&large.memory[..large.frame_bytes]);
        }
        let announced = match self.peek() {
            Ok(Some(header)) => header.frame_bytes(),
            _ => 0,
        };
        let earned = GROWTH * self.filled.max(self.frame_bytes_seen);
        let chunk = self.chunk_bytes;
        self.chunk_bytes = (chunk * CHUNK_GROWTH).min(CHUNK_BYTES_MAX);
        let more = self.filled + chunk;
        let bytes = if announced > self.filled { announced.min(earned.max(more)) } else { more };
        if announced >= LARGE_BYTES && bytes == announced {
            let mut memory = self.recycler.take(announced);
            memory[..self.filled].copy_from_slice(self.pending());
            self.buffer = BytesMut::new();
            self.large = Some(Large { memory, frame_bytes: announced });
            return;
        }
        let mut buffer = BytesMut::zeroed(bytes.max(chunk));
        buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
        self.buffer = buffer;
    }
}
