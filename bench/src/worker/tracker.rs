//! What became of the records that were sent: one entry for each batch, not for each record.
//!
//! Owner: a producer worker's sending thread. The client wakes an entry's waker when the batch is known;
//! the time is taken right there, in the client's own thread, so that the sending thread may look
//! later. Invariant: each record that was added is settled once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use ringlog::base::lock;
use ringlog::client::{Delivery, ProduceError};

use crate::process;

const NONE: u32 = u32::MAX;

/// Records of one batch.
pub struct Group {
    /// Of the first record; the others share its fate.
    delivery: Delivery,
    /// Intended times and how many records had them, in the order they were sent.
    pub starts: Vec<(u64, u32)>,
    pub records: u64,
    pub sum: u64,
}

/// What the wakers tell the sending thread.
#[derive(Default)]
struct Ready {
    known: Mutex<Vec<(u32, u64)>>,
    /// Whether `known` may hold something: looked at for every chunk of records.
    any: AtomicBool,
    waiter: Mutex<Option<Waker>>,
}

/// The waker of one entry.
struct Mark {
    entry: u32,
    ready: Arc<Ready>,
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        let now = process::now_ns();
        lock(&self.ready.known).push((self.entry, now));
        if !self.ready.any.swap(true, Ordering::AcqRel)
            && let Some(waiter) = lock(&self.ready.waiter).take()
        {
            waiter.wake();
        }
    }
}

struct Entry {
    group: Option<Group>,
    waker: Waker,
}

pub struct Tracker {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// The entry that each partition's records go to for now.
    open: Vec<u32>,
    ready: Arc<Ready>,
    /// Entries in use.
    waiting: usize,
}

impl Tracker {
    pub fn new(partitions: u32) -> Tracker {
        Tracker {
            entries: Vec::new(),
            free: Vec::new(),
            open: vec![NONE; partitions as usize],
            ready: Arc::default(),
            waiting: 0,
        }
    }

    /// Notes a record that was meant to be sent at `start_ns`.
    pub fn add(&mut self, delivery: Delivery, start_ns: u64, sum: u64) {
        let partition = delivery.partition() as usize;
        let open = self.open.get(partition).copied().unwrap_or(NONE);
        if let Some(Entry { group: Some(group), .. }) = self.entries.get_mut(open as usize)
            && group.delivery.is_with(&delivery)
        {
            group.records += 1;
            group.sum = group.sum.wrapping_add(sum);
            match group.starts.last_mut() {
                Some((start, count)) if *start == start_ns => *count += 1,
                _ => group.starts.push((start_ns, 1)),
            }
            return;
        }
        let entry = self.free.pop().unwrap_or_else(|| {
            let entry = self.entries.len() as u32;
            let waker = Waker::from(Arc::new(Mark { entry, ready: self.ready.clone() }));
            self.entries.push(Entry { group: None, waker });
            entry
        });
        let group = Group { delivery, starts: vec![(start_ns, 1)], records: 1, sum };
        self.entries[entry as usize].group = Some(group);
        self.waiting += 1;
        if let Some(open) = self.open.get_mut(partition) {
            *open = entry;
        }
        self.listen(entry);
    }

    /// Asks the client to wake this entry; a batch that is known already is marked at once.
    fn listen(&mut self, entry: u32) {
        let Entry { group, waker } = &mut self.entries[entry as usize];
        let Some(group) = group else { return };
        let mut context = Context::from_waker(waker);
        if std::pin::Pin::new(&mut group.delivery).poll(&mut context).is_ready() {
            waker.wake_by_ref();
        }
    }

    /// Gives every batch that has become known to `take`, with the time at which it did.
    pub fn settle(&mut self, mut take: impl FnMut(u64, &Group, Result<(), ProduceError>)) {
        if !self.ready.any.swap(false, Ordering::AcqRel) {
            return;
        }
        let known = std::mem::take(&mut *lock(&self.ready.known));
        for (entry, at_ns) in known {
            let Some(group) = &self.entries[entry as usize].group else { continue };
            let Some(outcome) = group.delivery.outcome() else {
                // Woken for an earlier batch of the same entry.
                self.listen(entry);
                continue;
            };
            let partition = group.delivery.partition() as usize;
            take(at_ns, group, outcome.map(drop));
            if let Some(open) = self.open.get_mut(partition).filter(|open| **open == entry) {
                *open = NONE;
            }
            self.entries[entry as usize].group = None;
            self.free.push(entry);
            self.waiting -= 1;
        }
    }

    /// Whether the fate of every record is known and settled.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Ready when there is something to settle.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        *lock(&self.ready.waiter) = Some(context.waker().clone());
        // It may have come before this waiter was there.
        if self.ready.any.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}
