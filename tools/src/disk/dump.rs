//! Prints what a data folder holds: metadata, manifests, checkpoints, frames, runs, batches.
//!
//! Owner: ringctl, offline. One line each, indented by depth; a bad place is said and passed over.

use std::io::{self, Write};

use ringlog::format::block;
use ringlog::format::checkpoint::Checkpoint;
use ringlog::format::frame::{Address, FrameHeader, FrameKind};
use ringlog::format::manifest::Role;
use ringlog::format::{EntryKind, mark};
use ringlog::record::batches;

use super::journal::Journal;
use super::report::Report;
use super::walk::{self, Place, Segment};
use super::{DataFolder, Mapped, Names, content, journal, list, names, segments};

/// Prints everything in the folder.
pub fn dump(folder: &DataFolder, out: &mut dyn Write) -> io::Result<()> {
    // Damage is `verify`'s to report; here it shows where it lies.
    let mut ignore = |_: &super::Finding| {};
    let mut report = Report::new(&mut ignore);
    let names = names::verify(&folder.path, &mut report);
    writeln!(out, "data {}", folder.path.display())?;
    names.dump(out)?;
    for id in list(&folder.path.join("journals")).unwrap_or_default() {
        let path = folder.path.join("journals").join(&id);
        writeln!(out, "journal {id}")?;
        match journal::open(&path, &id, &mut report) {
            Some(journal) => dump_journal(&journal, &names, out)?,
            None => writeln!(out, "  its manifest cannot be read; see 'ringctl verify'")?,
        }
    }
    Ok(())
}

fn dump_journal(journal: &Journal<'_>, names: &Names, out: &mut dyn Write) -> io::Result<()> {
    let manifest = &journal.manifest;
    writeln!(out, "  manifest: start {} segment bytes {}", manifest.start, manifest.segment_bytes)?;
    for (from, to) in &manifest.accepted_frames {
        let (segment, from, end, to) = (from.segment, from.byte, to.segment, to.byte);
        writeln!(out, "  accepted loss: segment {segment} byte {from} to segment {end} byte {to}")?;
    }
    for (id, ranges) in &manifest.accepted_ranges {
        let topic = names.topic(id.topic);
        for (first, last) in ranges {
            writeln!(out, "  accepted loss: {topic}-{} offsets {first}..={last}", id.partition)?;
        }
    }
    for checkpoint in &journal.checkpoints {
        dump_checkpoint(checkpoint, names, out)?;
    }
    for (&number, state) in &manifest.files {
        let role = if state.role == Role::Log { "log" } else { "sorted" };
        write!(out, "  segment {number} {role} bytes {}", state.bytes)?;
        if !state.inputs.is_empty() {
            write!(out, " instead of {:?}", state.inputs)?;
        }
        writeln!(out, "{}", state.footer.map_or(String::new(), |footer| format!(" footer at {footer}")))?;
        match Mapped::open(&journal.path.join(segments::name(number))) {
            Ok(bytes) => dump_segment(journal, number, &bytes, names, out)?,
            Err(error) => writeln!(out, "    cannot be read: {error}")?,
        }
    }
    Ok(())
}

fn dump_checkpoint(checkpoint: &Checkpoint, names: &Names, out: &mut dyn Write) -> io::Result<()> {
    let Checkpoint { generation, replay_segment, uptime_ms, wall_ms, .. } = checkpoint;
    writeln!(
        out,
        "  checkpoint {generation}: replay from segment {replay_segment}, uptime {uptime_ms} ms, at {wall_ms}"
    )?;
    for lane in &checkpoint.lanes {
        writeln!(out, "    lane {} epoch {} position {}", lane.lane.0, lane.epoch, lane.position)?;
    }
    for row in &checkpoint.partitions {
        let topic = names.topic(row.id.topic);
        writeln!(
            out,
            "    {topic}-{} lane {} offsets {}..{} producers {} epochs {:?}{}",
            row.id.partition,
            row.lane.0,
            row.log_start,
            row.next_offset,
            row.producers.len(),
            row.epochs,
            if row.dropped { " dropped" } else { "" },
        )?;
    }
    Ok(())
}

fn dump_segment(
    journal: &Journal<'_>,
    number: u64,
    bytes: &[u8],
    names: &Names,
    out: &mut dyn Write,
) -> io::Result<()> {
    let walked = Segment { journal: journal.id, number, bytes, proven: Address::default() }.walk(None);
    for place in &walked.places {
        match place {
            Place::Bad { range } => writeln!(out, "    bytes {}..{}: bad", range.start, range.end)?,
            Place::Frame { header, .. } => dump_frame(bytes, header, names, out)?,
        }
    }
    writeln!(out, "    end at {}", walked.end)
}

fn dump_frame(bytes: &[u8], header: &FrameHeader, names: &Names, out: &mut dyn Write) -> io::Result<()> {
    let flaws = content::check(bytes, header).len();
    writeln!(
        out,
        "    frame {:?} at {} length {} start {} durable {}:{} checksum {:08x}{}",
        header.kind,
        header.address.byte,
        header.length,
        header.start,
        header.durable.segment,
        header.durable.byte,
        header.checksum,
        if flaws == 0 { "" } else { " BAD" },
    )?;
    for (_, range) in walk::parts(header) {
        let part = &bytes[range.clone()];
        match header.kind {
            FrameKind::Block | FrameKind::Sorted => dump_block(part, range.start, names, out)?,
            FrameKind::Mark => {
                for end in mark::decode(part).unwrap_or_default() {
                    writeln!(out, "      lane {} ends at {}", end.lane.0, end.position)?;
                }
            }
            FrameKind::Footer | FrameKind::Pad => {}
        }
    }
    Ok(())
}

fn dump_block(block: &[u8], at: usize, names: &Names, out: &mut dyn Write) -> io::Result<()> {
    let Ok(header) = block::decode(block) else {
        return writeln!(out, "      block at {at}: bad");
    };
    writeln!(
        out,
        "      block at {at} lane {} epoch {} position {} length {}",
        header.lane.0, header.epoch, header.position, header.length
    )?;
    for run in block::runs(block, &header).unwrap_or_default() {
        let entry = &run.entry;
        let payload = &block[run.payload()];
        let bad = if entry.verifies(payload) { "" } else { " BAD" };
        let what = content::describe(entry, &names.topic(entry.id.topic));
        writeln!(out, "        run at {} {what}, {} bytes{bad}", at + run.at, entry.length)?;
        if entry.kind == EntryKind::Data && bad.is_empty() {
            dump_batches(payload, out)?;
        }
    }
    Ok(())
}

fn dump_batches(payload: &[u8], out: &mut dyn Write) -> io::Result<()> {
    for batch in batches(payload) {
        let Ok(batch) = batch else { return writeln!(out, "          batch: bad") };
        write!(
            out,
            "          batch offsets {}..={} records {} bytes {} timestamps {}..={}",
            batch.base_offset(),
            batch.last_offset(),
            batch.record_count(),
            batch.bytes().len(),
            batch.base_timestamp(),
            batch.max_timestamp(),
        )?;
        if let Some(codec) = batch.compression() {
            write!(out, " {codec:?}")?;
        }
        if let Some(producer) = batch.producer() {
            write!(out, " producer {}:{} sequence {}", producer.id, producer.epoch, producer.base_sequence)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
