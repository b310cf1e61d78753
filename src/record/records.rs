//! The records inside a batch: a bounded walk over their bytes, and searches by timestamp.
//!
//! Floor 1. `scan_record` is the one place that knows how a record lies in memory; validation and
//! reading share it. Invariant: whatever the bytes, the walk ends within them.
//!
//! ```text
//! length varint (bytes after it) | attributes i8 | timestamp delta varlong | offset delta varint
//! key length varint (-1: null) | key | value length varint (-1: null) | value
//! header count varint | (key length varint | key | value length varint (-1: null) | value)*
//! ```

use std::borrow::Cow;
use std::ops::Range;

use super::codec::{self, Compression};
use super::layout::HEADER_BYTES;
use super::view::BatchView;
use crate::base::DecodeError;
use crate::model::Offset;

/// Where the parts of one record lie, as ranges of the scanned bytes.
pub(super) struct Scanned {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    pub headers: Range<usize>,
    /// Byte after the record.
    pub end: usize,
}

/// Kafka's zigzag varint. Up to three bytes are read without a loop: all that most records have.
#[inline(always)]
fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let (raw, length) = match *bytes.get(*at..)? {
        [a, ..] if a < 0x80 => (u64::from(a), 1),
        [a, b, ..] if b < 0x80 => (u64::from(a & 0x7f) | u64::from(b) << 7, 2),
        [a, b, c, ..] if c < 0x80 => (u64::from(a & 0x7f) | u64::from(b & 0x7f) << 7 | u64::from(c) << 14, 3),
        _ => long_varint(bytes, *at)?,
    };
    *at += length;
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

/// The value and its length in bytes.
#[cold]
fn long_varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut raw = 0;
    for (place, byte) in bytes.get(at..)?.iter().enumerate().take(10) {
        if place == 9 && *byte > 1 {
            return None;
        }
        raw |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            return Some((raw, place + 1));
        }
    }
    None
}

/// A length and that many bytes; `Some(None)` for length -1.
#[inline]
fn nullable(bytes: &[u8], at: &mut usize) -> Option<Option<Range<usize>>> {
    let length = varint(bytes, at)?;
    if length == -1 {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    if length > bytes.len() - *at {
        return None;
    }
    let start = *at;
    *at += length;
    Some(Some(start..*at))
}

/// Scans the record that begins at byte `at`. `None`: it is malformed.
#[inline]
pub(super) fn scan_record(bytes: &[u8], mut at: usize) -> Option<Scanned> {
    let length = usize::try_from(varint(bytes, &mut at)?).ok()?;
    if length > bytes.len() - at {
        return None;
    }
    let end = at + length;
    // Nothing inside the record may reach past its own end.
    let bytes = &bytes[..end];
    at += 1; // attributes: unused by Kafka
    let timestamp_delta = varint(bytes, &mut at)?;
    let offset_delta = i32::try_from(varint(bytes, &mut at)?).ok()?;
    let key = nullable(bytes, &mut at)?;
    let value = nullable(bytes, &mut at)?;
    let headers = at..end;
    let count = varint(bytes, &mut at)?;
    if count < 0 {
        return None;
    }
    for _ in 0..count {
        nullable(bytes, &mut at)??;
        nullable(bytes, &mut at)?;
    }
    (at == end).then_some(Scanned { timestamp_delta, offset_delta, key, value, headers, end })
}

/// The records of a batch as they lie in memory once decompressed: borrowed if they were not
/// compressed. More than `bytes_max` bytes is an error.
pub fn payload<'a>(view: &BatchView<'a>, bytes_max: usize) -> Result<Cow<'a, [u8]>, DecodeError> {
    let error = DecodeError { what: "codec of record batch", position: 0 };
    match view.compression().ok_or(error)? {
        Compression::None => Ok(Cow::Borrowed(view.records_bytes())),
        codec => codec::decompress(codec, view.records_bytes(), bytes_max).map(Cow::Owned),
    }
}

/// One record, borrowed from its batch's payload.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    pub offset: Offset,
    /// Milliseconds since 1970; -1 if the producer gave none.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// Iterates over the records of a batch; ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    payload: &'a [u8],
    at: usize,
    left: i32,
    base_offset: Offset,
    /// Offset deltas grow, with gaps where compaction removed records.
    delta_min: i32,
    delta_max: i32,
    base_timestamp: i64,
    log_append_time: Option<i64>,
}

impl<'a> Records<'a> {
    /// `payload` is that of the same batch: [`payload`].
    pub fn new(view: &BatchView<'_>, payload: &'a [u8]) -> Records<'a> {
        Records {
            payload,
            at: 0,
            left: view.record_count(),
            base_offset: view.base_offset(),
            delta_min: 0,
            delta_max: view.last_offset_delta(),
            base_timestamp: view.base_timestamp(),
            log_append_time: view.has_log_append_time().then(|| view.max_timestamp()),
        }
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let scanned = scan_record(self.payload, self.at)?;
        if scanned.offset_delta < self.delta_min || scanned.offset_delta > self.delta_max {
            return None;
        }
        let timestamp = match self.log_append_time {
            Some(timestamp) => timestamp,
            None => self.base_timestamp.checked_add(scanned.timestamp_delta)?,
        };
        self.at = scanned.end;
        self.delta_min = scanned.offset_delta.saturating_add(1);
        self.left -= 1;
        Some(Record {
            offset: self.base_offset + i64::from(scanned.offset_delta),
            timestamp,
            key: scanned.key.map(|range| &self.payload[range]),
            value: scanned.value.map(|range| &self.payload[range]),
            headers: Headers::new(&self.payload[scanned.headers]),
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            let rest = self.at < self.payload.len();
            self.at = self.payload.len();
            let error = DecodeError { what: "end of records", position: HEADER_BYTES };
            return rest.then_some(Err(error));
        }
        let error = DecodeError { what: "record", position: HEADER_BYTES + self.at };
        let record = self.record();
        if record.is_none() {
            self.left = 0;
            self.at = self.payload.len();
        }
        Some(record.ok_or(error))
    }
}

/// The headers of a record, in order: name and value. Names are UTF-8 by Kafka's rule; what is not
/// is replaced, as the Java client does.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    at: usize,
    left: usize,
}

impl<'a> Headers<'a> {
    /// `bytes` were scanned: from the header count to the end of the record.
    fn new(bytes: &'a [u8]) -> Headers<'a> {
        let mut at = 0;
        let left = varint(bytes, &mut at).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        Headers { bytes, at, left }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (Cow<'a, str>, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = nullable(self.bytes, &mut self.at)??;
        let value = nullable(self.bytes, &mut self.at)?;
        Some((String::from_utf8_lossy(&self.bytes[name]), value.map(|range| &self.bytes[range])))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// The first record whose timestamp is at or after `timestamp`: its offset and timestamp.
pub fn first_at_or_after(
    view: &BatchView<'_>,
    timestamp: i64,
    bytes_max: usize,
) -> Result<Option<(Offset, i64)>, DecodeError> {
    if view.max_timestamp() < timestamp {
        return Ok(None);
    }
    let payload = payload(view, bytes_max)?;
    for record in Records::new(view, &payload) {
        let record = record?;
        if record.timestamp >= timestamp {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

/// The first of the records with the largest timestamp (KIP-734): its offset and timestamp.
pub fn first_with_max_timestamp(
    view: &BatchView<'_>,
    bytes_max: usize,
) -> Result<Option<(Offset, i64)>, DecodeError> {
    let payload = payload(view, bytes_max)?;
    let mut best: Option<(Offset, i64)> = None;
    for record in Records::new(view, &payload) {
        let record = record?;
        if best.is_none_or(|(_, timestamp)| record.timestamp > timestamp) {
            best = Some((record.offset, record.timestamp));
        }
    }
    Ok(best)
}
