//! Segments ahead of need, and what a filling disk means: above the high watermark an alarm, when full
//! produce is refused until space comes back by itself.
//!
//! Floor 5. Owner: the shard. A task of its own, so that no long maintenance makes an append wait.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::drive::Drive;
use crate::journal;
use crate::rt::{Level, is_out_of_descriptors, local};

/// How often the disk is looked at.
const TICK: Duration = Duration::from_millis(500);
/// Above this use of the filesystem an alarm is raised and garbage is collected eagerly.
const HIGH_PERCENT: u64 = 90;

pub(super) async fn run(shard: Rc<Shard>, drive: Rc<Drive>) {
    while !drive.is_written_out.get() {
        if drive.journal.offline().is_none()
            && let Err(error) = provision(&shard, &drive).await
        {
            let text = format!("journal {}: the next segment could not be made: {error}", drive.journal.id);
            shard.rt.log(Level::Warn, text);
        }
        local::timeout(&shard.rt, TICK, drive.provision.wait()).await;
    }
    drive.stopped_provisioning.notify();
}

/// Allocates the next segment if it is time, unless that would fill the disk.
async fn provision(shard: &Rc<Shard>, drive: &Rc<Drive>) -> io::Result<()> {
    let journal = &drive.journal;
    let space = journal.space().await?;
    let is_high = space.available < space.total / 100 * (100 - HIGH_PERCENT);
    if is_high != drive.is_high.replace(is_high) {
        let free = space.available >> 20;
        let text = match is_high {
            true => format!("disk alarm: {free} MiB are free, under {} %", 100 - HIGH_PERCENT),
            false => format!("disk alarm ended: {free} MiB are free"),
        };
        shard.rt.log(Level::Warn, text);
        drive.maintain.notify();
    }
    if !journal.wants_next() {
        return Ok(());
    }
    match journal.allocate_next_within(space).await {
        Err(error) if journal::is_full(&error) => {
            set_full(shard, drive, space.available, &error);
            return Ok(());
        }
        other => other?,
    }
    if drive.full.borrow_mut().take().is_some() {
        shard.rt.log(Level::Warn, "there is room for another segment again: produce goes on");
    }
    Ok(())
}

fn set_full(shard: &Shard, drive: &Drive, available: u64, error: &std::io::Error) {
    let text = if is_out_of_descriptors(error) {
        "no more files can be opened: produce waits until connections close; raise the limit with `ulimit -n 65536` \
         (systemd: LimitNOFILE=65536), or lower max.connections"
            .to_string()
    } else {
        format!(
            "the disk is full ({} MiB free): produce waits until retention or a deletion frees space; \
             fetch, delete and metadata go on",
            available >> 20
        )
    };
    if drive.full.borrow_mut().replace(text.clone()).is_some() {
        return;
    }
    shard.rt.log(Level::Error, &text);
    // Whoever waits for the next segment has to be told; maintenance may find something to free.
    drive.journal.changed.notify();
    drive.wake.notify();
    drive.maintain.notify();
}
