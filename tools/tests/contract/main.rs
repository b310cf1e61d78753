//! The words of `ringctl`, tried on a real broker: people script against them.
//!
//! | module    | what it pins down                                                   |
//! |-----------|---------------------------------------------------------------------|
//! | `words`   | every command of the contract, its stdout, stderr and exit code     |
//! | `records` | lines to records and back: empty, binary, keys, headers, formats    |
//! | `failure` | a broker that is away, dies or returns; timeouts; a closed pipe     |
//! | `offline` | verify, dump and repair on a stopped broker's folder                |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod failure;
mod offline;
mod records;
mod stage;
mod words;
