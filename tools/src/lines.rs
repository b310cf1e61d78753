//! Lines of a stream as records: one record a line, the line end not included.
//!
//! Owner: ringctl. Keeps every byte but `\n`. An empty line is an empty record; a last line without
//! `\n` is a record too; nothing after the last `\n` is none. Memory is bounded: a line longer than
//! the bound is skipped while it is read, and reported.
//!
//! The reader hands out whole blocks of lines (so a fast pipe costs one hand-over per 64 KiB or
//! more, a slow one is not delayed), each in an allocation of its own exact size.

use std::io::Read;

use bytes::Bytes;

/// Most bytes asked of the stream at a time.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// One or more whole lines. Each ends in `\n`, but perhaps the last one of the stream.
    Lines(Bytes),
    /// A line that was left out because it is too long; its length without the line end.
    TooLong { bytes: u64 },
}

pub struct LineReader<R> {
    source: R,
    line_bytes_max: usize,
    buffer: Vec<u8>,
    /// Bytes read and not handed out: `buffer[start..end]`; `buffer[start..searched]` has no line end.
    start: usize,
    searched: usize,
    end: usize,
    /// Bytes left out so far of a line that is too long.
    skipped: Option<u64>,
}

impl<R: Read> LineReader<R> {
    /// A line of up to `line_bytes_max` bytes is always handed out.
    pub fn new(source: R, line_bytes_max: usize) -> Self {
        let buffer = vec![0; READ_BYTES];
        LineReader { source, line_bytes_max, buffer, start: 0, searched: 0, end: 0, skipped: None }
    }

    /// The next lines; `None` at the end.
    pub fn next(&mut self) -> std::io::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.take() {
                return Ok(Some(piece));
            }
            if !self.read()? {
                return Ok(self.take_rest());
            }
        }
    }

    /// What can be handed out of the bytes at hand.
    fn take(&mut self) -> Option<Piece> {
        if let Some(skipped) = self.skipped {
            let length = memchr::memchr(b'\n', &self.buffer[self.start..self.end]);
            let left_out = skipped + length.unwrap_or(self.end - self.start) as u64;
            self.start = length.map_or(self.end, |length| self.start + length + 1);
            self.searched = self.start;
            self.skipped = length.is_none().then_some(left_out);
            return length.map(|_| Piece::TooLong { bytes: left_out });
        }
        let new = &self.buffer[self.searched..self.end];
        if let Some(last) = memchr::memrchr(b'\n', new).map(|index| self.searched + index) {
            let lines = Bytes::copy_from_slice(&self.buffer[self.start..=last]);
            self.start = last + 1;
            self.searched = self.end;
            return Some(Piece::Lines(lines));
        }
        self.searched = self.end;
        if self.end - self.start > self.line_bytes_max {
            self.skipped = Some((self.end - self.start) as u64);
            self.start = self.end;
        }
        None
    }

    /// The last line, which has no line end.
    fn take_rest(&mut self) -> Option<Piece> {
        if let Some(bytes) = self.skipped.take() {
            return Some(Piece::TooLong { bytes });
        }
        let rest = Bytes::copy_from_slice(&self.buffer[self.start..self.end]);
        self.start = self.end;
        (!rest.is_empty()).then_some(Piece::Lines(rest))
    }

    /// Reads some bytes behind those at hand; false at the end.
    fn read(&mut self) -> std::io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.searched -= self.start;
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() - self.end < READ_BYTES / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(bytes) => {
                    self.end += bytes;
                    return Ok(bytes > 0);
                }
            }
        }
    }
}

/// The lines of one [`Piece::Lines`], without their line ends; they share its memory.
pub struct Lines {
    rest: Bytes,
}

impl Lines {
    pub fn new(lines: Bytes) -> Lines {
        Lines { rest: lines }
    }
}

impl Iterator for Lines {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        match memchr::memchr(b'\n', &self.rest) {
            Some(length) => {
                let mut line = self.rest.split_to(length + 1);
                line.truncate(length);
                Some(line)
            }
            None => Some(std::mem::take(&mut self.rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that gives at most `step` bytes a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let bytes = self.1.min(self.0.len()).min(buffer.len());
            buffer[..bytes].copy_from_slice(&self.0[..bytes]);
            self.0 = &self.0[bytes..];
            Ok(bytes)
        }
    }

    /// The lines of `input`, `Err(length)` for each one that is too long.
    fn lines(input: &[u8], step: usize, line_bytes_max: usize) -> Vec<Result<Vec<u8>, u64>> {
        let mut reader = LineReader::new(Dribble(input, step), line_bytes_max);
        let mut found = Vec::new();
        while let Some(piece) = reader.next().unwrap() {
            match piece {
                Piece::Lines(block) => found.extend(Lines::new(block).map(|line| Ok(line.to_vec()))),
                Piece::TooLong { bytes } => found.push(Err(bytes)),
            }
        }
        found
    }

    #[test]
    fn every_line_is_a_record() {
        let cases: [(&[u8], &[&[u8]]); 7] = [
            (b"", &[]),
            (b"\n", &[b""]),
            (b"a\nb\n", &[b"a", b"b"]),
            (b"a\nb", &[b"a", b"b"]),
            (b"\n\na\n\n", &[b"", b"", b"a", b""]),
            (b"a\r\nb\0c\xff\n", &[b"a\r", b"b\0c\xff"]),
            (b"abc", &[b"abc"]),
        ];
        for (input, wanted) in cases {
            for step in [1, 2, 3, 1000] {
                let found: Vec<Vec<u8>> =
                    lines(input, step, 1000).into_iter().map(|line| line.unwrap()).collect();
                assert_eq!(found, wanted, "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_and_the_next_one_is_not() {
        for step in [1, 7, 64] {
            let mut input = vec![b'x'; 500];
            input.extend_from_slice(b"\nshort\n");
            let found = lines(&input, step, 100);
            assert_eq!(found, [Err(500), Ok(b"short".to_vec())], "by {step}");
            assert_eq!(lines(&[b'x'; 500], step, 100), [Err(500)], "by {step}");
        }
    }

    #[test]
    fn lines_longer_than_the_buffer_pass_within_the_bound() {
        let mut input = vec![b'y'; 5 * READ_BYTES];
        input.extend_from_slice(b"\nz");
        let found = lines(&input, READ_BYTES, 8 * READ_BYTES);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].as_ref().map(Vec::len), Ok(5 * READ_BYTES));
        assert_eq!(found[1], Ok(b"z".to_vec()));
    }
}
