//! Names out of the metadata: which topic an id is, which journals there are.
//!
//! Owner: ringctl, offline. Without readable metadata everything else is still checked, and topics
//! are shown by their ids.

use std::io::{self, Write};
use std::path::Path;

use ringlog::coordinator::{Image, LOG_IDENTITY, LOG_NAME, Record};
use ringlog::model::TopicId;

use super::report::Report;
use super::twin;

/// Of a journal's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Listed,
    /// A broker was killed while it made it.
    Planned,
    Unknown,
}

#[derive(Default)]
pub struct Names {
    image: Option<Image>,
}

/// Checks the metadata of a data folder and reads the names from it.
pub fn verify(dir: &Path, report: &mut Report<'_>) -> Names {
    let folder = dir.join(LOG_NAME);
    let Some(raw) = twin::verify(&folder, LOG_NAME, LOG_NAME, LOG_IDENTITY, "the metadata", report) else {
        return Names::default();
    };
    let mut records = Vec::with_capacity(raw.len());
    for bytes in &raw {
        match Record::decode(bytes) {
            Ok(record) => records.push(record),
            Err(error) => {
                report.damage("metadata", 0..0, format!("a record cannot be understood: {error}"));
                return Names::default();
            }
        }
    }
    match Image::restore(&records) {
        Ok(image) => Names { image: Some(image) },
        Err(error) => {
            report.damage("metadata", 0..0, format!("the records contradict each other: {error}"));
            Names::default()
        }
    }
}

impl Names {
    /// `None` if the metadata cannot be read.
    pub fn image(self) -> Option<Image> {
        self.image
    }

    pub fn topic(&self, id: TopicId) -> String {
        let image = self.image.as_ref();
        match image.and_then(|image| image.topic_by_id(id)) {
            Some(topic) => topic.name.clone(),
            None => match image.and_then(|image| image.tombstone(id)) {
                Some(topic) => format!("{} (deleted)", topic.name),
                None => id.to_string(),
            },
        }
    }

    pub fn dump(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(image) = &self.image else { return writeln!(out, "metadata cannot be read") };
        writeln!(out, "metadata: broker epoch {} index {}", image.broker_epoch(), image.index())?;
        for journal in image.journals() {
            let lanes: Vec<u32> = journal.lanes.iter().map(|lane| lane.0).collect();
            let state = if journal.completed { "" } else { " (planned)" };
            writeln!(out, "  journal {} lanes {lanes:?}{state}", journal.id)?;
        }
        for topic in image.topics() {
            let (name, id, partitions) = (&topic.name, topic.id, topic.partitions.len());
            writeln!(out, "  topic {name} id {id} partitions {partitions} configs {:?}", topic.configs)?;
        }
        for topic in image.tombstones() {
            writeln!(out, "  deleted topic {} id {}", topic.name, topic.id)?;
        }
        Ok(())
    }

    /// The folders of the journals that the metadata list as complete.
    pub fn journals(&self) -> Vec<String> {
        let journals = self.image.iter().flat_map(|image| image.journals());
        journals.filter(|journal| journal.completed).map(|journal| journal.id.to_string()).collect()
    }

    /// What the metadata say of the journal; listed if there are none to ask.
    pub fn standing(&self, folder: &str) -> Standing {
        let Some(image) = &self.image else { return Standing::Listed };
        match image.journals().iter().find(|journal| journal.id.to_string() == folder) {
            Some(journal) if journal.completed => Standing::Listed,
            Some(_) => Standing::Planned,
            None => Standing::Unknown,
        }
    }
}
