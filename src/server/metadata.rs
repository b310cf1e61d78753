//! The metadata log on disk: opening it, making it durable, and what to say when it is unusable.
//!
//! Floor 6. Owner: the control plane. Invariant: a log is made anew only while no journal exists,
//! so that no record is ever left without its metadata.

use std::io;
use std::path::Path;

use super::error::{self, StartError};
use crate::coordinator::{Image, LOG_IDENTITY, LOG_NAME, Record, RecordError};
use crate::rt::{Folder, Level, Rt};
use crate::twinlog::{Damage, OpenError, TwinLog, Unusable};

/// Size of each of the two files at first; they grow with the metadata.
const BYTES: u64 = 4 << 20;
const BYTES_MIN: u64 = 256 << 10;
/// Of the filesystem, if that is small.
const SHARE: u64 = 256;

pub(super) struct Metadata {
    pub log: TwinLog,
    pub image: Image,
    /// Copies that were damaged and repaired from their twins.
    pub repaired: Vec<String>,
}

pub(super) async fn open(rt: &Rt, data: &Folder, journal_folders: usize) -> Result<Metadata, StartError> {
    let path = data.path().join(LOG_NAME);
    let failed = |error: io::Error| error::storage(&path, &error);
    let folder = data.create_folder(LOG_NAME).await.map_err(failed)?;
    data.sync().await.map_err(failed)?;
    match TwinLog::open(rt, &folder, LOG_NAME, LOG_IDENTITY).await {
        Ok((log, raw, damages)) => {
            let image = restore(&path, &raw)?;
            Ok(Metadata { log, image, repaired: damages.iter().map(Damage::to_string).collect() })
        }
        Err(OpenError::Unusable(unusable)) if journal_folders == 0 && never_complete(&unusable) => {
            let space = folder.space().await.map_err(failed)?;
            let bytes = (space.total / SHARE).clamp(BYTES_MIN, BYTES) / BYTES_MIN * BYTES_MIN;
            let log = TwinLog::create(rt, &folder, LOG_NAME, LOG_IDENTITY, bytes).await.map_err(failed)?;
            rt.step("metadata.created");
            Ok(Metadata { log, image: Image::default(), repaired: Vec::new() })
        }
        Err(error) => Err(explain(&path, error)),
    }
}

/// What an interrupted first start leaves behind.
fn never_complete(unusable: &Unusable) -> bool {
    match unusable {
        Unusable::Missing { .. } => true,
        Unusable::Damaged { what, .. } => *what == "the header",
        Unusable::Newer { .. } => false,
    }
}

fn restore(path: &Path, raw: &[Vec<u8>]) -> Result<Image, StartError> {
    let shown = path.display();
    let mut records = Vec::with_capacity(raw.len());
    for bytes in raw {
        let record = Record::decode(bytes).map_err(|error| match error {
            RecordError::Newer { .. } => newer(format!("{shown}: {error}")),
            RecordError::Malformed(_) => damaged(format!("{shown}: {error}")),
        })?;
        records.push(record);
    }
    Image::restore(&records).map_err(|error| damaged(format!("{shown}: {error}")))
}

fn explain(path: &Path, failure: OpenError) -> StartError {
    let shown = path.display();
    match failure {
        OpenError::Io { file, error } => error::storage(&path.join(file), &error),
        OpenError::InUse { .. } => in_use(path),
        OpenError::Unusable(unusable) => {
            let text = format!("{shown}: {unusable}");
            match unusable {
                Unusable::Newer { .. } => newer(text),
                Unusable::Missing { .. } => StartError::new(
                    format!("there are journals but no metadata: {text}"),
                    format!(
                        "the records are still there, but not what they belong to: put the folder {shown} of this broker \
                         back from where it was moved to, or the whole data folder from a backup; to begin anew, choose an empty folder with --data DIR"
                    ),
                ),
                Unusable::Damaged { .. } => damaged(text),
            }
        }
    }
}

pub(super) fn in_use(path: &Path) -> StartError {
    let what = format!("{} is in use by another broker", path.display());
    StartError::new(what, "stop that broker first, or choose another folder with --data DIR")
}

fn newer(what: String) -> StartError {
    StartError::new(what, "these data were written by a newer version: start that version, or a later one")
}

fn damaged(what: String) -> StartError {
    let cure = "the disk lost both copies of a metadata record: `ringctl verify DIR` shows where; put the whole \
                folder back from a backup of this broker (metadata and journals of different times do not go together)";
    StartError::new(what, cure)
}

impl Metadata {
    /// Makes records durable that this image has applied already.
    pub(super) async fn persist(log: &mut TwinLog, image: &Image, records: &[Record]) -> io::Result<()> {
        let encoded: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
        if log.needs_snapshot(TwinLog::adding(&encoded)) {
            return log.snapshot(&encode(image)).await;
        }
        log.append(&encoded).await
    }

    /// Makes sure that `adding` bytes of records fit, before they are decided. `StorageFull` leaves
    /// everything as it was.
    pub(super) async fn make_room(
        rt: &Rt,
        log: &mut TwinLog,
        image: &Image,
        adding: usize,
    ) -> io::Result<()> {
        if !log.needs_snapshot(adding) {
            return Ok(());
        }
        let records = encode(image);
        rt.log(Level::Debug, format!("metadata snapshot of {} records", records.len()));
        log.snapshot_with_room(&records, adding).await
    }
}

fn encode(image: &Image) -> Vec<Vec<u8>> {
    image.snapshot().iter().map(Record::encode).collect()
}
