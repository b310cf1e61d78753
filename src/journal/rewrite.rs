//! Rewrite: sorts one settled segment by partition into a file of its own, merges neighbouring runs
//! and drops the dead.
//!
//! Floor 3. Owner: the journal's maintenance task. Order of effects: the output is written and
//! flushed, the folder is flushed, `complete` is durable, readers turn to the output, then the input
//! is removed. A bad run is carried as *lost*, never as data.

use std::io;
use std::rc::Rc;

use super::Journal;
use super::read::verified_payload;
use super::segment::{Index, OpenIndex, Segment};
use crate::base::align::align_up;
use crate::base::crc;
use crate::format::block::{self, BlockWriter, SORTED_LANE};
use crate::format::entry::{Entry, EntryKind};
use crate::format::footer::{RunRef, SegmentIndex};
use crate::format::frame::{self, Address, FrameHeader, FrameKind, Part};
use crate::format::manifest::{Record, Role};
use crate::format::salvage;
use crate::model::PartitionId;
use crate::rt::File;

/// Neighbouring runs of a partition are merged up to this.
const MERGED_BYTES_MAX: usize = 64 << 10;
/// The index counts the records of a run in 32 bits.
const MERGED_RECORDS_MAX: i64 = 1 << 31;
const FRAME_BYTES: usize = 1 << 20;
/// So much of a segment is in memory at once: a whole one of each journal would be more than a small memory
/// budget has. Neighbours are read together, over gaps of up to this.
const GROUP_SHARE: u64 = 8;
const SPAN_BYTES: u64 = 1 << 20;
const SPAN_GAP_BYTES: u64 = 32 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RewriteOutcome {
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Found damaged, and now known as lost.
    pub runs_lost: u64,
}

/// A run to be carried over: entry and payload, possibly of several input runs.
struct Carried {
    entry: Entry,
    payload: Vec<u8>,
}

/// The output while it grows.
struct Output {
    file: File,
    number: u64,
    byte: u32,
    chain: u32,
    index: OpenIndex,
    frame: Vec<Carried>,
    frame_bytes: usize,
}

impl Journal {
    /// Rewrites a sealed segment, keeping the runs that `is_live` names. With none left the segment
    /// is simply removed. The caller made sure that the segment is settled.
    pub async fn rewrite(
        self: &Rc<Self>,
        input: &Rc<Segment>,
        is_live: impl Fn(PartitionId, &RunRef) -> bool,
    ) -> io::Result<RewriteOutcome> {
        self.load_index(input).await?;
        let Some(index) = input.sealed_index() else {
            return Err(io::Error::other("the segment is not sealed"));
        };
        let mut outcome = RewriteOutcome { bytes_before: input.bytes, ..RewriteOutcome::default() };
        if !index.partitions().any(|(id, runs)| runs.iter().any(|run| is_live(id, run))) {
            self.remove(&[input.number]).await?;
            return Ok(outcome);
        }
        self.rt.step("rewrite.begin");
        let number = self.take_number();
        self.note_manifest(&[Record::Plan { number, role: Role::Sorted, inputs: vec![input.number] }])
            .await?;
        self.rt.step("rewrite.planned");
        let written = self.write_output(number, input, &index, is_live).await;
        let (file, footer, sealed) = match written {
            Ok((output, footer, sealed, lost)) => {
                outcome.runs_lost = lost;
                outcome.bytes_after = u64::from(output.byte);
                (output.file, footer, sealed)
            }
            Err(error) => {
                // The input stays; what there is of the output goes.
                self.remove(&[number]).await?;
                return Err(error);
            }
        };
        let bytes = outcome.bytes_after;
        let complete = [Record::Complete { number, bytes }, Record::Sealed { number, footer }];
        self.note_manifest(&complete).await?;
        self.rt.step("rewrite.complete");
        let index = Index::Loaded(Rc::new(sealed));
        let segment = Segment::new(number, Role::Sorted, file, bytes, index);
        segment.footer.set(Some(footer));
        {
            let mut segments = self.segments.borrow_mut();
            segments.insert(number, segment);
            segments.remove(&input.number);
        }
        self.remove(&[input.number]).await?;
        Ok(outcome)
    }

    /// The whole output, durable but not yet known to the manifest.
    async fn write_output(
        self: &Rc<Self>,
        number: u64,
        input: &Rc<Segment>,
        index: &SegmentIndex,
        is_live: impl Fn(PartitionId, &RunRef) -> bool,
    ) -> io::Result<(Output, u32, SegmentIndex, u64)> {
        let file =
            self.check_write("a rewrite's output could not be made", self.take_reserve(number).await)?;
        self.rt.step("rewrite.created");
        let open = OpenIndex::default();
        let mut output =
            Output { file, number, byte: 0, chain: 0, index: open, frame: Vec::new(), frame_bytes: 0 };
        let lost = self.copy_live(input, index, &mut output, is_live).await?;
        self.flush_frame(&mut output).await?;
        let (footer, sealed) = self.write_footer(&mut output).await?;
        let what = "a rewrite's output could not be written";
        self.check_write(what, output.file.truncate(output.byte.into()).await)?;
        self.rt.step("rewrite.written");
        self.check_write(what, output.file.flush().await)?;
        self.check_write(what, self.folder.sync().await)?;
        self.rt.step("rewrite.flushed");
        Ok((output, footer, sealed, lost))
    }

    async fn copy_live(
        self: &Rc<Self>,
        input: &Rc<Segment>,
        index: &SegmentIndex,
        output: &mut Output,
        is_live: impl Fn(PartitionId, &RunRef) -> bool,
    ) -> io::Result<u64> {
        let (mut lost, mut open) = (0, None);
        let (mut group, mut bytes) = (Vec::new(), 0);
        for (id, runs) in index.partitions() {
            for run in runs.iter().filter(|run| is_live(id, run)) {
                group.push((id, *run));
                bytes += run.range().end - run.range().start;
                if bytes >= input.bytes / GROUP_SHARE {
                    lost += self.copy_group(input, &group, &mut open, output).await?;
                    group.clear();
                    bytes = 0;
                }
            }
        }
        lost += self.copy_group(input, &group, &mut open, output).await?;
        if let Some(done) = open {
            self.push(output, done).await?;
        }
        Ok(lost)
    }

    /// Copies runs in their order; `open` is the last one, to which the next may be added. Answers how many
    /// are lost by now.
    async fn copy_group(
        self: &Rc<Self>,
        input: &Rc<Segment>,
        group: &[(PartitionId, RunRef)],
        open: &mut Option<Carried>,
        output: &mut Output,
    ) -> io::Result<u64> {
        let mut lost = 0;
        let mut bytes = self.read_runs(input, group).await?;
        for (at, (id, run)) in group.iter().enumerate() {
            let carried = carry(&std::mem::take(&mut bytes[at]), *id, run);
            lost += u64::from(carried.entry.kind == EntryKind::Lost && !run.lost);
            match open {
                Some(last) if merges(&last.entry, &carried.entry) => merge(last, carried),
                _ => {
                    if let Some(done) = open.replace(carried) {
                        self.push(output, done).await?;
                    }
                }
            }
        }
        Ok(lost)
    }

    /// What lies on the disk where the runs should be, in their order.
    async fn read_runs(
        &self,
        input: &Rc<Segment>,
        group: &[(PartitionId, RunRef)],
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut by_place: Vec<usize> = (0..group.len()).collect();
        by_place.sort_unstable_by_key(|&at| group[at].1.address);
        let range = |at: usize| group[at].1.range();
        let mut found = vec![Vec::new(); group.len()];
        let mut rest = &by_place[..];
        while let Some(&first) = rest.first() {
            let start = range(first).start;
            let (mut end, mut count) = (range(first).end, 1);
            for &next in &rest[1..] {
                let next = range(next);
                if next.start > end + SPAN_GAP_BYTES || next.end > start + SPAN_BYTES {
                    break;
                }
                end = end.max(next.end);
                count += 1;
            }
            let (buf, from) = self.read_span(input, start..end).await?;
            for &at in &rest[..count] {
                let run = range(at);
                let place = from + (run.start - start) as usize;
                let bytes = buf.get(place..).unwrap_or_default();
                found[at] = bytes[..bytes.len().min((run.end - run.start) as usize)].to_vec();
            }
            rest = &rest[count..];
            self.rt.yield_now().await;
        }
        Ok(found)
    }

    async fn push(self: &Rc<Self>, output: &mut Output, carried: Carried) -> io::Result<()> {
        let bytes = block::RUN_OVERHEAD_BYTES + carried.payload.len();
        if output.frame_bytes + bytes > FRAME_BYTES && !output.frame.is_empty() {
            self.flush_frame(output).await?;
        }
        output.frame_bytes += bytes;
        output.frame.push(carried);
        Ok(())
    }

    /// Writes what is gathered as one sorted frame.
    async fn flush_frame(&self, output: &mut Output) -> io::Result<()> {
        if output.frame.is_empty() {
            return Ok(());
        }
        let gathered = std::mem::take(&mut output.frame);
        let length = block::HEADER_BYTES + std::mem::take(&mut output.frame_bytes);
        let parts_at = frame::head_bytes(1);
        let mut buf = self.rt.buffer(align_up((parts_at + length) as u64) as usize);
        buf[parts_at + length..].fill(0);
        let mut writer = BlockWriter::new(&mut buf[parts_at..parts_at + length], 0, gathered.len());
        for carried in &gathered {
            let run = writer.carry(carried.entry, &[&carried.payload]);
            let address = output.byte + (parts_at + run.at) as u32;
            output.index.push(run.entry.id, RunRef::new(&run.entry, address));
        }
        let checksum = writer.finish(SORTED_LANE, 0, 0);
        self.write_frame(output, FrameKind::Sorted, buf, Part { length: length as u32, checksum }).await?;
        self.rt.step("rewrite.frame");
        Ok(())
    }

    async fn write_frame(
        &self,
        output: &mut Output,
        kind: FrameKind,
        mut buf: crate::rt::BufMut,
        part: Part,
    ) -> io::Result<()> {
        let address = Address { segment: output.number, byte: output.byte };
        let header = FrameHeader {
            kind,
            address,
            length: 0,
            previous: output.chain,
            start: self.start,
            durable: Address { segment: output.number, byte: 0 },
            parts: vec![part],
            checksum: 0,
        };
        output.chain = header.encode(self.id, &mut buf);
        let bytes = buf.len() as u64;
        if u64::from(output.byte) + bytes > self.segment_bytes {
            return Err(io::Error::other("a rewrite's output would be larger than a segment"));
        }
        let written = output.file.write_at(buf.freeze(), output.byte.into()).await;
        self.check_write("a rewrite's output could not be written", written)?;
        output.byte += bytes as u32;
        self.rt.yield_now().await;
        Ok(())
    }

    async fn write_footer(&self, output: &mut Output) -> io::Result<(u32, SegmentIndex)> {
        let index = output.index.seal();
        let payload = index.encode();
        let parts_at = frame::head_bytes(1);
        let mut buf = self.rt.buffer(align_up((parts_at + payload.len()) as u64) as usize);
        buf[parts_at..parts_at + payload.len()].copy_from_slice(&payload);
        buf[parts_at + payload.len()..].fill(0);
        let footer = output.byte;
        let part = Part { length: payload.len() as u32, checksum: crc::crc32c(&payload) };
        self.write_frame(output, FrameKind::Footer, buf, part).await?;
        Ok((footer, index))
    }
}

impl Segment {
    /// The index of a sealed segment that is in memory.
    pub fn sealed_index(&self) -> Option<Rc<SegmentIndex>> {
        match &*self.index.borrow() {
            Index::Loaded(index) => Some(index.clone()),
            _ => None,
        }
    }
}

/// A run as it was read; one that does not verify becomes a lost range.
fn carry(bytes: &[u8], id: PartitionId, run: &RunRef) -> Carried {
    let entry = Entry::decode(bytes).ok().or_else(|| salvage::entry(bytes));
    if let (Some(entry), Some(payload)) = (entry, verified_payload(bytes, id, run)) {
        return Carried { entry, payload: bytes[payload].to_vec() };
    }
    let lost = Entry {
        last_offset: run.end_offset() - 1,
        max_timestamp: run.max_timestamp,
        append_time: run.retention_time,
        ..Entry::control(EntryKind::Lost, id, run.first_offset)
    };
    Carried { entry: lost, payload: Vec::new() }
}

fn merges(last: &Entry, next: &Entry) -> bool {
    last.id == next.id
        && last.kind == EntryKind::Data
        && next.kind == EntryKind::Data
        && last.exposed_epoch == next.exposed_epoch
        && last.last_offset + 1 == next.first_offset
        && last.length as usize + next.length as usize <= MERGED_BYTES_MAX
        && next.last_offset - last.first_offset < MERGED_RECORDS_MAX
}

fn merge(last: &mut Carried, next: Carried) {
    last.payload.extend_from_slice(&next.payload);
    let entry = &mut last.entry;
    // The payloads are of one partition: the sum over both continues the first one's.
    entry.crc = crc::append(entry.crc, &next.payload);
    entry.length += next.entry.length;
    entry.last_offset = next.entry.last_offset;
    entry.last_position = next.entry.last_position;
    entry.max_timestamp = entry.max_timestamp.max(next.entry.max_timestamp);
    // Whichever expires later keeps both.
    entry.append_time = entry.append_time.max(next.entry.append_time);
}
