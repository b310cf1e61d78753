//! The native protocol, version 1: bytes <-> plain requests and replies, for both sides.
//!
//! Floor 3; owner: nobody, everything here is a value or a pure function. `net` (broker) and
//! `client` use the same types, so an encoder and its decoder cannot drift apart. Invariant: no
//! decoder panics, and none allocates more than a small multiple of the bytes it was given.
//! `docs/protocol.md` is the specification; the names there are the names here.
//!
//! A connection: the client sends the 8-byte [`PREFACE`] and a [`Hello`] and waits for the
//! answer; then both sides exchange frames, a 16-byte [`Header`] and a body, cut out of the byte
//! stream by a [`FrameReader`].

mod body;
mod fetch;
mod frame;
mod header;
mod recycle;
mod reply;
mod request;
mod session;
mod topics;

#[cfg(test)]
mod tests;

pub use fetch::{Fetch, FetchHandle, Fetched, FetchedHandle, encode_fetched};
pub use frame::{FrameError, FrameReader};
pub use header::{FLAG_OPTIONAL, FLAG_REPLY, HEADER_BYTES, Header, Op};
pub use recycle::Recycler;
pub use reply::{Opened, Produced, Reply};
pub use request::{Acks, At, PRODUCE_PREFIX_BYTES, Produce, Request, encode_produce_prefix};
pub use session::{ANY_SHARD, Hello, HelloReply};
pub use topics::{ConfigEntry, Metadata, MetadataQuery, TopicMetadata, TopicRef};

/// What a client sends first: seven letters and the version of the framing itself. Read as
/// Kafka's big-endian length they are 1.3 GB, and TLS begins with 0x16, so one port can tell the
/// three apart.
pub const PREFACE: [u8; PREFACE_BYTES] = *b"RINGLOG\x01";
pub const PREFACE_BYTES: usize = 8;

/// Versions of the frames' bodies that this code speaks; the hello picks one.
pub const VERSION_MIN: u16 = 1;
pub const VERSION_MAX: u16 = 1;

/// Largest record batch that a frame carries by default; topics bound theirs below it.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Default bound of a frame, header included: one full batch and room for what precedes it.
pub const FRAME_BYTES_MAX: u32 = (BATCH_BYTES_MAX + (64 << 10)) as u32;
