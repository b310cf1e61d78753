//! `latency`: an open loop at fixed rates, or one record at a time.
//!
//! Owner: ringbench's parent process. Each rate meets a fresh broker; the raw durable append is measured
//! before and after all of them, since disks of shared machines change.

use std::path::Path;
use std::time::Duration;

use super::{blocking, finish, single};
use crate::case::{self, tell};
use crate::ceiling::{self, Blocks};
use crate::cli::{Latency, Load};
use crate::figures::{Figures, Metrics, get, put, summarise};
use crate::plot::{Axis, Line, Plot};
use crate::progress::say;
use crate::round;
use crate::row::{Goal, Row};
use crate::server::Subject;
use crate::stats;
use crate::units::{Span, bytes_text, grouped, short};

const APPEND: Duration = Duration::from_secs(1);

/// Rates of one load, and the bare disk beside them. What cannot be measured is a row that says so: the
/// others stay.
pub struct Ladder {
    load: Load,
    append: stats::Latency,
}

pub async fn run(options: &Latency) -> Result<(), String> {
    let mut load = options.load.clone();
    // Nothing that is measured here should wait for company.
    load.linger = load.linger.or(Some(Span(Duration::ZERO)));
    let load = &load;
    let ladder = Ladder::start(load).await?;
    let mut rows = Vec::new();
    if options.one_by_one {
        rows.push(ladder.one_by_one("one by one", Vec::new()).await);
    } else if let Some(rate) = load.rate {
        rows.push(ladder.at("latency", rate, Vec::new()).await);
    } else {
        let saturation = ladder.saturation().await?;
        for share in &options.ladder {
            let what = format!("latency at {:.0} %", share * 100.0);
            rows.push(ladder.at(&what, saturation * share, Vec::new()).await);
        }
    }
    ladder.end(&mut rows).await;
    if let Some(dir) = &options.plots {
        plot(&rows, dir)?;
    }
    if !load.place.json {
        rows.iter().for_each(single::print_details);
    }
    finish(&rows, load.place.json)
}

impl Ladder {
    pub async fn start(load: &Load) -> Result<Ladder, String> {
        let mut ladder = Ladder { load: load.clone(), append: stats::latency() };
        ladder.append().await?;
        Ok(ladder)
    }

    /// Some appends of the bare disk. That of a broker that was not started here is not known.
    async fn append(&mut self) -> Result<(), String> {
        if self.load.place.broker.is_some() {
            return Ok(());
        }
        let dir = self.load.place.dir();
        let time = self.load.duration.0.min(APPEND);
        let own = blocking(move || ceiling::disk_append(&dir, time, Blocks::Zeroed)).await?;
        self.append.add(&own).map_err(|error| error.to_string())
    }

    /// Records a second that the broker takes at most, with batches that have time to fill.
    pub async fn saturation(&self) -> Result<f64, String> {
        let load = Load { rate: None, linger: None, ..self.load.clone() };
        let figures = round::run("saturation", Subject::Broker, &load, false).await?;
        round::saturation(&figures)
    }

    /// An open loop of so many records a second, null beside the broker; then the same with a consumer, for
    /// the latency from end to end. A consumer that is woken for every record takes CPU time that the others
    /// miss.
    pub async fn at(&self, what: &str, rate: f64, goals: Vec<Goal>) -> Row {
        let name = format!("{what}, {} {} records/s", grouped(rate), bytes_text(self.load.size.0));
        Row::judged(&name, goals, self.measure(&name, rate).await)
    }

    async fn measure(&self, name: &str, rate: f64) -> Result<Row, String> {
        let load = Load { rate: Some(rate), ..self.load.clone() };
        let mut rounds = self.rounds(name, &load).await?;
        let consumed = round::run(&format!("{name}, consumed"), Subject::Broker, &load, true).await?;
        let mut row = Row::new(name, summarise(&rounds));
        let unsent = get(&row.metrics, "unsent").unwrap_or(0.0) + consumed.unsent as f64;
        put(&mut row.metrics, "unsent", Some(unsent));
        put(&mut row.metrics, "unread", Some(consumed.unread as f64));
        rounds.push(consumed);
        let consumed = &rounds[rounds.len() - 1..];
        row.add_errors(consumed);
        for (figure, value) in summarise(consumed) {
            if figure.starts_with("end_to_end_") {
                row.metrics.insert(figure, value);
            } else if ["p50_us", "p99_us"].contains(&&figure[..]) {
                row.metrics.insert(format!("with_consumer_{figure}"), value);
            }
        }
        put(&mut row.metrics, "rate", Some(rate));
        warn_if_late(&mut row, rate);
        tell(&mut row, &rounds);
        Ok(row)
    }

    /// Rounds of both servers, in turn.
    async fn rounds(&self, name: &str, load: &Load) -> Result<Vec<Figures>, String> {
        let order = case::order(load.place.pairs, load.place.broker.is_none());
        let mut rounds = Vec::new();
        for (number, subject) in order.iter().enumerate() {
            let title = format!("{name}: round {} of {}, {}", number + 1, order.len(), subject.name());
            rounds.push(round::run(&title, *subject, load, false).await?);
        }
        Ok(rounds)
    }

    pub async fn one_by_one(&self, what: &str, goals: Vec<Goal>) -> Row {
        let load =
            Load { single: Some(1), rate: None, linger: Some(Span(Duration::ZERO)), ..self.load.clone() };
        let name = format!("{what}, {} records", bytes_text(load.size.0));
        let told = self.rounds(&name, &load).await.map(|rounds| {
            let mut row = Row::new(&name[..], summarise(&rounds));
            tell(&mut row, &rounds);
            row
        });
        Row::judged(&name, goals, told)
    }

    /// Puts the raw append beside every row.
    pub async fn end(mut self, rows: &mut [Row]) {
        if let Err(why) = self.append().await {
            say(&format!("{why}: the raw append of the start stands beside the rows"));
        }
        if self.append.is_empty() {
            return;
        }
        for row in rows.iter_mut().filter(|row| !row.is_failed()) {
            put_append(&mut row.metrics, &self.append);
            row.notes.push(format!(
                "raw durable 4 KiB append of this run: p50 {} ms, p99 {} ms",
                short(self.append.value_at_quantile(0.5) as f64 / 1000.0),
                short(self.append.value_at_quantile(0.99) as f64 / 1000.0)
            ));
        }
    }
}

fn put_append(metrics: &mut Metrics, append: &stats::Latency) {
    let (p50, p99) = (append.value_at_quantile(0.5) as f64, append.value_at_quantile(0.99) as f64);
    put(metrics, "append_p50_us", Some(p50));
    put(metrics, "append_p99_us", Some(p99));
    let over = get(metrics, "p50_us").map(|own| own - p50);
    put(metrics, "p50_over_append_us", over);
}

/// A generator that cannot hold its rate measures itself.
fn warn_if_late(row: &mut Row, rate: f64) {
    let reached = get(&row.metrics, "records_per_second").unwrap_or(0.0);
    if reached < rate * 0.98 {
        row.notes
            .push(format!("only {} records a second were acknowledged: beyond saturation", grouped(reached)));
    }
    let unsent = get(&row.metrics, "unsent").unwrap_or(0.0);
    if unsent > 0.0 {
        row.notes
            .push(format!("{} were due and not sent in time: they count until the end", grouped(unsent)));
    }
    let unread = get(&row.metrics, "unread").unwrap_or(0.0);
    if unread > 0.0 {
        row.notes.push(format!(
            "{} were not read before the consumer gave up: end to end leaves them out",
            grouped(unread)
        ));
    }
    let ms = |name| get(&row.metrics, name).map(|us| short(us / 1000.0));
    if let (Some(p50), Some(p99)) = (ms("end_to_end_p50_us"), ms("end_to_end_p99_us")) {
        row.notes.push(format!("end to end, in a second round with a consumer: p50 {p50} ms, p99 {p99} ms"));
    }
    if let (Some(p50), Some(p99)) = (ms("null_p50_us"), ms("null_p99_us")) {
        row.notes.push(format!("null at the same rate: p50 {p50} ms, p99 {p99} ms"));
    }
    if let Some(late) = get(&row.metrics, "late_p99_us") {
        row.notes
            .push(format!("generator late by p99 {} ms (it counts into the latency)", short(late / 1000.0)));
    }
}

/// The ladder as a picture: latency over the rate, both to acknowledgement and from end to end.
pub fn plot(rows: &[Row], dir: &Path) -> Result<(), String> {
    let line = |name: &str, label: &str| Line {
        label: label.into(),
        points: rows
            .iter()
            .filter_map(|row| Some((get(&row.metrics, "rate")?, get(&row.metrics, name)? / 1000.0)))
            .collect(),
    };
    let plot = Plot {
        title: "Latency over rate (open loop, from the intended send time)".into(),
        x: Axis { label: "records a second".into(), logarithmic: true },
        y: Axis { label: "milliseconds".into(), logarithmic: true },
        lines: vec![
            line("p50_us", "p50 to acknowledgement"),
            line("p99_us", "p99 to acknowledgement"),
            line("p99_9_us", "p99.9 to acknowledgement"),
            line("end_to_end_p50_us", "p50 end to end"),
            line("end_to_end_p99_us", "p99 end to end"),
            line("null_p50_us", "null, p50 to acknowledgement"),
            line("append_p50_us", "raw durable append, p50"),
        ],
    };
    plot.write(&dir.join("latency.svg"))
}
