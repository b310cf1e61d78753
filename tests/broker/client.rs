//! A small blocking client of the native protocol, independent of the library's: one request at a
//! time, no retries unless asked for. It sees what the broker really answers.
//!
//! Owner: a test thread.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ringlog::model::{ErrorCode, Failure, Offset};
use ringlog::record::{BatchBuilder, Compression, ProducerStamp, Records, batches, payload};
use ringlog::wire::*;

const PATIENCE: Duration = Duration::from_secs(120);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum Trouble {
    Io(io::Error),
    Refused(Failure),
}

impl Trouble {
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Trouble::Refused(failure) => Some(failure.code),
            Trouble::Io(_) => None,
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Io(error) => write!(f, "connection: {error}"),
            Trouble::Refused(failure) => write!(f, "{failure}"),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

/// One connection, owned by one shard.
struct Link {
    stream: TcpStream,
    frames: FrameReader,
    corr: u32,
}

impl Link {
    fn connect(address: &str, shard: u32, answer_within: Duration) -> Result<Link, Trouble> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(answer_within))?;
        let mut link = Link { stream, frames: FrameReader::new(FRAME_BYTES_MAX), corr: 0 };
        link.stream.write_all(&PREFACE)?;
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            shard,
            features: 0,
            frame_bytes_max: FRAME_BYTES_MAX,
            client_id: "test".into(),
        };
        link.call(0, &Request::Hello(hello))?;
        Ok(link)
    }

    fn call(&mut self, handle: u32, request: &Request) -> Result<Reply, Trouble> {
        self.corr += 1;
        let mut out = Vec::new();
        request.encode(self.corr, handle, &mut out);
        self.stream.write_all(&out)?;
        loop {
            if let Some((header, body)) = self.frames.next().map_err(io::Error::other)? {
                assert!(header.is_reply() && header.corr == self.corr, "{header:?}");
                let op = header.op().expect("an operation of this version");
                return match Reply::decode(op, &body).map_err(io::Error::other)? {
                    Reply::Error(failure) => Err(Trouble::Refused(failure)),
                    reply => Ok(reply),
                };
            }
            let count = self.stream.read(self.frames.space())?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.frames.filled(count);
        }
    }
}

/// One record, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read1 {
    pub offset: Offset,
    pub value: String,
}

pub struct Client {
    address: String,
    answer_within: Duration,
    links: BTreeMap<u32, Link>,
    /// Topic and partition: the owning shard and the handle on its link.
    handles: BTreeMap<(String, u32), (u32, u32)>,
    /// The owning shard of each partition of a topic.
    shards: BTreeMap<String, Vec<u32>>,
}

impl Client {
    pub fn new(address: &str) -> Client {
        Client {
            address: address.into(),
            answer_within: ANSWER_WITHIN,
            links: BTreeMap::new(),
            handles: BTreeMap::new(),
            shards: BTreeMap::new(),
        }
    }

    /// Drops connections and handles, as after a failure.
    pub fn forget(&mut self) {
        self.links.clear();
        self.handles.clear();
        self.shards.clear();
    }

    /// Repeats `work` over new connections until it succeeds or is refused for good.
    pub fn until<T>(&mut self, mut work: impl FnMut(&mut Client) -> Result<T, Trouble>) -> T {
        let since = Instant::now();
        loop {
            match work(self) {
                Ok(done) => return done,
                Err(Trouble::Refused(failure)) if !failure.code.retriable() => panic!("{failure}"),
                Err(trouble) => assert!(since.elapsed() < PATIENCE, "for {PATIENCE:?}: {trouble}"),
            }
            self.forget();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn call(&mut self, shard: u32, handle: u32, request: &Request) -> Result<Reply, Trouble> {
        if !self.links.contains_key(&shard) {
            self.links.insert(shard, Link::connect(&self.address, shard, self.answer_within)?);
        }
        let outcome = self.links.get_mut(&shard).expect("inserted").call(handle, request);
        if matches!(outcome, Err(Trouble::Io(_))) {
            self.forget();
        }
        outcome
    }

    /// Whether a broker answers there at once.
    pub fn ping(&mut self) -> Result<(), Trouble> {
        self.answer_within = Duration::from_millis(500);
        self.call(ANY_SHARD, 0, &Request::Ping).map(drop)
    }

    pub fn create(&mut self, topic: &str, partitions: u32) -> Result<(), Trouble> {
        let request =
            Request::CreateTopic { name: topic.into(), partitions: Some(partitions), configs: Vec::new() };
        self.call(ANY_SHARD, 0, &request).map(drop)
    }

    pub fn delete(&mut self, topic: &str) -> Result<(), Trouble> {
        let request = Request::DeleteTopic { topic: TopicRef::Name(topic.into()) };
        self.handles.retain(|(name, _), _| name != topic);
        self.shards.remove(topic);
        self.call(ANY_SHARD, 0, &request).map(drop)
    }

    fn shards(&mut self, topic: &str) -> Result<&[u32], Trouble> {
        if !self.shards.contains_key(topic) {
            let query = MetadataQuery { topics: Some(vec![TopicRef::Name(topic.into())]), configs: false };
            let Reply::Metadata(metadata) = self.call(ANY_SHARD, 0, &Request::Metadata(query))? else {
                panic!()
            };
            let found = metadata.topics.into_iter().next().expect("the topic that was asked for");
            if let Some(failure) = found.error {
                return Err(Trouble::Refused(failure));
            }
            self.shards.insert(topic.into(), found.shards);
        }
        Ok(&self.shards[topic])
    }

    /// (shard, handle) of a partition; opened once on the link of its shard.
    pub fn open(&mut self, topic: &str, partition: u32) -> Result<(u32, u32), Trouble> {
        let key = (topic.to_owned(), partition);
        if let Some(place) = self.handles.get(&key) {
            return Ok(*place);
        }
        let shard = self.shards(topic)?[partition as usize];
        let name = TopicRef::Name(topic.into());
        let Reply::Open(opened) = self.call(shard, 0, &Request::Open { topic: name, partition })? else {
            panic!()
        };
        self.handles.insert(key, (shard, opened.handle));
        Ok((shard, opened.handle))
    }

    pub fn produce(&mut self, topic: &str, partition: u32, batch: &[u8]) -> Result<Offset, Trouble> {
        let (shard, handle) = self.open(topic, partition)?;
        self.produce_at(shard, handle, batch)
    }

    pub fn produce_at(&mut self, shard: u32, handle: u32, batch: &[u8]) -> Result<Offset, Trouble> {
        let produce = Produce { acks: Acks::All, batch: Bytes::copy_from_slice(batch) };
        match self.call(shard, handle, &Request::Produce(produce))? {
            Reply::Produce(produced) => Ok(produced.base_offset),
            reply => panic!("{reply:?}"),
        }
    }

    pub fn offset(&mut self, topic: &str, partition: u32, at: At) -> Result<Offset, Trouble> {
        let (shard, handle) = self.open(topic, partition)?;
        match self.call(shard, handle, &Request::ListOffsets { at })? {
            Reply::ListOffsets { offset, .. } => Ok(offset),
            reply => panic!("{reply:?}"),
        }
    }

    pub fn producer_id(&mut self) -> Result<i64, Trouble> {
        match self.call(ANY_SHARD, 0, &Request::InitProducerId)? {
            Reply::InitProducerId { id, .. } => Ok(id),
            reply => panic!("{reply:?}"),
        }
    }

    /// Records from `offset` on, of whole batches that were checked; or why there are none, and the
    /// next offset that can be read (-1: none is known).
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: u32,
        offset: Offset,
    ) -> Result<Result<Vec<Read1>, (Failure, Offset)>, Trouble> {
        let (shard, handle) = self.open(topic, partition)?;
        let fetch = Fetch {
            wait_ms_max: 0,
            bytes_min: 1,
            bytes_max: 1 << 20,
            handles: vec![FetchHandle { handle, bytes_max: 1 << 20, offset }],
        };
        let Reply::Fetch(fetched) = self.call(shard, 0, &Request::Fetch(fetch))? else { panic!() };
        let (entry, bytes) = fetched.split().next().expect("one entry");
        if let Some(failure) = entry.error {
            return Ok(Err((failure, entry.next_offset)));
        }
        Ok(Ok(read(&bytes, offset)))
    }

    /// All records from the log's start to its end; a refusal is a failure.
    pub fn read_all(&mut self, topic: &str, partition: u32) -> Result<Vec<Read1>, Trouble> {
        let mut next = self.offset(topic, partition, At::Earliest)?;
        let end = self.offset(topic, partition, At::Latest)?;
        let mut out = Vec::new();
        while next < end {
            match self.fetch(topic, partition, next)? {
                Ok(records) => {
                    next = records.last().map_or(next, |record| record.offset + 1);
                    out.extend(records);
                }
                Err((failure, _)) => return Err(Trouble::Refused(failure)),
            }
        }
        Ok(out)
    }
}

fn read(bytes: &[u8], from: Offset) -> Vec<Read1> {
    let mut out = Vec::new();
    for view in batches(bytes) {
        let view = view.expect("whole batches are served");
        assert!(view.crc_holds(), "a batch with a bad checksum was served");
        let payload = payload(&view, 64 << 20).expect("a payload of ours");
        for record in Records::new(&view, &payload) {
            let record = record.expect("a record of ours");
            if record.offset >= from {
                let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap();
                out.push(Read1 { offset: record.offset, value });
            }
        }
    }
    out
}

/// A batch of these values, of now: what is older than a week expires.
pub fn batch(values: &[String], producer: Option<ProducerStamp>, compression: Compression) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut builder = BatchBuilder::new(1024);
    for value in values {
        builder.append(now, None, Some(value.as_bytes()), &[]);
    }
    builder.build(compression, producer)
}

/// An idempotent producer that owns a partition from its creation: its record number n must get
/// offset n, whatever happens to the broker.
pub struct Writer {
    pub client: Client,
    pub topic: String,
    pub partition: u32,
    producer_id: i64,
    /// Acknowledged records; also the next sequence.
    pub acknowledged: i64,
}

impl Writer {
    pub fn new(address: &str, topic: &str, partition: u32) -> Writer {
        let mut client = Client::new(address);
        let producer_id = client.until(|client| client.producer_id());
        Writer { client, topic: topic.into(), partition, producer_id, acknowledged: 0 }
    }

    pub fn value(number: i64) -> String {
        format!("{number} {}", "v".repeat((number * 7919 % 800) as usize))
    }

    pub fn next_batch(&self, count: i64) -> Vec<u8> {
        let values: Vec<String> = (self.acknowledged..self.acknowledged + count).map(Self::value).collect();
        let base_sequence = self.acknowledged as i32;
        let stamp = ProducerStamp { id: self.producer_id, epoch: 0, base_sequence };
        let codecs = [Compression::None, Compression::Lz4, Compression::Zstd];
        batch(&values, Some(stamp), codecs[count as usize % 3])
    }

    /// Sends until acknowledged.
    pub fn write(&mut self, count: i64) {
        let batch = self.next_batch(count);
        let offset = self.client.until(|client| client.produce(&self.topic, self.partition, &batch));
        assert_eq!(offset, self.acknowledged, "{}/{}", self.topic, self.partition);
        self.acknowledged += count;
    }

    /// Everything acknowledged is there, in order, once, and nothing else.
    pub fn check(&mut self) {
        let found = self.client.until(|client| client.read_all(&self.topic, self.partition));
        for (number, record) in found.iter().enumerate() {
            let wanted = Read1 { offset: number as i64, value: Self::value(number as i64) };
            assert_eq!(*record, wanted, "{}/{}", self.topic, self.partition);
        }
        assert_eq!(found.len() as i64, self.acknowledged, "{}/{}", self.topic, self.partition);
    }
}
