//! The load of one round: clients that send as fast as back-pressure lets them, and what became of it.
//!
//! Owner: ringbench. Each record carries its producer and number, so that `--verify` can tell
//! whether each acknowledged one can be read back, once and in order.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use ringlog::client::{Client, Delivery, Options, Producer, ProducerOptions, Record};
use ringlog::record::Compression;
use ringlog::wire;
use tokio::time::Instant;

use crate::cli::{self, Load};
use crate::keys::KeySource;

/// Records made between two looks at the clock.
const CHUNK: usize = 16;
/// Producer and number of a record, at the start of its value.
pub const STAMP_BYTES: usize = 16;
/// A server that was just started on a busy machine may take a while to answer.
const CONNECT_MAX: std::time::Duration = std::time::Duration::from_secs(20);
/// Latencies are kept up to a minute, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Phases of a round; it begins with 0, which warms up.
pub const COUNTING: u8 = 1;
pub const STOPPING: u8 = 2;

/// What all clients of a round share.
#[derive(Default)]
pub struct Shared {
    pub phase: AtomicU8,
    /// Acknowledged while counting.
    pub acknowledged: AtomicU64,
    pub errors: AtomicU64,
}

/// What one client did in a round.
pub struct Sent {
    /// Records acknowledged in the whole round.
    pub acknowledged: u64,
    pub latency_us: Histogram<u64>,
    pub first_error: Option<String>,
}

pub async fn connect(address: &str) -> Result<Client, String> {
    let mut options = Options::new(address);
    options.client_id = "ringbench".into();
    options.connect_timeout = CONNECT_MAX;
    Client::connect(options).await.map_err(|error| error.to_string())
}

pub fn settings(load: &Load) -> ProducerOptions {
    ProducerOptions {
        acks: match load.acks {
            cli::Acks::None => wire::Acks::None,
            cli::Acks::Leader => wire::Acks::Leader,
            cli::Acks::All => wire::Acks::All,
        },
        compression: match load.compression {
            cli::Compression::None => Compression::None,
            cli::Compression::Lz4 => Compression::Lz4,
            cli::Compression::Zstd => Compression::Zstd,
        },
        linger: load.linger.0,
        batch_bytes: load.batch.0 as usize,
        memory_bytes: load.memory.0 as usize,
        delivery_timeout: Some(std::time::Duration::from_secs(60)),
        ..ProducerOptions::default()
    }
}

struct Sender {
    producer: Producer,
    topic: String,
    values: Values,
    keys: KeySource,
    shared: Arc<Shared>,
    /// By partition, oldest first: deliveries of one partition end in order.
    waiting: BTreeMap<u32, VecDeque<(Instant, Delivery)>>,
    count: usize,
    sent: Sent,
}

/// Sends until the round stops, then waits for what is on its way.
pub async fn run(
    client: Client,
    topic: String,
    number: u32,
    load: Load,
    shared: Arc<Shared>,
) -> Result<Sent, String> {
    let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(|error| error.to_string())?;
    let mut sender = Sender {
        producer: Producer::new(&client, settings(&load)),
        topic,
        values: Values::new(number, load.size.0 as usize),
        keys: KeySource::new(load.keys, number),
        shared,
        waiting: BTreeMap::new(),
        count: 0,
        sent: Sent { acknowledged: 0, latency_us, first_error: None },
    };
    while sender.shared.phase.load(Ordering::Relaxed) != STOPPING {
        let now = Instant::now();
        for _ in 0..CHUNK {
            sender.send(now).await;
        }
        sender.take(Instant::now(), |delivery| delivery.outcome().is_some());
    }
    // Nothing lingers while a flush is under way.
    let producer = sender.producer.clone();
    let mut flushing = pin!(producer.flush());
    loop {
        tokio::select! {
            biased;
            () = sender.changed() => {}
            () = &mut flushing => break,
        }
    }
    while sender.count > 0 {
        sender.changed().await;
    }
    sender.producer.close().await;
    Ok(sender.sent)
}

impl Sender {
    async fn send(&mut self, now: Instant) {
        let value = Some(self.values.next());
        let record = Record { key: self.keys.next(), value, ..Record::default() };
        let delivery = match self.producer.try_send(&self.topic, &record) {
            Some(delivery) => delivery,
            None => {
                let producer = self.producer.clone();
                let topic = self.topic.clone();
                let mut sending = pin!(producer.send(&topic, record));
                loop {
                    tokio::select! {
                        biased;
                        delivery = &mut sending => break delivery,
                        () = self.changed() => {}
                    }
                }
            }
        };
        self.waiting.entry(delivery.partition()).or_default().push_back((now, delivery));
        self.count += 1;
    }

    /// Waits until something becomes known, and takes it.
    async fn changed(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let before = self.count;
        self.take(Instant::now(), |delivery| Pin::new(delivery).poll(context).is_ready());
        if self.count < before { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take(&mut self, now: Instant, mut is_known: impl FnMut(&mut Delivery) -> bool) {
        let counts = self.shared.phase.load(Ordering::Relaxed) == COUNTING;
        let (mut acknowledged, mut errors) = (0, 0);
        for queue in self.waiting.values_mut() {
            while let Some((start, delivery)) = queue.front_mut() {
                if !is_known(delivery) {
                    break;
                }
                let start = *start;
                match delivery.outcome() {
                    Some(Ok(_)) => {
                        acknowledged += 1;
                        if counts {
                            self.sent.latency_us.saturating_record((now - start).as_micros() as u64);
                        }
                    }
                    Some(Err(error)) => {
                        errors += 1;
                        self.sent.first_error.get_or_insert(error.to_string());
                    }
                    None => break,
                }
                queue.pop_front();
                self.count -= 1;
            }
        }
        self.sent.acknowledged += acknowledged;
        if counts {
            self.shared.acknowledged.fetch_add(acknowledged, Ordering::Relaxed);
        }
        self.shared.errors.fetch_add(errors, Ordering::Relaxed);
    }
}

/// Values of one size: a stamp, then text that compresses about as well as logs do.
struct Values {
    producer: u64,
    next: u64,
    size: usize,
    text: Vec<u8>,
    block: BytesMut,
}

impl Values {
    fn new(producer: u32, size: usize) -> Values {
        let mut state = u64::from(producer) + 1;
        let word = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b"etaoinshrdlucmfw"[(state >> 60) as usize]
        };
        let text = (0..2 * size + 64).map(word).collect();
        Values { producer: producer.into(), next: 0, size, text, block: BytesMut::new() }
    }

    fn next(&mut self) -> Bytes {
        let number = self.next;
        self.next += 1;
        let size = self.size.max(STAMP_BYTES);
        self.block.reserve(size);
        self.block.extend_from_slice(&self.producer.to_le_bytes());
        self.block.extend_from_slice(&number.to_le_bytes());
        let from = number as usize % (self.size + 64);
        self.block.extend_from_slice(&self.text[from..from + size - STAMP_BYTES.min(size)]);
        if self.block.capacity() - self.block.len() < size {
            // The rest of a block is too small for another record: the next one gets a new block.
            let value = std::mem::replace(&mut self.block, BytesMut::with_capacity(64 * size));
            return value.freeze();
        }
        self.block.split().freeze()
    }
}

/// Which producer made a value, and its number.
pub fn stamp_of(value: &[u8]) -> Option<(u64, u64)> {
    let producer = u64::from_le_bytes(*value.first_chunk()?);
    let number = u64::from_le_bytes(*value.get(8..)?.first_chunk()?);
    Some((producer, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_say_where_they_come_from() {
        for size in [16, 100, 1024, 4096] {
            let mut values = Values::new(3, size);
            for number in 0..300 {
                let value = values.next();
                assert_eq!((value.len(), stamp_of(&value)), (size, Some((3, number))));
            }
        }
    }
}
