//! Connections over loopback sockets, against a shard that answers when the test says so.
//!
//! Floor 4.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;

use super::*;
use crate::api::{self, AdminReply, Chunk, Reply as ApiReply};
use crate::model::{ErrorCode, PartitionId, TopicId};
use crate::rt::World;
use crate::rt::local::Event;
use crate::wire::{
    ANY_SHARD, Acks, Fetch, FetchHandle, FrameReader, Header, Hello, HelloReply, PREFACE, Produce, Reply,
    Request as Ask, TopicRef, encode_produce_prefix,
};

const PARTITION: PartitionId = PartitionId { topic: TopicId::new(9), partition: 0 };

struct Shard {
    incoming: Rc<Budget>,
    held: RefCell<VecDeque<(Request, Done)>>,
    full: Cell<bool>,
    room: Event,
    handed: RefCell<Vec<(u32, Handover)>>,
    closed: RefCell<Vec<Closed>>,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard {
            incoming: Budget::new(300_000),
            held: RefCell::default(),
            full: Cell::new(false),
            room: Event::new(),
            handed: RefCell::default(),
            closed: RefCell::default(),
        }
    }
}

impl Service for Shard {
    fn index(&self) -> u32 {
        0
    }
    fn count(&self) -> u32 {
        2
    }
    fn broker_epoch(&self) -> u64 {
        5
    }
    fn request(&self, request: Request, done: Done) {
        match request {
            Request::Open { .. } => done(Ok(ApiReply::Opened(api::Opened {
                partition: PARTITION,
                leader_epoch: 1,
                log_start: 0,
                high_watermark: 0,
                batch_bytes_max: 1000,
            }))),
            Request::Admin(_) => {
                let reply = AdminReply::TopicCreated { id: TopicId::new(1), partitions: 1 };
                done(Ok(ApiReply::Admin(reply)));
            }
            other => self.held.borrow_mut().push_back((other, done)),
        }
    }
    fn produce_room(&self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        let room = self.room.clone();
        self.full
            .get()
            .then(|| Box::pin(async move { room.wait().await }) as Pin<Box<dyn Future<Output = ()>>>)
    }
    fn hand_over(&self, shard: u32, socket: Handover) {
        self.handed.borrow_mut().push((shard, socket));
    }
    fn limits(&self) -> Limits {
        Limits {
            frame_bytes_max: 200_000,
            handles_max: 2,
            requests_max: 4,
            reply_bytes_max: 1 << 20,
            fetch_bytes_max: 1 << 20,
        }
    }
    fn memory(&self) -> Memory {
        Memory {
            incoming: self.incoming.clone(),
            replies: Budget::new(1 << 20),
            recycler: Recycler::default(),
        }
    }
    fn closed(&self, why: Closed) {
        self.closed.borrow_mut().push(why);
    }
}

struct Client {
    stream: Stream,
    frames: FrameReader,
}

impl Client {
    async fn send(&self, request: &Ask, corr: u32, handle: u32) {
        let mut out = Vec::new();
        request.encode(corr, handle, &mut out);
        self.stream.write_all_vectored(&[&out]).await.unwrap();
    }

    async fn hello(&self, shard: u32) {
        self.stream.write_all_vectored(&[&PREFACE]).await.unwrap();
        let client_id = "test".to_owned();
        let frame_bytes_max = 1 << 20;
        let hello = Hello { version_min: 1, version_max: 9, shard, features: 0, frame_bytes_max, client_id };
        self.send(&Ask::Hello(hello), 0, 0).await;
    }

    /// Says hello to any shard and takes the answer.
    async fn greet(&mut self) -> HelloReply {
        self.hello(ANY_SHARD).await;
        match self.reply().await {
            Some((_, Reply::Hello(hello))) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// The next reply; `None` once the broker closed the connection.
    async fn reply(&mut self) -> Option<(Header, Reply)> {
        loop {
            if let Some((header, body)) = self.frames.next().unwrap() {
                return Some((header, Reply::decode(header.op().unwrap(), &body).unwrap()));
            }
            let count = self.stream.read(self.frames.space()).await.unwrap_or(0);
            if count == 0 {
                return None;
            }
            self.frames.filled(count);
        }
    }

    async fn error(&mut self) -> (u32, ErrorCode) {
        match self.reply().await {
            Some((header, Reply::Error(failure))) => (header.corr, failure.code),
            other => panic!("{other:?}"),
        }
    }

    async fn open(&mut self, corr: u32) -> u32 {
        self.send(&Ask::Open { topic: TopicRef::Id(TopicId::new(9)), partition: 0 }, corr, 0).await;
        match self.reply().await {
            Some((_, Reply::Open(opened))) => opened.handle,
            other => panic!("{other:?}"),
        }
    }

    async fn produce(&self, corr: u32, handle: u32, acks: Acks) {
        let batch = Bytes::from(vec![corr as u8; 100]);
        self.send(&Ask::Produce(Produce { acks, batch }), corr, handle).await;
    }
}

/// Runs a test against one served connection.
fn with_connection<F, Fut>(work: F)
where
    F: FnOnce(Rt, Rc<Shard>, Client) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let main = |rt: Rt| async move {
        let listener = rt.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let stream = rt.connect(listener.local()).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        let shard = Rc::new(Shard::default());
        rt.spawn(serve(rt.clone(), shard.clone(), accepted, Vec::new()));
        let client = Client { stream, frames: FrameReader::new(1 << 20) };
        work(rt.clone(), shard, client).await;
    };
    World::real().executor("net", None, main).unwrap().join_blocking();
}

/// Lets the other tasks work until `done`.
async fn until(rt: &Rt, done: impl Fn() -> bool) {
    until_within(rt, Duration::from_secs(5), done).await;
}

async fn until_within(rt: &Rt, limit: Duration, done: impl Fn() -> bool) {
    let began = rt.now();
    while !done() {
        assert!(rt.now() - began < limit, "it did not happen");
        rt.sleep(Duration::from_millis(1)).await;
    }
}

fn produced(base_offset: i64) -> Result<ApiReply, crate::model::Failure> {
    Ok(ApiReply::Produced(api::Produced { base_offset, log_append_time_ms: -1, log_start: 0 }))
}

#[test]
fn a_session_from_hello_to_close() {
    with_connection(|rt, shard, mut client| async move {
        let hello = client.greet().await;
        assert_eq!((hello.version, hello.shard, hello.shards, hello.broker_epoch), (1, 0, 2, 5));
        client.send(&Ask::Ping, 1, 0).await;
        assert!(matches!(client.reply().await, Some((Header { corr: 1, .. }, Reply::Ping))));
        let create = Ask::CreateTopic { name: "t".into(), partitions: None, configs: Vec::new() };
        client.send(&create, 2, 0).await;
        assert!(matches!(client.reply().await, Some((_, Reply::CreateTopic { partitions: 1, .. }))));
        let first = client.open(3).await;
        let second = client.open(4).await;
        assert_ne!(second, first);
        let handles = [first, second].map(|handle| FetchHandle { handle, bytes_max: 1, offset: 0 }).to_vec();
        let twice = Fetch { wait_ms_max: 1, bytes_min: 1, bytes_max: 1, handles };
        client.send(&Ask::Fetch(twice), 8, 0).await;
        assert_eq!(client.error().await, (8, ErrorCode::InvalidRequest), "one partition under two names");
        client.send(&Ask::Open { topic: TopicRef::Name("t".into()), partition: 0 }, 5, 0).await;
        assert_eq!(client.error().await, (5, ErrorCode::PolicyViolation));
        client.send(&Ask::Close, 6, first).await;
        assert!(matches!(client.reply().await, Some((_, Reply::Close))));
        client.produce(7, first, Acks::All).await;
        assert_eq!(client.error().await, (7, ErrorCode::InvalidRequest));
        drop(client);
        until(&rt, || *shard.closed.borrow() == [Closed::Peer]).await;
    });
}

#[test]
fn produce_replies_keep_their_order_and_acks_0_is_silent() {
    with_connection(|rt, shard, mut client| async move {
        client.greet().await;
        let handle = client.open(1).await;
        client.produce(10, handle, Acks::All).await;
        client.produce(11, handle, Acks::None).await;
        client.produce(12, handle, Acks::Leader).await;
        until(&rt, || shard.held.borrow().len() == 3).await;
        let mut held = shard.held.take();
        let Request::Produce(first) = &held[0].0 else { panic!() };
        assert_eq!((&first.batch[..], first.acks), (&[10; 100][..], api::Acks::All));
        held.pop_back().unwrap().1(produced(2));
        held.pop_back().unwrap().1(produced(1));
        client.send(&Ask::Ping, 13, 0).await;
        assert_eq!(client.reply().await.unwrap().0.corr, 13, "the later batch waits for the first one");
        held.pop_back().unwrap().1(produced(0));
        assert_eq!(client.reply().await.unwrap().0.corr, 10);
        assert_eq!(client.reply().await.unwrap().0.corr, 12);
    });
}

#[test]
fn fetch_sends_chunks_as_they_lie() {
    with_connection(|rt, shard, mut client| async move {
        client.greet().await;
        let handle = client.open(1).await;
        let handles = vec![FetchHandle { handle, bytes_max: u32::MAX, offset: 5 }];
        let fetch = Fetch { wait_ms_max: 1, bytes_min: 1, bytes_max: u32::MAX, handles };
        client.send(&Ask::Fetch(fetch), 2, 0).await;
        until(&rt, || !shard.held.borrow().is_empty()).await;
        let (request, done) = shard.held.borrow_mut().pop_front().unwrap();
        let Request::Fetch(fetch) = request else { panic!() };
        assert!(fetch.bytes_max < 1 << 20, "the answer must fit the client's frames");
        let bytes: Vec<u8> = (0..600_000u32).map(|n| n as u8).collect();
        let owner: Rc<dyn AsRef<[u8]>> = Rc::new(bytes.clone());
        let chunks = vec![Chunk::new(owner.clone(), 0..300_001), Chunk::new(owner, 300_001..600_000)];
        done(Ok(ApiReply::Fetched(vec![api::FetchedPartition {
            partition: PARTITION,
            error: None,
            next_offset: -1,
            high_watermark: 7,
            log_start: 0,
            chunks,
        }])));
        let Some((_, Reply::Fetch(fetched))) = client.reply().await else { panic!() };
        assert_eq!(fetched.handles[0].high_watermark, 7);
        assert_eq!(&fetched.records[..], &bytes[..]);
    });
}

#[test]
fn a_client_of_another_shard_is_handed_over_with_its_hello() {
    with_connection(|rt, shard, client| async move {
        client.hello(1).await;
        until(&rt, || shard.handed.borrow().len() == 1).await;
        let (wanted, handover) = shard.handed.borrow_mut().pop().unwrap();
        assert_eq!(wanted, 1);
        assert!(handover.preface.starts_with(&PREFACE));
        until(&rt, || *shard.closed.borrow() == [Closed::HandedOver]).await;
        assert!(rt.adopt(handover).is_ok());
    });
}

#[test]
fn bounds_hold_back_and_too_large_frames_are_dropped() {
    with_connection(|rt, shard, mut client| async move {
        client.greet().await;
        let handle = client.open(1).await;
        let prefix = encode_produce_prefix(2, handle, Acks::All, 300_000);
        client.stream.write_all_vectored(&[&prefix, &vec![0; 300_000]]).await.unwrap();
        assert_eq!(client.error().await, (2, ErrorCode::MessageTooLarge));
        for corr in 10..16 {
            client.produce(corr, handle, Acks::All).await;
        }
        until(&rt, || shard.held.borrow().len() == 4).await;
        rt.sleep(Duration::from_millis(20)).await;
        assert_eq!(shard.held.borrow().len(), 4, "no more than requests_max are read");
        shard.full.set(true);
        let (_, done) = shard.held.borrow_mut().pop_front().unwrap();
        done(produced(0));
        assert_eq!(client.reply().await.unwrap().0.corr, 10);
        rt.sleep(Duration::from_millis(20)).await;
        assert_eq!(shard.held.borrow().len(), 3, "produce is parked while staging is full");
        shard.full.set(false);
        shard.room.notify();
        until(&rt, || shard.held.borrow().len() == 4).await;
    });
}

#[test]
fn garbage_is_counted_and_closed() {
    with_connection(|rt, shard, mut client| async move {
        client.stream.write_all_vectored(&[b"GET / HTTP/1.1\r\n\r\n"]).await.unwrap();
        assert!(client.reply().await.is_none());
        until(&rt, || *shard.closed.borrow() == [Closed::Garbage]).await;
    });
    with_connection(|rt, shard, mut client| async move {
        client.greet().await;
        client.stream.write_all_vectored(&[&Header { op: 200, ..ping(1) }.encode()]).await.unwrap();
        assert_eq!(client.error().await, (1, ErrorCode::UnsupportedVersion));
        client.stream.write_all_vectored(&[&ping(2).encode(), &[0; 16]]).await.unwrap();
        assert!(matches!(client.reply().await, Some((_, Reply::Ping))));
        assert!(client.reply().await.is_none(), "a length that does not cover the header");
        until(&rt, || *shard.closed.borrow() == [Closed::Garbage]).await;
    });
}

fn ping(corr: u32) -> Header {
    Header::request(crate::wire::Op::Ping, corr, 0)
}

#[test]
fn pipelined_fetches_share_the_reply_budget() {
    with_connection(|rt, shard, mut client| async move {
        client.greet().await;
        let handle = client.open(1).await;
        for corr in 2..5 {
            let handles = vec![FetchHandle { handle, bytes_max: u32::MAX, offset: 0 }];
            let fetch = Fetch { wait_ms_max: u32::MAX, bytes_min: 1, bytes_max: 700_000, handles };
            client.send(&Ask::Fetch(fetch), corr, 0).await;
        }
        until(&rt, || shard.held.borrow().len() == 3).await;
        let bounds: Vec<u32> = shard
            .held
            .borrow()
            .iter()
            .map(|(request, _)| match request {
                Request::Fetch(fetch) => {
                    assert!(fetch.wait_ms_max <= 60_000);
                    fetch.bytes_max
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(bounds, [700_000, (1 << 20) - 700_000, 64 << 10]);
        for (_, done) in shard.held.take() {
            done(Ok(ApiReply::Fetched(Vec::new())));
        }
        for corr in 2..5 {
            assert_eq!(client.reply().await.unwrap().0.corr, corr);
        }
    });
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off() {
    with_connection(|rt, shard, mut client| async move {
        client.greet().await;
        let handle = client.open(1).await;
        let bytes: Rc<dyn AsRef<[u8]>> = Rc::new(vec![1u8; 700_000]);
        // More than the kernel's buffers of both ends take, from a client that reads none of it.
        for corr in 0..40 {
            let handles = vec![FetchHandle { handle, bytes_max: u32::MAX, offset: 0 }];
            let fetch = Fetch { wait_ms_max: 1, bytes_min: 1, bytes_max: u32::MAX, handles };
            client.send(&Ask::Fetch(fetch), corr, 0).await;
            rt.sleep(Duration::from_millis(2)).await;
            for (_, done) in shard.held.take() {
                done(Ok(ApiReply::Fetched(vec![api::FetchedPartition {
                    partition: PARTITION,
                    error: None,
                    next_offset: -1,
                    high_watermark: 7,
                    log_start: 0,
                    chunks: vec![Chunk::new(bytes.clone(), 0..700_000)],
                }])));
            }
        }
        assert!(shard.closed.borrow().is_empty());
        until_within(&rt, STALL + 2 * WATCH, || *shard.closed.borrow() == [Closed::Stalled]).await;
        assert_eq!(Rc::strong_count(&bytes), 1, "what was waiting is let go");
    });
}

#[test]
fn large_frames_share_a_budget_and_must_come_on() {
    with_connection(|rt, shard, mut client| async move {
        client.greet().await;
        let handle = client.open(1).await;
        let large = |corr| {
            let mut out = Vec::new();
            let batch = Bytes::from(vec![7; 190_000]);
            Ask::Produce(Produce { acks: Acks::All, batch }).encode(corr, handle, &mut out);
            out
        };
        let others = shard.incoming.lease(200_000);
        client.stream.write_all_vectored(&[&large(2)]).await.unwrap();
        rt.sleep(Duration::from_millis(50)).await;
        assert!(shard.held.borrow().is_empty(), "its memory is not there yet");
        drop(others);
        until(&rt, || shard.held.borrow().len() == 1).await;
        until(&rt, || shard.incoming.left() == 300_000).await;
        // One that stops in the middle does not keep the memory.
        client.stream.write_all_vectored(&[&large(3)[..100_000]]).await.unwrap();
        until(&rt, || shard.incoming.left() < 300_000).await;
        until(&rt, || *shard.closed.borrow() == [Closed::Stalled]).await;
        until(&rt, || shard.incoming.left() == 300_000).await;
    });
}
