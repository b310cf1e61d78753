//! Where topics live: their ids, and the shard of each partition.
//!
//! Floor 5; owned by a session. A route is a hint: a broker that disagrees says so, and the topic
//! is looked up again.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Failure, TopicId};
use crate::wire::{Metadata, TopicMetadata};

use super::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub id: TopicId,
    /// The owning shard of each partition.
    pub shards: Vec<u32>,
    /// Largest batch of this topic, in bytes, if the broker says so.
    pub batch_bytes_max: Option<usize>,
}

pub struct Routes {
    topics: BTreeMap<String, Result<Route, Failure>>,
    wanted: BTreeSet<String>,
    not_before: Millis,
    age_ms_max: Millis,
    refreshed: Option<Millis>,
    broker_epoch: u64,
}

impl Routes {
    pub fn new(age_ms_max: Millis) -> Routes {
        Routes {
            topics: BTreeMap::new(),
            wanted: BTreeSet::new(),
            not_before: 0,
            age_ms_max,
            refreshed: None,
            broker_epoch: 0,
        }
    }

    pub fn get(&self, topic: &str) -> Option<&Result<Route, Failure>> {
        self.topics.get(topic)
    }

    pub fn want(&mut self, topic: &str) {
        if !self.wanted.contains(topic) {
            self.wanted.insert(topic.to_owned());
        }
    }

    /// Everything that is known may be wrong.
    pub fn want_all(&mut self) {
        self.wanted.extend(self.topics.keys().cloned());
    }

    pub fn forget(&mut self, topic: &str) {
        self.topics.remove(topic);
        self.wanted.remove(topic);
    }

    /// Notes the broker's epoch; true if it changed since the last time.
    pub fn broker_epoch(&mut self, epoch: u64) -> bool {
        std::mem::replace(&mut self.broker_epoch, epoch) != epoch
    }

    pub fn is_due(&self, now: Millis) -> bool {
        !self.wanted.is_empty() && self.not_before <= now
    }

    pub fn take_wanted(&mut self) -> Vec<String> {
        std::mem::take(&mut self.wanted).into_iter().collect()
    }

    pub fn pause(&mut self, until: Millis) {
        self.not_before = until;
    }

    pub fn update(&mut self, now: Millis, not_before: Millis, names: &[String], metadata: Metadata) {
        self.refreshed = Some(now);
        self.not_before = not_before;
        for (name, topic) in names.iter().zip(metadata.topics) {
            self.topics.insert(name.clone(), route(topic));
        }
    }

    pub fn refuse(&mut self, now: Millis, names: &[String], failure: &Failure) {
        self.refreshed = Some(now);
        for name in names {
            self.topics.insert(name.clone(), Err(failure.clone()));
        }
    }

    /// Asks for everything again once it is old.
    pub fn age(&mut self, now: Millis) {
        if self.refreshed.is_some_and(|at| at + self.age_ms_max <= now) {
            self.refreshed = Some(now);
            self.want_all();
        }
    }

    pub fn deadline(&self) -> Option<Millis> {
        if self.wanted.is_empty() {
            return self.refreshed.filter(|_| !self.topics.is_empty()).map(|at| at + self.age_ms_max);
        }
        Some(self.not_before)
    }
}

fn route(topic: TopicMetadata) -> Result<Route, Failure> {
    if let Some(failure) = topic.error {
        return Err(failure);
    }
    let bytes = topic.configs.iter().find(|config| config.key == "max.message.bytes");
    let batch_bytes_max = bytes.and_then(|config| config.value.parse().ok());
    Ok(Route { id: topic.id, shards: topic.shards, batch_bytes_max })
}
