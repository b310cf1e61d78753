//! Reading runs back: from the tail if they are there, else from the disk, always verified.
//!
//! Floor 3. Owner: the journal.

use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::scan::{self, Scanner};
use super::segment::{Index, OpenIndex, Segment};
use super::{Damage, Journal};
use crate::api::Chunk;
use crate::base::align::{align_down, align_up};
use crate::format::entry::{self, Entry};
use crate::format::footer::{RunRef, SegmentIndex};
use crate::format::frame::{Address, FrameKind};
use crate::format::manifest::Record;
use crate::format::salvage;
use crate::model::{Offset, PartitionId};
use crate::rt::Buf;

impl Journal {
    /// The index of a sealed segment, read from its footer or, should that be damaged, rebuilt.
    pub async fn load_index(&self, segment: &Rc<Segment>) -> io::Result<()> {
        self.index_clock.set(self.index_clock.get() + 1);
        segment.index_used.set(self.index_clock.get());
        if !matches!(*segment.index.borrow(), Index::OnDisk) {
            return Ok(());
        }
        let index = match self.read_footer(segment).await? {
            Some(index) => index,
            None => {
                let text = format!(
                    "journal {} segment {}: the footer is damaged; its index was rebuilt from the frames",
                    self.id, segment.number
                );
                self.rt.log(crate::rt::Level::Warn, &text);
                self.rebuild_index(segment).await?
            }
        };
        self.rt.step("index.loaded");
        // Somebody else may have been faster; the content is the same.
        if matches!(*segment.index.borrow(), Index::OnDisk) {
            *segment.index.borrow_mut() = Index::Loaded(Rc::new(index));
            self.shrink_indexes(segment.number);
        }
        Ok(())
    }

    async fn read_footer(&self, segment: &Rc<Segment>) -> io::Result<Option<SegmentIndex>> {
        let Some(footer) = segment.footer.get() else { return Ok(None) };
        let mut scanner = Scanner::new(segment.file.clone(), self.id, segment.number, segment.bytes);
        let header = match scanner.frame(footer).await {
            Ok(header) if header.kind == FrameKind::Footer => header,
            Err(scan::NoFrame::Io(error)) => return Err(error),
            _ => return Ok(None),
        };
        let bytes = scanner.whole(&header).await?;
        if !scan::is_whole(&header, bytes) {
            return Ok(None);
        }
        let Some((_, range)) = header.part_ranges().next() else { return Ok(None) };
        Ok(SegmentIndex::decode(&bytes[range]).ok())
    }

    /// Builds a segment's index from whatever frames and blocks can be read in it.
    pub(super) async fn rebuild_index(&self, segment: &Rc<Segment>) -> io::Result<SegmentIndex> {
        let mut open = OpenIndex::default();
        let mut scanner = Scanner::new(segment.file.clone(), self.id, segment.number, segment.bytes);
        let end = segment.footer.get().map_or(segment.bytes, u64::from);
        let mut byte = 0;
        while u64::from(byte) < end {
            let next = match scanner.frame(byte).await {
                Err(scan::NoFrame::Io(error)) => return Err(error),
                Ok(header) => header.end().byte,
                Err(_) => match scanner.search(byte + 1, |_| true).await? {
                    Some(header) => header.address.byte,
                    None => end as u32,
                },
            };
            let bytes = scanner.bytes(byte.into(), (next - byte) as usize).await?;
            for block in crate::format::salvage::blocks(bytes) {
                let runs = block.runs.iter();
                for run in runs
                    .filter(|run| matches!(run.entry.kind, entry::EntryKind::Data | entry::EntryKind::Lost))
                {
                    open.push(run.entry.id, RunRef::new(&run.entry, byte + (block.at + run.at) as u32));
                }
            }
            byte = next;
        }
        Ok(open.seal())
    }

    /// Drops the least recently used sealed indexes above the budget.
    fn shrink_indexes(&self, keep: u64) {
        loop {
            let loaded = self.segments().into_iter().filter_map(|segment| {
                let bytes = match &*segment.index.borrow() {
                    Index::Loaded(index) if segment.footer.get().is_some() => index.memory_bytes(),
                    _ => return None,
                };
                Some((segment, bytes))
            });
            let loaded: Vec<_> = loaded.collect();
            if loaded.iter().map(|(_, bytes)| bytes).sum::<usize>() <= self.index_bytes_max {
                return;
            }
            let oldest = loaded
                .into_iter()
                .filter(|(segment, _)| segment.number != keep)
                .min_by_key(|(segment, _)| segment.index_used.get());
            let Some((segment, _)) = oldest else { return };
            *segment.index.borrow_mut() = Index::OnDisk;
        }
    }

    /// Aligned bytes of a segment that cover `range`, and where the range begins in them.
    pub async fn read_span(&self, segment: &Segment, range: Range<u64>) -> io::Result<(Rc<Buf>, usize)> {
        let start = align_down(range.start);
        let bytes = segment.file.read_at(start, (align_up(range.end) - start) as usize).await?;
        if start + (bytes.len() as u64) < range.end {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment is cut short"));
        }
        Ok((Rc::new(bytes), (range.start - start) as usize))
    }

    /// If an operator accepted that `offset` is lost: where readers go on.
    pub fn accepted_until(&self, id: PartitionId, offset: Offset) -> Option<Offset> {
        let manifest = self.manifest.borrow();
        let ranges = manifest.accepted_ranges.get(&id)?;
        let covering = ranges.iter().filter(|(first, last)| (*first..=*last).contains(&offset));
        covering.map(|(_, last)| last + 1).max()
    }

    /// Notes damage that an operator accepted, so that recovery and readers pass it over.
    pub async fn accept(
        &self,
        damages: &[Damage],
        ranges: &[(PartitionId, Offset, Offset)],
    ) -> io::Result<()> {
        let frames = damages.iter().map(|damage| Record::AcceptedFrames { from: damage.from, to: damage.to });
        let ranges = ranges.iter().map(|&(id, first, last)| Record::AcceptedRange { id, first, last });
        let records: Vec<_> = frames.chain(ranges).collect();
        for group in records.chunks(256) {
            self.note_manifest(group).await?;
        }
        Ok(())
    }

    /// The payload of a run in memory, without reading the disk.
    pub fn run_in_tail(&self, segment: &Segment, run: &RunRef) -> Option<Chunk> {
        let byte = run.address + entry::BYTES as u32;
        self.in_tail(Address { segment: segment.number, byte }, run.length as usize)
    }
}

/// The payload of a run within bytes that begin at its entry, if entry and payload are what the
/// index promised.
pub fn verified_payload(bytes: &[u8], id: PartitionId, run: &RunRef) -> Option<Range<usize>> {
    let entry = Entry::decode(bytes).ok().or_else(|| salvage::entry(bytes))?;
    let payload = entry::BYTES..entry::BYTES + entry.length as usize;
    let is_this = entry.id == id && entry.first_offset == run.first_offset && entry.length == run.length;
    (is_this && entry.verifies(bytes.get(payload.clone())?)).then_some(payload)
}
