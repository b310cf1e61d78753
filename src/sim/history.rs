//! What the clients of a schedule did and saw.
//!
//! Floor 6. Owner: the schedule; clients add to it. A record carries its number in its value, and
//! the rest of the value follows from the number, so that any damage shows.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::client::ProduceError;
use crate::model::Offset;

/// Number of a record: unique in a schedule.
pub(super) type RecordId = u64;

/// A partition of one incarnation of a topic, as far as its clients can tell: by name.
pub(super) type Place = (String, u32);

/// How a send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Unknown,
    Acknowledged(Offset),
    /// Acknowledged, but the broker was not asked where (acks=0).
    Sent,
    /// Certainly not in the log.
    Refused,
    /// May be in the log.
    Lost,
}

/// What a producer was promised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    pub idempotent: bool,
    pub durable: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub place: Place,
    pub producer: u32,
    pub idempotent: bool,
    pub durable: bool,
    pub fate: Fate,
    pub bytes: usize,
    /// Count of its topic's deletions, begun and done, when it was sent, and when its fate was known.
    pub deletions: u32,
    pub deletions_at_end: u32,
}

#[derive(Default)]
pub(super) struct History {
    pub sent: BTreeMap<RecordId, Sent>,
    /// What was read at an offset, of topics that were never deleted.
    pub reads: BTreeMap<Place, BTreeMap<Offset, RecordId>>,
    /// Highest offset below which an administrator asked to delete.
    pub trims_asked: BTreeMap<Place, Offset>,
    pub trims_done: BTreeMap<Place, Offset>,
    /// Begin and end of deletions, by topic: odd while one is under way.
    pub deletions: BTreeMap<String, u32>,
    /// Ranges that the broker reported as damaged, half open.
    pub damaged: Vec<(Place, Offset, Offset)>,
    pub violations: Vec<String>,
    record_last: RecordId,
    /// Progress of the clients.
    pub producers_done: u32,
    pub admin_done: bool,
    pub topics_ready: bool,
    pub stop_consuming: bool,
    /// Successes until the broker is to crash at once.
    pub provoked_after: Option<u32>,
}

impl History {
    pub(super) fn violation(&mut self, text: String) {
        if self.violations.len() < 8 {
            self.violations.push(text);
        }
    }

    /// A client heard of a success.
    pub(super) fn succeeded(&mut self) {
        if let Some(left) = &mut self.provoked_after {
            *left = left.saturating_sub(1);
        }
    }

    pub(super) fn deletions_of(&self, topic: &str) -> u32 {
        self.deletions.get(topic).copied().unwrap_or(0)
    }

    pub(super) fn send(&mut self, topic: &str, bytes: usize, producer: u32, promise: Promise) -> RecordId {
        self.record_last += 1;
        let Promise { idempotent, durable } = promise;
        let sent = Sent {
            bytes,
            place: (topic.to_owned(), u32::MAX),
            producer,
            idempotent,
            durable,
            fate: Fate::Unknown,
            deletions: self.deletions_of(topic),
            deletions_at_end: u32::MAX,
        };
        self.sent.insert(self.record_last, sent);
        self.record_last
    }

    pub(super) fn ended(&mut self, id: RecordId, partition: u32, outcome: Result<Offset, &ProduceError>) {
        let sent = self.sent.get_mut(&id).expect("it was sent");
        sent.place.1 = partition;
        sent.deletions_at_end = self.deletions.get(&sent.place.0).copied().unwrap_or(0);
        let success = outcome.is_ok();
        sent.fate = match outcome {
            Ok(-1) => Fate::Sent,
            Ok(offset) => Fate::Acknowledged(offset),
            Err(ProduceError::TopicDeleted { .. }) => Fate::Lost,
            Err(error) if error.maybe_written() => Fate::Lost,
            Err(_) => Fate::Refused,
        };
        if success {
            self.succeeded();
        }
    }

    /// A consumer read a record.
    pub(super) fn read(&mut self, place: &Place, offset: Offset, value: Option<&[u8]>) {
        let Some(id) = value.and_then(identify) else {
            return self.violation(format!("{place:?} offset {offset}: a value that nobody sent was served"));
        };
        let Some(sent) = self.sent.get(&id) else {
            return self.violation(format!("{place:?} offset {offset}: record {id} was never sent"));
        };
        if sent.place.0 != place.0 || (sent.place.1 != u32::MAX && sent.place.1 != place.1) {
            let went = sent.place.clone();
            return self.violation(format!("record {id} of {went:?} was read in {place:?}"));
        }
        if self.deletions_of(&place.0) > 0 {
            // Which incarnation it was read from is not known.
            return;
        }
        let known = self.reads.entry(place.clone()).or_default();
        let before = *known.entry(offset).or_insert(id);
        if before != id {
            self.violation(format!("{place:?} offset {offset}: record {before} was read, then record {id}"));
        }
    }

    /// Behind what was read of a partition until now.
    pub fn read_to(&self, place: &Place) -> Offset {
        self.reads.get(place).and_then(|known| known.last_key_value()).map_or(0, |(offset, _)| offset + 1)
    }
}

/// The value of a record: its number, its length, and bytes that follow from both.
pub(super) fn value(id: RecordId, bytes: usize) -> Bytes {
    let mut value = Vec::with_capacity(bytes.max(12));
    value.extend_from_slice(&id.to_le_bytes());
    value.extend_from_slice(&(bytes as u32).to_le_bytes());
    while value.len() < bytes {
        value.push(filler(id, value.len()));
    }
    value.into()
}

/// Hard to compress, so that sizes are what they seem.
fn filler(id: RecordId, at: usize) -> u8 {
    let word = (id << 16 | (at / 8) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> (at % 8 * 8)) as u8
}

/// The number of the record whose value this is, if it is whole.
pub(super) fn identify(value: &[u8]) -> Option<RecordId> {
    let id = RecordId::from_le_bytes(value.get(..8)?.try_into().ok()?);
    let bytes = u32::from_le_bytes(value.get(8..12)?.try_into().ok()?) as usize;
    let whole = value.len() == bytes.max(12);
    let filled = (12..value.len()).all(|at| value[at] == filler(id, at));
    (whole && filled).then_some(id)
}
