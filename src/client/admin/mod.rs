//! Topics, configuration, offsets: questions to the broker that are asked one at a time.
//!
//! Floor 5. [`Admin`] is what callers hold, on any runtime; [`AdminMachine`] belongs to one
//! driver. Each question is tried again, with backoff, until it is answered for good or its time
//! is up. Invariant: each question is answered exactly once.

mod machine;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::error::ClientError;
use super::session::Millis;
use super::sync::{Bell, Promise};
use crate::base::lock;
use crate::model::{ErrorCode, Failure, Offset, ProducerId, TopicId};
use crate::wire::{At, MetadataQuery, Reply, Request, TopicMetadata, TopicRef};
pub use machine::AdminMachine;

/// Administers topics; clones share one connection.
#[derive(Debug)]
pub struct Admin(Arc<Front>);

#[derive(Debug)]
struct Front {
    /// For messages.
    broker: String,
    inbox: Mutex<Inbox>,
    bell: Arc<Bell>,
    handles: AtomicUsize,
    timeout_ms: Millis,
}

#[derive(Debug, Default)]
struct Inbox {
    closed: bool,
    questions: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    request: Request,
    /// Of one partition: goes to the shard that owns it.
    partition: Option<(String, u32)>,
    timeout_ms: Millis,
    answer: Promise<Answer>,
}

/// The reply, and whether an earlier attempt may have been carried out.
type Answer = (Result<Reply, ClientError>, bool);

/// A topic as the broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub name: String,
    pub id: TopicId,
    /// The owning shard of each partition, by partition number.
    pub shards: Vec<u32>,
    /// Key, value, and whether it is set on the topic itself rather than inherited.
    pub configs: Vec<(String, String, bool)>,
}

/// An offset that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// -1: no record matches.
    pub offset: Offset,
    /// -1: not known.
    pub timestamp_ms: i64,
}

impl Clone for Admin {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::AcqRel);
        Admin(self.0.clone())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.bell.ring();
        }
    }
}

impl Admin {
    /// Whether the broker answers, within `timeout_ms`.
    pub async fn ping(&self, timeout_ms: Millis) -> Result<(), ClientError> {
        let question = Question { timeout_ms, ..self.question(Request::Ping, None) };
        self.ask(question).await.0.map(drop)
    }

    /// Creates a topic; `None`: with the broker's default number of partitions. Gives the number
    /// of partitions.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: Option<u32>,
        configs: &[(String, String)],
    ) -> Result<u32, ClientError> {
        check_text("topic name", name)?;
        for (key, value) in configs {
            check_text("config key", key)?;
            check_text("config value", value)?;
        }
        let request = Request::CreateTopic { name: name.to_owned(), partitions, configs: configs.to_vec() };
        match self.ask(self.question(request, None)).await {
            (Ok(Reply::CreateTopic { partitions, .. }), _) => Ok(partitions),
            // An earlier attempt whose answer was lost created it.
            (Err(error), true) if error.code() == Some(ErrorCode::TopicAlreadyExists) => {
                Ok(self.describe(name).await?.shards.len() as u32)
            }
            (result, _) => Err(unexpected(result)),
        }
    }

    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        check_text("topic name", name)?;
        let request = Request::DeleteTopic { topic: TopicRef::Name(name.to_owned()) };
        match self.ask(self.question(request, None)).await {
            (Ok(Reply::DeleteTopic { .. }), _) => Ok(()),
            // An earlier attempt whose answer was lost deleted it.
            (Err(error), true) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => Ok(()),
            (result, _) => Err(unexpected(result)),
        }
    }

    /// Sets configs (`None`: back to the broker's default) and, if given, the number of
    /// partitions, which can only grow. Gives the number of partitions.
    pub async fn alter_topic(
        &self,
        name: &str,
        partitions: Option<u32>,
        configs: &[(String, Option<String>)],
    ) -> Result<u32, ClientError> {
        check_text("topic name", name)?;
        for (key, value) in configs {
            check_text("config key", key)?;
            check_text("config value", value.as_deref().unwrap_or_default())?;
        }
        let topic = TopicRef::Name(name.to_owned());
        let request = Request::AlterTopic { topic, partitions, configs: configs.to_vec() };
        match self.ask(self.question(request, None)).await.0 {
            Ok(Reply::AlterTopic { partitions, .. }) => Ok(partitions),
            result => Err(unexpected(result)),
        }
    }

    /// All topics, by name; without their configs.
    pub async fn list_topics(&self) -> Result<Vec<TopicDescription>, ClientError> {
        let query = MetadataQuery { topics: None, configs: false };
        let mut topics = self.metadata(query).await?;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics.into_iter().map(describe).collect()
    }

    pub async fn describe(&self, name: &str) -> Result<TopicDescription, ClientError> {
        check_text("topic name", name)?;
        let topic = TopicRef::Name(name.to_owned());
        let topics = self.metadata(MetadataQuery { topics: Some(vec![topic]), configs: true }).await?;
        let unknown =
            || Failure::new(ErrorCode::UnknownTopicOrPartition, format!("there is no topic {name}"));
        describe(topics.into_iter().next().ok_or_else(unknown)?)
    }

    async fn metadata(&self, query: MetadataQuery) -> Result<Vec<TopicMetadata>, ClientError> {
        match self.ask(self.question(Request::Metadata(query), None)).await.0 {
            Ok(Reply::Metadata(metadata)) => Ok(metadata.topics),
            result => Err(unexpected(result)),
        }
    }

    pub async fn list_offset(
        &self,
        topic: &str,
        partition: u32,
        at: At,
    ) -> Result<ListedOffset, ClientError> {
        let request = Request::ListOffsets { at };
        match self.ask_partition(topic, partition, request).await? {
            Reply::ListOffsets { offset, timestamp_ms } => Ok(ListedOffset { offset, timestamp_ms }),
            reply => Err(unexpected(Ok(reply))),
        }
    }

    /// Earliest and latest offset of each partition: those of the first record, and of the next
    /// one to be written.
    pub async fn offsets(&self, topic: &str) -> Result<Vec<(Offset, Offset)>, ClientError> {
        let partitions = self.describe(topic).await?.shards.len() as u32;
        let mut questions = Vec::new();
        for partition in 0..partitions {
            for at in [At::Earliest, At::Latest] {
                let of = (topic.to_owned(), partition);
                let question = self.question(Request::ListOffsets { at }, Some(of));
                questions.push(question.answer.clone());
                self.post(question)?;
            }
        }
        let mut offsets = Vec::new();
        for answer in questions {
            match answer.wait().await.0 {
                Ok(Reply::ListOffsets { offset, .. }) => offsets.push(offset),
                result => return Err(unexpected(result)),
            }
        }
        Ok(offsets.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    /// Removes the records below `before`; `None`: all that there are. Gives the first offset left.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: Option<Offset>,
    ) -> Result<Offset, ClientError> {
        let request = Request::DeleteRecords { before: before.unwrap_or(-1) };
        match self.ask_partition(topic, partition, request).await? {
            Reply::DeleteRecords { log_start } => Ok(log_start),
            reply => Err(unexpected(Ok(reply))),
        }
    }

    /// A new producer id with its epoch. Producers ask for theirs by themselves.
    pub async fn init_producer_id(&self) -> Result<(ProducerId, i16), ClientError> {
        match self.ask(self.question(Request::InitProducerId, None)).await.0 {
            Ok(Reply::InitProducerId { id, epoch }) => Ok((id, epoch)),
            result => Err(unexpected(result)),
        }
    }

    async fn ask_partition(
        &self,
        topic: &str,
        partition: u32,
        request: Request,
    ) -> Result<Reply, ClientError> {
        check_text("topic name", topic)?;
        self.ask(self.question(request, Some((topic.to_owned(), partition)))).await.0
    }

    fn question(&self, request: Request, partition: Option<(String, u32)>) -> Question {
        Question { request, partition, timeout_ms: self.0.timeout_ms, answer: Promise::default() }
    }

    async fn ask(&self, question: Question) -> Answer {
        let answer = question.answer.clone();
        match self.post(question) {
            Ok(()) => answer.wait().await,
            Err(error) => (Err(error), false),
        }
    }

    fn post(&self, question: Question) -> Result<(), ClientError> {
        {
            let mut inbox = lock(&self.0.inbox);
            if inbox.closed {
                return Err(ClientError::Closed);
            }
            inbox.questions.push(question);
        }
        self.0.bell.ring();
        Ok(())
    }
}

/// The wire bounds texts to 65,535 bytes.
fn check_text(what: &str, text: &str) -> Result<(), ClientError> {
    if text.len() <= usize::from(u16::MAX) {
        return Ok(());
    }
    Err(ClientError::Invalid(format!("a {what} of {} bytes is too long", text.len())))
}

fn unexpected(result: Result<Reply, ClientError>) -> ClientError {
    match result {
        Err(error) => error,
        Ok(reply) => ClientError::Invalid(format!("the broker answered with {:?}", reply.op())),
    }
}

fn describe(topic: TopicMetadata) -> Result<TopicDescription, ClientError> {
    match topic.error {
        Some(failure) => Err(failure.into()),
        None => Ok(TopicDescription {
            name: topic.name,
            id: topic.id,
            shards: topic.shards,
            configs: topic.configs.into_iter().map(|entry| (entry.key, entry.value, entry.is_set)).collect(),
        }),
    }
}
