//! Topics by name or id, their metadata and configuration.
//!
//! Floor 3.
//!
//! ```text
//! topic ref  u8 kind (0 name, 1 id) | text name, or u128 id
//! query      u8 all | u8 configs | u32 count | topic ref ...
//! metadata   u64 broker_epoch | u32 shards | u32 count | topic ...
//! topic      u128 id | failure | text name | u32 count | u32 shard ... | u32 count | config ...
//! config     u8 is_set | text key | text value
//! ```

use crate::base::cursor::put_text;
use crate::base::{DecodeError, Reader};
use crate::model::{Failure, TopicId};

use super::body::{FAILURE_BYTES, failure, flag, put_count, put_failure, put_u32, put_u64, put_u128};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataQuery {
    /// `None`: all topics.
    pub topics: Option<Vec<TopicRef>>,
    /// Whether each topic's configuration is wanted too.
    pub configs: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    pub broker_epoch: u64,
    pub shards: u32,
    /// In the order of the query.
    pub topics: Vec<TopicMetadata>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    pub id: TopicId,
    /// Set if the topic is unknown; then the lists are empty.
    pub error: Option<Failure>,
    pub name: String,
    /// The owning shard of each partition, by partition number.
    pub shards: Vec<u32>,
    /// Empty unless asked for.
    pub configs: Vec<ConfigEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    pub key: String,
    pub value: String,
    /// Set on the topic itself, rather than inherited from the broker's defaults.
    pub is_set: bool,
}

/// Least bytes of the encoded forms, which bound the counts before them.
const TOPIC_REF_BYTES: usize = 3;
const TOPIC_BYTES: usize = 16 + FAILURE_BYTES + 2 + 4 + 4;
const CONFIG_BYTES: usize = 5;

impl TopicRef {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            TopicRef::Name(name) => {
                out.push(0);
                put_text(out, name);
            }
            TopicRef::Id(id) => {
                out.push(1);
                put_u128(out, id.number());
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<TopicRef, DecodeError> {
        Ok(match flag(reader, "topic kind")? {
            false => TopicRef::Name(reader.text("topic name")?.to_owned()),
            true => TopicRef::Id(TopicId::new(reader.u128("topic id")?)),
        })
    }
}

impl MetadataQuery {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.topics.is_none().into());
        out.push(self.configs.into());
        let topics = self.topics.as_deref().unwrap_or_default();
        put_count(out, topics.len());
        for topic in topics {
            topic.encode(out);
        }
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<MetadataQuery, DecodeError> {
        let all = flag(reader, "metadata all")?;
        let configs = flag(reader, "metadata configs")?;
        let count = reader.count_u32(TOPIC_REF_BYTES, "metadata topics")?;
        let mut topics = Vec::new();
        for _ in 0..count {
            topics.push(TopicRef::decode(reader)?);
        }
        Ok(MetadataQuery { topics: (!all).then_some(topics), configs })
    }
}

impl Metadata {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.broker_epoch);
        put_u32(out, self.shards);
        put_count(out, self.topics.len());
        for topic in &self.topics {
            topic.encode(out);
        }
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Metadata, DecodeError> {
        let broker_epoch = reader.u64("metadata broker epoch")?;
        let shards = reader.u32("metadata shards")?;
        let count = reader.count_u32(TOPIC_BYTES, "metadata topics")?;
        let mut topics = Vec::new();
        for _ in 0..count {
            topics.push(TopicMetadata::decode(reader)?);
        }
        Ok(Metadata { broker_epoch, shards, topics })
    }
}

impl TopicMetadata {
    fn encode(&self, out: &mut Vec<u8>) {
        put_u128(out, self.id.number());
        put_failure(out, self.error.as_ref());
        put_text(out, &self.name);
        put_count(out, self.shards.len());
        for shard in &self.shards {
            put_u32(out, *shard);
        }
        put_count(out, self.configs.len());
        for config in &self.configs {
            out.push(config.is_set.into());
            put_text(out, &config.key);
            put_text(out, &config.value);
        }
    }

    fn decode(reader: &mut Reader) -> Result<TopicMetadata, DecodeError> {
        let id = TopicId::new(reader.u128("topic id")?);
        let error = failure(reader)?;
        let name = reader.text("topic name")?.to_owned();
        let count = reader.count_u32(4, "topic partitions")?;
        let mut shards = Vec::with_capacity(count);
        for _ in 0..count {
            shards.push(reader.u32("partition shard")?);
        }
        let count = reader.count_u32(CONFIG_BYTES, "topic configs")?;
        let mut configs = Vec::new();
        for _ in 0..count {
            let is_set = flag(reader, "config is set")?;
            let key = reader.text("config key")?.to_owned();
            let value = reader.text("config value")?.to_owned();
            configs.push(ConfigEntry { key, value, is_set });
        }
        Ok(TopicMetadata { id, error, name, shards, configs })
    }
}
