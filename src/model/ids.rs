//! Identities. Topic ids are random and never reused (KIP-516), so that a handle of a deleted
//! topic can never reach a topic that was created later under the same name.
//!
//! Floor 0.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A number of 128 bits, kept as its big-endian bytes: they sort like the number and need no alignment,
/// which would be a third of every [`PartitionId`], and those stand in indexes by the hundred thousand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct TopicId([u8; 16]);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PartitionId {
    pub topic: TopicId,
    pub partition: u32,
}

/// Numbered by the metadata, from 0; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LaneId(pub u32);

/// Random; names the journal's folder and seeds its frame checksums.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JournalId(pub u64);

impl TopicId {
    pub const fn new(number: u128) -> TopicId {
        TopicId(number.to_be_bytes())
    }

    pub const fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl Hash for TopicId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let number = self.number();
        state.write_u64(number as u64);
        state.write_u64((number >> 64) as u64);
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.number())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
