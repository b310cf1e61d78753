//! What a broker demands of a batch that a client produces: Kafka's rules
//! (`LogValidator`, `UnifiedLog.analyzeAndValidateRecords`), except that compressed batches are
//! trusted inside: their CRC and header are checked, their records are not decompressed.
//!
//! Floor 1. One pass, stretch by stretch: the CRC of a stretch and the walk of its records while it is in the
//! cache. Nothing else of the shard runs meanwhile.

use super::codec::Compression;
use super::layout::*;
use super::records::scan_record;
use super::view::{BatchView, ProducerStamp};
use crate::base::crc;
use crate::model::{ErrorCode, Failure};

/// What one topic accepts at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `max.message.bytes`: of the batch as it arrives.
    pub bytes_max: u32,
    /// `message.timestamp.type=LogAppendTime`: the client's timestamps are not judged.
    pub log_append_time: bool,
    /// The earliest that it may be now, and the latest; the next two are measured from them.
    pub now_ms_min: i64,
    pub now_ms_max: i64,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
}

/// What a valid batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInfo {
    pub bytes: usize,
    pub record_count: u32,
    /// `record_count - 1`.
    pub last_offset_delta: i32,
    /// The largest timestamp of its records; for a compressed batch as its header says.
    pub max_timestamp: i64,
    /// The header says otherwise: correct it with [`super::set_max_timestamp`] before it is stored.
    pub max_timestamp_is_wrong: bool,
    pub producer: Option<ProducerStamp>,
    pub compression: Compression,
}

/// Bytes that stay in the first cache between the CRC and the walk of their records.
const STRETCH_BYTES: usize = 16 << 10;

/// Checks a whole batch at once.
pub fn validate(batch: &[u8], limits: &Limits) -> Result<BatchInfo, Failure> {
    let mut validation = Validation::start(batch, limits)?;
    loop {
        if let Some(info) = validation.advance(batch, STRETCH_BYTES)? {
            return Ok(info);
        }
    }
}

fn refuse<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(code, text))
}

/// A check in progress. The header was judged at the start; the bytes follow in stretches.
#[derive(Clone, Debug)]
pub(super) struct Validation {
    info: BatchInfo,
    base_timestamp: i64,
    timestamp_min: i64,
    timestamp_max: i64,
    crc_wanted: u32,
    crc: u32,
    /// Bytes that the CRC covers so far.
    checked: usize,
    /// Byte of the next record to walk.
    at: usize,
    walked: u32,
    max_timestamp_seen: i64,
    /// Told only if the CRC holds: of damaged bytes the damage is the news.
    failure: Option<Failure>,
}

impl Validation {
    /// Judges size and header.
    pub fn start(batch: &[u8], limits: &Limits) -> Result<Validation, Failure> {
        if batch.len() > limits.bytes_max as usize {
            let (bytes, max) = (batch.len(), limits.bytes_max);
            return refuse(
                ErrorCode::MessageTooLarge,
                format!("a batch of {bytes} bytes is larger than max.message.bytes = {max}"),
            );
        }
        let (view, rest) =
            BatchView::first(batch).or_else(|e| refuse(ErrorCode::CorruptMessage, e.to_string()))?;
        if !rest.is_empty() {
            return refuse(ErrorCode::InvalidRecord, "more than one record batch for a partition");
        }
        let info = judge_header(&view)?;
        let (timestamp_min, timestamp_max) = if limits.log_append_time {
            (i64::MIN, i64::MAX)
        } else {
            (
                limits.now_ms_min.saturating_sub(limits.timestamp_before_max_ms).max(0),
                limits.now_ms_max.saturating_add(limits.timestamp_after_max_ms),
            )
        };
        let mut validation = Validation {
            info,
            base_timestamp: view.base_timestamp(),
            timestamp_min,
            timestamp_max,
            crc_wanted: view.crc(),
            crc: 0,
            checked: CRC_START,
            at: HEADER_BYTES,
            walked: 0,
            max_timestamp_seen: i64::MIN,
            failure: None,
        };
        if info.compression != Compression::None {
            // Both are timestamps of records inside.
            validation.judge_timestamp(view.base_timestamp());
            validation.judge_timestamp(view.max_timestamp());
        }
        Ok(validation)
    }

    /// Checks about `bytes` bytes more. `Some` once the batch was found valid.
    pub fn advance(&mut self, batch: &[u8], bytes: usize) -> Result<Option<BatchInfo>, Failure> {
        assert_eq!(batch.len(), self.info.bytes, "the same batch from start to end");
        let end = self.checked.saturating_add(bytes.max(1)).min(batch.len());
        self.crc = crc::append(self.crc, &batch[self.checked..end]);
        self.checked = end;
        if self.info.compression == Compression::None && self.failure.is_none() {
            self.walk(batch, end);
        }
        if end < batch.len() {
            return Ok(None);
        }
        if self.crc != self.crc_wanted {
            let (crc, wanted) = (self.crc, self.crc_wanted);
            return refuse(
                ErrorCode::CorruptMessage,
                format!("CRC32C of the batch is {crc:08x}, its header says {wanted:08x}"),
            );
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.info.compression == Compression::None {
            self.info.max_timestamp_is_wrong = self.info.max_timestamp != self.max_timestamp_seen;
            self.info.max_timestamp = self.max_timestamp_seen;
        }
        Ok(Some(self.info))
    }

    /// Walks the records that begin below byte `end`.
    fn walk(&mut self, batch: &[u8], end: usize) {
        while self.at < end {
            let index = self.walked;
            let Some(record) = scan_record(batch, self.at).filter(|_| index < self.info.record_count) else {
                return self.fail(ErrorCode::InvalidRecord, format!("record {index} is malformed"));
            };
            if record.offset_delta != index as i32 {
                let delta = record.offset_delta;
                return self.fail(
                    ErrorCode::InvalidRecord,
                    format!("record {index} has offset delta {delta}; they count from 0"),
                );
            }
            let Some(timestamp) = self.base_timestamp.checked_add(record.timestamp_delta) else {
                return self.fail(ErrorCode::InvalidRecord, format!("timestamp of record {index} overflows"));
            };
            if !self.judge_timestamp(timestamp) {
                return;
            }
            self.max_timestamp_seen = self.max_timestamp_seen.max(timestamp);
            self.at = record.end;
            self.walked += 1;
        }
        if end == batch.len() && self.walked != self.info.record_count {
            let (walked, count) = (self.walked, self.info.record_count);
            self.fail(ErrorCode::InvalidRecord, format!("{walked} records; the header says {count}"));
        }
    }

    fn fail(&mut self, code: ErrorCode, text: String) {
        self.failure.get_or_insert(Failure::new(code, text));
    }

    /// -1 means that the producer gave no timestamp.
    fn judge_timestamp(&mut self, timestamp: i64) -> bool {
        let good = timestamp == -1 || (self.timestamp_min..=self.timestamp_max).contains(&timestamp);
        if !good {
            let (min, max) = (self.timestamp_min, self.timestamp_max);
            self.fail(
                ErrorCode::InvalidTimestamp,
                format!(
                    "timestamp {timestamp} is outside {min}..={max} (message.timestamp.before/after.max.ms)"
                ),
            );
        }
        good
    }
}

fn judge_header(view: &BatchView<'_>) -> Result<BatchInfo, Failure> {
    let invalid = |text: &str| refuse(ErrorCode::InvalidRecord, text);
    let count = view.record_count();
    let Some(compression) = view.compression() else {
        let number = view.attributes() & CODEC_MASK;
        return refuse(ErrorCode::UnsupportedCompressionType, format!("unknown codec {number}"));
    };
    if view.base_offset() != 0 {
        return invalid("the base offset of a produced batch must be 0");
    }
    if count < 1 || view.last_offset_delta() != count - 1 {
        let delta = view.last_offset_delta();
        return invalid(&format!("{count} records with last offset delta {delta}"));
    }
    // A compressed record may take less than a byte, an uncompressed one never does.
    let least = if compression == Compression::None { RECORD_BYTES_MIN * count as usize } else { 1 };
    if view.records_bytes().len() < least {
        return invalid("more records than its bytes can hold");
    }
    if view.is_control() {
        return invalid("clients may not write control batches");
    }
    if view.is_transactional() {
        return invalid("transactions are not implemented in this version");
    }
    if view.attributes() & DELETE_HORIZON != 0 {
        return invalid("clients may not set a delete horizon");
    }
    if view.has_log_append_time() {
        return refuse(ErrorCode::InvalidTimestamp, "clients may not set the timestamp type LogAppendTime");
    }
    let producer = view.producer();
    match producer {
        Some(stamp) if stamp.epoch < 0 || stamp.base_sequence < 0 => {
            return invalid("a producer id needs an epoch and a base sequence of at least 0");
        }
        None if view.producer_id() != -1 => return invalid("a producer id is -1 or at least 0"),
        _ => {}
    }
    Ok(BatchInfo {
        bytes: view.bytes().len(),
        record_count: count as u32,
        last_offset_delta: count - 1,
        max_timestamp: view.max_timestamp(),
        max_timestamp_is_wrong: false,
        producer,
        compression,
    })
}
