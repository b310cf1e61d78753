//! Reads the two files of a twin log as bytes: what is current, which records there are, what
//! every byte means, and which copies are damaged.
//!
//! Floor 2. Pure; `open` acts on it, and `ringctl verify` prints it.
//! Invariant: regions cover both files without gap or overlap, whatever the bytes are.

use std::fmt;

use super::layout::{Found, Group, HEADERS_BYTES, Header, Seed};
use crate::base::align::BLOCK_BYTES;

/// A damaged copy whose twin is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    pub position: u64,
    pub bytes: u64,
    pub what: &'static str,
    /// It is part of the last write: a power cut in the middle of it looks the same, and is harmless.
    pub maybe_torn: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} byte {}: a copy of {} was damaged and repaired", self.file, self.position, self.what)
    }
}

/// Why a twin log cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("{file} is missing or shorter than its header")]
    Missing { file: String },
    #[error("both copies of {what} are damaged: {file}, bytes {position}..{end}")]
    Damaged { file: String, position: u64, end: u64, what: &'static str },
    #[error("{file} has format version {version}; this broker reads version 1: start a newer one")]
    Newer { file: String, version: u16 },
}

/// What a range of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Header {
        copy: u8,
    },
    Group {
        sequence: u64,
        copy: u8,
    },
    /// No reader ever looks at it: never written, of an earlier generation, or cut.
    Unused,
    /// Both copies are lost.
    Damaged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// 0 or 1: which file.
    pub slot: usize,
    pub start: u64,
    pub end: u64,
    pub meaning: Meaning,
    pub good: bool,
}

/// A copy to be rewritten from its twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repair {
    pub slot: usize,
    pub position: u64,
    pub source: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Since and including the last snapshot.
    pub records: Vec<Vec<u8>>,
    /// Copies that are damaged while their twin is good.
    pub damages: Vec<Damage>,
    pub regions: Vec<Region>,
    /// Set: nothing may be concluded from `records`.
    pub unusable: Option<Unusable>,
    pub(super) repairs: Vec<Repair>,
    /// The current header and the last record, copy by copy: nothing proves that they are durable.
    pub(super) unproven: Vec<Repair>,
    pub(super) current: usize,
    pub(super) generation: u64,
    pub(super) stamp: u64,
    pub(super) next_sequence: u64,
    /// Where the next group goes.
    pub(super) end: u64,
}

/// Name of one of the two files.
pub fn file_name(name: &str, slot: usize) -> String {
    format!("{name}.{slot}")
}

/// Scans the log `name` of the broker or journal `identity`. An absent file is an empty slice.
pub fn scan(name: &str, identity: u64, files: [&[u8]; 2]) -> Scan {
    let mut scanner = Scanner { name, seed: Seed::new(identity, name), files, scan: Scan::default() };
    if let Err(unusable) = scanner.run() {
        scanner.scan.unusable = Some(unusable);
    }
    scanner.cover();
    scanner.scan
}

/// The file with the current generation, judged by both files' headers alone.
pub(super) fn choose(name: &str, identity: u64, headers: [&[u8]; 2]) -> Result<usize, Unusable> {
    let seed = Seed::new(identity, name);
    let mut scanner = Scanner { name, seed, files: headers, scan: Scan::default() };
    let headers = [scanner.header(0)?, scanner.header(1)?];
    Ok(usize::from(headers[1].generation > headers[0].generation))
}

struct Scanner<'a> {
    name: &'a str,
    seed: Seed,
    files: [&'a [u8]; 2],
    scan: Scan,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), Unusable> {
        let headers = [self.header(0)?, self.header(1)?];
        let current = usize::from(headers[1].generation > headers[0].generation);
        let header = headers[current];
        if header.generation == 0 {
            // Both files claim to be the spare one: its creation never ended.
            return Err(Unusable::Missing { file: file_name(self.name, 0) });
        }
        self.scan.current = current;
        self.scan.generation = header.generation;
        self.scan.stamp = header.stamp;
        self.scan.next_sequence = header.first_sequence;
        self.scan.end = HEADERS_BYTES;
        while self.group(current, &header)? {}
        let block = BLOCK_BYTES as u64;
        let second = Header::decode(self.seed, &self.files[current][BLOCK_BYTES..]) == Found::Good(header);
        let source = if second { block } else { 0 };
        let copies = [0, block].map(|position| Repair { slot: current, position, source, bytes: block });
        self.scan.unproven.splice(..0, copies);
        Ok(())
    }

    /// The newer of a file's two headers; the other one is repaired from it.
    fn header(&mut self, slot: usize) -> Result<Header, Unusable> {
        let file = self.files[slot];
        if (file.len() as u64) < HEADERS_BYTES {
            return Err(Unusable::Missing { file: file_name(self.name, slot) });
        }
        let copies = [Header::decode(self.seed, file), Header::decode(self.seed, &file[BLOCK_BYTES..])];
        for (copy, found) in copies.iter().enumerate() {
            let start = (copy * BLOCK_BYTES) as u64;
            let meaning = Meaning::Header { copy: copy as u8 };
            let good = *found != Found::Bad;
            self.region(slot, start, BLOCK_BYTES as u64, meaning, good);
        }
        let block = BLOCK_BYTES as u64;
        match copies {
            [Found::Newer(version), _] | [_, Found::Newer(version)] => {
                Err(Unusable::Newer { file: file_name(self.name, slot), version })
            }
            [Found::Good(a), Found::Good(b)] => {
                // Different: the rewrite of the headers, one after the other, was interrupted.
                if a.generation > b.generation {
                    self.scan.repairs.push(Repair { slot, position: block, source: 0, bytes: block });
                } else if b.generation > a.generation {
                    self.scan.repairs.push(Repair { slot, position: 0, source: block, bytes: block });
                }
                Ok(if b.generation > a.generation { b } else { a })
            }
            [Found::Good(a), Found::Bad] => {
                self.damage(slot, block, 0, block, "the header", true);
                Ok(a)
            }
            [Found::Bad, Found::Good(b)] => {
                self.damage(slot, 0, block, block, "the header", true);
                Ok(b)
            }
            [Found::Bad, Found::Bad] => Err(self.lost(slot, 0, HEADERS_BYTES, "the header")),
        }
    }

    /// Takes in the next group; `false` at the end of the log.
    fn group(&mut self, slot: usize, header: &Header) -> Result<bool, Unusable> {
        let (start, sequence) = (self.scan.end, self.scan.next_sequence);
        let rest = self.files[slot].get(start as usize..).unwrap_or_default();
        let first = self.expected(slot, rest)?;
        let (bytes, copies) = match first {
            Some(group) => {
                let second = rest.get(group.bytes..).unwrap_or_default();
                let second = self.expected(slot, second)?;
                (group.bytes, [true, second.is_some_and(|second| second.bytes == group.bytes)])
            }
            None => match self.second_copy(slot, rest)? {
                Some(bytes) => (bytes, [false, true]),
                None => return self.end_or_damage(slot, header),
            },
        };
        let good = rest.get(if copies[0] { 0 } else { bytes }..).unwrap_or_default();
        if let Found::Good(group) = Group::decode(self.seed, good) {
            self.scan.records.extend(group.records().map(<[u8]>::to_vec));
        }
        for (copy, good) in copies.into_iter().enumerate() {
            let meaning = Meaning::Group { sequence, copy: copy as u8 };
            self.region(slot, start + (copy * bytes) as u64, bytes as u64, meaning, good);
        }
        let bytes = bytes as u64;
        let source = if copies[0] { start } else { start + bytes };
        let again = [start, start + bytes].map(|position| Repair { slot, position, source, bytes });
        self.scan.unproven = again.to_vec();
        if copies != [true, true] {
            let (bad, good) = if copies[0] { (start + bytes, start) } else { (start, start + bytes) };
            let last = !self.later_exists(slot, start + 2 * bytes, sequence.saturating_add(1));
            self.damage(slot, bad, good, bytes, "a record", last);
        }
        self.scan.end = start + 2 * bytes;
        self.scan.next_sequence = sequence.saturating_add(1);
        Ok(true)
    }

    /// The group at the start of `bytes`, if it verifies and is the one that comes next.
    fn expected<'b>(&self, slot: usize, bytes: &'b [u8]) -> Result<Option<Group<'b>>, Unusable> {
        match Group::decode(self.seed, bytes) {
            Found::Good(group) => {
                let next = group.stamp == self.scan.stamp && group.sequence == self.scan.next_sequence;
                Ok(next.then_some(group))
            }
            Found::Newer(version) => Err(Unusable::Newer { file: file_name(self.name, slot), version }),
            Found::Bad => Ok(None),
        }
    }

    /// Searches the second copy of a group whose first is bad: it lies as far behind the first as
    /// it is long.
    fn second_copy(&self, slot: usize, rest: &[u8]) -> Result<Option<usize>, Unusable> {
        for distance in (BLOCK_BYTES..rest.len()).step_by(BLOCK_BYTES) {
            match self.expected(slot, &rest[distance..])? {
                Some(group) if group.bytes == distance => return Ok(Some(distance)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Neither copy is there: the end of the log, unless the group must have been durable.
    fn end_or_damage(&mut self, slot: usize, header: &Header) -> Result<bool, Unusable> {
        let (start, sequence) = (self.scan.end, self.scan.next_sequence);
        let in_snapshot = sequence < header.first_sequence.saturating_add(header.snapshot_groups.into());
        if in_snapshot || self.later_exists(slot, start, sequence.saturating_add(1)) {
            let end = self.files[slot].len() as u64;
            return Err(self.lost(slot, start, end, "a record"));
        }
        Ok(false)
    }

    /// Whether a group of at least this sequence verifies at or behind `start`.
    fn later_exists(&self, slot: usize, start: u64, sequence: u64) -> bool {
        let file = self.files[slot];
        (start as usize..file.len()).step_by(BLOCK_BYTES).any(|at| {
            matches!(Group::decode(self.seed, &file[at..]), Found::Good(group)
                if group.stamp == self.scan.stamp && group.sequence >= sequence)
        })
    }

    fn damage(
        &mut self,
        slot: usize,
        position: u64,
        source: u64,
        bytes: u64,
        what: &'static str,
        torn: bool,
    ) {
        let file = file_name(self.name, slot);
        self.scan.damages.push(Damage { file, position, bytes, what, maybe_torn: torn });
        self.scan.repairs.push(Repair { slot, position, source, bytes });
    }

    fn lost(&mut self, slot: usize, position: u64, end: u64, what: &'static str) -> Unusable {
        self.scan.regions.retain(|region| region.slot != slot || region.end <= position);
        self.region(slot, position, end - position, Meaning::Damaged, false);
        Unusable::Damaged { file: file_name(self.name, slot), position, end, what }
    }

    fn region(&mut self, slot: usize, start: u64, bytes: u64, meaning: Meaning, good: bool) {
        // A truncated file may end within the second copy.
        let end = (start + bytes).min(self.files[slot].len() as u64);
        if start < end {
            self.scan.regions.push(Region { slot, start, end, meaning, good });
        }
    }

    /// Names what no structure covered.
    fn cover(&mut self) {
        for slot in 0..2 {
            let length = self.files[slot].len() as u64;
            let covered = self.scan.regions.iter().filter(|region| region.slot == slot);
            let start = covered.map(|region| region.end).max().unwrap_or(0);
            if start < length {
                self.region(slot, start, length - start, Meaning::Unused, true);
            }
        }
        self.scan.regions.sort_by_key(|region| (region.slot, region.start));
    }
}
