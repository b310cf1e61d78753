//! A machine: its disk, its clocks, when it is to crash, and the disk operations under way.
//!
//! Floor 1. Owner: the simulation. A machine that is crashing completes nothing more for its
//! programs: what they do until they next give up control has no effect outside their memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::core::{Core, Event};
use super::disk::{Disk, InFlight};
use super::driver::{CrashKind, CrashPlan};
use super::tree::FolderId;

pub(super) struct Machine {
    pub(super) disk: Disk,
    /// Counts boots; an operation of an earlier boot completes nowhere.
    pub(super) boot: u64,
    pub(super) boot_ns: u64,
    pub(super) boot_id: u128,
    /// The wall clock when the simulation began, jumps included.
    pub(super) wall_ms: i64,
    pub(super) plan: CrashPlan,
    pub(super) memory: u64,
    pub(super) cpus: usize,
}

/// 2026-01-01; any time would do.
const WALL_MS: i64 = 1_767_225_600_000;

impl Machine {
    pub(super) fn new(capacity: u64, boot_id: u128) -> Machine {
        Machine {
            disk: Disk::new(capacity),
            boot: 0,
            boot_ns: 0,
            boot_id,
            wall_ms: WALL_MS,
            plan: CrashPlan::default(),
            memory: 1 << 30,
            cpus: 2,
        }
    }
}

/// One operation under way, and who waits for it.
#[derive(Default)]
pub(super) struct Operation {
    result: Cell<Option<bool>>,
    waker: RefCell<Option<Waker>>,
}

impl Operation {
    fn finish(&self, well: bool) {
        self.result.set(Some(well));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it went well, once it is complete.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<bool> {
        match self.result.get() {
            Some(well) => Poll::Ready(well),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

pub(super) enum What {
    /// A read, or a change of names, which its task applies itself.
    Plain,
    Write {
        sequence: u64,
        process: u32,
    },
    Flush {
        handle: usize,
        point: (u64, u64),
    },
    Sync {
        folder: FolderId,
        point: u64,
    },
}

pub(super) struct DiskEvent {
    machine: u32,
    boot: u64,
    what: What,
    failed: bool,
    /// The write was late already; once is enough.
    delayed: bool,
    operation: Rc<Operation>,
}

impl Core {
    pub(super) fn machine_of(&self, process: u32) -> u32 {
        self.processes.borrow()[process as usize].0
    }

    pub(super) fn is_alive(&self, process: u32) -> bool {
        self.processes.borrow()[process as usize].1
    }

    /// Whether a program may act on the world: it lives, and its machine is not crashing.
    pub(super) fn acts(&self, process: u32) -> bool {
        let (machine, alive) = self.processes.borrow()[process as usize];
        alive && self.crashing.get() != Some(machine)
    }

    /// Begins a disk operation. `None`: the machine is crashing; the task must not go on.
    pub(super) fn begin(&self, process: u32, what: What) -> Option<Rc<Operation>> {
        if !self.acts(process) {
            return None;
        }
        let machine = self.machine_of(process);
        let error_ppm = {
            let faults = self.faults.borrow();
            match what {
                What::Plain => faults.read_error_ppm,
                What::Write { .. } => faults.write_error_ppm,
                What::Flush { .. } | What::Sync { .. } => faults.flush_error_ppm,
            }
        };
        let failed = self.chance(error_ppm);
        let operation = Rc::new(Operation::default());
        let boot = self.machines.borrow()[machine as usize].boot;
        let at = self.now.get() + self.disk_ns();
        let event = DiskEvent { machine, boot, what, failed, delayed: false, operation: operation.clone() };
        self.schedule(at, Event::Disk(event));
        self.count_operation(machine);
        Some(operation)
    }

    pub(super) fn begin_write(&self, process: u32, write: InFlight) -> Option<Rc<Operation>> {
        if !self.acts(process) {
            return None;
        }
        let machine = self.machine_of(process);
        let sequence = self.next_sequence();
        self.machines.borrow_mut()[machine as usize].disk.submit(sequence, write);
        self.begin(process, What::Write { sequence, process })
    }

    /// The planned crash comes right after the operation was submitted: it may still land, or not.
    fn count_operation(&self, machine: u32) {
        let plan = &mut self.machines.borrow_mut()[machine as usize].plan;
        match &mut plan.after_operations {
            Some(0) => {
                plan.after_operations = None;
                self.crashing.set(Some(machine));
            }
            Some(left) => *left -= 1,
            None => (),
        }
    }

    /// Whether a write of a dead process is to land later than it would have.
    fn lands_late(&self, event: &DiskEvent) -> Option<u64> {
        let What::Write { process, .. } = event.what else { return None };
        if event.delayed || self.is_alive(process) {
            return None;
        }
        let (late_ppm, late_us) = {
            let faults = self.faults.borrow();
            (faults.late_write_ppm, faults.late_write_us_max)
        };
        self.chance(late_ppm).then(|| self.now.get() + self.below(late_us + 1) * 1000)
    }

    pub(super) fn disk_event(&self, mut event: DiskEvent) {
        if self.machines.borrow()[event.machine as usize].boot != event.boot {
            return;
        }
        if let Some(at) = self.lands_late(&event) {
            event.delayed = true;
            self.schedule(at, Event::Disk(event));
            return;
        }
        let well = !event.failed;
        // A killed process's write reaches the disk's cache; the flush of its O_DSYNC perhaps never came.
        let kept = match event.what {
            What::Write { process, .. } => self.is_alive(process) || self.chance(500_000),
            _ => true,
        };
        {
            let mut machines = self.machines.borrow_mut();
            let mut random = self.random.borrow_mut();
            let disk = &mut machines[event.machine as usize].disk;
            match event.what {
                What::Plain => (),
                What::Write { sequence, .. } => disk.complete(sequence, event.failed, kept, &mut random),
                What::Flush { handle, .. } if !well => disk.flush_failed(handle, &mut random),
                What::Flush { handle, point } if !self.mutated("disk.flush_lies") => {
                    disk.flushed(handle, point);
                }
                What::Flush { .. } => (),
                What::Sync { folder, point } if well => disk.tree.synced(folder, point),
                What::Sync { .. } => (),
            }
        }
        self.trace.word(self.now.get() << 1 ^ u64::from(well));
        event.operation.finish(well);
    }

    /// A named step of a program: counted, and maybe the last thing it did.
    pub(super) fn step(&self, process: u32, step: &'static str) {
        if !self.acts(process) {
            return;
        }
        let nth = self.trace.reached(step);
        self.trace.bytes(step.as_bytes());
        let machine = self.machine_of(process);
        let crash = {
            let plan = &self.machines.borrow()[machine as usize].plan;
            let named = plan.at_step.as_ref().is_some_and(|(name, at)| name == step && *at <= nth);
            let matches = plan.step_prefix.as_ref().is_none_or(|prefix| step.starts_with(prefix));
            named || (matches && self.chance(plan.step_ppm))
        };
        self.line(|| format!("step {step} ({nth}){}", if crash { ": crash" } else { "" }));
        if crash {
            self.trace.crashed(step);
            self.crashing.set(Some(machine));
        }
    }

    /// What a crash does to the machine itself. Its tasks are gone already.
    pub(super) fn crash_machine(&self, machine: u32, kind: CrashKind) {
        let mut machines = self.machines.borrow_mut();
        let machine = &mut machines[machine as usize];
        machine.plan = CrashPlan::default();
        if kind == CrashKind::Power {
            let mut random = self.random.borrow_mut();
            machine.disk.cut_power(&mut random, &self.pool);
            machine.boot += 1;
            machine.boot_ns = self.now.get();
            machine.boot_id = u128::from(random.u64()) << 64 | u128::from(random.u64());
        }
    }
}
