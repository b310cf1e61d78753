//! Driving a simulation: machines, processes, crashes, damage, and running until something happens.
//!
//! Floor 1. Owner: a test or the simulator's schedules. The driver acts between turns of tasks.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use super::core::{Core, Event};
use super::disk::Disk;
use super::faults::Faults;
use super::machine::Machine;
use super::process::{self, Executor, Process, SharedEnd};
use super::tasks::{TaskFuture, Turn};
use super::trace::StepCount;
use super::tree::Node;
use crate::rt::{Instant, Rt, RtKind, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(u32);

/// How the processes of a machine end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrashKind {
    /// kill -9: what completed is in the disk's cache; what is in flight still lands.
    #[default]
    Kill,
    /// The disk loses what was not flushed, or some of it.
    Power,
}

/// When a machine crashes by itself. One crash uses the plan up.
#[derive(Clone, Debug, Default)]
pub struct CrashPlan {
    pub kind: CrashKind,
    /// After so many more disk operations were submitted.
    pub after_operations: Option<u64>,
    /// At a named step, from the given number of its visits on.
    pub at_step: Option<(String, u64)>,
    /// At any step, with a probability in parts per million, ...
    pub step_ppm: u32,
    /// ... if its name begins so.
    pub step_prefix: Option<String>,
}

/// Why `run` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The time is up.
    Time,
    /// `done` said so.
    Done,
    /// Nothing can ever happen again.
    Idle,
    Crashed(MachineId, CrashKind),
}

/// Where a bit was flipped.
#[derive(Clone, Debug)]
pub struct Flip {
    pub path: PathBuf,
    pub byte: u64,
    pub bit: u8,
}

/// A world of its own. Dropping it drops all its tasks.
pub struct Simulation {
    core: Rc<Core>,
}

impl Simulation {
    /// The same seed, faults and calls give the same schedule. `print`: a text trace on stderr.
    pub fn new(seed: u64, faults: Faults, print: bool) -> Simulation {
        Simulation { core: Rc::new(Core::new(seed, faults, print)) }
    }

    /// A machine with an empty disk of `capacity` bytes.
    pub fn machine(&self, capacity: u64) -> MachineId {
        let boot_id = u128::from(self.random()) << 64 | u128::from(self.random());
        let mut machines = self.core.machines.borrow_mut();
        machines.push(Machine::new(capacity, boot_id));
        MachineId(machines.len() as u32 - 1)
    }

    /// A new process, and the world through which it starts its executors.
    pub fn process(&self, machine: MachineId) -> (ProcessId, World) {
        let mut processes = self.core.processes.borrow_mut();
        processes.push((machine.0, true));
        let process = processes.len() as u32 - 1;
        let machine = &self.core.machines.borrow()[machine.0 as usize];
        let (cpus, memory) = (machine.cpus, machine.memory);
        let world = process::World { shared: self.core.shared.clone(), process, cpus, memory };
        (ProcessId(process), World::sim(world))
    }

    /// Starts one executor of a process: `World::executor` without the bound `Send`.
    pub fn start<Fut>(&self, process: ProcessId, name: &str, main: impl FnOnce(Rt) -> Fut)
    where
        Fut: Future<Output = ()> + 'static,
    {
        self.start_executor(process.0, name, SharedEnd::default(), |process| {
            Box::pin(main(Rt(RtKind::Sim(process))))
        });
    }

    fn start_executor(&self, pid: u32, name: &str, end: SharedEnd, main: impl FnOnce(Process) -> TaskFuture) {
        let core = &self.core;
        let (machine, alive) = core.processes.borrow()[pid as usize];
        if !alive {
            return;
        }
        let executor = core.executors.borrow().len() as u32;
        let process = Process { core: core.clone(), pid, executor, machine, name: name.into() };
        let future = main(process);
        let main = core.tasks.borrow_mut().add(executor, future);
        core.executors.borrow_mut().push(Executor { process: pid, main, alive: true, end });
    }

    /// Runs until `until`, or until `done` is true after a turn, or a machine crashes.
    pub fn run(&self, until: Instant, mut done: impl FnMut() -> bool) -> Stop {
        let core = &self.core;
        loop {
            self.drain_shared();
            self.fire_due();
            let next = core.tasks.borrow_mut().next();
            let Some(turn) = next else {
                match core.next_at() {
                    None => return Stop::Idle,
                    Some(at) if at > until.as_nanos() => {
                        core.now.set(until.as_nanos().max(core.now.get()));
                        return Stop::Time;
                    }
                    Some(at) => core.now.set(at.max(core.now.get())),
                }
                continue;
            };
            self.take_turn(turn);
            if let Some(machine) = core.crashing.get() {
                let kind = core.machines.borrow()[machine as usize].plan.kind;
                self.crash(MachineId(machine), kind);
                return Stop::Crashed(MachineId(machine), kind);
            }
            if done() {
                return Stop::Done;
            }
            if self.now() >= until {
                return Stop::Time;
            }
        }
    }

    fn take_turn(&self, turn: Turn) {
        let core = &self.core;
        let Turn { id, mut future, waker } = turn;
        core.pass_turn();
        core.trace.word(id.word() ^ core.now.get() << 20);
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            core.tasks.borrow_mut().remove(id);
            drop(future);
            self.end_executors(|executor| executor.main == id);
        } else {
            let ended = core.tasks.borrow_mut().put_back(id, future);
            drop(ended);
        }
    }

    /// Ends the executors that `which` names: drops their other tasks, and tells who joins them.
    fn end_executors(&self, which: impl Fn(&Executor) -> bool) {
        let mut dead = Vec::new();
        let mut ends = Vec::new();
        for (index, executor) in self.core.executors.borrow_mut().iter_mut().enumerate() {
            if executor.alive && which(executor) {
                executor.alive = false;
                dead.push(index as u32);
                ends.push(executor.end.clone());
            }
        }
        if dead.is_empty() {
            return;
        }
        let tasks = self.core.tasks.borrow_mut().take(|executor| dead.contains(&executor));
        drop(tasks);
        ends.iter().for_each(|end| process::finish(end));
    }

    fn fire_due(&self) {
        while let Some(event) = self.core.take_due() {
            match event {
                Event::Wake(waker) => waker.wake(),
                Event::Disk(event) => self.core.disk_event(event),
                Event::Net(event) => self.core.net_event(event),
            }
        }
    }

    fn drain_shared(&self) {
        for start in self.core.shared.take_starts() {
            self.start_executor(start.process, &start.name, start.end, start.main);
        }
        for (connection, side) in self.core.shared.take_orphans() {
            self.core.close_end(connection, side);
        }
    }

    /// Ends all processes of a machine, and with `Power` cuts its power.
    pub fn crash(&self, machine: MachineId, kind: CrashKind) {
        let core = &self.core;
        core.line(|| format!("machine {} crashes: {kind:?}", machine.0));
        core.crashing.set(Some(machine.0));
        let mut dead = Vec::new();
        for (pid, (on, alive)) in core.processes.borrow_mut().iter_mut().enumerate() {
            if *on == machine.0 && *alive {
                *alive = false;
                dead.push(pid as u32);
            }
        }
        self.end_processes(&dead);
        core.crash_machine(machine.0, kind);
        core.crashing.set(None);
    }

    /// Ends one process as kill -9 does.
    pub fn kill(&self, process: ProcessId) {
        self.core.processes.borrow_mut()[process.0 as usize].1 = false;
        self.end_processes(&[process.0]);
    }

    /// Drops the tasks of processes; what they leak, the system takes back.
    fn end_processes(&self, dead: &[u32]) {
        self.end_executors(|executor| dead.contains(&executor.process));
        self.drain_shared();
        for process in dead {
            let machine = self.core.machine_of(*process);
            self.core.close_network(*process);
            self.disk(MachineId(machine), |disk| disk.close_all(*process));
        }
    }

    /// Whether any executor of the process still runs.
    pub fn is_alive(&self, process: ProcessId) -> bool {
        let executors = self.core.executors.borrow();
        executors.iter().any(|executor| executor.process == process.0 && executor.alive)
    }

    pub fn plan(&self, machine: MachineId, plan: CrashPlan) {
        self.core.machines.borrow_mut()[machine.0 as usize].plan = plan;
    }

    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.core.faults.borrow_mut());
    }

    /// Switches a deliberate bug on: one that `Rt::mutated` is asked for, or the disk's own
    /// "disk.flush_lies".
    pub fn mutate(&self, mutation: &str) {
        self.core.mutations.borrow_mut().insert(mutation.to_owned());
    }

    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.core.now.get())
    }

    pub fn after(&self, duration: Duration) -> Instant {
        self.now() + duration
    }

    /// A random number of the world's own stream.
    pub fn random(&self) -> u64 {
        self.core.random.borrow_mut().u64()
    }

    pub fn jump_wall_clock(&self, machine: MachineId, by_ms: i64) {
        self.core.machines.borrow_mut()[machine.0 as usize].wall_ms += by_ms;
    }

    fn disk<T>(&self, machine: MachineId, use_disk: impl FnOnce(&mut Disk) -> T) -> T {
        use_disk(&mut self.core.machines.borrow_mut()[machine.0 as usize].disk)
    }

    pub fn set_capacity(&self, machine: MachineId, bytes: u64) {
        self.disk(machine, |disk| disk.capacity = bytes);
    }

    /// Bytes of the disk that are not taken.
    pub fn available(&self, machine: MachineId) -> u64 {
        self.disk(machine, |disk| disk.available())
    }

    /// Every file of a machine's disk, with its bytes.
    pub fn files(&self, machine: MachineId) -> Vec<(PathBuf, u64)> {
        self.disk(machine, |disk| {
            let files = disk.tree.files().into_iter();
            files.map(|(path, file)| (path, disk.file_bytes(file))).collect()
        })
    }

    /// The content of a file, as a program would read it.
    pub fn contents(&self, machine: MachineId, path: &Path) -> Option<Vec<u8>> {
        self.disk(machine, |disk| match disk.tree.resolve(path)? {
            Node::File(file) => Some(disk.contents(file)),
            Node::Folder(_) => None,
        })
    }

    /// Flips a random bit in a written page of a random file that `of` accepts.
    pub fn flip_bit(&self, machine: MachineId, of: impl Fn(&Path) -> bool) -> Option<Flip> {
        let core = &self.core;
        self.disk(machine, |disk| {
            let files: Vec<_> = disk.tree.files().into_iter().filter(|(path, _)| of(path)).collect();
            // A page that was never written has no bit to flip: try a few others.
            for _ in 0..32 {
                let (path, file) = files.get(core.below(files.len() as u64) as usize)?;
                let byte = core.below(disk.file_bytes(*file));
                let bit = core.below(8) as u8;
                if disk.flip(*file, byte, bit, &core.pool) {
                    core.line(|| format!("flip {} byte {byte} bit {bit}", path.display()));
                    return Some(Flip { path: path.clone(), byte, bit });
                }
            }
            None
        })
    }

    pub fn trace_hash(&self) -> u64 {
        self.core.trace.hash()
    }

    /// How often each step was reached, and crashed at.
    pub fn steps(&self) -> BTreeMap<&'static str, StepCount> {
        self.core.trace.steps()
    }

    /// Adds a line to the text trace.
    pub fn note(&self, text: impl FnOnce() -> String) {
        self.core.line(text);
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // Tasks hold the core, and the core holds them.
        let tasks = self.core.tasks.borrow_mut().take(|_| true);
        drop(tasks);
        drop(self.core.shared.take_starts());
        drop(self.core.take_events());
        // What programs leak holds the core for good: leave it little.
        self.core.machines.borrow_mut().clear();
        *self.core.net.borrow_mut() = Default::default();
        self.core.pool.clear();
    }
}
