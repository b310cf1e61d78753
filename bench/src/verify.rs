//! `--verify`: reads back what a round wrote, and compares it by count and checksum.
//!
//! Owner: ringbench's parent process.

use std::time::Duration;

use ringlog::client::{Client, ConsumedBatch, Consumer, ConsumerOptions, Position};
use tokio::time::timeout;

use crate::job::Report;
use crate::progress::Meter;
use crate::values::{checksum, stamp_of};

/// Nothing comes for so long: it will not come at all.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Records of one producer that were seen, one bit each.
#[derive(Default)]
struct Seen {
    bits: Vec<u64>,
    count: u64,
    sum: u64,
    /// The last number in each partition, plus one.
    last: Vec<u64>,
}

impl Seen {
    /// False if it was there already.
    fn add(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, number % 64);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits[word] & 1 << bit == 0;
        self.bits[word] |= 1 << bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// False if a later record of the partition came before.
    fn follows(&mut self, partition: u32, number: u64) -> bool {
        let index = partition as usize;
        if self.last.len() <= index {
            self.last.resize(index + 1, 0);
        }
        let is_next = self.last[index] <= number;
        self.last[index] = number + 1;
        is_next
    }
}

/// Gives the number of records read. `reports` of the producers, in their order: how many of each must be
/// there, and with which sum.
pub async fn run(client: &Client, topic: &str, reports: &[&Report]) -> Result<u64, String> {
    let offsets = client.admin().offsets(topic).await.map_err(|error| error.to_string())?;
    let consumer = Consumer::new(client, ConsumerOptions::default());
    let mut left = 0;
    for (partition, (earliest, latest)) in offsets.iter().enumerate() {
        if earliest < latest {
            consumer.assign(topic, partition as u32, Position::Offset(*earliest));
            left += 1;
        }
    }
    let meter = Meter::new("verify", 1);
    // Workers of single records count their clients as producers of their own.
    let mut seen: Vec<Seen> = Vec::new();
    let mut total = 0;
    while left > 0 {
        let batch = match timeout(SILENCE_MAX, consumer.next_batch()).await {
            Ok(batch) => batch.map_err(|error| error.to_string())?,
            Err(_) => {
                return Err(format!("nothing comes any more; {left} partitions are not read to their ends"));
            }
        };
        total += check(&batch, &mut seen)?;
        meter.note(0, total);
        if batch.next_offset >= offsets[batch.partition as usize].1 {
            consumer.unassign(topic, batch.partition);
            left -= 1;
        }
    }
    consumer.close();
    compare(&seen, reports)?;
    Ok(total)
}

/// Every record of a batch must be ours, new and in order. Gives their number.
fn check(batch: &ConsumedBatch, seen: &mut Vec<Seen>) -> Result<u64, String> {
    let mut count = 0;
    for record in batch.records() {
        let record = record.map_err(|error| error.to_string())?;
        let partition = batch.partition;
        let at = || format!("partition {partition} offset {}", record.offset);
        let value = record.value.unwrap_or_default();
        let Some(stamp) = stamp_of(value).filter(|stamp| stamp.producer < 1 << 20) else {
            return Err(format!("{}: not a record of ours", at()));
        };
        let (producer, number) = (stamp.producer, stamp.number);
        if seen.len() <= producer as usize {
            seen.resize_with(producer as usize + 1, Seen::default);
        }
        let own = &mut seen[producer as usize];
        if !own.add(number) {
            return Err(format!("{}: record {number} of producer {producer} is there twice", at()));
        }
        if !own.follows(partition, number) {
            return Err(format!("{}: record {number} of producer {producer} is out of order", at()));
        }
        own.sum = own.sum.wrapping_add(checksum(value));
        count += 1;
    }
    Ok(count)
}

fn compare(seen: &[Seen], reports: &[&Report]) -> Result<(), String> {
    let wanted: u64 = reports.iter().map(|report| report.records_total).sum();
    let found: u64 = seen.iter().map(|seen| seen.count).sum();
    if found < wanted {
        return Err(format!("{wanted} records were acknowledged, {found} are there"));
    }
    let errors: u64 = reports.iter().map(|report| report.errors).sum();
    if errors > 0 {
        // Records of unknown fate may be there: the sums cannot be compared.
        return Ok(());
    }
    let sum = |sums: &mut dyn Iterator<Item = u64>| sums.fold(0u64, u64::wrapping_add);
    let sent = sum(&mut reports.iter().map(|report| report.sum));
    let read = sum(&mut seen.iter().map(|seen| seen.sum));
    if found > wanted {
        return Err(format!("{found} records are there, more than the {wanted} that were acknowledged"));
    }
    if sent != read {
        return Err(format!("the checksums of {found} records differ from those that were sent"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: &[u64]) -> Seen {
        let mut seen = Seen::default();
        for number in numbers {
            assert!(seen.add(*number));
            seen.sum = seen.sum.wrapping_add(*number);
        }
        seen
    }

    #[test]
    fn counts_and_sums_are_compared() {
        let report = |records_total, sum, errors| Report { records_total, sum, errors, ..Report::default() };
        assert!(compare(&[seen(&[1, 2]), seen(&[70])], &[&report(2, 3, 0), &report(1, 70, 0)]).is_ok());
        assert!(compare(&[seen(&[1, 2])], &[&report(3, 3, 0)]).unwrap_err().contains("2 are there"));
        assert!(compare(&[seen(&[1, 2])], &[&report(2, 4, 0)]).unwrap_err().contains("checksums"));
        assert!(compare(&[seen(&[1, 2, 3])], &[&report(2, 3, 0)]).is_err());
        assert!(compare(&[seen(&[1, 2, 3])], &[&report(2, 3, 1)]).is_ok());
    }

    #[test]
    fn repetitions_and_disorder_are_seen() {
        let mut seen = Seen::default();
        assert!(seen.add(5) && !seen.add(5) && seen.add(64));
        assert!(seen.follows(3, 5) && seen.follows(3, 6) && seen.follows(1, 0));
        assert!(!seen.follows(3, 4));
    }
}
