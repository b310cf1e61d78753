//! A shard over the real disk, without a network: produce, read back, restart, delete.
//!
//! Floor 5.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::api::{Acks, At, Fetch, FetchPartition, FetchedPartition, Produce, Produced, Reply, Request};
use crate::coordinator::{Change, Partition as PartitionRecord, Record, Topic};
use crate::format::frame::Address;
use crate::model::{Failure, JournalId, Offset, PartitionId};
use crate::record::{BatchBuilder, Compression, ProducerStamp};
use crate::rt::World;

const TOPIC: TopicId = TopicId::new(0x77);
const PARTITIONS: u32 = 5;

fn image(epoch: u64) -> Image {
    let lanes: Vec<_> = (0..8).map(LaneId).collect();
    let partitions = (0..PARTITIONS).map(|number| PartitionRecord { lane: LaneId(number % 8) }).collect();
    let topic = Topic {
        id: TOPIC,
        name: "orders".to_string(),
        created_ms: 0,
        configs: Default::default(),
        partitions: Arc::new(partitions),
    };
    let changes = [
        Change::JournalPlanned { id: JournalId(1), lanes },
        Change::JournalCompleted { id: JournalId(1) },
        Change::TopicCreated(Arc::new(topic)),
        Change::BrokerEpoch { epoch },
    ];
    let mut image = Image::default();
    for (index, change) in changes.into_iter().enumerate() {
        image.apply(&Record { term: 1, index: index as u64 + 1, change });
    }
    image
}

fn plan(data: &Path, epoch: u64, create: bool) -> ShardPlan {
    let (sender, _) = channel::channel();
    ShardPlan {
        index: 0,
        count: 1,
        listen: "127.0.0.1:0".parse().expect("an address"),
        data: data.to_path_buf(),
        journals: vec![JournalPlan { id: JournalId(1), lanes: (0..8).map(LaneId).collect(), create }],
        image: image(epoch),
        broker_epoch: epoch,
        memory_bytes: 64 << 20,
        peers: vec![sender],
        settings: Settings {
            segment_bytes: 1 << 20,
            topic_defaults: TopicConfig::default(),
            frame_bytes_max: 16 << 20,
            retention_check_ms: 1_000,
            connections_max: 10,
        },
    }
}

async fn started(rt: &Rt, data: &Path, epoch: u64, create: bool) -> Rc<Shard> {
    let (control, _) = channel::channel();
    let (shard, recovered) = start::start(rt, plan(data, epoch, create), control).await.expect("it starts");
    assert_eq!(recovered.damages, Vec::<String>::new());
    shard
}

/// Ends a shard and lets go of its files.
async fn stop(shard: Rc<Shard>) {
    shard.stop().await;
    assert_eq!(Rc::strong_count(&shard), 1, "its tasks have ended");
}

fn batch(text: &str, stamp: Option<ProducerStamp>) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(1024);
    builder.append(-1, None, Some(text.as_bytes()), &[]);
    builder.build(Compression::None, stamp).into()
}

async fn call(shard: &Rc<Shard>, request: Request) -> Result<Reply, Failure> {
    let answer = Rc::new((RefCell::new(None), Event::new()));
    let told = answer.clone();
    let done: Done = Box::new(move |reply| {
        *told.0.borrow_mut() = Some(reply);
        told.1.notify();
    });
    match request {
        Request::Produce(produce) => shard.produce(produce, done),
        Request::Fetch(fetch) => shard.fetch(fetch, done),
        Request::ListOffsets { partition, at } => shard.list_offsets(partition, at, done),
        Request::DeleteRecords { partition, before } => shard.delete_records(partition, before, done),
        other => panic!("{other:?}"),
    }
    loop {
        if let Some(reply) = answer.0.borrow_mut().take() {
            return reply;
        }
        answer.1.wait().await;
    }
}

fn id(partition: u32) -> PartitionId {
    PartitionId { topic: TOPIC, partition }
}

async fn produce(shard: &Rc<Shard>, partition: u32, batch: bytes::Bytes) -> Result<Produced, Failure> {
    let produce = Produce { partition: id(partition), acks: Acks::All, batch };
    call(shard, Request::Produce(produce)).await.map(|reply| match reply {
        Reply::Produced(produced) => produced,
        other => panic!("{other:?}"),
    })
}

async fn fetch_all(shard: &Rc<Shard>, offsets: &[(u32, Offset)], bytes_max: u32) -> Vec<FetchedPartition> {
    let wanted = |&(partition, offset): &(u32, Offset)| FetchPartition {
        partition: id(partition),
        offset,
        bytes_max: 1 << 20,
    };
    let partitions = offsets.iter().map(wanted).collect();
    let fetch = Fetch { wait_ms_max: 0, bytes_min: 0, bytes_max, partitions };
    match call(shard, Request::Fetch(fetch)).await {
        Ok(Reply::Fetched(fetched)) => fetched,
        other => panic!("{other:?}"),
    }
}

async fn fetch(shard: &Rc<Shard>, partition: u32, offset: Offset) -> FetchedPartition {
    fetch_all(shard, &[(partition, offset)], 1 << 20).await.remove(0)
}

/// The values that a fetch from `offset` on brought.
fn values(fetched: &FetchedPartition, mut offset: Offset) -> Vec<String> {
    assert_eq!(fetched.error, None);
    let mut values = Vec::new();
    for chunk in &fetched.chunks {
        for view in crate::record::batches(chunk) {
            let view = view.expect("served batches are whole");
            assert!(view.crc_holds());
            let payload = crate::record::payload(&view, 1 << 20).expect("uncompressed");
            for record in crate::record::Records::new(&view, &payload) {
                let record = record.expect("a whole record");
                if record.offset >= offset {
                    assert_eq!(record.offset, offset, "offsets are dense");
                    offset += 1;
                    values.push(String::from_utf8_lossy(record.value.expect("a value")).into_owned());
                }
            }
        }
    }
    values
}

/// All values of a partition from its start, fetch by fetch.
async fn read_all(shard: &Rc<Shard>, partition: u32) -> Vec<String> {
    let mut all = Vec::new();
    let start = match call(shard, Request::ListOffsets { partition: id(partition), at: At::Earliest }).await {
        Ok(Reply::Offset { offset, .. }) => offset,
        other => panic!("{other:?}"),
    };
    loop {
        let offset = start + all.len() as Offset;
        let fetched = fetch(shard, partition, offset).await;
        all.extend(values(&fetched, offset));
        if fetched.chunks.is_empty() {
            assert_eq!(offset, fetched.high_watermark);
            return all;
        }
    }
}

fn on_real_disk(body: impl AsyncFnOnce(Rt, std::path::PathBuf) + Send + 'static) {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let path = folder.path().to_path_buf();
    let world = World::real();
    world
        .executor("test", None, move |rt| async move { body(rt, path).await })
        .expect("an executor")
        .join_blocking();
}

#[test]
fn records_survive_seals_rewrites_and_restarts() {
    on_real_disk(async |rt, data| {
        let mut wanted = vec![Vec::new(); PARTITIONS as usize];
        for epoch in 1..=4u64 {
            let shard = started(&rt, &data, epoch, epoch == 1).await;
            for partition in 0..PARTITIONS {
                assert_eq!(read_all(&shard, partition).await, wanted[partition as usize], "epoch {epoch}");
            }
            let mut sent = Vec::new();
            for round in 0..200 {
                let partition = round % PARTITIONS;
                let text = format!("{epoch}-{round}-{}", "x".repeat(5_000));
                let batch = batch(&text, None);
                wanted[partition as usize].push(text);
                let shard = shard.clone();
                sent.push(async move { produce(&shard, partition, batch).await });
            }
            for one in sent {
                one.await.expect("accepted");
            }
            stop(shard).await;
        }
    });
}

#[test]
fn partitions_are_read_together_and_none_is_left_behind() {
    on_real_disk(async |rt, data| {
        let shard = started(&rt, &data, 1, true).await;
        let count = 60;
        let text = |partition: u32, round: i64| format!("{partition}-{round}-{}", "z".repeat(8_000));
        for round in 0..count {
            for partition in 0..PARTITIONS {
                produce(&shard, partition, batch(&text(partition, round), None)).await.expect("accepted");
            }
        }
        stop(shard).await;
        // Several segments, and nothing of them in memory.
        let shard = started(&rt, &data, 2, false).await;
        assert!(shard.drives[0].journal.segments().len() > 2);
        let mut offsets = [0; PARTITIONS as usize];
        let mut passed_over = [0; PARTITIONS as usize];
        let mut order: Vec<u32> = (0..PARTITIONS).collect();
        let mut fetches = 0;
        while offsets.iter().any(|offset| *offset < count) {
            let wanted: Vec<_> =
                order.iter().map(|partition| (*partition, offsets[*partition as usize])).collect();
            for ((partition, offset), fetched) in wanted.iter().zip(fetch_all(&shard, &wanted, 400_000).await)
            {
                let (values, at) = (values(&fetched, *offset), *partition as usize);
                let got_nothing = values.is_empty() && *offset < count;
                passed_over[at] = if got_nothing { passed_over[at] + 1 } else { 0 };
                assert!(passed_over[at] <= 2, "{partition} got nothing: {offsets:?}");
                for value in values {
                    assert_eq!(value, text(*partition, offsets[at]));
                    offsets[at] += 1;
                }
            }
            // As clients do it: whom a full answer passed over, is asked for first the next time.
            order.sort_by_key(|partition| std::cmp::Reverse(passed_over[*partition as usize]));
            fetches += 1;
        }
        assert!(fetches <= 10, "{fetches} fetches of 400 kB for {} kB", count * 40);
        stop(shard).await;
    });
}

#[test]
fn duplicates_get_their_offset_also_after_a_restart() {
    on_real_disk(async |rt, data| {
        let stamp = |base_sequence| Some(ProducerStamp { id: 9, epoch: 0, base_sequence });
        let shard = started(&rt, &data, 1, true).await;
        for sequence in 0..3 {
            let produced = produce(&shard, 0, batch("a", stamp(sequence))).await.expect("accepted");
            assert_eq!(produced.base_offset, i64::from(sequence));
        }
        assert_eq!(produce(&shard, 0, batch("a", stamp(1))).await.expect("known").base_offset, 1);
        stop(shard).await;
        let shard = started(&rt, &data, 2, false).await;
        assert_eq!(produce(&shard, 0, batch("a", stamp(2))).await.expect("known").base_offset, 2);
        let refused = produce(&shard, 0, batch("a", stamp(9))).await.expect_err("a gap");
        assert_eq!(refused.code, crate::model::ErrorCode::OutOfOrderSequenceNumber);
        assert_eq!(fetch(&shard, 0, 0).await.high_watermark, 3);
        stop(shard).await;
    });
}

#[test]
fn deleted_records_stay_deleted_and_their_segments_go() {
    on_real_disk(async |rt, data| {
        let shard = started(&rt, &data, 1, true).await;
        for _ in 0..600 {
            produce(&shard, 1, batch(&"y".repeat(10_000), None)).await.expect("accepted");
        }
        let before = shard.drives[0].journal.disk_bytes();
        let deleted = call(&shard, Request::DeleteRecords { partition: id(1), before: 590 }).await;
        assert!(matches!(deleted, Ok(Reply::RecordsDeleted { log_start: 590 })));
        let mut after = before;
        for _ in 0..100 {
            rt.sleep(std::time::Duration::from_millis(50)).await;
            after = shard.drives[0].journal.disk_bytes();
            if after < before / 2 {
                break;
            }
        }
        assert!(after < before / 2, "{before} bytes became {after}");
        stop(shard).await;
        let shard = started(&rt, &data, 2, false).await;
        assert_eq!(read_all(&shard, 1).await.len(), 10);
        assert_eq!(
            fetch(&shard, 1, 100).await.error.map(|failure| failure.code),
            Some(crate::model::ErrorCode::OffsetOutOfRange)
        );
        stop(shard).await;
    });
}

#[test]
fn the_next_segment_is_made_once_a_quarter_of_the_active_one_is_full() {
    on_real_disk(async |rt, data| {
        let shard = started(&rt, &data, 1, true).await;
        let journal = shard.drives[0].journal.clone();
        let fill_to = async |segment: u64, byte: u32| {
            while journal.replay_point().2 < (Address { segment, byte }) {
                produce(&shard, 0, batch(&"x".repeat(7_000), None)).await.expect("accepted");
            }
        };
        // A start makes the first two.
        fill_to(1, 200 << 10).await;
        // Longer than the provision task sleeps at most.
        rt.sleep(std::time::Duration::from_millis(700)).await;
        assert!(!journal.has_next(), "{:?} of 1 MiB", journal.replay_point().2);
        fill_to(1, 256 << 10).await;
        for _ in 0..500 {
            if journal.has_next() {
                break;
            }
            rt.sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(journal.has_next());
        drop(journal);
        stop(shard).await;
    });
}

#[cfg(feature = "sim")]
#[test]
fn a_clock_that_is_set_ahead_between_two_starts_expires_nothing() {
    use crate::rt::sim::{CrashKind, Faults, Simulation, Stop};

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let simulation = Simulation::new(1, Faults::default(), false);
    let machine = simulation.machine(64 << 20);
    let data = Path::new("/data");
    let is_sent = Rc::new(Cell::new(false));
    let told = is_sent.clone();
    simulation.program(machine, |rt| async move {
        let shard = started(&rt, data, 1, true).await;
        produce(&shard, 0, batch("kept", None)).await.expect("accepted");
        told.set(true);
    });
    simulation.run_until(&is_sent);
    simulation.crash(machine, CrashKind::Kill);
    simulation.jump_wall_clock(machine, 8 * DAY_MS);
    let reader = simulation.program(machine, |rt| async move {
        let shard = started(&rt, data, 2, false).await;
        // Retention looks once a second.
        rt.sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(read_all(&shard, 0).await, ["kept"]);
        stop(shard).await;
    });
    assert_eq!(simulation.run_to_end(reader), Stop::Done);
}

#[cfg(feature = "sim")]
#[test]
fn a_record_with_an_old_timestamp_takes_nothing_before_it_along() {
    use crate::rt::sim::{Faults, Simulation, Stop};

    let simulation = Simulation::new(2, Faults::default(), false);
    let machine = simulation.machine(64 << 20);
    let program = simulation.program(machine, |rt| async move {
        let shard = started(&rt, Path::new("/data"), 1, true).await;
        for number in 0..10 {
            produce(&shard, 0, batch(&format!("{number}"), None)).await.expect("accepted");
        }
        // The rest of the first segment, and some of the second.
        for _ in 0..300 {
            produce(&shard, 1, batch(&"x".repeat(5_000), None)).await.expect("accepted");
        }
        // Retention looks once a second: it has seen that nothing of the sealed segment is old.
        rt.sleep(std::time::Duration::from_secs(3)).await;
        assert!(shard.drives[0].journal.segments()[0].oldest_retention().is_some());
        let mut old = BatchBuilder::new(1024);
        old.append(rt.wall_ms() - 8 * 24 * 60 * 60 * 1000, None, Some(b"old"), &[]);
        produce(&shard, 0, old.build(Compression::None, None).into()).await.expect("accepted");
        rt.sleep(std::time::Duration::from_secs(3)).await;
        assert_eq!(read_all(&shard, 0).await.len(), 11);
        stop(shard).await;
    });
    assert_eq!(simulation.run_to_end(program), Stop::Done);
}

#[test]
fn an_answer_about_topics_is_bounded_however_often_one_is_asked_for() {
    on_real_disk(async |rt, data| {
        let shard = started(&rt, &data, 1, true).await;
        let asked = |times| {
            let topics = vec![crate::api::TopicRef::Id(TOPIC); times];
            shard.metadata(&crate::api::Topics::Some { topics, configs: false })
        };
        assert_eq!(asked(3).expect("small").topics.len(), 3);
        let Err(failure) = asked(1_000_000) else { panic!("58 MB and more") };
        assert_eq!(failure.code, crate::model::ErrorCode::MessageTooLarge);
        stop(shard).await;
    });
}

#[test]
fn the_largest_batch_fits_segments_of_any_size() {
    on_real_disk(async |rt, data| {
        let mut plan = plan(&data, 1, true);
        // Half of it is no whole number of disk blocks.
        plan.settings.segment_bytes = 257 * 4096;
        let (control, _) = channel::channel();
        let (shard, _) = start::start(&rt, plan, control).await.expect("it starts");
        let most = produce::batch_bytes_max(&shard.drives[0].journal);
        let mut text = "x".repeat(most - 100);
        while batch(&text, None).len() < most {
            text.push('x');
        }
        assert_eq!(batch(&text, None).len(), most);
        produce(&shard, 0, batch(&text, None)).await.expect("accepted");
        assert_eq!(read_all(&shard, 0).await, [text]);
        stop(shard).await;
    });
}

#[test]
fn a_mark_does_not_speak_for_a_lane_that_is_offline() {
    on_real_disk(async |rt, data| {
        let shard = started(&rt, &data, 1, true).await;
        let drive = shard.drives[0].clone();
        assert_eq!(drive.lane_ends().len(), 8);
        drive.lanes.borrow_mut().get_mut(&LaneId(3)).expect("one of ours").offline = Some("damaged".into());
        assert!(drive.lane_ends().iter().all(|end| end.lane != LaneId(3)) && drive.lane_ends().len() == 7);
        drop(drive);
        stop(shard).await;
    });
}
