//! The running hash of a schedule, its text when asked for, and how often each step was reached.
//!
//! Floor 1. Every turn and every completion adds to the hash; two runs that differ differ in it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// How often a step was reached, and how often the process crashed right there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCount {
    pub reached: u64,
    pub crashed: u64,
}

pub(super) struct Trace {
    hash: Cell<u64>,
    print: bool,
    steps: RefCell<BTreeMap<&'static str, StepCount>>,
}

impl Trace {
    pub(super) fn new(print: bool) -> Trace {
        Trace { hash: Cell::new(0xcbf2_9ce4_8422_2325), print, steps: RefCell::default() }
    }

    pub(super) fn word(&self, word: u64) {
        let mixed = (self.hash.get().rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.hash.set(mixed);
    }

    pub(super) fn bytes(&self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// A line of the text trace; `text` runs only when it is printed.
    pub(super) fn line(&self, now_ns: u64, text: impl FnOnce() -> String) {
        if self.print {
            eprintln!("{:>12.3} us  {}", now_ns as f64 / 1e3, text());
        }
    }

    pub(super) fn reached(&self, step: &'static str) -> u64 {
        let mut steps = self.steps.borrow_mut();
        let count = steps.entry(step).or_default();
        count.reached += 1;
        count.reached
    }

    pub(super) fn crashed(&self, step: &'static str) {
        self.steps.borrow_mut().entry(step).or_default().crashed += 1;
    }

    pub(super) fn steps(&self) -> BTreeMap<&'static str, StepCount> {
        self.steps.borrow().clone()
    }
}
