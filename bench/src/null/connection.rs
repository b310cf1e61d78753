//! One connection of the null server: frames in, batches to the sink, answers out.
//!
//! Owner: one shard of the null server.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringlog::model::{ErrorCode, Failure, PartitionId, TopicId};
use ringlog::record::BatchView;
use ringlog::rt::{Stream, local};
use ringlog::wire::{
    self, Acks, At, FRAME_BYTES_MAX, Fetch, FetchHandle, FetchedHandle, FrameReader, Header, Hello,
    HelloReply, Metadata, Opened, Produced, Reply, Request, TopicMetadata, TopicRef,
};

use super::Shard;
use super::answers::{self, Answers};
use super::store::{Found, Store};

struct Connection {
    shard: Rc<Shard>,
    answers: Rc<Answers>,
    /// The partition of each handle, which counts from 1.
    handles: Vec<PartitionId>,
}

/// `received`: what another shard has read already.
pub async fn serve(shard: Rc<Shard>, stream: Stream, received: Vec<u8>) {
    let mut frames = FrameReader::new(FRAME_BYTES_MAX);
    let Some((header, hello, received)) = read_hello(&stream, &mut frames, received).await else { return };
    if hello.shard < shard.count && hello.shard != shard.index {
        if let Ok(mut handover) = stream.hand_over() {
            handover.preface = received;
            shard.peers[hello.shard as usize].send(handover);
        }
        return;
    }
    let answers = Rc::new(Answers::default());
    shard.rt.spawn(answers::write(answers.clone(), stream.clone()));
    let mut connection = Connection { shard: shard.clone(), answers: answers.clone(), handles: Vec::new() };
    connection.answer(&header, &connection.hello());
    connection.read(&stream, &mut frames).await;
    answers.close();
}

/// Reads preface and hello; gives back their bytes too, for a shard that may have to read them again.
async fn read_hello(
    stream: &Stream,
    frames: &mut FrameReader,
    mut received: Vec<u8>,
) -> Option<(Header, Hello, Vec<u8>)> {
    frames.push(&received);
    let mut preface = false;
    loop {
        preface = preface || frames.take_preface().ok()?;
        if preface && let Some((header, body)) = frames.next().ok()? {
            return match Request::decode(header.op()?, &body).ok()? {
                Request::Hello(hello) => Some((header, hello, received)),
                _ => None,
            };
        }
        let count = stream.read(frames.space()).await.ok().filter(|&count| count > 0)?;
        received.extend_from_slice(&frames.space()[..count]);
        frames.filled(count);
    }
}

impl Connection {
    async fn read(&mut self, stream: &Stream, frames: &mut FrameReader) {
        loop {
            while let Ok(Some((header, body))) = frames.next() {
                self.shard.sink.room().await;
                let request = header.op().and_then(|op| Request::decode(op, &body).ok());
                let Some(request) = request else { return };
                self.handle(header, request);
            }
            match stream.read(frames.space()).await {
                Ok(count) if count > 0 => frames.filled(count),
                _ => return,
            }
        }
    }

    fn handle(&mut self, header: Header, request: Request) {
        let reply = match request {
            Request::Produce(produce) => return self.produce(header, produce.acks, produce.batch),
            Request::Fetch(fetch) => return self.fetch(header, fetch),
            Request::ListOffsets { at } => self.list_offset(&header, at),
            Request::DeleteTopic { topic } => Reply::DeleteTopic { id: id_of(&topic) },
            Request::Ping => Reply::Ping,
            Request::Close => Reply::Close,
            Request::Metadata(query) => self.metadata(&query.topics.unwrap_or_default()),
            Request::Open { topic, partition } => self.open(&topic, partition),
            Request::InitProducerId => Reply::InitProducerId { id: self.shard.rt.wall_ms(), epoch: 0 },
            Request::CreateTopic { name, .. } => {
                Reply::CreateTopic { id: topic_id(&name), partitions: self.shard.partitions }
            }
            _ => Reply::Error(Failure::new(ErrorCode::InvalidRequest, "null only takes records")),
        };
        self.answer(&header, &reply);
    }

    fn partition(&self, handle: u32) -> Option<PartitionId> {
        self.handles.get((handle as usize).wrapping_sub(1)).copied()
    }

    fn produce(&mut self, header: Header, acks: Acks, batch: Bytes) {
        let (Some(partition), Ok(view)) = (self.partition(header.handle), BatchView::new(&batch)) else {
            let failure = Failure::new(ErrorCode::InvalidRequest, "no such handle, or no batch");
            return self.answer(&header, &Reply::Error(failure));
        };
        let records = i64::from(view.last_offset_delta()) + 1;
        let base_offset = self.shard.store.assign(partition, records);
        let (answers, store) = (self.answers.clone(), self.shard.store.clone());
        let kept = store.is_on().then(|| batch.clone());
        let durable = move || {
            if let Some(batch) = kept {
                store.publish(partition, base_offset, records, batch);
            }
            if acks != Acks::None {
                let produced = Produced { base_offset, log_append_time_ms: -1, log_start: 0 };
                answers.push(&header, &Reply::Produce(produced));
            }
        };
        self.shard.sink.push(batch, Box::new(durable));
    }

    fn list_offset(&self, header: &Header, at: At) -> Reply {
        let Some(partition) = self.partition(header.handle) else {
            return Reply::Error(Failure::new(ErrorCode::InvalidRequest, "no such handle"));
        };
        let (start, end) = self.shard.store.ends(partition);
        Reply::ListOffsets { offset: if at == At::Earliest { start } else { end }, timestamp_ms: -1 }
    }

    /// Answers at once if there is something to read, else when something comes or the time is over.
    fn fetch(&self, header: Header, fetch: Fetch) {
        let parts = fetch.handles.iter().map(|entry| Some((self.partition(entry.handle)?, *entry)));
        let Some(parts) = parts.collect::<Option<Vec<_>>>() else {
            let failure = Failure::new(ErrorCode::InvalidRequest, "no such handle");
            return self.answer(&header, &Reply::Error(failure));
        };
        let (store, answers, rt) = (self.shard.store.clone(), self.answers.clone(), self.shard.rt.clone());
        if let Some(found) = collect(&store, &parts, fetch.bytes_max as usize) {
            return answers.push_fetched(&header, found);
        }
        let deadline = rt.now() + Duration::from_millis(fetch.wait_ms_max.into());
        self.shard.rt.spawn(async move {
            loop {
                let left = deadline.since(rt.now());
                let in_time = local::timeout(&rt, left, store.grown.wait()).await.is_some();
                match collect(&store, &parts, fetch.bytes_max as usize) {
                    Some(found) => return answers.push_fetched(&header, found),
                    None if in_time => {}
                    None => return answers.push_fetched(&header, Vec::new()),
                }
            }
        });
    }

    fn answer(&self, header: &Header, reply: &Reply) {
        self.answers.push(header, reply);
    }

    fn hello(&self) -> Reply {
        Reply::Hello(HelloReply {
            version: wire::VERSION_MAX,
            shard: self.shard.index,
            shards: self.shard.count,
            frame_bytes_max: FRAME_BYTES_MAX,
            features: 0,
            broker_epoch: 1,
            handles_max: u32::MAX,
            requests_max: u32::MAX,
        })
    }

    fn metadata(&self, topics: &[TopicRef]) -> Reply {
        let describe = |topic: &TopicRef| TopicMetadata {
            id: id_of(topic),
            error: None,
            name: match topic {
                TopicRef::Name(name) => name.clone(),
                TopicRef::Id(id) => id.to_string(),
            },
            shards: (0..self.shard.partitions).map(|partition| partition % self.shard.count).collect(),
            configs: Vec::new(),
        };
        let topics = topics.iter().map(describe).collect();
        Reply::Metadata(Metadata { broker_epoch: 1, shards: self.shard.count, topics })
    }

    fn open(&mut self, topic: &TopicRef, partition: u32) -> Reply {
        if partition % self.shard.count != self.shard.index {
            return Reply::Error(Failure::new(ErrorCode::NotLeaderOrFollower, "on another shard"));
        }
        let partition = PartitionId { topic: id_of(topic), partition };
        self.handles.push(partition);
        let (log_start, high_watermark) = self.shard.store.ends(partition);
        Reply::Open(Opened {
            handle: self.handles.len() as u32,
            leader_epoch: 1,
            partition,
            batch_bytes_max: wire::BATCH_BYTES_MAX as u32,
            log_start,
            high_watermark,
        })
    }
}

/// What there is to answer; `None`: nothing yet.
fn collect(
    store: &Store,
    parts: &[(PartitionId, FetchHandle)],
    bytes_max: usize,
) -> Option<Vec<(FetchedHandle, Found)>> {
    let (mut found, mut left) = (Vec::new(), bytes_max);
    for (partition, wanted) in parts {
        let entry = FetchedHandle {
            handle: wanted.handle,
            records_bytes: 0,
            high_watermark: 0,
            log_start: 0,
            next_offset: -1,
            error: None,
        };
        let Some(own) = store.read(*partition, wanted.offset, left.min(wanted.bytes_max as usize)) else {
            let error = Some(Failure::new(ErrorCode::OffsetOutOfRange, "no longer in memory"));
            let nothing = Found { batches: Vec::new(), high_watermark: 0, log_start: 0 };
            found.push((FetchedHandle { error, ..entry }, nothing));
            continue;
        };
        let bytes: usize = own.batches.iter().map(|(_, batch)| batch.len()).sum();
        if bytes == 0 || (bytes > left && !found.is_empty()) {
            continue;
        }
        left = left.saturating_sub(bytes);
        let (high_watermark, log_start) = (own.high_watermark, own.log_start);
        let entry = FetchedHandle { records_bytes: bytes as u32, high_watermark, log_start, ..entry };
        found.push((entry, own));
        if left == 0 {
            break;
        }
    }
    (!found.is_empty()).then_some(found)
}

fn id_of(topic: &TopicRef) -> TopicId {
    match topic {
        TopicRef::Name(name) => topic_id(name),
        TopicRef::Id(id) => *id,
    }
}

/// Null has no memory: the same name is always the same topic.
fn topic_id(name: &str) -> TopicId {
    TopicId::new(
        name.bytes().fold(1, |id: u128, byte| id.wrapping_mul(0x0100_0000_01b3).wrapping_add(byte.into())),
    )
}
