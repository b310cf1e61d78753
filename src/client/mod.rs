//! The client: producer, consumer and admin.
//!
//! Floor 5 (`docs/protocol.md` is what it speaks). Protocol logic is in machines: pure state
//! machines without I/O, clock, randomness or runtime. A shell moves bytes and time for them; the
//! one here ([`Client`]) is built on tokio, the simulator has another.
//!
//! # How to drive a machine
//!
//! `ProducerOptions::start`, `ConsumerOptions::start` and [`Admin::start`] give a handle and a
//! machine. The handle's methods are plain futures that use `std::task` wakers only; they run on
//! any executor. The machine belongs to one loop:
//!
//! ```text
//! loop {
//!     machine.handle_timeout(now);                 // also after the bell rang; cheap
//!     while let Some(action) = machine.poll_action() {
//!         Connect { link, server }      open a connection to address number `server`, in the
//!                                       background; report Connected or Closed
//!         Send { link, head, body }     queue both on the connection; report Written
//!         Close { link }                close it; report nothing
//!     }
//!     if machine.is_finished() { break }
//!     wait for machine.bell().wait(), an event, or the time machine.poll_timeout()
//!     machine.handle_event(now, event);            // for each event
//! }
//! ```
//!
//! Per connection: bytes that were read go through a `wire::FrameReader`, each frame is reported
//! as `Frame { link, header, body }`, a failure or end of stream once as `Closed`. The machine
//! itself sends the preface and the hello. `now` is in milliseconds of a clock that only grows;
//! `seed` is where randomness enters. A producer's sends take their time of both clocks
//! ([`Times`]). Dropping a machine fails whatever is unfinished.

mod admin;
mod consumer;
mod error;
mod producer;
mod session;
mod shell;
mod sync;
#[cfg(test)]
mod testing;

pub use crate::record::Compression;
pub use crate::wire::{Acks, At};
pub use admin::{Admin, AdminMachine, ListedOffset, TopicDescription};
pub use consumer::{
    ConsumedBatch, ConsumerHandle, ConsumerMachine, ConsumerOptions, ConsumerRecord, OffsetReset, Position,
};
pub use error::{ClientError, ConsumeError, ProduceError};
pub use producer::{
    Delivery, ProducerHandle, ProducerMachine, ProducerOptions, Record, RecordMetadata, Times,
};
pub use session::{Action, Event, LinkId, Machine, Millis, Settings};
pub use shell::{Client, Consumer, Options, Producer};
pub use sync::Bell;
