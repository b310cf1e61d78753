//! A shard: one pinned executor that drives its journals and owns their lanes, its partitions and
//! its connections. It shares nothing; the mesh carries messages to other shards and the control plane.
//!
//! Floor 5. Owner: itself. Invariant: a batch is acknowledged only after the journal said that its
//! frame is durable and the lane's high watermark has passed it.

mod answer;
mod control_runs;
mod drive;
mod fetch;
mod gather;
mod list;
mod maintain;
mod mesh;
mod metadata;
mod produce;
mod provision;
mod ready;
mod repair;
mod replay;
mod retention;
mod service;
mod span;
mod start;
mod write;

#[cfg(test)]
mod tests;

pub use mesh::{JournalPlan, Recovered, Settings, ShardPlan, ToControl, ToShard};
pub use repair::repair;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use self::drive::Drive;
use crate::api::Done;
use crate::base::Map;
use crate::coordinator::Image;
use crate::lane::{LogRef, Logs};
use crate::model::{LaneId, TopicConfig, TopicId};
use crate::net::Memory;
use crate::rt::local::Event;
use crate::rt::{Budget, Instant, Level, Rt, mesh as channel};

/// A partition that this shard serves.
#[derive(Clone)]
struct Partition {
    log: LogRef,
    drive: Rc<Drive>,
}

struct Shard {
    rt: Rt,
    index: u32,
    count: u32,
    broker_epoch: u64,
    settings: Settings,
    /// Largest batch that every journal of the broker takes; known once it serves.
    batch_bytes_max: Cell<u32>,
    peers: Vec<channel::Sender<ToShard>>,
    control: channel::Sender<ToControl>,
    image: RefCell<Image>,
    drives: Vec<Rc<Drive>>,
    drive_of_lane: BTreeMap<LaneId, usize>,
    partitions: RefCell<Logs>,
    /// Of every topic without a config of its own.
    default_config: Rc<TopicConfig>,
    /// Effective configuration of the others, as it was asked for; emptied when the metadata changes it.
    configs: RefCell<Map<TopicId, Rc<TopicConfig>>>,
    /// Admin requests that the control plane has not answered.
    admin: RefCell<Map<u64, Done>>,
    admin_last: Cell<u64>,
    /// What connections share.
    memory: Memory,
    /// Of reads of the disk that are under way for fetches.
    reads: Rc<Budget>,
    staged_bytes: Cell<usize>,
    staged_bytes_max: usize,
    /// Staged bytes went below the bound.
    room: Event,
    fetch_last: Cell<u64>,
    connections: Cell<u32>,
    /// Refused connections are logged now and then only.
    refusal_quiet_until: Cell<Instant>,
    clock: retention::ClockGuard,
    stopping: Cell<bool>,
}

/// Runs a shard until the control plane says `Stop`.
pub async fn run(
    rt: Rt,
    plan: ShardPlan,
    mut inbox: channel::Receiver<ToShard>,
    control: channel::Sender<ToControl>,
) {
    let (index, listen) = (plan.index, plan.listen);
    let (shard, recovered) = match start::start(&rt, plan, control.clone()).await {
        Ok(started) => started,
        Err(text) => {
            control.send(ToControl::Failed { shard: index, text });
            return;
        }
    };
    control.send(ToControl::Ready { shard: index, recovered });
    while let Some(message) = inbox.recv().await {
        match message {
            ToShard::Records { sequence, records } => {
                rt.measured(|| shard.apply(&records));
                control.send(ToControl::Applied { shard: index, sequence });
            }
            ToShard::Answer { id, result } => shard.answer(id, result),
            ToShard::Connection(handover) => shard.adopt(handover),
            ToShard::Serve { batch_bytes_max } => {
                shard.batch_bytes_max.set(batch_bytes_max);
                match shard.listen(listen).await {
                    Ok(()) => control.send(ToControl::Listening { shard: index }),
                    Err(error) => {
                        let text = format!("cannot listen on {listen}: {error}");
                        control.send(ToControl::Failed { shard: index, text });
                    }
                }
            }
            ToShard::Stop => break,
        }
    }
    shard.stop().await;
}

impl Shard {
    /// Refuses new work, waits for what is staged, leaves a mark and a checkpoint.
    async fn stop(&self) {
        self.stopping.set(true);
        for log in self.partitions.borrow().iter() {
            let watchers = log.borrow_mut().take_watchers();
            watchers.into_iter().for_each(|(_, watcher)| watcher.notify());
        }
        for drive in &self.drives {
            drive.wake.notify();
            drive.journal.changed.notify();
            drive.stopped_writing.wait().await;
            drive.maintain.notify();
            drive.stopped_maintaining.wait().await;
            drive.provision.notify();
            drive.stopped_provisioning.wait().await;
            drive.journal.close();
        }
        let stalls = self.rt.stalls();
        let text = format!(
            "shard {} stopped; working steps (stall): {}, p99 {} us, p99.99 {} us, max {} us",
            self.index, stalls.steps, stalls.p99_us, stalls.p99_99_us, stalls.max_us
        );
        self.rt.log(Level::Info, text);
    }

    /// With the drive of its lane.
    fn bound(&self, log: &LogRef) -> Partition {
        let drive = self.drives[self.drive_of_lane[&log.lane]].clone();
        Partition { log: log.clone(), drive }
    }

    /// The partitions in a drive's lanes, in no order.
    fn logs_of(&self, drive: &Rc<Drive>) -> Vec<LogRef> {
        let lanes = drive.lanes.borrow();
        self.partitions.borrow().iter().filter(|log| lanes.contains_key(&log.lane)).cloned().collect()
    }

    fn config(&self, topic: TopicId) -> Option<Rc<TopicConfig>> {
        if let Some(config) = self.configs.borrow().get(&topic) {
            return Some(config.clone());
        }
        let image = self.image.borrow();
        let stored = image.topic_by_id(topic)?;
        if stored.configs.is_empty() {
            return Some(self.default_config.clone());
        }
        let (config, unread) = stored.config(&self.settings.topic_defaults);
        for error in unread {
            let text = format!("topic {}: {error}; the default applies to this key", stored.name);
            self.rt.log(Level::Warn, text);
        }
        let config = Rc::new(config);
        self.configs.borrow_mut().insert(topic, config.clone());
        Some(config)
    }
}
