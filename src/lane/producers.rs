//! The idempotent producers of one partition: each one's epoch and its last five batches (KIP-98,
//! KIP-360), which decide whether a batch is next, a duplicate, or out of order.
//!
//! Floor 3. Owner: the partition. Sequences wrap from 2^31 - 1 to 0.

use crate::base::Few;
use crate::format::checkpoint::{ProducerRow, SequenceRow};
use crate::model::{ErrorCode, Failure, Offset, ProducerId};
use crate::record::ProducerStamp;

/// Kafka's bound of batches in flight for an idempotent producer.
pub const WINDOW: usize = 5;
const SEQUENCE_MASK: u32 = i32::MAX as u32;

/// A batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub id: ProducerId,
    pub epoch: i16,
    pub first: i32,
    pub last: i32,
}

impl Sequence {
    pub fn new(stamp: ProducerStamp, last_offset_delta: i32) -> Sequence {
        Sequence {
            id: stamp.id,
            epoch: stamp.epoch,
            first: stamp.base_sequence,
            last: stamp.last_sequence(last_offset_delta),
        }
    }

    fn records(&self) -> i64 {
        i64::from(distance(self.first, self.last)) + 1
    }
}

/// Steps from `a` forward to `b`: distance(2147483647, 0) is 1.
fn distance(a: i32, b: i32) -> u32 {
    (b as u32).wrapping_sub(a as u32) & SEQUENCE_MASK
}

/// What the newest known batch of a producer says about another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Next,
    /// Sent before: its offsets are known.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
    },
    Refuse(Failure),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    id: ProducerId,
    active_uptime_ms: u64,
    epoch: i16,
    last: SequenceRow,
    /// Of the same epoch, the oldest first; most have sent one batch.
    #[allow(clippy::box_collection)] // A thin pointer for something that most have not.
    before: Option<Box<Vec<SequenceRow>>>,
}

impl Producer {
    fn batches(&self) -> impl Iterator<Item = &SequenceRow> {
        self.before.iter().flat_map(|before| before.iter()).chain(std::iter::once(&self.last))
    }
}

/// In order of their ids: most partitions have one or a few.
#[derive(Clone, Debug, Default)]
pub struct Producers(Few<Producer>);

impl Producers {
    /// Judges `sequence` against what was appended. A producer that is not known may begin anywhere:
    /// its state was forgotten (KIP-360 drops the check too).
    pub fn judge(&self, sequence: &Sequence) -> Verdict {
        let Ok(at) = self.find(sequence.id) else { return Verdict::Next };
        let producer = &self.0[at];
        if sequence.epoch == producer.epoch {
            let known = producer
                .batches()
                .find(|batch| batch.first_sequence == sequence.first && batch.last_sequence == sequence.last);
            if let Some(batch) = known {
                let last_offset = batch.base_offset + sequence.records() - 1;
                return Verdict::Duplicate { base_offset: batch.base_offset, last_offset };
            }
        }
        follows(producer.epoch, producer.last.last_sequence, sequence)
    }

    fn find(&self, id: ProducerId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |producer| producer.id)
    }

    /// Records a batch at the moment its offsets are assigned or replayed.
    pub fn append(&mut self, sequence: &Sequence, base_offset: Offset, uptime_ms: u64) {
        let (first_sequence, last_sequence) = (sequence.first, sequence.last);
        let last = SequenceRow { first_sequence, last_sequence, base_offset };
        let (id, epoch) = (sequence.id, sequence.epoch);
        let at = match self.find(id) {
            Ok(at) => at,
            Err(at) => {
                let producer = Producer { id, active_uptime_ms: uptime_ms, epoch, last, before: None };
                self.0.insert(at, producer);
                return;
            }
        };
        let producer = &mut self.0[at];
        producer.active_uptime_ms = uptime_ms;
        let before = std::mem::replace(&mut producer.last, last);
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.before = None;
            return;
        }
        let all = producer.before.get_or_insert_default();
        if all.len() == WINDOW - 1 {
            all.remove(0);
        }
        all.push(before);
    }

    pub fn forget(&mut self, id: ProducerId) {
        if let Ok(at) = self.find(id) {
            self.0.remove(at);
        }
    }

    pub fn clear(&mut self) {
        self.0 = Few::None;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Producers without a batch since `uptime_ms`, in order of their ids.
    pub fn idle_since(&self, uptime_ms: u64) -> Vec<ProducerId> {
        let idle = self.0.iter().filter(|producer| producer.active_uptime_ms < uptime_ms);
        idle.map(|producer| producer.id).collect()
    }

    pub fn rows(&self) -> Vec<ProducerRow> {
        let row = |producer: &Producer| ProducerRow {
            id: producer.id,
            epoch: producer.epoch,
            active_uptime_ms: producer.active_uptime_ms,
            batches: producer.batches().copied().collect(),
        };
        self.0.iter().map(row).collect()
    }

    pub fn from_rows(rows: &[ProducerRow]) -> Producers {
        let producer = |row: &ProducerRow| {
            let (last, before) = row.batches.split_last()?;
            let before = &before[before.len().saturating_sub(WINDOW - 1)..];
            Some(Producer {
                id: row.id,
                active_uptime_ms: row.active_uptime_ms,
                epoch: row.epoch,
                last: *last,
                before: (!before.is_empty()).then(|| Box::new(before.to_vec())),
            })
        };
        let mut producers: Vec<_> = rows.iter().filter_map(producer).collect();
        producers.sort_unstable_by_key(|producer| producer.id);
        Producers(producers.into_iter().collect())
    }
}

/// Whether `sequence` continues after a batch of `epoch` that ended with `last`.
pub fn follows(epoch: i16, last: i32, sequence: &Sequence) -> Verdict {
    if sequence.epoch < epoch {
        let text = format!(
            "producer {} has moved on to epoch {epoch}; this batch is of epoch {}",
            sequence.id, sequence.epoch
        );
        return Verdict::Refuse(Failure::new(ErrorCode::InvalidProducerEpoch, text));
    }
    let expected = if sequence.epoch > epoch { 0 } else { ((last as u32 + 1) & SEQUENCE_MASK) as i32 };
    if sequence.first == expected {
        return Verdict::Next;
    }
    // Half of the sequence space lies behind: 5 after 9 is an old batch, 12 after 9 leaves a gap.
    let is_old = sequence.epoch == epoch && distance(sequence.last, last) < SEQUENCE_MASK / 2;
    let (code, what) = if is_old {
        (ErrorCode::DuplicateSequenceNumber, "was appended before, too long ago to tell its offset")
    } else {
        (ErrorCode::OutOfOrderSequenceNumber, "leaves a gap")
    };
    let text = format!(
        "producer {} epoch {}: sequence {} {what}; expected {expected}",
        sequence.id, sequence.epoch, sequence.first
    );
    Verdict::Refuse(Failure::new(code, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(epoch: i16, first: i32, last: i32) -> Sequence {
        Sequence { id: 7, epoch, first, last }
    }

    fn code(verdict: Verdict) -> ErrorCode {
        match verdict {
            Verdict::Refuse(failure) => failure.code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn batches_are_next_duplicate_old_or_out_of_order() {
        let mut producers = Producers::default();
        for index in 0..7 {
            let batch = sequence(0, index * 10, index * 10 + 9);
            assert_eq!(producers.judge(&batch), Verdict::Next);
            producers.append(&batch, 100 + i64::from(index) * 10, 0);
        }
        let duplicate = Verdict::Duplicate { base_offset: 140, last_offset: 149 };
        assert_eq!(producers.judge(&sequence(0, 40, 49)), duplicate);
        assert_eq!(code(producers.judge(&sequence(0, 0, 9))), ErrorCode::DuplicateSequenceNumber);
        assert_eq!(code(producers.judge(&sequence(0, 80, 89))), ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(code(producers.judge(&sequence(-1, 70, 79))), ErrorCode::InvalidProducerEpoch);
        assert_eq!(code(producers.judge(&sequence(1, 70, 79))), ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(producers.judge(&sequence(1, 0, 9)), Verdict::Next);
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = Producers::default();
        producers.append(&sequence(0, i32::MAX - 1, 0), 0, 0);
        assert_eq!(producers.judge(&sequence(0, 1, 5)), Verdict::Next);
        let duplicate = Verdict::Duplicate { base_offset: 0, last_offset: 2 };
        assert_eq!(producers.judge(&sequence(0, i32::MAX - 1, 0)), duplicate);
    }

    #[test]
    fn rows_round_trip() {
        let mut producers = Producers::default();
        producers.append(&sequence(3, 0, 4), 10, 99);
        let again = Producers::from_rows(&producers.rows());
        assert_eq!(again.rows(), producers.rows());
        assert_eq!(again.idle_since(100), [7]);
        assert!(again.idle_since(99).is_empty());
    }
}
