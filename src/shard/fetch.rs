//! Fetch: long polls over partitions of this shard, served from the tail or the disk.
//!
//! Floor 5. Owner: the shard. Invariant: nothing at or above the high watermark, below the log start,
//! or unverified leaves; damage is answered with CORRUPT_MESSAGE and the next offset that can be read.

use std::any::Any;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::gather::Reading;
use crate::api::{Done, Fetch, FetchPartition, FetchedPartition, Reply};
use crate::net::FETCH_BYTES_MIN;
use crate::rt::local::{self, Event};

impl Shard {
    /// A number and an event for whoever waits on partitions.
    pub(super) fn watch(&self) -> (u64, Event) {
        self.fetch_last.set(self.fetch_last.get() + 1);
        (self.fetch_last.get(), Event::new())
    }

    pub(super) fn fetch(self: &Rc<Self>, fetch: Fetch, done: Done) {
        let shard = self.clone();
        self.rt.spawn(async move {
            let fetched = shard.long_poll(fetch).await;
            done(Ok(Reply::Fetched(fetched)));
        });
    }

    async fn long_poll(&self, fetch: Fetch) -> Vec<FetchedPartition> {
        let deadline = self.rt.now() + Duration::from_millis(fetch.wait_ms_max.into());
        let watch = self.watch();
        loop {
            self.watch_partitions(&fetch, &watch);
            let (fetched, bytes, room) = self.read_all(&fetch).await;
            let has_news =
                |partition: &FetchedPartition| partition.error.is_some() || partition.next_offset >= 0;
            let failed = fetched.iter().any(has_news);
            let wait = deadline.since(self.rt.now());
            // No more than there is room for can be waited for.
            let enough = bytes >= (fetch.bytes_min.max(1) as usize).min(room) || fetch.bytes_min == 0;
            if failed || enough || wait.is_zero() || self.stopping.get() {
                self.unwatch(&fetch, watch.0);
                return fetched;
            }
            // Nothing is held while there is nothing to send.
            drop(fetched);
            local::timeout(&self.rt, wait, watch.1.wait()).await;
            self.unwatch(&fetch, watch.0);
        }
    }

    fn watch_partitions(&self, fetch: &Fetch, watch: &(u64, Event)) {
        let partitions = self.partitions.borrow();
        for wanted in &fetch.partitions {
            if let Some(log) = partitions.get(wanted.partition) {
                log.borrow_mut().watch(watch.clone());
            }
        }
    }

    fn unwatch(&self, fetch: &Fetch, number: u64) {
        let partitions = self.partitions.borrow();
        for wanted in &fetch.partitions {
            if let Some(log) = partitions.get(wanted.partition) {
                log.borrow_mut().unwatch(number);
            }
        }
    }

    /// What there is, its bytes, and how many it might have been.
    async fn read_all(&self, fetch: &Fetch) -> (Vec<FetchedPartition>, usize, usize) {
        let mut out = Vec::with_capacity(fetch.partitions.len());
        let mut readings = Vec::new();
        for (place, wanted) in fetch.partitions.iter().enumerate() {
            let (fetched, reading) = self.look_at(place, wanted);
            out.push(fetched);
            readings.extend(reading);
        }
        if readings.is_empty() {
            return (out, 0, usize::MAX);
        }
        // Records on their way to sockets are bounded together; a fetch always gets a little.
        let room = (fetch.bytes_max as usize).min(self.memory.replies.left().max(FETCH_BYTES_MIN));
        let mut lease = self.memory.replies.lease(room);
        let readings = self.gather(readings, room).await;
        let bytes = readings.iter().map(|reading| reading.part.bytes).sum();
        lease.shrink(bytes);
        // The first batch of all may be larger than the room.
        let more = self.memory.replies.lease(bytes.saturating_sub(room));
        let lease: Rc<dyn Any> = Rc::new((lease, more));
        for reading in readings {
            let place = reading.place_in_fetch;
            let fetched = &mut out[place];
            if let Some((failure, next)) = reading.failed {
                (fetched.error, fetched.next_offset) = (Some(failure), next);
            } else if reading.part.chunks.is_empty() && reading.part.next > fetch.partitions[place].offset {
                // All that was wanted is an accepted loss: the reader goes on behind it.
                fetched.next_offset = reading.part.next;
            }
            let chunks = reading.part.chunks.into_iter();
            fetched.chunks = chunks.map(|chunk| chunk.holding(lease.clone())).collect();
        }
        (out, bytes, room)
    }

    /// Where a partition stands, and what is to be read of it.
    fn look_at(&self, place: usize, wanted: &FetchPartition) -> (FetchedPartition, Option<Reading>) {
        let mut fetched = FetchedPartition {
            partition: wanted.partition,
            error: None,
            next_offset: -1,
            high_watermark: -1,
            log_start: -1,
            chunks: Vec::new(),
        };
        let partition = match self.partition(wanted.partition) {
            Ok(partition) => partition,
            Err(failure) => {
                fetched.error = Some(failure);
                return (fetched, None);
            }
        };
        let log = partition.log.borrow();
        let above = self.rt.mutated("read-above-high-watermark");
        let visible_end = if above { log.next_offset } else { log.visible_end };
        (fetched.high_watermark, fetched.log_start) = (visible_end, log.log_start);
        if !(log.log_start..=visible_end).contains(&wanted.offset) {
            fetched.error = Some(log.out_of_range(wanted.offset));
        }
        let is_wanted = fetched.error.is_none() && wanted.offset < visible_end;
        drop(log);
        let reading = is_wanted.then(|| Reading::new(place, partition, wanted, visible_end));
        (fetched, reading)
    }
}
