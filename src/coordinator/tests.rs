//! Decisions and their application, on one broker of two journals.
//!
//! Floor 2.

use super::*;

struct Bench {
    coordinator: Coordinator,
    log: Vec<Record>,
    seed: u64,
}

impl Bench {
    fn new(journals: u64) -> Bench {
        let (coordinator, epoch) = Coordinator::start(Image::default());
        let mut bench = Bench { coordinator, log: vec![epoch], seed: 1 };
        for id in 1..=journals {
            let planned = bench.coordinator.plan_journal(JournalId(id));
            let completed = bench.coordinator.complete_journal(JournalId(id));
            bench.log.extend([planned, completed]);
        }
        bench
    }

    fn ask(&mut self, request: Admin) -> Result<AdminReply, Failure> {
        let seed = &mut self.seed;
        let mut random = || {
            *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *seed
        };
        let defaults = TopicConfig::default();
        let mut context =
            Context { now_ms: 1000, defaults: &defaults, partitions_default: 3, random: &mut random };
        let (records, reply) = self.coordinator.decide(&mut context, request)?;
        self.log.extend(records);
        Ok(reply)
    }

    fn create(&mut self, name: &str, partitions: Option<u32>) -> Result<TopicId, Failure> {
        let request = Admin::CreateTopic { name: name.to_owned(), partitions, configs: Vec::new() };
        match self.ask(request)? {
            AdminReply::TopicCreated { id, .. } => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    fn alter(
        &mut self,
        name: &str,
        partitions: Option<u32>,
        configs: &[(&str, Option<&str>)],
    ) -> Option<Failure> {
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
        self.ask(Admin::AlterTopic { topic: TopicRef::Name(name.to_owned()), partitions, configs }).err()
    }

    fn delete(&mut self, name: &str) -> Result<AdminReply, Failure> {
        self.ask(Admin::DeleteTopic { topic: TopicRef::Name(name.to_owned()) })
    }

    fn producer_id(&mut self) -> ProducerId {
        match self.ask(Admin::InitProducerId) {
            Ok(AdminReply::ProducerId { id, epoch: 0 }) => id,
            other => panic!("{other:?}"),
        }
    }

    /// What a log and a snapshot of it rebuild, by way of their bytes, is what was decided.
    fn check(&self) {
        let image = self.coordinator.image();
        let through_bytes = |records: &[Record]| {
            let records: Vec<_> = records.iter().map(|r| Record::decode(&r.encode()).unwrap()).collect();
            Image::restore(&records).unwrap()
        };
        assert_eq!(through_bytes(&self.log), *image);
        let mut both = image.snapshot();
        assert_eq!(through_bytes(&both), *image);
        let (_, epoch) = Coordinator::start(image.clone());
        both.push(epoch);
        assert_eq!(through_bytes(&both).broker_epoch(), image.broker_epoch() + 1);
    }
}

fn code(result: Result<impl std::fmt::Debug, Failure>) -> ErrorCode {
    result.unwrap_err().code
}

#[test]
fn topics_live_and_die() {
    let mut bench = Bench::new(2);
    let first = bench.create("orders", None).unwrap();
    assert_eq!(bench.coordinator.image().topic_by_name("orders").unwrap().partitions.len(), 3);
    assert_eq!(code(bench.create("orders", Some(1))), ErrorCode::TopicAlreadyExists);
    assert_eq!(code(bench.create("..", Some(1))), ErrorCode::InvalidTopic);
    assert_eq!(code(bench.create("zero", Some(0))), ErrorCode::InvalidPartitions);
    assert_eq!(code(bench.create("many", Some(100_001))), ErrorCode::InvalidPartitions);
    let unknown = bench.delete("order").unwrap_err();
    assert_eq!(unknown.code, ErrorCode::UnknownTopicOrPartition);
    assert!(unknown.text.contains("did you mean orders?"));

    bench.delete("orders").unwrap();
    let second = bench.create("orders", Some(2)).unwrap();
    assert_ne!(first, second);
    bench.check();
    let image = bench.coordinator.image();
    assert!(image.tombstone(first).is_some() && image.topic_by_id(first).is_none());
    assert_eq!(image.partition_count(), 2);

    let forgotten = bench.coordinator.forget_topic(first).unwrap();
    bench.log.push(forgotten);
    assert_eq!(bench.coordinator.forget_topic(first), None);
    assert_eq!(bench.coordinator.forget_topic(second), None, "a living topic has no tombstone");
    bench.check();
}

#[test]
fn alterations_keep_only_what_is_set() {
    let mut bench = Bench::new(2);
    bench.create("t", Some(2)).unwrap();
    assert_eq!(bench.alter("t", None, &[("retention.ms", Some("5"))]), None);
    assert_eq!(bench.alter("t", Some(5), &[("retention.bytes", Some("7"))]), None);
    assert_eq!(bench.alter("t", Some(5), &[]), None, "a repeated request is not an error");
    assert_eq!(bench.alter("t", Some(4), &[]).unwrap().code, ErrorCode::InvalidPartitions);
    let refused = bench.alter("t", Some(9), &[("retention.ms", Some("x"))]).unwrap();
    assert_eq!(refused.code, ErrorCode::InvalidConfig);
    assert_eq!(bench.alter("t", None, &[("retention", None)]).unwrap().code, ErrorCode::InvalidConfig);
    assert_eq!(bench.alter("t", None, &[("retention.ms", None)]), None);
    bench.check();
    let topic = bench.coordinator.image().topic_by_name("t").unwrap();
    assert_eq!(topic.partitions.len(), 5, "the refused alteration changed nothing");
    assert_eq!(topic.configs, BTreeMap::from([("retention.bytes".to_owned(), "7".to_owned())]));
    assert_eq!(topic.config(&TopicConfig::default()).0.retention_bytes, 7);
}

#[test]
fn a_key_of_a_newer_broker_stays_until_it_is_unset() {
    let mut bench = Bench::new(2);
    bench.create("t", Some(2)).unwrap();
    let id = bench.coordinator.image().topic_by_name("t").unwrap().id;
    let future = ("from.the.future".to_owned(), Some("1".to_owned()));
    let set = bench.coordinator.commit(Change::TopicConfigured { id, configs: vec![future] });
    bench.log.push(set);
    assert_eq!(bench.alter("t", None, &[("retention.ms", Some("5"))]), None);
    let keys = |bench: &Bench| bench.coordinator.image().topic_by_name("t").unwrap().configs.len();
    assert_eq!(keys(&bench), 2);
    assert_eq!(
        bench.alter("t", None, &[("from.the.future", Some("2"))]).unwrap().code,
        ErrorCode::InvalidConfig
    );
    assert_eq!(bench.alter("t", None, &[("from.the.future", None)]), None);
    assert_eq!(keys(&bench), 1);
    bench.check();
}

#[test]
fn a_key_that_cannot_be_read_costs_none_of_the_others() {
    let configs = [("from.the.future", "1"), ("max.message.bytes", "1"), ("retention.ms", "-1")];
    let topic = Topic {
        id: TopicId::new(1),
        name: "t".to_owned(),
        created_ms: 0,
        configs: configs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        partitions: Default::default(),
    };
    let defaults = TopicConfig::default();
    let (config, unread) = topic.config(&defaults);
    assert_eq!((config.retention_ms, config.max_message_bytes), (-1, defaults.max_message_bytes));
    assert_eq!(unread.len(), 2, "{unread:?}");
}

#[test]
fn partitions_go_round_the_journals_and_then_their_lanes() {
    let mut bench = Bench::new(2);
    bench.create("t", Some(16)).unwrap();
    assert_eq!(bench.alter("t", Some(32), &[]), None);
    let image = bench.coordinator.image();
    let topic = image.topic_by_name("t").unwrap();
    let mut uses = vec![0; image.lane_count()];
    for (number, partition) in topic.partitions.iter().enumerate() {
        let lane = partition.lane;
        uses[lane.0 as usize] += 1;
        let shard = image.shard_of(lane, 2).unwrap();
        let previous = topic.partitions[number.saturating_sub(1)].lane;
        assert!(number == 0 || image.shard_of(previous, 2) != Some(shard), "neighbours share a shard");
        assert_eq!(image.journal_of(lane), Some(image.journals()[shard as usize].id));
    }
    assert_eq!(uses, vec![2; 16]);
}

#[test]
fn producer_ids_never_repeat_across_starts() {
    let mut bench = Bench::new(1);
    let records_before = bench.log.len();
    let first: Vec<_> = (0..1001).map(|_| bench.producer_id()).collect();
    assert!(first.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(bench.log.len() - records_before, 2, "one durable record per 1000 ids");
    bench.check();
    let (coordinator, epoch) = Coordinator::start(Image::restore(&bench.log).unwrap());
    bench.coordinator = coordinator;
    bench.log.push(epoch);
    assert_eq!(bench.producer_id(), 2000);
    bench.check();
}

#[test]
fn a_large_topic_and_many_topics() {
    let mut bench = Bench::new(2);
    bench.create("large", Some(100_000)).unwrap();
    let bytes = bench.log.last().unwrap().encode().len();
    assert!(bytes < 600_000, "{bytes}");
    for number in 0..20_000 {
        bench.create(&format!("topic-{number}"), Some(1)).unwrap();
    }
    bench.check();
}

#[test]
fn a_log_that_does_not_fit_is_refused() {
    let mut bench = Bench::new(1);
    bench.create("a", None).unwrap();
    bench.delete("a").unwrap();
    let without_creation: Vec<_> =
        bench.log.iter().filter(|r| !matches!(r.change, Change::TopicCreated(_))).collect();
    assert!(Image::restore(without_creation.iter().copied()).is_err());
    let mut twice = bench.log.clone();
    twice.push(bench.log[2].clone());
    assert_eq!(Image::restore(&twice).unwrap_err().what, "index out of order");
}
