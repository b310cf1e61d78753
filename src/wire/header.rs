//! The 16 bytes before every body.
//!
//! Floor 3. Little-endian, 8-aligned:
//!
//! ```text
//!  0        4    5       6        8       12       16
//!  | length | op | flags | stream | corr  | handle |
//! ```
//!
//! `length` counts everything after itself (12 + body). A reply repeats op, stream, corr and
//! handle of its request and sets [`FLAG_REPLY`].

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const HEADER_BYTES: usize = 16;

/// What `length` does not count: itself.
pub(super) const LENGTH_BYTES: usize = 4;

/// Set on every frame from the broker.
pub const FLAG_REPLY: u8 = 1;
/// A receiver that does not know the op skips the frame instead of refusing it.
pub const FLAG_OPTIONAL: u8 = 2;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal;)*) => {
        /// What a frame asks for, or answers.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum Op { $($(#[$doc])* $name = $number,)* }

        impl Op {
            pub const ALL: &[Op] = &[$(Op::$name,)*];

            pub fn from_number(number: u8) -> Option<Op> {
                match number { $($number => Some(Op::$name),)* _ => None }
            }
            pub fn name(self) -> &'static str {
                match self { $(Op::$name => $text,)* }
            }
        }
    };
}

ops! {
    Hello = 1 "hello";
    Ping = 2 "ping";
    Metadata = 3 "metadata";
    Open = 4 "open";
    Close = 5 "close";
    Produce = 6 "produce";
    Fetch = 7 "fetch";
    ListOffsets = 8 "list_offsets";
    DeleteRecords = 9 "delete_records";
    CreateTopic = 10 "create_topic";
    DeleteTopic = 11 "delete_topic";
    AlterTopic = 12 "alter_topic";
    InitProducerId = 13 "init_producer_id";
    /// Only as a reply: the request with this correlation id failed.
    Error = 15 "error";
}

/// A decoded header. `op` stays a number: a newer peer may send one that is unknown here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub op: u8,
    pub flags: u8,
    /// Reserved: ordering domain of a later version. 0 in version 1, and echoed.
    pub stream: u16,
    /// Chosen by the client, repeated in the reply.
    pub corr: u32,
    /// The partition, as numbered by `open` on this connection; 0 where none is meant.
    pub handle: u32,
    /// Bytes of the body that follows.
    pub body_bytes: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    length: U32,
    op: u8,
    flags: u8,
    stream: U16,
    corr: U32,
    handle: U32,
}

const _: () = assert!(size_of::<Raw>() == HEADER_BYTES);

impl Header {
    pub fn request(op: Op, corr: u32, handle: u32) -> Header {
        Header { op: op as u8, flags: 0, stream: 0, corr, handle, body_bytes: 0 }
    }

    /// The header of the reply to this request.
    pub fn reply(&self, op: Op) -> Header {
        Header { op: op as u8, flags: FLAG_REPLY, body_bytes: 0, ..*self }
    }

    pub fn op(&self) -> Option<Op> {
        Op::from_number(self.op)
    }

    pub fn is_reply(&self) -> bool {
        self.flags & FLAG_REPLY != 0
    }

    pub fn is_optional(&self) -> bool {
        self.flags & FLAG_OPTIONAL != 0
    }

    /// Header and body together.
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// `None` if the length cannot cover the header.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let raw = Raw::ref_from_bytes(bytes).ok()?;
        let body_bytes = raw.length.get().checked_sub((HEADER_BYTES - LENGTH_BYTES) as u32)?;
        Some(Header {
            op: raw.op,
            flags: raw.flags,
            stream: raw.stream.get(),
            corr: raw.corr.get(),
            handle: raw.handle.get(),
            body_bytes,
        })
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let length = self.body_bytes + (HEADER_BYTES - LENGTH_BYTES) as u32;
        let raw = Raw {
            length: U32::new(length),
            op: self.op,
            flags: self.flags,
            stream: U16::new(self.stream),
            corr: U32::new(self.corr),
            handle: U32::new(self.handle),
        };
        zerocopy::transmute!(raw)
    }
}
