//! Starting and stopping a broker: folder, metadata, journals, shards, in this order and back.
//!
//! Floor 6. Owner: broker. The same code runs on the machine and in a simulated world.
//! Order of effects of a start: the data folder is locked; the new broker epoch and the planned
//! journals are durable in the metadata; every shard has recovered; new journals are completed in
//! the metadata; only then does any shard listen.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::Config;
use super::control::{Control, Ending};
use super::error::{self, StartError};
use super::metadata::{self, Metadata};
use crate::coordinator::{Coordinator, Image, LOG_NAME};
use crate::journal::{SEGMENT_BYTES, SEGMENT_BYTES_MIN};
use crate::model::JournalId;
use crate::rt::local::{Either, select2};
use crate::rt::{Folder, Joiner, Level, Lock, PortClaim, Rt, Space, World, mesh};
use crate::shard::{self, JournalPlan, Recovered, Settings, ShardPlan, ToControl, ToShard};

const LOCK: &str = "LOCK";
const JOURNALS: &str = "journals";
/// A segment is at most this share of the filesystem.
const SEGMENT_SHARE: u64 = 64;
/// Active, next and output segments of all journals together.
const JOURNALS_SHARE: u64 = 8;
const SEGMENTS_PER_JOURNAL: u64 = 3;
/// Manifest and checkpoints of a new journal, and room for the manifest to grow.
const JOURNAL_FILES_BYTES: u64 = 4 << 20;
/// More journals are made only while this share of the filesystem stays free.
const FREE_SHARE: u64 = 10;
const MIB: u64 = 1 << 20;
/// How long a broker that was just killed may take to let go of folder and port.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(3);
/// The same while its process is gone, and what is left of it is seen to wait for the disk.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(30);
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(50);

/// What a start came to.
#[derive(Clone, Debug)]
pub struct Started {
    pub listen: SocketAddr,
    pub data: PathBuf,
    pub shards: u32,
    pub journals: usize,
    pub segment_bytes: u64,
    pub memory_bytes: u64,
    pub broker_epoch: u64,
    pub topics: usize,
    pub partitions: usize,
    /// By shard, in the order in which they were ready.
    pub recovered: Vec<Recovered>,
}

/// A broker that runs as tasks of the calling executor and on executors of its own.
pub struct Broker {
    control: mesh::Sender<ToControl>,
    started: mesh::Receiver<Result<Started, StartError>>,
    ended: mesh::Receiver<Ending>,
}

impl Broker {
    pub fn start(rt: &Rt, world: &World, config: Config) -> Broker {
        let (control, inbox) = mesh::channel();
        let (say_started, started) = mesh::channel();
        let (say_ended, ended) = mesh::channel();
        let (rt, world, to_control) = (rt.clone(), world.clone(), control.clone());
        rt.clone().spawn(async move {
            say_ended.send(run(rt, world, config, (to_control, inbox), say_started).await);
        });
        Broker { control, started, ended }
    }

    /// Waits until every shard listens. `None`: stopped before.
    pub async fn ready(&mut self) -> Option<Result<Started, StartError>> {
        self.started.recv().await
    }

    /// Asks for a graceful end, from anywhere.
    pub fn stopper(&self) -> impl Fn() + 'static + use<> {
        let control = self.control.clone();
        move || control.send(ToControl::Stop)
    }

    /// Waits for the end; an error if it was not asked for.
    pub async fn ended(&mut self) -> Result<(), StartError> {
        self.ended.recv().await.unwrap_or(Ok(()))
    }
}

type Channel = (mesh::Sender<ToControl>, mesh::Receiver<ToControl>);

async fn run(
    rt: Rt,
    world: World,
    config: Config,
    channel: Channel,
    say: mesh::Sender<Result<Started, StartError>>,
) -> Ending {
    let (to_control, mut inbox) = channel;
    // What a killed broker left may be waited for: a stop ends that, and nothing else comes that early.
    let port = match select2(check_port(&rt, &world, &config), inbox.recv()).await {
        Either::First(port) => port,
        Either::Second(_) => {
            rt.log(Level::Info, "stopped");
            return Ok(());
        }
    };
    let (opened, _claim) = match port {
        Ok(claim) => (open(&rt, &world, &config, inbox).await, Some(claim)),
        Err(taken) => (Err(taken), None),
    };
    let (mut control, opened) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            say.send(Err(error.clone()));
            return Err(error);
        }
    };
    let mut shards = Vec::new();
    let ending = match start_shards(&world, &opened, &mut control, &to_control, &mut shards).await {
        Ok(recovered) => {
            say.send(Ok(started(&control, &opened, recovered)));
            drop(say);
            control.run().await
        }
        Err(ending) => {
            if let Err(error) = &ending {
                say.send(Err(error.clone()));
            }
            drop(say);
            ending
        }
    };
    for shard in &control.shards {
        shard.send(ToShard::Stop);
    }
    for shard in shards {
        shard.join().await;
    }
    rt.log(Level::Info, "stopped");
    ending
}

/// What holds until the broker ends.
struct Opened {
    config: Config,
    data: PathBuf,
    shards: u32,
    segment_bytes: u64,
    memory_bytes: u64,
    _lock: Lock,
}

async fn open(
    rt: &Rt,
    world: &World,
    config: &Config,
    inbox: mesh::Receiver<ToControl>,
) -> Result<(Control, Opened), StartError> {
    let failed = |error| error::storage(&config.data, &error);
    let folder = rt.create_folder(&config.data).await.map_err(failed)?;
    let data = folder.path();
    let lock = lock(rt, &folder).await.map_err(failed)?.ok_or_else(|| metadata::in_use(&data))?;
    let found = journal_folders(&folder).await.map_err(failed)?;
    let Metadata { mut log, image, repaired } = metadata::open(rt, &folder, found.len()).await?;
    repaired.iter().for_each(|text| rt.log(Level::Warn, text));
    check_journals(&data, &image, &found)?;

    let space = folder.space().await.map_err(failed)?;
    let shards = config.shards.unwrap_or(world.cpus().len() as u32).max(1);
    let (mut coordinator, epoch) = Coordinator::start(image);
    let before = coordinator.image().journals().len();
    let journals = journal_count(shards as usize, before, space, config);
    let mut records = vec![epoch];
    for _ in before..journals {
        records.push(coordinator.plan_journal(JournalId(rt.random())));
    }
    let written = Metadata::persist(&mut log, coordinator.image(), &records).await;
    written.map_err(|error| error::storage(&data.join(LOG_NAME), &error))?;
    rt.step("broker.epoch_durable");
    let opened = Opened {
        config: config.clone(),
        data,
        shards,
        segment_bytes: segment_bytes(config, journals.max(before) as u64, space),
        memory_bytes: config.memory_bytes.unwrap_or(world.memory() / 2),
        _lock: lock,
    };
    let defaults = (config.topic_defaults.clone(), config.partitions_default);
    Ok((Control::new(rt, log, coordinator, inbox, defaults), opened))
}

/// Locks the data folder; waits a little for a predecessor that is dying.
async fn lock(rt: &Rt, folder: &Folder) -> std::io::Result<Option<Lock>> {
    let since = rt.now();
    loop {
        let lock = folder.lock(LOCK).await?;
        if lock.is_some() || rt.now() - since >= PREDECESSOR_PATIENCE {
            return Ok(lock);
        }
        rt.sleep(PREDECESSOR_PAUSE).await;
    }
}

/// The kernel closes the listening socket of a killed broker only after its rings are torn down,
/// which is after its process is gone: waits for that.
async fn free_port(rt: &Rt, world: &World, listen: SocketAddr) -> std::io::Result<PortClaim> {
    let since = rt.now();
    let mut is_told = false;
    loop {
        let result = world.check_port(listen);
        let is_taken = matches!(&result, Err(error) if error.kind() == std::io::ErrorKind::AddrInUse);
        let waited = rt.now() - since;
        if !is_taken || waited >= ORPHAN_PATIENCE {
            return result;
        }
        if waited >= PREDECESSOR_PATIENCE {
            if !world.is_orphaned(listen.port()) {
                return result;
            }
            if !std::mem::replace(&mut is_told, true) {
                rt.log(
                    Level::Info,
                    format!("{listen} is taken, and no process has it open: waiting for the last writes of a killed broker"),
                );
            }
        }
        rt.sleep(PREDECESSOR_PAUSE).await;
    }
}

async fn check_port(rt: &Rt, world: &World, config: &Config) -> Result<PortClaim, StartError> {
    let listen = config.listen;
    free_port(rt, world, listen).await.map_err(|error| {
        let what = format!("cannot listen on {listen}: {error}");
        let cure = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("another program uses that port (`ss -ltnp 'sport = :{}'` names it): stop it, or choose another with --listen ADDR:PORT", listen.port())
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need privileges: choose a higher one with --listen ADDR:PORT".to_owned()
            }
            _ => "choose an address of this machine with --listen ADDR:PORT (127.0.0.1, or 0.0.0.0 for all)".to_owned(),
        };
        StartError::new(what, cure)
    })
}

/// Names of the folders under `journals`.
async fn journal_folders(data: &Folder) -> std::io::Result<Vec<String>> {
    if !data.list().await?.iter().any(|entry| entry.name == JOURNALS) {
        return Ok(Vec::new());
    }
    let entries = data.folder(JOURNALS).await?.list().await?;
    Ok(entries.into_iter().filter(|entry| entry.is_folder).map(|entry| entry.name).collect())
}

fn check_journals(data: &Path, image: &Image, found: &[String]) -> Result<(), StartError> {
    let place = data.join(JOURNALS);
    let shown = place.display();
    for journal in image.journals().iter().filter(|journal| journal.completed) {
        if !found.contains(&journal.id.to_string()) {
            let what = format!("journal {} is missing: {shown} has no folder of that name", journal.id);
            let cure = "a part of the records lies in it: put the folder back (was a disk not mounted?), or the whole \
                        data folder from a backup";
            return Err(StartError::new(what, cure));
        }
    }
    let listed = |name: &String| image.journals().iter().any(|journal| journal.id.to_string() == *name);
    if let Some(stray) = found.iter().find(|name| !listed(name)) {
        let what = format!("{shown} has a journal {stray} that the metadata does not know");
        let cure = "the metadata folder and the journals are not of one broker: put the right metadata folder back, or \
                    move that journal away if it does not belong here";
        return Err(StartError::new(what, cure));
    }
    Ok(())
}

/// How many journals there shall be: one per shard, as far as there is space for more.
fn journal_count(shards: usize, before: usize, space: Space, config: &Config) -> usize {
    let each = SEGMENTS_PER_JOURNAL * segment_bytes(config, shards as u64, space) + JOURNAL_FILES_BYTES;
    let usable = space.available.saturating_sub(space.total / FREE_SHARE);
    let room = usize::try_from(usable / each).unwrap_or(usize::MAX);
    // The first one is always made: an error in its creation says more than a refusal here.
    shards.min(before + room).max(before).max(1)
}

fn segment_bytes(config: &Config, journals: u64, space: Space) -> u64 {
    let share =
        (space.total / SEGMENT_SHARE).min(space.total / JOURNALS_SHARE / SEGMENTS_PER_JOURNAL / journals);
    match config.segment_bytes {
        Some(wanted) => {
            let most = crate::base::align::align_down(space.total / SEGMENT_SHARE).max(SEGMENT_BYTES_MIN);
            wanted.min(most)
        }
        None => (share / MIB * MIB).clamp(MIB, SEGMENT_BYTES),
    }
}

/// Starts every shard and waits until all listen.
async fn start_shards(
    world: &World,
    opened: &Opened,
    control: &mut Control,
    to_control: &mesh::Sender<ToControl>,
    joiners: &mut Vec<Joiner>,
) -> Result<Vec<Recovered>, Ending> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..opened.shards).map(|_| mesh::channel()).unzip();
    control.shards = senders;
    let cpus = world.cpus();
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let plan = shard_plan(opened, control, index as u32);
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let to_control = to_control.clone();
        let name = format!("shard-{index}");
        let main = move |rt| shard::run(rt, plan, inbox, to_control);
        match world.executor(&name, cpu, main) {
            Ok(joiner) => joiners.push(joiner),
            Err(error) => return Err(Err(error::executor(&error, None))),
        }
    }
    let is_ready = |message: &ToControl| matches!(message, ToControl::Ready { .. });
    let recovered = control.gather(is_ready, |message| match message {
        ToControl::Ready { recovered, .. } => recovered,
        _ => unreachable!("only `Ready` was wanted"),
    });
    let recovered = recovered.await?;
    control.rt.step("broker.shards_ready");
    let completed =
        incomplete(control).into_iter().map(|id| control.coordinator.complete_journal(id)).collect();
    if let Err(failure) = control.commit(completed).await {
        return Err(Err(StartError::new(failure.text, "check the disk, then start the broker again")));
    }
    let bounds = recovered.iter().filter_map(|recovered| recovered.batch_bytes_max);
    let batch_bytes_max = bounds.min().unwrap_or(u32::MAX);
    for shard in &control.shards {
        shard.send(ToShard::Serve { batch_bytes_max });
    }
    control.gather(|message| matches!(message, ToControl::Listening { .. }), |_| ()).await?;
    Ok(recovered)
}

fn incomplete(control: &Control) -> Vec<JournalId> {
    let journals = control.coordinator.image().journals();
    journals.iter().filter(|journal| !journal.completed).map(|journal| journal.id).collect()
}

fn shard_plan(opened: &Opened, control: &Control, index: u32) -> ShardPlan {
    let image = control.coordinator.image();
    let own = image.journals().iter().skip(index as usize).step_by(opened.shards as usize);
    let journals = own.map(|journal| JournalPlan {
        id: journal.id,
        lanes: journal.lanes.clone(),
        create: !journal.completed,
    });
    ShardPlan {
        index,
        count: opened.shards,
        listen: opened.config.listen,
        data: opened.data.clone(),
        journals: journals.collect(),
        image: image.clone(),
        broker_epoch: image.broker_epoch(),
        memory_bytes: opened.memory_bytes / u64::from(opened.shards),
        peers: control.shards.clone(),
        settings: Settings {
            segment_bytes: opened.segment_bytes,
            topic_defaults: opened.config.topic_defaults.clone(),
            frame_bytes_max: opened.config.frame_bytes_max,
            retention_check_ms: opened.config.retention_check_ms,
            connections_max: opened.config.connections_max,
        },
    }
}

fn started(control: &Control, opened: &Opened, recovered: Vec<Recovered>) -> Started {
    let image = control.coordinator.image();
    Started {
        listen: opened.config.listen,
        data: opened.data.clone(),
        shards: opened.shards,
        journals: image.journals().len(),
        segment_bytes: opened.segment_bytes,
        memory_bytes: opened.memory_bytes,
        broker_epoch: image.broker_epoch(),
        topics: image.topic_count(),
        partitions: image.partition_count(),
        recovered,
    }
}
