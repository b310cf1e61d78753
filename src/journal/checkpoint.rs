//! Checkpoint files: two slots used in turn; the manifest names what is durable.
//!
//! Floor 3. Owner: the journal's maintenance task.

use std::io;

use super::{Journal, files};
use crate::base::align::align_up;
use crate::format::checkpoint::{self, Checkpoint};
use crate::format::manifest::Record;
use crate::model::JournalId;
use crate::rt::{Access, File, Folder, Rt};

/// A new slot; it grows ahead of need, so that a full disk does not stop checkpoints.
const SLOT_BYTES: u64 = 64 << 10;

fn slot_name(generation: u64) -> String {
    format!("checkpoint-{}", generation % 2)
}

/// Makes both slots of a new journal.
pub(super) async fn create_slots(folder: &Folder) -> io::Result<()> {
    for generation in 0..2 {
        let name = slot_name(generation);
        match folder.remove(&name).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = folder.create(&name, SLOT_BYTES).await?;
        file.flush().await?;
        file.close().await?;
    }
    Ok(())
}

/// Reads a generation; `Ok(Err)` says what is wrong with it. What is read is made durable first.
pub(super) async fn read(
    rt: &Rt,
    folder: &Folder,
    journal: JournalId,
    generation: u64,
    replay: u64,
) -> io::Result<Result<Checkpoint, String>> {
    let name = slot_name(generation);
    let file = match folder.open(&name, Access::Write).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(format!("{name} is missing")));
        }
        Err(error) => return Err(error),
    };
    if !files::lock(rt, &file).await? {
        return Err(io::Error::other("another process holds a checkpoint"));
    }
    file.flush().await?;
    let result = read_file(&file, journal).await?;
    file.close().await?;
    Ok(result.and_then(|checkpoint| match checkpoint.generation {
        found if found == generation && checkpoint.replay_segment == replay => Ok(checkpoint),
        found => Err(format!("{name} holds generation {found} instead of {generation}")),
    }))
}

async fn read_file(file: &File, journal: JournalId) -> io::Result<Result<Checkpoint, String>> {
    let bytes = file.bytes().await?;
    let head = file.read_at(0, align_up(checkpoint::HEADER_BYTES as u64) as usize).await?;
    let total = match checkpoint::decode_header(journal, &head) {
        Ok((_, body)) => body.saturating_add(checkpoint::HEADER_BYTES as u64),
        Err(error) => return Ok(Err(error.to_string())),
    };
    if total > bytes {
        return Ok(Err("it is longer than its file".to_string()));
    }
    let mut content = Vec::with_capacity(total as usize);
    while (content.len() as u64) < total {
        let at = content.len() as u64;
        let chunk = file.read_at(at, align_up(total - at).min(1 << 20) as usize).await?;
        if chunk.is_empty() {
            return Ok(Err("it is cut short".to_string()));
        }
        content.extend_from_slice(&chunk);
    }
    content.truncate(total as usize);
    Ok(checkpoint::decode(journal, &content).map_err(|error| error.to_string()))
}

async fn write_slot(rt: &Rt, folder: &Folder, generation: u64, content: &[u8]) -> io::Result<()> {
    let file = folder.open(&slot_name(generation), Access::Write).await?;
    // A write of a killed process must not land over the new content.
    if !files::lock(rt, &file).await? {
        return Err(io::Error::other("another process holds a checkpoint"));
    }
    let padded = align_up(content.len() as u64);
    let have = file.bytes().await?;
    if padded * 2 > have
        && let Err(error) = file.allocate(align_up(padded * 3)).await
        && padded > have
    {
        file.close().await?;
        return Err(error);
    }
    let mut at = 0;
    for chunk in content.chunks(1 << 20) {
        let mut buf = rt.buffer(align_up(chunk.len() as u64) as usize);
        buf[..chunk.len()].copy_from_slice(chunk);
        buf[chunk.len()..].fill(0);
        let bytes = buf.len() as u64;
        file.write_at(buf.freeze(), at).await?;
        at += bytes;
    }
    rt.step("checkpoint.written");
    file.flush().await?;
    rt.step("checkpoint.flushed");
    file.close().await
}

impl Journal {
    /// Generation that the next checkpoint gets.
    pub fn next_checkpoint(&self) -> u64 {
        self.checkpoint_next.get()
    }

    /// First segment that the older checkpoint may still need; what lies below can go.
    pub fn settled_below(&self) -> u64 {
        match self.manifest.borrow().checkpoints[..] {
            [_, (_, older)] => older,
            _ => 0,
        }
    }

    /// Writes and publishes a checkpoint. The caller has made sure that everything in it is durable.
    pub async fn write_checkpoint(&self, generation: u64, replay: u64, content: &[u8]) -> io::Result<()> {
        self.rt.step("checkpoint.begin");
        if self.rt.mutated("publish-checkpoint-first") {
            self.note_manifest(&[Record::Checkpoint { generation, replay }]).await?;
            return write_slot(&self.rt, &self.folder, generation, content).await;
        }
        let written = write_slot(&self.rt, &self.folder, generation, content).await;
        self.check_write("a checkpoint could not be written", written)?;
        self.note_manifest(&[Record::Checkpoint { generation, replay }]).await?;
        // Until then the same generation is tried again: the next one's slot holds the newest that is known.
        self.checkpoint_next.set(generation + 1);
        self.rt.step("checkpoint.published");
        Ok(())
    }
}
