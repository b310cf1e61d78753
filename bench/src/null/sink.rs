//! Where batches go: aligned buffers, written one after the other into files that were allocated
//! whole, durable before anything is answered.
//!
//! Owner: one shard of the null server. Group commit as in the broker's journal: what arrives while
//! a write is in flight makes the next one, of about 1 MiB; up to four are in flight once each
//! is large.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use ringlog::base::align::align_up;
use ringlog::rt::{File, Folder, Rt, local::Event};

/// Called once the batch is durable.
pub type Durable = Box<dyn FnOnce()>;

const FILE_BYTES: u64 = 256 << 20;
const WRITE_BYTES_TARGET: usize = 1 << 20;
const WRITE_BYTES_LARGE: usize = 256 << 10;
const WRITES_MAX: usize = 4;
/// Bound of what waits for a write; connections are parked above it.
const STAGED_BYTES_MAX: usize = 16 << 20;

pub struct Sink {
    rt: Rt,
    folder: Folder,
    state: RefCell<State>,
    room: Event,
    files_kept: u64,
}

struct State {
    staged: VecDeque<(Bytes, Durable)>,
    staged_bytes: usize,
    writes: usize,
    file: File,
    /// Byte of the next write.
    position: u64,
    /// Allocated ahead; `None` while it is being made.
    next: Option<File>,
    files: u64,
}

fn name(number: u64) -> String {
    format!("{number:08}.null")
}

async fn create_file(folder: &Folder, number: u64) -> io::Result<File> {
    let file = folder.create(&name(number), FILE_BYTES).await?;
    folder.sync().await?;
    Ok(file)
}

impl Sink {
    /// Keeps about the last `keep` bytes.
    pub async fn create(rt: &Rt, folder: Folder, keep: u64) -> io::Result<Rc<Sink>> {
        let file = create_file(&folder, 0).await?;
        let next = create_file(&folder, 1).await?;
        let state = State {
            staged: VecDeque::new(),
            staged_bytes: 0,
            writes: 0,
            file,
            position: 0,
            next: Some(next),
            files: 2,
        };
        let files_kept = (keep / FILE_BYTES).max(2);
        Ok(Rc::new(Sink {
            rt: rt.clone(),
            folder,
            state: RefCell::new(state),
            room: Event::new(),
            files_kept,
        }))
    }

    /// Waits until there is room for another batch.
    pub async fn room(&self) {
        while self.state.borrow().staged_bytes > STAGED_BYTES_MAX {
            self.room.wait().await;
        }
    }

    pub fn push(self: &Rc<Self>, batch: Bytes, durable: Durable) {
        {
            let mut state = self.state.borrow_mut();
            state.staged_bytes += batch.len();
            state.staged.push_back((batch, durable));
        }
        self.submit();
    }

    /// Starts as many writes as make sense now.
    fn submit(self: &Rc<Self>) {
        loop {
            let mut state = self.state.borrow_mut();
            let is_due = match state.writes {
                0 => state.staged_bytes > 0,
                writes => writes < WRITES_MAX && state.staged_bytes >= WRITE_BYTES_LARGE,
            };
            if !is_due {
                return;
            }
            let (count, bytes) = state.next_write();
            let padded = align_up(bytes as u64);
            if state.position + padded > FILE_BYTES {
                // Without a next file its making ends in another `submit`.
                let Some(next) = state.next.take() else { return };
                state.file = next;
                state.position = 0;
                self.make_next(state.files);
                state.files += 1;
            }
            let batches: Vec<(Bytes, Durable)> = state.staged.drain(..count).collect();
            state.staged_bytes -= bytes;
            state.writes += 1;
            let (file, position) = (state.file.clone(), state.position);
            state.position += padded;
            drop(state);
            self.room.notify();
            self.rt.spawn(self.clone().write(file, position, bytes, batches));
        }
    }

    fn make_next(self: &Rc<Self>, number: u64) {
        let sink = self.clone();
        self.rt.spawn(async move {
            match create_file(&sink.folder, number).await {
                Ok(file) => sink.state.borrow_mut().next = Some(file),
                Err(error) => fail(&error),
            }
            sink.submit();
            if let Some(old) = number.checked_sub(sink.files_kept)
                && let Err(error) = sink.folder.remove(&name(old)).await
            {
                fail(&error);
            }
        });
    }

    async fn write(self: Rc<Self>, file: File, position: u64, bytes: usize, batches: Vec<(Bytes, Durable)>) {
        let mut buffer = self.rt.buffer(bytes);
        let mut at = 0;
        for (batch, _) in &batches {
            buffer[at..at + batch.len()].copy_from_slice(batch);
            at += batch.len();
        }
        buffer[at..].fill(0);
        if let Err(error) = file.write_durable(buffer.freeze(), position).await {
            fail(&error);
        }
        batches.into_iter().for_each(|(_, durable)| durable());
        self.state.borrow_mut().writes -= 1;
        self.submit();
    }
}

impl State {
    /// Count and bytes of the batches that make the next write.
    fn next_write(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for (batch, _) in &self.staged {
            if count > 0 && bytes + batch.len() > WRITE_BYTES_TARGET {
                break;
            }
            count += 1;
            bytes += batch.len();
        }
        (count, bytes)
    }
}

fn fail(error: &io::Error) -> ! {
    eprintln!("ringbench: null: {error}");
    std::process::exit(1);
}
