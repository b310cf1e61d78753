//! Requests: what a client sends after its preface.
//!
//! Floor 3. Bodies of the small ones (`handle` is in the header):
//!
//! ```text
//! hello, metadata, fetch    see session, topics, fetch
//! open            topic ref | u32 partition
//! produce         i8 acks (0, 1, -1: all) | 7 bytes zero | one record batch, to the end of the frame
//! list_offsets    i64 at: a timestamp in ms, or -1 latest, -2 earliest, -3 largest timestamp
//! delete_records  i64 before: -1 for the high watermark
//! create_topic    u32 partitions (0: the broker's default) | text name | u32 count | (text key, text value)
//! ... delete_topic    topic ref alter_topic     u32 partitions (0: as they are) | topic ref | u32 count |
//! (text key, u8 set, text value) ... ping, close, init_producer_id   empty
//! ```

use bytes::Bytes;

use crate::base::cursor::put_text;
use crate::base::{DecodeError, Reader};
use crate::model::Offset;

use super::body::{flag, frame, put_count, put_i64, put_u32};
use super::fetch::Fetch;
use super::header::{HEADER_BYTES, Header, Op};
use super::session::Hello;
use super::topics::{MetadataQuery, TopicRef};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Hello(Hello),
    Ping,
    Metadata(MetadataQuery),
    /// Binds a partition to a handle of this connection.
    Open {
        topic: TopicRef,
        partition: u32,
    },
    /// Frees the header's handle.
    Close,
    /// For the header's handle, as the next three.
    Produce(Produce),
    ListOffsets {
        at: At,
    },
    DeleteRecords {
        before: Offset,
    },
    Fetch(Fetch),
    CreateTopic {
        name: String,
        partitions: Option<u32>,
        configs: Vec<(String, String)>,
    },
    DeleteTopic {
        topic: TopicRef,
    },
    /// A config without a value goes back to the broker's default.
    AlterTopic {
        topic: TopicRef,
        partitions: Option<u32>,
        configs: Vec<(String, Option<String>)>,
    },
    InitProducerId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produce {
    pub acks: Acks,
    /// One Kafka RecordBatch v2, not looked into here.
    pub batch: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Latest,
    Earliest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first record at or after this time, in ms since 1970.
    Timestamp(i64),
}

/// What precedes the batch in a produce body.
const PRODUCE_HEAD_BYTES: usize = 8;

/// What precedes the batch in a produce frame.
pub const PRODUCE_PREFIX_BYTES: usize = HEADER_BYTES + PRODUCE_HEAD_BYTES;

/// Header and head of a produce frame whose batch of `batch_bytes` the caller sends behind it.
pub fn encode_produce_prefix(
    corr: u32,
    handle: u32,
    acks: Acks,
    batch_bytes: usize,
) -> [u8; PRODUCE_PREFIX_BYTES] {
    let body_bytes = u32::try_from(PRODUCE_HEAD_BYTES + batch_bytes).expect("batches are far below 4 GiB");
    let header = Header { body_bytes, ..Header::request(Op::Produce, corr, handle) };
    let mut prefix = [0; PRODUCE_PREFIX_BYTES];
    prefix[..HEADER_BYTES].copy_from_slice(&header.encode());
    prefix[HEADER_BYTES] = acks.number() as u8;
    prefix
}

impl Acks {
    /// Kafka's number.
    pub fn number(self) -> i8 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }

    fn decode(reader: &mut Reader) -> Result<Acks, DecodeError> {
        let error = reader.error("produce acks");
        match reader.i8("produce acks")? {
            0 => Ok(Acks::None),
            1 => Ok(Acks::Leader),
            -1 => Ok(Acks::All),
            _ => Err(error),
        }
    }
}

impl At {
    fn number(self) -> i64 {
        match self {
            At::Latest => -1,
            At::Earliest => -2,
            At::MaxTimestamp => -3,
            At::Timestamp(ms) => ms.max(0),
        }
    }

    fn decode(reader: &mut Reader) -> Result<At, DecodeError> {
        let error = reader.error("list offsets at");
        match reader.i64("list offsets at")? {
            -1 => Ok(At::Latest),
            -2 => Ok(At::Earliest),
            -3 => Ok(At::MaxTimestamp),
            ms if ms >= 0 => Ok(At::Timestamp(ms)),
            _ => Err(error),
        }
    }
}

impl Request {
    pub fn op(&self) -> Op {
        match self {
            Request::Hello(_) => Op::Hello,
            Request::Ping => Op::Ping,
            Request::Metadata(_) => Op::Metadata,
            Request::Open { .. } => Op::Open,
            Request::Close => Op::Close,
            Request::Produce(_) => Op::Produce,
            Request::ListOffsets { .. } => Op::ListOffsets,
            Request::DeleteRecords { .. } => Op::DeleteRecords,
            Request::Fetch(_) => Op::Fetch,
            Request::CreateTopic { .. } => Op::CreateTopic,
            Request::DeleteTopic { .. } => Op::DeleteTopic,
            Request::AlterTopic { .. } => Op::AlterTopic,
            Request::InitProducerId => Op::InitProducerId,
        }
    }

    /// Appends the whole frame. Texts are bounded by the caller (65,535 bytes each).
    pub fn encode(&self, corr: u32, handle: u32, out: &mut Vec<u8>) {
        frame(out, &Header::request(self.op(), corr, handle), 0, |out| self.encode_body(out));
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Request::Hello(hello) => hello.encode(out),
            Request::Metadata(query) => query.encode(out),
            Request::Open { topic, partition } => {
                topic.encode(out);
                put_u32(out, *partition);
            }
            Request::Produce(produce) => {
                out.extend_from_slice(&[produce.acks.number() as u8, 0, 0, 0, 0, 0, 0, 0]);
                out.extend_from_slice(&produce.batch);
            }
            Request::ListOffsets { at } => put_i64(out, at.number()),
            Request::DeleteRecords { before } => put_i64(out, *before),
            Request::Fetch(fetch) => fetch.encode(out),
            Request::CreateTopic { name, partitions, configs } => {
                put_u32(out, partitions.unwrap_or(0));
                put_text(out, name);
                put_count(out, configs.len());
                for (key, value) in configs {
                    put_text(out, key);
                    put_text(out, value);
                }
            }
            Request::DeleteTopic { topic } => topic.encode(out),
            Request::AlterTopic { topic, partitions, configs } => {
                put_u32(out, partitions.unwrap_or(0));
                topic.encode(out);
                put_count(out, configs.len());
                for (key, value) in configs {
                    put_text(out, key);
                    out.push(value.is_some().into());
                    put_text(out, value.as_deref().unwrap_or_default());
                }
            }
            Request::Ping | Request::Close | Request::InitProducerId => {}
        }
    }

    /// Decodes the body of a frame whose op is known. Only a hello may carry more than it should:
    /// it is read before a version has been agreed on.
    pub fn decode(op: Op, body: &Bytes) -> Result<Request, DecodeError> {
        let mut reader = Reader::new(body);
        let request = match op {
            Op::Hello => return Ok(Request::Hello(Hello::decode(&mut reader)?)),
            Op::Ping => Request::Ping,
            Op::Metadata => Request::Metadata(MetadataQuery::decode(&mut reader)?),
            Op::Open => {
                let topic = TopicRef::decode(&mut reader)?;
                Request::Open { topic, partition: reader.u32("open partition")? }
            }
            Op::Close => Request::Close,
            Op::Produce => {
                let acks = Acks::decode(&mut reader)?;
                reader.bytes(PRODUCE_HEAD_BYTES - 1, "produce reserved")?;
                return Ok(Request::Produce(Produce { acks, batch: body.slice(PRODUCE_HEAD_BYTES..) }));
            }
            Op::ListOffsets => Request::ListOffsets { at: At::decode(&mut reader)? },
            Op::DeleteRecords => Request::DeleteRecords { before: reader.i64("delete records before")? },
            Op::Fetch => Request::Fetch(Fetch::decode(&mut reader)?),
            Op::CreateTopic => decode_create(&mut reader)?,
            Op::DeleteTopic => Request::DeleteTopic { topic: TopicRef::decode(&mut reader)? },
            Op::AlterTopic => decode_alter(&mut reader)?,
            Op::InitProducerId => Request::InitProducerId,
            Op::Error => return Err(reader.error("op: an error is never a request")),
        };
        reader.finish("request: more bytes than it should have")?;
        Ok(request)
    }
}

fn decode_partitions(reader: &mut Reader) -> Result<Option<u32>, DecodeError> {
    let partitions = reader.u32("topic partitions")?;
    Ok((partitions != 0).then_some(partitions))
}

fn decode_create(reader: &mut Reader) -> Result<Request, DecodeError> {
    let partitions = decode_partitions(reader)?;
    let name = reader.text("topic name")?.to_owned();
    let count = reader.count_u32(4, "topic configs")?;
    let mut configs = Vec::new();
    for _ in 0..count {
        let key = reader.text("config key")?.to_owned();
        configs.push((key, reader.text("config value")?.to_owned()));
    }
    Ok(Request::CreateTopic { name, partitions, configs })
}

fn decode_alter(reader: &mut Reader) -> Result<Request, DecodeError> {
    let partitions = decode_partitions(reader)?;
    let topic = TopicRef::decode(reader)?;
    let count = reader.count_u32(5, "topic configs")?;
    let mut configs = Vec::new();
    for _ in 0..count {
        let key = reader.text("config key")?.to_owned();
        let set = flag(reader, "config set")?;
        let value = reader.text("config value")?;
        configs.push((key, set.then(|| value.to_owned())));
    }
    Ok(Request::AlterTopic { topic, partitions, configs })
}
