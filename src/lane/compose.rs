//! Composes a lane's next block from what its partitions have staged: assigns offsets and epochs,
//! copies every batch once, into the buffer that goes to the disk.
//!
//! Floor 3. Owner: a shard.

use super::partition::Staged;
use super::{Lane, LogRef, producers::Sequence};
use crate::format::block::{self, BlockWriter, Run};
use crate::format::entry::{self, Entry, EntryKind};
use crate::model::Offset;
use crate::record;

/// What one run of the block will hold.
pub enum RunPlan {
    Data { partition: LogRef, batches: Vec<Staged> },
    Control { entry: Entry, payload: Vec<u8>, partition: Option<LogRef> },
}

impl RunPlan {
    pub fn payload_bytes(&self) -> usize {
        match self {
            RunPlan::Data { batches, .. } => batches.iter().map(|staged| staged.batch.len()).sum(),
            RunPlan::Control { payload, .. } => payload.len(),
        }
    }
}

/// The runs of a lane's next block.
#[derive(Default)]
pub struct LanePlan {
    pub runs: Vec<RunPlan>,
}

/// A batch that was placed: to be acknowledged when its block is durable.
pub struct Placed {
    pub partition: LogRef,
    pub end_offset: Offset,
    pub batches: Vec<(Staged, Offset)>,
}

/// Times that a block is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub wall_ms: i64,
    pub uptime_ms: u64,
}

pub struct Composed {
    pub checksum: u32,
    pub runs: Vec<Run>,
    pub placed: Vec<Placed>,
}

impl LanePlan {
    /// Exact length of the block that [`LanePlan::compose`] writes.
    pub fn block_bytes(&self) -> usize {
        block::length_of(self.runs.len(), self.runs.iter().map(RunPlan::payload_bytes).sum())
    }

    /// Writes the block into `out` (exactly [`LanePlan::block_bytes`] long) and advances the lane and
    /// its partitions.
    pub fn compose(self, lane: &mut Lane, clock: Clock, out: &mut [u8]) -> Composed {
        let mut writer = BlockWriter::new(out, lane.position, self.runs.len());
        let mut composed =
            Composed { checksum: 0, runs: Vec::with_capacity(self.runs.len()), placed: Vec::new() };
        for plan in self.runs {
            match plan {
                RunPlan::Data { partition, batches } => {
                    let (run, placed) = data_run(&mut writer, lane, partition, batches, clock);
                    composed.runs.push(run);
                    composed.placed.push(placed);
                }
                RunPlan::Control { entry, payload, partition } => {
                    let run = control_run(&mut writer, entry, &payload);
                    if let Some(partition) = partition {
                        partition.borrow_mut().replay(&run.entry, Some(&payload), clock.uptime_ms);
                    }
                    composed.runs.push(run);
                }
            }
        }
        composed.checksum = writer.finish(lane.id, lane.epoch, lane.checksum);
        lane.advance(out.len() as u64, composed.checksum);
        composed
    }
}

fn control_run(writer: &mut BlockWriter<'_>, entry: Entry, payload: &[u8]) -> Run {
    let entry = Entry { length: payload.len() as u32, ..entry };
    writer.run(entry, |out, entry| {
        out.copy_from_slice(payload);
        entry.crc = entry::payload_crc(entry.id, payload);
    })
}

fn data_run(
    writer: &mut BlockWriter<'_>,
    lane: &Lane,
    partition: LogRef,
    batches: Vec<Staged>,
    clock: Clock,
) -> (Run, Placed) {
    let mut log = partition.borrow_mut();
    let exposed_epoch = lane.epoch as i32;
    log.open_epoch(exposed_epoch);
    let length: usize = batches.iter().map(|staged| staged.batch.len()).sum();
    let first_offset = log.next_offset;
    let mut placed =
        Placed { partition: partition.clone(), end_offset: 0, batches: Vec::with_capacity(batches.len()) };
    let entry = Entry {
        exposed_epoch,
        length: u32::try_from(length).expect("runs are bounded by the frame"),
        append_time: clock.wall_ms,
        ..Entry::control(EntryKind::Data, partition.id, first_offset)
    };
    let run = writer.run(entry, |out, entry| {
        let mut at = 0;
        let mut run_crc = entry::identity_crc(entry.id);
        let mut max_timestamp = -1;
        for staged in batches {
            let bytes = &mut out[at..at + staged.batch.len()];
            at += staged.batch.len();
            bytes.copy_from_slice(&staged.batch);
            let base = log.next_offset;
            let log_append_time = staged.append_time_ms >= 0;
            if log_append_time {
                record::set_log_append_time(bytes, staged.append_time_ms);
            } else if staged.info.max_timestamp_is_wrong {
                record::set_max_timestamp(bytes, staged.info.max_timestamp);
            }
            record::stamp(bytes, base, exposed_epoch);
            run_crc = record::append_crc(run_crc, bytes);
            let timestamp = if log_append_time { staged.append_time_ms } else { staged.info.max_timestamp };
            max_timestamp = max_timestamp.max(timestamp);
            let end = base + i64::from(staged.info.last_offset_delta) + 1;
            let sequence: Option<Sequence> = staged.sequence();
            log.append_batch(sequence, base, end, clock.uptime_ms);
            placed.batches.push((staged, base));
        }
        entry.crc = run_crc;
        entry.last_offset = log.next_offset - 1;
        entry.max_timestamp = max_timestamp;
    });
    log.max_timestamp = log.max_timestamp.max(run.entry.max_timestamp);
    log.included = run.entry.last_position + 1;
    placed.end_offset = log.next_offset;
    drop(log);
    (run, placed)
}
