//! Every frame there and back, and bytes from somebody who means harm.
//!
//! Floor 3.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{ErrorCode, Failure, PartitionId, TopicId};

fn requests() -> Vec<Request> {
    let by_id = TopicRef::Id(TopicId::new(7 << 100));
    let by_name = TopicRef::Name("orders".into());
    vec![
        Request::Hello(Hello {
            version_min: 1,
            version_max: 9,
            shard: ANY_SHARD,
            features: 5,
            frame_bytes_max: FRAME_BYTES_MAX,
            client_id: "test".into(),
        }),
        Request::Ping,
        Request::Metadata(MetadataQuery { topics: None, configs: true }),
        Request::Metadata(MetadataQuery {
            topics: Some(vec![by_name.clone(), by_id.clone()]),
            configs: false,
        }),
        Request::Open { topic: by_name.clone(), partition: 3 },
        Request::Open { topic: by_id.clone(), partition: 0 },
        Request::Close,
        Request::Produce(Produce { acks: Acks::All, batch: Bytes::from_static(b"batch") }),
        Request::Produce(Produce { acks: Acks::None, batch: Bytes::new() }),
        Request::ListOffsets { at: At::Timestamp(1_700_000_000_000) },
        Request::ListOffsets { at: At::MaxTimestamp },
        Request::ListOffsets { at: At::Earliest },
        Request::ListOffsets { at: At::Latest },
        Request::DeleteRecords { before: -1 },
        Request::Fetch(Fetch {
            wait_ms_max: 500,
            bytes_min: 1,
            bytes_max: 1 << 20,
            handles: vec![
                FetchHandle { handle: 1, bytes_max: 1 << 20, offset: 0 },
                FetchHandle { handle: 9, bytes_max: 7, offset: i64::MAX },
            ],
        }),
        Request::CreateTopic { name: "orders".into(), partitions: None, configs: vec![] },
        Request::CreateTopic {
            name: "orders".into(),
            partitions: Some(32),
            configs: vec![("retention.ms".into(), "1000".into())],
        },
        Request::DeleteTopic { topic: by_id },
        Request::AlterTopic {
            topic: by_name,
            partitions: Some(64),
            configs: vec![("retention.ms".into(), None), ("retention.bytes".into(), Some("5".into()))],
        },
        Request::InitProducerId,
    ]
}

fn replies() -> Vec<Reply> {
    let id = TopicId::new(0xfeed);
    let failure = Failure::new(ErrorCode::ThrottlingQuotaExceeded, "disk full").retry_after(250);
    let topic = TopicMetadata {
        id,
        error: None,
        name: "orders".into(),
        shards: vec![0, 1, 0],
        configs: vec![ConfigEntry { key: "retention.ms".into(), value: "-1".into(), is_set: true }],
    };
    let unknown = TopicMetadata {
        id: TopicId::new(0),
        error: Some(Failure::new(ErrorCode::UnknownTopicOrPartition, "no such topic")),
        name: "payments".into(),
        shards: vec![],
        configs: vec![],
    };
    vec![
        Reply::Hello(HelloReply {
            version: 1,
            shard: 1,
            shards: 2,
            frame_bytes_max: FRAME_BYTES_MAX,
            features: 0,
            broker_epoch: 12,
            handles_max: 100,
            requests_max: 50,
        }),
        Reply::Ping,
        Reply::Metadata(Metadata { broker_epoch: 12, shards: 2, topics: vec![topic, unknown] }),
        Reply::Open(Opened {
            handle: 4,
            leader_epoch: 3,
            partition: PartitionId { topic: id, partition: 2 },
            batch_bytes_max: 1 << 20,
            log_start: 5,
            high_watermark: 77,
        }),
        Reply::Close,
        Reply::Produce(Produced { base_offset: 40, log_append_time_ms: -1, log_start: 2 }),
        Reply::Fetch(Fetched {
            handles: vec![
                fetched(1, 3, None),
                fetched(2, 0, Some(Failure::new(ErrorCode::CorruptMessage, "damaged"))),
                fetched(3, 5, None),
            ],
            records: Bytes::from_static(b"abcdefgh"),
        }),
        Reply::Fetch(Fetched { handles: vec![], records: Bytes::new() }),
        Reply::ListOffsets { offset: -1, timestamp_ms: -1 },
        Reply::DeleteRecords { log_start: 9 },
        Reply::CreateTopic { id, partitions: 3 },
        Reply::DeleteTopic { id },
        Reply::AlterTopic { id, partitions: 4 },
        Reply::InitProducerId { id: 1000, epoch: 0 },
        Reply::Error(failure),
    ]
}

fn fetched(handle: u32, records_bytes: u32, error: Option<Failure>) -> FetchedHandle {
    FetchedHandle { handle, records_bytes, high_watermark: 100, log_start: 1, next_offset: -1, error }
}

fn read_all(reader: &mut FrameReader) -> Vec<(Header, Bytes)> {
    std::iter::from_fn(|| reader.next().expect("frames are well formed")).collect()
}

#[test]
fn every_request_survives_any_split_of_the_stream() {
    let mut bytes = PREFACE.to_vec();
    for (corr, request) in requests().iter().enumerate() {
        request.encode(corr as u32, 1000 + corr as u32, &mut bytes);
    }
    for step in [1, 2, 3, 7, 16, 61, bytes.len()] {
        let mut reader = FrameReader::new(4096);
        let mut frames = Vec::new();
        let mut preface = false;
        for chunk in bytes.chunks(step) {
            reader.push(chunk);
            preface = preface || reader.take_preface().expect("the preface is ours");
            if preface {
                frames.extend(read_all(&mut reader));
            }
        }
        assert!(reader.pending().is_empty());
        assert_eq!(frames.len(), requests().len());
        for (corr, ((header, body), request)) in frames.iter().zip(requests()).enumerate() {
            assert_eq!((header.corr, header.handle), (corr as u32, 1000 + corr as u32));
            assert!(!header.is_reply());
            let op = header.op().expect("a known op");
            assert_eq!(Request::decode(op, body), Ok(request));
        }
    }
}

#[test]
fn every_reply_round_trips() {
    for reply in replies() {
        let request = Header { stream: 3, ..Header::request(reply.op(), 77, 5) };
        let mut bytes = Vec::new();
        reply.encode(&request, &mut bytes);
        let mut reader = FrameReader::new(4096);
        reader.push(&bytes);
        let (header, body) = reader.next().expect("well formed").expect("complete");
        assert_eq!((header.corr, header.handle, header.stream), (77, 5, 3));
        assert!(header.is_reply());
        assert_eq!(Reply::decode(header.op().expect("a known op"), &body), Ok(reply.clone()));
        // Every proper prefix of the body is refused, and so is a longer one. (No reply ends in
        // bytes of free length.)
        for end in 0..body.len() {
            assert!(Reply::decode(header.op().expect("known"), &body.slice(..end)).is_err());
        }
        if matches!(reply, Reply::Hello(_)) {
            continue;
        }
        let longer = Bytes::from([&body[..], b"x"].concat());
        assert!(Reply::decode(header.op().expect("known"), &longer).is_err());
    }
}

#[test]
fn a_fetch_answer_splits_by_handle() {
    let fetched = Fetched {
        handles: vec![fetched(1, 3, None), fetched(2, 0, None), fetched(3, 5, None)],
        records: Bytes::from_static(b"abcdefgh"),
    };
    let split: Vec<_> = fetched.split().map(|(entry, records)| (entry.handle, records)).collect();
    assert_eq!(split, [(1, Bytes::from("abc")), (2, Bytes::new()), (3, Bytes::from("defgh"))]);
}

#[test]
fn a_produce_prefix_is_the_front_of_the_frame() {
    let batch = Bytes::from_static(b"0123456789");
    let mut frame = Vec::new();
    Request::Produce(Produce { acks: Acks::Leader, batch: batch.clone() }).encode(8, 9, &mut frame);
    let prefix = encode_produce_prefix(8, 9, Acks::Leader, batch.len());
    assert_eq!(frame, [&prefix[..], &batch[..]].concat());
}

#[test]
fn an_unknown_error_number_keeps_its_number() {
    let body = Bytes::from_static(&[0x39, 0x30, 0, 0, 0, 0, 0, 0, 2, 0, b'h', b'i']);
    let expected = Failure::new(ErrorCode::UnknownServerError, "error 12345: hi");
    assert_eq!(Reply::decode(Op::Error, &body), Ok(Reply::Error(expected)));
}

#[test]
fn a_long_explanation_is_cut_between_characters() {
    let failure = Failure::new(ErrorCode::InvalidConfig, "\u{20ac}".repeat(50_000));
    let mut bytes = Vec::new();
    Reply::Error(failure).encode(&Header::request(Op::Ping, 1, 0), &mut bytes);
    let mut reader = FrameReader::new(8192);
    reader.push(&bytes);
    let (_, body) = reader.next().expect("well formed").expect("complete");
    assert!(matches!(Reply::decode(Op::Error, &body), Ok(Reply::Error(f)) if f.text.len() == 4095));
}

/// `docs/protocol.md`, section 10.
#[test]
fn the_example_of_the_specification_is_what_is_sent() {
    let page = include_str!("../../docs/protocol.md");
    let example = &page[page.find("## 10.").expect("the page has a section 10")..];
    let hex = |text: &str| -> Vec<u8> {
        let words = text.split(|c: char| c.is_whitespace() || c == '`').filter(|word| word.len() == 2);
        words.map_while(|word| u8::from_str_radix(word, 16).ok()).collect()
    };
    let lines = example.lines().filter(|line| line.starts_with("    "));
    let hello: Vec<u8> = lines.flat_map(hex).collect();
    let mut expected = PREFACE.to_vec();
    let request = Hello {
        version_min: 1,
        version_max: 1,
        shard: ANY_SHARD,
        features: 0,
        frame_bytes_max: 64 << 20,
        client_id: "x".into(),
    };
    Request::Hello(request).encode(0, 0, &mut expected);
    assert_eq!(hello, expected);
    let frames: Vec<_> = example.split('`').skip(1).step_by(2).map(hex).collect();
    let mut ping = Vec::new();
    Request::Ping.encode(7, 0, &mut ping);
    let mut pong = Vec::new();
    Reply::Ping.encode(&Header::request(Op::Ping, 7, 0), &mut pong);
    assert_eq!(frames, [ping, pong]);
}

#[test]
fn versions_meet_or_refuse() {
    let hello = |version_min, version_max| {
        let Request::Hello(hello) = requests().remove(0) else { unreachable!() };
        Hello { version_min, version_max, ..hello }.version()
    };
    assert_eq!(hello(1, 1), Some(1));
    assert_eq!(hello(1, 900), Some(1));
    assert_eq!(hello(0, 0), None);
    assert_eq!(hello(2, 3), None);
}

#[test]
fn other_protocols_are_recognised() {
    let kafka = [0, 0, 0, 40, 0, 18, 0, 3];
    let tls = [0x16, 3, 1, 2, 0, 1, 0, 1];
    for bytes in [&kafka[..], &tls[..], b"GET / HT"] {
        let mut reader = FrameReader::new(4096);
        reader.push(&bytes[..1]);
        assert_eq!(reader.take_preface(), Err(FrameError::NotNative));
    }
}

#[test]
fn announced_bytes_cost_nothing_until_they_arrive() {
    let header = Header { body_bytes: 16 << 20, ..Header::request(Op::Produce, 1, 1) };
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    reader.push(&header.encode());
    assert_eq!(reader.next(), Ok(None));
    assert!(reader.space().len() <= 64 << 10);

    let over = Header { body_bytes: FRAME_BYTES_MAX, ..header };
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    reader.push(&over.encode());
    assert!(matches!(reader.next(), Err(FrameError::TooLarge { .. })));
    assert!(matches!(reader.next(), Err(FrameError::TooLarge { .. })), "an error stays");
}

#[test]
fn a_large_frame_after_small_ones_arrives_whole() {
    let batch: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut bytes = Vec::new();
    for _ in 0..3 {
        Request::Ping.encode(1, 0, &mut bytes);
        Request::Produce(Produce { acks: Acks::All, batch: batch.clone().into() }).encode(2, 1, &mut bytes);
    }
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    let mut count = 0;
    for chunk in bytes.chunks(10_000) {
        reader.push(chunk);
        for (header, body) in read_all(&mut reader) {
            count += 1;
            if header.op() == Some(Op::Produce) {
                assert!(body[PRODUCE_PREFIX_BYTES - HEADER_BYTES..] == batch[..]);
            }
        }
    }
    assert_eq!(count, 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_a_decoder_panic(op in 0u8..20, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let body = Bytes::from(bytes.clone());
        if let Some(op) = Op::from_number(op) {
            let _ = Request::decode(op, &body);
            let _ = Reply::decode(op, &body);
        }
        let mut reader = FrameReader::new(1024);
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.next() {}
    }

    #[test]
    fn damaged_frames_are_refused_or_read_as_something_else(which in 0usize..100, at in 0usize..4000, bit in 0u8..8) {
        let requests = requests();
        let request = &requests[which % requests.len()];
        let mut bytes = Vec::new();
        request.encode(1, 2, &mut bytes);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let mut reader = FrameReader::new(4096);
        reader.push(&bytes);
        while let Ok(Some((header, body))) = reader.next() {
            if let Some(op) = header.op() {
                // Whatever still decodes encodes to the very same bytes (the reserved ones aside).
                if let Ok(again) = Request::decode(op, &body) {
                    let mut out = Vec::new();
                    again.encode(1, 2, &mut out);
                    prop_assert!(out.len() <= bytes.len());
                }
            }
        }
    }
}

#[test]
fn a_frame_that_is_too_large_can_be_skipped() {
    let mut stream = Vec::new();
    let header = Header { body_bytes: 100_000, ..Header::request(Op::Produce, 7, 1) };
    stream.extend_from_slice(&header.encode());
    stream.extend_from_slice(&vec![1; 100_000]);
    Request::Ping.encode(8, 0, &mut stream);
    let mut reader = FrameReader::new(1000);
    let mut seen = Vec::new();
    for part in stream.chunks(777) {
        reader.push(part);
        loop {
            match reader.next() {
                Ok(Some((header, _))) => seen.push(header.corr),
                Ok(None) => break,
                Err(FrameError::TooLarge { .. }) => seen.push(reader.skip_too_large().unwrap().corr),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(reader.pending().len() <= 777);
    }
    assert_eq!(seen, [7, 8]);
    reader.relax();
    assert!(reader.space().len() <= 4096);
}
