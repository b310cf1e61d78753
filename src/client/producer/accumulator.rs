//! The open batch of one partition, which senders append to, and the full ones behind which it
//! queues.
//!
//! Floor 5; shared by the senders and the producer's machine, each partition behind its own lock,
//! held for one append. Invariant: batches leave in the order in which they were opened.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::Record;
use super::completion::Completion;
use crate::base::lock;
use crate::client::session::Millis;
use crate::record::{BatchBuilder, Compression, Header};

/// First allocation of a batch, until the partition has shown how large its batches become.
const BATCH_BYTES_GUESS: usize = 4 << 10;
/// Allocations are a multiple of this: ten thousand small batches wait at once.
const BATCH_BYTES_STEP: usize = 256;

#[derive(Debug)]
pub(super) struct Accumulator {
    /// Index of the partition in the machine.
    pub index: usize,
    pub partition: u32,
    codec: Compression,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: Option<Open>,
    full: VecDeque<Arc<Full>>,
    bytes_guess: usize,
}

#[derive(Debug)]
struct Open {
    id: u64,
    opened_ms: Millis,
    builder: BatchBuilder,
    completion: Arc<Completion>,
    /// Memory taken from the producer's budget.
    reserved: usize,
}

/// A batch that takes no more records. Whoever filled it builds it (compression and CRC), outside
/// the partition's lock.
#[derive(Debug)]
pub(super) struct Full(Mutex<Form>);

#[derive(Debug)]
enum Form {
    Raw(Open),
    Built(Built),
    Taken,
}

/// A batch ready to be stamped and sent.
#[derive(Debug)]
pub(super) struct Built {
    pub id: u64,
    pub opened_ms: Millis,
    pub bytes: Bytes,
    pub records: u32,
    pub completion: Arc<Completion>,
    pub reserved: usize,
}

/// What an append did.
pub(super) struct Appended {
    pub completion: Arc<Completion>,
    pub index: u32,
    /// The append opened a batch: the machine must know, to end its lingering.
    pub opened: bool,
    /// Batches that the append filled up; to be built by the caller.
    pub filled: [Option<Arc<Full>>; 2],
}

impl Accumulator {
    pub fn new(index: usize, partition: u32, codec: Compression) -> Accumulator {
        let state = State { open: None, full: VecDeque::new(), bytes_guess: BATCH_BYTES_GUESS };
        Accumulator { index, partition, codec, state: Mutex::new(state) }
    }

    /// Appends a record that adds at most `bytes` to a batch of at most `batch_bytes`. `open`
    /// registers a batch that is opened and gives it an id; ids of a partition grow.
    pub fn append(
        &self,
        now: Millis,
        record: &Record,
        timestamp: i64,
        bytes: usize,
        batch_bytes: usize,
        open: impl FnOnce(&Arc<Completion>) -> u64,
    ) -> Appended {
        let headers: Vec<_> =
            record.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
        let mut state = lock(&self.state);
        let mut filled = [None, None];
        if state.open.as_ref().is_some_and(|open| open.builder.bytes() + bytes > batch_bytes) {
            filled[0] = state.fill();
        }
        let opened = state.open.is_none();
        if opened {
            let completion = Arc::default();
            let capacity = state.bytes_guess.max(bytes).min(batch_bytes.max(bytes));
            state.open = Some(Open {
                id: open(&completion),
                opened_ms: now,
                builder: BatchBuilder::new(capacity),
                completion,
                reserved: 0,
            });
        }
        let open = state.open.as_mut().expect("it was just opened");
        open.reserved += bytes;
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let index = open.builder.append(timestamp, key, value, &headers);
        let completion = open.completion.clone();
        if open.builder.bytes() + bytes > batch_bytes {
            filled[1] = state.fill();
        }
        Appended { completion, index, opened, filled }
    }

    /// When the open batch was opened, if there is one.
    pub fn opened_ms(&self) -> Option<Millis> {
        lock(&self.state).open.as_ref().map(|open| open.opened_ms)
    }

    /// The oldest full batch, if there is one and it is built (or nobody is building it). Gives
    /// `give_back` the memory that compression saved.
    pub fn take_full(&self, give_back: impl FnOnce(usize)) -> Option<Built> {
        let full = lock(&self.state).full.front()?.clone();
        let built = full.take(self.codec, give_back)?;
        lock(&self.state).full.pop_front();
        Some(built)
    }

    /// The open batch, if no full one precedes it.
    pub fn take_open(&self, give_back: impl FnOnce(usize)) -> Option<Built> {
        let open = {
            let mut state = lock(&self.state);
            if !state.full.is_empty() {
                return None;
            }
            let open = state.open.take()?;
            state.bytes_guess = guess(&open);
            open
        };
        Some(open.build(self.codec, give_back))
    }

    pub fn build(&self, full: &Full, give_back: impl FnOnce(usize)) {
        let mut form = lock(&full.0);
        *form = match std::mem::replace(&mut *form, Form::Taken) {
            Form::Raw(open) => Form::Built(open.build(self.codec, give_back)),
            other => other,
        };
    }
}

/// Batches of a partition tend to be alike: allocate the next one as large as this one became.
fn guess(open: &Open) -> usize {
    open.builder.bytes().next_multiple_of(BATCH_BYTES_STEP)
}

impl State {
    fn fill(&mut self) -> Option<Arc<Full>> {
        let open = self.open.take()?;
        self.bytes_guess = guess(&open);
        let full = Arc::new(Full(Mutex::new(Form::Raw(open))));
        self.full.push_back(full.clone());
        Some(full)
    }
}

impl Full {
    fn take(&self, codec: Compression, give_back: impl FnOnce(usize)) -> Option<Built> {
        // Locked: a sender is building it right now, and will ring the bell.
        let mut form = self.0.try_lock().ok()?;
        match std::mem::replace(&mut *form, Form::Taken) {
            Form::Raw(open) => Some(open.build(codec, give_back)),
            Form::Built(built) => Some(built),
            Form::Taken => unreachable!("only the machine takes, and it removes what it took"),
        }
    }
}

impl Open {
    fn build(self, codec: Compression, give_back: impl FnOnce(usize)) -> Built {
        let records = self.builder.record_count();
        let bytes = Bytes::from(self.builder.build(codec, None));
        let saved = self.reserved.saturating_sub(bytes.len());
        if saved > 0 {
            give_back(saved);
        }
        Built {
            id: self.id,
            opened_ms: self.opened_ms,
            bytes,
            records,
            completion: self.completion,
            reserved: self.reserved - saved,
        }
    }
}
