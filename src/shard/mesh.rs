//! What shards and the control plane tell each other, and what a shard is started with.
//!
//! Floor 5. Owner: broker; every value here travels between executors.
//! Invariant: a shard applies `Records` in order of their sequence, and says `Applied` for each;
//! an `Answer` follows only when all shards have. The order of a start: the shard recovers and says
//! `Ready`; the control plane makes new journals part of the metadata; `Serve` lets the shard listen.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::api::{Admin, AdminReply};
use crate::coordinator::{Image, Record};
use crate::model::{Failure, JournalId, LaneId, TopicConfig, TopicId};
use crate::rt::{Handover, mesh};

pub struct ShardPlan {
    pub index: u32,
    pub count: u32,
    pub listen: SocketAddr,
    /// The data folder; journals lie in `data/journals/ID`.
    pub data: PathBuf,
    pub journals: Vec<JournalPlan>,
    pub image: Image,
    pub broker_epoch: u64,
    /// This shard's share of the memory budget.
    pub memory_bytes: u64,
    /// Every shard by its index, this one included.
    pub peers: Vec<mesh::Sender<ToShard>>,
    pub settings: Settings,
}

#[derive(Clone, Debug)]
pub struct JournalPlan {
    pub id: JournalId,
    pub lanes: Vec<LaneId>,
    /// Not completed yet: whatever lies there is of an interrupted creation and holds no data.
    pub create: bool,
}

/// Plain values from the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size of new segments.
    pub segment_bytes: u64,
    pub topic_defaults: TopicConfig,
    /// Largest frame that a client may send or be sent.
    pub frame_bytes_max: u32,
    /// How often retention looks at the partitions.
    pub retention_check_ms: u64,
    /// Connections of one shard; more are closed at once.
    pub connections_max: u32,
}

pub enum ToShard {
    /// Durable metadata records.
    Records { sequence: u64, records: Arc<Vec<Record>> },
    /// Of the admin request with this id.
    Answer { id: u64, result: Result<AdminReply, Failure> },
    /// A socket whose client asked for this shard.
    Connection(Handover),
    /// Every shard is ready and the metadata is durable: listen. The bound is of all journals.
    Serve { batch_bytes_max: u32 },
    /// Write the checkpoints and marks, then say `Stopped` and end.
    Stop,
}

pub enum ToControl {
    Admin {
        shard: u32,
        id: u64,
        request: Admin,
    },
    Applied {
        shard: u32,
        sequence: u64,
    },
    /// The shard's journals are recovered.
    Ready {
        shard: u32,
        recovered: Recovered,
    },
    /// The shard cannot serve; the text names the cure.
    Failed {
        shard: u32,
        text: String,
    },
    /// Connections are accepted from now on; the answer to `Serve` (the other one is `Failed`).
    Listening {
        shard: u32,
    },
    /// No file of this shard holds runs of the deleted topic.
    Dropped {
        shard: u32,
        topic: TopicId,
    },
    /// From outside: stop the broker.
    Stop,
}

/// What recovery found, for the start banner.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// What the journals take on disk.
    pub bytes: u64,
    pub took_ms: u64,
    /// Largest batch that each of the journals takes; `None` without journals.
    pub batch_bytes_max: Option<u32>,
    /// Damage that was found; each text names place and cure.
    pub damages: Vec<String>,
}
