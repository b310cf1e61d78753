//! The state that metadata records build, as every shard sees it.
//!
//! Floor 2. Owner: whoever holds it; a clone shares the topics.
//! Invariant: changes only in `apply`, in index order; applying costs what the change costs, not
//! what the image holds (only adding partitions copies that topic's list).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Partition, Record, Topic};
use crate::model::{JournalId, LaneId, PartitionId, ProducerId, TopicId};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    term: u64,
    index: u64,
    broker_epoch: u64,
    topics: BTreeMap<TopicId, Arc<Topic>>,
    names: BTreeMap<String, TopicId>,
    /// Deleted topics whose runs may still lie in a file.
    tombstones: BTreeMap<TopicId, Arc<Topic>>,
    journals: Vec<Journal>,
    /// The journal (as an index of `journals`) of each lane, by lane number.
    lanes: Vec<u32>,
    producer_ids_next: ProducerId,
    /// Of live topics.
    partition_count: usize,
}

/// A listed journal. Its place in the list decides which shard drives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    pub id: JournalId,
    pub lanes: Vec<LaneId>,
    /// It exists durably; if it is missing, that is damage.
    pub completed: bool,
}

/// A record that does not fit the image: the metadata log is not what it claims to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata record {index} does not fit what precedes it: {what}")]
pub struct Inconsistent {
    pub index: u64,
    pub what: &'static str,
}

impl Image {
    /// Builds the image of a metadata log: a snapshot's records, then all later ones.
    pub fn restore<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Image, Inconsistent> {
        let mut image = Image::default();
        for record in records {
            image.try_apply(record)?;
        }
        Ok(image)
    }

    /// Applies a record that the control plane decided against an equal image.
    pub fn apply(&mut self, record: &Record) {
        if let Err(error) = self.try_apply(record) {
            panic!("{error}");
        }
    }

    fn try_apply(&mut self, record: &Record) -> Result<(), Inconsistent> {
        let wrong = |what| Err(Inconsistent { index: record.index, what });
        let follows = record.index == self.index.wrapping_add(1);
        // The records of a snapshot all carry the index of its last record.
        let in_snapshot = self.index == 0 || record.index == self.index;
        if !(follows || in_snapshot) || record.index == 0 {
            return wrong("index out of order");
        }
        if record.term < self.term {
            return wrong("term out of order");
        }
        self.change(&record.change).or_else(wrong)?;
        self.term = record.term;
        self.index = record.index;
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), &'static str> {
        match change {
            Change::BrokerEpoch { epoch } => {
                require(*epoch > self.broker_epoch, "broker epoch that does not rise")?;
                self.broker_epoch = *epoch;
            }
            Change::JournalPlanned { id, lanes } => self.plan_journal(*id, lanes)?,
            Change::JournalCompleted { id } => {
                let journal = self.journals.iter_mut().find(|journal| journal.id == *id);
                journal.ok_or("completion of a journal that was not planned")?.completed = true;
            }
            Change::TopicCreated(topic) => self.create(topic)?,
            Change::TopicDeleted { id } => {
                let topic = self.topics.remove(id).ok_or("deletion of an unknown topic")?;
                self.names.remove(&topic.name);
                self.partition_count -= topic.partitions.len();
                self.tombstones.insert(*id, topic);
            }
            Change::TopicForgotten { id } => {
                self.tombstones.remove(id).ok_or("end of an unknown tombstone")?;
            }
            Change::TopicConfigured { id, configs } => {
                let topic = self.topics.get_mut(id).ok_or("configuration of an unknown topic")?;
                let topic = Arc::make_mut(topic);
                for (key, value) in configs {
                    match value {
                        Some(value) => topic.configs.insert(key.clone(), value.clone()),
                        None => topic.configs.remove(key),
                    };
                }
            }
            Change::PartitionsAdded { id, partitions } => {
                self.check_lanes(partitions)?;
                let topic = self.topics.get_mut(id).ok_or("partitions of an unknown topic")?;
                let all = Arc::make_mut(&mut Arc::make_mut(topic).partitions);
                all.extend_from_slice(partitions);
                self.partition_count += partitions.len();
            }
            Change::ProducerIds { next } => {
                require(*next > self.producer_ids_next, "producer ids that do not rise")?;
                self.producer_ids_next = *next;
            }
        }
        Ok(())
    }

    fn plan_journal(&mut self, id: JournalId, lanes: &[LaneId]) -> Result<(), &'static str> {
        require(!lanes.is_empty(), "journal without lanes")?;
        require(self.journals.iter().all(|journal| journal.id != id), "journal planned twice")?;
        let numbered = lanes.iter().zip(self.lanes.len()..).all(|(lane, number)| lane.0 as usize == number);
        require(numbered, "lanes that are not numbered on")?;
        self.lanes.extend(lanes.iter().map(|_| self.journals.len() as u32));
        self.journals.push(Journal { id, lanes: lanes.to_vec(), completed: false });
        Ok(())
    }

    fn create(&mut self, topic: &Arc<Topic>) -> Result<(), &'static str> {
        self.check_lanes(&topic.partitions)?;
        require(!self.knows_id(topic.id), "topic id used twice")?;
        require(!self.names.contains_key(&topic.name), "topic name used twice")?;
        self.names.insert(topic.name.clone(), topic.id);
        self.topics.insert(topic.id, topic.clone());
        self.partition_count += topic.partitions.len();
        Ok(())
    }

    fn check_lanes(&self, partitions: &[Partition]) -> Result<(), &'static str> {
        let known = |partition: &Partition| (partition.lane.0 as usize) < self.lanes.len();
        require(partitions.iter().all(known), "partition in an unknown lane")
    }

    /// The records that rebuild this image from nothing; all carry its last index.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut changes = Vec::new();
        if self.broker_epoch > 0 {
            changes.push(Change::BrokerEpoch { epoch: self.broker_epoch });
        }
        for journal in &self.journals {
            changes.push(Change::JournalPlanned { id: journal.id, lanes: journal.lanes.clone() });
            if journal.completed {
                changes.push(Change::JournalCompleted { id: journal.id });
            }
        }
        if self.producer_ids_next > 0 {
            changes.push(Change::ProducerIds { next: self.producer_ids_next });
        }
        // Tombstones first: their names may belong to a living topic by now.
        for topic in self.tombstones.values() {
            changes.push(Change::TopicCreated(topic.clone()));
            changes.push(Change::TopicDeleted { id: topic.id });
        }
        changes.extend(self.topics.values().map(|topic| Change::TopicCreated(topic.clone())));
        changes.into_iter().map(|change| Record { term: self.term, index: self.index, change }).collect()
    }

    /// The record after the last applied one.
    pub(super) fn next(&self, term: u64, change: Change) -> Record {
        Record { term, index: self.index + 1, change }
    }

    /// Index of the last applied record.
    pub fn index(&self) -> u64 {
        self.index
    }

    pub fn broker_epoch(&self) -> u64 {
        self.broker_epoch
    }

    pub fn producer_ids_next(&self) -> ProducerId {
        self.producer_ids_next
    }

    /// Partitions of all living topics.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }

    /// Living topics, sorted by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.names.values().filter_map(|id| self.topics.get(id))
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Deleted topics whose runs may still lie in a file.
    pub fn tombstones(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.tombstones.values()
    }

    pub fn tombstone(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.tombstones.get(&id)
    }

    /// Whether the id is in use or still a tombstone.
    pub fn knows_id(&self, id: TopicId) -> bool {
        self.topics.contains_key(&id) || self.tombstones.contains_key(&id)
    }

    /// The lane that a living partition writes to.
    pub fn partition_lane(&self, partition: PartitionId) -> Option<LaneId> {
        let topic = self.topics.get(&partition.topic)?;
        Some(topic.partitions.get(partition.partition as usize)?.lane)
    }

    /// In the order in which they were planned: shard `i` of `n` drives journals i, i+n, i+2n...
    pub fn journals(&self) -> &[Journal] {
        &self.journals
    }

    pub fn journal_of(&self, lane: LaneId) -> Option<JournalId> {
        let journal = *self.lanes.get(lane.0 as usize)?;
        Some(self.journals[journal as usize].id)
    }

    /// The shard of `shard_count` that drives the lane's journal.
    pub fn shard_of(&self, lane: LaneId, shard_count: u32) -> Option<u32> {
        Some(*self.lanes.get(lane.0 as usize)? % shard_count)
    }

    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }
}

fn require(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
