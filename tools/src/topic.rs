//! `topic` and `offsets`: questions to the broker and their answers on stdout.
//!
//! Owner: ringctl.

use std::io::Write;

use ringlog::client::{Client, TopicDescription};
use serde_json::{Map, Value, json};

use crate::cli::{Offsets, Topic};
use crate::connect::failed;
use crate::output::{Outcome, Output, count};

pub async fn run(client: &Client, command: Topic) -> Outcome {
    let admin = client.admin();
    match command {
        Topic::Create { name, partitions, configs } => {
            let partitions = admin.create_topic(&name, partitions, &configs).await.map_err(failed)?;
            eprintln!("ringctl: created {name} with {}", count(partitions.into(), "partition"));
        }
        Topic::List { json } => {
            let topics = admin.list_topics().await.map_err(failed)?;
            return list(&topics, json);
        }
        Topic::Describe { name, json } => {
            let topic = admin.describe(&name).await.map_err(failed)?;
            let offsets = admin.offsets(&name).await.map_err(failed)?;
            return if json { describe_json(&topic, &offsets) } else { describe(&topic, &offsets) };
        }
        Topic::Alter { name, partitions, configs } => {
            let configs: Vec<_> = configs
                .into_iter()
                .map(|(key, value)| (key, Some(value).filter(|v| !v.is_empty())))
                .collect();
            let partitions = admin.alter_topic(&name, partitions, &configs).await.map_err(failed)?;
            eprintln!("ringctl: altered {name}, which has {}", count(partitions.into(), "partition"));
        }
        Topic::Delete { name } => {
            admin.delete_topic(&name).await.map_err(failed)?;
            eprintln!("ringctl: deleted {name}");
        }
        Topic::Trim { name, partition, before } => {
            let before = (before >= 0).then_some(before);
            let log_start = admin.delete_records(&name, partition, before).await.map_err(failed)?;
            let mut output = Output::new();
            writeln!(output, "{log_start}")?;
            output.flush()?;
        }
    }
    Ok(())
}

/// A line `PARTITION EARLIEST LATEST` for each partition.
pub async fn offsets(client: &Client, options: &Offsets) -> Outcome {
    let offsets = client.admin().offsets(&options.topic).await.map_err(failed)?;
    let mut output = Output::new();
    if options.json {
        let rows: Vec<Value> = partitions_json(&offsets);
        writeln!(output, "{}", Value::from(rows))?;
    } else {
        for (partition, (earliest, latest)) in offsets.iter().enumerate() {
            writeln!(output, "{partition} {earliest} {latest}")?;
        }
    }
    Ok(output.flush()?)
}

fn partitions_json(offsets: &[(i64, i64)]) -> Vec<Value> {
    let row = |(partition, (earliest, latest)): (usize, &(i64, i64))| json!({ "partition": partition, "earliest": earliest, "latest": latest });
    offsets.iter().enumerate().map(row).collect()
}

fn list(topics: &[TopicDescription], json: bool) -> Outcome {
    let mut output = Output::new();
    if json {
        let rows: Vec<Value> = topics
            .iter()
            .map(|topic| {
                let (name, id) = (&topic.name, topic.id.to_string());
                json!({ "name": name, "id": id, "partitions": topic.shards.len() })
            })
            .collect();
        writeln!(output, "{}", Value::from(rows))?;
    } else {
        for topic in topics {
            writeln!(output, "{}", topic.name)?;
        }
    }
    Ok(output.flush()?)
}

fn describe_json(topic: &TopicDescription, offsets: &[(i64, i64)]) -> Outcome {
    let mut partitions = partitions_json(offsets);
    for (row, shard) in partitions.iter_mut().zip(&topic.shards) {
        row["shard"] = Value::from(*shard);
    }
    let config = |(key, value, is_set): &(String, String, bool)| {
        (key.clone(), json!({ "value": value, "set": is_set }))
    };
    let configs: Map<String, Value> = topic.configs.iter().map(config).collect();
    let (name, id) = (&topic.name, topic.id.to_string());
    let value = json!({ "name": name, "id": id, "partitions": partitions, "configs": configs });
    let mut output = Output::new();
    writeln!(output, "{value}")?;
    Ok(output.flush()?)
}

fn describe(topic: &TopicDescription, offsets: &[(i64, i64)]) -> Outcome {
    let mut output = Output::new();
    writeln!(output, "topic {}", topic.name)?;
    writeln!(output, "id {}", topic.id)?;
    writeln!(output, "partitions {}", topic.shards.len())?;
    for (key, value, is_set) in &topic.configs {
        let origin = if *is_set { "set on the topic" } else { "default" };
        writeln!(output, "config {key}={value} ({origin})")?;
    }
    for (partition, ((earliest, latest), shard)) in offsets.iter().zip(&topic.shards).enumerate() {
        let records = latest - earliest;
        writeln!(
            output,
            "partition {partition} shard {shard} earliest {earliest} latest {latest} records {records}"
        )?;
    }
    Ok(output.flush()?)
}
