//! What rounds measured, and their medians by name.
//!
//! Owner: ringbench. Pure. Bytes are those of values: what a user brought, not what it became.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::process::{DiskUse, ProcessUse};
use crate::server::Subject;
use crate::stats::{Latency, median, spread};

/// One direction of a round.
pub struct Flow {
    /// While it counted.
    pub records: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// To acknowledgement of what was produced; from end to end of what was consumed.
    pub latency_us: Latency,
    /// How late the generator was.
    pub late_us: Latency,
}

impl Flow {
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }
}

/// What one round measured.
pub struct Figures {
    pub subject: Subject,
    pub produced: Option<Flow>,
    pub consumed: Option<Flow>,
    pub seconds: f64,
    /// Were due in an open loop, but could not be sent before its end.
    pub unsent: u64,
    /// Were acknowledged, but not read before the consumers of an open loop gave up.
    pub unread: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Of the server's process, between the ends of the window; if it was started here.
    pub server: Option<ProcessUse>,
    /// CPU time of all workers.
    pub client_cpu: Duration,
    /// CPU time of everything else on the machine, the kernel's own threads included.
    pub other_cpu: Option<Duration>,
    pub disk: Option<DiskUse>,
    pub verified: Option<Result<u64, String>>,
}

impl Figures {
    /// Without what the server took: that was for others too.
    pub fn of_one_among_others(self) -> Figures {
        Figures { server: None, disk: None, other_cpu: None, ..self }
    }

    /// What the round was about: what was produced, or else consumed.
    pub fn main(&self) -> Option<&Flow> {
        self.produced.as_ref().or(self.consumed.as_ref())
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.main().map_or(0.0, Flow::bytes_per_second)
    }

    fn cpu_ns(&self) -> Option<f64> {
        Some(self.server?.cpu.as_nanos() as f64)
    }

    fn handled(&self, of: impl Fn(&Flow) -> u64) -> f64 {
        let flows = [&self.produced, &self.consumed].into_iter().flatten();
        flows.map(of).sum::<u64>().max(1) as f64
    }
}

/// Figures by name. Those that do not apply are null.
pub type Metrics = Map<String, Value>;

fn number(value: Option<f64>) -> Value {
    value.filter(|value| value.is_finite()).map_or(Value::Null, |value| json!(value))
}

pub fn put(metrics: &mut Metrics, name: &str, value: Option<f64>) {
    metrics.insert(name.into(), number(value));
}

pub fn get(metrics: &Metrics, name: &str) -> Option<f64> {
    metrics.get(name)?.as_f64()
}

/// Medians over some rounds.
struct Medians<'a>(Vec<&'a Figures>);

impl Medians<'_> {
    fn of(&self, what: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.0.iter().filter_map(|round| what(round)).collect();
        median(&values)
    }

    /// The largest: of maxima a median would hide the worst.
    fn most(&self, what: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        self.0.iter().filter_map(|round| what(round)).reduce(f64::max)
    }

    fn sum(&self, what: impl Fn(&Figures) -> u64) -> u64 {
        self.0.iter().map(|round| what(round)).sum()
    }

    /// How far the rounds lie apart; one alone says nothing about it.
    fn spread(&self) -> Option<f64> {
        (self.0.len() > 1).then(|| spread(&self.rates(Figures::main)))
    }

    fn rates(&self, of: impl Fn(&Figures) -> Option<&Flow>) -> Vec<f64> {
        self.0.iter().filter_map(|round| Some(of(round)?.bytes_per_second())).collect()
    }
}

/// Names and quantiles of latencies.
pub const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999), ("max", 1.0)];

fn put_latency(
    metrics: &mut Metrics,
    prefix: &str,
    rounds: &Medians,
    of: impl Fn(&Figures) -> Option<&Latency>,
) {
    for (name, quantile) in QUANTILES {
        let at = |round: &Figures| {
            let latency = of(round).filter(|latency| !latency.is_empty())?;
            Some(latency.value_at_quantile(quantile) as f64)
        };
        let value = if quantile < 1.0 { rounds.of(at) } else { rounds.most(at) };
        put(metrics, &format!("{prefix}{name}_us"), value);
    }
}

/// Everything that the rounds of one case say.
pub fn summarise(rounds: &[Figures]) -> Metrics {
    let by = |subject| Medians(rounds.iter().filter(|round| round.subject == subject).collect());
    let (mut own, null) = (by(Subject::Broker), by(Subject::Null));
    if own.0.is_empty() {
        own = by(Subject::Null);
    }
    let mut metrics = Metrics::new();
    let out = &mut metrics;
    put(out, "records_per_second", own.of(|round| Some(round.main()?.records_per_second())));
    put(out, "bytes_per_second", median(&own.rates(Figures::main)));
    put(out, "null_bytes_per_second", median(&null.rates(Figures::main)));
    put(out, "eta", ratio(median(&own.rates(Figures::main)), median(&null.rates(Figures::main))));
    put(out, "spread", own.spread());
    put(out, "null_spread", null.spread());
    if rounds.iter().any(|round| round.produced.is_some() && round.consumed.is_some()) {
        let consumed = Figures::consumed;
        put(out, "consumed_bytes_per_second", median(&own.rates(consumed)));
        put(out, "null_consumed_bytes_per_second", median(&null.rates(consumed)));
        put(out, "consumed_eta", ratio(median(&own.rates(consumed)), median(&null.rates(consumed))));
        put_latency(out, "end_to_end_", &own, |round| Some(&round.consumed.as_ref()?.latency_us));
    }
    put_latency(out, "", &own, |round| Some(&round.produced.as_ref()?.latency_us));
    put_latency(out, "late_", &own, |round| Some(&round.produced.as_ref()?.late_us));
    put_latency(out, "null_", &null, |round| Some(&round.produced.as_ref()?.latency_us));
    put_costs(out, &own);
    let null_cpu = null.of(|round| Some(round.cpu_ns()? / round.handled(|flow| flow.records)));
    put(out, "null_cpu_ns_per_record", null_cpu);
    out.insert("rounds".into(), json!(own.0.len()));
    out.insert("unsent".into(), json!(own.sum(|round| round.unsent)));
    out.insert("null_unsent".into(), json!(null.sum(|round| round.unsent)));
    out.insert("unread".into(), json!(own.sum(|round| round.unread)));
    let errors: u64 = rounds.iter().map(|round| round.errors).sum();
    out.insert("errors".into(), json!(errors));
    metrics
}

impl Figures {
    fn consumed(&self) -> Option<&Flow> {
        self.consumed.as_ref()
    }
}

pub fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? / b.filter(|b| *b > 0.0)?)
}

fn put_costs(out: &mut Metrics, own: &Medians) {
    let records = |round: &Figures| round.handled(|flow| flow.records);
    let bytes = |round: &Figures| round.handled(|flow| flow.bytes);
    put(out, "broker_cpu_ns_per_record", own.of(|round| Some(round.cpu_ns()? / records(round))));
    put(out, "broker_cpu_ns_per_byte", own.of(|round| Some(round.cpu_ns()? / bytes(round))));
    let per_core = |round: &Figures| Some(bytes(round) * 1e3 / round.cpu_ns().filter(|cpu| *cpu > 0.0)?);
    put(out, "megabytes_per_second_per_broker_core", own.of(per_core));
    put(out, "broker_cores", own.of(|round| Some(round.cpu_ns()? / 1e9 / round.seconds)));
    let other = |round: &Figures| Some(round.other_cpu?.as_secs_f64() / round.seconds);
    put(out, "other_cores", own.of(other));
    put(out, "client_cpu_ns_per_record", own.of(|r| Some(r.client_cpu.as_nanos() as f64 / records(r))));
    put(out, "broker_resident_bytes", own.of(|round| Some(round.server?.resident_bytes as f64)));
    put(out, "broker_resident_bytes_max", own.most(|round| Some(round.server?.resident_bytes_max as f64)));
    let payload = |round: &Figures| Some(round.produced.as_ref()?.bytes as f64).filter(|bytes| *bytes > 0.0);
    let written = |round: &Figures| Some(round.server?.written_bytes? as f64 / payload(round)?);
    put(out, "device_bytes_per_payload_byte", own.of(written));
    let of_disk = |round: &Figures| Some(round.disk?.written_bytes as f64 / payload(round)?);
    put(out, "whole_disk_bytes_per_payload_byte", own.of(of_disk));
    put(out, "flushes_per_second", own.of(|round| Some(round.disk?.flushes as f64 / round.seconds)));
    put(out, "writes_per_second", own.of(|round| Some(round.disk?.writes as f64 / round.seconds)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats;

    fn flow(bytes: u64) -> Flow {
        let mut latency_us = stats::latency();
        latency_us.saturating_record_n(100, 99);
        latency_us.saturating_record(900);
        let late_us = stats::latency();
        Flow { records: bytes / 100, bytes, seconds: 2.0, latency_us, late_us }
    }

    fn round(subject: Subject, bytes: u64) -> Figures {
        let server = ProcessUse {
            cpu: Duration::from_millis(500),
            written_bytes: Some(bytes + bytes / 10),
            resident_bytes: 7,
            ..ProcessUse::default()
        };
        Figures {
            subject,
            produced: Some(flow(bytes)),
            consumed: None,
            seconds: 2.0,
            unsent: 0,
            unread: 0,
            errors: 1,
            first_error: None,
            server: Some(server),
            client_cpu: Duration::ZERO,
            other_cpu: None,
            disk: None,
            verified: None,
        }
    }

    #[test]
    fn medians_are_told_by_name() {
        let rounds = [
            (Subject::Null, 400_000),
            (Subject::Broker, 200_000),
            (Subject::Broker, 300_000),
            (Subject::Null, 600_000),
        ];
        let metrics = summarise(&rounds.map(|(subject, bytes)| round(subject, bytes)));
        let near = |name, wanted: f64| {
            let got = get(&metrics, name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!((got - wanted).abs() < wanted * 1e-3, "{name}: {got}, not {wanted}");
        };
        near("bytes_per_second", 125_000.0);
        near("null_bytes_per_second", 250_000.0);
        near("eta", 0.5);
        near("spread", 0.4);
        near("records_per_second", 1_250.0);
        near("broker_cpu_ns_per_record", (500e6 / 2000.0 + 500e6 / 3000.0) / 2.0);
        near("device_bytes_per_payload_byte", 1.1);
        near("p50_us", 100.0);
        near("max_us", 900.0);
        near("errors", 4.0);
        assert!(metrics["flushes_per_second"].is_null() && metrics["late_p50_us"].is_null());
        assert!(!metrics.contains_key("consumed_eta"));
    }

    #[test]
    fn the_worst_round_gives_the_maximum_and_one_round_no_spread() {
        let mut slow = round(Subject::Broker, 200_000);
        slow.produced.iter_mut().for_each(|flow| flow.latency_us.saturating_record(50_000));
        let metrics = summarise(&[round(Subject::Broker, 200_000), slow]);
        let max = get(&metrics, "max_us").unwrap();
        assert!((max - 50_000.0).abs() < 50.0, "{max}");
        assert_eq!(get(&metrics, "spread"), Some(0.0));
        let metrics = summarise(&[round(Subject::Broker, 200_000)]);
        assert!(metrics["spread"].is_null() && metrics["null_spread"].is_null());
    }

    #[test]
    fn null_alone_speaks_for_itself() {
        let metrics = summarise(&[round(Subject::Null, 400_000)]);
        assert_eq!(get(&metrics, "bytes_per_second"), get(&metrics, "null_bytes_per_second"));
    }
}
