//! Simulated schedules: the real broker and the real client on simulated disks and networks, with
//! crashes and faults, and checkers over the history of what the clients did and saw.
//!
//! Floor 6. Owner: the program `ringsim` and the tests. A schedule is decided by its seed alone: run
//! twice it gives the same trace hash. A violation names the seed, which replays it.

mod check;
mod history;
mod load;
mod mutations;
mod plan;
mod schedule;
mod shell;
mod survey;
mod topics;

#[cfg(test)]
mod tests;

pub use mutations::{MUTATIONS, Mutation};
pub use schedule::{Options, Outcome, run};
