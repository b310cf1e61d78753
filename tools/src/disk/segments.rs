//! Verifies the segments of a journal: the log's along one chain, rewritten ones each by itself.
//!
//! Owner: ringctl, offline. A bad place is damage if a frame anywhere later proves that it was
//! durable, or if one flipped bit explains it; else it is the torn tail of an unfinished write,
//! of which nobody was ever told, and which the next start cuts.

use std::ops::Range;

use ringlog::format::footer::SegmentIndex;
use ringlog::format::frame::{Address, FrameHeader, FrameKind};
use ringlog::format::manifest::{FileState, Role};
use ringlog::format::{Entry, salvage};

use super::content::{self, Flaw, FlawKind};
use super::journal::Journal;
use super::report::Report;
use super::walk::{Place, Segment, Walked};
use super::{Mapped, Names};

pub fn name(number: u64) -> String {
    format!("{number:012}.seg")
}

/// One file while it is checked.
struct Check<'a, 'r, 's> {
    journal: &'a Journal<'a>,
    names: &'a Names,
    report: &'r mut Report<'s>,
    file: String,
    number: u64,
    bytes: &'a [u8],
    /// Everything before this is known to have been durable.
    proven: Address,
}

pub fn verify(journal: &Journal<'_>, names: &Names, report: &mut Report<'_>) {
    let proven = newest_proof(journal);
    let mut previous: Option<(u64, Option<u32>)> = None;
    for (&number, state) in &journal.manifest.files {
        let file = journal.file(&name(number));
        if !state.is_complete {
            report.note(file, "was being made when the broker stopped; the next start deletes it");
            continue;
        }
        let bytes = match Mapped::open(&journal.path.join(name(number))) {
            Ok(bytes) => bytes,
            Err(error) => {
                report.damage(file, 0..0, format!("cannot be read ({error}): its records are lost"));
                continue;
            }
        };
        report.checked(bytes.len());
        if bytes.len() as u64 != state.bytes {
            let text = format!("has {} bytes, {} were made", bytes.len(), state.bytes);
            report.damage(&file, 0..bytes.len() as u64, text);
        }
        let (chain, proven) = match state.role {
            Role::Log => (chain_before(journal, number, previous), proven),
            Role::Sorted => (Some(0), Address { segment: number + 1, byte: 0 }),
        };
        let walked = Segment { journal: journal.id, number, bytes: &bytes, proven }.walk(chain);
        if state.role == Role::Log {
            previous = Some((number, walked.chain));
        }
        let check = Check { journal, names, report, file, number, bytes: &bytes, proven };
        check.run(&walked, state);
    }
}

/// The newest place that any file says was durable.
fn newest_proof(journal: &Journal<'_>) -> Address {
    let mut proven = Address::default();
    let log = journal.manifest.files.iter().filter(|(_, state)| state.is_complete && state.role == Role::Log);
    for (&number, state) in log {
        if let Some(footer) = state.footer {
            proven = proven.max(Address { segment: number, byte: footer.saturating_add(1) });
        }
        let Ok(bytes) = Mapped::open(&journal.path.join(name(number))) else { continue };
        let segment = Segment { journal: journal.id, number, bytes: &bytes, proven: Address::default() };
        proven = proven.max(segment.walk(None).durable);
    }
    proven
}

/// The checksum that the first frame of a log segment must name, if it is known.
fn chain_before(journal: &Journal<'_>, number: u64, previous: Option<(u64, Option<u32>)>) -> Option<u32> {
    if number == 0 {
        return Some(0);
    }
    match previous {
        Some((before, chain)) if before + 1 == number => chain,
        _ => journal
            .checkpoints
            .iter()
            .find(|checkpoint| checkpoint.replay_segment == number)
            .map(|checkpoint| checkpoint.chain),
    }
}

impl Check<'_, '_, '_> {
    fn run(mut self, walked: &Walked, state: &FileState) {
        let mut has_footer = false;
        for place in &walked.places {
            match place {
                Place::Frame { header, flipped, unlinked } => {
                    has_footer |= header.kind == FrameKind::Footer;
                    self.frame(header, *flipped, *unlinked);
                }
                Place::Bad { range } => self.bad(range.clone()),
            }
        }
        if let Some(newer) = walked.newer {
            let range = walked.end as u64..walked.end as u64;
            return self.report.damage(&self.file, range, format!("{newer}: check with a newer ringctl"));
        }
        self.rest(walked.end, has_footer);
        if state.footer.is_some() && !has_footer {
            let text = "its index (footer) is missing; the broker rebuilds it by scanning";
            self.report.damage(&self.file, walked.end as u64..self.bytes.len() as u64, text);
        }
    }

    fn frame(&mut self, header: &FrameHeader, flipped: Option<(usize, u8)>, unlinked: bool) {
        self.report.frames += 1;
        let start = header.address.byte as u64;
        if let Some((byte, bit)) = flipped {
            let at = start + byte as u64;
            let text = format!("bit {bit} is flipped in the header of a frame that {}", self.holds(header));
            self.report.damage(&self.file, at..at + 1, text);
        }
        if unlinked {
            let end = start + u64::from(header.length);
            let text = "this frame does not follow from the one before it: something between is missing";
            self.report.damage(&self.file, start..end, text);
        }
        let flaws = content::check(self.bytes, header);
        if header.kind == FrameKind::Footer && flaws.is_empty() {
            self.footer(header);
        }
        for flaw in flaws {
            self.flaw(header, &flaw);
        }
    }

    fn footer(&mut self, header: &FrameHeader) {
        let start = header.address.byte as usize;
        for (_, range) in header.part_ranges() {
            let index = &self.bytes[start + range.start..start + range.end];
            if let Err(error) = SegmentIndex::decode(index) {
                let bytes = (start + range.start) as u64..(start + range.end) as u64;
                self.report.damage(&self.file, bytes, format!("the index makes no sense: {error}"));
            }
        }
    }

    fn flaw(&mut self, header: &FrameHeader, flaw: &Flaw) {
        let range = flaw.range.start as u64..flaw.range.end as u64;
        if flaw.kind == FlawKind::Padding {
            let text = "unused byte: padding of a frame is not zero; nothing reads it";
            return self.report.unused(&self.file, range, text);
        }
        let mut text = match &flaw.kind {
            FlawKind::Padding => String::new(),
            FlawKind::Block { runs } => {
                let held = self.list(runs.iter());
                format!(
                    "the frame of a block is damaged, which holds {held}; those whose own checksum holds are served"
                )
            }
            FlawKind::EntryCopy(entry) => {
                format!("one of two descriptions of {} is damaged; the other is good", self.entry(entry))
            }
            FlawKind::Run(entry) => {
                format!("{} cannot be read: never served, everything else is", self.entry(entry))
            }
            FlawKind::Lost(entry) => {
                format!(
                    "{} was found when this file was written: never served, everything else is",
                    self.entry(entry)
                )
            }
            FlawKind::Part(FrameKind::Footer) => {
                "the index of this segment is damaged; the broker rebuilds it by scanning".into()
            }
            FlawKind::Part(_) => "a mark, which holds no records, is damaged".into(),
        };
        let is_accepted = match &flaw.kind {
            FlawKind::Run(entry) | FlawKind::Lost(entry) => self.is_accepted(entry),
            // In the part of the log that a start replays: its frames stay as they are.
            _ => self.is_frame_accepted(header.address),
        };
        if is_accepted {
            let place = format!("{} bytes {}..{}", self.file, range.start, range.end);
            return self.report.note(place, format!("{text}; its loss was accepted"));
        }
        if let Some(bit) = flaw.bit {
            text = format!("bit {bit} is flipped: {text}");
        } else if header.address >= self.proven {
            text = format!("end of an unfinished write, never acknowledged: the next start cuts it ({text})");
            return self.report.note(format!("{} bytes {}..{}", self.file, range.start, range.end), text);
        }
        self.report.damage(&self.file, range, text);
    }

    /// Whether an operator accepted what is wrong with the frame at this place.
    fn is_frame_accepted(&self, at: Address) -> bool {
        self.journal.manifest.accepted_frames.iter().any(|(start, end)| (*start..*end).contains(&at))
    }

    /// Whether an operator gave up all of this run.
    fn is_accepted(&self, entry: &Entry) -> bool {
        let ranges = self.journal.manifest.accepted_ranges.get(&entry.id);
        ranges.is_some_and(|ranges| {
            ranges.iter().any(|(first, last)| *first <= entry.first_offset && entry.last_offset <= *last)
        })
    }

    fn bad(&mut self, range: Range<usize>) {
        let from = Address { segment: self.number, byte: range.start as u32 };
        let blocks = salvage::blocks(&self.bytes[range.clone()]);
        let entries: Vec<Entry> =
            blocks.iter().flat_map(|block| block.runs.iter().map(|run| run.entry)).collect();
        let bytes = range.start as u64..range.end as u64;
        let held = self.list(entries.iter());
        if self.is_frame_accepted(from) {
            let text = format!("damaged, and its loss was accepted; it held {held}");
            return self.report.note(format!("{} bytes {}..{}", self.file, bytes.start, bytes.end), text);
        }
        let text = format!("no frame verifies here although it was acknowledged; it held {held}");
        self.report.damage(&self.file, bytes, text);
    }

    /// What lies behind the last frame.
    fn rest(&mut self, end: usize, has_footer: bool) {
        let range = end as u64..self.bytes.len() as u64;
        let at = Address { segment: self.number, byte: end as u32 };
        let is_log_end = self.proven <= at;
        if is_log_end || has_footer {
            let text = "not read by anything: behind the last frame";
            return self.report.unless_zero(&self.file, self.bytes, range, text);
        }
        let is_sealed = self.proven.segment > self.number;
        if is_sealed && super::report::first_nonzero(&self.bytes[end..]).is_none() {
            return;
        }
        self.bad(end..self.bytes.len());
    }

    fn holds(&self, header: &FrameHeader) -> String {
        let start = header.address.byte as usize;
        let frame = &self.bytes[start..start + header.length as usize];
        let blocks = salvage::blocks(frame);
        let entries: Vec<Entry> =
            blocks.iter().flat_map(|block| block.runs.iter().map(|run| run.entry)).collect();
        match entries[..] {
            [] => "holds no records".into(),
            _ => format!("holds {}; those whose own checksum holds are served", self.list(entries.iter())),
        }
    }

    fn entry(&self, entry: &Entry) -> String {
        content::describe(entry, &self.names.topic(entry.id.topic))
    }

    /// The first few entries in words.
    fn list<'e>(&self, entries: impl ExactSizeIterator<Item = &'e Entry>) -> String {
        const SHOWN: usize = 20;
        let count = entries.len();
        let mut words: Vec<String> = entries.take(SHOWN).map(|entry| self.entry(entry)).collect();
        if count > SHOWN {
            words.push(format!("and {} more", count - SHOWN));
        }
        if words.is_empty() { "nothing that can be told".into() } else { words.join(", ") }
    }
}
