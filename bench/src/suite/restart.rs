//! The row of a restart: kill -9 with much data, until a record is acknowledged again.
//!
//! Owner: ringbench's parent process.

use std::time::Duration;

use ringlog::client::{Client, Options, Producer, ProducerOptions, Record};

use crate::figures::{Metrics, put};
use crate::process::now_ns;
use crate::rig::{self, Rig};
use crate::round;
use crate::row::{Row, at_most};
use crate::server::Subject;
use crate::stats::median;
use crate::units::{bytes_text, short};

use super::Plan;

const GB: u64 = 1_000_000_000;
const BOUND_US: f64 = 1_000_000.0;
const KILLS: usize = 5;
/// A start that takes longer has failed.
const START_MAX: Duration = Duration::from_secs(60);

pub async fn run(plan: &Plan) -> Result<Vec<Row>, String> {
    let bytes = plan.bytes(20 * GB, 5 * GB);
    let load = plan.load();
    let mut setup = rig::setup(&load, false);
    setup.keep = u64::MAX;
    let mut rig = Rig::start(Subject::Broker, &load, &setup, None).await?;
    round::fill("restart: fill", &rig, &load, bytes.0).await?;
    let mut took_us = Vec::new();
    for number in 0..KILLS {
        // Killed under load, as it happens.
        let jobs = rig.producers(&load, None);
        let crew = crate::crew::Crew::start(&jobs).await?;
        let window = window_now(Duration::from_secs(600));
        let meter = crate::progress::Meter::new(&format!("restart {} of {KILLS}", number + 1), jobs.len());
        let address = rig.address.clone();
        let topic = rig.topic.clone();
        let server = rig.server.as_mut().ok_or("the broker must be started here")?;
        let killed = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.kill_and_begin_again()?;
            let start = now_ns();
            acknowledged(&address, &topic).await?;
            Ok::<u64, String>((now_ns() - start) / 1000)
        };
        let took = tokio::select! {
            took = killed => took?,
            done = crew.work(window, meter) => {
                done?;
                return Err("the load ended before the kill".into());
            }
        };
        took_us.push(took as f64);
    }
    rig.stop().await?;
    let mut metrics = Metrics::new();
    let slowest = took_us.iter().copied().fold(0.0, f64::max);
    put(&mut metrics, "restart_p50_us", median(&took_us));
    put(&mut metrics, "restart_max_us", Some(slowest));
    let mut row = Row::new(format!("kill -9 under load with {}", bytes_text(bytes.0)), metrics);
    row.goals.push(at_most("restart_max_us", BOUND_US));
    row.notes.push(format!(
        "to the first acknowledged record: median {} ms, slowest of {KILLS} {} ms",
        short(median(&took_us).unwrap_or(0.0) / 1000.0),
        short(slowest / 1000.0)
    ));
    Ok(vec![row])
}

fn window_now(length: Duration) -> crate::job::Window {
    let start_ns = now_ns();
    crate::job::Window { start_ns, count_ns: start_ns, stop_ns: start_ns + length.as_nanos() as u64 }
}

/// Waits until a record of a new client is acknowledged. It retries often: what is measured is the
/// broker's time, not a client's patience.
async fn acknowledged(address: &str, topic: &str) -> Result<(), String> {
    let mut options = Options::new(address);
    options.client_id = "ringbench".into();
    options.connect_timeout = START_MAX;
    options.backoff = Duration::from_millis(2);
    options.backoff_max = Duration::from_millis(5);
    let client = Client::connect(options).await.map_err(|error| error.to_string())?;
    let settings = ProducerOptions { linger: Duration::ZERO, ..ProducerOptions::default() };
    let producer = Producer::new(&client, settings);
    let record = Record { value: Some("alive".into()), ..Record::default() };
    let outcome = producer.send(topic, record).await.await;
    outcome.map(drop).map_err(|error| error.to_string())
}
