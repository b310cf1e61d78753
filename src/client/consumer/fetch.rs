//! Which partitions go into the next fetch, and how much it may bring.
//!
//! Floor 5; owned by the consumer's machine.

use super::machine::{ConsumerMachine, Part, Shard, Tag};
use super::partition::{Binding, Phase};
use crate::base::lock;
use crate::client::session::{Millis, Target};
use crate::wire::{Fetch, FetchHandle, Request};

/// Fetches under way on one link.
const FETCHES_MAX: usize = 8;
/// With more partitions, fetches wait while any are being opened. Those that go into one fetch go into the
/// next one together, too, and the broker reads in one piece what belongs to many of them. A few have large
/// runs each, and several fetches under way are worth more.
const FEW_PARTITIONS: usize = 64;
/// Partitions in one fetch.
const HANDLES_MAX: usize = 1000;
/// Bounds of what one fetch asks for.
const FETCH_BYTES_MIN: usize = 64 << 10;
const FETCH_BYTES_MAX: usize = 8 << 20;
/// What a partition may have fetched ahead, even if many share the budget.
const PARTITION_BYTES_MIN: usize = 128 << 10;
/// As much as a run may be in a journal under load.
const RUN_BYTES: usize = 1 << 20;

impl ConsumerMachine {
    /// Sends what fetches the budget allows.
    pub(super) fn fetch(&mut self, now: Millis) {
        let mut targets: Vec<_> = self.shards.keys().copied().collect();
        // Shards take turns: memory that comes free goes to the next one, not always to the first.
        let next = targets.iter().position(|target| Some(*target) > self.fetched_last).unwrap_or(0);
        targets.rotate_left(next);
        for target in targets {
            while self.session.is_up(target) && self.fetch_from(now, target) {
                self.fetched_last = Some(target);
            }
        }
    }

    /// One fetch from one shard; false if there is nothing to fetch or no memory for it.
    fn fetch_from(&mut self, now: Millis, target: Target) -> bool {
        let few = self.partitions.len() <= FEW_PARTITIONS;
        let may_fetch = |shard: &&mut Shard| shard.fetches < FETCHES_MAX && (few || shard.opening == 0);
        let Some(shard) = self.shards.get_mut(&target).filter(may_fetch) else {
            return false;
        };
        let state = lock(&self.front.state);
        let used = state.buffered + self.granted;
        let left = self.options.prefetch_bytes.saturating_sub(used);
        // What is buffered may all be of partitions that are paused: the others go on.
        let is_paused = |key| state.assigned.get(key).is_none_or(|assigned| assigned.paused);
        let is_starved = || {
            let mut held = state.ready.iter().chain(state.opened.iter().map(|opened| &opened.key));
            self.granted == 0 && held.all(is_paused)
        };
        if shard.idle.is_empty() || (left == 0 && used > 0 && !is_starved()) {
            return false;
        }
        let share = self.options.prefetch_bytes / (2 * self.partitions.len().max(1));
        let ahead_max = share.max(PARTITION_BYTES_MIN);
        let mut parts = Vec::new();
        for _ in 0..shard.idle.len() {
            if parts.len() == HANDLES_MAX {
                break;
            }
            let Some(key) = shard.idle.pop_front() else { break };
            let Some(partition) = self.partitions.get_mut(&key).filter(|partition| partition.idle) else {
                continue;
            };
            let (Binding::Open(to, handle), Phase::Fetch(offset), false) =
                (partition.binding, partition.phase, partition.busy)
            else {
                partition.idle = false;
                continue;
            };
            let waits = state
                .assigned
                .get(&key)
                .is_none_or(|assigned| assigned.paused || assigned.damaged || assigned.buffered >= ahead_max);
            if waits || to != target {
                shard.idle.push_back(key);
                continue;
            }
            (partition.idle, partition.busy) = (false, true);
            parts.push(Part { key, generation: partition.generation, handle, offset });
        }
        drop(state);
        if parts.is_empty() {
            return false;
        }
        // Half of what is left: a later fetch, perhaps a busier one, finds memory too.
        let granted = (left / 2).clamp(FETCH_BYTES_MIN, FETCH_BYTES_MAX);
        // The broker shares it out: a narrow bound of each part would only cut runs in two, to be read twice.
        let each = ahead_max.max(RUN_BYTES).min(granted) as u32;
        let handles = parts.iter().map(|part| FetchHandle {
            handle: part.handle,
            bytes_max: each,
            offset: part.offset,
        });
        let fetch = Fetch {
            wait_ms_max: self.options.wait_ms_max,
            bytes_min: 1,
            bytes_max: granted as u32,
            handles: handles.collect(),
        };
        shard.fetches += 1;
        self.granted += granted;
        self.session.request(now, target, 0, &Request::Fetch(fetch), Tag::Fetch { granted, parts });
        true
    }
}
