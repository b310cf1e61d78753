//! What a fetch reads: where each partition's runs lie, in which order they are read, what of them
//! fits the answer.
//!
//! Floor 5. Owner: the shard. The partitions of a fetch are read together, in the order in which their
//! runs lie in the journal: neighbours come with one read, and several reads are under way at once.
//! Those that a full answer passes over should be asked for first the next time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::answer::{Part, Room};
use super::drive::Drive;
use super::span::{self, Bytes, Item, Place, Source, Span};
use super::{Partition, Shard};
use crate::api::{Chunk, FetchPartition};
use crate::format::footer::RunRef;
use crate::journal::{Journal, Segment};
use crate::model::{ErrorCode, Failure, Offset, PartitionId};
use crate::rt::{Lease, local};

/// Bytes that are checked before others get their turn.
const STEP_BYTES: u64 = 512 << 10;
/// Least share of a partition in a round: a small answer has few partitions in each.
const SHARE_BYTES_MIN: usize = 16 << 10;
/// Runs of one round, of one partition in it, and how many shares these may be.
const RUNS_MAX: usize = 4096;
const RUNS_OF_ONE_MAX: usize = 256;
const SHARES_MAX: usize = 8;

/// Part of the room for runs on the disk that are smaller than this, in the order of the request.
const SCATTERED_PART: usize = 8;
const SCATTERED_BYTES_MAX: u32 = 128 << 10;

/// One partition of a fetch while it is read.
pub(super) struct Reading {
    pub place_in_fetch: usize,
    id: PartitionId,
    partition: Partition,
    /// Where what may be read ends.
    end: Offset,
    pub part: Part,
    state: State,
    /// What cannot be read, and where records go on.
    pub failed: Option<(Failure, Offset)>,
}

enum State {
    /// The first run above the wanted offset, as far as segments were searched.
    Searching(Offset),
    /// Runs that follow each other in one segment, from the one that holds `next` on.
    Found(Rc<Segment>, VecDeque<RunRef>),
    Done,
}

impl Reading {
    pub fn new(place: usize, partition: Partition, wanted: &FetchPartition, end: Offset) -> Reading {
        Reading {
            place_in_fetch: place,
            id: wanted.partition,
            partition,
            end,
            part: Part::new(wanted.offset, wanted.bytes_max as usize),
            state: State::Searching(end),
            failed: None,
        }
    }

    /// Where the next run lies.
    fn place(&self) -> Option<Place> {
        let State::Found(segment, runs) = &self.state else { return None };
        Some((self.partition.drive.journal.id, segment.number, runs.front()?.address))
    }

    /// Looks for the next run in a segment; true if there is no need to look in another one.
    fn look_in(&mut self, segment: &Rc<Segment>, bytes: usize, runs_max: usize) -> bool {
        let State::Searching(above) = &mut self.state else { return true };
        let (offset, end) = (self.part.next, self.end);
        let bytes = bytes.min(self.part.bytes_max.saturating_sub(self.part.bytes));
        let found = segment.with_runs(self.id, |runs| {
            let from = &runs[runs.partition_point(|run| run.end_offset() <= offset)..];
            match from.first() {
                Some(first) if first.first_offset <= offset => {
                    Ok(following(&from[..from.len().min(runs_max)], end, bytes))
                }
                Some(first) => Err(first.first_offset),
                None => Err(Offset::MAX),
            }
        });
        match found {
            Some(Ok(runs)) if !runs.is_empty() => {
                self.state = State::Found(segment.clone(), runs);
                true
            }
            Some(Err(first)) => {
                *above = (*above).min(first);
                false
            }
            _ => false,
        }
    }

    fn take(&mut self, payload: &Chunk, run: &RunRef, room: &mut Room) {
        if self.part.take(payload, run, room) || self.part.next >= self.end {
            self.state = State::Done;
        }
    }

    /// What was read so far is good; the next fetch meets the failure.
    fn fail(&mut self, failure: Failure, next: Offset) {
        if self.part.chunks.is_empty() {
            self.failed = Some((failure, next));
        }
        self.state = State::Done;
    }

    fn go_on(&mut self, next: Offset) {
        self.part.next = next;
        self.state = if next < self.end { State::Searching(self.end) } else { State::Done };
    }
}

/// Spans that were read, and their share of the budget.
struct Group {
    spans: Vec<Span>,
    reads: Vec<io::Result<Option<Bytes>>>,
    _lease: Option<Lease>,
}

impl Shard {
    /// Reads for partitions of this shard until the room is used or nothing is left to read; gives
    /// them back in any order.
    pub(super) async fn gather(&self, readings: Vec<Reading>, room: usize) -> Vec<Reading> {
        let mut done = Vec::with_capacity(readings.len());
        let mut waiting = readings.into_iter();
        let mut turn = Vec::new();
        let mut room = Room::new(room);
        for round in 0.. {
            // A small answer looks at a few partitions only.
            let wanted = (room.left / SHARE_BYTES_MIN).max(1);
            turn.extend(waiting.by_ref().take(wanted.saturating_sub(turn.len())));
            let count = wanted.min(turn.len());
            if count == 0 || room.is_full {
                break;
            }
            if round > 0 {
                self.rt.yield_now().await;
            }
            self.round(&mut turn[..count], &mut room).await;
            done.extend(turn.extract_if(..count, |reading| matches!(reading.state, State::Done)));
        }
        done.extend(turn);
        done.extend(waiting);
        done
    }

    /// One run at least of each partition that has any, as far as there is room.
    async fn round(&self, readings: &mut [Reading], room: &mut Room) {
        let share = room.left / readings.len();
        self.locate(readings, share * SHARES_MAX).await;
        let items = plan(readings, room);
        if items.is_empty() && readings.iter().any(|reading| reading.place().is_some()) {
            // What comes next does not fit: it is not read to be cut.
            room.is_full = true;
            return;
        }
        // While one group is checked the next one is read.
        let mut groups = span::groups(span::spans(&items)).into_iter();
        let mut read = None;
        loop {
            let ahead = groups.next().map(|group| self.read_group(readings, &items, group));
            let check = read.take().map(|read| self.check_group(readings, &items, read, room));
            (read, _) = local::join2(maybe(ahead), maybe(check)).await;
            if read.is_none() || room.is_full {
                break;
            }
        }
        if room.is_full {
            return;
        }
        for reading in readings {
            if matches!(&reading.state, State::Found(_, runs) if runs.is_empty()) {
                reading.go_on(reading.part.next);
            }
        }
    }

    /// Finds the next runs of all partitions; each segment is looked at once for all of them.
    async fn locate(&self, readings: &mut [Reading], bytes: usize) {
        let runs_max = (RUNS_MAX / readings.len()).clamp(1, RUNS_OF_ONE_MAX);
        for drive in &self.drives {
            let is_wanted = |reading: &&mut Reading| {
                matches!(reading.state, State::Searching(_)) && Rc::ptr_eq(&reading.partition.drive, drive)
            };
            let mut searching: Vec<&mut Reading> = readings.iter_mut().filter(is_wanted).collect();
            if searching.is_empty() {
                continue;
            }
            let mut unread = None;
            for segment in search_order(drive) {
                if searching.is_empty() {
                    break;
                }
                if let Err(error) = drive.journal.load_index(&segment).await {
                    // Only what is found in no other segment may be in this one.
                    unread.get_or_insert(error);
                    continue;
                }
                let before = searching.len();
                searching.retain_mut(|reading| !reading.look_in(&segment, bytes, runs_max));
                if searching.len() < before {
                    drive.found_last.set(segment.number);
                }
            }
            for reading in searching {
                match (&unread, &reading.state) {
                    (Some(error), State::Searching(_)) => reading.fail(unreadable(error), -1),
                    (None, State::Searching(above)) => self.lose(reading, *above),
                    _ => {}
                }
            }
        }
    }

    /// Reads a few spans at once.
    fn read_group<'a>(
        &'a self,
        readings: &[Reading],
        items: &[Item],
        spans: Vec<Span>,
    ) -> impl Future<Output = Group> + use<'a> {
        let bytes: u64 = spans.iter().map(Span::len).sum();
        let reads = spans.iter().map(|span| read_span(readings, &items[span.items.clone()], &span.bytes));
        let reads = reads.collect();
        async move {
            let lease = match bytes {
                0 => None,
                bytes => Some(self.reads.wait(bytes as usize).await),
            };
            Group { spans, reads: local::join_all(reads).await, _lease: lease }
        }
    }

    /// Hands the runs of what was read to the partitions.
    async fn check_group(&self, readings: &mut [Reading], items: &[Item], group: Group, room: &mut Room) {
        let mut checked = 0;
        for (span, read) in group.spans.iter().zip(group.reads) {
            let items = &items[span.items.clone()];
            if read.is_err() && items.len() > 1 {
                // What cannot be read of one partition costs its neighbours nothing.
                for item in items {
                    let bytes = item.bytes();
                    let read = read_span(readings, std::slice::from_ref(item), &bytes).await;
                    self.take(readings, std::slice::from_ref(item), bytes.start, read, room);
                }
            } else {
                self.take(readings, items, span.bytes.start, read, room);
            }
            checked += span.len();
            if checked >= STEP_BYTES {
                checked = 0;
                self.rt.yield_now().await;
            }
        }
    }

    /// Hands what was read from byte `start` on to the partitions.
    fn take(
        &self,
        readings: &mut [Reading],
        items: &[Item],
        start: u64,
        read: io::Result<Option<Bytes>>,
        room: &mut Room,
    ) {
        let unchecked = self.rt.mutated("serve-without-crc");
        let payloads = read.map(|read| span::payloads(items, start, read, unchecked));
        for (at, item) in items.iter().enumerate() {
            let reading = &mut readings[item.reading];
            // Damage before it, or a full answer, ended this partition's turn.
            let is_next = (item.run.first_offset..item.run.end_offset()).contains(&reading.part.next);
            if !is_next || !matches!(reading.state, State::Found(..)) {
                continue;
            }
            match payloads.as_ref().map(|payloads| &payloads[at]) {
                Ok(Some(payload)) => reading.take(payload, &item.run, room),
                Ok(None) => {
                    let journal = &reading.partition.drive.journal;
                    if !item.run.lost && journal.accepted_until(item.id, item.run.first_offset).is_none() {
                        self.report_damage(journal, item);
                    }
                    self.lose(reading, item.run.end_offset());
                }
                Err(error) => reading.fail(unreadable(error), -1),
            }
        }
    }

    /// Nothing of a partition up to `until` can be read. It may have been removed meanwhile; or an
    /// operator accepted the loss: then readers pass over it.
    fn lose(&self, reading: &mut Reading, until: Offset) {
        let next = reading.part.next;
        if let Err(gone) = self.partition(reading.id) {
            return reading.fail(gone, -1);
        }
        let removed = {
            let log = reading.partition.log.borrow();
            (next < log.log_start).then(|| log.out_of_range(next))
        };
        if let Some(failure) = removed {
            return reading.fail(failure, -1);
        }
        match reading.partition.drive.journal.accepted_until(reading.id, next) {
            Some(next) => reading.go_on(next),
            None => reading.fail(lost(next, until), until),
        }
    }

    fn report_damage(&self, journal: &Journal, item: &Item) {
        let Item { id, segment, run, .. } = item;
        let image = self.image.borrow();
        let name = image.topic_by_id(id.topic).map_or("(deleted)", |topic| topic.name.as_str());
        self.rt.log(
            crate::rt::Level::Error,
            format!(
                "damage: journal {} file {} byte {}: topic {name} partition {} offsets {}..={} do not verify \
                 and are not served; other ranges are; see 'ringctl verify' and 'ringctl repair --accept-loss'",
                journal.id,
                Segment::name(segment.number),
                run.address,
                id.partition,
                run.first_offset,
                run.end_offset() - 1
            ),
        );
    }
}

/// What of a span lies on disk; `None`: nothing.
fn read_span(
    readings: &[Reading],
    items: &[Item],
    bytes: &Range<u64>,
) -> impl Future<Output = io::Result<Option<Bytes>>> + use<> {
    let journal = readings[items[0].reading].partition.drive.journal.clone();
    let (segment, bytes) = (items[0].segment.clone(), bytes.clone());
    async move {
        match bytes.is_empty() {
            true => Ok(None),
            false => journal.read_span(&segment, bytes).await.map(Some),
        }
    }
}

async fn maybe<T>(future: Option<impl Future<Output = T>>) -> Option<T> {
    match future {
        Some(future) => Some(future.await),
        None => None,
    }
}

/// A journal's segments in the order in which a run is looked for: where one was found last, just
/// behind that, then from the newest on.
fn search_order(drive: &Drive) -> Vec<Rc<Segment>> {
    let mut segments = drive.journal.segments();
    segments.reverse();
    if let Some(at) = segments.iter().position(|segment| segment.number == drive.found_last.get()) {
        segments[..=at].rotate_right(1);
        if at > 0 {
            segments[1..=at].rotate_right(1);
        }
    }
    segments
}

/// The first runs that follow each other, of about `bytes_max` and at least one.
fn following(runs: &[RunRef], end: Offset, bytes_max: usize) -> VecDeque<RunRef> {
    let mut out: VecDeque<RunRef> = VecDeque::new();
    let mut bytes = 0;
    for run in runs.iter().take_while(|run| run.end_offset() <= end) {
        if let Some(last) = out.back() {
            let follows = run.first_offset == last.end_offset() && run.range().start >= last.range().end;
            if !follows || bytes >= bytes_max {
                break;
            }
        }
        bytes += run.length as usize;
        out.push_back(*run);
    }
    out
}

/// The runs to read next, in the order of the journal. First one run of each, in the order in which
/// partitions were asked for, so that none waits for the backlog of others; of small runs on the disk, which
/// cost a request each, only for a part of the room. The rest goes by place, the lowest first: partitions
/// that stay together are read together.
fn plan(readings: &mut [Reading], room: &Room) -> Vec<Item> {
    let mut plan = Plan { items: Vec::new(), bytes: 0, room };
    let mut planned = vec![0; readings.len()];
    for (at, reading) in readings.iter_mut().enumerate() {
        plan.take(at, reading, &mut planned[at], room.left / SCATTERED_PART);
    }
    let places =
        readings.iter().enumerate().filter_map(|(at, reading)| Some(Reverse((reading.place()?, at))));
    let mut places: BinaryHeap<_> = places.collect();
    while let Some(Reverse((_, at))) = places.pop() {
        if plan.take(at, &mut readings[at], &mut planned[at], room.left) {
            places.extend(readings[at].place().map(|place| Reverse((place, at))));
        }
    }
    let mut items = plan.items;
    items.sort_unstable_by_key(|item| item.place);
    items
}

struct Plan<'a> {
    items: Vec<Item>,
    bytes: usize,
    room: &'a Room,
}

impl Plan<'_> {
    /// Takes the next run of a partition, unless the plan would pass the room, with a small run on the disk
    /// `scattered_max`, or the run be cut. `planned` are the bytes of this partition so far.
    fn take(&mut self, at: usize, reading: &mut Reading, planned: &mut usize, scattered_max: usize) -> bool {
        let Some(place) = reading.place() else { return false };
        let State::Found(segment, runs) = &mut reading.state else { return false };
        let Some(run) = runs.front().copied() else { return false };
        let length = run.length as usize;
        let so_far = reading.part.bytes + *planned;
        if so_far > 0 && so_far + length > reading.part.bytes_max {
            if *planned == 0 {
                reading.state = State::Done;
            }
            return false;
        }
        let source = match reading.partition.drive.journal.run_in_tail(segment, &run) {
            _ if run.lost => Source::Lost,
            Some(chunk) => Source::Memory(chunk),
            None => Source::Disk,
        };
        let is_scattered = matches!(source, Source::Disk) && run.length < SCATTERED_BYTES_MAX;
        let bytes_max = if is_scattered { scattered_max } else { self.room.left };
        let is_first = self.room.is_empty && self.items.is_empty();
        if !is_first && self.bytes + length > bytes_max {
            return false;
        }
        runs.pop_front();
        self.bytes += length;
        *planned += length;
        self.items.push(Item { reading: at, id: reading.id, place, segment: segment.clone(), run, source });
        true
    }
}

fn lost(offset: Offset, next: Offset) -> Failure {
    let text = format!(
        "the records from offset {offset} on are damaged; the next readable offset is {next}; \
         'ringctl verify' names the place, 'ringctl repair --accept-loss' closes the gap"
    );
    Failure::new(ErrorCode::CorruptMessage, text)
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::new(ErrorCode::KafkaStorageError, format!("the disk cannot be read: {error}")).retry_after(1_000)
}
