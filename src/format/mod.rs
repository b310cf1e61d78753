//! Bytes on disk: pure encoders and decoders of every structure a journal keeps, each with its
//! diagram and named constants. `docs/format.md` is the public description.
//!
//! Floor 2. Owner: nobody; no I/O. Invariant: a decoder answers `DecodeError` for any bytes that its
//! encoder did not write, never panics, and never allocates from an unchecked length.

pub mod block;
pub mod checkpoint;
pub mod entry;
pub mod flip;
pub mod footer;
pub mod frame;
pub mod manifest;
pub mod mark;
pub mod salvage;

pub use block::BlockHeader;
pub use entry::{Entry, EntryKind};
pub use frame::{FrameHeader, FrameKind};
