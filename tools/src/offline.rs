//! `verify`, `dump` and `repair`: commands on a stopped broker's data folder.
//!
//! Owner: ringctl.

use std::io::Write;
use std::path::Path;

use crate::disk::{self, DataFolder, Finding, Report};
use crate::output::{Outcome, Output, Stop, count};

pub fn verify(dir: &Path) -> Outcome {
    let folder = DataFolder::open(dir)?;
    let mut output = Output::new();
    let mut stopped = None;
    let mut sink = |finding: &Finding| {
        if stopped.is_none() {
            stopped = writeln!(output, "{finding}").and_then(|()| output.flush()).err();
        }
    };
    let mut report = Report::new(&mut sink);
    disk::verify(&folder, &mut report);
    let (damages, files, bytes, frames) = (report.damages, report.files, report.checked_bytes, report.frames);
    let (files, frames) = (count(files, "file"), count(frames, "frame"));
    eprintln!("ringctl: checked {files}, {bytes} bytes, {frames}");
    match damages {
        0 => match stopped {
            Some(error) => Err(error.into()),
            None => {
                writeln!(output, "clean")?;
                Ok(output.flush()?)
            }
        },
        _ => Err(Stop::Failed(format!("{} damaged", count(damages, "place")))),
    }
}

pub fn dump(dir: &Path) -> Outcome {
    let folder = DataFolder::open(dir)?;
    let mut output = Output::new();
    disk::dump(&folder, &mut output)?;
    Ok(output.flush()?)
}

/// Says what is damaged, and with `accept_loss` gives it up.
pub fn repair(dir: &Path, accept_loss: bool) -> Outcome {
    let folder = DataFolder::open(dir)?;
    let mut findings = Vec::new();
    let mut sink = |finding: &Finding| findings.push(finding.clone());
    let mut report = Report::new(&mut sink);
    disk::verify(&folder, &mut report);
    let damages = report.damages;
    let mut output = Output::new();
    findings.iter().for_each(|finding| drop(writeln!(output.buffer, "{finding}")));
    // Before a byte changes: nothing is given up that could not be said.
    output.flush().map_err(|error| Stop::Failed(format!("stdout: {error}; nothing was changed")))?;
    if !accept_loss && damages > 0 {
        return Err(Stop::failed(
            "nothing was changed; what is listed as damage is lost for good with --accept-loss (copy the folder \
             first if you can)",
        ));
    }
    let lost = if accept_loss { disk::repair(&folder, &findings)? } else { Vec::new() };
    for line in &lost {
        writeln!(output, "{line}")?;
    }
    output.flush()?;
    match damages == 0 && lost.is_empty() {
        true => eprintln!("ringctl: clean: there is nothing to repair"),
        false => eprintln!("ringctl: repaired; the broker starts on this folder again"),
    }
    Ok(())
}
