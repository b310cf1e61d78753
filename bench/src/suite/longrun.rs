//! Rows of long runs: a steady load with retention, and lone records whose disk must not grow.
//!
//! Owner: ringbench's parent process. A quick run has the same shape with shorter times, which the
//! rows' names say.

use std::cell::Cell;
use std::time::Duration;

use crate::case::tell;
use crate::cli::{Keys, Load};
use crate::figures::{Figures, put, ratio, summarise};
use crate::process::folder_bytes;
use crate::rig::{self, Rig};
use crate::round;
use crate::row::{Row, at_least, at_most};
use crate::server::Subject;
use crate::units::{Bytes, Span, bytes_text, grouped};

use super::Plan;

/// A steady run is cut into so many rounds on one broker; the last is compared with the first.
const PARTS: u64 = 6;
/// The batch around one record, beside its value: header, lengths, key.
const LONE_EXTRA: u64 = 61 + 25;
const LONE_RATE: f64 = 1_000.0;
const LONE_BYTES: u64 = 100;

pub async fn run(plan: &Plan) -> Result<Vec<Row>, String> {
    // At the same time, each on a broker of its own: lone records are little load, and the same in the
    // first and the last part of the steady run.
    let (steady, lone) = tokio::join!(steady(plan), lone(plan));
    let named = [("steady", steady), ("lone records", lone)];
    let rows = named.map(|(name, row)| row.unwrap_or_else(|why| Row::failed(name, Vec::new(), &why)));
    Ok(rows.into())
}

async fn steady(plan: &Plan) -> Result<Row, String> {
    let seconds = plan.amount(1_800, 48);
    let load = Load { duration: Span(Duration::from_secs(seconds / PARTS)), ..plan.load() };
    let setup = rig::setup(&load, false);
    // Little is kept: what is old goes all the time, and segments are rewritten.
    let rig = Rig::start(Subject::Broker, &load, &setup, Some(2 << 30)).await?;
    let rate = round::saturate("steady", &rig, &load).await? / 2.0;
    let fixed = Load { rate: Some(rate), ..load.clone() };
    let mut parts = Vec::new();
    for part in 0..PARTS {
        let title = format!("steady: part {} of {PARTS}", part + 1);
        parts.push(round::on(&title, &rig, Subject::Broker, &fixed, false).await?);
    }
    rig.stop().await?;
    let p99 = |figures: &Figures| Some(figures.main()?.latency_us.value_at_quantile(0.99) as f64);
    let (first, last) = (&parts[0], &parts[parts.len() - 1]);
    let kept = ratio(Some(last.bytes_per_second()), Some(first.bytes_per_second()));
    let p99_change = ratio(p99(last), p99(first));
    let (first_p99, last_p99) = (p99(first).unwrap_or(0.0), p99(last).unwrap_or(0.0));
    let mut metrics = summarise(&parts);
    put(&mut metrics, "rate", Some(rate));
    // What the other run of this group takes is no disturbance.
    put(&mut metrics, "other_cores", None);
    put(&mut metrics, "last_to_first_throughput", kept);
    put(&mut metrics, "last_to_first_p99", p99_change);
    let mut row = Row::new(format!("{} steady at half of saturation", time_text(seconds)), metrics);
    row.goals.extend([at_least("last_to_first_throughput", 0.9), at_most("last_to_first_p99", 1.1)]);
    row.notes.push(format!(
        "p99 of the first sixth {} ms, of the last {} ms",
        crate::units::short(first_p99 / 1000.0),
        crate::units::short(last_p99 / 1000.0)
    ));
    tell(&mut row, &parts);
    Ok(row)
}

fn time_text(seconds: u64) -> String {
    if seconds.is_multiple_of(60) { format!("{} min", seconds / 60) } else { format!("{seconds} s") }
}

async fn lone(plan: &Plan) -> Result<Row, String> {
    let (seconds, retention) = plan.amount((1_800, 300), (50, 8));
    let segment = plan.bytes(256 << 20, 64 << 20);
    let load = Load {
        size: Bytes(LONE_BYTES),
        rate: Some(LONE_RATE),
        linger: Some(Span::default()),
        keys: Keys::None,
        duration: Span(Duration::from_secs(seconds)),
        ..plan.load()
    };
    let mut setup = rig::setup(&load, false);
    setup.settings.push(format!("retention.ms={}", retention * 1000));
    setup.settings.push(format!("segment.bytes={}", segment.0));
    let rig = Rig::start(Subject::Broker, &load, &setup, None).await?;
    let data = rig.server.as_ref().map(|server| server.dir.join("data")).ok_or("it is started here")?;
    // Allocated ahead of need, whatever is written.
    let reserve = folder_bytes(&data);
    let most = Cell::new(0u64);
    let watch = async {
        // Until retention has begun to work there is nothing to judge.
        tokio::time::sleep(Duration::from_secs(retention * 3 / 2)).await;
        loop {
            most.set(most.get().max(folder_bytes(&data).saturating_sub(reserve)));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let figures = tokio::select! {
        figures = round::on("lone records", &rig, Subject::Broker, &load, false) => figures?,
        () = watch => return Err("the disk was watched for ever".into()),
    };
    rig.stop().await?;
    let most = most.get() as f64;
    let live = LONE_RATE * retention as f64 * (LONE_BYTES + LONE_EXTRA) as f64;
    let bound = 1.3 * live + segment.0 as f64;
    let rounds = [figures];
    let mut metrics = summarise(&rounds);
    put(&mut metrics, "disk_bytes_over_reserve", Some(most));
    put(&mut metrics, "other_cores", None);
    put(&mut metrics, "live_bytes", Some(live));
    put(&mut metrics, "disk_share_of_bound", ratio(Some(most), Some(bound)));
    let name = format!(
        "1,000 lone records/s for {}, retention {}, segments {}",
        time_text(seconds),
        time_text(retention),
        bytes_text(segment.0)
    );
    let mut row = Row::new(name, metrics);
    row.goals.push(at_most("disk_share_of_bound", 1.0));
    row.notes.push(format!(
        "disk beyond the {} MB that are allocated ahead: at most {} MB; live data {} MB, bound {} MB",
        grouped(reserve as f64 / 1e6),
        grouped(most / 1e6),
        grouped(live / 1e6),
        grouped(bound / 1e6)
    ));
    tell(&mut row, &rounds);
    Ok(row)
}
