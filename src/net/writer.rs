//! The writing side of a connection: takes all waiting replies at once and sends them with as few
//! calls as possible.
//!
//! Floor 4. Owner: shard. Each call sends at most [`WRITE_BYTES`], so that progress can be seen.

use std::rc::Rc;

use crate::net::Closed;
use crate::net::connection::{Connection, State};
use crate::net::outbox::Part;

/// A peer that does not take this much within the stall limit is cut off.
const WRITE_BYTES: usize = 256 << 10;
const SLICES_MAX: usize = 64;

pub(super) async fn run(connection: Rc<Connection>) {
    loop {
        let parts = connection.outbox.borrow_mut().take();
        if !parts.is_empty() {
            if !send(&connection, parts).await {
                connection.kill(Closed::Peer);
                break;
            }
            continue;
        }
        match connection.state.get() {
            State::Dead => break,
            State::Draining if connection.is_idle() => {
                connection.kill(Closed::Peer);
                break;
            }
            _ => connection.filled.wait().await,
        }
    }
    connection.ended.notify();
}

/// Sends all parts in order; false: the connection is gone.
async fn send(connection: &Connection, parts: impl IntoIterator<Item = Part>) -> bool {
    let mut parts = parts.into_iter().peekable();
    // Parts whose bytes are named by `ranges`, and the first byte of the first one that is unsent.
    let mut sending: Vec<Part> = Vec::new();
    let mut start = 0;
    while parts.peek().is_some() || !sending.is_empty() {
        let mut bytes: usize = sending.iter().map(|part| part.bytes().len()).sum::<usize>() - start;
        while bytes < WRITE_BYTES && sending.len() < SLICES_MAX {
            let Some(part) = parts.next() else { break };
            bytes += part.bytes().len();
            sending.push(part);
        }
        let mut left = WRITE_BYTES;
        let mut slices = Vec::with_capacity(sending.len());
        for (index, part) in sending.iter().enumerate() {
            let rest = &part.bytes()[if index == 0 { start } else { 0 }..];
            let slice = &rest[..rest.len().min(left)];
            left -= slice.len();
            slices.push(slice);
        }
        let written = WRITE_BYTES - left;
        connection.writing_since.set(Some(connection.rt.now()));
        let result = connection.stream.write_all_vectored(&slices).await;
        connection.writing_since.set(None);
        if result.is_err() || connection.state.get() == State::Dead {
            return false;
        }
        start += written;
        while let Some(first) = sending.first() {
            let length = first.bytes().len();
            if start < length {
                break;
            }
            start -= length;
            sending.remove(0);
        }
        connection.outbox.borrow_mut().written(written);
        connection.room.notify();
    }
    true
}
