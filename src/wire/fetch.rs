//! Fetch: one request covers several partitions; it waits at the broker until there is something
//! to read (long poll), and many may be under way.
//!
//! Floor 3.
//!
//! ```text
//! request  u32 wait_ms_max | u32 bytes_min | u32 bytes_max | u32 count | entry ...
//! entry    u32 handle | u32 bytes_max | i64 offset
//! answer   u32 count | answer entry ... | record batches of the first entry, of the second, ...
//! answer entry  u32 handle | u32 records_bytes | i64 high_watermark | i64 log_start | i64 next_offset |
//! failure
//! ```
//!
//! The record batches lie behind all entries, so that a broker sends one small head and then its
//! stored bytes as they are.

use bytes::Bytes;

use crate::base::{DecodeError, Reader};
use crate::model::{Failure, Offset};

use super::body::{FAILURE_BYTES, failure, frame, put_count, put_failure, put_i64, put_u32};
use super::header::{Header, Op};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// How long the broker may wait for `bytes_min`; 0: answer at once.
    pub wait_ms_max: u32,
    pub bytes_min: u32,
    /// Bound of the record bytes in the answer; the first batch is answered even if it is larger
    /// (KIP-74), as long as it fits the client's frame bound.
    pub bytes_max: u32,
    pub handles: Vec<FetchHandle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchHandle {
    pub handle: u32,
    pub bytes_max: u32,
    pub offset: Offset,
}

/// One entry of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedHandle {
    pub handle: u32,
    pub records_bytes: u32,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// With CORRUPT_MESSAGE: the next offset that can be read. Without an error and without records: what
    /// was wanted is lost, which an operator accepted; go on here. Else -1.
    pub next_offset: Offset,
    pub error: Option<Failure>,
}

/// A decoded answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub handles: Vec<FetchedHandle>,
    /// The record batches of all entries, in their order; [`split`](Self::split) takes them apart.
    pub records: Bytes,
}

const ENTRY_BYTES: usize = 16;
const FETCHED_BYTES: usize = 32 + FAILURE_BYTES;

impl Fetch {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.wait_ms_max);
        put_u32(out, self.bytes_min);
        put_u32(out, self.bytes_max);
        put_count(out, self.handles.len());
        for entry in &self.handles {
            put_u32(out, entry.handle);
            put_u32(out, entry.bytes_max);
            put_i64(out, entry.offset);
        }
    }

    pub(super) fn decode(reader: &mut Reader) -> Result<Fetch, DecodeError> {
        let wait_ms_max = reader.u32("fetch wait")?;
        let bytes_min = reader.u32("fetch bytes min")?;
        let bytes_max = reader.u32("fetch bytes max")?;
        let count = reader.count_u32(ENTRY_BYTES, "fetch handles")?;
        let mut handles = Vec::with_capacity(count);
        for _ in 0..count {
            let handle = reader.u32("fetch handle")?;
            let bytes_max = reader.u32("fetch handle bytes max")?;
            let offset = reader.i64("fetch offset")?;
            handles.push(FetchHandle { handle, bytes_max, offset });
        }
        Ok(Fetch { wait_ms_max, bytes_min, bytes_max, handles })
    }
}

/// Appends the head of a fetch answer to `request`. The caller sends exactly the sum of
/// `records_bytes` behind it: the record batches, as they are stored.
pub fn encode_fetched(out: &mut Vec<u8>, request: &Header, handles: &[FetchedHandle]) {
    let records_bytes = handles.iter().map(|entry| entry.records_bytes as usize).sum();
    frame(out, &request.reply(Op::Fetch), records_bytes, |out| {
        put_count(out, handles.len());
        for entry in handles {
            put_u32(out, entry.handle);
            put_u32(out, entry.records_bytes);
            put_i64(out, entry.high_watermark);
            put_i64(out, entry.log_start);
            put_i64(out, entry.next_offset);
            put_failure(out, entry.error.as_ref());
        }
    });
}

impl Fetched {
    pub(super) fn decode(body: &Bytes) -> Result<Fetched, DecodeError> {
        let mut reader = Reader::new(body);
        let count = reader.count_u32(FETCHED_BYTES, "fetched handles")?;
        let mut handles = Vec::new();
        let mut records_bytes = 0u64;
        for _ in 0..count {
            let entry = FetchedHandle::decode(&mut reader)?;
            records_bytes += u64::from(entry.records_bytes);
            handles.push(entry);
        }
        if records_bytes != reader.remaining() as u64 {
            return Err(reader.error("fetched records"));
        }
        Ok(Fetched { handles, records: body.slice(reader.position()..) })
    }

    /// Each entry with its record batches.
    pub fn split(mut self) -> impl Iterator<Item = (FetchedHandle, Bytes)> {
        let mut records = self.records.split_to(self.records.len());
        self.handles.into_iter().map(move |entry| {
            let own = records.split_to(entry.records_bytes as usize);
            (entry, own)
        })
    }
}

impl FetchedHandle {
    fn decode(reader: &mut Reader) -> Result<FetchedHandle, DecodeError> {
        Ok(FetchedHandle {
            handle: reader.u32("fetched handle")?,
            records_bytes: reader.u32("fetched records bytes")?,
            high_watermark: reader.i64("fetched high watermark")?,
            log_start: reader.i64("fetched log start")?,
            next_offset: reader.i64("fetched next offset")?,
            error: failure(reader)?,
        })
    }
}
