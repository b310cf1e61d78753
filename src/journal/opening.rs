//! A journal while it is opened: its files, what its manifest says, and what may go wrong.
//!
//! Floor 3. Owner: the shard that opens the journal.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use super::files::{RESERVE, create_file};
use super::segment::{Index, OpenIndex, Segment};
use crate::format::manifest::{Manifest, Record, Role};
use crate::model::JournalId;
use crate::rt::{Folder, Rt};
use crate::twinlog::{self, TwinLog};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("journal {journal}: {what}: {error}")]
    Io { journal: JournalId, what: String, error: io::Error },
    #[error("journal {journal}: {source}")]
    Manifest { journal: JournalId, source: twinlog::OpenError },
    #[error("journal {journal}: {what}")]
    Damaged { journal: JournalId, what: String },
    #[error(
        "journal {journal}: {what}: these data were written by a newer Ringlog; \
         start that version (a downgrade needs an empty data folder)"
    )]
    Newer { journal: JournalId, what: String },
    #[error("journal {journal}: {file} is in use by another process; stop that broker first")]
    InUse { journal: JournalId, file: String },
}

/// What is open while a journal recovers.
pub(super) struct Opening {
    pub rt: Rt,
    pub id: JournalId,
    pub folder: Folder,
    pub manifest: Manifest,
    pub log: TwinLog,
    pub segments: BTreeMap<u64, Rc<Segment>>,
    pub warnings: Vec<String>,
    pub checkpoint_next: u64,
    /// Above every file number in the manifest or the folder.
    pub number_next: u64,
    /// `repair --accept-loss`: what is damaged is passed over instead of refused.
    pub accepts_loss: bool,
}

impl Opening {
    pub fn io(&self, what: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let (journal, what) = (self.id, what.into());
        move |error| OpenError::Io { journal, what, error }
    }

    pub fn damaged(&self, what: impl Into<String>) -> OpenError {
        OpenError::Damaged { journal: self.id, what: what.into() }
    }

    /// A fresh active segment behind the last frame, whose checksum is `chain`.
    pub async fn create_active(&mut self, chain: u32) -> Result<Rc<Segment>, OpenError> {
        let number = self.number_next;
        self.number_next += 1;
        let bytes = self.manifest.segment_bytes;
        self.note(&[Record::Plan { number, role: Role::Log, inputs: Vec::new() }]).await?;
        let file = create_file(&self.folder, &Segment::name(number), bytes).await;
        let file = file.map_err(self.io("the first segment cannot be made: free some space"))?;
        self.note(&[Record::Complete { number, bytes }]).await?;
        let segment = Segment::new(number, Role::Log, file, bytes, Index::Open(OpenIndex::default()));
        segment.first_chain.set(chain);
        self.segments.insert(number, segment.clone());
        Ok(segment)
    }

    pub async fn note(&mut self, records: &[Record]) -> Result<(), OpenError> {
        for record in records {
            self.manifest.apply(record).map_err(|error| self.damaged(format!("manifest: {error}")))?;
        }
        let bytes: Vec<_> = records.iter().map(Record::encode).collect();
        let result = if self.log.needs_snapshot(TwinLog::adding(&bytes)) {
            let snapshot: Vec<_> = self.manifest.snapshot().iter().map(Record::encode).collect();
            self.log.snapshot(&snapshot).await
        } else {
            self.log.append(&bytes).await
        };
        result.map_err(self.io("the manifest could not be written"))
    }
}

/// Whether the reserve is there and whole.
pub(super) async fn has_reserve(opening: &Opening) -> Result<bool, OpenError> {
    let entries = opening.folder.list().await.map_err(opening.io("the folder cannot be read"))?;
    match entries.iter().find(|entry| entry.name == RESERVE) {
        Some(entry) if entry.bytes == opening.manifest.segment_bytes => Ok(true),
        Some(_) => {
            let removed = opening.folder.remove(RESERVE).await;
            removed.map_err(opening.io("the reserve cannot be removed")).map(|()| false)
        }
        None => Ok(false),
    }
}
