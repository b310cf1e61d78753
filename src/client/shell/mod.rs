//! The client as a tokio program uses it: machines, each with a task of its own.
//!
//! Floor 5; the only folder of the client that knows a runtime. Handles may be used from any
//! thread; they must be made within a tokio runtime.

mod clock;
mod connection;
mod driver;

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::admin::Admin;
use super::consumer::{ConsumedBatch, ConsumerHandle, ConsumerOptions, ConsumerRecord, Position};
use super::error::{ClientError, ConsumeError};
use super::producer::{Delivery, ProducerHandle, ProducerOptions, Record};
use super::session::{Settings, millis};
use crate::model::Offset;
use clock::Clock;

/// Where the broker is, and how patient the client is with it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST:PORT`, tried in turn.
    pub brokers: Vec<String>,
    /// For the broker's logs and metrics.
    pub client_id: String,
    /// How long [`Client::connect`] tries.
    pub connect_timeout: Duration,
    /// How long an administrative question is tried; and how long a connection with unanswered
    /// requests may be silent before it is given up.
    pub request_timeout: Duration,
    /// Pause before the first reconnect or retry; it doubles up to `backoff_max`.
    pub backoff: Duration,
    pub backoff_max: Duration,
}

impl Options {
    pub fn new(broker: impl Into<String>) -> Options {
        Options {
            brokers: vec![broker.into()],
            client_id: "ringlog-client".into(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            backoff: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// A broker that answered. Producers and consumers made from it have connections of their own.
#[derive(Clone, Debug)]
pub struct Client {
    settings: Settings,
    addresses: Arc<Vec<String>>,
    clock: Clock,
    admin: Admin,
}

impl Client {
    /// Fails if no broker answers within the connect timeout.
    pub async fn connect(options: Options) -> Result<Client, ClientError> {
        if options.brokers.is_empty() {
            return Err(ClientError::Invalid("no broker address is given".into()));
        }
        if options.client_id.len() > 255 {
            return Err(ClientError::Invalid("the client id is longer than 255 bytes".into()));
        }
        let settings = Settings {
            client_id: options.client_id,
            servers: options.brokers.len(),
            request_timeout_ms: millis(options.request_timeout),
            backoff_ms_min: millis(options.backoff).max(1),
            backoff_ms_max: millis(options.backoff_max).max(1),
            ..Settings::default()
        };
        let addresses = Arc::new(options.brokers);
        let clock = Clock::start();
        let timeout = millis(options.request_timeout);
        let (admin, machine) = Admin::start(addresses.join(", "), timeout, settings.clone(), seed());
        let bell = machine.bell();
        tokio::spawn(driver::drive(machine, bell, addresses.clone(), settings.frame_bytes_max, clock));
        admin.ping(millis(options.connect_timeout)).await?;
        Ok(Client { settings, addresses, clock, admin })
    }

    pub fn admin(&self) -> Admin {
        self.admin.clone()
    }
}

/// Sends records; clones share one producer.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: ProducerHandle,
    clock: Clock,
}

impl Producer {
    pub fn new(client: &Client, options: ProducerOptions) -> Producer {
        let (handle, machine) = options.start(client.settings.clone(), seed());
        let bell = machine.bell();
        let frame_bytes_max = client.settings.frame_bytes_max;
        tokio::spawn(driver::drive(machine, bell, client.addresses.clone(), frame_bytes_max, client.clock));
        Producer { handle, clock: client.clock }
    }

    /// Sends a record; waits only for memory (back-pressure) and, the first time, to learn about
    /// the topic. The delivery says how it went; dropping it does not stop the record.
    pub async fn send(&self, topic: &str, record: Record) -> Delivery {
        let times = self.clock.times();
        match self.handle.try_send(times, topic, &record) {
            Some(delivery) => delivery,
            None => self.handle.send(|| self.clock.times(), topic, record).await,
        }
    }

    /// Sends a record if that can be done without waiting; `None`: use [`send`](Self::send).
    pub fn try_send(&self, topic: &str, record: &Record) -> Option<Delivery> {
        self.handle.try_send(self.clock.times(), topic, record)
    }

    /// Why records wait: the last refusal or failed connection since the last acknowledgement.
    pub fn trouble(&self) -> Option<String> {
        self.handle.trouble()
    }

    /// Ends when the fate of every record sent before is known; meanwhile nothing lingers.
    pub async fn flush(&self) {
        self.handle.flush().await;
    }

    /// Refuses further sends, flushes, and closes the connections. Dropping all clones without it
    /// fails what is not acknowledged yet.
    pub async fn close(&self) {
        self.handle.close().await;
    }
}

/// Reads records of assigned partitions; clones share one consumer and its position.
#[derive(Clone, Debug)]
pub struct Consumer {
    handle: ConsumerHandle,
}

impl Consumer {
    pub fn new(client: &Client, options: ConsumerOptions) -> Consumer {
        let (handle, machine) = options.start(client.settings.clone(), seed());
        let bell = machine.bell();
        let frame_bytes_max = client.settings.frame_bytes_max;
        tokio::spawn(driver::drive(machine, bell, client.addresses.clone(), frame_bytes_max, client.clock));
        Consumer { handle }
    }

    /// Starts to read a partition; again: from another position.
    pub fn assign(&self, topic: &str, partition: u32, position: Position) {
        self.handle.assign(topic, partition, position);
    }

    pub fn unassign(&self, topic: &str, partition: u32) {
        self.handle.unassign(topic, partition);
    }

    /// Goes on at another position; what was fetched ahead is dropped.
    pub fn seek(&self, topic: &str, partition: u32, position: Position) -> Result<(), ConsumeError> {
        self.handle.seek(topic, partition, position)
    }

    /// Goes on at the first record whose timestamp is at or after `timestamp_ms` (since 1970), or
    /// at the end if there is none.
    pub fn seek_to_timestamp(
        &self,
        topic: &str,
        partition: u32,
        timestamp_ms: i64,
    ) -> Result<(), ConsumeError> {
        self.handle.seek(topic, partition, Position::Timestamp(timestamp_ms))
    }

    /// Gives no more records of a partition until [`resume`](Self::resume).
    pub fn pause(&self, topic: &str, partition: u32) -> Result<(), ConsumeError> {
        self.handle.set_paused(topic, partition, true)
    }

    pub fn resume(&self, topic: &str, partition: u32) -> Result<(), ConsumeError> {
        self.handle.set_paused(topic, partition, false)
    }

    /// The next record of any partition. Within a partition records come in order.
    pub async fn next(&self) -> Result<ConsumerRecord, ConsumeError> {
        self.handle.next().await
    }

    /// The next record batch of any partition: faster than record by record. Do not mix it with
    /// [`next`](Self::next).
    pub async fn next_batch(&self) -> Result<ConsumedBatch, ConsumeError> {
        self.handle.next_batch().await
    }

    /// The offset of the next record that will be given; `None` while it is being looked up.
    pub fn position(&self, topic: &str, partition: u32) -> Option<Offset> {
        self.handle.position(topic, partition)
    }

    /// The end of the partition as the last fetch saw it.
    pub fn high_watermark(&self, topic: &str, partition: u32) -> Option<Offset> {
        self.handle.high_watermark(topic, partition)
    }

    pub fn close(&self) {
        self.handle.close();
    }
}

/// Differs between clients, so that they do not all retry at once.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}
