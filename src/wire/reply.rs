//! Replies: what a broker sends, each with its request's correlation id.
//!
//! Floor 3. Bodies of the small ones:
//!
//! ```text
//! hello, metadata, fetch    see session, topics, fetch
//! open            u32 handle | i32 leader_epoch | u128 topic id | u32 partition | u32 batch_bytes_max
//!                 | i64 log_start | i64 high_watermark
//! produce         i64 base_offset | i64 log_append_time_ms | i64 log_start     (none for acks=0)
//! list_offsets    i64 offset | i64 timestamp_ms
//! delete_records  i64 log_start
//! create_topic, alter_topic   u128 id | u32 partitions
//! delete_topic    u128 id
//! init_producer_id            i64 id | i16 epoch
//! error           i16 code | u16 reserved | u32 retry_after_ms | text
//! ping, close     empty
//! ```

use bytes::Bytes;

use crate::base::{DecodeError, Reader};
use crate::model::{Failure, Offset, PartitionId, ProducerId, TopicId};

use super::body::{failure, frame, put_failure, put_i16, put_i64, put_u32, put_u128};
use super::fetch::{Fetched, encode_fetched};
use super::header::{Header, Op};
use super::session::HelloReply;
use super::topics::Metadata;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Hello(HelloReply),
    Ping,
    Metadata(Metadata),
    Open(Opened),
    Close,
    Produce(Produced),
    Fetch(Fetched),
    /// Offset -1: no record matches. Timestamp -1: not known.
    ListOffsets {
        offset: Offset,
        timestamp_ms: i64,
    },
    DeleteRecords {
        log_start: Offset,
    },
    CreateTopic {
        id: TopicId,
        partitions: u32,
    },
    DeleteTopic {
        id: TopicId,
    },
    AlterTopic {
        id: TopicId,
        partitions: u32,
    },
    InitProducerId {
        id: ProducerId,
        epoch: i16,
    },
    Error(Failure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Names the partition in the headers of this connection; never 0.
    pub handle: u32,
    pub leader_epoch: i32,
    pub partition: PartitionId,
    /// Largest record batch that the topic accepts, in bytes.
    pub batch_bytes_max: u32,
    pub log_start: Offset,
    pub high_watermark: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the batch's first record; the original one if the batch was a duplicate.
    pub base_offset: Offset,
    /// -1 unless the topic's timestamps are the broker's.
    pub log_append_time_ms: i64,
    pub log_start: Offset,
}

impl Reply {
    pub fn op(&self) -> Op {
        match self {
            Reply::Hello(_) => Op::Hello,
            Reply::Ping => Op::Ping,
            Reply::Metadata(_) => Op::Metadata,
            Reply::Open(_) => Op::Open,
            Reply::Close => Op::Close,
            Reply::Produce(_) => Op::Produce,
            Reply::Fetch(_) => Op::Fetch,
            Reply::ListOffsets { .. } => Op::ListOffsets,
            Reply::DeleteRecords { .. } => Op::DeleteRecords,
            Reply::CreateTopic { .. } => Op::CreateTopic,
            Reply::DeleteTopic { .. } => Op::DeleteTopic,
            Reply::AlterTopic { .. } => Op::AlterTopic,
            Reply::InitProducerId { .. } => Op::InitProducerId,
            Reply::Error(_) => Op::Error,
        }
    }

    /// Appends the whole frame that answers `request`. For fetches that should not copy record
    /// bytes see [`encode_fetched`].
    pub fn encode(&self, request: &Header, out: &mut Vec<u8>) {
        if let Reply::Fetch(fetched) = self {
            encode_fetched(out, request, &fetched.handles);
            out.extend_from_slice(&fetched.records);
            return;
        }
        frame(out, &request.reply(self.op()), 0, |out| self.encode_body(out));
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Hello(hello) => hello.encode(out),
            Reply::Metadata(metadata) => metadata.encode(out),
            Reply::Open(opened) => opened.encode(out),
            Reply::Produce(produced) => {
                put_i64(out, produced.base_offset);
                put_i64(out, produced.log_append_time_ms);
                put_i64(out, produced.log_start);
            }
            Reply::ListOffsets { offset, timestamp_ms } => {
                put_i64(out, *offset);
                put_i64(out, *timestamp_ms);
            }
            Reply::DeleteRecords { log_start } => put_i64(out, *log_start),
            Reply::CreateTopic { id, partitions } | Reply::AlterTopic { id, partitions } => {
                put_u128(out, id.number());
                put_u32(out, *partitions);
            }
            Reply::DeleteTopic { id } => put_u128(out, id.number()),
            Reply::InitProducerId { id, epoch } => {
                put_i64(out, *id);
                put_i16(out, *epoch);
            }
            Reply::Error(failure) => put_failure(out, Some(failure)),
            Reply::Ping | Reply::Close | Reply::Fetch(_) => {}
        }
    }

    /// Decodes the body of a reply frame. Bytes behind what is known are refused: the version
    /// that both sides agreed on says exactly what there is.
    pub fn decode(op: Op, body: &Bytes) -> Result<Reply, DecodeError> {
        let mut reader = Reader::new(body);
        let reply = match op {
            // A newer broker may say more: the version is agreed on only by this reply.
            Op::Hello => return Ok(Reply::Hello(HelloReply::decode(&mut reader)?)),
            Op::Ping => Reply::Ping,
            Op::Metadata => Reply::Metadata(Metadata::decode(&mut reader)?),
            Op::Open => Reply::Open(Opened::decode(&mut reader)?),
            Op::Close => Reply::Close,
            Op::Produce => Reply::Produce(Produced {
                base_offset: reader.i64("produced base offset")?,
                log_append_time_ms: reader.i64("produced append time")?,
                log_start: reader.i64("produced log start")?,
            }),
            Op::Fetch => return Ok(Reply::Fetch(Fetched::decode(body)?)),
            Op::ListOffsets => Reply::ListOffsets {
                offset: reader.i64("listed offset")?,
                timestamp_ms: reader.i64("listed timestamp")?,
            },
            Op::DeleteRecords => Reply::DeleteRecords { log_start: reader.i64("log start")? },
            Op::CreateTopic => {
                Reply::CreateTopic { id: topic_id(&mut reader)?, partitions: partitions(&mut reader)? }
            }
            Op::DeleteTopic => Reply::DeleteTopic { id: topic_id(&mut reader)? },
            Op::AlterTopic => {
                Reply::AlterTopic { id: topic_id(&mut reader)?, partitions: partitions(&mut reader)? }
            }
            Op::InitProducerId => {
                Reply::InitProducerId { id: reader.i64("producer id")?, epoch: reader.i16("producer epoch")? }
            }
            Op::Error => {
                let missing = reader.error("error code: none in an error reply");
                Reply::Error(failure(&mut reader)?.ok_or(missing)?)
            }
        };
        reader.finish("reply: more bytes than it should have")?;
        Ok(reply)
    }
}

fn topic_id(reader: &mut Reader) -> Result<TopicId, DecodeError> {
    Ok(TopicId::new(reader.u128("topic id")?))
}

fn partitions(reader: &mut Reader) -> Result<u32, DecodeError> {
    reader.u32("topic partitions")
}

impl Opened {
    fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.handle);
        out.extend_from_slice(&self.leader_epoch.to_le_bytes());
        put_u128(out, self.partition.topic.number());
        put_u32(out, self.partition.partition);
        put_u32(out, self.batch_bytes_max);
        put_i64(out, self.log_start);
        put_i64(out, self.high_watermark);
    }

    fn decode(reader: &mut Reader) -> Result<Opened, DecodeError> {
        let handle = reader.u32("opened handle")?;
        let leader_epoch = reader.i32("opened leader epoch")?;
        let topic = topic_id(reader)?;
        let partition = PartitionId { topic, partition: reader.u32("opened partition")? };
        Ok(Opened {
            handle,
            leader_epoch,
            partition,
            batch_bytes_max: reader.u32("opened batch bytes max")?,
            log_start: reader.i64("opened log start")?,
            high_watermark: reader.i64("opened high watermark")?,
        })
    }
}
