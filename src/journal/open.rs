//! Making a journal, and opening one: manifest, files, checkpoint; then recovery replays the rest.
//!
//! Floor 3. Owner: the shard that will drive the journal.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use super::append::{Head, Tail};
use super::files;
use super::opening::{OpenError, Opening};
use super::recover::{self, Recovery, Replay};
use super::segment::{Index, OpenIndex, Segment};
use super::{Journal, checkpoint, folder_name, unless_full};
use crate::format::checkpoint::Checkpoint;
use crate::format::frame::Address;
use crate::format::manifest::{Manifest, Record, Role};
use crate::model::JournalId;
use crate::rt::local::Event;
use crate::rt::{Access, File, Folder, Level, Rt};
use crate::twinlog::{Damage, TwinLog};

const MANIFEST: &str = "manifest";
/// Room for some thousand segments between two snapshots.
const MANIFEST_BYTES: u64 = 1 << 20;
/// The same for the simulator's small worlds.
const MANIFEST_BYTES_SMALL: u64 = 64 << 10;

/// What to do with damage that a broker would refuse to start over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Refuse,
    Accept,
}

/// Sizes that a shard gives its journals out of its budget.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub tail_bytes: usize,
    pub index_bytes: usize,
}

impl Journal {
    /// Makes an empty journal in `parent`; it counts once the metadata lists it. What an interrupted
    /// try left is removed.
    pub async fn create(rt: &Rt, parent: &Folder, id: JournalId, segment_bytes: u64) -> io::Result<()> {
        let folder = parent.create_folder(&folder_name(id)).await?;
        for entry in folder.list().await? {
            folder.remove(&entry.name).await?;
        }
        let bytes = if segment_bytes < 1 << 20 { MANIFEST_BYTES_SMALL } else { MANIFEST_BYTES };
        let mut log = TwinLog::create(rt, &folder, MANIFEST, id.0, bytes).await?;
        log.append(&[Record::Identity { journal: id, segment_bytes }.encode()]).await?;
        checkpoint::create_slots(&folder).await?;
        folder.sync().await?;
        parent.sync().await
    }

    /// Opens a journal: everything acknowledged is there again when this returns, told to `replay`.
    pub async fn open(
        rt: &Rt,
        parent: &Folder,
        id: JournalId,
        budget: Budget,
        loss: Loss,
        replay: &mut dyn Replay,
    ) -> Result<(Rc<Journal>, Recovery), OpenError> {
        let io = |what: &str| {
            let what = what.to_string();
            move |error| OpenError::Io { journal: id, what, error }
        };
        let name = folder_name(id);
        let folder = parent.folder(&name).await.map_err(io(&format!("folder {name} cannot be opened")))?;
        let (log, records, repaired) = TwinLog::open(rt, &folder, MANIFEST, id.0)
            .await
            .map_err(|source| OpenError::Manifest { journal: id, source })?;
        let mut opening = Opening {
            rt: rt.clone(),
            id,
            folder,
            manifest: Manifest::default(),
            log,
            segments: BTreeMap::new(),
            checkpoint_next: 1,
            number_next: 0,
            accepts_loss: loss == Loss::Accept,
            warnings: repaired.iter().map(Damage::to_string).collect(),
        };
        for bytes in &records {
            let applied = Record::decode(bytes).and_then(|record| opening.manifest.apply(&record));
            applied.map_err(|error| opening.damaged(format!("manifest: {error}")))?;
        }
        if opening.manifest.journal != id {
            return Err(opening.damaged(format!("the manifest is journal {}'s", opening.manifest.journal)));
        }
        opening.checkpoint_next = opening.manifest.checkpoints.first().map_or(1, |(newest, _)| newest + 1);
        opening.number_next = opening.manifest.next_number;
        let (checkpoint, replay_from, used_older) = newest_checkpoint(&mut opening).await?;
        open_segments(&mut opening, replay_from).await?;
        rt.step("recover.locked");
        let start = opening.manifest.start + 1;
        opening.note(&[Record::Start { number: start }]).await?;
        rt.step("recover.started");
        clean(&mut opening).await?;
        let chain = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.chain);
        if let Some(checkpoint) = checkpoint {
            replay.checkpoint(checkpoint);
        }
        let mut recovery = recover::walk(&mut opening, replay_from, chain, replay).await?;
        recovery.used_older_checkpoint = used_older;
        let journal = assemble(opening, budget, start, &mut recovery);
        journal.finish_opening().await.map_err(io("the next segment could not be made"))?;
        Ok((journal, recovery))
    }

    /// After recovery: an active segment with a successor, and the reserve, as far as space allows.
    async fn finish_opening(&self) -> io::Result<()> {
        self.rt.step("recover.walked");
        // The reserve first: without it a full disk could not free itself.
        self.ensure_reserve().await.or_else(unless_full)?;
        self.allocate_next_within(self.space().await?).await.or_else(unless_full)?;
        self.rt.step("recover.done");
        Ok(())
    }
}

async fn newest_checkpoint(opening: &mut Opening) -> Result<(Option<Checkpoint>, u64, bool), OpenError> {
    let candidates = opening.manifest.checkpoints.clone();
    let first = opening.manifest.files.iter().find(|(_, file)| file.role == Role::Log);
    let first = first.map_or(0, |(number, _)| *number);
    let mut bad = Vec::new();
    for (generation, replay) in &candidates {
        let read = checkpoint::read(&opening.rt, &opening.folder, opening.id, *generation, *replay).await;
        match read {
            Err(error) => bad.push(format!("checkpoint {generation} cannot be read: {error}")),
            Ok(Ok(checkpoint)) => {
                let used_older = !bad.is_empty();
                if used_older {
                    // The next one goes to the bad one's slot, not over the only good one.
                    opening.checkpoint_next = generation + 1;
                    opening.manifest.checkpoints.remove(0);
                }
                opening.warnings.append(&mut bad);
                return Ok((Some(checkpoint), *replay, used_older));
            }
            Ok(Err(what)) => {
                if what.contains("newer") {
                    return Err(OpenError::Newer { journal: opening.id, what });
                }
                bad.push(format!("checkpoint {generation} is damaged ({what})"));
            }
        }
    }
    // Without its second generation the log still reaches back to the first record.
    let reaches_back = candidates.len() < 2 && opening.manifest.files.contains_key(&0);
    if reaches_back || candidates.is_empty() || opening.accepts_loss {
        let used_older = !bad.is_empty();
        opening.warnings.append(&mut bad);
        return Ok((None, first, used_older));
    }
    let what =
        format!("{}; run 'ringctl repair DIR --accept-loss' to rebuild one from the log", bad.join("; "));
    Err(opening.damaged(what))
}

/// Opens every complete file; what will be scanned is locked through its writing descriptor, which
/// proves that no earlier process has a write in flight.
async fn open_segments(opening: &mut Opening, replay_from: u64) -> Result<(), OpenError> {
    for (number, state) in opening.manifest.files.clone() {
        if !state.is_complete {
            continue;
        }
        let name = Segment::name(number);
        let is_scanned = state.role == Role::Log && number >= replay_from;
        let access = if is_scanned { Access::Write } else { Access::Read };
        let file = match opening.folder.open(&name, access).await {
            Ok(file) => file,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && (number < replay_from || opening.accepts_loss) =>
            {
                opening.warnings.push(format!("{name} is missing: its records are lost"));
                continue;
            }
            Err(error) => return Err(opening.io(format!("{name} cannot be opened"))(error)),
        };
        if is_scanned {
            lock(opening, &file, &name).await?;
        }
        let index = if is_scanned { Index::Open(OpenIndex::default()) } else { Index::OnDisk };
        let segment = Segment::new(number, state.role, file, state.bytes, index);
        segment.footer.set(state.footer);
        opening.segments.insert(number, segment);
    }
    Ok(())
}

async fn lock(opening: &Opening, file: &File, name: &str) -> Result<(), OpenError> {
    if opening.rt.mutated("recover-without-locks") {
        return Ok(());
    }
    match files::lock(&opening.rt, file).await.map_err(opening.io(format!("{name} cannot be locked")))? {
        true => Ok(()),
        false => Err(OpenError::InUse { journal: opening.id, file: name.to_string() }),
    }
}

/// Finishes what a crash interrupted: removes incomplete files, replaced inputs and files whose
/// removal was noted; reports any other.
async fn clean(opening: &mut Opening) -> Result<(), OpenError> {
    let mut gone = Vec::new();
    for (number, state) in &opening.manifest.files {
        match (state.is_complete, state.role) {
            (false, Role::Log) => gone.push(*number),
            // The inputs were not removed yet: they hold everything.
            (false, Role::Sorted) => gone.push(*number),
            (true, Role::Sorted) if opening.segments.contains_key(number) => {
                gone.extend(state.inputs.iter().filter(|input| opening.manifest.files.contains_key(input)));
            }
            _ => {}
        }
    }
    if !gone.is_empty() {
        let records: Vec<_> = gone.iter().map(|&number| Record::Remove { number }).collect();
        opening.note(&records).await?;
        opening.rt.step("recover.removal_noted");
    }
    gone.iter().for_each(|number| drop(opening.segments.remove(number)));
    let entries = opening.folder.list().await.map_err(opening.io("the folder cannot be read"))?;
    for entry in &entries {
        let Some(number) = entry.name.strip_suffix(".seg").and_then(|digits| digits.parse::<u64>().ok())
        else {
            continue;
        };
        if opening.manifest.files.contains_key(&number) {
            continue;
        }
        if number >= opening.manifest.next_number {
            opening.warnings.push(format!("{} is not in the manifest and is left alone", entry.name));
            opening.number_next = opening.number_next.max(number + 1);
            continue;
        }
        let removed = opening.folder.remove(&entry.name).await;
        removed.map_err(opening.io(format!("{} cannot be removed", entry.name)))?;
        opening.rt.step("recover.unlinked");
    }
    opening.folder.sync().await.map_err(opening.io("the folder cannot be flushed"))
}

fn assemble(opening: Opening, budget: Budget, start: u32, recovery: &mut Recovery) -> Rc<Journal> {
    recovery.warnings.splice(0..0, opening.warnings);
    for warning in &recovery.warnings {
        opening.rt.log(Level::Warn, format!("journal {}: {warning}", opening.id));
    }
    let (active, byte) = recovery.head.clone();
    let address = Address { segment: active.number, byte };
    let later = opening.segments.range(active.number + 1..);
    let next = later.map(|(_, segment)| segment).find(|segment| segment.role == Role::Log).cloned();
    Rc::new(Journal {
        id: opening.id,
        segment_bytes: opening.manifest.segment_bytes,
        rt: opening.rt,
        folder: opening.folder,
        start,
        changed: Event::new(),
        head: RefCell::new(Head {
            active,
            byte,
            chain: recovery.chain,
            next,
            is_starved: false,
            small_frames: 0,
            durable: address,
            in_flight: VecDeque::new(),
            offline: None,
            marked: Address::default(),
        }),
        segments: RefCell::new(opening.segments),
        tail: RefCell::new(Tail::new(budget.tail_bytes)),
        manifest: RefCell::new(opening.manifest),
        manifest_log: RefCell::new(Some(opening.log)),
        manifest_free: Event::new(),
        number_next: Cell::new(opening.number_next),
        checkpoint_next: Cell::new(opening.checkpoint_next),
        sealing: RefCell::new(recovery.unsealed.drain(..).collect()),
        index_bytes_max: budget.index_bytes,
        index_clock: Cell::new(0),
        has_reserve: Cell::new(recovery.has_reserve),
    })
}
