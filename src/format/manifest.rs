//! The records of a journal's manifest, kept in a twin log: which files there are and what each is
//! for. `plan` is durable before a file is created, `complete` before it is used, `remove` before it
//! is unlinked.
//!
//! Floor 2. Owner: nobody. One byte of kind, then little-endian fields as in [`Record`].

use std::collections::BTreeMap;

use super::frame::Address;
use crate::base::{DecodeError, Reader};
use crate::model::{JournalId, Offset, PartitionId, TopicId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Appended to, in order of numbers.
    Log = 1,
    /// Output of a rewrite.
    Sorted = 2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// 1: the journal's id and segment size in bytes; the first record.
    Identity { journal: JournalId, segment_bytes: u64 },
    /// 2: a broker opened the journal for the n-th time.
    Start { number: u32 },
    /// 3: a file is about to be created; `inputs` are what it replaces.
    Plan { number: u64, role: Role, inputs: Vec<u64> },
    /// 4: a file is whole and may be used.
    Complete { number: u64, bytes: u64 },
    /// 5: nothing more is appended; its footer frame lies here.
    Sealed { number: u64, footer: u32 },
    /// 6: about to be unlinked.
    Remove { number: u64 },
    /// 7: a checkpoint is durable.
    Checkpoint { generation: u64, replay: u64 },
    /// 8: an operator accepted that what lies between is lost; recovery passes it over.
    AcceptedFrames { from: Address, to: Address },
    /// 9: an operator accepted that these offsets (inclusive) are lost; readers skip them.
    AcceptedRange { id: PartitionId, first: Offset, last: Offset },
}

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        match self {
            Record::Identity { journal, segment_bytes } => {
                out.push(1);
                out.extend_from_slice(&journal.0.to_le_bytes());
                out.extend_from_slice(&segment_bytes.to_le_bytes());
            }
            Record::Start { number } => {
                out.push(2);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Record::Plan { number, role, inputs } => {
                out.push(3);
                out.extend_from_slice(&number.to_le_bytes());
                out.push(*role as u8);
                out.extend_from_slice(&(inputs.len() as u32).to_le_bytes());
                inputs.iter().for_each(|input| out.extend_from_slice(&input.to_le_bytes()));
            }
            Record::Complete { number, bytes } => {
                out.push(4);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }
            Record::Sealed { number, footer } => {
                out.push(5);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(&footer.to_le_bytes());
            }
            Record::Remove { number } => {
                out.push(6);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Record::Checkpoint { generation, replay } => {
                out.push(7);
                out.extend_from_slice(&generation.to_le_bytes());
                out.extend_from_slice(&replay.to_le_bytes());
            }
            Record::AcceptedFrames { from, to } => {
                out.push(8);
                for address in [from, to] {
                    out.extend_from_slice(&address.segment.to_le_bytes());
                    out.extend_from_slice(&address.byte.to_le_bytes());
                }
            }
            Record::AcceptedRange { id, first, last } => {
                out.push(9);
                out.extend_from_slice(&id.topic.number().to_le_bytes());
                out.extend_from_slice(&id.partition.to_le_bytes());
                out.extend_from_slice(&first.to_le_bytes());
                out.extend_from_slice(&last.to_le_bytes());
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
        let mut r = Reader::new(bytes);
        let record = match r.u8("manifest kind")? {
            1 => Record::Identity {
                journal: JournalId(r.u64("journal id")?),
                segment_bytes: r.u64("segment bytes")?,
            },
            2 => Record::Start { number: r.u32("start number")? },
            3 => {
                let number = r.u64("file number")?;
                let role = match r.u8("file role")? {
                    1 => Role::Log,
                    2 => Role::Sorted,
                    _ => return Err(r.error("file role")),
                };
                let count = r.count_u32(8, "input count")?;
                let inputs = (0..count).map(|_| r.u64("input")).collect::<Result<_, _>>()?;
                Record::Plan { number, role, inputs }
            }
            4 => Record::Complete { number: r.u64("file number")?, bytes: r.u64("file bytes")? },
            5 => Record::Sealed { number: r.u64("file number")?, footer: r.u32("footer address")? },
            6 => Record::Remove { number: r.u64("file number")? },
            7 => Record::Checkpoint { generation: r.u64("generation")?, replay: r.u64("replay segment")? },
            8 => Record::AcceptedFrames { from: address(&mut r)?, to: address(&mut r)? },
            9 => Record::AcceptedRange {
                id: PartitionId { topic: TopicId::new(r.u128("topic id")?), partition: r.u32("partition")? },
                first: r.i64("first offset")?,
                last: r.i64("last offset")?,
            },
            _ => return Err(r.error("manifest kind")),
        };
        r.finish("manifest record")?;
        Ok(record)
    }
}

fn address(r: &mut Reader<'_>) -> Result<Address, DecodeError> {
    Ok(Address { segment: r.u64("address segment")?, byte: r.u32("address byte")? })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    pub role: Role,
    pub inputs: Vec<u64>,
    pub is_complete: bool,
    pub bytes: u64,
    pub footer: Option<u32>,
}

/// What the records say when applied in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    pub journal: JournalId,
    pub segment_bytes: u64,
    pub start: u32,
    pub files: BTreeMap<u64, FileState>,
    /// Above every number ever used.
    pub next_number: u64,
    /// Newest first; at most two.
    pub checkpoints: Vec<(u64, u64)>,
    pub accepted_frames: Vec<(Address, Address)>,
    /// Inclusive ranges of lost offsets that readers skip.
    pub accepted_ranges: BTreeMap<PartitionId, Vec<(Offset, Offset)>>,
}

impl Manifest {
    /// A record that does not fit what came before is a decode error: the manifest is damaged.
    pub fn apply(&mut self, record: &Record) -> Result<(), DecodeError> {
        let misfit = |what| DecodeError { what, position: 0 };
        match record {
            Record::Identity { journal, segment_bytes } => {
                self.journal = *journal;
                self.segment_bytes = *segment_bytes;
            }
            Record::Start { number } => self.start = *number,
            Record::Plan { number, role, inputs } => {
                let file = FileState {
                    role: *role,
                    inputs: inputs.clone(),
                    is_complete: false,
                    bytes: 0,
                    footer: None,
                };
                self.files.insert(*number, file);
                self.next_number = self.next_number.max(number.saturating_add(1));
            }
            Record::Complete { number, bytes } => {
                let file = self.files.get_mut(number).ok_or(misfit("complete without plan"))?;
                file.is_complete = true;
                file.bytes = *bytes;
            }
            Record::Sealed { number, footer } => {
                self.files.get_mut(number).ok_or(misfit("sealed without plan"))?.footer = Some(*footer);
            }
            Record::Remove { number } => {
                self.files.remove(number);
                self.next_number = self.next_number.max(number.saturating_add(1));
                self.accepted_frames.retain(|(from, _)| from.segment != *number);
            }
            Record::Checkpoint { generation, replay } => {
                // One that was written anew counts once.
                self.checkpoints.retain(|(earlier, _)| earlier < generation);
                self.checkpoints.insert(0, (*generation, *replay));
                self.checkpoints.truncate(2);
            }
            Record::AcceptedFrames { from, to } => self.accepted_frames.push((*from, *to)),
            Record::AcceptedRange { id, first, last } => {
                self.accepted_ranges.entry(*id).or_default().push((*first, *last));
            }
        }
        Ok(())
    }

    /// The records of a snapshot: applied to an empty manifest they give this one.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut out = vec![Record::Identity { journal: self.journal, segment_bytes: self.segment_bytes }];
        out.push(Record::Start { number: self.start });
        if let Some(last) = self.next_number.checked_sub(1)
            && !self.files.contains_key(&last)
        {
            // Numbers are never reused, not even those of files that are gone.
            out.push(Record::Remove { number: last });
        }
        for (&number, file) in &self.files {
            out.push(Record::Plan { number, role: file.role, inputs: file.inputs.clone() });
            if file.is_complete {
                out.push(Record::Complete { number, bytes: file.bytes });
            }
            if let Some(footer) = file.footer {
                out.push(Record::Sealed { number, footer });
            }
        }
        for &(generation, replay) in self.checkpoints.iter().rev() {
            out.push(Record::Checkpoint { generation, replay });
        }
        out.extend(self.accepted_frames.iter().map(|&(from, to)| Record::AcceptedFrames { from, to }));
        for (&id, ranges) in &self.accepted_ranges {
            out.extend(ranges.iter().map(|&(first, last)| Record::AcceptedRange { id, first, last }));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_says_what_its_records_said() {
        let records = [
            Record::Identity { journal: JournalId(3), segment_bytes: 1 << 20 },
            Record::Start { number: 1 },
            Record::Plan { number: 0, role: Role::Log, inputs: vec![] },
            Record::Complete { number: 0, bytes: 1 << 20 },
            Record::Sealed { number: 0, footer: 8192 },
            Record::Plan { number: 1, role: Role::Sorted, inputs: vec![0] },
            Record::Complete { number: 1, bytes: 4096 },
            Record::Plan { number: 2, role: Role::Log, inputs: vec![] },
            Record::Remove { number: 2 },
            Record::Checkpoint { generation: 1, replay: 0 },
            Record::Checkpoint { generation: 2, replay: 1 },
            Record::AcceptedRange { id: PartitionId::default(), first: 3, last: 9 },
        ];
        let mut manifest = Manifest::default();
        for record in &records {
            assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(record));
            manifest.apply(record).expect("in order");
        }
        let mut again = Manifest::default();
        manifest.snapshot().iter().for_each(|record| again.apply(record).expect("in order"));
        assert_eq!(again, manifest);
        assert_eq!(manifest.next_number, 3);
    }
}
