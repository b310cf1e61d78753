//! The shard's image of the metadata: what it answers from it, and what follows when it changes.
//!
//! Floor 5. Owner: the shard.

use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::control_runs::ControlRun;
use super::mesh::ToControl;
use crate::api::{
    Admin, AdminReply, ConfigEntry, Done, Metadata, Opened, Reply, TopicMetadata, TopicRef, Topics,
};
use crate::base::Set;
use crate::coordinator::{Change, Image, Record, Topic, check_topic_name};
use crate::model::{ErrorCode, Failure, PartitionId, TopicConfig, TopicId};
use crate::wire::FRAME_BYTES_MAX;

/// Of a topic in an answer, beside its names, partitions and settings; about.
const TOPIC_BYTES: usize = 32;
/// Of a produce request, beside its batch; more than enough.
const REQUEST_HEAD_BYTES: u32 = 1024;

impl Shard {
    /// Applies durable metadata records in order.
    pub(super) fn apply(self: &Rc<Self>, records: &[Record]) {
        let mut has_dropped = false;
        for record in records {
            let partitions_before = match &record.change {
                Change::PartitionsAdded { id, .. } => {
                    self.image.borrow().topic_by_id(*id).map_or(0, |topic| topic.partitions.len())
                }
                _ => 0,
            };
            let deleted = match &record.change {
                Change::TopicDeleted { id } => self.image.borrow().topic_by_id(*id).cloned(),
                _ => None,
            };
            self.image.borrow_mut().apply(record);
            match &record.change {
                Change::TopicCreated(topic) => self.add_partitions(topic, 0),
                Change::PartitionsAdded { id, .. } => {
                    let topic = self.image.borrow().topic_by_id(*id).cloned();
                    if let Some(topic) = topic {
                        self.add_partitions(&topic, partitions_before);
                    }
                }
                Change::TopicConfigured { id, .. } => drop(self.configs.borrow_mut().remove(id)),
                Change::TopicDeleted { .. } => {
                    if let Some(topic) = deleted {
                        self.drop_topic(&topic);
                        has_dropped = true;
                    }
                }
                _ => {}
            }
        }
        if has_dropped {
            self.report_forgotten_topics();
        }
    }

    fn drop_topic(self: &Rc<Self>, topic: &Topic) {
        self.configs.borrow_mut().remove(&topic.id);
        for number in 0..topic.partitions.len() {
            self.drop_partition(PartitionId { topic: topic.id, partition: number as u32 });
        }
    }

    /// Unbinds a partition, refuses what it had staged, and writes its drop run.
    pub(super) fn drop_partition(self: &Rc<Self>, id: PartitionId) {
        let Some(log) = self.partitions.borrow_mut().remove(id) else { return };
        let partition = self.bound(&log);
        let (staged, watchers) = {
            let mut log = partition.log.borrow_mut();
            (log.take_staged(usize::MAX), log.take_watchers())
        };
        let failure = Failure::new(ErrorCode::UnknownTopicId, "the topic was deleted");
        for batch in staged {
            self.release_staged(batch.batch.len());
            batch.done.into_iter().for_each(|done| done(Err(failure.clone())));
        }
        watchers.into_iter().for_each(|(_, watcher)| watcher.notify());
        let is_new = {
            let log = partition.log.borrow();
            log.included == 0 && log.next_offset == 0
        };
        if is_new {
            // Nothing of it was ever written: there is nothing to kill.
            return;
        }
        let drive = partition.drive.clone();
        // Held from now on: its tombstone stays until no file can hold its runs.
        drive.dropped.borrow_mut().insert(log);
        let told = drive.clone();
        drive.push_control(ControlRun::drop_partition(
            &partition.log,
            Box::new(move |result| {
                if result.is_ok() {
                    told.note_death();
                }
            }),
        ));
    }

    /// Tells the control plane which tombstones no file of this shard needs any more.
    pub(super) fn report_forgotten_topics(&self) {
        let image = self.image.borrow();
        let mut held = Set::default();
        for drive in &self.drives {
            held.extend(drive.dropped.borrow().iter().map(|log| log.id.topic));
        }
        for topic in image.tombstones() {
            if !held.contains(&topic.id) {
                self.control.send(ToControl::Dropped { shard: self.index, topic: topic.id });
            }
        }
    }

    pub(super) fn admin(&self, request: Admin, done: Done) {
        let id = self.admin_last.get() + 1;
        self.admin_last.set(id);
        self.admin.borrow_mut().insert(id, done);
        self.control.send(ToControl::Admin { shard: self.index, id, request });
    }

    pub(super) fn answer(&self, id: u64, result: Result<AdminReply, Failure>) {
        if let Some(done) = self.admin.borrow_mut().remove(&id) {
            done(result.map(Reply::Admin));
        }
    }

    pub(super) fn metadata(&self, topics: &Topics) -> Result<Metadata, Failure> {
        let image = self.image.borrow();
        let mut described: Vec<TopicMetadata> = Vec::new();
        let mut bytes = 0;
        // A topic may be asked for many times over: no more is gathered than any answer may have.
        let mut add = |topic: TopicMetadata| {
            bytes += TOPIC_BYTES + topic.name.len() + size_of_val(&topic.shards[..]);
            let config = |entry: &ConfigEntry| entry.key.len() + entry.value.len();
            bytes += topic.configs.iter().map(config).sum::<usize>();
            described.push(topic);
            if bytes > FRAME_BYTES_MAX as usize {
                let text =
                    format!("the answer would have more than {FRAME_BYTES_MAX} bytes: ask for fewer topics");
                return Err(Failure::new(ErrorCode::MessageTooLarge, text));
            }
            Ok(())
        };
        match topics {
            Topics::All { configs } => {
                image.topics().try_for_each(|topic| add(self.describe(topic, *configs)))?;
            }
            Topics::Some { topics, configs } => {
                topics.iter().try_for_each(|wanted| match find(&image, wanted) {
                    Ok(topic) => add(self.describe(&topic, *configs)),
                    Err(failure) => add(unknown(wanted, failure)),
                })?;
            }
        }
        Ok(Metadata { broker_epoch: self.broker_epoch, shards: self.count, topics: described })
    }

    fn describe(&self, topic: &Topic, configs: bool) -> TopicMetadata {
        let image = self.image.borrow();
        let shards = topic.partitions.iter();
        let shards = shards.map(|partition| image.shard_of(partition.lane, self.count).unwrap_or(u32::MAX));
        let mut described = TopicMetadata {
            name: topic.name.clone(),
            id: topic.id,
            error: None,
            shards: shards.collect(),
            configs: Vec::new(),
        };
        if configs {
            let (mut config, _) = topic.config(&self.settings.topic_defaults);
            config.max_message_bytes = self.batch_bytes_of(&config);
            let entries = config.entries(|key| topic.configs.contains_key(key)).into_iter();
            described.configs = entries
                .map(|entry| ConfigEntry {
                    key: entry.key.to_string(),
                    value: entry.value,
                    is_set: entry.is_set,
                })
                .collect();
        }
        described
    }

    /// What clients are told, and batch up to: no more than every journal takes, and than a request may have.
    fn batch_bytes_of(&self, config: &TopicConfig) -> u32 {
        let request = self.settings.frame_bytes_max.saturating_sub(REQUEST_HEAD_BYTES);
        config.max_message_bytes.min(self.batch_bytes_max.get()).min(request)
    }

    pub(super) fn open(&self, topic: &TopicRef, number: u32) -> Result<Reply, Failure> {
        let topic = find(&self.image.borrow(), topic)?;
        let id = PartitionId { topic: topic.id, partition: number };
        let partition = self.partition(id)?;
        let config = self.config(topic.id);
        let log = partition.log.borrow();
        Ok(Reply::Opened(Opened {
            partition: id,
            leader_epoch: log.leader_epoch(),
            log_start: log.log_start,
            high_watermark: log.visible_end,
            batch_bytes_max: config.map_or(0, |config| self.batch_bytes_of(&config)),
        }))
    }
}

fn find(image: &Image, topic: &TopicRef) -> Result<Arc<Topic>, Failure> {
    let found = match topic {
        TopicRef::Name(name) => image.topic_by_name(name),
        TopicRef::Id(id) => image.topic_by_id(*id),
    };
    found.cloned().ok_or_else(|| match topic {
        TopicRef::Name(name) => {
            let text = match check_topic_name(name) {
                Ok(()) => format!("there is no topic {name}; make it with 'ringctl topic create {name}'"),
                Err(failure) => format!("there is no topic {name:?} and there can be none: {}", failure.text),
            };
            Failure::new(ErrorCode::UnknownTopicOrPartition, text)
        }
        TopicRef::Id(id) => {
            let text = format!("topic id {id} is unknown: the topic was deleted; look its name up again");
            Failure::new(ErrorCode::UnknownTopicId, text)
        }
    })
}

fn unknown(wanted: &TopicRef, failure: Failure) -> TopicMetadata {
    let (name, id) = match wanted {
        TopicRef::Name(name) => (name.clone(), TopicId::default()),
        TopicRef::Id(id) => (String::new(), *id),
    };
    TopicMetadata { name, id, error: Some(failure), shards: Vec::new(), configs: Vec::new() }
}
