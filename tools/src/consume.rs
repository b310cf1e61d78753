//! `consume`: records to stdout.
//!
//! Owner: ringctl. Without `--follow` each partition is read to its end as it stood at the start.
//! Damaged records are said on stderr and passed over; the exit code is 1 then.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use ringlog::client::{Client, ConsumeError, ConsumedBatch, Consumer, ConsumerOptions, Position};
use ringlog::wire::At;

use crate::cli;
use crate::connect::failed;
use crate::output::{self, Outcome, Output, Stop, no_partition};
use crate::place::StartOffset;
use crate::progress::Progress;
use crate::template::Fields;

/// Without anything to read for so long, it is asked whether what is missing is gone.
const SILENCE: Duration = Duration::from_secs(2);

struct Reader {
    client: Client,
    consumer: Consumer,
    options: cli::Consume,
    /// Partitions still read, and where to stop.
    ends: BTreeMap<u32, i64>,
    /// With `--follow` the wanted offset may lie ahead: nothing below it is printed.
    least: i64,
    output: Output,
    records: u64,
    bytes: u64,
    progress: Progress,
    lost: bool,
}

pub async fn run(client: Client, options: cli::Consume) -> Outcome {
    let consumer = Consumer::new(&client, ConsumerOptions::default());
    let least = if let StartOffset::At(offset) = options.offset { offset } else { 0 };
    let mut reader = Reader {
        client,
        consumer,
        options,
        least,
        ends: BTreeMap::new(),
        output: Output::new(),
        records: 0,
        bytes: 0,
        progress: Progress::new("read"),
        lost: false,
    };
    reader.assign().await?;
    let outcome = reader.read().await;
    // What was read before a failure belongs to the reader of stdout.
    reader.output.flush()?;
    outcome?;
    if reader.lost { Err(Stop::failed("some records cannot be read and were left out")) } else { Ok(()) }
}

impl Reader {
    /// Finds where each partition begins and ends.
    async fn assign(&mut self) -> Outcome {
        let admin = self.client.admin();
        let topic = &self.options.topic;
        let offsets = admin.offsets(topic).await.map_err(failed)?;
        let mut wanted = self.options.partitions.clone();
        if wanted.is_empty() {
            wanted = (0..offsets.len() as u32).collect();
        }
        for partition in wanted {
            let Some(&(earliest, latest)) = offsets.get(partition as usize) else {
                return Err(no_partition(topic, offsets.len(), partition));
            };
            let start = match self.options.from_time {
                Some(time) => {
                    let at = At::Timestamp(time.unix_ms);
                    let found = admin.list_offset(topic, partition, at).await.map_err(failed)?;
                    if found.offset < 0 { latest } else { found.offset }
                }
                None => start(self.options.offset, earliest, latest),
            };
            if self.options.follow || start < latest {
                self.consumer.assign(topic, partition, Position::Offset(start));
                self.ends.insert(partition, if self.options.follow { i64::MAX } else { latest });
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Outcome {
        if self.options.count == Some(0) {
            return Ok(());
        }
        while !self.ends.is_empty() {
            let Some(next) = self.next_batch().await? else {
                self.drop_ended().await?;
                continue;
            };
            match next {
                Ok(batch) => {
                    if !self.print(&batch)? {
                        return Ok(());
                    }
                }
                Err(error) => self.pass_over(error)?,
            }
            self.progress.tell(self.records, self.bytes, 0, || None);
        }
        Ok(())
    }

    /// The next batch; `None` after some silence. What was printed leaves before any waiting.
    async fn next_batch(&mut self) -> Result<Option<Result<ConsumedBatch, ConsumeError>>, Stop> {
        let mut next = pin!(self.consumer.next_batch());
        tokio::select! {
            biased;
            batch = &mut next => return Ok(Some(batch)),
            () = std::future::ready(()) => self.output.flush()?,
        }
        Ok(tokio::time::timeout(SILENCE, next).await.ok())
    }

    /// Prints the batch's records; false once enough are printed.
    fn print(&mut self, batch: &ConsumedBatch) -> Result<bool, Stop> {
        let Some(&end) = self.ends.get(&batch.partition) else { return Ok(true) };
        for record in batch.records() {
            let record = record.map_err(|error| {
                let (topic, partition) = (&batch.topic, batch.partition);
                Stop::Failed(format!(
                    "{topic}-{partition}: a batch was malformed when it was written: {error}"
                ))
            })?;
            if record.offset >= end {
                break;
            }
            if record.offset < self.least {
                continue;
            }
            let headers: Vec<_> = record.headers.collect();
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
            let fields = Fields {
                topic: &batch.topic,
                partition: batch.partition,
                offset: record.offset,
                timestamp_ms: record.timestamp,
                key: record.key,
                value: record.value,
                headers: &headers,
            };
            let before = self.output.buffer.len();
            self.options.format.render(&fields, &mut self.output.buffer);
            self.bytes += (self.output.buffer.len() - before) as u64;
            self.output.flush_if_full()?;
            self.records += 1;
            if self.options.count == Some(self.records) {
                return Ok(false);
            }
        }
        if batch.next_offset >= end {
            self.done(batch.partition);
        }
        Ok(true)
    }

    fn done(&mut self, partition: u32) {
        self.ends.remove(&partition);
        self.consumer.unassign(&self.options.topic, partition);
    }

    /// After an error: goes on behind what cannot be read, or gives up.
    fn pass_over(&mut self, error: ConsumeError) -> Outcome {
        let (topic, partition, next) = match &error {
            ConsumeError::Corrupt { topic, partition, next_offset: Some(next), .. }
            | ConsumeError::Compressed { topic, partition, next_offset: next, .. } => {
                (topic, partition, next)
            }
            _ => return Err(Stop::failed(error)),
        };
        eprintln!("ringctl: {error}");
        self.lost = true;
        if self.ends.get(partition).is_some_and(|end| next >= end) {
            self.done(*partition);
            return Ok(());
        }
        self.consumer.seek(topic, *partition, Position::Offset(*next)).map_err(Stop::failed)
    }

    /// Nothing came for a while. Records may have been deleted while we read: a partition whose wanted
    /// rest is gone has ended. And who follows an idle topic notices here that nobody reads stdout.
    async fn drop_ended(&mut self) -> Outcome {
        if self.options.follow {
            return if output::is_stdout_closed() { Err(Stop::PipeClosed) } else { Ok(()) };
        }
        // While the broker is away there is no answer, and the consumer waits for it as well.
        let Ok(offsets) = self.client.admin().offsets(&self.options.topic).await else { return Ok(()) };
        let ended = |(partition, end): (&u32, &i64)| {
            let earliest = offsets.get(*partition as usize).map_or(i64::MAX, |(earliest, _)| *earliest);
            let position = self.consumer.position(&self.options.topic, *partition);
            (earliest >= *end || position.is_some_and(|position| position >= *end)).then_some(*partition)
        };
        let gone: Vec<u32> = self.ends.iter().filter_map(ended).collect();
        gone.into_iter().for_each(|partition| self.done(partition));
        Ok(())
    }
}

/// The first offset to read. One that is not in the log is moved to its nearest end.
fn start(wanted: StartOffset, earliest: i64, latest: i64) -> i64 {
    match wanted {
        StartOffset::Earliest => earliest,
        StartOffset::Latest => latest,
        StartOffset::At(offset) => offset.clamp(earliest, latest),
        StartOffset::FromEnd(count) => latest.saturating_sub(count).max(earliest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_lie_in_the_log() {
        assert_eq!(start(StartOffset::Earliest, 5, 9), 5);
        assert_eq!(start(StartOffset::Latest, 5, 9), 9);
        assert_eq!(start(StartOffset::At(7), 5, 9), 7);
        assert_eq!(start(StartOffset::At(2), 5, 9), 5);
        assert_eq!(start(StartOffset::At(20), 5, 9), 9);
        assert_eq!(start(StartOffset::FromEnd(3), 5, 9), 6);
        assert_eq!(start(StartOffset::FromEnd(i64::MAX), 5, 9), 5);
    }
}
