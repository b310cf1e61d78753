//! One connection of the null server: frames in, batches to the sink, answers out.
//!
//! Owner: one shard of the null server. Answers leave together: whatever is ready when the socket is
//! free goes in one write.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use ringlog::model::{ErrorCode, Failure, PartitionId, TopicId};
use ringlog::record::BatchView;
use ringlog::rt::{Stream, local::Event};
use ringlog::wire::{
    self, Acks, FRAME_BYTES_MAX, FrameReader, Header, Hello, HelloReply, Metadata, Opened, Produced, Reply,
    Request, TopicMetadata, TopicRef,
};

use super::Shard;

struct Answers {
    bytes: RefCell<Vec<u8>>,
    ready: Event,
    closed: Cell<bool>,
}

struct Connection {
    shard: Rc<Shard>,
    answers: Rc<Answers>,
    /// Partition and next offset of each handle, which counts from 1.
    handles: Vec<(u32, i64)>,
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
    let answers =
        Rc::new(Answers { bytes: RefCell::new(Vec::new()), ready: Event::new(), closed: Cell::new(false) });
    shard.rt.spawn(write_answers(answers.clone(), stream.clone()));
    let mut connection = Connection { shard: shard.clone(), answers: answers.clone(), handles: Vec::new() };
    connection.answer(&header, &connection.hello());
    connection.read(&stream, &mut frames).await;
    answers.closed.set(true);
    answers.ready.notify();
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

async fn write_answers(answers: Rc<Answers>, stream: Stream) {
    loop {
        let bytes = answers.bytes.take();
        if bytes.is_empty() {
            if answers.closed.get() {
                return;
            }
            answers.ready.wait().await;
        } else if stream.write_all_vectored(&[&bytes]).await.is_err() {
            stream.shutdown();
            return;
        }
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

    fn produce(&mut self, header: Header, acks: Acks, batch: Bytes) {
        let handle = (header.handle as usize).wrapping_sub(1);
        let (Some((_, next)), Ok(view)) = (self.handles.get_mut(handle), BatchView::new(&batch)) else {
            let failure = Failure::new(ErrorCode::InvalidRequest, "no such handle, or no batch");
            return self.answer(&header, &Reply::Error(failure));
        };
        let base_offset = *next;
        *next += i64::from(view.last_offset_delta()) + 1;
        let answers = self.answers.clone();
        let durable = move || {
            if acks != Acks::None {
                let produced = Produced { base_offset, log_append_time_ms: -1, log_start: 0 };
                answers.push(&header, &Reply::Produce(produced));
            }
        };
        self.shard.sink.push(batch, Box::new(durable));
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
        self.handles.push((partition, 0));
        Reply::Open(Opened {
            handle: self.handles.len() as u32,
            leader_epoch: 1,
            partition: PartitionId { topic: id_of(topic), partition },
            batch_bytes_max: wire::BATCH_BYTES_MAX as u32,
            log_start: 0,
            high_watermark: 0,
        })
    }
}

impl Answers {
    fn push(&self, request: &Header, reply: &Reply) {
        let mut bytes = self.bytes.borrow_mut();
        let was_empty = bytes.is_empty();
        reply.encode(request, &mut bytes);
        drop(bytes);
        if was_empty {
            self.ready.notify();
        }
    }
}

fn id_of(topic: &TopicRef) -> TopicId {
    match topic {
        TopicRef::Name(name) => topic_id(name),
        TopicRef::Id(id) => *id,
    }
}

/// Null has no memory: the same name is always the same topic.
fn topic_id(name: &str) -> TopicId {
    TopicId(
        name.bytes().fold(1, |id: u128, byte| id.wrapping_mul(0x0100_0000_01b3).wrapping_add(byte.into())),
    )
}
