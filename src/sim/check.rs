//! Checkers: what must hold of a history and of the log at its end.
//!
//! Floor 6. Pure functions; they add what they find to the history's violations.

use std::collections::BTreeMap;

use super::history::{Fate, History, Place, RecordId, Sent};
use super::survey::{Log, Survey};
use super::topics::{RETENTION_BYTES, Role, TopicPlan};
use crate::model::Offset;

/// What the schedule allows.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    /// A bit was flipped: what is reported as damaged may be missing, and partitions unavailable.
    pub damage: bool,
}

pub(super) fn check(history: &mut History, survey: &Survey, topics: &[TopicPlan], allowed: Allowed) {
    let mut found = Vec::new();
    if let (Some((place, from, to)), false) = (history.damaged.first(), allowed.damage) {
        found.push(format!("{place:?}: {from}..{to} was called damaged, and no bit was flipped"));
    }
    for (place, log) in survey {
        if log.unavailable {
            if !allowed.damage {
                found.push(format!("{place:?} could not be read: {}..{}", log.start, log.end));
            }
            continue;
        }
        dense(history, place, log, &mut found);
        bounds(history, place, log, topics, &mut found);
        order(history, place, log, &mut found);
        reads(history, place, log, &mut found);
        strangers(history, place, log, &mut found);
    }
    acknowledged(history, survey, &mut found);
    found.into_iter().for_each(|text| history.violation(text));
}

fn is_damaged(history: &History, place: &Place, offset: Offset) -> bool {
    let hit = |(at, from, to): &(Place, Offset, Offset)| at == place && (*from..*to).contains(&offset);
    history.damaged.iter().any(hit)
}

/// Every offset from the log's start to its end holds a record.
fn dense(history: &History, place: &Place, log: &Log, found: &mut Vec<String>) {
    let missing = |offset: &Offset| !log.records.contains_key(offset) && !is_damaged(history, place, *offset);
    if let Some(offset) = (log.start..log.end).find(missing) {
        found.push(format!("{place:?}: offset {offset} of {}..{} is a hole", log.start, log.end));
    }
    if let Some((offset, _)) = log.records.range(..log.start).next() {
        found.push(format!("{place:?}: offset {offset} was served below the log start {}", log.start));
    }
}

/// Only what may go is gone, and what was deleted does not come back.
fn bounds(history: &History, place: &Place, log: &Log, topics: &[TopicPlan], found: &mut Vec<String>) {
    let Some(topic) = topics.iter().find(|topic| topic.name == place.0) else { return };
    let (start, end) = (log.start, log.end);
    match topic.role {
        Role::Keep | Role::Churn => {
            if start != 0 {
                found.push(format!("{place:?}: records below {start} are gone, and nobody asked for it"));
            }
        }
        Role::Trim => {
            let asked = history.trims_asked.get(place).copied().unwrap_or(0);
            let done = history.trims_done.get(place).copied().unwrap_or(0);
            if start > asked {
                found.push(format!("{place:?}: log start {start} is above any that was asked for ({asked})"));
            }
            if start < done {
                found.push(format!("{place:?}: deleted records are back: log start {start}, was {done}"));
            }
        }
        Role::Size => {
            let bytes =
                log.records.values().filter_map(|id| history.sent.get(id)).map(|sent| sent.bytes + 64);
            let kept = bytes.sum::<usize>() as u64;
            if start > 0
                && kept < RETENTION_BYTES - RETENTION_BYTES / 10
                && log.records.len() as i64 == end - start
            {
                found.push(format!("{place:?}: only {kept} bytes are kept in {start}..{end}"));
            }
        }
    }
}

/// No record of an idempotent producer twice, none before an earlier one of its producer.
fn order(history: &History, place: &Place, log: &Log, found: &mut Vec<String>) {
    let mut last: BTreeMap<u32, RecordId> = BTreeMap::new();
    for (offset, id) in &log.records {
        let Some(sent) = history.sent.get(id).filter(|sent| sent.idempotent) else { continue };
        let before = last.insert(sent.producer, *id);
        match before {
            Some(before) if before == *id => {
                found.push(format!("{place:?}: record {id} is there twice, again at {offset}"));
            }
            Some(before) if before > *id => {
                found.push(format!("{place:?}: record {id} at {offset} comes after record {before}"));
            }
            _ => (),
        }
    }
}

/// What a consumer once read is still there: it never saw above the high watermark.
fn reads(history: &History, place: &Place, log: &Log, found: &mut Vec<String>) {
    if history.deletions_of(&place.0) > 0 {
        return;
    }
    for (offset, id) in history.reads.get(place).into_iter().flatten() {
        if *offset < log.start || is_damaged(history, place, *offset) {
            continue;
        }
        match log.records.get(offset) {
            Some(there) if there == id => (),
            // It came after the end was asked for.
            None if *offset >= log.end.max(log.read_to) => (),
            there => {
                found
                    .push(format!("{place:?} offset {offset}: record {id} was read, now there is {there:?}"));
            }
        }
    }
}

/// Nothing that was refused, and nothing of an earlier topic of the same name.
fn strangers(history: &History, place: &Place, log: &Log, found: &mut Vec<String>) {
    let deletions = history.deletions_of(&place.0);
    // Deletions come in pairs of begin and end: the last one began at this count.
    let last_begun = if deletions == 0 { 0 } else { (deletions - 1) / 2 * 2 + 1 };
    for (offset, id) in &log.records {
        let Some(sent) = history.sent.get(id) else { continue };
        if sent.fate == Fate::Refused {
            found.push(format!("{place:?} offset {offset}: record {id} was refused"));
        }
        let settled = matches!(sent.fate, Fate::Acknowledged(_));
        if settled && sent.deletions_at_end < last_begun {
            found.push(format!("{place:?} offset {offset}: record {id} was deleted with its topic"));
        }
    }
}

fn acknowledged(history: &History, survey: &Survey, found: &mut Vec<String>) {
    let mut at: BTreeMap<(&Place, Offset), RecordId> = BTreeMap::new();
    for (id, sent) in &history.sent {
        let Fate::Acknowledged(offset) = sent.fate else { continue };
        if !belongs_to_end(history, sent) {
            continue;
        }
        if let Some(other) = at.insert((&sent.place, offset), *id) {
            found.push(format!("{:?} offset {offset} was given to records {other} and {id}", sent.place));
        }
        let Some(log) = survey.get(&sent.place).filter(|log| !log.unavailable) else { continue };
        if !sent.durable || offset < log.start || is_damaged(history, &sent.place, offset) {
            continue;
        }
        if log.records.get(&offset) != Some(id) {
            let there = log.records.get(&offset);
            let place = &sent.place;
            found
                .push(format!("{place:?} offset {offset}: record {id} was acknowledged, there is {there:?}"));
        }
    }
}

/// Whether the record certainly went to the topic as it is at the end.
fn belongs_to_end(history: &History, sent: &Sent) -> bool {
    let deletions = history.deletions_of(&sent.place.0);
    deletions.is_multiple_of(2) && sent.deletions == deletions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_the_end_was_asked_for_has_to_be_there() {
        let place: Place = ("keep".into(), 0);
        let mut history = History::default();
        history.reads.insert(place.clone(), BTreeMap::from([(0, 1), (1, 2), (2, 3)]));
        let found = |read_to, records: &[(Offset, RecordId)]| {
            let log = Log { end: 1, read_to, records: records.iter().copied().collect(), ..Log::default() };
            let mut found = Vec::new();
            reads(&history, &place, &log, &mut found);
            found.len()
        };
        assert_eq!(history.read_to(&place), 3);
        assert_eq!(found(0, &[(0, 1)]), 0, "two came later");
        assert_eq!(found(2, &[(0, 1)]), 1, "one was read before");
        assert_eq!(found(3, &[(0, 1)]), 2);
        assert_eq!(found(0, &[]), 1, "below the end");
        assert_eq!(found(0, &[(0, 1), (1, 9)]), 1, "another record is never right");
    }
}
