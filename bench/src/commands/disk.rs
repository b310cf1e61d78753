//! `disk`: ceilings of a folder's disk, and of the loopback.
//!
//! Owner: ringbench's parent process.

use super::{blocking, finish};
use crate::ceiling::{self, Blocks};
use crate::cli::Disk;
use crate::figures::{Metrics, put};
use crate::progress::{say, show};
use crate::row::Row;
use crate::stats::Latency;
use crate::units::grouped;

pub async fn run(options: &Disk) -> Result<(), String> {
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let time = options.duration.0;
    say("durable writes");
    let own = dir.clone();
    let write = blocking(move || ceiling::disk_write(&own, time)).await?;
    say("durable appends of 4 KiB");
    let own = dir.clone();
    let zeroed = blocking(move || ceiling::disk_append(&own, time, Blocks::Zeroed)).await?;
    let own = dir.clone();
    let unwritten = blocking(move || ceiling::disk_append(&own, time, Blocks::Unwritten)).await?;
    say("reads");
    let own = dir.clone();
    let (read, scattered) =
        blocking(move || ceiling::disk_reads(&own, time, ceiling::READ_FILE_BYTES)).await?;
    say("loopback");
    let loopback = blocking(move || ceiling::loopback(time)).await?;
    let us = |latency: &Latency, quantile| latency.value_at_quantile(quantile);
    if options.json {
        let figures = [
            ("write_bytes_per_second", write),
            ("append_zeroed_p50_us", us(&zeroed, 0.5) as f64),
            ("append_zeroed_p99_us", us(&zeroed, 0.99) as f64),
            ("append_unwritten_p50_us", us(&unwritten, 0.5) as f64),
            ("append_unwritten_p99_us", us(&unwritten, 0.99) as f64),
            ("read_bytes_per_second", read),
            ("scattered_read_bytes_per_second", scattered),
            ("loopback_bytes_per_second", loopback),
        ];
        let mut metrics = Metrics::new();
        figures.into_iter().for_each(|(name, value)| put(&mut metrics, name, Some(value)));
        return finish(&[Row::new("disk", metrics)], true);
    }
    let rate = |what: &str, rate: f64| show(&format!("{what:<58} {:>7} MB/s\n", grouped(rate / 1e6)));
    let latency = |what: &str, latency: &Latency| {
        let (p50, p99) = (us(latency, 0.5), us(latency, 0.99));
        show(&format!("{what:<58} {p50:>7} us p50, {p99} us p99\n"));
    };
    rate("durable 1 MiB writes, 4 in flight, unwritten extents", write);
    latency("durable 4 KiB append, blocks written before", &zeroed);
    latency("durable 4 KiB append, unwritten extents", &unwritten);
    rate("direct 1 MiB reads in sequence, 8 in flight", read);
    rate("direct 64 KiB reads here and there, 8 in flight", scattered);
    rate("loopback TCP, one connection", loopback);
    Ok(())
}
