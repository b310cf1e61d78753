//! What everything in one simulation shares: the clock, the events to come, tasks, randomness.
//!
//! Floor 1. Cells are borrowed for the length of one statement or block, never over a call that
//! runs a task or drops one.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::faults::Faults;
use super::machine::{DiskEvent, Machine};
use super::net::{Net, NetEvent};
use super::process::{Executor, Shared};
use super::tasks::Tasks;
use super::trace::Trace;
use crate::rt::buffer::Pool;
use crate::rt::random::Random;

/// Virtual time that one turn of a task takes, so that tasks which only yield do not stop the clock.
const TURN_NS: u64 = 250;

pub(super) enum Event {
    Wake(Waker),
    Disk(DiskEvent),
    Net(NetEvent),
}

struct Timed {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    /// The heap's greatest is the earliest; of the same time, the first that was added.
    fn cmp(&self, other: &Timed) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

pub(super) struct Core {
    pub(super) now: Cell<u64>,
    sequence: Cell<u64>,
    events: RefCell<BinaryHeap<Timed>>,
    pub(super) tasks: RefCell<Tasks>,
    pub(super) executors: RefCell<Vec<Executor>>,
    /// By process: its machine, and whether it lives.
    pub(super) processes: RefCell<Vec<(u32, bool)>>,
    pub(super) machines: RefCell<Vec<Machine>>,
    pub(super) net: RefCell<Net>,
    pub(super) shared: Arc<Shared>,
    /// Decides what the world does.
    pub(super) random: RefCell<Random>,
    /// What programs draw.
    pub(super) program: RefCell<Random>,
    pub(super) faults: RefCell<Faults>,
    pub(super) mutations: RefCell<BTreeSet<String>>,
    pub(super) trace: Trace,
    pub(super) pool: Rc<Pool>,
    /// A machine that crashes as soon as the running task gives up control.
    pub(super) crashing: Cell<Option<u32>>,
}

impl Core {
    pub(super) fn new(seed: u64, faults: Faults, print: bool) -> Core {
        Core {
            now: Cell::new(0),
            sequence: Cell::new(0),
            events: RefCell::default(),
            tasks: RefCell::default(),
            executors: RefCell::default(),
            processes: RefCell::default(),
            machines: RefCell::default(),
            net: RefCell::default(),
            shared: Arc::default(),
            random: RefCell::new(Random::new(seed)),
            program: RefCell::new(Random::new(!seed)),
            faults: RefCell::new(faults),
            mutations: RefCell::default(),
            trace: Trace::new(print),
            pool: Pool::new(),
            crashing: Cell::new(None),
        }
    }

    pub(super) fn pass_turn(&self) {
        self.now.set(self.now.get() + TURN_NS);
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.set(self.sequence.get() + 1);
        self.sequence.get()
    }

    pub(super) fn schedule(&self, at: u64, event: Event) {
        let sequence = self.next_sequence();
        self.events.borrow_mut().push(Timed { at: at.max(self.now.get()), sequence, event });
    }

    /// Takes the next event that is due.
    pub(super) fn take_due(&self) -> Option<Event> {
        let mut events = self.events.borrow_mut();
        if events.peek()?.at > self.now.get() {
            return None;
        }
        events.pop().map(|timed| timed.event)
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.events.borrow().peek().map(|timed| timed.at)
    }

    pub(super) fn take_events(&self) -> Vec<Event> {
        let events = std::mem::take(&mut *self.events.borrow_mut());
        events.into_iter().map(|timed| timed.event).collect()
    }

    pub(super) fn between(&self, range: (u64, u64)) -> u64 {
        self.random.borrow_mut().between(range.0, range.1)
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub(super) fn chance(&self, parts_per_million: u32) -> bool {
        self.random.borrow_mut().chance(parts_per_million)
    }

    /// How long one disk operation takes, in nanoseconds.
    pub(super) fn disk_ns(&self) -> u64 {
        let (range, stall_ppm, stall_us) = {
            let faults = self.faults.borrow();
            (faults.disk_us, faults.disk_stall_ppm, faults.disk_stall_us_max)
        };
        let stall = if self.chance(stall_ppm) { self.below(stall_us + 1) } else { 0 };
        (self.between(range) + stall) * 1000
    }

    pub(super) fn mutated(&self, mutation: &str) -> bool {
        let mutations = self.mutations.borrow();
        !mutations.is_empty() && mutations.contains(mutation)
    }

    pub(super) fn after(&self, duration: Duration) -> u64 {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.now.get().saturating_add(ns)
    }

    pub(super) fn line(&self, text: impl FnOnce() -> String) {
        self.trace.line(self.now.get(), text);
    }
}
