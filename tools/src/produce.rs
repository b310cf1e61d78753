//! `produce`: lines from stdin to records.
//!
//! Owner: ringctl. One thread reads stdin, one task sends and prints acknowledgements; memory is
//! bounded by the producer's budget, whose back-pressure reaches stdin. A broker that is away is
//! waited for: nothing is given up but by `--delivery-timeout`.

use std::io::{IsTerminal, Read};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use ringlog::client::{Client, ProduceError, Producer, ProducerOptions, Record};
use ringlog::record::Compression;
use ringlog::wire;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::acks::AckBook;
use crate::cli;
use crate::connect::failed;
use crate::lines::{LineReader, Lines, Piece};
use crate::output::{Outcome, Stop, count, no_partition};
use crate::progress::Progress;
use crate::value::Separator;

/// A longer line is left out while it is read: no topic can take it.
const LINE_BYTES_MAX: usize = wire::BATCH_BYTES_MAX;
/// How often work that waits looks whether to say so.
const SILENCE: Duration = Duration::from_secs(1);
/// Blocks of lines read ahead.
const PIECES: usize = 4;

pub async fn run(client: &Client, options: cli::Produce) -> Outcome {
    let settings = ProducerOptions {
        acks: match options.acks {
            cli::Acks::None => wire::Acks::None,
            cli::Acks::Leader => wire::Acks::Leader,
            cli::Acks::All => wire::Acks::All,
        },
        compression: match options.compression {
            cli::Compression::None => Compression::None,
            cli::Compression::Lz4 => Compression::Lz4,
            cli::Compression::Zstd => Compression::Zstd,
        },
        delivery_timeout: options.delivery_timeout,
        ..ProducerOptions::default()
    };
    if let Err(stop) = check_target(client, &options).await {
        return match stop {
            Stop::Failed(reason) => nothing_delivered(reason).await,
            stop => Err(stop),
        };
    }
    let producer = Producer::new(client, settings);
    let mut sender = Sender::new(producer, options);
    let mut pieces = read_stdin();
    while let Some(piece) = sender.next_piece(&mut pieces).await {
        match piece.map_err(|error| Stop::failed(format!("stdin: {error}")))? {
            Piece::Lines(block) => sender.send_lines(block).await,
            Piece::TooLong { bytes } => sender.too_long(bytes),
        }
        sender.book.collect();
        sender.tell();
    }
    sender.finish().await
}

/// No broker was found in time, or no topic: what stdin holds is counted as not delivered.
pub async fn nothing_delivered(reason: String) -> Outcome {
    if std::io::stdin().is_terminal() {
        return Err(Stop::Failed(reason));
    }
    eprintln!("ringctl: {reason}");
    let mut pieces = read_stdin();
    let mut lines = 0;
    let mut rest = "";
    loop {
        lines += match tokio::time::timeout(SILENCE, pieces.recv()).await {
            Ok(None) => break,
            Ok(Some(piece)) => match piece.map_err(|error| Stop::failed(format!("stdin: {error}")))? {
                Piece::Lines(block) => Lines::new(block).count() as u64,
                Piece::TooLong { .. } => 1,
            },
            Err(_) => {
                // Whoever writes there may not know yet that it is in vain.
                rest = "; stdin was not read to its end";
                break;
            }
        }
    }
    Err(Stop::Failed(format!("{} not delivered, 0 delivered{rest}", count(lines, "record"))))
}

/// A topic or partition that is not there is said once, before anything is read.
async fn check_target(client: &Client, options: &cli::Produce) -> Outcome {
    let name = &options.topic;
    let topic = client.admin().describe(name).await.map_err(failed)?;
    match options.partition {
        Some(partition) if partition as usize >= topic.shards.len() => {
            Err(no_partition(name, topic.shards.len(), partition))
        }
        _ => Ok(()),
    }
}

/// Reads stdin on a thread of its own: a blocking read must not hold the sender up.
fn read_stdin() -> mpsc::Receiver<std::io::Result<Piece>> {
    let (pieces, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut reader = LineReader::new(std::io::stdin().lock(), LINE_BYTES_MAX);
        send_pieces(&mut reader, &pieces);
    });
    receiver
}

fn send_pieces<R: Read>(reader: &mut LineReader<R>, pieces: &mpsc::Sender<std::io::Result<Piece>>) {
    loop {
        let next = reader.next().transpose();
        let Some(piece) = next else { return };
        let failed = piece.is_err();
        // A closed channel: the sender has given up, and says why.
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

/// How long a topic that is not there is believed to be gone: it is not asked for with every line.
const GONE: Duration = Duration::from_millis(200);

struct Gone {
    since: Instant,
    reason: String,
}

struct Sender {
    producer: Producer,
    topic: String,
    separator: Option<(memmem::Finder<'static>, usize)>,
    partition: Option<u32>,
    headers: Vec<(String, Option<Bytes>)>,
    book: AckBook,
    acks: cli::Acks,
    /// The topic was not there when it was last asked for.
    gone: Option<Gone>,
    /// Lines read so far.
    line: u64,
    bytes: u64,
    progress: Progress,
}

impl Sender {
    fn new(producer: Producer, options: cli::Produce) -> Sender {
        let separator = options
            .key_separator
            .map(|Separator(bytes)| (memmem::Finder::new(&bytes).into_owned(), bytes.len()));
        let header = |(name, value): (String, String)| (name, Some(Bytes::from(value)));
        Sender {
            producer,
            topic: options.topic,
            separator,
            partition: options.partition,
            headers: options.headers.into_iter().map(header).collect(),
            book: AckBook::new(options.print_acks),
            acks: options.acks,
            gone: None,
            line: 0,
            bytes: 0,
            progress: Progress::new("read"),
        }
    }

    fn tell(&mut self) {
        let trouble = || self.producer.trouble();
        self.progress.tell(self.line, self.bytes, self.book.waiting(), trouble);
    }

    /// The next lines; acknowledgements are taken while they are waited for.
    async fn next_piece(
        &mut self,
        pieces: &mut mpsc::Receiver<std::io::Result<Piece>>,
    ) -> Option<std::io::Result<Piece>> {
        loop {
            tokio::select! {
                biased;
                piece = pieces.recv() => return piece,
                () = self.book.changed() => {}
            }
        }
    }

    async fn send_lines(&mut self, block: Bytes) {
        for line in Lines::new(block) {
            self.line += 1;
            self.bytes += line.len() as u64;
            let record = self.record(line);
            self.send(record).await;
        }
    }

    fn record(&self, line: Bytes) -> Record {
        let (key, value) = match &self.separator {
            Some((finder, separator_bytes)) => match finder.find(&line) {
                Some(at) => (Some(line.slice(..at)), line.slice(at + separator_bytes..)),
                None => (None, line),
            },
            None => (None, line),
        };
        Record {
            partition: self.partition,
            key,
            value: Some(value),
            headers: self.headers.clone(),
            timestamp: None,
        }
    }

    async fn send(&mut self, record: Record) {
        if let Some(gone) = self.gone.as_ref().filter(|gone| gone.since.elapsed() < GONE) {
            return self.book.failed(self.line, &gone.reason);
        }
        let delivery = match self.producer.try_send(&self.topic, &record) {
            Some(delivery) => delivery,
            None => {
                let producer = self.producer.clone();
                let topic = self.topic.clone();
                let mut sending = pin!(producer.send(&topic, record));
                loop {
                    tokio::select! {
                        biased;
                        delivery = &mut sending => break delivery,
                        () = self.book.changed() => {}
                        () = tokio::time::sleep(SILENCE) => {}
                    }
                    self.tell();
                }
            }
        };
        if let Some(Err(error @ ProduceError::UnknownTopic { .. })) = delivery.outcome() {
            self.gone = Some(Gone { since: Instant::now(), reason: error.to_string() });
        }
        self.book.sent(self.line, delivery);
    }

    fn too_long(&mut self, bytes: u64) {
        self.line += 1;
        self.book.failed(
            self.line,
            &format!("a line of {bytes} bytes is larger than any record may be ({LINE_BYTES_MAX} bytes)"),
        );
    }

    /// Waits for every acknowledgement and says how it went.
    async fn finish(mut self) -> Outcome {
        {
            let producer = self.producer.clone();
            let mut flushing = pin!(producer.flush());
            loop {
                tokio::select! {
                    biased;
                    () = self.book.changed() => {}
                    () = &mut flushing => break,
                    () = tokio::time::sleep(SILENCE) => {}
                }
                self.tell();
            }
        }
        self.book.settle().await;
        self.producer.close().await;
        let failed = self.book.failures();
        let delivered = self.line - failed;
        match failed {
            0 if let Some(error) = self.book.unprinted() => {
                let delivered = count(delivered, "record");
                Err(Stop::Failed(format!(
                    "{delivered} delivered, but not all acknowledgements printed: {error}"
                )))
            }
            0 => {
                let delivered = count(delivered, "record");
                match self.acks {
                    cli::Acks::None => {
                        eprintln!("ringctl: {delivered} sent; --acks 0 asks for no acknowledgement")
                    }
                    _ => eprintln!("ringctl: {delivered} delivered"),
                }
                Ok(())
            }
            _ => {
                let failed = count(failed, "record");
                Err(Stop::Failed(format!("{failed} not delivered, {delivered} delivered")))
            }
        }
    }
}
