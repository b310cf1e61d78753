//! Reads a topic from its beginning and goes on until it is stopped.
//!
//! `cargo run --features client --example consume -- [BROKER] [TOPIC]`, with a broker running.

use ringlog::client::{Client, ConsumeError, Consumer, ConsumerOptions, Options, Position};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let broker = arguments.next().unwrap_or_else(|| "127.0.0.1:7100".into());
    let topic = arguments.next().unwrap_or_else(|| "example".into());

    let client = Client::connect(Options::new(broker)).await?;
    let partitions = client.admin().describe(&topic).await?.shards.len() as u32;
    let consumer = Consumer::new(&client, ConsumerOptions::default());
    for partition in 0..partitions {
        consumer.assign(&topic, partition, Position::Earliest);
    }

    loop {
        match consumer.next().await {
            Ok(record) => {
                let text = |bytes: &Option<bytes::Bytes>| {
                    String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
                };
                println!(
                    "{}@{} {} = {}",
                    record.partition,
                    record.offset,
                    text(&record.key),
                    text(&record.value)
                );
            }
            // Damaged records are never given: say so, and go on behind them.
            Err(ConsumeError::Corrupt { topic, partition, offset, next_offset: Some(next), text }) => {
                eprintln!("{topic}-{partition}: offsets {offset}..{next} are damaged ({text})");
                consumer.seek(&topic, partition, Position::Offset(next))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
