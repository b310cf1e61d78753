//! The simulated world: one thread, virtual time, everything decided by one seed.
//!
//! Floor 1. Owner: whoever drives the [`Simulation`]; everything in it shares one `Core`.
//! Machines have a disk and clocks; processes run on machines and can be killed at any point, or
//! lose their power; the network joins all. The same seed and the same calls give the same trace
//! hash. No unsafe code, no thread, no clock, no map with random state.

mod core;
mod disk;
mod driver;
mod faults;
mod file;
mod inode;
mod machine;
mod net;
mod process;
mod stream;
mod tasks;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trace;
mod tree;

pub use driver::{CrashKind, CrashPlan, Flip, MachineId, ProcessId, Simulation, Stop};
pub use faults::Faults;
pub use trace::StepCount;

pub(super) use file::{File, Folder, Lock};
pub(super) use process::{Joiner, Process, World};
pub(super) use stream::{Listener, Socket, Stream};
