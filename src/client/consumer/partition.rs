//! What the consumer's machine knows about one assigned partition.
//!
//! Floor 5; owned by the machine.

use crate::client::error::ConsumeError;
use crate::client::session::{Millis, Target};
use crate::model::{ErrorCode, Failure, Offset, TopicId};
use crate::wire::At;

use super::{Key, OffsetReset, Position};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The offset to begin at is not known yet.
    Resolve(At),
    Fetch(Offset),
    /// It met an error that only a seek can cure.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Closed,
    Opening(Target),
    Open(Target, u32),
}

#[derive(Debug)]
pub(super) struct Partition {
    pub generation: u64,
    pub phase: Phase,
    pub binding: Binding,
    /// The topic that its offsets belong to, until the reader was told that it is gone.
    pub topic: Option<TopicId>,
    /// Where the partition ended before a timestamp was looked up.
    pub end: Option<Offset>,
    /// A fetch or a look-up of this generation is under way.
    pub busy: bool,
    /// It is queued to be fetched.
    pub idle: bool,
    pub not_before: Millis,
    pub attempts: u32,
}

impl Partition {
    pub fn new(generation: u64, start: Position) -> Partition {
        Partition {
            generation,
            phase: Phase::of(start),
            binding: Binding::Closed,
            topic: None,
            end: None,
            busy: false,
            idle: false,
            not_before: 0,
            attempts: 0,
        }
    }

    /// Begins anew at another position, with the handle that it has.
    pub fn restart(&mut self, generation: u64, start: Position) {
        self.generation = generation;
        self.phase = Phase::of(start);
        self.end = None;
        // What is under way belongs to the old generation and will be ignored.
        self.busy = false;
        self.not_before = 0;
        self.attempts = 0;
    }

    pub fn target(&self) -> Option<Target> {
        match self.binding {
            Binding::Closed => None,
            Binding::Opening(target) | Binding::Open(target, _) => Some(target),
        }
    }

    /// The error that a refusal becomes, if it is one for the reader; else what to do about it.
    pub fn judge(&self, key: &Key, failure: &Failure, next: Offset, reset: OffsetReset) -> Judgement {
        let (topic, partition) = (key.0.to_string(), key.1);
        let offset = match self.phase {
            Phase::Fetch(offset) => offset,
            _ => -1,
        };
        match (failure.code, reset) {
            (ErrorCode::OffsetOutOfRange, OffsetReset::Earliest) => Judgement::Resolve(At::Earliest),
            (ErrorCode::OffsetOutOfRange, OffsetReset::Latest) => Judgement::Resolve(At::Latest),
            (ErrorCode::OffsetOutOfRange, OffsetReset::Error) => {
                Judgement::Fail(ConsumeError::OffsetOutOfRange { topic, partition, offset })
            }
            (ErrorCode::CorruptMessage, _) => {
                let next_offset = (next > offset).then_some(next);
                let text = failure.text.clone();
                Judgement::Fail(ConsumeError::Corrupt { topic, partition, offset, next_offset, text })
            }
            (code, _) if code.retriable() => Judgement::Retry,
            _ => Judgement::Fail(ConsumeError::Refused { topic, partition, failure: failure.clone() }),
        }
    }
}

pub(super) enum Judgement {
    Retry,
    Resolve(At),
    Fail(ConsumeError),
}

impl Phase {
    fn of(start: Position) -> Phase {
        match start {
            Position::Earliest => Phase::Resolve(At::Earliest),
            Position::Latest => Phase::Resolve(At::Latest),
            Position::Timestamp(ms) => Phase::Resolve(At::Timestamp(ms.max(0))),
            Position::Offset(offset) => Phase::Fetch(offset.max(0)),
        }
    }
}
