//! What was found in a data folder, one line each on stdout.
//!
//! Owner: ringctl, offline.
//!
//! ```text
//! damage FILE BYTES: what it means
//! unused FILE BYTES: why nothing reads them
//! note   FILE: anything else worth knowing
//! ```

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Damage,
    /// Bytes that nothing reads and that are not zero.
    Unused,
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// Below the data folder.
    pub file: String,
    /// Half open; empty if the whole file is meant.
    pub bytes: Range<u64>,
    pub text: String,
}

pub struct Report<'a> {
    sink: &'a mut dyn FnMut(&Finding),
    pub damages: u64,
    pub files: u64,
    pub checked_bytes: u64,
    pub frames: u64,
}

impl<'a> Report<'a> {
    pub fn new(sink: &'a mut dyn FnMut(&Finding)) -> Report<'a> {
        Report { sink, damages: 0, files: 0, checked_bytes: 0, frames: 0 }
    }

    pub fn damage(&mut self, file: impl Into<String>, bytes: Range<u64>, text: impl Into<String>) {
        self.damages += 1;
        self.tell(Kind::Damage, file, bytes, text);
    }

    pub fn unused(&mut self, file: impl Into<String>, bytes: Range<u64>, text: impl Into<String>) {
        self.tell(Kind::Unused, file, bytes, text);
    }

    pub fn note(&mut self, file: impl Into<String>, text: impl Into<String>) {
        self.tell(Kind::Note, file, 0..0, text);
    }

    /// A file that was read whole.
    pub fn checked(&mut self, bytes: usize) {
        self.files += 1;
        self.checked_bytes += bytes as u64;
    }

    /// Reports the part of `range` from its first to its last byte that is not zero.
    pub fn unless_zero(&mut self, file: &str, bytes: &[u8], range: Range<u64>, text: &str) {
        let slice = &bytes[range.start as usize..range.end as usize];
        let Some(first) = first_nonzero(slice) else { return };
        let last = slice.iter().rposition(|&byte| byte != 0).unwrap_or(first);
        self.unused(file, range.start + first as u64..range.start + last as u64 + 1, text);
    }

    fn tell(&mut self, kind: Kind, file: impl Into<String>, bytes: Range<u64>, text: impl Into<String>) {
        (self.sink)(&Finding { kind, file: file.into(), bytes, text: text.into() });
    }
}

/// Index of the first byte that is not zero; fast over long zeros.
pub fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    const STEP: usize = 4096;
    for (index, chunk) in bytes.chunks(STEP).enumerate() {
        if chunk.iter().fold(0, |all, byte| all | byte) != 0 {
            return chunk.iter().position(|&byte| byte != 0).map(|at| index * STEP + at);
        }
    }
    None
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Damage => "damage",
            Kind::Unused => "unused",
            Kind::Note => "note  ",
        };
        write!(f, "{kind} {}", self.file)?;
        match self.bytes.end - self.bytes.start {
            0 => {}
            1 => write!(f, " byte {}", self.bytes.start)?,
            _ => write!(f, " bytes {}..{}", self.bytes.start, self.bytes.end)?,
        }
        write!(f, ": {}", self.text)
    }
}
