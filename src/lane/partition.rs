//! One partition: where it begins and ends, what waits to be appended, who has produced to it.
//!
//! Floor 3. Owner: a shard. Invariant: log start <= visible end <= next offset; records below log
//! start and at or above the visible end are never read.

use std::collections::VecDeque;

use bytes::Bytes;

use super::producers::{self, Producers, Sequence, Verdict, WINDOW};
use crate::api::Done;
use crate::base::Few;
use crate::format::checkpoint::PartitionRow;
use crate::format::{Entry, EntryKind};
use crate::model::{ErrorCode, Failure, Offset, Position};
use crate::record::{self, BatchInfo};
use crate::rt::local::Event;

/// Records of one run: the index counts them in 32 bits.
pub const RUN_RECORDS_MAX: u64 = 1 << 31;
/// Refusals that are remembered per partition; more producers than this do not retry at once.
const REFUSED_MAX: usize = 1024;

/// A validated batch that waits for its block.
pub struct Staged {
    pub batch: Bytes,
    pub info: BatchInfo,
    /// With LogAppendTime the broker's clock, to be stamped into the batch; else -1.
    pub append_time_ms: i64,
    pub done: Vec<Done>,
}

impl Staged {
    pub fn sequence(&self) -> Option<Sequence> {
        self.info.producer.map(|stamp| Sequence::new(stamp, self.info.last_offset_delta))
    }
}

/// What becomes of a batch that arrives.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    Stage,
    /// The same batch is staged at this index: wait with it.
    Pending(usize),
    /// Appended before; acknowledged once the high watermark has passed it.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
    },
    Refuse(Failure),
}

/// A retriable refusal of an idempotent producer: what it pipelined behind must not overtake.
struct Refused {
    sequence: Sequence,
    failure: Failure,
}

/// Bytes that a partition wrote lately, by windows of its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Number of the window in which `now` was written.
    pub window: u32,
    pub now: u32,
    /// In the window before.
    pub before: u32,
}

impl Share {
    /// The same as seen from a later window.
    pub fn in_window(self, window: u32) -> Share {
        match window.wrapping_sub(self.window) {
            0 => self,
            1 => Share { window, now: 0, before: self.now },
            _ => Share { window, now: 0, before: 0 },
        }
    }
}

/// Where an exposed leader epoch began (KIP-101). Packed: every partition has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(4))]
struct EpochStart {
    epoch: i32,
    offset: Offset,
}

pub struct PartitionLog {
    /// Offset of the next record to be appended (log end offset).
    pub next_offset: Offset,
    pub log_start: Offset,
    /// High watermark: consumers see what lies below.
    pub visible_end: Offset,
    pub max_timestamp: i64,
    epochs: Few<EpochStart>,
    pub producers: Producers,
    /// End of the last run in the lane that counts here.
    pub included: Position,
    pub share: Share,
    /// Deleted: kept until no file holds its runs.
    pub is_dropped: bool,
    /// `None` while nothing waits: of a hundred thousand partitions few are busy.
    waiting: Option<Box<Waiting>>,
}

/// What waits for, or on, a partition.
#[derive(Default)]
struct Waiting {
    /// Fetches to be woken when the visible end rises, by their number.
    watchers: Vec<(u64, Event)>,
    staged: VecDeque<Staged>,
    staged_bytes: usize,
    refused: Vec<Refused>,
}

impl Default for PartitionLog {
    fn default() -> PartitionLog {
        PartitionLog {
            next_offset: 0,
            log_start: 0,
            visible_end: 0,
            max_timestamp: -1,
            epochs: Few::None,
            producers: Producers::default(),
            included: 0,
            share: Share::default(),
            is_dropped: false,
            waiting: None,
        }
    }
}

impl PartitionLog {
    pub(super) fn from_row(row: &PartitionRow) -> PartitionLog {
        let epochs = row.epochs.iter().map(|(epoch, offset)| EpochStart { epoch: *epoch, offset: *offset });
        PartitionLog {
            next_offset: row.next_offset,
            log_start: row.log_start,
            visible_end: row.next_offset,
            max_timestamp: row.max_timestamp,
            epochs: epochs.collect(),
            producers: Producers::from_rows(&row.producers),
            included: row.included,
            is_dropped: row.dropped,
            ..PartitionLog::default()
        }
    }

    /// The row but for what [`SharedLog`](super::SharedLog) knows: the partition's id and lane.
    pub(super) fn row(&self) -> PartitionRow {
        PartitionRow {
            dropped: self.is_dropped,
            included: self.included,
            next_offset: self.next_offset,
            log_start: self.log_start,
            max_timestamp: self.max_timestamp,
            epochs: self.epochs.iter().map(|start| (start.epoch, start.offset)).collect(),
            producers: self.producers.rows(),
            ..PartitionRow::default()
        }
    }

    /// Decides on a batch that arrives; changes nothing but the memory of an earlier refusal.
    pub fn admit(&mut self, info: &BatchInfo) -> Admission {
        let Some(stamp) = info.producer else { return Admission::Stage };
        let sequence = Sequence::new(stamp, info.last_offset_delta);
        if let Some(failure) = self.overtakes_refused(&sequence) {
            return Admission::Refuse(failure);
        }
        let staged = self.waiting.iter().flat_map(|waiting| waiting.staged.iter().enumerate().rev());
        let mut of_producer = staged
            .filter_map(|(at, staged)| Some((at, staged.sequence()?)))
            .filter(|(_, s)| s.id == sequence.id);
        let verdict = match of_producer.next() {
            None => self.producers.judge(&sequence),
            Some((at, newest)) => {
                if let Some((at, _)) = std::iter::once((at, newest))
                    .chain(of_producer.take(WINDOW - 1))
                    .find(|(_, s)| *s == sequence)
                {
                    return Admission::Pending(at);
                }
                match self.producers.judge(&sequence) {
                    duplicate @ Verdict::Duplicate { .. } => duplicate,
                    _ => producers::follows(newest.epoch, newest.last, &sequence),
                }
            }
        };
        match verdict {
            Verdict::Next => Admission::Stage,
            Verdict::Duplicate { base_offset, last_offset } => {
                Admission::Duplicate { base_offset, last_offset }
            }
            Verdict::Refuse(failure) => Admission::Refuse(failure),
        }
    }

    /// A refused batch that comes again ends its refusal; one behind it gets the same answer.
    fn overtakes_refused(&mut self, sequence: &Sequence) -> Option<Failure> {
        let same = |refused: &Refused| {
            (refused.sequence.id, refused.sequence.epoch) == (sequence.id, sequence.epoch)
        };
        let all = &mut self.waiting.as_mut()?.refused;
        let at = all.iter().position(same)?;
        let refused = &all[at];
        if sequence.first == refused.sequence.first {
            all.remove(at);
            return None;
        }
        is_behind(sequence.first, refused.sequence.first).then(|| refused.failure.clone())
    }

    /// Remembers that a batch which could have been staged was refused for a passing reason.
    pub fn refuse(&mut self, info: &BatchInfo, failure: &Failure) {
        let Some(stamp) = info.producer else { return };
        let sequence = Sequence::new(stamp, info.last_offset_delta);
        let of_epoch = |refused: &Refused| {
            (refused.sequence.id, refused.sequence.epoch) == (sequence.id, sequence.epoch)
        };
        let all = &mut self.waiting().refused;
        if let Some(first) = all.iter().find(|refused| of_epoch(refused))
            && is_behind(sequence.first, first.sequence.first)
        {
            // The earliest refused batch has to come first.
            return;
        }
        all.retain(|refused| refused.sequence.id != sequence.id);
        if all.len() == REFUSED_MAX {
            all.remove(0);
        }
        all.push(Refused { sequence, failure: failure.clone() });
    }

    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_default()
    }

    fn relax(&mut self) {
        let is_idle = |waiting: &Waiting| {
            waiting.staged.is_empty() && waiting.watchers.is_empty() && waiting.refused.is_empty()
        };
        if self.waiting.as_deref().is_some_and(is_idle) {
            self.waiting = None;
        }
    }

    /// Wakes `watcher` when the visible end rises, until [`unwatch`](Self::unwatch).
    pub fn watch(&mut self, watcher: (u64, Event)) {
        self.waiting().watchers.push(watcher);
    }

    pub fn unwatch(&mut self, number: u64) {
        if let Some(waiting) = &mut self.waiting {
            waiting.watchers.retain(|(watcher, _)| *watcher != number);
            self.relax();
        }
    }

    /// Whoever is to be woken now.
    pub fn take_watchers(&mut self) -> Vec<(u64, Event)> {
        let watchers = self.waiting.as_mut().map(|waiting| std::mem::take(&mut waiting.watchers));
        self.relax();
        watchers.unwrap_or_default()
    }

    /// Returns whether the partition became ready by this.
    pub fn stage(&mut self, staged: Staged) -> bool {
        let waiting = self.waiting();
        waiting.staged_bytes += staged.batch.len();
        if waiting.staged.is_empty() {
            // Of ten thousand partitions that wait most have one batch.
            waiting.staged.reserve_exact(1);
        }
        waiting.staged.push_back(staged);
        let is_ready = waiting.staged.len() == 1;
        self.check();
        is_ready
    }

    /// Waits with the batch that [`Admission::Pending`] named.
    pub fn join_pending(&mut self, at: usize, done: Done) {
        self.waiting().staged[at].done.push(done);
    }

    pub fn staged_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.staged_bytes)
    }

    /// Size of the batch that is next; 0 if none is staged.
    pub fn staged_next_bytes(&self) -> usize {
        let next = self.waiting.as_ref().and_then(|waiting| waiting.staged.front());
        next.map_or(0, |staged| staged.batch.len())
    }

    /// Takes whole batches up to `bytes_max`, at least one if any is staged.
    pub fn take_staged(&mut self, bytes_max: usize) -> Vec<Staged> {
        let mut taken = Vec::new();
        let Some(waiting) = &mut self.waiting else { return taken };
        let (mut bytes, mut records) = (0, 0u64);
        while let Some(next) = waiting.staged.front() {
            records += u64::from(next.info.record_count);
            let too_many = bytes + next.batch.len() > bytes_max || records > RUN_RECORDS_MAX;
            if !taken.is_empty() && too_many {
                break;
            }
            bytes += next.batch.len();
            taken.extend(waiting.staged.pop_front());
        }
        waiting.staged_bytes -= bytes;
        self.relax();
        self.check();
        taken
    }

    /// Puts back what was taken last; returns whether other batches were still staged.
    pub fn unstage(&mut self, batches: Vec<Staged>) -> bool {
        let waiting = self.waiting();
        let had_others = !waiting.staged.is_empty();
        for staged in batches.into_iter().rev() {
            waiting.staged_bytes += staged.batch.len();
            waiting.staged.push_front(staged);
        }
        self.check();
        had_others
    }

    /// Counts a batch whose offsets are assigned now or were read back.
    pub fn append_batch(
        &mut self,
        sequence: Option<Sequence>,
        base_offset: Offset,
        end: Offset,
        uptime_ms: u64,
    ) {
        assert!(base_offset >= self.next_offset && end > base_offset, "offsets only grow");
        self.next_offset = end;
        if let Some(sequence) = sequence {
            self.producers.append(&sequence, base_offset, uptime_ms);
        }
    }

    pub fn open_epoch(&mut self, epoch: i32) {
        self.begin_epoch(epoch, self.next_offset);
    }

    fn begin_epoch(&mut self, epoch: i32, offset: Offset) {
        if self.epochs.last().is_none_or(|last| last.epoch < epoch) {
            self.epochs.push(EpochStart { epoch, offset });
        }
    }

    pub fn leader_epoch(&self) -> i32 {
        self.epochs.last().map_or(0, |last| last.epoch)
    }

    /// Counts a run that was composed, or replays one above the checkpoint. `payload` is `None` if its bytes
    /// do not verify: then its offsets count, and its producers are those that each intact batch names.
    pub fn replay(&mut self, entry: &Entry, payload: Option<&[u8]>, uptime_ms: u64) {
        if entry.last_position < self.included {
            return;
        }
        self.included = entry.last_position + 1;
        match entry.kind {
            EntryKind::Data => self.replay_data(entry, payload, uptime_ms),
            EntryKind::LogStart => {
                self.log_start = self.log_start.max(entry.first_offset.min(self.next_offset))
            }
            EntryKind::Drop => self.is_dropped = true,
            EntryKind::Forget => {
                for id in payload.unwrap_or_default().chunks_exact(8) {
                    self.producers.forget(i64::from_le_bytes(id.try_into().expect("chunks of 8")));
                }
            }
            EntryKind::Lost => self.next_offset = self.next_offset.max(entry.last_offset + 1),
            EntryKind::Epoch => {}
        }
    }

    fn replay_data(&mut self, entry: &Entry, payload: Option<&[u8]>, uptime_ms: u64) {
        self.begin_epoch(entry.exposed_epoch, entry.first_offset);
        for batch in record::batches(payload.unwrap_or_default()) {
            let Ok(batch) = batch else { break };
            let (base, end) = (batch.base_offset(), batch.next_offset());
            if base < self.next_offset || end > entry.last_offset + 1 {
                continue;
            }
            let delta = batch.last_offset_delta();
            let sequence = batch.producer().map(|stamp| Sequence::new(stamp, delta));
            self.append_batch(sequence, base, end, uptime_ms);
        }
        self.next_offset = self.next_offset.max(entry.last_offset + 1);
        self.max_timestamp = self.max_timestamp.max(entry.max_timestamp);
    }

    /// The failure of a fetch or list at an offset that is not here.
    pub fn out_of_range(&self, offset: Offset) -> Failure {
        let text =
            format!("offset {offset} is outside {}..={} of this partition", self.log_start, self.visible_end);
        Failure::new(ErrorCode::OffsetOutOfRange, text)
    }

    /// What always holds; checked where tests and simulations run.
    pub fn check(&self) {
        if !cfg!(any(debug_assertions, feature = "sim")) {
            return;
        }
        assert!(self.log_start <= self.next_offset && self.visible_end <= self.next_offset);
        let staged = self.waiting.iter().flat_map(|waiting| &waiting.staged);
        assert_eq!(self.staged_bytes(), staged.map(|staged| staged.batch.len()).sum::<usize>());
    }
}

/// Whether sequence `later` comes after `earlier`: half of the space that wraps at 2^31.
fn is_behind(later: i32, earlier: i32) -> bool {
    let distance = (later as u32).wrapping_sub(earlier as u32) & i32::MAX as u32;
    distance != 0 && distance < i32::MAX as u32 / 2
}
