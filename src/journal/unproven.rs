//! The frames at the end of the log of which no later one says that they are durable: they are written
//! again before anything relies on them.
//!
//! Floor 3. Owner: recovery. A flush is not enough: after one that failed the next one succeeds and does
//! nothing (the error is reported once; Rebello et al., "Can applications recover from fsync failures?", ATC
//! 2020), so a frame can be read back that the next power cut takes. Writing the same bytes again tears
//! nothing.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::segment::Segment;
use crate::format::frame::FrameHeader;

#[derive(Default)]
pub(super) struct Unproven(VecDeque<(Rc<Segment>, FrameHeader)>);

impl Unproven {
    /// Takes note of the next frame of the chain, and of what it proves.
    pub fn push(&mut self, segment: &Rc<Segment>, header: &FrameHeader) {
        while self.0.front().is_some_and(|(_, frame)| frame.address < header.durable) {
            self.0.pop_front();
        }
        self.0.push_back((segment.clone(), header.clone()));
    }

    /// Each is durable when this returns.
    pub async fn write_again(&self) -> io::Result<()> {
        for (segment, header) in &self.0 {
            let at = header.address.byte;
            let bytes = segment.file.read_at(at.into(), (header.end().byte - at) as usize).await?;
            segment.file.write_durable(bytes, at.into()).await?;
        }
        Ok(())
    }
}
