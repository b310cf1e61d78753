//! What leaves a connection of the null server. Whatever is ready when the socket is free goes in one
//! write; record bytes go from where they lie.
//!
//! Owner: one connection of one shard.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use ringlog::rt::{Stream, local::Event};
use ringlog::wire::{FetchedHandle, Header, Reply, encode_fetched};

use super::store::Found;

/// The base offset lies outside of a batch's checksum, at its start.
const BASE_OFFSET_BYTES: usize = 8;

enum Piece {
    /// Heads and small answers, which grow together.
    Own(Vec<u8>),
    Shared(Bytes),
}

#[derive(Default)]
pub struct Answers {
    pieces: RefCell<Vec<Piece>>,
    ready: Event,
    closed: Cell<bool>,
}

impl Answers {
    pub fn push(&self, request: &Header, reply: &Reply) {
        self.add(|pieces| reply.encode(request, own(pieces)));
    }

    /// Each batch with the base offset that it was given.
    pub fn push_fetched(&self, request: &Header, found: Vec<(FetchedHandle, Found)>) {
        let (entries, found): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        self.add(|pieces| {
            encode_fetched(own(pieces), request, &entries);
            for (base, batch) in found.into_iter().flat_map(|found| found.batches) {
                own(pieces).extend_from_slice(&base.to_be_bytes());
                pieces.push(Piece::Shared(batch.slice(BASE_OFFSET_BYTES..)));
            }
        });
    }

    fn add(&self, fill: impl FnOnce(&mut Vec<Piece>)) {
        let mut pieces = self.pieces.borrow_mut();
        let was_empty = pieces.is_empty();
        fill(&mut pieces);
        drop(pieces);
        if was_empty {
            self.ready.notify();
        }
    }

    pub fn close(&self) {
        self.closed.set(true);
        self.ready.notify();
    }
}

/// The last piece, made if it is not ours to write into.
fn own(pieces: &mut Vec<Piece>) -> &mut Vec<u8> {
    if !matches!(pieces.last(), Some(Piece::Own(_))) {
        pieces.push(Piece::Own(Vec::new()));
    }
    match pieces.last_mut() {
        Some(Piece::Own(bytes)) => bytes,
        _ => unreachable!("it was just put there"),
    }
}

/// Writes until the connection ends.
pub async fn write(answers: Rc<Answers>, stream: Stream) {
    loop {
        let pieces = answers.pieces.take();
        if pieces.is_empty() {
            if answers.closed.get() {
                return;
            }
            answers.ready.wait().await;
            continue;
        }
        let slices: Vec<&[u8]> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Own(bytes) => &bytes[..],
                Piece::Shared(bytes) => &bytes[..],
            })
            .collect();
        if stream.write_all_vectored(&slices).await.is_err() {
            stream.shutdown();
            return;
        }
    }
}
