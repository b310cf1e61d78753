//! The outcome of a batch, shared by its records: one allocation a batch, none a record.
//!
//! Floor 5; written once by the producer's machine, read by whoever holds a [`Delivery`].

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use crate::client::error::ProduceError;
use crate::client::sync::Waiters;
use crate::model::Offset;

/// What the broker said about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// -1: not told (acks=0).
    pub base_offset: Offset,
    /// -1: the records keep the producer's timestamps.
    pub log_append_time_ms: i64,
}

#[derive(Debug, Default)]
pub(super) struct Completion {
    outcome: OnceLock<Result<Acknowledged, ProduceError>>,
    waiters: Waiters,
}

impl Completion {
    /// The first outcome stays.
    pub fn complete(&self, outcome: Result<Acknowledged, ProduceError>) {
        if self.outcome.set(outcome).is_ok() {
            self.waiters.wake_all();
        }
    }

    pub fn poll(&self, context: &Context<'_>) -> Poll<&Result<Acknowledged, ProduceError>> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        self.waiters.add(context);
        // It may have been completed before this waiter was added.
        match self.outcome.get() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

/// Where an acknowledged record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    pub partition: u32,
    /// -1 without acks: the broker does not say.
    pub offset: Offset,
    /// Milliseconds since 1970, the record's own or the broker's, as the topic is configured.
    pub timestamp: i64,
}

/// The acknowledgement of one record, to be awaited or dropped: the record is sent either way.
#[derive(Debug)]
#[must_use = "a record is known to be written only once its delivery says so"]
pub struct Delivery {
    completion: Arc<Completion>,
    partition: u32,
    index: u32,
    timestamp: i64,
}

impl Delivery {
    pub(super) fn new(completion: Arc<Completion>, partition: u32, index: u32, timestamp: i64) -> Delivery {
        Delivery { completion, partition, index, timestamp }
    }

    pub(super) fn failed(error: ProduceError) -> Delivery {
        let completion = Arc::new(Completion::default());
        completion.complete(Err(error));
        Delivery { completion, partition: 0, index: 0, timestamp: -1 }
    }

    /// The partition that the record went to.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Whether both records travel in one batch, and so share their fate.
    pub fn is_with(&self, other: &Delivery) -> bool {
        Arc::ptr_eq(&self.completion, &other.completion)
    }

    /// The outcome, if it is known already.
    pub fn outcome(&self) -> Option<Result<RecordMetadata, ProduceError>> {
        self.completion.outcome.get().map(|outcome| self.metadata(outcome))
    }

    fn metadata(&self, outcome: &Result<Acknowledged, ProduceError>) -> Result<RecordMetadata, ProduceError> {
        let acknowledged = outcome.as_ref().map_err(Clone::clone)?;
        let offset = match acknowledged.base_offset {
            -1 => -1,
            base => base + i64::from(self.index),
        };
        let timestamp = match acknowledged.log_append_time_ms {
            -1 => self.timestamp,
            appended => appended,
        };
        Ok(RecordMetadata { partition: self.partition, offset, timestamp })
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, ProduceError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.completion.poll(context).map(|outcome| self.metadata(outcome))
    }
}
