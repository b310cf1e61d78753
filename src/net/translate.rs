//! Between the plain structs of the wire and the requests and replies of `api`.
//!
//! Floor 4. Pure: nothing here looks at a connection.

use crate::api;
use crate::wire;

/// A request that needs no handle; `None` for those that do, and for those `net` answers itself.
pub(super) fn request(request: wire::Request) -> Option<api::Request> {
    Some(match request {
        wire::Request::Metadata(query) => api::Request::Metadata(match query.topics {
            None => api::Topics::All { configs: query.configs },
            Some(topics) => {
                let topics = topics.into_iter().map(topic_ref).collect();
                api::Topics::Some { topics, configs: query.configs }
            }
        }),
        wire::Request::Open { topic, partition } => api::Request::Open { topic: topic_ref(topic), partition },
        wire::Request::CreateTopic { name, partitions, configs } => {
            api::Request::Admin(api::Admin::CreateTopic { name, partitions, configs })
        }
        wire::Request::DeleteTopic { topic } => {
            api::Request::Admin(api::Admin::DeleteTopic { topic: topic_ref(topic) })
        }
        wire::Request::AlterTopic { topic, partitions, configs } => {
            let topic = topic_ref(topic);
            api::Request::Admin(api::Admin::AlterTopic { topic, partitions, configs })
        }
        wire::Request::InitProducerId => api::Request::Admin(api::Admin::InitProducerId),
        wire::Request::Hello(_)
        | wire::Request::Ping
        | wire::Request::Close
        | wire::Request::Produce(_)
        | wire::Request::Fetch(_)
        | wire::Request::ListOffsets { .. }
        | wire::Request::DeleteRecords { .. } => return None,
    })
}

fn topic_ref(topic: wire::TopicRef) -> api::TopicRef {
    match topic {
        wire::TopicRef::Name(name) => api::TopicRef::Name(name),
        wire::TopicRef::Id(id) => api::TopicRef::Id(id),
    }
}

pub(super) fn acks(acks: wire::Acks) -> api::Acks {
    match acks {
        wire::Acks::None => api::Acks::None,
        wire::Acks::Leader => api::Acks::Leader,
        wire::Acks::All => api::Acks::All,
    }
}

pub(super) fn at(at: wire::At) -> api::At {
    match at {
        wire::At::Latest => api::At::Latest,
        wire::At::Earliest => api::At::Earliest,
        wire::At::MaxTimestamp => api::At::MaxTimestamp,
        wire::At::Timestamp(ms) => api::At::Timestamp(ms),
    }
}

/// A reply that names no handle and carries no record bytes.
pub(super) fn reply(reply: api::Reply) -> wire::Reply {
    match reply {
        api::Reply::Metadata(metadata) => wire::Reply::Metadata(wire::Metadata {
            broker_epoch: metadata.broker_epoch,
            shards: metadata.shards,
            topics: metadata.topics.into_iter().map(topic).collect(),
        }),
        api::Reply::Produced(produced) => wire::Reply::Produce(wire::Produced {
            base_offset: produced.base_offset,
            log_append_time_ms: produced.log_append_time_ms,
            log_start: produced.log_start,
        }),
        api::Reply::Offset { offset, timestamp_ms } => wire::Reply::ListOffsets { offset, timestamp_ms },
        api::Reply::RecordsDeleted { log_start } => wire::Reply::DeleteRecords { log_start },
        api::Reply::Admin(reply) => match reply {
            api::AdminReply::TopicCreated { id, partitions } => wire::Reply::CreateTopic { id, partitions },
            api::AdminReply::TopicDeleted { id } => wire::Reply::DeleteTopic { id },
            api::AdminReply::TopicAltered { id, partitions } => wire::Reply::AlterTopic { id, partitions },
            api::AdminReply::ProducerId { id, epoch } => wire::Reply::InitProducerId { id, epoch },
        },
        api::Reply::Opened(_) | api::Reply::Fetched(_) => {
            unreachable!("opened and fetched are answered with their handles")
        }
    }
}

pub(super) fn opened(handle: u32, opened: api::Opened) -> wire::Reply {
    wire::Reply::Open(wire::Opened {
        handle,
        leader_epoch: opened.leader_epoch,
        partition: opened.partition,
        batch_bytes_max: opened.batch_bytes_max,
        log_start: opened.log_start,
        high_watermark: opened.high_watermark,
    })
}

fn topic(topic: api::TopicMetadata) -> wire::TopicMetadata {
    let config = |entry: api::ConfigEntry| wire::ConfigEntry {
        key: entry.key,
        value: entry.value,
        is_set: entry.is_set,
    };
    wire::TopicMetadata {
        id: topic.id,
        error: topic.error,
        name: topic.name,
        shards: topic.shards,
        configs: topic.configs.into_iter().map(config).collect(),
    }
}
