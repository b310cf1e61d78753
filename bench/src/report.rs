//! Figures for people and for programs.
//!
//! Owner: ringbench.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Load;
use crate::round::{Figures, Subject};
use crate::units::grouped;

/// Bytes per second that the machine can do at best.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    pub disk: f64,
    pub loopback: f64,
}

impl Ceilings {
    pub fn least(self) -> f64 {
        self.disk.min(self.loopback)
    }
}

impl Figures {
    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    fn per_record_us(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.records.max(1) as f64
    }

    fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }

    fn json(&self) -> Value {
        let verified = self.verified.as_ref().map(|verified| match verified {
            Ok(records) => json!({ "records": records }),
            Err(error) => json!({ "error": error }),
        });
        json!({
            "subject": self.subject.name(),
            "seconds": self.seconds,
            "records": self.records,
            "records_per_second": self.records_per_second(),
            "bytes_per_second": self.bytes_per_second(),
            "errors": self.errors,
            "first_error": self.first_error,
            "latency_ms": {
                "p50": self.latency_ms(0.5),
                "p90": self.latency_ms(0.9),
                "p99": self.latency_ms(0.99),
                "p999": self.latency_ms(0.999),
                "max": self.latency_us.max() as f64 / 1000.0,
            },
            "server_cpu_us_per_record": self.server_cpu.map(|cpu| self.per_record_us(cpu)),
            "server_cpus": self.server_cpu.map(|cpu| cpu.as_secs_f64() / self.seconds),
            "client_cpu_us_per_record": self.per_record_us(self.client_cpu),
            "disk_writes": self.disk.map(|disk| disk.writes),
            "disk_written_bytes": self.disk.map(|disk| disk.written_bytes),
            "disk_flushes": self.disk.map(|disk| disk.flushes),
            "verified": verified,
        })
    }

    fn row(&self) -> String {
        let cpu = self.server_cpu.map_or("-".into(), |cpu| format!("{:.2}", self.per_record_us(cpu)));
        let flushes = self.disk.map_or("-".into(), |disk| grouped(disk.flushes as f64 / self.seconds));
        let writes = self.disk.map_or("-".into(), |disk| grouped(disk.writes as f64 / self.seconds));
        format!(
            "{:<7} {:>11} {:>8} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>9} {:>9} {:>9} {:>7}",
            self.subject.name(),
            grouped(self.records_per_second()),
            grouped(self.bytes_per_second() / 1e6),
            self.latency_ms(0.5),
            self.latency_ms(0.99),
            self.latency_ms(0.999),
            self.latency_us.max() as f64 / 1000.0,
            cpu,
            writes,
            flushes,
            self.errors,
        )
    }
}

const HEAD: &str =
    "subject   records/s     MB/s   p50 ms   p99 ms p99.9 ms   max ms  cpu us/r  writes/s flushes/s  errors";

/// Mean bytes per second of the rounds of one subject.
fn mean(rounds: &[Figures], subject: Subject) -> Option<f64> {
    let rates: Vec<f64> =
        rounds.iter().filter(|round| round.subject == subject).map(Figures::bytes_per_second).collect();
    (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
}

/// What the broker reaches of the roofline.
pub fn eta(rounds: &[Figures]) -> Option<f64> {
    Some(mean(rounds, Subject::Broker)? / mean(rounds, Subject::Null)?)
}

pub fn print(load: &Load, rounds: &[Figures], ceilings: Option<Ceilings>) {
    if load.json {
        return print_json(load, rounds, ceilings);
    }
    let (size, partitions, producers) = (load.size.0, load.partitions, load.producers);
    println!(
        "{size} B records, {partitions} partitions, {producers} client(s) with {} MiB each, linger {:?}, {:?} a round",
        load.memory.0 >> 20,
        load.linger.0,
        load.duration.0
    );
    println!("{HEAD}");
    for round in rounds {
        println!("{}", round.row());
        if let Some(error) = &round.first_error {
            println!("        first error: {error}");
        }
        match &round.verified {
            Some(Ok(records)) => println!("        verified: {records} records, each once and in order"),
            Some(Err(error)) => println!("        NOT VERIFIED: {error}"),
            None => {}
        }
    }
    if let Some(ceilings) = ceilings {
        println!(
            "ceilings: disk {} MB/s, loopback {} MB/s",
            grouped(ceilings.disk / 1e6),
            grouped(ceilings.loopback / 1e6)
        );
        if let Some(null) = mean(rounds, Subject::Null) {
            println!("null reaches {:.2} of the smaller", null / ceilings.least());
        }
    }
    if let Some(eta) = eta(rounds) {
        println!("eta (broker / null): {eta:.3}");
    }
}

fn print_json(load: &Load, rounds: &[Figures], ceilings: Option<Ceilings>) {
    let value = json!({
        "record_bytes": load.size.0,
        "partitions": load.partitions,
        "producers": load.producers,
        "memory_bytes": load.memory.0,
        "linger_ms": load.linger.0.as_secs_f64() * 1000.0,
        "shards": load.shards,
        "rounds": rounds.iter().map(Figures::json).collect::<Vec<_>>(),
        "disk_ceiling_bytes_per_second": ceilings.map(|ceilings| ceilings.disk),
        "loopback_ceiling_bytes_per_second": ceilings.map(|ceilings| ceilings.loopback),
        "eta": eta(rounds),
    });
    println!("{value}");
}
