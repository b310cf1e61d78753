//! One round: workers on a rig, and the figures.
//!
//! Owner: ringbench's parent process.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use crate::cli::Load;
use crate::crew::Crew;
use crate::figures::{Figures, Flow};
use crate::job::{Job, Report, Window, Work};
use crate::process::{self, DiskUse, ProcessUse, now_ns};
use crate::progress::{Meter, say};
use crate::rig::{self, Rig};
use crate::server::Subject;
use crate::stats;
use crate::units::{self, grouped};
use crate::verify;

/// From the moment all workers are connected until they start together.
const START: Duration = Duration::from_millis(20);
/// Of the warm-up, for each partition.
const WARM_UP_EACH: Duration = Duration::from_micros(80);
/// How long a broker is saturated that goes on after it.
const SATURATION: Duration = Duration::from_secs(3);
/// Bounded work must be done by then.
const BOUNDED_MAX: Duration = Duration::from_secs(1800);

/// Totals at one moment.
struct Snapshot {
    server: Option<ProcessUse>,
    disk: Option<DiskUse>,
    cpu_of_all: Duration,
}

impl Snapshot {
    fn take(pid: Option<u32>, dir: &std::path::Path) -> Snapshot {
        let cpu_of_all = process::cpu_of_all();
        // The disk of a broker that was not started here is not known, nor is its process.
        let disk = pid.and_then(|_| process::disk_use(dir));
        Snapshot { server: pid.and_then(process::use_of), disk, cpu_of_all }
    }

    /// What happened between the two; memory as it is now.
    fn since(&self, before: &Snapshot) -> (Option<ProcessUse>, Option<DiskUse>) {
        let server = self.server.zip(before.server).map(|(after, before)| ProcessUse {
            cpu: after.cpu.saturating_sub(before.cpu),
            written_bytes: after
                .written_bytes
                .zip(before.written_bytes)
                .map(|(after, before)| after.saturating_sub(before)),
            ..after
        });
        (server, self.disk.zip(before.disk).map(|(after, before)| after.since(before)))
    }
}

/// What workers did, and what that took.
pub struct Worked {
    pub reports: Vec<Report>,
    pub window: Window,
    pub server: Option<ProcessUse>,
    pub disk: Option<DiskUse>,
    /// CPU time of the whole machine meanwhile.
    cpu_of_all: Duration,
}

/// How long workers work.
#[derive(Clone, Copy)]
pub enum Span {
    /// For so long, after a warm-up.
    Timed { warm_up: Duration, duration: Duration },
    /// Until they have done what their jobs say.
    Bounded,
}

/// Runs jobs on a server, together.
pub async fn work(
    what: &str,
    pid: Option<u32>,
    dir: PathBuf,
    jobs: &[Job],
    span: Span,
) -> Result<Worked, String> {
    let crew = Crew::start(jobs).await?;
    let start_ns = now_ns() + START.as_nanos() as u64;
    let (count_ns, length) = match span {
        Span::Timed { warm_up, duration } => (start_ns + warm_up.as_nanos() as u64, duration),
        Span::Bounded => (start_ns, BOUNDED_MAX),
    };
    let window = Window { start_ns, count_ns, stop_ns: count_ns + length.as_nanos() as u64 };
    let meter = Meter::new(what, jobs.len());
    let look = async {
        sleep_until(window.count_ns).await;
        let before = Snapshot::take(pid, &dir);
        if matches!(span, Span::Timed { .. }) {
            sleep_until(window.stop_ns).await;
            let after = Snapshot::take(pid, &dir);
            return Ok((before, Some(after)));
        }
        Ok((before, None))
    };
    // A worker that fails ends the round, however long it was to be.
    let (reports, (before, after)) = tokio::try_join!(crew.work(window, meter), look)?;
    let after = after.unwrap_or_else(|| Snapshot::take(pid, &dir));
    let (server, disk) = after.since(&before);
    let cpu_of_all = after.cpu_of_all.saturating_sub(before.cpu_of_all);
    Ok(Worked { reports, window, server, disk, cpu_of_all })
}

async fn sleep_until(at_ns: u64) {
    sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns()))).await;
}

impl Worked {
    /// What the workers with these numbers did.
    pub fn part(&self, numbers: std::ops::Range<usize>) -> Worked {
        Worked { reports: self.reports[numbers].to_vec(), ..*self }
    }

    /// The figures of a round whose workers had these jobs.
    pub fn figures(&self, subject: Subject, jobs: &[Job], span: Span) -> Figures {
        let client_cpu = Duration::from_nanos(self.reports.iter().map(|report| report.cpu_ns).sum());
        let other_cpu = self.server.map(|server| self.cpu_of_all.saturating_sub(server.cpu + client_cpu));
        let of = |produces: bool| {
            let own = jobs.iter().zip(&self.reports);
            let own = own.filter(|(job, _)| matches!(job.work, Work::Produce(_)) == produces);
            let reports: Vec<&Report> = own.map(|(_, report)| report).collect();
            (!reports.is_empty()).then(|| self.flow(&reports, span))
        };
        let (mut produced, mut consumed) = (of(true), of(false));
        let readers = jobs.iter().filter(|job| job.work.reads_to_the_end()).count() as u64;
        let unsent = self.reports.iter().flat_map(|report| &report.unsent_us).copied().collect::<Vec<_>>();
        let unread = wait_for_the_rest(&mut produced, &mut consumed, &unsent, readers);
        let last_ns = self.reports.iter().map(|report| report.last_ns).max().unwrap_or(0);
        Figures {
            subject,
            produced,
            consumed,
            seconds: self.seconds(span, last_ns),
            unsent: unsent.iter().map(|(_, count)| count).sum(),
            unread,
            errors: self.reports.iter().map(|report| report.errors).sum(),
            first_error: self.reports.iter().find_map(|report| report.first_error.clone()),
            server: self.server,
            client_cpu,
            other_cpu,
            disk: self.disk,
            verified: None,
        }
    }

    fn seconds(&self, span: Span, last_ns: u64) -> f64 {
        match span {
            Span::Timed { .. } => self.window.seconds(),
            // To the end of the work, or the window's if nothing was done.
            Span::Bounded => {
                let end = if last_ns == 0 { self.window.stop_ns } else { last_ns };
                (end.saturating_sub(self.window.start_ns)).max(1) as f64 / 1e9
            }
        }
    }

    fn flow(&self, reports: &[&Report], span: Span) -> Flow {
        let (mut latency_us, mut late_us) = (stats::latency(), stats::latency());
        for report in reports {
            stats::add_counts(&mut latency_us, &report.latency_us);
            stats::add_counts(&mut late_us, &report.late_us);
        }
        let last_ns = reports.iter().map(|report| report.last_ns).max().unwrap_or(0);
        let sum = |of: fn(&Report) -> u64| reports.iter().map(|report| of(report)).sum();
        Flow {
            records: sum(|report| report.records),
            bytes: sum(|report| report.bytes),
            seconds: self.seconds(span, last_ns),
            latency_us,
            late_us,
        }
    }
}

/// What was due in an open loop and could not be sent has waited at least until its end, for its
/// acknowledgement as for its readers. Gives how many of those that were acknowledged its readers had not
/// seen when they gave up.
fn wait_for_the_rest(
    produced: &mut Option<Flow>,
    consumed: &mut Option<Flow>,
    unsent_us: &[(u64, u64)],
    readers: u64,
) -> u64 {
    let Some(produced) = produced else { return 0 };
    let mut unread = 0;
    if let Some(consumed) = consumed {
        let wanted = produced.latency_us.len() * readers;
        unread = wanted.saturating_sub(consumed.latency_us.len());
        (0..readers).for_each(|_| stats::add_counts(&mut consumed.latency_us, unsent_us));
    }
    stats::add_counts(&mut produced.latency_us, unsent_us);
    unread
}

/// The span of a load's rounds. Clients meet partition after partition at the start: with many, that is
/// not over when the warm-up is.
pub fn timed(load: &Load) -> Span {
    let warm_up = load.warm_up.0.max(WARM_UP_EACH * load.partitions);
    Span::Timed { warm_up, duration: load.duration.0 }
}

/// A round of producers, and of consumers if wanted, on a server of its own.
pub async fn run(what: &str, subject: Subject, load: &Load, with_consumers: bool) -> Result<Figures, String> {
    let setup = rig::setup(load, with_consumers);
    let keep = (!load.verify).then_some(load.place.keep.0);
    let rig = Rig::start(subject, load, &setup, keep).await?;
    let figures = on(what, &rig, subject, load, with_consumers).await;
    rig.stop().await?;
    figures
}

/// Records a second of a round that saturated its broker, of which other rates are parts.
pub fn saturation(figures: &Figures) -> Result<f64, String> {
    let rate = figures.main().map_or(0.0, Flow::records_per_second);
    let misread = figures.verified.as_ref().and_then(|verified| verified.as_ref().err());
    if figures.errors == 0 && rate > 0.0 && misread.is_none() {
        say(&format!("saturation: {} records a second", grouped(rate)));
        return Ok(rate);
    }
    let why = figures.first_error.as_ref().or(misread);
    let why = why.map_or("the round may be too short", |why| &why[..]);
    Err(format!("saturation: {} records a second, {} failed: {why}", grouped(rate), figures.errors))
}

/// Saturates the broker of a rig that goes on.
pub async fn saturate(what: &str, rig: &Rig, load: &Load) -> Result<f64, String> {
    let flat = Load { duration: units::Span(SATURATION), ..load.clone() };
    saturation(&on(&format!("{what}: saturation"), rig, Subject::Broker, &flat, false).await?)
}

/// A round of producers, and of consumers if wanted, on a rig that goes on.
pub async fn on(
    what: &str,
    rig: &Rig,
    subject: Subject,
    load: &Load,
    with_consumers: bool,
) -> Result<Figures, String> {
    let mut jobs = rig.producers(load, None);
    if with_consumers {
        jobs.extend(rig.consumers(load, None));
    }
    let worked = work(what, rig.pid(), load.place.dir(), &jobs, timed(load)).await?;
    let mut figures = worked.figures(subject, &jobs, timed(load));
    if load.verify && subject == Subject::Broker {
        let produced: Vec<&Report> = jobs
            .iter()
            .zip(&worked.reports)
            .filter(|(job, _)| matches!(job.work, Work::Produce(_)))
            .map(|(_, report)| report)
            .collect();
        figures.verified = Some(verify::run(&rig.client, &rig.topic, &produced).await);
    }
    Ok(figures)
}

/// Writes about so many bytes of values, and gives the number of records.
pub async fn fill(what: &str, rig: &Rig, load: &Load, bytes: u64) -> Result<u64, String> {
    let load = Load { rate: None, single: None, producers: load.producers.min(2), ..load.clone() };
    let jobs = rig.producers(&load, Some(rig::records_of(bytes, &load)));
    let worked = work(what, rig.pid(), load.place.dir(), &jobs, Span::Bounded).await?;
    let errors: u64 = worked.reports.iter().map(|report| report.errors).sum();
    if errors > 0 {
        let first = worked.reports.iter().find_map(|report| report.first_error.clone());
        return Err(format!("{errors} records were not written: {}", first.unwrap_or_default()));
    }
    Ok(worked.reports.iter().map(|report| report.records_total).sum())
}

/// Reads so many records with each of the load's consumers.
pub async fn read(
    what: &str,
    rig: &Rig,
    subject: Subject,
    load: &Load,
    records: u64,
) -> Result<Figures, String> {
    let jobs = rig.consumers(load, Some(records));
    let worked = work(what, rig.pid(), load.place.dir(), &jobs, Span::Bounded).await?;
    Ok(worked.figures(subject, &jobs, Span::Bounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(latencies_us: &[u64]) -> Option<Flow> {
        let (mut latency_us, late_us) = (stats::latency(), stats::latency());
        latencies_us.iter().for_each(|us| latency_us.saturating_record(*us));
        Some(Flow { records: 0, bytes: 0, seconds: 1.0, latency_us, late_us })
    }

    #[test]
    fn what_could_not_be_sent_or_was_not_read_is_not_left_out() {
        let (mut produced, mut consumed) = (flow(&[10, 20, 30]), flow(&[15, 15, 25, 25]));
        let unread = wait_for_the_rest(&mut produced, &mut consumed, &[(9_000, 2)], 2);
        // Two readers were to see three records each, and saw four together.
        assert_eq!(unread, 2);
        let (produced, consumed) = (produced.unwrap().latency_us, consumed.unwrap().latency_us);
        assert_eq!((produced.len(), consumed.len()), (5, 8));
        assert!(produced.max() >= 9_000 && consumed.max() >= 9_000);
    }
}
