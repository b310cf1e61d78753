//! The metadata of a broker as a pure machine: topics, their configuration and partitions,
//! journals and lanes, producer ids, the broker epoch.
//!
//! Floor 2. Owner: the control plane holds a [`Coordinator`], which decides; every shard holds an
//! [`Image`], which only applies. State changes only in [`Image::apply`]: `decide` answers records
//! and a reply, the records are made durable (today by a twin log, later by a quorum), and only
//! then are they sent to the shards, and the reply leaves once every shard applied them.
//! Invariant: two images that applied the same records are equal.

mod coding;
mod decide;
mod image;
mod names;

pub use coding::RecordError;
pub use decide::{Context, Coordinator, LANES_PER_JOURNAL, PARTITIONS_PER_TOPIC_MAX, PRODUCER_IDS_PER_BLOCK};
pub use image::{Image, Inconsistent, Journal};
pub use names::check_topic_name;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::topic_config::{ConfigError, TopicConfig};
use crate::model::{JournalId, LaneId, ProducerId, TopicId};

/// Name of the metadata's twin log, in a folder of the same name in the data folder.
pub const LOG_NAME: &str = "metadata";
/// Identity in its checksums: nothing outside the metadata could name another one.
pub const LOG_IDENTITY: u64 = 0;

/// One entry of the metadata log. `term` is the broker epoch that wrote it (a quorum of one),
/// `index` grows by one with each record; the records of a snapshot all carry its last index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub term: u64,
    pub index: u64,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written at every start, before anything else of that start.
    BrokerEpoch {
        epoch: u64,
    },
    /// The journal and its lanes are about to be created: whatever lies there holds no data.
    JournalPlanned {
        id: JournalId,
        lanes: Vec<LaneId>,
    },
    /// The journal exists durably; from now on its absence is damage.
    JournalCompleted {
        id: JournalId,
    },
    TopicCreated(Arc<Topic>),
    /// The name is free again; the id stays as a tombstone.
    TopicDeleted {
        id: TopicId,
    },
    /// No file of any shard holds runs of the deleted topic: its tombstone goes.
    TopicForgotten {
        id: TopicId,
    },
    /// `None`: the key follows the broker's default again.
    TopicConfigured {
        id: TopicId,
        configs: Vec<(String, Option<String>)>,
    },
    /// Appended after the partitions that the topic has.
    PartitionsAdded {
        id: TopicId,
        partitions: Vec<Partition>,
    },
    /// Producer ids below `next` may have been given out.
    ProducerIds {
        next: ProducerId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    pub created_ms: i64,
    /// Only the keys that were set on the topic.
    pub configs: BTreeMap<String, String>,
    /// Shared: a change of the configuration does not copy 100,000 partitions.
    pub partitions: Arc<Vec<Partition>>,
}

/// Where a partition's records lie: wholly in one lane. The form of its record is numbered, for a
/// version that moves partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    pub lane: LaneId,
}

impl Topic {
    /// The effective configuration: the topic's own keys over the broker's defaults. Keys were checked
    /// when they were set; one that this broker cannot read (a newer one knew it) is told, and costs
    /// none of the others.
    pub fn config(&self, defaults: &TopicConfig) -> (TopicConfig, Vec<ConfigError>) {
        let mut config = defaults.clone();
        let unread = self.configs.iter().filter_map(|(key, value)| config.set(key, value).err()).collect();
        (config, unread)
    }
}
