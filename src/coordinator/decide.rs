//! What the control plane answers to a request, and the records that make it so.
//!
//! Floor 2. Owner: the control plane. Pure: time and randomness come in as arguments.
//! Invariant: a refused request changes nothing. The records of an accepted one are applied to
//! this image at once, before they are durable; so after a failed append the coordinator must
//! not be asked again (the control plane goes offline), and nobody else has seen the records.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names::check_topic_name;
use super::{Change, Image, Partition, Record, Topic};
use crate::api::{Admin, AdminReply, TopicRef};
use crate::base::nearest;
use crate::model::topic_config::{self, TopicConfig};
use crate::model::{ErrorCode, Failure, JournalId, LaneId, ProducerId, TopicId};

pub const PARTITIONS_PER_TOPIC_MAX: u32 = 100_000;
/// Of all topics together: each costs memory on its shard.
const PARTITIONS_MAX: usize = 2_000_000;
/// One durable record lets this many producers in; a restart skips what is left of a block.
pub const PRODUCER_IDS_PER_BLOCK: ProducerId = 1000;
/// Fixed for a lane class; lanes never change their journal in v1.
pub const LANES_PER_JOURNAL: u32 = 8;

/// What a decision takes from outside.
pub struct Context<'a> {
    pub now_ms: i64,
    /// Configuration of topics that do not say otherwise.
    pub defaults: &'a TopicConfig,
    /// Partitions of a topic whose creator named no number.
    pub partitions_default: u32,
    pub random: &'a mut dyn FnMut() -> u64,
}

pub struct Coordinator {
    image: Image,
    /// The broker epoch of this start.
    term: u64,
    /// Next producer id to give out; below the image's durable bound.
    producer_id: ProducerId,
}

type Decision = Result<(Vec<Record>, AdminReply), Failure>;

impl Coordinator {
    /// Continues from `image` in a new broker epoch, whose record must be durable before
    /// anything else happens.
    pub fn start(image: Image) -> (Coordinator, Record) {
        let term = image.broker_epoch() + 1;
        let producer_id = image.producer_ids_next();
        let mut coordinator = Coordinator { image, term, producer_id };
        let record = coordinator.commit(Change::BrokerEpoch { epoch: term });
        (coordinator, record)
    }

    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Lists a journal that is about to be created, with lanes of its own.
    pub fn plan_journal(&mut self, id: JournalId) -> Record {
        let first = self.image.lane_count() as u32;
        let lanes = (first..first + LANES_PER_JOURNAL).map(LaneId).collect();
        self.commit(Change::JournalPlanned { id, lanes })
    }

    pub fn complete_journal(&mut self, id: JournalId) -> Record {
        self.commit(Change::JournalCompleted { id })
    }

    /// Ends a tombstone; `None` if it has ended already.
    pub fn forget_topic(&mut self, id: TopicId) -> Option<Record> {
        self.image.tombstone(id)?;
        Some(self.commit(Change::TopicForgotten { id }))
    }

    pub fn decide(&mut self, context: &mut Context<'_>, request: Admin) -> Decision {
        match request {
            Admin::CreateTopic { name, partitions, configs } => {
                self.create(context, name, partitions, configs)
            }
            Admin::DeleteTopic { topic } => {
                let id = self.resolve(&topic)?.id;
                Ok((vec![self.commit(Change::TopicDeleted { id })], AdminReply::TopicDeleted { id }))
            }
            Admin::AlterTopic { topic, partitions, configs } => {
                self.alter(context, &topic, partitions, configs)
            }
            Admin::InitProducerId => Ok(self.init_producer_id()),
        }
    }

    /// No more bytes than the records of this request will have, lengths in the log included.
    pub fn bytes_max(&self, request: &Admin, partitions_default: u32) -> usize {
        // Record heads, ids, counts and the longest name that is accepted.
        const FIXED: usize = 512;
        const PARTITION: usize = 5;
        match request {
            Admin::CreateTopic { partitions, configs, .. } => {
                let partitions = partitions.unwrap_or(partitions_default).min(PARTITIONS_PER_TOPIC_MAX);
                let configs: usize = configs.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
                FIXED + partitions as usize * PARTITION + configs
            }
            Admin::AlterTopic { partitions, configs, .. } => {
                let partitions = partitions.unwrap_or(0).min(PARTITIONS_PER_TOPIC_MAX);
                let value = |value: &Option<String>| value.as_ref().map_or(0, String::len);
                let configs: usize = configs.iter().map(|(k, v)| k.len() + value(v) + 8).sum();
                FIXED + partitions as usize * PARTITION + configs
            }
            Admin::DeleteTopic { .. } | Admin::InitProducerId => FIXED,
        }
    }

    fn commit(&mut self, change: Change) -> Record {
        let record = self.image.next(self.term, change);
        self.image.apply(&record);
        record
    }

    fn create(
        &mut self,
        context: &mut Context<'_>,
        name: String,
        partitions: Option<u32>,
        configs: Vec<(String, String)>,
    ) -> Decision {
        check_topic_name(&name)?;
        if self.image.topic_by_name(&name).is_some() {
            let text =
                format!("topic {name} exists already; `topic alter` changes it, `topic describe` shows it");
            return Err(Failure::new(ErrorCode::TopicAlreadyExists, text));
        }
        let count = partitions.unwrap_or(context.partitions_default);
        self.check_partition_count(count, count)?;
        let set: BTreeMap<String, String> = configs.iter().cloned().collect();
        if set.len() != configs.len() {
            return Err(Failure::new(ErrorCode::InvalidConfig, "a configuration key is given twice"));
        }
        let pairs = set.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        check_configs(context.defaults, pairs)?;
        let id = self.new_topic_id(context.random);
        let partitions = Arc::new(self.place(id, 0, count)?);
        let topic = Topic { id, name, created_ms: context.now_ms, configs: set, partitions };
        let record = self.commit(Change::TopicCreated(Arc::new(topic)));
        Ok((vec![record], AdminReply::TopicCreated { id, partitions: count }))
    }

    fn alter(
        &mut self,
        context: &Context<'_>,
        topic: &TopicRef,
        partitions: Option<u32>,
        configs: Vec<(String, Option<String>)>,
    ) -> Decision {
        let topic = self.resolve(topic)?;
        let (id, before) = (topic.id, topic.partitions.len() as u32);
        let wanted = partitions.unwrap_or(before);
        if wanted < before {
            let text = format!("{} has {before} partitions: their number can only grow", topic.name);
            return Err(Failure::new(ErrorCode::InvalidPartitions, text));
        }
        // Only what is asked for: keys that a newer broker set here are no reason to refuse, and may go.
        let is_known = |key: &String| topic_config::is_known(key) || topic.configs.contains_key(key);
        if let Some((key, _)) = configs.iter().find(|(key, value)| value.is_none() && !is_known(key)) {
            return Err(Failure::new(ErrorCode::InvalidConfig, topic_config::unknown(key).0));
        }
        let set = configs.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_deref()?)));
        check_configs(context.defaults, set)?;
        let mut records = Vec::new();
        if wanted > before {
            self.check_partition_count(wanted, wanted - before)?;
            let partitions = self.place(id, before, wanted - before)?;
            records.push(self.commit(Change::PartitionsAdded { id, partitions }));
        }
        if !configs.is_empty() {
            // As the resulting differences: a key given twice ends with its last value.
            let configs: BTreeMap<_, _> = configs.into_iter().collect();
            let configs = configs.into_iter().collect();
            records.push(self.commit(Change::TopicConfigured { id, configs }));
        }
        Ok((records, AdminReply::TopicAltered { id, partitions: wanted }))
    }

    fn init_producer_id(&mut self) -> (Vec<Record>, AdminReply) {
        let mut records = Vec::new();
        if self.producer_id == self.image.producer_ids_next() {
            let next = self.producer_id + PRODUCER_IDS_PER_BLOCK;
            records.push(self.commit(Change::ProducerIds { next }));
        }
        let id = self.producer_id;
        assert!(
            id < self.image.producer_ids_next(),
            "a producer id is given out only below the durable bound"
        );
        self.producer_id += 1;
        (records, AdminReply::ProducerId { id, epoch: 0 })
    }

    fn resolve(&self, topic: &TopicRef) -> Result<Arc<Topic>, Failure> {
        let name = match topic {
            TopicRef::Id(id) => {
                let text = || format!("no topic has the id {id}: it was deleted, or never existed");
                let found = self.image.topic_by_id(*id).cloned();
                return found.ok_or_else(|| Failure::new(ErrorCode::UnknownTopicId, text()));
            }
            TopicRef::Name(name) => name,
        };
        if let Some(topic) = self.image.topic_by_name(name) {
            return Ok(topic.clone());
        }
        // Bounded: a look at the first names is worth its time, a look at 100,000 is not.
        let names = self.image.topics().take(1000).map(|topic| topic.name.as_str());
        let hint = nearest(name, names).map(|near| format!(": did you mean {near}?")).unwrap_or_default();
        Err(Failure::new(ErrorCode::UnknownTopicOrPartition, format!("no topic is called {name:?}{hint}")))
    }

    fn check_partition_count(&self, count: u32, added: u32) -> Result<(), Failure> {
        if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&count) {
            let text = format!("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {count}");
            return Err(Failure::new(ErrorCode::InvalidPartitions, text));
        }
        if self.image.partition_count() + added as usize > PARTITIONS_MAX {
            let text =
                format!("this broker has room for {PARTITIONS_MAX} partitions in all: delete a topic first");
            return Err(Failure::new(ErrorCode::PolicyViolation, text));
        }
        Ok(())
    }

    fn new_topic_id(&self, random: &mut dyn FnMut() -> u64) -> TopicId {
        loop {
            let id = TopicId::new(u128::from(random()) << 64 | u128::from(random()));
            if id != TopicId::default() && !self.image.knows_id(id) {
                return id;
            }
        }
    }

    /// Lanes for partitions `first..first + count` of a topic: round robin over the journals, so
    /// that neighbours lie on different shards, then over each journal's lanes. Topics begin at
    /// different places, so that many topics of one partition spread too.
    fn place(&self, id: TopicId, first: u32, count: u32) -> Result<Vec<Partition>, Failure> {
        let journals: Vec<_> = self.image.journals().iter().filter(|journal| journal.completed).collect();
        if journals.is_empty() {
            return Err(
                Failure::new(ErrorCode::NotController, "the broker is still starting").retry_after(100)
            );
        }
        let start = id.number() as u64 % (journals.len() as u64 * u64::from(LANES_PER_JOURNAL));
        let lane = |partition: u64| {
            let slot = (start + partition) as usize;
            let lanes = &journals[slot % journals.len()].lanes;
            lanes[slot / journals.len() % lanes.len()]
        };
        let partitions = u64::from(first)..u64::from(first) + u64::from(count);
        Ok(partitions.map(|partition| Partition { lane: lane(partition) }).collect())
    }
}

fn check_configs<'a>(
    defaults: &TopicConfig,
    set: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), Failure> {
    match defaults.with(set) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(ErrorCode::InvalidConfig, error.0)),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
