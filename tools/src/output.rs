//! Stdout as data: buffered, and a closed pipe ends the work quietly.
//!
//! Owner: ringctl.

use std::io::{self, ErrorKind, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Why a command stops early.
#[derive(Debug)]
pub enum Stop {
    /// Nobody reads stdout any more: not an error.
    PipeClosed,
    /// For stderr; the exit code is 1.
    Failed(String),
}

/// What a command returns.
pub type Outcome = Result<(), Stop>;

impl Stop {
    pub fn failed(text: impl ToString) -> Stop {
        Stop::Failed(text.to_string())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            ErrorKind::BrokenPipe => Stop::PipeClosed,
            _ => Stop::Failed(format!("stdout: {error}")),
        }
    }
}

impl From<String> for Stop {
    fn from(text: String) -> Stop {
        Stop::Failed(text)
    }
}

/// Written out at this size.
const FULL_BYTES: usize = 256 << 10;

/// A buffer before stdout that is appended to directly.
pub struct Output {
    pub buffer: Vec<u8>,
}

impl Output {
    pub fn new() -> Output {
        Output { buffer: Vec::with_capacity(FULL_BYTES + (64 << 10)) }
    }

    /// Writes out if enough has come together.
    pub fn flush_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= FULL_BYTES { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let mut stdout = io::stdout().lock();
            let written = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
            self.buffer.clear();
            written?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.flush_if_full()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Output::flush(self)
    }
}

/// Whether nobody reads stdout any more, as far as can be told without writing.
pub fn is_stdout_closed() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// `1 record`, `2 records`.
pub fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

pub fn no_partition(topic: &str, partitions: usize, partition: u32) -> Stop {
    let partitions = count(partitions as u64, "partition");
    Stop::Failed(format!("{topic} has {partitions}, there is no partition {partition}"))
}
