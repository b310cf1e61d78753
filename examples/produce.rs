//! Sends a thousand keyed records and prints where they went.
//!
//! `cargo run --features client --example produce -- [BROKER] [TOPIC]`, with a broker running
//! (`cargo run --release`). The topic is created if there is none.

use std::collections::BTreeMap;

use ringlog::client::{Client, ClientError, Options, Producer, ProducerOptions, Record};
use ringlog::model::ErrorCode;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let broker = arguments.next().unwrap_or_else(|| "127.0.0.1:7100".into());
    let topic = arguments.next().unwrap_or_else(|| "example".into());

    let client = Client::connect(Options::new(broker)).await?;
    match client.admin().create_topic(&topic, Some(4), &[]).await {
        Ok(partitions) => eprintln!("created {topic} with {partitions} partitions"),
        Err(ClientError::Refused(failure)) if failure.code == ErrorCode::TopicAlreadyExists => {}
        Err(error) => return Err(error.into()),
    }

    let producer = Producer::new(&client, ProducerOptions::default());
    let mut deliveries = Vec::new();
    for i in 0..1000 {
        let record = Record {
            key: Some(format!("customer {}", i % 10).into()),
            value: Some(format!("order {i}").into()),
            ..Record::default()
        };
        // Waits only if the producer's memory is full; the acknowledgement comes later.
        deliveries.push(producer.send(&topic, record).await);
    }

    // Not to wait out the linger time of the last batches.
    producer.flush().await;
    let mut last = BTreeMap::new();
    for delivery in deliveries {
        let metadata = delivery.await?;
        last.insert(metadata.partition, metadata.offset);
    }
    for (partition, offset) in last {
        println!("partition {partition}: written up to offset {offset}");
    }
    producer.close().await;
    Ok(())
}
