//! Gives up what is damaged, so that the rest is served again.
//!
//! Owner: ringctl, offline. The broker's own code does the work on its own runtime; here only the
//! metadata are read, which say what each journal holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use ringlog::coordinator::{LOG_IDENTITY, LOG_NAME};
use ringlog::rt::{Rt, World};
use ringlog::shard::{self, JournalPlan};
use ringlog::twinlog::{self, TwinLog};

use super::report::Kind;
use super::{DataFolder, Finding, Report, names};

/// A line for everything that is lost; `findings` are those of `verify`. The caller holds the folder's lock
/// meanwhile.
pub fn repair(folder: &DataFolder, findings: &[Finding]) -> Result<Vec<String>, String> {
    let mut said = Vec::new();
    let mut sink = |finding: &Finding| said.push(finding.to_string());
    let image = names::verify(&folder.path, &mut Report::new(&mut sink)).image();
    let Some(image) = image else {
        let said = said.join("; ");
        return Err(format!("the metadata cannot be read, and nothing stands in for them: {said}"));
    };
    let damaged = damaged_segments(findings);
    let world = World::real();
    let data = folder.path.clone();
    let (send, receive) = mpsc::channel();
    let joiner = world
        .executor("repair", None, move |rt| async move {
            let mut lines = match repair_metadata(&rt, &data).await {
                Ok(lines) => lines,
                Err(error) => return drop(send.send(Err(error))),
            };
            let mut failed: Vec<String> = Vec::new();
            for journal in image.journals().iter().filter(|journal| journal.completed) {
                let plan = JournalPlan { id: journal.id, lanes: journal.lanes.clone(), create: false };
                let damaged = damaged.get(&journal.id.to_string()).map_or(&[][..], |numbers| numbers);
                match shard::repair(&rt, &data, &image, &plan, damaged).await {
                    Ok(more) => lines.extend(more),
                    // The others may still be repaired.
                    Err(error) => failed.push(error),
                }
            }
            let outcome =
                if failed.is_empty() { Ok(lines) } else { Err([failed, lines].concat().join("\n")) };
            // The receiver waits for the executor's end.
            let _ = send.send(outcome);
        })
        .map_err(|error| format!("cannot start: {error}"))?;
    joiner.join_blocking();
    receive.recv().unwrap_or_else(|_| Err("the repair ended early".into()))
}

/// Opening the metadata writes a damaged copy anew from the good one.
async fn repair_metadata(rt: &Rt, data: &Path) -> Result<Vec<String>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the metadata: {error}");
    let folder = rt.folder(&data.join(LOG_NAME)).await.map_err(|error| failed(&error))?;
    let opened = TwinLog::open(rt, &folder, LOG_NAME, LOG_IDENTITY).await;
    let (_, _, repaired) = opened.map_err(|error| failed(&error))?;
    let line = |damage: &twinlog::Damage| {
        format!("{} byte {}: a copy of {} was written anew", damage.file, damage.position, damage.what)
    };
    Ok(repaired.iter().map(line).collect())
}

/// Numbers of segments with damage, by the folder of their journal.
fn damaged_segments(findings: &[Finding]) -> BTreeMap<String, Vec<u64>> {
    let mut damaged: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.kind == Kind::Damage) {
        let mut parts = finding.file.split('/').skip_while(|part| *part != "journals").skip(1);
        let (Some(journal), Some(name)) = (parts.next(), parts.next()) else { continue };
        let number = name.strip_suffix(".seg").and_then(|digits| digits.parse().ok());
        let of_journal = damaged.entry(journal.to_owned()).or_default();
        of_journal.extend(number.filter(|number| !of_journal.contains(number)));
    }
    damaged
}
