//! How tests run one program on a machine of the simulation.
//!
//! Floor 1. Owner: the test.

use std::cell::Cell;
use std::future::Future;

use super::{MachineId, ProcessId, Simulation, Stop};
use crate::rt::{Instant, Rt};

const HOUR: Instant = Instant::from_nanos(3_600_000_000_000);

impl Simulation {
    /// Starts a process with one executor.
    pub fn program<Fut>(&self, machine: MachineId, main: impl FnOnce(Rt) -> Fut) -> ProcessId
    where
        Fut: Future<Output = ()> + 'static,
    {
        let (process, _) = self.process(machine);
        self.start(process, "program", main);
        process
    }

    /// Runs until the process ended by itself, or a machine crashed.
    pub fn run_to_end(&self, process: ProcessId) -> Stop {
        self.run(HOUR, || !self.is_alive(process))
    }

    /// Runs until a program said so.
    pub fn run_until(&self, told: &Cell<bool>) {
        assert_eq!(self.run(HOUR, || told.get()), Stop::Done);
    }
}
