//! A stopped broker's data folder: what is in it, and what is wrong with it.
//!
//! Owner: ringctl, offline. Reads through mappings; nothing here writes but `repair`.
//!
//! ```text
//! DIR/LOCK             held by a running broker
//!     metadata/        topics, journals, producer ids: a twin log
//!     journals/ID/     see ringlog::journal
//! ```

mod content;
mod dump;
mod journal;
mod names;
mod repair;
mod report;
mod segments;
mod twin;
mod walk;

use std::fs::OpenOptions;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub use dump::dump;
pub use names::{Names, Standing};
pub use repair::repair;
pub use report::{Finding, Report};

/// A data folder that no broker runs on, for as long as this value lives.
pub struct DataFolder {
    pub path: PathBuf,
    _lock: Option<std::os::fd::OwnedFd>,
}

impl DataFolder {
    /// Refuses a folder that is none, or that a broker is using.
    pub fn open(path: &Path) -> Result<DataFolder, String> {
        let shown = path.display();
        let entries = list(path).map_err(|error| format!("{shown}: {error}"))?;
        if !entries.iter().any(|name| name == "journals" || name == "metadata") {
            return Err(format!(
                "{shown} is not a data folder of ringlog: it has no metadata and no journals"
            ));
        }
        let lock = match OpenOptions::new().read(true).open(path.join("LOCK")) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Some(file.into()),
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(format!(
                        "a broker is running on {shown}: stop it first (SIGTERM), then try again"
                    ));
                }
                Err(std::fs::TryLockError::Error(error)) => return Err(format!("{shown}/LOCK: {error}")),
            },
            Err(_) => None,
        };
        Ok(DataFolder { path: path.into(), _lock: lock })
    }
}

/// The bytes of a file, mapped.
pub struct Mapped(Option<Mmap>);

impl Mapped {
    pub fn open(path: &Path) -> std::io::Result<Mapped> {
        let file = OpenOptions::new().read(true).open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Mapped(None));
        }
        // SAFETY: the folder's lock keeps brokers away, so nobody writes or truncates the file.
        unsafe { Mmap::map(&file) }.map(|map| Mapped(Some(map)))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The names in a folder, sorted.
pub fn list(path: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Checks every byte of the folder; tells `report` what it finds.
pub fn verify(folder: &DataFolder, report: &mut Report<'_>) {
    let names = names::verify(&folder.path, report);
    let journals = folder.path.join("journals");
    let found = list(&journals).unwrap_or_default();
    for id in names.journals() {
        if !found.contains(&id) {
            let text = "this journal is in the metadata and its folder is missing: its records are lost";
            report.damage(format!("journals/{id}"), 0..0, text);
        }
    }
    for id in &found {
        let path = journals.join(id);
        match names.standing(id) {
            Standing::Listed => {}
            Standing::Planned => {
                report.note(
                    format!("journals/{id}"),
                    "it was being made, and holds nothing: the next start makes it anew",
                );
                continue;
            }
            Standing::Unknown => {
                let text = "the metadata do not list this journal: the broker does not start beside it. Put the metadata \
                            folder back that belongs to it, or move it away if it does not belong here";
                report.damage(format!("journals/{id}"), 0..0, text);
                continue;
            }
        }
        if let Some(journal) = journal::open(&path, id, report) {
            segments::verify(&journal, &names, report);
            journal.check_others(report);
        }
    }
    for name in list(&folder.path).unwrap_or_default() {
        if !["LOCK", "metadata", "journals"].contains(&name.as_str()) {
            report.note(name, "not a file of ringlog");
        }
    }
}
