//! The broker under power cuts, and the judgement of what it kept.
//!
//! Owner: the harness. After every cut: all that was acknowledged before it is there, with its offset
//! and its bytes; nothing is there twice; offsets are dense; the order within a partition is the order
//! of the input; a deleted topic stays deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::disk::Random;
use crate::load::{Ack, Churn, Producer, Ringctl, record};
use crate::stack::{Stack, command};

const PARTITIONS: &str = "8";
const READY_WITHIN: Duration = Duration::from_secs(20);

struct Broker {
    program: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Broker {
    fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the broker starts"));
    }

    fn kill(&mut self) {
        let mut child = self.child.take().expect("started");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Time from `since` until it answers.
    fn ready(&mut self, ringctl: &Ringctl, since: Instant) -> Duration {
        loop {
            if ringctl.run(&["topic", "list"]).is_ok() {
                return since.elapsed();
            }
            let exited = self.child.as_mut().and_then(|child| child.try_wait().expect("our child"));
            if exited.is_some() || since.elapsed() > READY_WITHIN {
                panic!("the broker is not ready ({exited:?}); see {}", self.log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(mut self) {
        let mut child = self.child.take().expect("started");
        command(&["kill", "-TERM", &child.id().to_string()]).expect("our child");
        let status = child.wait().expect("our child");
        assert!(status.success(), "SIGTERM: {status}");
    }
}

/// Everything that a run holds.
struct Trial {
    random: Random,
    stack: Stack,
    ringctl: Ringctl,
    broker: Broker,
    producers: Vec<Producer>,
    churn: Churn,
    slowest: Duration,
}

pub fn run(options: &Options) {
    let folder = PathBuf::from(options.text("folder", "/tmp/powerloss"));
    let (seed, cuts) = (options.number("seed", 1), options.number("cuts", 100));
    let stack = Stack::new(&folder, &options.text("filesystem", "ext4"), 4 << 30);
    let data = stack.mountpoint().join("data");
    let mut trial = prepare(options, &folder, stack, &data);
    let mut done = 0;
    while done < cuts {
        std::thread::sleep(Duration::from_millis(200 + trial.random.below(1500)));
        done += trial.round(done, cuts);
    }
    let churned = trial.churn.finish();
    for producer in trial.producers {
        let topic = producer.topic.clone();
        let (written, acks) = producer.finish();
        assert_eq!(acks.len() as u64, written, "{topic}: every line is acknowledged once");
        assert_eq!(judge(&trial.ringctl, &topic, &acks), written, "{topic}: every line is there once");
        println!("{topic}: {written} records, each exactly once");
    }
    trial.broker.stop();
    verify(&trial.ringctl, &data);
    let slowest = trial.slowest;
    println!(
        "{done} cuts with seed {seed}: nothing lost, nothing twice; \
         {churned} topics deleted for good; slowest restart {slowest:.1?}"
    );
}

fn prepare(options: &Options, folder: &Path, stack: Stack, data: &Path) -> Trial {
    let address = options.text("listen", "127.0.0.1:7199");
    let ringctl =
        Ringctl { program: options.text("ringctl", "target/release/ringctl"), broker: address.clone() };
    let data = data.to_str().expect("ours");
    let shards = options.text("shards", "2");
    let arguments =
        ["--data", data, "--listen", &address, "--shards", &shards, "--set", "segment.bytes=4194304"];
    let mut broker = Broker {
        program: options.text("ringlog", "target/release/ringlog"),
        arguments: arguments.map(str::to_owned).to_vec(),
        log: folder.join("broker.log"),
        child: None,
    };
    broker.start();
    broker.ready(&ringctl, Instant::now());
    for topic in ["plain", "packed"] {
        let words = ["topic", "create", topic, "--partitions", PARTITIONS];
        ringctl.run(&words).expect("a topic is created");
    }
    let producers = vec![
        Producer::start(&ringctl, "plain", &[]),
        Producer::start(&ringctl, "packed", &["--compression", "lz4"]),
    ];
    let churn = Churn::start(ringctl.clone());
    let random = Random::new(options.number("seed", 1));
    Trial { random, stack, ringctl, broker, producers, churn, slowest: Duration::ZERO }
}

impl Trial {
    /// One cut, or several in a row; then the judgement. How many cuts it made.
    fn round(&mut self, done: u64, cuts: u64) -> u64 {
        let mut made = 0;
        let (acks, deleted) = loop {
            let cut = self.stack.cut(&mut self.random);
            // Taken after the cut: no flush can have completed since, so no new acknowledgement is owed.
            let acks: Vec<Vec<Ack>> = self.producers.iter().map(Producer::acks).collect();
            let deleted = self.churn.deleted();
            self.broker.kill();
            self.stack.restart();
            let again = if made > 0 { " (while it recovered)" } else { "" };
            made += 1;
            let (writes, lost, torn) = (cut.writes, cut.lost, cut.torn);
            println!("cut {}{again}: {writes} unflushed writes, {lost} lost, {torn} torn", done + made);
            self.broker.start();
            if done + made == cuts || self.random.below(4) > 0 {
                break (acks, deleted);
            }
            std::thread::sleep(Duration::from_millis(self.random.below(200)));
        };
        let ready = self.broker.ready(&self.ringctl, Instant::now());
        self.slowest = self.slowest.max(ready);
        // Reading back takes longer the more there is: the load does not grow with it.
        self.producers.iter().for_each(|producer| producer.pause(true));
        for (producer, acks) in self.producers.iter().zip(&acks) {
            let found = judge(&self.ringctl, &producer.topic, acks);
            let topic = &producer.topic;
            println!("  {topic}: {} acknowledged, {found} found, ready in {ready:.1?}", acks.len());
        }
        judge_deleted(&self.ringctl, &deleted);
        self.producers.iter().for_each(|producer| producer.pause(false));
        made
    }
}

/// Reads a topic whole and holds it against what was acknowledged. The number of records found.
fn judge(ringctl: &Ringctl, topic: &str, acks: &[Ack]) -> u64 {
    let words = ["consume", topic, "--format", "%p %o %k %s\\n"];
    let output = ringctl.run(&words).unwrap_or_else(|error| panic!("consume {topic}: {error}"));
    let mut lines: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut next: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for text in String::from_utf8(output).expect("text").lines() {
        let words: Vec<&str> = text.splitn(4, ' ').collect();
        let [partition, offset, key, value] = words[..] else { panic!("{topic}: {text}") };
        let (partition, offset) = (partition.parse().expect("%p"), offset.parse().expect("%o"));
        let line = value.split(' ').next().and_then(|word| word.parse().ok());
        let line: u64 = line.unwrap_or_else(|| panic!("{topic}: {text}"));
        assert_eq!(record(line), (key.to_owned(), value.to_owned()), "{topic}: the bytes of line {line}");
        let (wanted, last) = next.insert(partition, (offset + 1, line)).unwrap_or((0, 0));
        assert_eq!(offset, wanted, "{topic}/{partition}: offsets are dense");
        assert!(line > last, "{topic}/{partition}: line {line} behind line {last}");
        let twice = lines.insert(line, (partition, offset));
        assert!(twice.is_none(), "{topic}: line {line} twice: {twice:?} and {partition}/{offset}");
    }
    for ack in acks {
        let found = lines.get(&ack.line);
        let wanted = (ack.partition, ack.offset);
        assert_eq!(found, Some(&wanted), "{topic}: line {} was acknowledged there", ack.line);
    }
    lines.len() as u64
}

fn judge_deleted(ringctl: &Ringctl, deleted: &[String]) {
    let topics = ringctl.run(&["topic", "list"]).expect("topics are listed");
    let topics = String::from_utf8(topics).expect("text");
    for topic in deleted {
        assert!(
            !topics.lines().any(|line| line.split_whitespace().next() == Some(topic)),
            "{topic} came back"
        );
    }
}

fn verify(ringctl: &Ringctl, data: &Path) {
    let data = data.to_str().expect("ours");
    match command(&[&ringctl.program, "verify", data]) {
        Ok(said) => println!("verify: {said}"),
        Err(error) => panic!("{error}"),
    }
}
