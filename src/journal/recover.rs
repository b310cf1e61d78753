//! Recovery: follows the chain of frames above the checkpoint, tells a torn tail (cut) from damage
//! (kept as a closed range), and makes durable whatever it is about to rely on.
//!
//! Floor 3. Owner: the shard that opens the journal. A bad frame at address A is damage exactly if
//! some later frame says that A was durable when it was built; else nobody was ever told of it.

use std::rc::Rc;

use super::flipped;
use super::opening::{OpenError, Opening, has_reserve};
use super::scan::{self, NoFrame, Scanner};
use super::segment::{Index, Segment};
use super::unproven::Unproven;
use crate::base::align::align_up;
use crate::format::block::Run;
use crate::format::checkpoint::Checkpoint;
use crate::format::footer::{BlockRef, RunRef};
use crate::format::frame::{self, Address, FrameHeader, FrameKind};
use crate::format::manifest::Role;
use crate::format::mark::LaneEnd;
use crate::format::{BlockHeader, EntryKind, salvage};

/// What recovery tells of the log above the checkpoint, in order.
pub trait Replay {
    fn checkpoint(&mut self, checkpoint: Checkpoint);
    fn block(&mut self, block: &ReplayedBlock<'_>);
    /// Blocks of any lane may be missing here.
    fn hole(&mut self);
    /// Where the lanes ended when a mark was written.
    fn mark(&mut self, ends: &[LaneEnd], is_accepted: bool);
}

pub struct ReplayedBlock<'a> {
    /// `None`: the header is damaged; the runs were established from their entries.
    pub header: Option<BlockHeader>,
    pub runs: &'a [Run],
    /// The block; runs say where their payloads lie in it.
    pub bytes: &'a [u8],
    /// Some run's payload may not verify.
    pub is_damaged: bool,
    /// An operator accepted that records before this block are missing.
    pub is_accepted: bool,
}

/// A damaged place in what was acknowledged.
#[derive(Clone, Debug)]
pub struct Damage {
    pub file: String,
    pub from: Address,
    pub to: Address,
    pub what: String,
}

pub struct Recovery {
    pub damages: Vec<Damage>,
    pub warnings: Vec<String>,
    pub used_older_checkpoint: bool,
    /// Where the next frame goes, and the checksum of the one before.
    pub(super) head: (Rc<Segment>, u32),
    pub(super) chain: u32,
    pub(super) has_reserve: bool,
    pub(super) unsealed: Vec<(Rc<Segment>, Address)>,
}

struct Walk<'a> {
    opening: &'a Opening,
    segments: Vec<Rc<Segment>>,
    at: usize,
    byte: u32,
    chain: u32,
    start: u32,
    /// An operator accepts whatever is lost.
    accepts: bool,
    is_accepted: bool,
    damages: Vec<Damage>,
    unsealed: Vec<(Rc<Segment>, Address)>,
    unproven: Unproven,
    replay: &'a mut dyn Replay,
}

/// Walks the chain from the first frame of segment `from` to its end.
pub(super) async fn walk(
    opening: &mut Opening,
    from: u64,
    chain: u32,
    replay: &mut dyn Replay,
) -> Result<Recovery, OpenError> {
    let log = opening.segments.range(from..).map(|(_, segment)| segment.clone());
    let segments: Vec<_> = log.filter(|segment| segment.role == Role::Log).collect();
    let has_reserve = has_reserve(opening).await?;
    let mut walk = Walk {
        opening,
        segments,
        at: 0,
        byte: 0,
        chain,
        start: 0,
        accepts: opening.accepts_loss,
        is_accepted: opening.accepts_loss,
        damages: Vec::new(),
        unsealed: Vec::new(),
        unproven: Unproven::default(),
        replay,
    };
    if let Some(first) = walk.segments.first() {
        let mut scanner = walk.scanner_of(first);
        while walk.at < walk.segments.len() && walk.step(&mut scanner).await? {}
    }
    walk.flush().await?;
    let Walk { at, byte, chain, damages, unsealed, segments, .. } = walk;
    segments[..at].iter().for_each(seal_in_memory);
    let head = match segments.get(at) {
        Some(segment) => (segment.clone(), byte),
        // The log ends with a segment's footer, or has not begun.
        None => (opening.create_active(chain).await?, 0),
    };
    Ok(Recovery {
        damages,
        warnings: Vec::new(),
        used_older_checkpoint: false,
        head,
        chain,
        has_reserve,
        unsealed,
    })
}

fn seal_in_memory(segment: &Rc<Segment>) {
    let sealed = match &*segment.index.borrow() {
        Index::Open(open) => open.seal(),
        _ => return,
    };
    *segment.index.borrow_mut() = Index::Loaded(Rc::new(sealed));
}

impl Walk<'_> {
    fn scanner(&self, at: usize) -> Scanner {
        self.scanner_of(&self.segments[at])
    }

    fn scanner_of(&self, segment: &Segment) -> Scanner {
        Scanner::new(segment.file.clone(), self.opening.id, segment.number, segment.bytes)
    }

    fn address(&self) -> Address {
        Address { segment: self.segments[self.at].number, byte: self.byte }
    }

    /// Takes the next frame; false at the end of the log.
    async fn step(&mut self, scanner: &mut Scanner) -> Result<bool, OpenError> {
        if self.byte == 0 {
            self.segments[self.at].first_chain.set(self.chain);
        }
        let header = match scanner.frame(self.byte).await {
            Ok(header) if self.follows(&header) && header.start >= self.start => Some(header),
            Err(NoFrame::Newer(what)) => {
                let what = format!("segment {} byte {}: {what}", self.address().segment, self.byte);
                return Err(OpenError::Newer { journal: self.opening.id, what });
            }
            Err(NoFrame::Io(error)) => return Err(self.opening.io(self.unreadable())(error)),
            Ok(_) | Err(NoFrame::Bad) => None,
        };
        if let Some(header) = &header {
            let bytes = scanner.whole(header).await.map_err(self.opening.io(self.unreadable()))?;
            let skips_crc = self.opening.rt.mutated("recover-without-crc");
            if skips_crc || scan::is_whole(header, bytes) {
                if self.byte == 0 {
                    self.segments[self.at].first_chain.set(header.previous);
                }
                self.take(header, bytes);
                self.unproven.push(&self.segments[self.at], header);
                self.advance(header, scanner);
                return Ok(true);
            }
        }
        self.bad_frame(header, scanner).await
    }

    /// Whether a frame continues the chain. An operator who accepts losses may have lost the
    /// checkpoint that says where the chain begins.
    fn follows(&self, header: &FrameHeader) -> bool {
        let is_first = self.at == 0 && self.byte == 0;
        header.previous == self.chain || self.accepts && is_first
    }

    fn unreadable(&self) -> String {
        format!("segment {} cannot be read at byte {}", self.address().segment, self.byte)
    }

    fn take(&mut self, header: &FrameHeader, bytes: &[u8]) {
        match header.kind {
            FrameKind::Block => {
                for block in scan::blocks(header, bytes).unwrap_or_default() {
                    let at = header.address.byte + block.range.start as u32;
                    self.note(at, Some(&block.header), &block.runs);
                    self.replay.block(&ReplayedBlock {
                        header: Some(block.header),
                        runs: &block.runs,
                        bytes: &bytes[block.range.clone()],
                        is_damaged: !block.is_intact,
                        is_accepted: self.is_accepted,
                    });
                }
            }
            FrameKind::Mark => {
                let ends = scan::mark_of(header, bytes).unwrap_or_default();
                self.replay.mark(&ends, self.is_accepted);
            }
            FrameKind::Footer => {
                let segment = &self.segments[self.at];
                if segment.footer.get().is_none() {
                    self.unsealed.push((segment.clone(), header.address));
                }
            }
            FrameKind::Sorted | FrameKind::Pad => {}
        }
    }

    /// Enters a block into the segment's index.
    fn note(&self, at: u32, header: Option<&BlockHeader>, runs: &[Run]) {
        let Index::Open(open) = &mut *self.segments[self.at].index.borrow_mut() else { return };
        if let Some(header) = header {
            open.blocks.push(BlockRef { lane: header.lane, address: at, position: header.position });
        }
        for run in runs.iter().filter(|run| matches!(run.entry.kind, EntryKind::Data | EntryKind::Lost)) {
            open.push(run.entry.id, RunRef::new(&run.entry, at + run.at as u32));
        }
    }

    fn advance(&mut self, header: &FrameHeader, scanner: &mut Scanner) {
        self.chain = header.checksum;
        self.start = header.start;
        self.byte = header.end().byte;
        if header.kind == FrameKind::Footer {
            self.next_segment(scanner);
        }
    }

    fn next_segment(&mut self, scanner: &mut Scanner) {
        self.at += 1;
        self.byte = 0;
        if self.at < self.segments.len() {
            *scanner = self.scanner(self.at);
        }
    }

    /// The frame at the current address is bad: the log ends here, or it is damaged here.
    async fn bad_frame(
        &mut self,
        header: Option<FrameHeader>,
        scanner: &mut Scanner,
    ) -> Result<bool, OpenError> {
        let bad = self.address();
        self.opening.rt.step("recover.bad_frame");
        let mutated = self.opening.rt.mutated("damage-is-a-torn-tail");
        let proof = self.proof(bad, scanner).await?;
        if mutated || proof.is_none() && !self.is_one_bit(bad, header.as_ref(), scanner).await? {
            return Ok(false);
        }
        let accepted = &self.opening.manifest.accepted_frames;
        self.is_accepted = self.accepts || accepted.iter().any(|(from, to)| (*from..*to).contains(&bad));
        let header = match header {
            Some(header) => Some(header),
            None => self.corrected_header(bad, scanner).await?,
        };
        if let Some(header) = header {
            // The chain goes on behind it.
            let bytes = scanner.whole(&header).await.map_err(self.opening.io(self.unreadable()))?.to_vec();
            if scan::is_whole(&header, &bytes) {
                self.take(&header, &bytes);
                self.report(
                    bad,
                    header.end().byte,
                    "one bit of the frame's header; its records verify".into(),
                );
            } else {
                self.salvage(bad, &bytes, header.end().byte, Some(&header));
            }
            self.advance(&header, scanner);
            return Ok(true);
        }
        let Some(proof) = proof else { return Ok(false) };
        let resume = self.resync(bad, &proof).await?.address;
        let end =
            if resume.segment == bad.segment { resume.byte } else { self.segments[self.at].bytes as u32 };
        let bytes = scanner.bytes(bad.byte.into(), (end - bad.byte) as usize).await;
        let bytes = bytes.map_err(self.opening.io(self.unreadable()))?.to_vec();
        self.salvage(bad, &bytes, end, None);
        while self.segments[self.at].number != resume.segment {
            self.next_segment(scanner);
        }
        self.byte = resume.byte;
        let resumed = scanner.frame(resume.byte).await;
        self.chain = resumed.map_or(self.chain, |frame| frame.previous);
        Ok(true)
    }

    /// A frame that shows that what lies at `bad` was durable: one that says so, or the footer that
    /// the manifest names, before which everything was.
    async fn proof(&self, bad: Address, scanner: &mut Scanner) -> Result<Option<FrameHeader>, OpenError> {
        if let Some(found) = self.find(bad, |found| found.durable > bad).await? {
            return Ok(Some(found));
        }
        let sealed = self.segments[self.at].footer.get().filter(|footer| *footer > bad.byte);
        let Some(footer) = sealed else { return Ok(None) };
        match scanner.frame(footer).await {
            Ok(header) => Ok(Some(header)),
            Err(NoFrame::Io(error)) => Err(self.opening.io(self.unreadable())(error)),
            Err(_) => self.find(Address { segment: bad.segment, byte: footer }, |_| true).await,
        }
    }

    /// Whether nothing but one flipped bit is wrong with the frame.
    async fn is_one_bit(
        &self,
        bad: Address,
        header: Option<&FrameHeader>,
        scanner: &mut Scanner,
    ) -> Result<bool, OpenError> {
        let whole = |error| self.opening.io(self.unreadable())(error);
        if let Some(header) = header {
            return Ok(flipped::is_one_bit(header, scanner.whole(header).await.map_err(whole)?));
        }
        let Some(header) = self.corrected_header(bad, scanner).await? else { return Ok(false) };
        Ok(scan::is_whole(&header, scanner.whole(&header).await.map_err(whole)?))
    }

    async fn corrected_header(
        &self,
        bad: Address,
        scanner: &mut Scanner,
    ) -> Result<Option<FrameHeader>, OpenError> {
        let head = frame::head_bytes(frame::PARTS_MAX);
        let bytes = scanner.bytes(bad.byte.into(), head).await.map_err(self.opening.io(self.unreadable()))?;
        let header = salvage::frame_header(self.opening.id, bytes, bad);
        let end = self.segments[self.at].bytes;
        Ok(header.filter(|header| {
            self.follows(header) && u64::from(bad.byte) + header.padded() <= end && header.start >= self.start
        }))
    }

    fn report(&mut self, from: Address, to: u32, what: String) {
        if self.is_accepted && !self.accepts {
            // An operator knows, and has accepted it.
            return;
        }
        let file = Segment::name(from.segment);
        self.damages.push(Damage { file, from, to: Address { segment: from.segment, byte: to }, what });
    }

    fn salvage(&mut self, bad: Address, bytes: &[u8], to: u32, header: Option<&FrameHeader>) {
        let found = salvage::blocks(bytes);
        let mut held = Vec::new();
        for block in &found {
            self.note(bad.byte + block.at as u32, block.header.as_ref(), &block.runs);
            for run in &block.runs {
                let payload = bytes.get(block.at + run.payload().start..block.at + run.payload().end);
                if !payload.is_some_and(|payload| run.entry.verifies(payload)) {
                    held.push(format!(
                        "topic {} partition {} offsets {}..={}",
                        run.entry.id.topic,
                        run.entry.id.partition,
                        run.entry.first_offset,
                        run.entry.last_offset
                    ));
                }
            }
            self.replay.block(&ReplayedBlock {
                header: block.header,
                runs: &block.runs,
                bytes: &bytes[block.at..(block.at + block.length).min(bytes.len())],
                is_damaged: true,
                is_accepted: self.is_accepted,
            });
        }
        let all = found.iter().all(|block| block.is_complete);
        let is_complete = match header {
            Some(header) => header.kind != FrameKind::Block || all && found.len() == header.parts.len(),
            // Without a header the blocks have to fill the place up to the next frame.
            None => {
                let end = found.last().map_or(0, |block| block.at + block.length);
                all && end > 0 && align_up(end as u64) == bytes.len() as u64
            }
        };
        let mut what = match held.is_empty() {
            true if is_complete => "what surrounds the records; they verify".to_string(),
            true => "blocks that cannot be told from what is left".to_string(),
            false => format!("records: {}", held.join(", ")),
        };
        if !is_complete {
            what.push_str("; more may be lost");
            if !self.is_accepted {
                self.replay.hole();
            }
        }
        self.report(bad, to, what);
    }

    /// The first frame after `from` that `wanted` accepts, through all segments that follow.
    async fn find(
        &self,
        from: Address,
        wanted: impl Fn(&FrameHeader) -> bool,
    ) -> Result<Option<FrameHeader>, OpenError> {
        for at in self.at..self.segments.len() {
            let first = if self.segments[at].number == from.segment { from.byte + 1 } else { 0 };
            let found = self.scanner(at).search(first, &wanted).await;
            if let Some(header) = found.map_err(self.opening.io("a segment cannot be searched"))? {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Where the chain can be taken up again: the first frame after the bad one from which it leads
    /// to the frame that proves the damage; at worst that frame itself.
    async fn resync(&self, bad: Address, proof: &FrameHeader) -> Result<FrameHeader, OpenError> {
        let mut from = bad;
        let start = self.start;
        while let Some(candidate) = self.find(from, |found| found.start >= start).await? {
            if candidate.address >= proof.address {
                break;
            }
            if self.leads_to(&candidate, proof).await? {
                return Ok(candidate);
            }
            from = candidate.address;
        }
        Ok(proof.clone())
    }

    async fn leads_to(&self, candidate: &FrameHeader, proof: &FrameHeader) -> Result<bool, OpenError> {
        let numbers: Vec<_> = self.segments.iter().map(|segment| segment.number).collect();
        let mut frame = candidate.clone();
        loop {
            let mut next = frame.end();
            if frame.kind == FrameKind::Footer {
                let Some(number) = numbers.iter().find(|number| **number > next.segment) else {
                    return Ok(false);
                };
                next = Address { segment: *number, byte: 0 };
            }
            let at = numbers.iter().position(|number| *number == next.segment).expect("a known segment");
            match self.scanner(at).frame(next.byte).await {
                Ok(found) if found.previous == frame.checksum => frame = found,
                Err(NoFrame::Io(error)) => return Err(self.opening.io("a segment cannot be read")(error)),
                _ => return Ok(false),
            }
            if frame.address == proof.address {
                return Ok(true);
            }
        }
    }

    /// A killed process may have written what it never flushed: nothing counts before it is durable.
    async fn flush(&self) -> Result<(), OpenError> {
        if self.opening.rt.mutated("recover-without-flush") {
            return Ok(());
        }
        self.unproven
            .write_again()
            .await
            .map_err(self.opening.io("the last frames cannot be written again"))?;
        self.opening.rt.step("recover.written_again");
        for segment in &self.segments {
            segment.file.flush().await.map_err(self.opening.io("a segment could not be flushed"))?;
        }
        self.opening.rt.step("recover.flushed");
        Ok(())
    }
}
