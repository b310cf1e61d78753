//! `ringctl repair DIR --accept-loss`: makes a damaged journal serve again and says what is lost.
//!
//! Floor 5. Owner: the offline tool; no broker runs. The manifest notes which frames and offsets are
//! given up, and two new checkpoints say how far every partition reaches; then sealed segments with
//! damage are rewritten from what of them is good, so that nothing damaged is left in them.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::mesh::JournalPlan;
use super::replay::Rebuild;
use super::retention::ClockGuard;
use crate::base::Map;
use crate::coordinator::Image;
use crate::format::checkpoint::{Checkpoint, Encoder};
use crate::format::footer::RunRef;
use crate::format::manifest::Role;
use crate::journal::{self, Budget, Journal, Loss, Segment, verified_payload};
use crate::model::{Offset, PartitionId};
use crate::rt::Rt;

const BUDGET: Budget = Budget { tail_bytes: 1 << 20, index_bytes: 1 << 30 };

/// Offsets of a partition that cannot be read, first and last.
type Range = (PartitionId, Offset, Offset);

/// Repairs one journal; answers a line for everything that is lost. `damaged`: numbers of segments in
/// which something is, perhaps nothing that is lost.
pub async fn repair(
    rt: &Rt,
    data: &Path,
    image: &Image,
    plan: &JournalPlan,
    damaged: &[u64],
) -> Result<Vec<String>, String> {
    let parent = data.join("journals");
    let parent = rt.folder(&parent).await.map_err(|error| format!("{}: {error}", parent.display()))?;
    let mut rebuild = Rebuild::new(&plan.lanes);
    let opened = Journal::open(rt, &parent, plan.id, BUDGET, Loss::Accept, &mut rebuild).await;
    let (journal, recovery) = opened.map_err(|error| error.to_string())?;
    let failed = |error: io::Error| format!("journal {}: {error}", plan.id);
    let (runs, mut lost) = survey(&journal).await.map_err(failed)?;
    complete(&mut rebuild, image, &runs);
    lost.extend(gaps(&rebuild, &runs));
    lost.retain(|(id, first, last)| {
        let log_start = rebuild.partitions.get(*id).map_or(0, |log| log.borrow().log_start);
        *last >= log_start && journal.accepted_until(*id, *first).is_none()
    });
    journal.accept(&recovery.damages, &lost).await.map_err(failed)?;
    for _ in 0..2 {
        // Both generations: the older one may rest on what was damaged.
        checkpoint(rt, &journal, &rebuild).await.map_err(failed)?;
    }
    let rewritten = rewrite(&journal, &rebuild, damaged).await.map_err(failed)?;
    journal.close();
    let mut lines: Vec<_> =
        recovery.warnings.iter().map(|warning| format!("journal {}: {warning}", plan.id)).collect();
    lines.extend(rewritten.into_iter().map(|line| format!("journal {}: {line}", plan.id)));
    lines.extend(recovery.damages.iter().map(|damage| {
        format!(
            "journal {} file {} bytes {}..{}: {}",
            plan.id, damage.file, damage.from.byte, damage.to.byte, damage.what
        )
    }));
    for (id, first, last) in lost {
        // What was deleted is not lost.
        if let Some(topic) = image.topic_by_id(id.topic) {
            let (name, partition) = (&topic.name, id.partition);
            lines.push(format!("lost: topic {name} partition {partition} offsets {first}..={last}"));
        }
    }
    Ok(lines)
}

/// Rewrites those of these segments that are sealed and settled.
async fn rewrite(journal: &Rc<Journal>, rebuild: &Rebuild, damaged: &[u64]) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let is_live = |id: PartitionId, run: &RunRef| {
        let log = rebuild.partitions.get(id).map(|log| log.borrow());
        log.is_none_or(|log| !log.is_dropped && run.end_offset() > log.log_start)
    };
    for segment in damaged.iter().filter_map(|number| journal.segment(*number)) {
        let is_settled = segment.role == Role::Sorted || segment.number < journal.settled_below();
        if segment.is_open() || !is_settled {
            continue;
        }
        journal.ensure_reserve().await.or_else(journal::unless_full)?;
        if !journal.has_reserve() {
            let number = segment.number;
            lines.push(format!("segment {number} keeps its damage: the disk is too full to rewrite it"));
            continue;
        }
        journal.rewrite(&segment, is_live).await?;
        lines.push(format!("segment {} was rewritten without its damage", segment.number));
    }
    journal.ensure_reserve().await.or_else(journal::unless_full)?;
    Ok(lines)
}

/// All runs by partition in order of offsets, and those that do not verify.
async fn survey(journal: &Rc<Journal>) -> io::Result<(Map<PartitionId, Vec<RunRef>>, Vec<Range>)> {
    let mut all: Map<PartitionId, Vec<RunRef>> = Map::default();
    let mut damaged = Vec::new();
    for segment in journal.segments() {
        journal.load_index(&segment).await?;
        let mut of_segment = Vec::new();
        segment.for_each_partition(|id, runs| of_segment.extend(runs.iter().map(|run| (id, *run))));
        for (id, run) in of_segment {
            all.entry(id).or_default().push(run);
            if run.lost || !verifies(journal, &segment, id, &run).await {
                damaged.push((id, run.first_offset, run.end_offset() - 1));
            }
        }
    }
    all.values_mut().for_each(|runs| runs.sort_unstable_by_key(|run| run.first_offset));
    damaged.sort_unstable();
    Ok((all, damaged))
}

async fn verifies(journal: &Rc<Journal>, segment: &Segment, id: PartitionId, run: &RunRef) -> bool {
    match journal.read_span(segment, run.range()).await {
        Ok((buf, start)) => verified_payload(&buf[start..], id, run).is_some(),
        Err(_) => false,
    }
}

/// Without a checkpoint the files tell where partitions begin and end.
fn complete(rebuild: &mut Rebuild, image: &Image, runs: &Map<PartitionId, Vec<RunRef>>) {
    for (id, runs) in runs {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { continue };
        let lane = image.partition_lane(*id).or_else(|| Some(rebuild.partitions.get(*id)?.lane));
        let Some(lane) = lane else { continue };
        let mut log = rebuild.partitions.get_or_new(*id, lane).borrow_mut();
        log.next_offset = log.next_offset.max(last.end_offset());
        if rebuild.clock.is_none() {
            log.log_start = log.log_start.max(first.first_offset);
        }
        // A row counts in a checkpoint once something of it lies in the log.
        log.included = log.included.max(1);
    }
}

/// Ranges between log start and end that no run holds.
fn gaps(rebuild: &Rebuild, runs: &Map<PartitionId, Vec<RunRef>>) -> Vec<Range> {
    let mut gaps = Vec::new();
    for shared in rebuild.partitions.iter() {
        let (id, log) = (shared.id, shared.borrow());
        if log.is_dropped {
            // Some of its runs may be gone, and others not yet.
            continue;
        }
        let mut next = log.log_start;
        for run in runs.get(&id).map_or(&[][..], |runs| runs) {
            if run.first_offset > next {
                gaps.push((id, next, run.first_offset - 1));
            }
            next = next.max(run.end_offset());
        }
        if next < log.next_offset {
            gaps.push((id, next, log.next_offset - 1));
        }
    }
    gaps.sort_unstable();
    gaps
}

async fn checkpoint(rt: &Rt, journal: &Rc<Journal>, rebuild: &Rebuild) -> io::Result<()> {
    let (replay_segment, chain, _) = journal.replay_point();
    let generation = journal.next_checkpoint();
    // The clocks that were believed before still are: this one may just have been moved.
    let known = rebuild.clock.filter(|seen| seen.boot_id == rt.boot_id());
    let seen = known.unwrap_or_else(|| ClockGuard::read(rt));
    let mut encoder = Encoder::new(&Checkpoint {
        generation,
        replay_segment,
        chain,
        uptime_ms: rebuild.uptime_ms,
        wall_ms: seen.wall_ms,
        boot_id: seen.boot_id,
        boot_uptime_ms: seen.uptime_ms,
        lanes: rebuild.lanes.values().map(|lane| lane.row()).collect(),
        partitions: Vec::new(),
    });
    let mut logs: Vec<_> = rebuild.partitions.iter().collect();
    logs.sort_unstable_by_key(|log| log.id);
    for log in logs {
        encoder.partition(&log.row());
    }
    let content = encoder.finish(journal.id);
    journal.write_checkpoint(generation, replay_segment, &content).await
}
