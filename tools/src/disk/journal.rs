//! One journal: its manifest, checkpoints, reserve and stray files; the segments are `segments`'.
//!
//! Owner: ringctl, offline.

use std::path::Path;

use ringlog::base::align::align_up;
use ringlog::format::checkpoint::{self, Checkpoint};
use ringlog::format::flip;
use ringlog::format::manifest::{Manifest, Record};
use ringlog::model::JournalId;

use super::report::Report;
use super::{Mapped, list, twin};

/// What the files of one journal are checked against.
pub struct Journal<'a> {
    pub path: &'a Path,
    /// Its path in messages.
    pub shown: String,
    pub id: JournalId,
    pub manifest: Manifest,
    pub checkpoints: Vec<Checkpoint>,
}

/// Reads and checks manifest and checkpoints; `None` with the damage reported.
pub fn open<'a>(path: &'a Path, folder: &str, report: &mut Report<'_>) -> Option<Journal<'a>> {
    let shown = format!("journals/{folder}");
    let Ok(id) = u64::from_str_radix(folder, 16).map(JournalId) else {
        report.note(shown, "not the folder of a journal");
        return None;
    };
    let manifest = read_manifest(path, &shown, id, report)?;
    let mut journal = Journal { path, shown, id, manifest, checkpoints: Vec::new() };
    journal.check_checkpoints(report);
    Some(journal)
}

/// The manifest, or `None` with its damage reported.
fn read_manifest(path: &Path, shown: &str, id: JournalId, report: &mut Report<'_>) -> Option<Manifest> {
    let records = twin::verify(path, shown, "manifest", id.0, "the manifest", report)?;
    let mut manifest = Manifest::default();
    for bytes in &records {
        if let Err(error) = Record::decode(bytes).and_then(|record| manifest.apply(&record)) {
            report.damage(shown, 0..0, format!("the manifest's records make no sense: {error}"));
            return None;
        }
    }
    Some(manifest)
}

impl Journal<'_> {
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.shown)
    }

    fn check_checkpoints(&mut self, report: &mut Report<'_>) {
        for slot in 0..2 {
            let name = format!("checkpoint-{slot}");
            let in_force =
                self.manifest.checkpoints.iter().map(|(generation, _)| *generation).find(|g| g % 2 == slot);
            match Mapped::open(&self.path.join(&name)) {
                Ok(bytes) => {
                    report.checked(bytes.len());
                    self.check_checkpoint(&name, &bytes, in_force, report);
                }
                Err(error) => {
                    if let Some(generation) = in_force {
                        let text =
                            format!("checkpoint {generation} cannot be read ({error}); {}", self.other());
                        report.damage(self.file(&name), 0..0, text);
                    }
                }
            }
        }
    }

    /// What follows if one checkpoint is bad.
    fn other(&self) -> &'static str {
        match self.manifest.checkpoints.len() {
            2 => "the broker uses the other generation, which is older, and replays more of the log",
            _ => "the broker replays the log from its first record",
        }
    }

    fn check_checkpoint(&mut self, name: &str, bytes: &[u8], in_force: Option<u64>, report: &mut Report<'_>) {
        let file = self.file(name);
        let Some(wanted) = in_force else {
            let text = "not read by anything: no checkpoint was published here yet";
            return report.unless_zero(&file, bytes, 0..bytes.len() as u64, text);
        };
        let body = match checkpoint::decode(self.id, bytes) {
            Ok(found) if found.generation == wanted => {
                self.checkpoints.push(found);
                checkpoint::decode_header(self.id, bytes).map_or(0, |(_, body)| body)
            }
            Ok(found) => {
                let found = found.generation;
                let text = format!("holds checkpoint {found} where {wanted} was published; {}", self.other());
                return report.damage(file, 0..bytes.len() as u64, text);
            }
            Err(error) => {
                let range = flipped(self.id, bytes).map_or(0..bytes.len() as u64, |at| at..at + 1);
                let text = format!("checkpoint {wanted} is damaged ({error}); {}", self.other());
                return report.damage(file, range, text);
            }
        };
        let end = checkpoint::HEADER_BYTES as u64 + body;
        let padded = align_up(end).min(bytes.len() as u64);
        report.unless_zero(&file, bytes, end..padded, "padding that nothing reads is not zero");
        let text = "not read by anything: what an earlier, longer checkpoint left";
        report.unless_zero(&file, bytes, padded..bytes.len() as u64, text);
    }

    /// Files besides segments: the reserve, and whatever should not be there.
    pub fn check_others(&self, report: &mut Report<'_>) {
        for name in list(self.path).unwrap_or_default() {
            let number = name.strip_suffix(".seg").and_then(|digits| digits.parse::<u64>().ok());
            match number {
                Some(number) if self.manifest.files.contains_key(&number) => {}
                Some(number) if number < self.manifest.next_number => {
                    report.note(self.file(&name), "removed by the manifest; the next start deletes it");
                }
                Some(_) => report.note(self.file(&name), "not in the manifest: nothing reads it"),
                None if name == "reserve" => self.check_reserve(report),
                None if name.starts_with("manifest") || name.starts_with("checkpoint-") => {}
                None => report.note(self.file(&name), "not a file of this journal"),
            }
        }
    }

    fn check_reserve(&self, report: &mut Report<'_>) {
        if let Ok(bytes) = Mapped::open(&self.path.join("reserve")) {
            report.checked(bytes.len());
            let text = "not read by anything: space kept for a rewrite";
            report.unless_zero(&self.file("reserve"), &bytes, 0..bytes.len() as u64, text);
        }
    }
}

/// The byte of the one flipped bit that explains a checkpoint's damage.
fn flipped(journal: JournalId, bytes: &[u8]) -> Option<u64> {
    let head = bytes.get(..checkpoint::HEADER_BYTES)?;
    let decode = |head: &[u8]| checkpoint::decode_header(journal, head).ok();
    if decode(head).is_none() {
        return flip::search(head, head.len(), decode).map(|((byte, _), _)| byte as u64);
    }
    let (_, body) = checkpoint::decode_header(journal, head).ok()?;
    let body = bytes.get(checkpoint::HEADER_BYTES..)?.get(..body as usize)?;
    let stored = u32::from_le_bytes(*head.get(24..28)?.first_chunk()?);
    match flip::find(ringlog::base::crc::crc32c(body), stored, body.len())? {
        flip::Flip::Covered { byte, .. } => Some((checkpoint::HEADER_BYTES + byte) as u64),
        flip::Flip::Checksum { .. } => None,
    }
}
