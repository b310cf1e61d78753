//! Deliberate bugs, each of which some schedule must catch: a checker that catches nothing proves
//! nothing.
//!
//! Floor 6. The names are those that the code asks `Rt::mutated` for.

/// A deliberate bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    pub name: &'static str,
    pub what: &'static str,
}

pub const MUTATIONS: &[Mutation] =
    &[Mutation { name: "disk.flush_lies", what: "flushes say that they are done, and do nothing" }];
