//! Ringlog: a message broker for Linux.
//!
//! Floors (imports point down only; `tests/tidy.rs` checks them):
//!
//! ```text
//! 6 server  sim                        processes and simulated worlds
//! 5 shard   client                     one core; one user
//! 4 net                                connections: bytes <-> requests
//! 3 journal lane wire                  the log; batches of one partition; the native frames
//! 2 coordinator format twinlog         decide/apply; bytes on disk; a small log written twice
//! 1 api  record  rt                    requests without a protocol; batch bytes; the door
//! 0 base model                         small tools; vocabulary
//! ```

pub mod base;
pub mod model;

pub mod record;

pub mod wire;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "broker")]
pub mod api;
#[cfg(feature = "broker")]
pub mod coordinator;
#[cfg(feature = "broker")]
pub mod format;
#[cfg(feature = "broker")]
pub mod journal;
#[cfg(feature = "broker")]
pub mod lane;
#[cfg(feature = "broker")]
pub mod net;
#[cfg(feature = "broker")]
pub mod rt;
#[cfg(feature = "broker")]
pub mod server;
#[cfg(feature = "broker")]
pub mod shard;
#[cfg(feature = "broker")]
pub mod twinlog;

#[cfg(feature = "sim")]
pub mod sim;
