//! A broker in memory, for the client's tests: the rules of the protocol and nothing else.
//!
//! Floor 5, tests only. It checks what a client must never do: send an unknown handle without
//! having been told, break the order of a connection, or talk before the hello was answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::model::{ErrorCode, Failure, Offset, PartitionId, ProducerId, TopicId};
use crate::record::{self, BatchView, Records};
use crate::wire::*;

#[derive(Default)]
pub struct FakeBroker {
    pub shards: u32,
    pub epoch: u64,
    pub topics: BTreeMap<String, FakeTopic>,
    topic_next: u128,
    producer_next: ProducerId,
    /// Answers to the next produces, before they are looked at.
    pub refusals: VecDeque<Option<Failure>>,
    pub produced: u64,
    /// Partitions of each fetch.
    pub fetched: Vec<usize>,
    /// Questions for timestamps are never answered: they hang in a disk.
    pub hangs_timestamps: bool,
    pub requests_max: u32,
}

#[derive(Clone)]
pub struct FakeTopic {
    pub id: TopicId,
    pub partitions: Vec<FakePartition>,
    pub configs: Vec<(String, String)>,
}

#[derive(Clone, Default)]
pub struct FakePartition {
    pub batches: Vec<Bytes>,
    pub end: Offset,
    pub log_start: Offset,
    /// Batches from this offset up to the second are damaged.
    pub damaged: Option<(Offset, Offset)>,
    /// The damage was accepted as a loss.
    pub is_accepted: bool,
    producers: BTreeMap<ProducerId, Window>,
}

#[derive(Clone, Default)]
struct Window {
    epoch: i16,
    /// First sequence, last sequence, base offset.
    last: VecDeque<(i32, i32, Offset)>,
}

/// The broker's side of a connection.
#[derive(Default)]
pub struct Session {
    pub shard: Option<u32>,
    handles: BTreeMap<u32, PartitionId>,
    handle_next: u32,
}

pub enum Answer {
    Now(Vec<u8>),
    /// Nothing to fetch yet: ask again later, at the latest after so many ms.
    Park(u32),
    None,
}

impl FakeBroker {
    pub fn new(shards: u32) -> FakeBroker {
        FakeBroker {
            shards,
            epoch: 1,
            topic_next: 1,
            producer_next: 100,
            requests_max: 1000,
            ..Default::default()
        }
    }

    pub fn create(&mut self, name: &str, partitions: u32) {
        let id = TopicId::new(self.topic_next);
        self.topic_next += 1;
        let partitions = (0..partitions).map(|_| FakePartition::default()).collect();
        self.topics.insert(name.into(), FakeTopic { id, partitions, configs: vec![] });
    }

    /// Values of all records of a partition, checking that offsets are dense.
    pub fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        let partition = &self.topics[topic].partitions[partition];
        let mut values = Vec::new();
        let mut offset = 0;
        for batch in &partition.batches {
            let view = BatchView::new(batch).expect("stored batches were checked");
            assert!(view.crc_holds());
            let payload = record::payload(&view, 1 << 30).expect("stored batches decompress");
            for record in Records::new(&view, &payload) {
                let record = record.expect("stored batches are well formed");
                assert_eq!(record.offset, offset);
                offset += 1;
                values.push(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
            }
        }
        values
    }

    fn owner(&self, partition: u32) -> u32 {
        partition % self.shards
    }

    fn find(&mut self, id: PartitionId) -> Result<&mut FakePartition, Failure> {
        let unknown = || Failure::new(ErrorCode::UnknownTopicId, "no such topic id");
        let topic = self.topics.values_mut().find(|topic| topic.id == id.topic).ok_or_else(unknown)?;
        topic.partitions.get_mut(id.partition as usize).ok_or_else(unknown)
    }

    pub fn handle(&mut self, session: &mut Session, header: &Header, body: &Bytes, is_late: bool) -> Answer {
        let op = header.op().expect("our client sends known ops");
        let request = Request::decode(op, body).expect("our client sends well-formed requests");
        assert_eq!(session.shard.is_none(), op == Op::Hello, "the hello comes first, and once");
        let silent = matches!(&request, Request::Produce(produce) if produce.acks == Acks::None);
        if self.hangs_timestamps && matches!(&request, Request::ListOffsets { at: At::Timestamp(_) }) {
            return Answer::None;
        }
        if let Request::Fetch(fetch) = &request {
            self.fetched.push(fetch.handles.len());
            return match self.fetch(session, fetch, is_late) {
                Some(fetched) => answer(header, Reply::Fetch(fetched)),
                None => Answer::Park(fetch.wait_ms_max),
            };
        }
        match self.answer(session, header.handle, request) {
            Ok(_) if silent => Answer::None,
            Ok(reply) => answer(header, reply),
            Err(failure) => answer(header, Reply::Error(failure)),
        }
    }

    fn answer(&mut self, session: &mut Session, handle: u32, request: Request) -> Result<Reply, Failure> {
        let bound = |session: &Session| session.handles.get(&handle).copied().expect("an open handle");
        Ok(match request {
            Request::Hello(hello) => Reply::Hello(self.hello(session, &hello)?),
            Request::Ping => Reply::Ping,
            Request::Metadata(query) => Reply::Metadata(self.metadata(&query)),
            Request::Open { topic, partition } => Reply::Open(self.open(session, &topic, partition)?),
            Request::Close => {
                session.handles.remove(&handle);
                Reply::Close
            }
            Request::Produce(produce) => Reply::Produce(self.produce(bound(session), &produce.batch)?),
            Request::ListOffsets { at } => self.list(bound(session), at)?,
            Request::DeleteRecords { before } => {
                let partition = self.find(bound(session))?;
                partition.log_start = if before < 0 { partition.end } else { before };
                Reply::DeleteRecords { log_start: partition.log_start }
            }
            Request::CreateTopic { name, partitions, configs } => {
                if self.topics.contains_key(&name) {
                    return Err(Failure::new(ErrorCode::TopicAlreadyExists, "it exists"));
                }
                let partitions = partitions.unwrap_or(1);
                self.create(&name, partitions);
                let topic = self.topics.get_mut(&name).expect("just created");
                topic.configs = configs;
                Reply::CreateTopic { id: topic.id, partitions }
            }
            Request::DeleteTopic { topic } => {
                let TopicRef::Name(name) = topic else { panic!("our client deletes by name") };
                let unknown = || Failure::new(ErrorCode::UnknownTopicOrPartition, "no such topic");
                Reply::DeleteTopic { id: self.topics.remove(&name).ok_or_else(unknown)?.id }
            }
            Request::AlterTopic { topic, partitions, .. } => {
                let TopicRef::Name(name) = topic else { panic!("our client alters by name") };
                let topic = self.topics.get_mut(&name).expect("the test created it");
                let count = partitions.map_or(topic.partitions.len(), |count| count as usize);
                topic.partitions.resize(count, FakePartition::default());
                Reply::AlterTopic { id: topic.id, partitions: count as u32 }
            }
            Request::InitProducerId => {
                self.producer_next += 1;
                Reply::InitProducerId { id: self.producer_next, epoch: 0 }
            }
            Request::Fetch(_) => unreachable!("fetches are answered before"),
        })
    }

    fn hello(&mut self, session: &mut Session, hello: &Hello) -> Result<HelloReply, Failure> {
        let unsupported = || Failure::new(ErrorCode::UnsupportedVersion, "speak version 1");
        let version = hello.version().ok_or_else(unsupported)?;
        let shard = if hello.shard < self.shards { hello.shard } else { 0 };
        session.shard = Some(shard);
        Ok(HelloReply {
            version,
            shard,
            shards: self.shards,
            frame_bytes_max: FRAME_BYTES_MAX,
            features: 0,
            broker_epoch: self.epoch,
            handles_max: 10_000,
            requests_max: self.requests_max,
        })
    }

    fn metadata(&self, query: &MetadataQuery) -> Metadata {
        let names: Vec<_> = match &query.topics {
            None => self.topics.keys().cloned().collect(),
            Some(refs) => refs
                .iter()
                .map(|topic| match topic {
                    TopicRef::Name(name) => name.clone(),
                    TopicRef::Id(id) => panic!("our client asks by name, not for {id}"),
                })
                .collect(),
        };
        let topics = names.into_iter().map(|name| match self.topics.get(&name) {
            Some(topic) => TopicMetadata {
                id: topic.id,
                error: None,
                name,
                shards: (0..topic.partitions.len() as u32).map(|partition| self.owner(partition)).collect(),
                configs: topic
                    .configs
                    .iter()
                    .map(|(key, value)| ConfigEntry { key: key.clone(), value: value.clone(), is_set: true })
                    .collect(),
            },
            None => TopicMetadata {
                id: TopicId::new(0),
                error: Some(Failure::new(ErrorCode::UnknownTopicOrPartition, "no such topic")),
                name,
                shards: vec![],
                configs: vec![],
            },
        });
        Metadata { broker_epoch: self.epoch, shards: self.shards, topics: topics.collect() }
    }

    fn open(&mut self, session: &mut Session, topic: &TopicRef, partition: u32) -> Result<Opened, Failure> {
        let TopicRef::Id(topic) = *topic else { panic!("our client opens by id") };
        let id = PartitionId { topic, partition };
        let owner = self.owner(partition);
        let found = self.find(id)?;
        if session.shard != Some(owner) {
            return Err(Failure::new(ErrorCode::NotLeaderOrFollower, "another shard owns it"));
        }
        let (log_start, high_watermark) = (found.log_start, found.end);
        session.handle_next += 1;
        session.handles.insert(session.handle_next, id);
        Ok(Opened {
            handle: session.handle_next,
            leader_epoch: 0,
            partition: id,
            batch_bytes_max: 1 << 20,
            log_start,
            high_watermark,
        })
    }

    fn produce(&mut self, id: PartitionId, batch: &Bytes) -> Result<Produced, Failure> {
        if let Some(Some(failure)) = self.refusals.pop_front() {
            return Err(failure);
        }
        self.produced += 1;
        let partition = self.find(id)?;
        let view = BatchView::new(batch).expect("our client sends whole batches");
        assert!(view.crc_holds() && view.base_offset() == 0);
        let base_offset = match view.producer() {
            None => partition.append(batch),
            Some(stamp) => {
                let last = stamp.last_sequence(view.last_offset_delta());
                let sequences = (stamp.base_sequence, last);
                match partition.judge(stamp.id, stamp.epoch, sequences)? {
                    Some(base_offset) => base_offset,
                    None => {
                        let base = partition.append(batch);
                        let window = partition.producers.entry(stamp.id).or_default();
                        if window.epoch != stamp.epoch {
                            *window = Window { epoch: stamp.epoch, last: VecDeque::new() };
                        }
                        window.last.push_back((sequences.0, sequences.1, base));
                        if window.last.len() > 5 {
                            window.last.pop_front();
                        }
                        base
                    }
                }
            }
        };
        Ok(Produced { base_offset, log_append_time_ms: -1, log_start: partition.log_start })
    }

    fn list(&mut self, id: PartitionId, at: At) -> Result<Reply, Failure> {
        let partition = self.find(id)?;
        let offset = match at {
            At::Earliest => partition.log_start,
            At::Latest | At::MaxTimestamp => partition.end,
            At::Timestamp(ms) => {
                let views = partition.batches.iter().map(|batch| BatchView::new(batch).expect("checked"));
                views
                    .filter(|view| view.max_timestamp() >= ms)
                    .map(|view| view.base_offset())
                    .next()
                    .unwrap_or(-1)
            }
        };
        Ok(Reply::ListOffsets { offset, timestamp_ms: -1 })
    }

    /// `None`: nothing new, and there is still time to wait.
    fn fetch(&mut self, session: &Session, fetch: &Fetch, is_late: bool) -> Option<Fetched> {
        let mut handles = Vec::new();
        let mut records = Vec::new();
        let mut is_news = false;
        for wanted in &fetch.handles {
            let id = session.handles.get(&wanted.handle).copied().expect("an open handle");
            let mut entry = FetchedHandle {
                handle: wanted.handle,
                records_bytes: 0,
                high_watermark: -1,
                log_start: -1,
                next_offset: -1,
                error: None,
            };
            let before = records.len();
            match self.find(id) {
                Err(failure) => entry.error = Some(failure),
                Ok(partition) => {
                    (entry.high_watermark, entry.log_start) = (partition.end, partition.log_start);
                    partition.read(wanted, fetch.bytes_max as usize, &mut records, &mut entry);
                }
            }
            entry.records_bytes = (records.len() - before) as u32;
            is_news |= entry.error.is_some() || entry.next_offset >= 0 || entry.records_bytes > 0;
            handles.push(entry);
        }
        (is_news || is_late).then(|| Fetched { handles, records: records.into() })
    }
}

impl FakePartition {
    pub fn append(&mut self, batch: &Bytes) -> Offset {
        let base = self.end;
        let mut bytes = batch.to_vec();
        record::stamp(&mut bytes, base, 0);
        self.end += BatchView::new(&bytes).map(|view| i64::from(view.record_count())).expect("checked");
        self.batches.push(bytes.into());
        base
    }

    /// The offset of a duplicate, `None` for the next batch, or a refusal.
    fn judge(&self, id: ProducerId, epoch: i16, sequences: (i32, i32)) -> Result<Option<Offset>, Failure> {
        let Some(window) = self.producers.get(&id) else { return Ok(None) };
        if epoch < window.epoch {
            return Err(Failure::new(ErrorCode::InvalidProducerEpoch, "an old epoch"));
        }
        if epoch > window.epoch {
            return match sequences.0 {
                0 => Ok(None),
                _ => Err(Failure::new(ErrorCode::OutOfOrderSequenceNumber, "a new epoch starts at 0")),
            };
        }
        let same = |(first, last, _): &&(i32, i32, Offset)| (*first, *last) == sequences;
        if let Some((_, _, base)) = window.last.iter().find(same) {
            return Ok(Some(*base));
        }
        let next = window.last.back().map_or(0, |(_, last, _)| last.wrapping_add(1) & i32::MAX);
        if sequences.0 == next {
            return Ok(None);
        }
        let text = format!("sequence {} where {next} was expected", sequences.0);
        Err(Failure::new(ErrorCode::OutOfOrderSequenceNumber, text))
    }

    fn read(&self, wanted: &FetchHandle, bytes_max: usize, out: &mut Vec<u8>, entry: &mut FetchedHandle) {
        if wanted.offset < self.log_start || wanted.offset > self.end {
            entry.error = Some(Failure::new(ErrorCode::OffsetOutOfRange, "not in the log"));
            return;
        }
        let start = out.len();
        for batch in &self.batches {
            let view = BatchView::new(batch).expect("checked");
            if view.last_offset() < wanted.offset {
                continue;
            }
            if let Some((from, to)) =
                self.damaged.filter(|(from, to)| (*from..*to).contains(&view.base_offset()))
            {
                if out.len() == start && self.is_accepted {
                    entry.next_offset = to;
                } else if out.len() == start {
                    let failure = Failure::new(ErrorCode::CorruptMessage, format!("damage at {from}"));
                    (entry.error, entry.next_offset) = (Some(failure), to);
                }
                return;
            }
            let own = out.len() - start;
            if own > 0
                && (own + batch.len() > wanted.bytes_max as usize || out.len() + batch.len() > bytes_max)
            {
                return;
            }
            out.extend_from_slice(batch);
        }
    }
}

fn answer(header: &Header, reply: Reply) -> Answer {
    let mut bytes = Vec::new();
    reply.encode(header, &mut bytes);
    Answer::Now(bytes)
}
