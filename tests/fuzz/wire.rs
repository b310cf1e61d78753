//! Targets of `wire`: the splitter of the byte stream, and the bodies of requests and replies.

use super::{Random, Target, run};
use bytes::Bytes;
use ringlog::model::{ErrorCode, Failure, PartitionId, TopicId};
use ringlog::wire::*;

/// The splitter takes one chunk ahead of what was announced, twice while it grows.
const CHUNK_BYTES: usize = 64 << 10;

fn text(random: &mut Random) -> String {
    let count = random.below(20);
    (0..count).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
}

fn topic(random: &mut Random) -> TopicRef {
    if random.flip() {
        TopicRef::Name(text(random))
    } else {
        TopicRef::Id(TopicId::new(random.next().into()))
    }
}

fn list<T>(random: &mut Random, of: impl Fn(&mut Random) -> T) -> Vec<T> {
    (0..random.below(6)).map(|_| of(random)).collect()
}

fn option<T>(random: &mut Random, of: impl Fn(&mut Random) -> T) -> Option<T> {
    random.flip().then(|| of(random))
}

fn pair(random: &mut Random) -> (String, String) {
    (text(random), text(random))
}

fn request(random: &mut Random) -> Request {
    match random.below(14) {
        0 => Request::Hello(Hello {
            version_min: 1,
            version_max: random.next() as u16,
            shard: random.next() as u32,
            features: random.next(),
            frame_bytes_max: random.next() as u32,
            client_id: text(random),
        }),
        1 => Request::Ping,
        2 => Request::Metadata(MetadataQuery {
            topics: option(random, |random| list(random, topic)),
            configs: random.flip(),
        }),
        3 => Request::Open { topic: topic(random), partition: random.next() as u32 },
        4 => Request::Close,
        5 => {
            let batch = super::batch::sample(random);
            Request::Produce(Produce { acks: Acks::All, batch: batch.into() })
        }
        6 => Request::ListOffsets { at: At::Timestamp(random.below(1 << 40) as i64) },
        7 => Request::DeleteRecords { before: random.next() as i64 },
        8 => Request::Fetch(Fetch {
            wait_ms_max: random.next() as u32,
            bytes_min: random.next() as u32,
            bytes_max: random.next() as u32,
            handles: list(random, |random| FetchHandle {
                handle: random.next() as u32,
                bytes_max: random.next() as u32,
                offset: random.next() as i64,
            }),
        }),
        9 => Request::CreateTopic {
            name: text(random),
            partitions: option(random, |random| random.next() as u32),
            configs: list(random, pair),
        },
        10 => Request::DeleteTopic { topic: topic(random) },
        11 => Request::AlterTopic {
            topic: topic(random),
            partitions: option(random, |random| random.next() as u32),
            configs: list(random, |random| (text(random), option(random, text))),
        },
        12 => Request::InitProducerId,
        _ => Request::ListOffsets { at: At::MaxTimestamp },
    }
}

fn failure(random: &mut Random) -> Failure {
    let code = ErrorCode::ALL[1 + random.below(ErrorCode::ALL.len() - 1)];
    let code = if code == ErrorCode::None { ErrorCode::InvalidRequest } else { code };
    Failure::new(code, text(random)).retry_after(random.next() as u32)
}

fn described(random: &mut Random) -> TopicMetadata {
    TopicMetadata {
        id: TopicId::new(random.next().into()),
        error: option(random, failure),
        name: text(random),
        shards: list(random, |random| random.next() as u32),
        configs: list(random, |random| ConfigEntry {
            key: text(random),
            value: text(random),
            is_set: random.flip(),
        }),
    }
}

fn fetched(random: &mut Random) -> Fetched {
    let mut records = Vec::new();
    let handles = list(random, |random| {
        let bytes = random.below(100) as u32;
        FetchedHandle {
            handle: random.next() as u32,
            records_bytes: bytes,
            high_watermark: random.next() as i64,
            log_start: 0,
            next_offset: -1,
            error: option(random, failure),
        }
    });
    records.resize(handles.iter().map(|entry| entry.records_bytes as usize).sum(), 1);
    Fetched { handles, records: records.into() }
}

fn reply(random: &mut Random) -> Reply {
    let id = TopicId::new(random.next().into());
    match random.below(9) {
        0 => Reply::Hello(HelloReply {
            version: 1,
            shard: 0,
            shards: 2,
            frame_bytes_max: random.next() as u32,
            features: 0,
            broker_epoch: random.next(),
            handles_max: 9,
            requests_max: 9,
        }),
        1 => Reply::Ping,
        2 => Reply::Metadata(Metadata {
            broker_epoch: random.next(),
            shards: 2,
            topics: list(random, described),
        }),
        3 => Reply::Open(Opened {
            handle: 4,
            leader_epoch: 3,
            partition: PartitionId { topic: id, partition: 2 },
            batch_bytes_max: 1 << 20,
            log_start: 5,
            high_watermark: 77,
        }),
        4 => Reply::Produce(Produced { base_offset: 40, log_append_time_ms: -1, log_start: 2 }),
        5 => Reply::Fetch(fetched(random)),
        6 => Reply::CreateTopic { id, partitions: 3 },
        7 => Reply::InitProducerId { id: 1000, epoch: 0 },
        _ => Reply::Error(failure(random)),
    }
}

fn encoded_request(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    request(random).encode(random.next() as u32, random.next() as u32, &mut out);
    out
}

fn encoded_reply(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    reply(random).encode(&Header::request(Op::Ping, random.next() as u32, 0), &mut out);
    out
}

fn stream(random: &mut Random) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    for _ in 0..random.below(5) {
        out.extend(if random.flip() { encoded_request(random) } else { encoded_reply(random) });
    }
    out
}

/// Decodes the frames that have arrived; `false` if the stream is beyond use.
fn frames(reader: &mut FrameReader) -> bool {
    loop {
        match reader.next() {
            Ok(Some((header, body))) => drop(decode_any(header.op(), header.is_reply(), &body)),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Feeds the stream in pieces whose lengths its own bytes choose.
fn split(bytes: &[u8]) -> bool {
    let mut reader = FrameReader::new(1 << 20);
    let (mut rest, mut preface) = (bytes, false);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((usize::from(rest[0]) % 97 + 1).min(rest.len()));
        reader.push(piece);
        rest = after;
        if !preface {
            match reader.take_preface() {
                Ok(taken) => preface = taken,
                Err(_) => return false,
            }
        }
        if preface && !frames(&mut reader) {
            return false;
        }
    }
    preface && reader.pending().is_empty()
}

fn decode_any(op: Option<Op>, is_reply: bool, body: &Bytes) -> Option<bool> {
    Some(if is_reply { Reply::decode(op?, body).is_ok() } else { Request::decode(op?, body).is_ok() })
}

/// One frame; its operation stands at byte 4.
fn body(bytes: &[u8], is_reply: bool) -> bool {
    if bytes.len() < HEADER_BYTES {
        return false;
    }
    let body = Bytes::copy_from_slice(&bytes[HEADER_BYTES..]);
    if is_reply && Op::from_number(bytes[4]) == Some(Op::Fetch) {
        return match Reply::decode(Op::Fetch, &body) {
            Ok(Reply::Fetch(fetched)) => fetched.split().count() < bytes.len(),
            _ => false,
        };
    }
    decode_any(Op::from_number(bytes[4]), is_reply, &body).unwrap_or(false)
}

fn no_seal(_: &mut [u8]) {}

#[test]
fn wire_stream() {
    let target = Target { name: "wire::wire_stream", sample: stream, reseal: no_seal, decode: split };
    run(&target, 3 * CHUNK_BYTES);
}

#[test]
fn wire_request() {
    let decode = |bytes: &[u8]| body(bytes, false);
    run(&Target { name: "wire::wire_request", sample: encoded_request, reseal: no_seal, decode }, 4096);
}

#[test]
fn wire_reply() {
    let decode = |bytes: &[u8]| body(bytes, true);
    run(&Target { name: "wire::wire_reply", sample: encoded_reply, reseal: no_seal, decode }, 4096);
}
