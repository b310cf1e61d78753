//! The payload of a mark frame: where each lane of the journal ended when the mark was written, so
//! that recovery can tell whether damage before the mark swallowed the end of a lane.
//!
//! Floor 2. Owner: nobody. `lane u32 | position u64 | last block's checksum u32`, repeated.

use crate::base::{DecodeError, Reader};
use crate::model::{LaneId, Position};

pub const ROW_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneEnd {
    pub lane: LaneId,
    pub position: Position,
    pub checksum: u32,
}

pub fn encode(lanes: &[LaneEnd]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lanes.len() * ROW_BYTES);
    for end in lanes {
        out.extend_from_slice(&end.lane.0.to_le_bytes());
        out.extend_from_slice(&end.position.to_le_bytes());
        out.extend_from_slice(&end.checksum.to_le_bytes());
    }
    out
}

pub fn decode(bytes: &[u8]) -> Result<Vec<LaneEnd>, DecodeError> {
    let mut r = Reader::new(bytes);
    let mut lanes = Vec::with_capacity(bytes.len() / ROW_BYTES);
    while r.remaining() > 0 {
        lanes.push(LaneEnd {
            lane: LaneId(r.u32("mark lane")?),
            position: r.u64("mark position")?,
            checksum: r.u32("mark checksum")?,
        });
    }
    Ok(lanes)
}
