//! Starting a shard: recovers its journals, reconciles them with the metadata, opens the epoch.
//!
//! Floor 5. Owner: the shard. Order of effects: everything recovered is durable, the epoch blocks and
//! the clocks of this boot are durable, then the shard is ready: no acknowledgement or read precedes that.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::control_runs::ControlRun;
use super::drive::Drive;
use super::mesh::{JournalPlan, Recovered, ShardPlan, ToControl};
use super::replay::Rebuild;
use super::retention::ClockGuard;
use crate::coordinator::Image;
use crate::journal::{self, Journal, Loss, Recovery};
use crate::lane::Logs;
use crate::model::{JournalId, LaneId, PartitionId};
use crate::net::Memory;
use crate::rt::local::Event;
use crate::rt::{Budget, Folder, Rt, mesh as channel};
use crate::wire::Recycler;

/// Tail that consumers may lag behind without a read of the disk. More would only delay the day on
/// which frames are written into memory that is already mapped: page faults were a tenth of the CPU.
const TAIL_BYTES_MAX: usize = 512 << 20;
/// Large frames that arrive, and likewise records that leave.
const CONNECTIONS_BYTES_MAX: usize = 512 << 20;
/// Memory of reads under way, at most.
const READS_BYTES_MAX: usize = 64 << 20;
/// How long the epoch blocks may wait for the disk.
const EPOCH_PATIENCE: Duration = Duration::from_secs(30);

struct Opened {
    drive: Rc<Drive>,
    partitions: Logs,
    lanes: Vec<LaneId>,
}

/// `Err` is a text for the operator, with its cure.
pub(super) async fn start(
    rt: &Rt,
    plan: ShardPlan,
    control: channel::Sender<ToControl>,
) -> Result<(Rc<Shard>, Recovered), String> {
    let began = rt.now();
    let parent = plan.data.join("journals");
    let parent = rt.create_folder(&parent).await.map_err(|error| format!("{}: {error}", parent.display()))?;
    let mut recovered = Recovered::default();
    let mut opened = Vec::new();
    let mut clock = ClockGuard::new(rt);
    for journal_plan in &plan.journals {
        let one = open_one(rt, &parent, &plan, journal_plan, &mut recovered, &mut clock).await?;
        opened.push(one);
    }
    let shard = assemble(rt, plan, control, opened, clock);
    for drive in &shard.drives {
        // Maintenance runs from the start: on a full disk it is what makes room for the epoch.
        rt.spawn(super::write::run(shard.clone(), drive.clone()));
        rt.spawn(super::provision::run(shard.clone(), drive.clone()));
        rt.spawn(super::maintain::run(shard.clone(), drive.clone()));
    }
    for drive in &shard.drives {
        shard.open_epoch(drive).await?;
        while !drive.knows_clock.get() {
            drive.noted_clock.wait().await;
        }
    }
    let bounds = shard.drives.iter().map(|drive| super::produce::batch_bytes_max(&drive.journal));
    recovered.batch_bytes_max = bounds.min().map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
    recovered.took_ms = rt.now().since(began).as_millis() as u64;
    Ok((shard, recovered))
}

async fn open_one(
    rt: &Rt,
    parent: &Folder,
    plan: &ShardPlan,
    journal_plan: &JournalPlan,
    recovered: &mut Recovered,
    clock: &mut ClockGuard,
) -> Result<Opened, String> {
    let JournalPlan { id, lanes, create } = journal_plan;
    if *create {
        let made = Journal::create(rt, parent, *id, plan.settings.segment_bytes).await;
        made.map_err(|error| format!("journal {id} cannot be made: {error}"))?;
    }
    let budget = journal::Budget {
        tail_bytes: (plan.memory_bytes as usize / 4).min(TAIL_BYTES_MAX) / plan.journals.len(),
        index_bytes: (plan.memory_bytes as usize / 8) / plan.journals.len(),
    };
    let mut rebuild = Rebuild::new(lanes);
    let (journal, recovery) = Journal::open(rt, parent, *id, budget, Loss::Refuse, &mut rebuild)
        .await
        .map_err(|error| error.to_string())?;
    report(rt, *id, &recovery, recovered);
    recovered.bytes += journal.disk_bytes();
    rebuild.finish();
    let knows_clock = rebuild.clock.is_some_and(|seen| clock.saw(rt, seen));
    for lane in rebuild.lanes.values_mut() {
        // A quorum of one: what is durable here is what there is.
        lane.high_watermark = lane.position;
        recovered.damages.extend(lane.offline.clone());
    }
    let (mut partitions, mut dropped) = (Logs::default(), Logs::default());
    for log in rebuild.partitions.into_values() {
        if !lanes.contains(&log.lane) {
            return Err(format!(
                "journal {id}: its checkpoint has a partition in lane {}, which is another journal's: \
                                see 'ringctl verify'",
                log.lane.0
            ));
        }
        let is_dropped = {
            let mut log = log.borrow_mut();
            log.visible_end = log.next_offset;
            if rt.mutated("forget-the-producers") {
                log.producers = Default::default();
            }
            log.is_dropped
        };
        if is_dropped { dropped.insert(log) } else { partitions.insert(log) }
    }
    let drive = Drive::new(rt, journal, rebuild.lanes, dropped, rebuild.uptime_ms);
    drive.knows_clock.set(knows_clock);
    Ok(Opened { drive, partitions, lanes: lanes.clone() })
}

fn report(rt: &Rt, id: JournalId, recovery: &Recovery, recovered: &mut Recovered) {
    for damage in &recovery.damages {
        let text = format!(
            "journal {id} file {} bytes {}..{}: {}",
            damage.file, damage.from.byte, damage.to.byte, damage.what
        );
        rt.log(crate::rt::Level::Error, &text);
        recovered.damages.push(text);
    }
    if recovery.used_older_checkpoint {
        recovered
            .damages
            .push(format!("journal {id}: the newest checkpoint is damaged; the older one served"));
    }
}

fn assemble(
    rt: &Rt,
    plan: ShardPlan,
    control: channel::Sender<ToControl>,
    opened: Vec<Opened>,
    clock: ClockGuard,
) -> Rc<Shard> {
    let mut drive_of_lane = BTreeMap::new();
    let mut partitions = Logs::default();
    let mut drives = Vec::new();
    for (at, one) in opened.into_iter().enumerate() {
        drive_of_lane.extend(one.lanes.iter().map(|lane| (*lane, at)));
        one.partitions.into_values().for_each(|log| partitions.insert(log));
        drives.push(one.drive);
    }
    let connections_bytes = (plan.memory_bytes as usize / 8).clamp(1 << 20, CONNECTIONS_BYTES_MAX);
    let shard = Rc::new(Shard {
        rt: rt.clone(),
        index: plan.index,
        count: plan.count,
        broker_epoch: plan.broker_epoch,
        staged_bytes_max: (plan.memory_bytes as usize / 8).clamp(1 << 20, 256 << 20),
        default_config: Rc::new(plan.settings.topic_defaults.clone()),
        settings: plan.settings,
        batch_bytes_max: Cell::new(u32::MAX),
        memory: Memory {
            incoming: Budget::new(connections_bytes),
            replies: Budget::new(connections_bytes),
            recycler: Recycler::default(),
        },
        reads: Budget::new((plan.memory_bytes as usize / 32).clamp(4 << 20, READS_BYTES_MAX)),
        peers: plan.peers,
        control,
        image: RefCell::new(Image::default()),
        drives,
        drive_of_lane,
        partitions: RefCell::new(partitions),
        configs: RefCell::default(),
        admin: RefCell::default(),
        admin_last: Cell::new(0),
        staged_bytes: Cell::new(0),
        room: Event::new(),
        fetch_last: Cell::new(0),
        connections: Cell::new(0),
        refusal_quiet_until: Cell::new(rt.now()),
        clock,
        stopping: Cell::new(false),
    });
    shard.reconcile(plan.image);
    shard
}

impl Shard {
    /// Makes partitions that the metadata knows and the log does not, and drops those of deleted
    /// topics whose drop runs a crash prevented.
    fn reconcile(self: &Rc<Self>, image: Image) {
        for topic in image.topics() {
            self.add_partitions(topic, 0);
        }
        let known = |id: &PartitionId| image.partition_lane(*id).is_some();
        let mut orphans: Vec<_> = self.partitions.borrow().iter().map(|log| log.id).collect();
        orphans.retain(|id| !known(id));
        orphans.sort_unstable();
        for id in orphans {
            if image.tombstone(id.topic).is_some() {
                self.drop_partition(id);
            } else {
                let text = format!(
                    "topic id {} partition {} has records but no metadata: kept on disk, not served",
                    id.topic, id.partition
                );
                self.rt.log(crate::rt::Level::Error, text);
            }
        }
        *self.image.borrow_mut() = image;
        self.report_forgotten_topics();
    }

    /// Partitions of `topic` from number `from` on that lie in this shard's lanes.
    pub(super) fn add_partitions(&self, topic: &crate::coordinator::Topic, from: usize) {
        let mut partitions = self.partitions.borrow_mut();
        for (number, partition) in topic.partitions.iter().enumerate().skip(from) {
            let lane = partition.lane;
            let Some(&at) = self.drive_of_lane.get(&lane) else { continue };
            let id = PartitionId { topic: topic.id, partition: number as u32 };
            if !self.drives[at].dropped.borrow().contains(id) {
                partitions.get_or_new(id, lane);
            }
        }
    }

    /// Grants the lanes this start's epoch and waits until their epoch blocks are durable.
    async fn open_epoch(self: &Rc<Self>, drive: &Rc<Drive>) -> Result<(), String> {
        let epoch = self.broker_epoch as u32;
        if let Some(lane) = drive.lanes.borrow().values().find(|lane| lane.epoch >= epoch) {
            return Err(format!(
                "journal {}: its lane {} has been at epoch {}, and the metadata know of {epoch}: they are older than \
                 the journals, as after a restore of one without the other; put the whole folder back from one backup",
                drive.journal.id, lane.id.0, lane.epoch
            ));
        }
        let lanes: Vec<LaneId> = {
            let mut lanes = drive.lanes.borrow_mut();
            let serving = lanes.values_mut().filter(|lane| lane.offline.is_none());
            serving
                .map(|lane| {
                    lane.epoch = epoch;
                    lane.id
                })
                .collect()
        };
        let count = lanes.len();
        let settled = Rc::new((Cell::new(0usize), RefCell::new(None), Event::new()));
        for lane in lanes {
            let settled = settled.clone();
            let run = ControlRun::epoch(
                lane,
                epoch,
                Box::new(move |result| {
                    settled.0.set(settled.0.get() + 1);
                    if let Err(offline) = result {
                        *settled.1.borrow_mut() = Some(offline.0);
                    }
                    settled.2.notify();
                }),
            );
            drive.push_control(run);
        }
        let written = async {
            while settled.0.get() < count {
                settled.2.wait().await;
            }
        };
        // Without room for its epoch blocks a broker may not lead; only an entirely full log gets here.
        if crate::rt::local::timeout(&self.rt, EPOCH_PATIENCE, written).await.is_none() {
            return Err(format!(
                "journal {}: there is no room for this start's epoch; free some space on the disk",
                drive.journal.id
            ));
        }
        settled.1.take().map_or(Ok(()), Err)
    }
}
