//! A server with a topic, and jobs for workers on it.
//!
//! Owner: ringbench's parent process.

use std::sync::Mutex;
use std::time::Duration;

use ringlog::base::lock;
use ringlog::client::Client;
use ringlog::model::ErrorCode;
use tokio::time::timeout;

use crate::cli::Load;
use crate::job::{Consume, From, Job, Pace, Produce, Work};
use crate::process::now_ns;
use crate::progress::say;
use crate::server::{Server, Setup, Subject};
use crate::values::value_bytes;
use crate::worker::{connect, connect_named};

/// What each shard of null keeps in memory where somebody reads: about as much as the broker does. More would
/// be new memory for most of a round, which costs more than what is measured.
const STORE_BYTES: u64 = 256 << 20;

/// The default of `max.message.bytes`, and what a batch of one record has beside its value at most.
const MESSAGE_BYTES_MAX: u64 = 1_048_588;
const RECORD_EXTRA: u64 = 1024;

/// Topics on brokers that were there before, which must not keep what we wrote: also not after an
/// interruption.
static NAMED: Mutex<Vec<(Client, String)>> = Mutex::new(Vec::new());
const FORGET_MAX: Duration = Duration::from_secs(5);

/// Deletes what rigs that were not stopped left on brokers that were there before.
pub async fn forget_named() {
    let left = std::mem::take(&mut *lock(&NAMED));
    for (client, topic) in left {
        let is_gone = match timeout(FORGET_MAX, client.admin().delete_topic(&topic)).await {
            Ok(Ok(())) => true,
            // It was never made, or its deletion was under way.
            Ok(Err(error)) => error.code() == Some(ErrorCode::UnknownTopicOrPartition),
            Err(_) => false,
        };
        if !is_gone {
            say(&format!("topic {topic} was left behind; delete it with 'ringctl topic delete {topic}'"));
        }
    }
}

/// A server, started here or running before, with one topic of ours.
pub struct Rig {
    pub address: String,
    /// `None`: it was running before.
    pub server: Option<Server>,
    pub client: Client,
    pub topic: String,
    pub partitions: u32,
}

/// How a server for this load is started. `read`: records will be fetched from it.
pub fn setup(load: &Load, read: bool) -> Setup {
    Setup {
        dir: load.place.dir(),
        shards: load.place.shards,
        partitions: load.partitions,
        keep: if load.verify { u64::MAX } else { load.place.keep.0 },
        store: if read { STORE_BYTES } else { 0 },
        settings: load.place.settings.clone(),
    }
}

impl Rig {
    /// `keep`: bytes of the whole topic that retention leaves; `None`: all.
    pub async fn start(
        subject: Subject,
        load: &Load,
        setup: &Setup,
        keep: Option<u64>,
    ) -> Result<Rig, String> {
        let (server, address, client) = match &load.place.broker {
            Some(named) => (None, named.clone(), connect_named(named).await?),
            None => {
                let server = Server::start(subject, setup).await?;
                let address = server.address.to_string();
                let client = connect(&address).await?;
                (Some(server), address, client)
            }
        };
        // Processes of two containers may share an id: the topic of one must not be the other's.
        let topic = format!("ringbench-{}-{:08x}", std::process::id(), now_ns() as u32);
        let rig = Rig { address, server, client, topic, partitions: load.partitions };
        if rig.server.is_none() {
            lock(&NAMED).push((rig.client.clone(), rig.topic.clone()));
        }
        rig.create_topic(&rig.topic, load, keep).await?;
        Ok(rig)
    }

    /// `keep`: bytes that retention leaves of the whole topic.
    async fn create_topic(&self, topic: &str, load: &Load, keep: Option<u64>) -> Result<(), String> {
        let mut configs = Vec::new();
        if let Some(keep) = keep {
            let each = (keep / u64::from(load.partitions)).max(1 << 20);
            configs.push(("retention.bytes".to_owned(), each.to_string()));
        }
        // The client's batches are no larger than the topic's: null has no such limit.
        let largest = load.batch().0.max(value_bytes(load.size.0) as u64 + RECORD_EXTRA);
        if largest > MESSAGE_BYTES_MAX {
            configs.push(("max.message.bytes".to_owned(), largest.to_string()));
        }
        let created = self.client.admin().create_topic(topic, Some(load.partitions), &configs).await;
        created.map(drop).map_err(|error| format!("create {topic}: {error}"))
    }

    /// Producers of a load on a second topic of the same server, which is made for them.
    pub async fn producers_beside(&self, suffix: &str, load: &Load) -> Result<Vec<Job>, String> {
        let topic = format!("{}-{suffix}", self.topic);
        self.create_topic(&topic, load, Some(load.place.keep.0)).await?;
        let mut jobs = self.producers(load, None);
        for job in &mut jobs {
            job.topic.clone_from(&topic);
            job.partitions = load.partitions;
        }
        Ok(jobs)
    }

    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    pub async fn stop(self) -> Result<(), String> {
        self.stop_and_hear().await.map(drop)
    }

    /// Stops a server that was started here, and gives what it said in its life.
    pub async fn stop_and_hear(mut self) -> Result<String, String> {
        match self.server.take() {
            Some(server) => server.stop().await,
            None => {
                let deleted = self.client.admin().delete_topic(&self.topic).await;
                deleted.map_err(|error| format!("delete {}: {error}", self.topic))?;
                lock(&NAMED).retain(|(_, topic)| *topic != self.topic);
                Ok(String::new())
            }
        }
    }

    fn job(&self, work: Work) -> Job {
        Job { broker: self.address.clone(), topic: self.topic.clone(), partitions: self.partitions, work }
    }

    /// The producers of a load. `records`: how many in all; `None`: until the window ends.
    pub fn producers(&self, load: &Load, records: Option<u64>) -> Vec<Job> {
        let processes = if load.single.is_some() { 1 } else { load.producers };
        let count = u64::from(processes);
        let clients = count * u64::from(load.single.unwrap_or(1));
        (0..processes)
            .map(|number| {
                let pace = match (load.single, load.rate) {
                    (Some(_), _) => Pace::OneByOne,
                    (None, Some(rate)) => Pace::Rate(rate / f64::from(processes)),
                    (None, None) => Pace::Flat,
                };
                let produce = Produce {
                    number,
                    producers: processes,
                    size: load.size.0,
                    pace,
                    instances: load.single.unwrap_or(1),
                    records_max: records
                        .map(|records| records / count + u64::from(u64::from(number) < records % count)),
                    memory_bytes: (load.memory.0 / clients).max(1 << 20),
                    batch_bytes: load.batch().0,
                    linger_us: load.linger().as_micros() as u64,
                    acks: load.acks,
                    compression: load.compression,
                    keys: load.keys,
                    sums: load.verify,
                };
                self.job(Work::Produce(produce))
            })
            .collect()
    }

    /// The consumers of a load, each of which reads `records`, or until the window ends.
    pub fn consumers(&self, load: &Load, records: Option<u64>) -> Vec<Job> {
        let prefetch_bytes = (load.memory.0 / u64::from(load.consumers)).max(1 << 20);
        let consume = Consume {
            instances: 1,
            from: From::Earliest,
            prefetch_bytes,
            records_max: records,
            to_the_end: records.is_none() && load.rate.is_some(),
        };
        (0..load.consumers).map(|_| self.job(Work::Consume(consume.clone()))).collect()
    }

    /// One process with many consumers that read at one random place after the other.
    pub fn wanderers(&self, instances: u32, from: From, prefetch_bytes: u64) -> Job {
        let consume = Consume { instances, from, prefetch_bytes, records_max: None, to_the_end: false };
        self.job(Work::Consume(consume))
    }
}

/// Records whose values take about so many bytes.
pub fn records_of(bytes: u64, load: &Load) -> u64 {
    (bytes / value_bytes(load.size.0) as u64).max(1)
}
