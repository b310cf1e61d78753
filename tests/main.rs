//! The one integration test binary. Table of contents:
//!
//! * `tidy`: the shape of the source: floors, sizes, headers, what may be named where.
//! * `broker`: the real binary: start-up errors, kill -9, a full disk, flipped bits, changing shards.
//! * `fuzz`: hostile bytes against every decoder: no panic, no allocation beyond the input.
//!
//! Floor: above all. Unit tests lie beside what they test; schedules of crashes and faults in `src/sim`.

// Tests stand outside of the broker's world, and a test that unwraps says what it expects.
#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

mod allocations;
mod broker;
mod fuzz;
mod tidy;
