//! What the parent tells its workers, and what they report.
//!
//! Owner: ringbench. JSON, a line each: `Job` and then `Window` on a worker's stdin; `Said` on its stdout.

use serde::{Deserialize, Serialize};

use crate::cli::{Acks, Compression, Keys};

/// The work of one process.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Job {
    pub broker: String,
    pub topic: String,
    pub partitions: u32,
    pub work: Work,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum Work {
    Produce(Produce),
    Consume(Consume),
}

impl Work {
    /// Clients in the process, each with connections of its own.
    pub fn instances(&self) -> u32 {
        match self {
            Work::Produce(work) => work.instances,
            Work::Consume(work) => work.instances,
        }
    }

    pub fn reads_to_the_end(&self) -> bool {
        matches!(self, Work::Consume(work) if work.to_the_end)
    }
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Produce {
    /// Of this producer, from 0.
    pub number: u32,
    /// Of all of them.
    pub producers: u32,
    pub size: u64,
    pub pace: Pace,
    /// One by one: clients in this process, each with connections of its own.
    pub instances: u32,
    /// Ends after so many records, if the window did not end before.
    pub records_max: Option<u64>,
    pub memory_bytes: u64,
    pub batch_bytes: u64,
    pub linger_us: u64,
    pub acks: Acks,
    pub compression: Compression,
    pub keys: Keys,
    /// Whether to sum up what is acknowledged, for `--verify`.
    pub sums: bool,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as back-pressure lets it.
    Flat,
    /// Records a second, whatever the broker does.
    Rate(f64),
    /// The next one when the last is acknowledged.
    OneByOne,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Consume {
    /// Consumers in this process, each with connections of its own; each reads everything.
    pub instances: u32,
    pub from: From,
    /// Memory of each instance for what is fetched ahead.
    pub prefetch_bytes: u64,
    /// Each instance ends after so many records.
    pub records_max: Option<u64>,
    /// When the window ends it goes on until it has read everything: in an open loop what comes last has
    /// waited longest.
    pub to_the_end: bool,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum From {
    Earliest,
    /// Some records at a random place, then at another one, and so on.
    Random {
        /// Bytes that are read at one place.
        bytes: u64,
        /// The first offset of each partition, and the one behind the last that may be read.
        offsets: Vec<(i64, i64)>,
    },
}

/// When the load starts, when it begins to count, and when it stops.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Window {
    pub start_ns: u64,
    pub count_ns: u64,
    pub stop_ns: u64,
}

impl Window {
    pub fn counts(&self, at_ns: u64) -> bool {
        (self.count_ns..self.stop_ns).contains(&at_ns)
    }

    pub fn seconds(&self) -> f64 {
        (self.stop_ns - self.count_ns) as f64 / 1e9
    }
}

/// What a worker says.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum Said {
    /// Connected; it waits for its window.
    Ready,
    /// Records so far, about once a second.
    Progress(u64),
    Done(Report),
    Failed(String),
}

/// What a worker did.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Report {
    /// Acknowledged, or read, while it counted.
    pub records: u64,
    pub bytes: u64,
    /// The same in the whole life of the worker.
    pub records_total: u64,
    pub bytes_total: u64,
    /// Sum of the checksums of all acknowledged values.
    pub sum: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// CPU time of the worker's process while it counted.
    pub cpu_ns: u64,
    /// When the last record was acknowledged, or read.
    pub last_ns: u64,
    /// To acknowledgement (producer) or end to end (consumer): microseconds with their counts.
    pub latency_us: Vec<(u64, u64)>,
    /// What records had waited at the end of an open loop that were due but could not be sent.
    pub unsent_us: Vec<(u64, u64)>,
    /// How much later than intended records were sent: the generator's own error, back-pressure included.
    pub late_us: Vec<(u64, u64)>,
}
