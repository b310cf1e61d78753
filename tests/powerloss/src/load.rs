//! What runs against the broker: long-lived `ringctl produce` processes that live through every cut,
//! and a topic that comes and goes.
//!
//! Owner: the harness. Every record's content follows from its line number, so that what is read
//! back can be judged without a copy of what was sent.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const BURST_LINES: u64 = 20;
const BURST_PAUSE: Duration = Duration::from_millis(10);
const KEYS: u64 = 97;

/// How `ringctl` reaches the broker.
#[derive(Clone)]
pub struct Ringctl {
    pub program: String,
    pub broker: String,
}

impl Ringctl {
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--broker", &self.broker]).args(words);
        command
    }

    pub fn run(&self, words: &[&str]) -> Result<Vec<u8>, String> {
        let output = self.command(words).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }
}

/// (key, value) of a line; lines count from 1.
pub fn record(line: u64) -> (String, String) {
    let padding = line.wrapping_mul(0x9e37_79b9) % 400;
    (format!("k{}", line % KEYS), format!("{line} {}", "x".repeat(padding as usize)))
}

pub struct Producer {
    pub topic: String,
    child: Child,
    written: Arc<AtomicU64>,
    acks: Arc<Mutex<Vec<Ack>>>,
    stop: Arc<AtomicBool>,
    /// While it is set no new lines are written.
    pause: Arc<AtomicBool>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

#[derive(Clone, Copy)]
pub struct Ack {
    pub line: u64,
    pub partition: u64,
    pub offset: u64,
}

impl Producer {
    pub fn start(ringctl: &Ringctl, topic: &str, extra: &[&str]) -> Producer {
        let words = [&["produce", topic, "--print-acks", "--key-separator", ":"], extra].concat();
        let mut child = ringctl
            .command(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ringctl starts");
        let mut input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (written, acks) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (stop, pause) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (count, stopped, paused) = (written.clone(), stop.clone(), pause.clone());
        let writer = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if paused.load(Ordering::SeqCst) {
                    std::thread::sleep(BURST_PAUSE);
                    continue;
                }
                let from = count.load(Ordering::SeqCst);
                for line in from + 1..=from + BURST_LINES {
                    let (key, value) = record(line);
                    writeln!(input, "{key}:{value}").expect("ringctl takes lines for ever");
                }
                count.store(from + BURST_LINES, Ordering::SeqCst);
                std::thread::sleep(BURST_PAUSE);
            }
        });
        let list = acks.clone();
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let ack = parse(&line).unwrap_or_else(|| panic!("not an acknowledgement: {line}"));
                list.lock().expect("no holder panics").push(ack);
            }
        });
        Producer { topic: topic.into(), child, written, acks, stop, pause, writer, reader }
    }

    /// Holds new lines back, or lets them go on. What was written is still delivered.
    pub fn pause(&self, pause: bool) {
        self.pause.store(pause, Ordering::SeqCst);
    }

    /// Acknowledged so far.
    pub fn acks(&self) -> Vec<Ack> {
        self.acks.lock().expect("no holder panics").clone()
    }

    /// Ends the input and waits until `ringctl` delivered everything. Lines written and acknowledged.
    pub fn finish(mut self) -> (u64, Vec<Ack>) {
        self.stop.store(true, Ordering::SeqCst);
        self.writer.join().expect("the writer wrote");
        let status = self.child.wait().expect("ringctl ends");
        assert!(status.success(), "ringctl produce {}: {status}", self.topic);
        self.reader.join().expect("the reader read");
        (self.written.load(Ordering::SeqCst), self.acks.lock().expect("no holder panics").clone())
    }
}

fn parse(line: &str) -> Option<Ack> {
    let mut numbers = line.split(' ').map(|word| word.parse().ok());
    Some(Ack { line: numbers.next()??, partition: numbers.next()??, offset: numbers.next()?? })
}

/// Creates topics, fills and deletes them, so that segments hold dead runs and are rewritten.
pub struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    deleted: Arc<Mutex<Vec<String>>>,
}

impl Churn {
    pub fn start(ringctl: Ringctl) -> Churn {
        let (stop, deleted) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, list) = (stop.clone(), deleted.clone());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let topic = format!("churn-{number}");
                if ringctl.run(&["topic", "create", &topic, "--partitions", "4"]).is_err() {
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
                fill(&ringctl, &topic);
                if ringctl.run(&["topic", "delete", &topic]).is_ok() {
                    list.lock().expect("no holder panics").push(topic);
                }
            }
        });
        Churn { stop, thread, deleted }
    }

    pub fn deleted(&self) -> Vec<String> {
        self.deleted.lock().expect("no holder panics").clone()
    }

    pub fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the churn ends");
        self.deleted.lock().expect("no holder panics").len()
    }
}

fn fill(ringctl: &Ringctl, topic: &str) {
    let words = ["produce", topic, "--delivery-timeout", "5"];
    let child = ringctl.command(&words).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("ringctl starts");
    let mut input = child.stdin.take().expect("piped");
    let line = "y".repeat(1000);
    for _ in 0..1000 {
        if writeln!(input, "{line}").is_err() {
            break;
        }
    }
    drop(input);
    let _ = child.wait();
}
