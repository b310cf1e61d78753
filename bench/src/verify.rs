//! `--verify`: reads back what a round wrote.
//!
//! Owner: ringbench.

use std::collections::BTreeMap;

use ringlog::client::{Client, Consumer, ConsumerOptions, Position};

use crate::load::stamp_of;

/// Records of one producer that were seen, one bit each.
#[derive(Default)]
struct Seen {
    bits: Vec<u64>,
    count: u64,
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
}

/// Gives the number of records read. `acknowledged`: how many of each producer must be there.
pub async fn run(client: &Client, topic: &str, acknowledged: &[u64]) -> Result<u64, String> {
    let offsets = client.admin().offsets(topic).await.map_err(|error| error.to_string())?;
    let consumer = Consumer::new(client, ConsumerOptions::default());
    let mut left = 0;
    for (partition, (earliest, latest)) in offsets.iter().enumerate() {
        if earliest < latest {
            consumer.assign(topic, partition as u32, Position::Offset(*earliest));
            left += 1;
        }
    }
    let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut last: BTreeMap<(u64, u32), u64> = BTreeMap::new();
    let mut total = 0;
    while left > 0 {
        let batch = consumer.next_batch().await.map_err(|error| error.to_string())?;
        for record in batch.records() {
            let record = record.map_err(|error| error.to_string())?;
            let partition = batch.partition;
            let at = || format!("partition {partition} offset {}", record.offset);
            let Some((producer, number)) = record.value.and_then(stamp_of) else {
                return Err(format!("{}: not a record of ours", at()));
            };
            if !seen.entry(producer).or_default().add(number) {
                return Err(format!("{}: record {number} of producer {producer} is there twice", at()));
            }
            if last.insert((producer, partition), number).is_some_and(|last| last > number) {
                return Err(format!("{}: record {number} of producer {producer} is out of order", at()));
            }
            total += 1;
        }
        if batch.next_offset >= offsets[batch.partition as usize].1 {
            consumer.unassign(topic, batch.partition);
            left -= 1;
        }
    }
    consumer.close();
    for (producer, wanted) in acknowledged.iter().enumerate() {
        let found = seen.get(&(producer as u64)).map_or(0, |seen| seen.count);
        if found < *wanted {
            return Err(format!(
                "producer {producer}: {wanted} records were acknowledged, {found} are there"
            ));
        }
    }
    Ok(total)
}
