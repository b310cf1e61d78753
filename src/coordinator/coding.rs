//! Bytes of a metadata record.
//!
//! Floor 2. Little-endian; the twin log around it has checksums, so these bytes carry none.
//! Invariant: decoding never panics, and allocates at most ten times its input.
//!
//! ```text
//! 0 version u16 | 2 kind u16 | 4 term u64 | 12 index u64 | 20 body
//!
//! kind 1 broker epoch       epoch u64
//!      2 journal planned    journal u64, lanes: count u32, lane u32 each
//!      3 journal completed  journal u64
//!      4 topic created      topic u128, created i64, name text, configs: count u32, (key text, value text)
//!                           each, partitions: count u32, (form u8 = 0, lane u32) each
//!      5 topic deleted      topic u128
//!      6 topic forgotten    topic u128
//!      7 topic configured   topic u128, count u32, (key text, set u8, value text if set = 1) each
//!      8 partitions added   topic u128, partitions as in 4
//!      9 producer ids       next i64
//! text: length u16, UTF-8
//! ```
//!
//! Partition form 0 is "wholly in one lane"; other forms are for
//! the moves of a later version.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Partition, Record, Topic};
use crate::base::cursor::put_text;
use crate::base::{DecodeError, Reader};
use crate::model::{JournalId, LaneId, TopicId};

const VERSION: u16 = 1;
const PARTITION_IN_ONE_LANE: u8 = 0;
/// More configuration keys than any topic can have.
const CONFIGS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("metadata record: {0}")]
    Malformed(#[from] DecodeError),
    #[error("metadata record of {what} {number}, which this version does not know: upgrade the broker")]
    Newer { what: &'static str, number: u16 },
}

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.change.kind().to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        self.change.encode(&mut out);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u16("version")?;
        if version > VERSION {
            return Err(RecordError::Newer { what: "version", number: version });
        }
        if version == 0 {
            return Err(reader.error("version").into());
        }
        let kind = reader.u16("kind")?;
        let term = reader.u64("term")?;
        let index = reader.u64("index")?;
        let change = Change::decode(kind, &mut reader)?;
        reader.finish("record end")?;
        Ok(Record { term, index, change })
    }
}

impl Change {
    fn kind(&self) -> u16 {
        match self {
            Change::BrokerEpoch { .. } => 1,
            Change::JournalPlanned { .. } => 2,
            Change::JournalCompleted { .. } => 3,
            Change::TopicCreated(_) => 4,
            Change::TopicDeleted { .. } => 5,
            Change::TopicForgotten { .. } => 6,
            Change::TopicConfigured { .. } => 7,
            Change::PartitionsAdded { .. } => 8,
            Change::ProducerIds { .. } => 9,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Change::BrokerEpoch { epoch } => out.extend_from_slice(&epoch.to_le_bytes()),
            Change::JournalPlanned { id, lanes } => {
                out.extend_from_slice(&id.0.to_le_bytes());
                put_count(out, lanes.len());
                lanes.iter().for_each(|lane| out.extend_from_slice(&lane.0.to_le_bytes()));
            }
            Change::JournalCompleted { id } => out.extend_from_slice(&id.0.to_le_bytes()),
            Change::TopicCreated(topic) => {
                out.extend_from_slice(&topic.id.number().to_le_bytes());
                out.extend_from_slice(&topic.created_ms.to_le_bytes());
                put_text(out, &topic.name);
                put_count(out, topic.configs.len());
                for (key, value) in &topic.configs {
                    put_text(out, key);
                    put_text(out, value);
                }
                put_partitions(out, &topic.partitions);
            }
            Change::TopicDeleted { id } | Change::TopicForgotten { id } => {
                out.extend_from_slice(&id.number().to_le_bytes());
            }
            Change::TopicConfigured { id, configs } => {
                out.extend_from_slice(&id.number().to_le_bytes());
                put_count(out, configs.len());
                for (key, value) in configs {
                    put_text(out, key);
                    out.push(value.is_some().into());
                    if let Some(value) = value {
                        put_text(out, value);
                    }
                }
            }
            Change::PartitionsAdded { id, partitions } => {
                out.extend_from_slice(&id.number().to_le_bytes());
                put_partitions(out, partitions);
            }
            Change::ProducerIds { next } => out.extend_from_slice(&next.to_le_bytes()),
        }
    }

    fn decode(kind: u16, reader: &mut Reader<'_>) -> Result<Change, RecordError> {
        Ok(match kind {
            1 => Change::BrokerEpoch { epoch: reader.u64("epoch")? },
            2 => {
                let id = JournalId(reader.u64("journal")?);
                let count = reader.count_u32(4, "lane count")?;
                let mut lanes = Vec::with_capacity(count);
                for _ in 0..count {
                    lanes.push(LaneId(reader.u32("lane")?));
                }
                Change::JournalPlanned { id, lanes }
            }
            3 => Change::JournalCompleted { id: JournalId(reader.u64("journal")?) },
            4 => Change::TopicCreated(Arc::new(read_topic(reader)?)),
            5 => Change::TopicDeleted { id: read_topic_id(reader)? },
            6 => Change::TopicForgotten { id: read_topic_id(reader)? },
            7 => {
                let id = read_topic_id(reader)?;
                let count = read_config_count(reader)?;
                let mut configs = Vec::new();
                for _ in 0..count {
                    let key = reader.text("config key")?.to_owned();
                    let value = match reader.u8("config set")? {
                        0 => None,
                        1 => Some(reader.text("config value")?.to_owned()),
                        _ => return Err(reader.error("config set").into()),
                    };
                    configs.push((key, value));
                }
                Change::TopicConfigured { id, configs }
            }
            8 => {
                let id = read_topic_id(reader)?;
                Change::PartitionsAdded { id, partitions: read_partitions(reader)? }
            }
            9 => Change::ProducerIds { next: reader.i64("next producer id")? },
            _ => return Err(RecordError::Newer { what: "kind", number: kind }),
        })
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("decide bounds what a record lists");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_partitions(out: &mut Vec<u8>, partitions: &[Partition]) {
    put_count(out, partitions.len());
    for partition in partitions {
        out.push(PARTITION_IN_ONE_LANE);
        out.extend_from_slice(&partition.lane.0.to_le_bytes());
    }
}

fn read_partitions(reader: &mut Reader<'_>) -> Result<Vec<Partition>, RecordError> {
    let count = reader.count_u32(5, "partition count")?;
    let mut partitions = Vec::with_capacity(count);
    for _ in 0..count {
        match reader.u8("partition form")? {
            PARTITION_IN_ONE_LANE => partitions.push(Partition { lane: LaneId(reader.u32("lane")?) }),
            form => return Err(RecordError::Newer { what: "partition form", number: form.into() }),
        }
    }
    Ok(partitions)
}

fn read_topic_id(reader: &mut Reader<'_>) -> Result<TopicId, DecodeError> {
    Ok(TopicId::new(reader.u128("topic id")?))
}

fn read_config_count(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let error = reader.error("config count");
    let count = reader.count_u32(3, "config count")?;
    if count > CONFIGS_MAX { Err(error) } else { Ok(count) }
}

fn read_topic(reader: &mut Reader<'_>) -> Result<Topic, RecordError> {
    let id = read_topic_id(reader)?;
    let created_ms = reader.i64("created")?;
    let name = reader.text("topic name")?.to_owned();
    let count = read_config_count(reader)?;
    let mut configs = BTreeMap::new();
    for _ in 0..count {
        let key = reader.text("config key")?.to_owned();
        configs.insert(key, reader.text("config value")?.to_owned());
    }
    let partitions = Arc::new(read_partitions(reader)?);
    Ok(Topic { id, name, created_ms, configs, partitions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Change> {
        let id = TopicId::new(7 << 100);
        let partitions = vec![Partition { lane: LaneId(3) }, Partition { lane: LaneId(4) }];
        let configs = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
        let topic =
            Topic { id, name: "t".into(), created_ms: 9, configs, partitions: Arc::new(partitions.clone()) };
        vec![
            Change::BrokerEpoch { epoch: 5 },
            Change::JournalPlanned { id: JournalId(1), lanes: vec![LaneId(0), LaneId(1)] },
            Change::JournalCompleted { id: JournalId(1) },
            Change::TopicCreated(Arc::new(topic)),
            Change::TopicDeleted { id },
            Change::TopicForgotten { id },
            Change::TopicConfigured { id, configs: vec![("a".into(), None), ("b".into(), Some("c".into()))] },
            Change::PartitionsAdded { id, partitions },
            Change::ProducerIds { next: 1000 },
        ]
    }

    #[test]
    fn records_round_trip_and_every_cut_is_refused() {
        for change in samples() {
            let record = Record { term: 1, index: 2, change };
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes).as_ref(), Ok(&record));
            for length in 0..bytes.len() {
                assert!(Record::decode(&bytes[..length]).is_err(), "{record:?} cut to {length}");
            }
        }
    }

    #[test]
    fn newer_records_ask_for_an_upgrade() {
        let mut bytes = Record { term: 1, index: 2, change: Change::BrokerEpoch { epoch: 1 } }.encode();
        bytes[2] = 99;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Newer { what: "kind", number: 99 }));
        bytes[0] = 2;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Newer { what: "version", number: 2 }));
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for change in samples() {
            let bytes = Record { term: 1, index: 2, change }.encode();
            for _ in 0..2000 {
                let mut damaged = bytes.clone();
                for _ in 0..3 {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let place = (state >> 33) as usize % damaged.len();
                    damaged[place] = (state >> 20) as u8;
                }
                if let Ok(record) = Record::decode(&damaged) {
                    assert_eq!(Record::decode(&record.encode()), Ok(record));
                }
            }
        }
    }
}
