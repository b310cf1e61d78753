//! Gives up what is damaged, so that the rest is served again.
//!
//! Owner: ringctl, offline. The broker's own code does the work on its own runtime; here only the
//! metadata are read, which say what each journal holds.

use std::sync::mpsc;

use ringlog::rt::World;
use ringlog::shard::{self, JournalPlan};

use super::{DataFolder, Finding, Report, names};

/// A line for everything that is lost. The caller holds the folder's lock meanwhile.
pub fn repair(folder: &DataFolder) -> Result<Vec<String>, String> {
    let mut damages = Vec::new();
    let mut sink = |finding: &Finding| damages.push(finding.to_string());
    let image = names::verify(&folder.path, &mut Report::new(&mut sink)).image();
    let Some(image) = image else {
        let said = damages.join("; ");
        return Err(format!("the metadata cannot be read, and nothing stands in for them: {said}"));
    };
    let world = World::real();
    let data = folder.path.clone();
    let (send, receive) = mpsc::channel();
    let joiner = world
        .executor("repair", None, move |rt| async move {
            let mut lines = Vec::new();
            for journal in image.journals().iter().filter(|journal| journal.completed) {
                let plan = JournalPlan { id: journal.id, lanes: journal.lanes.clone(), create: false };
                match shard::repair(&rt, &data, &image, &plan).await {
                    Ok(more) => lines.extend(more),
                    Err(error) => {
                        // The receiver waits for the executor's end.
                        let _ = send.send(Err(error));
                        return;
                    }
                }
            }
            let _ = send.send(Ok(lines));
        })
        .map_err(|error| format!("cannot start: {error}"))?;
    joiner.join_blocking();
    receive.recv().unwrap_or_else(|_| Err("the repair ended early".into()))
}
