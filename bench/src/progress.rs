//! What a waiting person sees, on stderr.
//!
//! Owner: ringbench's parent process. A terminal sees one line that changes; a file gets a line now and
//! then.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Arc, Mutex};

use ringlog::base::lock;

use crate::process::now_ns;
use crate::units::grouped;

/// Between two lines of a file.
const LINE_NS: u64 = 10_000_000_000;

/// Counts what the workers of one round have done so far. Clones share it.
#[derive(Clone)]
pub struct Meter(Arc<Mutex<State>>);

struct State {
    what: String,
    records: Vec<u64>,
    start_ns: u64,
    said_ns: u64,
    said: u64,
    shown: bool,
}

impl Meter {
    /// `what` is going on, with this many workers.
    pub fn new(what: &str, workers: usize) -> Meter {
        let now = now_ns();
        Meter(Arc::new(Mutex::new(State {
            what: what.to_owned(),
            records: vec![0; workers],
            start_ns: now,
            said_ns: now,
            said: 0,
            shown: false,
        })))
    }

    /// This many records have been handled by this worker.
    pub fn note(&self, worker: usize, records: u64) {
        let mut state = lock(&self.0);
        if let Some(own) = state.records.get_mut(worker) {
            *own = records;
        }
        let (now, total) = (now_ns(), state.records.iter().sum::<u64>());
        let is_terminal = std::io::stderr().is_terminal();
        let pause = if is_terminal { 900_000_000 } else { LINE_NS };
        let since = now - state.said_ns;
        if since < pause {
            return;
        }
        let rate = total.saturating_sub(state.said) as f64 * 1e9 / since as f64;
        let seconds = (now - state.start_ns) / 1_000_000_000;
        let (total_text, rate_text) = (grouped(total as f64), grouped(rate));
        let text = format!("{}: {seconds} s, {total_text} records, {rate_text} a second", state.what);
        if is_terminal {
            print(&format!("\r\x1b[Kringbench: {text}"));
        } else {
            say(&text);
        }
        (state.said_ns, state.said, state.shown) = (now, total, is_terminal);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.shown {
            // What comes next begins at the start of an empty line.
            print("\r\x1b[K");
        }
    }
}

/// A line about what begins now.
pub fn say(text: &str) {
    print(&format!("ringbench: {text}\n"));
}

/// To stderr. Nobody may listen any more: that is no reason to leave servers and folders behind.
pub fn print(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Why results were not written, if that was not because nobody reads them any more.
static NOT_SHOWN: Mutex<Option<String>> = Mutex::new(None);

/// Results, to stdout. What goes wrong is kept for the end, after servers and folders are gone.
pub fn show(text: &str) {
    let mut out = std::io::stdout();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        lock(&NOT_SHOWN).get_or_insert(format!("results could not be written: {error}"));
    }
}

/// What went wrong with results, if anything did.
pub fn not_shown() -> Option<String> {
    lock(&NOT_SHOWN).take()
}
