//! ListOffsets and DeleteRecords.
//!
//! Floor 5. Owner: the shard.

use std::io;
use std::rc::Rc;

use super::control_runs::ControlRun;
use super::drive::storage_failure;
use super::{Partition, Shard};
use crate::api::{At, Done, Reply};
use crate::format::footer::RunRef;
use crate::journal::{Segment, verified_payload};
use crate::model::{ErrorCode, Failure, Offset, PartitionId};
use crate::record::{self, BatchView};

/// Most that a compressed batch may unpack to while a timestamp is looked up in it.
const UNPACKED_BYTES_MAX: usize = 64 << 20;

impl Shard {
    pub(super) fn list_offsets(self: &Rc<Self>, id: PartitionId, at: At, done: Done) {
        let partition = match self.partition(id) {
            Ok(partition) => partition,
            Err(failure) => return done(Err(failure)),
        };
        let (log_start, end) = {
            let log = partition.log.borrow();
            (log.log_start, log.visible_end)
        };
        match at {
            At::Earliest => done(Ok(Reply::Offset { offset: log_start, timestamp_ms: -1 })),
            At::Latest => done(Ok(Reply::Offset { offset: end, timestamp_ms: -1 })),
            At::Timestamp(_) | At::MaxTimestamp => {
                let shard = self.clone();
                self.rt.spawn(async move {
                    let found = shard.search(&partition, id, at, log_start..end).await;
                    done(found.map(|found| {
                        let (offset, timestamp_ms) = found.unwrap_or((-1, -1));
                        Reply::Offset { offset, timestamp_ms }
                    }));
                });
            }
        }
    }

    /// The record that a timestamp search wants, looking into the batches of the run that holds it.
    async fn search(
        &self,
        partition: &Partition,
        id: PartitionId,
        at: At,
        range: std::ops::Range<Offset>,
    ) -> Result<Option<(Offset, i64)>, Failure> {
        let failed = |error: io::Error| {
            Failure::new(ErrorCode::KafkaStorageError, format!("the disk cannot be read: {error}"))
        };
        let mut from = range.start;
        loop {
            let best = self.best_run(partition, id, at, from..range.end).await.map_err(failed)?;
            let Some((segment, run)) = best else { return Ok(None) };
            let range = run.range();
            let _lease = self.reads.wait((range.end - range.start) as usize).await;
            let (buf, start) = partition.drive.journal.read_span(&segment, range).await.map_err(failed)?;
            let payload = verified_payload(&buf[start..], id, &run).ok_or_else(|| {
                let text = format!("offsets {}..={} are damaged", run.first_offset, run.end_offset() - 1);
                Failure::new(ErrorCode::CorruptMessage, text)
            })?;
            let payload = &buf[start + payload.start..start + payload.end];
            if let Some(found) = self.search_batches(payload, at, from).await? {
                return Ok(Some(found));
            }
            // The run's largest timestamp lies below the log start: look behind it.
            from = run.end_offset();
        }
    }

    async fn best_run(
        &self,
        partition: &Partition,
        id: PartitionId,
        at: At,
        range: std::ops::Range<Offset>,
    ) -> io::Result<Option<(Rc<Segment>, RunRef)>> {
        let journal = &partition.drive.journal;
        let mut best: Option<(Rc<Segment>, RunRef)> = None;
        for segment in journal.segments() {
            journal.load_index(&segment).await?;
            segment.with_runs(id, |runs| {
                for run in runs
                    .iter()
                    .filter(|run| !run.lost && run.end_offset() > range.start && run.first_offset < range.end)
                {
                    let better = match (at, &best) {
                        (At::Timestamp(wanted), _) if run.max_timestamp < wanted => false,
                        (_, None) => true,
                        (At::Timestamp(_), Some((_, best))) => run.first_offset < best.first_offset,
                        (_, Some((_, best))) => {
                            (run.max_timestamp, -run.first_offset) > (best.max_timestamp, -best.first_offset)
                        }
                    };
                    if better {
                        best = Some((segment.clone(), *run));
                    }
                }
            });
        }
        Ok(best)
    }

    pub(super) fn delete_records(self: &Rc<Self>, id: PartitionId, before: Offset, done: Done) {
        let partition = match self.partition(id) {
            Ok(partition) => partition,
            Err(failure) => return done(Err(failure)),
        };
        let log = partition.log.borrow();
        // As in Kafka, -1 means all that consumers can see.
        let before = if before == -1 { log.visible_end } else { before };
        if before < 0 || before > log.visible_end {
            return done(Err(log.out_of_range(before)));
        }
        if before <= log.log_start {
            let log_start = log.log_start;
            return done(Ok(Reply::RecordsDeleted { log_start }));
        }
        drop(log);
        let drive = partition.drive.clone();
        let run = ControlRun::log_start(
            &partition.log,
            before,
            Box::new(move |result| {
                if let Err(offline) = result {
                    return done(Err(storage_failure(&offline)));
                }
                drive.note_death();
                done(Ok(Reply::RecordsDeleted { log_start: before }));
            }),
        );
        partition.drive.push_control(run);
    }
}

impl Shard {
    /// A batch at a time: each may have to be unpacked.
    async fn search_batches(
        &self,
        payload: &[u8],
        at: At,
        from: Offset,
    ) -> Result<Option<(Offset, i64)>, Failure> {
        let failed = |error: crate::base::DecodeError| {
            Failure::new(ErrorCode::CorruptMessage, format!("a batch cannot be searched: {error}"))
        };
        let mut best: Option<(Offset, i64)> = None;
        for batch in record::batches(payload) {
            let batch: BatchView<'_> = batch.map_err(failed)?;
            if batch.next_offset() <= from {
                continue;
            }
            self.rt.yield_now().await;
            let found = match at {
                At::Timestamp(wanted) => record::first_at_or_after(&batch, wanted, UNPACKED_BYTES_MAX),
                _ => record::first_with_max_timestamp(&batch, UNPACKED_BYTES_MAX),
            };
            let Some(found) = found.map_err(failed)?.filter(|(offset, _)| *offset >= from) else { continue };
            if matches!(at, At::Timestamp(_)) {
                return Ok(Some(found));
            }
            if best.is_none_or(|(_, timestamp)| found.1 > timestamp) {
                best = Some(found);
            }
        }
        Ok(best)
    }
}
