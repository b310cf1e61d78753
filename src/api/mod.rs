//! Requests and replies without a protocol: no versions, no correlation ids, no sessions.
//!
//! Floor 1. `net` decodes bytes into a [`Request`], a shard answers through [`Done`], `net` encodes
//! the [`Reply`]. A [`Chunk`] borrows record bytes from wherever they lie (tail or read buffer);
//! nothing between the disk and the socket copies them.

use std::any::Any;
use std::rc::Rc;

use bytes::Bytes;

use crate::model::{Failure, Offset, PartitionId, ProducerId, TopicId};

/// Called exactly once with the outcome. For `acks=0` it is called as soon as the batch is staged
/// or refused, and the protocol decides to say nothing.
pub type Done = Box<dyn FnOnce(Result<Reply, Failure>)>;

#[derive(Debug)]
pub enum Request {
    /// Answered by any shard from its own image.
    Metadata(Topics),
    /// Resolves a topic and partition to its identity; NOT_LEADER_OR_FOLLOWER if another shard owns it.
    Open {
        topic: TopicRef,
        partition: u32,
    },
    Produce(Produce),
    Fetch(Fetch),
    ListOffsets {
        partition: PartitionId,
        at: At,
    },
    DeleteRecords {
        partition: PartitionId,
        before: Offset,
    },
    /// Decided by the control plane, answered once durable and applied by every shard.
    Admin(Admin),
}

#[derive(Debug)]
pub enum Reply {
    Metadata(Metadata),
    Opened(Opened),
    Produced(Produced),
    Fetched(Vec<FetchedPartition>),
    Offset {
        offset: Offset,
        timestamp_ms: i64,
    },
    /// The log start offset after the deletion.
    RecordsDeleted {
        log_start: Offset,
    },
    Admin(AdminReply),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
}

/// `configs`: whether each topic's configuration is wanted too.
#[derive(Clone, Debug)]
pub enum Topics {
    All { configs: bool },
    Some { topics: Vec<TopicRef>, configs: bool },
}

#[derive(Clone, Debug)]
pub struct Metadata {
    pub broker_epoch: u64,
    pub shards: u32,
    pub topics: Vec<TopicMetadata>,
}

#[derive(Clone, Debug)]
pub struct TopicMetadata {
    pub name: String,
    pub id: TopicId,
    /// Set if the topic is unknown; then all else is empty.
    pub error: Option<Failure>,
    /// The owning shard of each partition, by partition number.
    pub shards: Vec<u32>,
    pub configs: Vec<ConfigEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub key: String,
    pub value: String,
    /// Set on the topic itself, rather than inherited from the broker's defaults.
    pub is_set: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub partition: PartitionId,
    pub leader_epoch: i32,
    pub log_start: Offset,
    pub high_watermark: Offset,
    /// Largest record batch that the topic accepts, in bytes.
    pub batch_bytes_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

#[derive(Debug)]
pub struct Produce {
    pub partition: PartitionId,
    pub acks: Acks,
    /// One Kafka RecordBatch v2, not yet validated.
    pub batch: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub base_offset: Offset,
    /// -1 unless the topic's timestamps are the broker's (LogAppendTime).
    pub log_append_time_ms: i64,
    pub log_start: Offset,
}

#[derive(Debug)]
pub struct Fetch {
    pub wait_ms_max: u32,
    pub bytes_min: u32,
    /// At least one batch is answered even if it is larger (KIP-74).
    pub bytes_max: u32,
    pub partitions: Vec<FetchPartition>,
}

#[derive(Clone, Copy, Debug)]
pub struct FetchPartition {
    pub partition: PartitionId,
    pub offset: Offset,
    pub bytes_max: u32,
}

#[derive(Debug)]
pub struct FetchedPartition {
    pub partition: PartitionId,
    pub error: Option<Failure>,
    /// With CORRUPT_MESSAGE: the next offset that can be read. Without an error and without records: what
    /// was wanted is lost, which an operator accepted; go on here. Else -1.
    pub next_offset: Offset,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// Whole record batches; the first may begin below the wanted offset.
    pub chunks: Vec<Chunk>,
}

/// A range of bytes that somebody else keeps alive.
#[derive(Clone)]
pub struct Chunk {
    owner: Rc<dyn AsRef<[u8]>>,
    start: usize,
    end: usize,
    held: Option<Rc<dyn Any>>,
}

impl Chunk {
    pub fn new(owner: Rc<dyn AsRef<[u8]>>, range: std::ops::Range<usize>) -> Chunk {
        assert!(range.start <= range.end && range.end <= (*owner).as_ref().len());
        Chunk { owner, start: range.start, end: range.end, held: None }
    }

    /// Keeps something else alive as long as itself: what its memory is counted by.
    pub fn holding(self, held: Rc<dyn Any>) -> Chunk {
        Chunk { held: Some(held), ..self }
    }

    /// A part of this chunk; `range` counts from its start.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Chunk {
        let part = Chunk::new(self.owner.clone(), self.start + range.start..self.start + range.end);
        Chunk { held: self.held.clone(), ..part }
    }
}

impl std::ops::Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.start..self.end]
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Earliest,
    Latest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first record whose timestamp is at or after this; offset -1 if there is none.
    Timestamp(i64),
}

/// What only the control plane decides.
#[derive(Clone, Debug)]
pub enum Admin {
    CreateTopic {
        name: String,
        partitions: Option<u32>,
        configs: Vec<(String, String)>,
    },
    DeleteTopic {
        topic: TopicRef,
    },
    /// `None` as a value: back to the default.
    AlterTopic {
        topic: TopicRef,
        partitions: Option<u32>,
        configs: Vec<(String, Option<String>)>,
    },
    InitProducerId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminReply {
    TopicCreated { id: TopicId, partitions: u32 },
    TopicDeleted { id: TopicId },
    TopicAltered { id: TopicId, partitions: u32 },
    ProducerId { id: ProducerId, epoch: i16 },
}
