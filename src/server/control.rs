//! The control plane: decides admin requests, makes the records durable, has every shard apply
//! them, and answers.
//!
//! Floor 6. Owner: broker, on an executor of its own. Order of effects: durable, then applied by
//! all shards, then answered; so a client that got an answer meets the new state on every shard.
//! Invariant: after a failed metadata write nothing is decided any more, while data flow on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::error::StartError;
use super::metadata::Metadata;
use crate::api::{Admin, AdminReply};
use crate::coordinator::{Context, Coordinator, Record};
use crate::model::{ErrorCode, Failure, TopicConfig, TopicId};
use crate::rt::{Level, Rt, mesh};
use crate::shard::{ToControl, ToShard};
use crate::twinlog::TwinLog;

/// Bytes of records that are decided and made durable together.
const BATCH_BYTES: usize = 1 << 20;
/// Of a record that ends a tombstone.
const FORGET_BYTES: usize = 64;

/// How the control plane came to its end.
pub(super) type Ending = Result<(), StartError>;

struct Asked {
    shard: u32,
    id: u64,
    request: Admin,
}

pub(super) struct Control {
    pub rt: Rt,
    pub log: TwinLog,
    pub coordinator: Coordinator,
    pub inbox: mesh::Receiver<ToControl>,
    pub shards: Vec<mesh::Sender<ToShard>>,
    pub topic_defaults: TopicConfig,
    pub partitions_default: u32,
    /// Of the last records that were sent to the shards.
    sequence: u64,
    asked: VecDeque<Asked>,
    /// Deleted topics, with the shards whose files hold none of their runs any more.
    dropped: BTreeMap<TopicId, BTreeSet<u32>>,
    forget: VecDeque<TopicId>,
    /// Why nothing is decided any more.
    offline: Option<String>,
    ending: Option<Ending>,
}

impl Control {
    pub(super) fn new(
        rt: &Rt,
        log: TwinLog,
        coordinator: Coordinator,
        inbox: mesh::Receiver<ToControl>,
        defaults: (TopicConfig, u32),
    ) -> Control {
        Control {
            rt: rt.clone(),
            log,
            coordinator,
            inbox,
            shards: Vec::new(),
            topic_defaults: defaults.0,
            partitions_default: defaults.1,
            sequence: 0,
            asked: VecDeque::new(),
            dropped: BTreeMap::new(),
            forget: VecDeque::new(),
            offline: None,
            ending: None,
        }
    }

    /// Serves until it is asked to stop, or a shard fails.
    pub(super) async fn run(&mut self) -> Ending {
        loop {
            while let Some(message) = self.inbox.try_recv() {
                self.note(message);
            }
            if let Some(ending) = self.ending.take() {
                return ending;
            }
            if self.asked.is_empty() && self.forget.is_empty() {
                match self.inbox.recv().await {
                    Some(message) => self.note(message),
                    None => return Ok(()),
                }
                continue;
            }
            self.decide().await;
        }
    }

    /// Waits for one message of every shard, as `wanted` recognises them; keeps what else comes.
    pub(super) async fn gather<T>(
        &mut self,
        wanted: impl Fn(&ToControl) -> bool,
        mut take: impl FnMut(ToControl) -> T,
    ) -> Result<Vec<T>, Ending> {
        let mut taken = Vec::new();
        while taken.len() < self.shards.len() {
            match self.inbox.recv().await {
                Some(message) if wanted(&message) => taken.push(take(message)),
                Some(message) => self.note(message),
                None => return Err(Ok(())),
            }
            if let Some(ending) = self.ending.take() {
                return Err(ending);
            }
        }
        Ok(taken)
    }

    fn note(&mut self, message: ToControl) {
        match message {
            ToControl::Admin { shard, id, request } => self.asked.push_back(Asked { shard, id, request }),
            // A shard may say so again, also after all of it was done.
            ToControl::Dropped { topic, .. } if self.coordinator.image().tombstone(topic).is_none() => {}
            ToControl::Dropped { shard, topic } => {
                let shards = self.dropped.entry(topic).or_default();
                shards.insert(shard);
                if shards.len() == self.shards.len() {
                    self.dropped.remove(&topic);
                    self.forget.push_back(topic);
                }
            }
            ToControl::Failed { shard, text } => {
                self.rt.log(Level::Error, format!("shard {shard}: {text}"));
                self.ending = Some(Err(StartError::new(format!("shard {shard}: {text}"), "")));
            }
            ToControl::Stop => {
                self.ending.get_or_insert(Ok(()));
            }
            // Each is waited for where it is asked for; these come from a shard that is ending.
            ToControl::Ready { .. } | ToControl::Applied { .. } | ToControl::Listening { .. } => {}
        }
    }

    /// Decides what waits, as one append.
    async fn decide(&mut self) {
        let mut batch = Vec::new();
        let mut bytes = self.forget.len() * FORGET_BYTES;
        while let Some(asked) = self.asked.front() {
            bytes += self.coordinator.bytes_max(&asked.request, self.partitions_default);
            if bytes > BATCH_BYTES && !batch.is_empty() {
                break;
            }
            batch.extend(self.asked.pop_front());
        }
        if let Err(failure) = self.make_room(bytes).await {
            self.forget.clear();
            for asked in batch {
                self.answer(asked.shard, asked.id, Err(failure.clone()));
            }
            return;
        }
        let mut records: Vec<Record> = Vec::new();
        while let Some(topic) = self.forget.pop_front() {
            self.dropped.remove(&topic);
            records.extend(self.coordinator.forget_topic(topic));
        }
        let mut answers = Vec::with_capacity(batch.len());
        for asked in batch {
            let result = self.decide_one(asked.request).map(|(decided, reply)| {
                records.extend(decided);
                reply
            });
            answers.push((asked.shard, asked.id, result));
        }
        if self.rt.mutated("metadata.answer_before_durable") {
            for (shard, id, result) in std::mem::take(&mut answers) {
                self.answer(shard, id, result);
            }
        }
        if let Err(failure) = self.commit(records).await {
            answers.iter_mut().for_each(|(_, _, result)| *result = Err(failure.clone()));
        }
        for (shard, id, result) in answers {
            self.answer(shard, id, result);
        }
    }

    fn decide_one(&mut self, request: Admin) -> Result<(Vec<Record>, AdminReply), Failure> {
        let rt = &self.rt;
        let mut context = Context {
            now_ms: rt.wall_ms(),
            defaults: &self.topic_defaults,
            partitions_default: self.partitions_default,
            random: &mut || rt.random(),
        };
        self.coordinator.decide(&mut context, request)
    }

    async fn make_room(&mut self, bytes: usize) -> Result<(), Failure> {
        if let Some(why) = &self.offline {
            return Err(Failure::new(ErrorCode::KafkaStorageError, why).retry_after(1000));
        }
        let image = self.coordinator.image();
        match Metadata::make_room(&self.rt, &mut self.log, image, bytes).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                let text = "the disk is full and the metadata cannot grow: free space, or delete topics";
                Err(Failure::new(ErrorCode::KafkaStorageError, text).retry_after(1000))
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    /// Makes records durable and has every shard apply them.
    pub(super) async fn commit(&mut self, records: Vec<Record>) -> Result<(), Failure> {
        if records.is_empty() {
            return Ok(());
        }
        if let Err(error) = Metadata::persist(&mut self.log, self.coordinator.image(), &records).await {
            return Err(self.fail(&error));
        }
        self.rt.step("metadata.durable");
        self.sequence += 1;
        let sequence = self.sequence;
        let records = Arc::new(records);
        for shard in &self.shards {
            shard.send(ToShard::Records { sequence, records: records.clone() });
        }
        let applied = move |message: &ToControl| matches!(message, ToControl::Applied { sequence: applied, .. } if *applied == sequence);
        if let Err(ending) = self.gather(applied, |_| ()).await {
            // Durable all the same: the answer is true, and the loop ends next.
            self.ending = Some(ending);
        }
        self.rt.step("metadata.applied");
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) -> Failure {
        let why = format!(
            "the metadata cannot be written ({error}): topics cannot be changed until the broker is restarted on a \
             healthy disk; produce and fetch go on"
        );
        self.rt.log(Level::Error, &why);
        self.offline = Some(why.clone());
        Failure::new(ErrorCode::KafkaStorageError, why).retry_after(1000)
    }

    fn answer(&self, shard: u32, id: u64, result: Result<AdminReply, Failure>) {
        self.shards[shard as usize].send(ToShard::Answer { id, result });
    }
}
