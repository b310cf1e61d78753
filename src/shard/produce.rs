//! Produce: validates a batch, judges its sequence, stages it for the next block.
//!
//! Floor 5. Owner: the shard.

use std::rc::Rc;

use super::{Partition, Shard};
use crate::api::{Acks, Done, Produce, Produced, Reply};
use crate::format::block;
use crate::format::frame;
use crate::journal::Journal;
use crate::lane::{Admission, Staged};
use crate::model::{ErrorCode, Failure, Offset, PartitionId};
use crate::record;

/// Batches of one partition that may wait for a block.
const STAGED_BYTES_MAX: usize = 32 << 20;

/// Records of one batch: 16 MiB cannot hold more, and a compressed one is not looked into.
const BATCH_RECORDS_MAX: u32 = 1 << 24;

impl Shard {
    /// The partition, or why this shard does not serve it.
    pub(super) fn partition(&self, id: PartitionId) -> Result<Partition, Failure> {
        if let Some(log) = self.partitions.borrow().get(id) {
            return Ok(self.bound(log));
        }
        let image = self.image.borrow();
        match image.topic_by_id(id.topic) {
            None => {
                let text = format!(
                    "topic id {} is unknown: the topic was deleted; look its name up again",
                    id.topic
                );
                Err(Failure::new(ErrorCode::UnknownTopicId, text))
            }
            Some(topic) if id.partition as usize >= topic.partitions.len() => {
                let text = format!(
                    "topic {} has {} partitions, no {}",
                    topic.name,
                    topic.partitions.len(),
                    id.partition
                );
                Err(Failure::new(ErrorCode::UnknownTopicOrPartition, text))
            }
            Some(topic) => {
                let text = format!(
                    "partition {} of {} is another shard's: refresh the metadata",
                    id.partition, topic.name
                );
                Err(Failure::new(ErrorCode::NotLeaderOrFollower, text))
            }
        }
    }

    pub(super) fn produce(self: &Rc<Self>, produce: Produce, done: Done) {
        if let Err((failure, done)) = self.try_produce(produce, done) {
            done(Err(failure));
        }
    }

    fn try_produce(self: &Rc<Self>, produce: Produce, done: Done) -> Result<(), (Failure, Done)> {
        let checked = self.partition(produce.partition).and_then(|partition| {
            let (info, append_time_ms) = self.check(&partition, &produce)?;
            Ok((partition, info, append_time_ms))
        });
        let (partition, info, append_time_ms) = match checked {
            Ok(checked) => checked,
            Err(failure) => return Err((failure, done)),
        };
        let mut log = partition.log.borrow_mut();
        match log.admit(&info) {
            Admission::Refuse(failure) => return Err((failure, done)),
            Admission::Pending(at) => log.join_pending(at, done),
            Admission::Duplicate { base_offset, last_offset } => {
                drop(log);
                self.await_duplicate(partition, base_offset, last_offset, done);
            }
            Admission::Stage => {
                let too_much = log.staged_bytes() >= STAGED_BYTES_MAX;
                let refusal =
                    partition.drive.refusal(partition.log.lane).or_else(|| too_much.then(overloaded));
                if let Some(failure) = refusal {
                    log.refuse(&info, &failure);
                    return Err((failure, done));
                }
                let (done, now) = match produce.acks {
                    Acks::None => (Vec::new(), Some(done)),
                    Acks::Leader | Acks::All => (vec![done], None),
                };
                let bytes = produce.batch.len();
                self.take_room(bytes);
                let became_ready = log.stage(Staged { batch: produce.batch, info, append_time_ms, done });
                let share = log.share;
                drop(log);
                if became_ready {
                    partition.drive.ready.borrow_mut().push(partition.log.clone(), bytes, share);
                    partition.drive.wake.notify();
                }
                if let Some(done) = now {
                    done(Ok(produced(-1, -1, 0)));
                }
            }
        }
        Ok(())
    }

    /// What does not depend on other batches: the batch itself and the topic's rules.
    fn check(&self, partition: &Partition, produce: &Produce) -> Result<(record::BatchInfo, i64), Failure> {
        if self.stopping.get() {
            let text = "the broker is stopping";
            return Err(Failure::new(ErrorCode::NotLeaderOrFollower, text).retry_after(500));
        }
        let id = produce.partition;
        let config = self.config(id.topic);
        let config =
            config.ok_or_else(|| Failure::new(ErrorCode::UnknownTopicId, "the topic was deleted"))?;
        if produce.acks == Acks::All && config.min_insync_replicas > 1 {
            let text = format!(
                "min.insync.replicas={} but this broker is alone: acks=all cannot be met; \
                 lower it with 'ringctl topic alter NAME --config min.insync.replicas=1'",
                config.min_insync_replicas
            );
            return Err(Failure::new(ErrorCode::NotEnoughReplicas, text));
        }
        // A clock that was wrong, or was put right, a moment ago must not refuse what producers send.
        let now_ms = self.clock.range_ms(&self.rt);
        let append_time_ms = if config.log_append_time { *now_ms.end() } else { -1 };
        let limits = record::Limits {
            bytes_max: config.max_message_bytes,
            log_append_time: config.log_append_time,
            now_ms_min: *now_ms.start(),
            now_ms_max: *now_ms.end(),
            timestamp_before_max_ms: config.message_timestamp_before_max_ms,
            timestamp_after_max_ms: config.message_timestamp_after_max_ms,
        };
        let info = record::validate(&produce.batch, &limits)?;
        if info.record_count > BATCH_RECORDS_MAX {
            let text = format!("the batch claims {} records; at most {BATCH_RECORDS_MAX}", info.record_count);
            return Err(Failure::new(ErrorCode::InvalidRecord, text));
        }
        let most = batch_bytes_max(&partition.drive.journal);
        if produce.batch.len() > most {
            let text = format!(
                "the batch has {} bytes; segments of {} bytes take at most {most}",
                produce.batch.len(),
                partition.drive.journal.segment_bytes
            );
            return Err(Failure::new(ErrorCode::RecordListTooLarge, text));
        }
        Ok((info, append_time_ms))
    }

    /// A duplicate is acknowledged when the original is: once the high watermark has passed it.
    fn await_duplicate(self: &Rc<Self>, partition: Partition, base: Offset, last: Offset, done: Done) {
        let log_start = partition.log.borrow().log_start;
        if partition.log.borrow().visible_end > last {
            return done(Ok(produced(base, -1, log_start)));
        }
        let shard = self.clone();
        self.rt.spawn(async move {
            let watch = shard.watch();
            loop {
                {
                    let mut log = partition.log.borrow_mut();
                    if log.visible_end > last {
                        break;
                    }
                    if let Some(failure) = partition.drive.journal.offline() {
                        drop(log);
                        return done(Err(super::drive::storage_failure(&failure)));
                    }
                    log.watch(watch.clone());
                }
                // The journal also tells when it goes offline.
                crate::rt::local::select2(watch.1.wait(), partition.drive.journal.changed.wait()).await;
                partition.log.borrow_mut().unwatch(watch.0);
            }
            done(Ok(produced(base, -1, log_start)));
        });
    }
}

/// Largest batch that still makes a frame of the journal, in bytes.
pub(super) fn batch_bytes_max(journal: &Journal) -> usize {
    journal.frame_bytes_max() - frame::head_bytes(1) - block::length_of(1, 0)
}

fn produced(base_offset: Offset, log_append_time_ms: i64, log_start: Offset) -> Reply {
    Reply::Produced(Produced { base_offset, log_append_time_ms, log_start })
}

fn overloaded() -> Failure {
    let text = "too much of this partition waits for the disk";
    Failure::new(ErrorCode::ThrottlingQuotaExceeded, text).retry_after(100)
}
