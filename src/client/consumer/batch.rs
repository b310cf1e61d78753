//! A record batch as it was fetched, checked; and records that own their bytes.
//!
//! Floor 5; a value.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::DecodeError;
use crate::model::Offset;
use crate::record::{self, BatchView, Records};

/// Largest batch after decompression: a bound against bombs, not a limit on honest data.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// A record with its place. The bytes are shared with their batch, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: Offset,
    /// Milliseconds since 1970; -1: none.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// One record batch whose checksum holds.
#[derive(Clone, Debug)]
pub struct ConsumedBatch {
    pub topic: Arc<str>,
    pub partition: u32,
    /// Where the reader wanted to begin: records below are skipped.
    pub from: Offset,
    /// The offset after the batch's last record.
    pub next_offset: Offset,
    /// The assignment that it was fetched for.
    pub(super) generation: u64,
    batch: Bytes,
    payload: Bytes,
}

impl ConsumedBatch {
    /// Checks the CRC and decompresses.
    pub(super) fn open(
        topic: Arc<str>,
        partition: u32,
        generation: u64,
        from: Offset,
        batch: Bytes,
    ) -> Result<ConsumedBatch, DecodeError> {
        let view = BatchView::new(&batch)?;
        if !view.crc_holds() {
            return Err(DecodeError { what: "record batch: its checksum is wrong", position: 0 });
        }
        let payload = match record::payload(&view, PAYLOAD_BYTES_MAX)? {
            Cow::Borrowed(bytes) => batch.slice_ref(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let next_offset = view.next_offset();
        Ok(ConsumedBatch { topic, partition, from, next_offset, generation, batch, payload })
    }

    fn view(&self) -> BatchView<'_> {
        BatchView::new(&self.batch).expect("it was checked when it was opened")
    }

    /// The batch's bytes, Kafka's RecordBatch v2, as the broker stores them.
    pub fn bytes(&self) -> &Bytes {
        &self.batch
    }

    /// The records at or after `from`, borrowed. An error means that the batch was malformed when
    /// it was produced: its checksum holds.
    pub fn records(&self) -> impl Iterator<Item = Result<record::Record<'_>, DecodeError>> {
        // Control batches hold a transaction's outcome, not records.
        let records = Records::new(&self.view(), &self.payload);
        let is_control = self.view().is_control();
        let wanted = move |record: &Result<record::Record, _>| match record {
            Ok(record) => record.offset >= self.from && !is_control,
            Err(_) => true,
        };
        records.filter(wanted)
    }

    /// A record of this batch that owns its bytes.
    pub fn own(&self, record: &record::Record<'_>) -> ConsumerRecord {
        let share = |bytes: &[u8]| self.payload.slice_ref(bytes);
        ConsumerRecord {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(share),
            value: record.value.map(share),
            headers: record
                .headers
                .clone()
                .map(|(name, value)| (name.into_owned(), value.map(share)))
                .collect(),
        }
    }
}

/// The batches of an answer that are not wholly below `from`, and the offset after them. If one
/// is malformed: those before it, and what is wrong.
pub(super) fn whole_batches(
    records: &Bytes,
    from: Offset,
) -> Result<(Offset, Bytes), (Offset, Bytes, String)> {
    let (mut next, mut start, mut position) = (from, None, 0);
    while position < records.len() {
        let view = match BatchView::first(&records[position..]) {
            Ok((view, _)) => view,
            Err(error) => {
                let whole = records.slice(start.unwrap_or(position)..position);
                return Err((next, whole, error.to_string()));
            }
        };
        if view.last_offset() >= next {
            start = start.or(Some(position));
            next = view.next_offset();
        }
        position += view.bytes().len();
    }
    Ok((next, records.slice(start.unwrap_or(position)..)))
}
