//! Verifies the two files of a twin log.
//!
//! Owner: ringctl, offline.

use std::path::Path;

use ringlog::twinlog::{self, Meaning, Scan};

use super::Mapped;
use super::report::Report;

/// Reads the log `name` in `folder`; `None` if nothing may be concluded from it. `shown` is the
/// folder's path in messages, `what` the log's content.
pub fn verify(
    folder: &Path,
    shown: &str,
    name: &str,
    identity: u64,
    what: &str,
    report: &mut Report<'_>,
) -> Option<Vec<Vec<u8>>> {
    let files: Vec<Option<Mapped>> =
        (0..2).map(|slot| Mapped::open(&folder.join(twinlog::file_name(name, slot))).ok()).collect();
    let bytes = |slot: usize| files[slot].as_deref().unwrap_or_default();
    (0..2).for_each(|slot| report.checked(bytes(slot).len()));
    let scan = twinlog::scan(name, identity, [bytes(0), bytes(1)]);
    damaged_copies(&scan, shown, what, report);
    for region in scan.regions.iter().filter(|region| region.meaning == Meaning::Unused) {
        let file = format!("{shown}/{}", twinlog::file_name(name, region.slot));
        let text = "not read by anything: never used, or of an earlier generation";
        report.unless_zero(&file, bytes(region.slot), region.start..region.end, text);
    }
    match scan.unusable {
        Some(unusable) => {
            report.damage(shown, 0..0, format!("{what}: {unusable}; the broker will not start on it"));
            None
        }
        None => Some(scan.records),
    }
}

fn damaged_copies(scan: &Scan, shown: &str, what: &str, report: &mut Report<'_>) {
    for damage in &scan.damages {
        let file = format!("{shown}/{}", damage.file);
        let range = damage.position..damage.position + damage.bytes;
        let mut text = format!("one of two copies of {} of {what} is damaged", damage.what);
        text += "; the other is good, and the next start repairs this one";
        if damage.maybe_torn {
            text += " (it belongs to the last write: a power cut in the middle of it looks the same)";
        }
        report.damage(file, range, text);
    }
}
