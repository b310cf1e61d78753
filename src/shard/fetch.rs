//! Fetch: long polls over partitions of this shard, served from the tail or the disk.
//!
//! Floor 5. Owner: the shard. Invariant: nothing at or above the high watermark, below the log start,
//! or unverified leaves; damage is answered with CORRUPT_MESSAGE and the next offset that can be read.

use std::any::Any;
use std::rc::Rc;
use std::time::Duration;

use super::{Partition, Shard};
use crate::api::{Chunk, Done, Fetch, FetchPartition, FetchedPartition, Reply};
use crate::format::entry;
use crate::format::footer::RunRef;
use crate::journal::{Segment, verified_payload};
use crate::model::{ErrorCode, Failure, Offset, PartitionId};
use crate::net::FETCH_BYTES_MIN;
use crate::record;
use crate::rt::local::{self, Event};

/// One read of the disk covers at most this.
const SPAN_BYTES: u64 = 1 << 20;
/// Runs of a partition closer than this are read in one span.
const SPAN_GAP_BYTES: u64 = 32 << 10;
/// Runs that one look at the index hands out.
const RUNS_MAX: usize = 256;

/// Where a partition's records go on.
enum Place {
    Runs {
        segment: Rc<Segment>,
        runs: Vec<RunRef>,
    },
    /// Nothing is readable at the offset; records go on there.
    Gap(Offset),
}

/// What became of a partition's part of a fetch.
struct Gathered {
    chunks: Vec<Chunk>,
    bytes: usize,
    next: Offset,
    /// The next batch did not fit.
    is_full: bool,
}

/// Bytes that a partition's part of an answer may have.
#[derive(Clone, Copy)]
struct Room {
    wanted: usize,
    /// For its first batch, which may be larger than what was wanted; `usize::MAX` if the answer
    /// would be empty without it.
    first: usize,
}

impl Room {
    fn takes(self, before: usize, batch: usize) -> bool {
        before + batch <= self.wanted || before == 0 && batch <= self.first
    }
}

impl Shard {
    /// A number and an event for whoever waits on partitions.
    pub(super) fn watch(&self) -> (u64, Event) {
        self.fetch_last.set(self.fetch_last.get() + 1);
        (self.fetch_last.get(), Event::new())
    }

    pub(super) fn fetch(self: &Rc<Self>, fetch: Fetch, done: Done) {
        let shard = self.clone();
        self.rt.spawn(async move {
            let fetched = shard.long_poll(fetch).await;
            done(Ok(Reply::Fetched(fetched)));
        });
    }

    async fn long_poll(&self, fetch: Fetch) -> Vec<FetchedPartition> {
        let deadline = self.rt.now() + Duration::from_millis(fetch.wait_ms_max.into());
        let watch = self.watch();
        loop {
            self.watch_partitions(&fetch, &watch);
            let (fetched, bytes) = self.read_all(&fetch).await;
            let has_news =
                |partition: &FetchedPartition| partition.error.is_some() || partition.next_offset >= 0;
            let failed = fetched.iter().any(has_news);
            let wait = deadline.since(self.rt.now());
            let enough = bytes >= fetch.bytes_min.max(1) as usize || fetch.bytes_min == 0;
            if failed || enough || wait.is_zero() || self.stopping.get() {
                self.unwatch(&fetch, watch.0);
                return fetched;
            }
            local::timeout(&self.rt, wait, watch.1.wait()).await;
            self.unwatch(&fetch, watch.0);
        }
    }

    fn watch_partitions(&self, fetch: &Fetch, watch: &(u64, Event)) {
        let partitions = self.partitions.borrow();
        for wanted in &fetch.partitions {
            if let Some(partition) = partitions.get(&wanted.partition) {
                partition.log.borrow_mut().watch(watch.clone());
            }
        }
    }

    fn unwatch(&self, fetch: &Fetch, number: u64) {
        let partitions = self.partitions.borrow();
        for wanted in &fetch.partitions {
            if let Some(partition) = partitions.get(&wanted.partition) {
                partition.log.borrow_mut().unwatch(number);
            }
        }
    }

    async fn read_all(&self, fetch: &Fetch) -> (Vec<FetchedPartition>, usize) {
        let mut out = Vec::with_capacity(fetch.partitions.len());
        let mut bytes = 0;
        for wanted in &fetch.partitions {
            // Records on their way to sockets are bounded together; a fetch always gets a little.
            let left = self.memory.replies.left().max(FETCH_BYTES_MIN);
            let room = (fetch.bytes_max as usize).min(bytes + left).saturating_sub(bytes);
            // A full answer still tells where the other partitions stand. Only the first batch of all
            // may exceed what was asked for.
            let first = if bytes == 0 { usize::MAX } else { room };
            let room = Room { wanted: room.min(wanted.bytes_max as usize), first };
            let fetched = self.read_partition(wanted, room).await;
            bytes += fetched.chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
            out.push(fetched);
        }
        (out, bytes)
    }

    async fn read_partition(&self, wanted: &FetchPartition, room: Room) -> FetchedPartition {
        let mut fetched = FetchedPartition {
            partition: wanted.partition,
            error: None,
            next_offset: -1,
            high_watermark: -1,
            log_start: -1,
            chunks: Vec::new(),
        };
        let partition = match self.partition(wanted.partition) {
            Ok(partition) => partition,
            Err(failure) => {
                fetched.error = Some(failure);
                return fetched;
            }
        };
        let in_range = {
            let log = partition.log.borrow();
            let above = self.rt.mutated("read-above-high-watermark");
            let visible_end = if above { log.next_offset } else { log.visible_end };
            (fetched.high_watermark, fetched.log_start) = (visible_end, log.log_start);
            if (log.log_start..=visible_end).contains(&wanted.offset) {
                wanted.offset < visible_end && room.first > 0
            } else {
                fetched.error = Some(log.out_of_range(wanted.offset));
                false
            }
        };
        if in_range {
            let visible_end = fetched.high_watermark;
            let mut lease = self.memory.replies.lease(room.wanted);
            match self.gather(&partition, wanted, visible_end, room).await {
                Ok(gathered) => {
                    // All that was wanted is an accepted loss: the reader goes on behind it.
                    if gathered.chunks.is_empty() && gathered.next > wanted.offset {
                        fetched.next_offset = gathered.next;
                    }
                    lease.shrink(gathered.chunks.iter().map(|chunk| chunk.len()).sum());
                    let lease: Rc<dyn Any> = Rc::new(lease);
                    let chunks = gathered.chunks.into_iter();
                    fetched.chunks = chunks.map(|chunk| chunk.holding(lease.clone())).collect();
                }
                Err((failure, next)) => {
                    fetched.error = Some(failure);
                    fetched.next_offset = next;
                }
            }
        }
        fetched
    }

    async fn gather(
        &self,
        partition: &Partition,
        wanted: &FetchPartition,
        end: Offset,
        room: Room,
    ) -> Result<Gathered, (Failure, Offset)> {
        let mut out = Gathered { chunks: Vec::new(), bytes: 0, next: wanted.offset, is_full: false };
        while out.next < end && !out.is_full {
            let place = self.locate(partition, wanted.partition, out.next, end).await;
            let result: Result<(), (Failure, Offset)> = match place {
                Ok(Place::Runs { segment, runs }) => {
                    self.read_runs(partition, wanted.partition, &segment, &runs, room, &mut out).await
                }
                Ok(Place::Gap(next)) => Err((lost(out.next, next), next)),
                Err(error) => Err((unreadable(&error), -1)),
            };
            match result {
                Ok(()) => {}
                Err((failure, damaged_until)) if failure.code == ErrorCode::CorruptMessage => {
                    // An operator may have accepted the loss: then readers pass over it.
                    match partition.drive.journal.accepted_until(wanted.partition, out.next) {
                        Some(next) => out.next = next,
                        // What was read so far is good; the next fetch meets the damage.
                        None if !out.chunks.is_empty() => break,
                        None => return Err((failure, damaged_until)),
                    }
                }
                Err(_) if !out.chunks.is_empty() => break,
                Err(failed) => return Err(failed),
            }
        }
        Ok(out)
    }

    /// The runs from the one that holds `offset` on, as far as they follow in one segment.
    async fn locate(
        &self,
        partition: &Partition,
        id: PartitionId,
        offset: Offset,
        end: Offset,
    ) -> std::io::Result<Place> {
        let journal = &partition.drive.journal;
        let mut next = end;
        for segment in journal.segments().into_iter().rev() {
            journal.load_index(&segment).await?;
            let found = segment.with_runs(id, |runs| {
                let at = runs.partition_point(|run| run.end_offset() <= offset);
                let from = &runs[at..];
                match from.first() {
                    Some(first) if first.first_offset <= offset => {
                        let visible = from.iter().take(RUNS_MAX).take_while(|run| run.end_offset() <= end);
                        Ok(visible.copied().collect::<Vec<_>>())
                    }
                    Some(first) => Err(first.first_offset),
                    None => Err(Offset::MAX),
                }
            });
            match found {
                Some(Ok(runs)) if !runs.is_empty() => return Ok(Place::Runs { segment, runs }),
                Some(Err(first)) => next = next.min(first),
                _ => {}
            }
        }
        Ok(Place::Gap(next))
    }

    /// Reads runs that follow each other until the answer is full or one is damaged.
    async fn read_runs(
        &self,
        partition: &Partition,
        id: PartitionId,
        segment: &Rc<Segment>,
        runs: &[RunRef],
        room: Room,
        out: &mut Gathered,
    ) -> Result<(), (Failure, Offset)> {
        let journal = &partition.drive.journal;
        let mut at = 0;
        while at < runs.len() && !out.is_full {
            let run = &runs[at];
            if run.first_offset > out.next {
                return Ok(()); // A gap: located anew, and named there.
            }
            if run.lost {
                return Err((lost(out.next, run.end_offset()), run.end_offset()));
            } else if let Some(payload) = journal.run_in_tail(segment, run) {
                out.take(&payload, run, room);
                at += 1;
            } else {
                let count = span_of(&runs[at..], room.wanted.saturating_sub(out.bytes));
                let span = runs[at].range().start..runs[at + count - 1].range().end;
                let read = journal.read_span(segment, span.clone()).await;
                let (buf, from) = read.map_err(|error| (unreadable(&error), -1))?;
                for run in &runs[at..at + count] {
                    if out.is_full {
                        return Ok(());
                    }
                    let start = from + (run.range().start - span.start) as usize;
                    let unchecked = self.rt.mutated("serve-without-crc");
                    let payload = match verified_payload(&buf[start..], id, run) {
                        None if unchecked => Some(entry::BYTES..entry::BYTES + run.length as usize),
                        payload => payload,
                    };
                    let Some(payload) = payload else {
                        if journal.accepted_until(id, run.first_offset).is_none() {
                            self.report_damage(partition, id, segment, run);
                        }
                        return Err((lost(run.first_offset, run.end_offset()), run.end_offset()));
                    };
                    let chunk = Chunk::new(buf.clone(), start + payload.start..start + payload.end);
                    out.take(&chunk, run, room);
                }
                at += count;
            }
        }
        Ok(())
    }

    fn report_damage(&self, partition: &Partition, id: PartitionId, segment: &Segment, run: &RunRef) {
        let image = self.image.borrow();
        let name = image.topic_by_id(id.topic).map_or("(deleted)", |topic| topic.name.as_str());
        self.rt.log(
            crate::rt::Level::Error,
            format!(
                "damage: journal {} file {} byte {}: topic {name} partition {} offsets {}..={} do not verify \
                 and are not served; other ranges are; see 'ringctl verify' and 'ringctl repair --accept-loss'",
                partition.drive.journal.id,
                Segment::name(segment.number),
                run.address,
                id.partition,
                run.first_offset,
                run.end_offset() - 1
            ),
        );
    }
}

impl Gathered {
    /// Takes the whole batches of a run's payload that are wanted, as many as there is room for.
    fn take(&mut self, payload: &Chunk, run: &RunRef, room: Room) {
        let (mut start, mut end) = (0, 0);
        let mut next = run.end_offset();
        for batch in record::batches(payload).map_while(Result::ok) {
            let bytes = batch.bytes().len();
            if batch.next_offset() <= self.next {
                start = end + bytes;
            } else if !room.takes(self.bytes + end - start, bytes) {
                self.is_full = true;
                next = batch.base_offset().max(self.next);
                break;
            }
            end += bytes;
        }
        if end > start {
            self.chunks.push(payload.slice(start..end));
            self.bytes += end - start;
        }
        self.next = next;
        self.is_full |= self.bytes >= room.wanted.max(1);
    }
}

/// How many of the runs one read of the disk covers.
fn span_of(runs: &[RunRef], bytes_max: usize) -> usize {
    let start = runs[0].range().start;
    let mut count = 1;
    let mut bytes = runs[0].length as usize;
    while let Some(next) = runs.get(count) {
        let last = &runs[count - 1];
        let (gap_from, range) = (last.range().end, next.range());
        let follows = next.first_offset == last.end_offset() && !next.lost && range.start >= gap_from;
        if !follows
            || range.start - gap_from > SPAN_GAP_BYTES
            || range.end - start > SPAN_BYTES
            || bytes >= bytes_max
        {
            break;
        }
        bytes += next.length as usize;
        count += 1;
    }
    count
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Compression};

    /// A run of batches of one record each, and the bytes of one.
    fn run(first_offset: Offset, batches: i64) -> (Chunk, RunRef, usize) {
        let mut payload = Vec::new();
        for offset in first_offset..first_offset + batches {
            let mut builder = BatchBuilder::new(0);
            builder.append(0, None, Some(&[7; 100]), &[]);
            let mut batch = builder.build(Compression::None, None);
            record::stamp(&mut batch, offset, 0);
            payload.extend_from_slice(&batch);
        }
        let bytes = payload.len();
        let run = RunRef {
            first_offset,
            max_timestamp: 0,
            retention_time: 0,
            records: batches as u32,
            address: 0,
            length: bytes as u32,
            lost: false,
        };
        (Chunk::new(Rc::new(payload), 0..bytes), run, bytes / batches as usize)
    }

    fn gathered(next: Offset) -> Gathered {
        Gathered { chunks: Vec::new(), bytes: 0, next, is_full: false }
    }

    #[test]
    fn only_the_first_batch_of_all_may_exceed_the_room() {
        let (payload, run, batch) = run(10, 5);
        let take = |wanted: usize, first: usize, from: Offset| {
            let mut out = gathered(from);
            out.take(&payload, &run, Room { wanted, first });
            (out.bytes / batch, out.next, out.is_full)
        };
        assert_eq!(take(10 * batch, 0, 10), (5, 15, false));
        assert_eq!(take(10 * batch, 0, 12), (3, 15, false));
        assert_eq!(take(3 * batch - 1, 0, 10), (2, 12, true));
        assert_eq!(take(1, usize::MAX, 10), (1, 11, true));
        assert_eq!(take(1, batch, 13), (1, 14, true));
        assert_eq!(take(1, batch - 1, 10), (0, 10, true));
    }

    #[test]
    fn runs_behind_each_other_fill_the_room_and_no_more() {
        let ((first, first_run, batch), (second, second_run, _)) = (run(0, 3), run(3, 3));
        let room = Room { wanted: 4 * batch + 1, first: usize::MAX };
        let mut out = gathered(0);
        out.take(&first, &first_run, room);
        out.take(&second, &second_run, room);
        assert_eq!((out.bytes, out.next, out.is_full), (4 * batch, 4, true));
    }
}
