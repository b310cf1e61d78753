//! One schedule: lives of a broker under load, then a quiet end in which everything is checked.
//!
//! Floor 6. The driver acts between turns of the simulation; clients and broker know nothing of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::check::{self, Allowed};
use super::history::{Fate, History};
use super::load::{self, Shared};
use super::mutations;
use super::plan::{Focus, Life, Plan, Theme};
use super::survey::{Survey, survey};
use crate::rt::Random;
use crate::rt::sim::{CrashKind, CrashPlan, Faults, MachineId, ProcessId, Simulation, StepCount, Stop};
use crate::server::{Broker, Config};

const BROKER: ([u8; 4], u16) = ([10, 0, 0, 1], 7100);
const CAPACITY: u64 = 256 << 20;
const SEGMENT_BYTES: u64 = 64 << 10;
/// Time in which everything must be delivered once the faults are over.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Prints what happens.
    pub trace: bool,
    /// A deliberate bug that is switched on.
    pub mutation: Option<String>,
}

/// What came of a schedule.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub theme: String,
    pub violations: Vec<String>,
    pub trace_hash: u64,
    pub steps: BTreeMap<&'static str, StepCount>,
    pub records: u64,
    pub acknowledged: u64,
    pub crashes: u64,
    /// Crashes before the broker was ready.
    pub crashes_in_start: u64,
}

/// How the present broker process is.
#[derive(Default)]
struct Status {
    ready: bool,
    /// What it found damaged when it started.
    damages: Vec<String>,
    failed: Option<String>,
    ended: bool,
    stop: Option<Box<dyn Fn()>>,
}

struct Schedule {
    simulation: Simulation,
    plan: Plan,
    random: Random,
    broker: MachineId,
    client: ProcessId,
    history: Shared,
    status: Rc<RefCell<Status>>,
    process: Option<ProcessId>,
    /// Some life came as far as that.
    was_ready: bool,
    crashes: u64,
    crashes_in_start: u64,
}

/// Runs the schedule of a seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let mut random = Random::new(seed);
    let focus = options.mutation.as_deref().map_or(Focus::default(), mutations::focus);
    let plan = Plan::new(&mut random, focus);
    let simulation = Simulation::new(random.u64(), Faults::default(), options.trace);
    simulation.note(|| format!("{plan:#?}"));
    options.mutation.iter().for_each(|mutation| simulation.mutate(mutation));
    let broker = simulation.machine(CAPACITY);
    let desk = simulation.machine(0);
    let (client, _) = simulation.process(desk);
    let mut schedule = Schedule {
        simulation,
        plan,
        random,
        broker,
        client,
        history: Shared::default(),
        status: Rc::default(),
        process: None,
        was_ready: false,
        crashes: 0,
        crashes_in_start: 0,
    };
    schedule.start_clients();
    schedule.live();
    schedule.end();
    schedule.outcome(seed)
}

fn address() -> SocketAddr {
    SocketAddr::from(BROKER)
}

impl Schedule {
    fn start_clients(&self) {
        let (simulation, topics) = (&self.simulation, &self.plan.topics);
        for number in 0..self.plan.producers {
            let (topics, history) = (topics.clone(), self.history.clone());
            let records = self.plan.records_each;
            simulation.start(self.client, "producer", |rt| {
                load::produce(rt, address(), number, records, topics, history)
            });
        }
        for _ in 0..self.plan.consumers {
            let (topics, history) = (topics.clone(), self.history.clone());
            simulation.start(self.client, "consumer", |rt| load::consume(rt, address(), topics, history));
        }
        let (topics, history, producers) = (topics.clone(), self.history.clone(), self.plan.producers);
        simulation
            .start(self.client, "admin", |rt| load::administer(rt, address(), topics, producers, history));
    }

    fn start_broker(&mut self, shards: u32) {
        let (process, world) = self.simulation.process(self.broker);
        self.process = Some(process);
        self.status = Rc::default();
        let (status, config) = (self.status.clone(), config(shards));
        self.simulation.start(process, "control", |rt| async move {
            let mut broker = Broker::start(&rt, &world, config);
            status.borrow_mut().stop = Some(Box::new(broker.stopper()));
            match broker.ready().await {
                Some(Ok(started)) => {
                    let mut status = status.borrow_mut();
                    status.ready = true;
                    let damages = started.recovered.iter().flat_map(|recovered| &recovered.damages);
                    status.damages = damages.cloned().collect();
                }
                Some(Err(error)) => status.borrow_mut().failed = Some(error.to_string()),
                None => (),
            }
            let ended = broker.ended().await;
            let mut status = status.borrow_mut();
            status.ended = true;
            if let Err(error) = ended {
                status.failed.get_or_insert(error.to_string());
            }
        });
    }

    fn live(&mut self) {
        let faults = self.plan.faults.clone();
        self.simulation.set_faults(|now| *now = faults);
        for life in self.plan.lives.clone() {
            self.live_once(&life);
            if let Some(spare) = self.plan.spare_bytes
                && self.was_ready
            {
                let used = CAPACITY - self.simulation.available(self.broker);
                self.simulation.set_capacity(self.broker, used + spare);
                self.plan.spare_bytes = None;
            }
            if !self.history.borrow().violations.is_empty() {
                return;
            }
        }
    }

    fn live_once(&mut self, life: &Life) {
        self.simulation.note(|| format!("--- {life:?}"));
        self.start_broker(life.shards);
        self.simulation.plan(self.broker, life.crash.clone());
        self.history.borrow_mut().provoked_after = life.provoked_after;
        let history = self.history.clone();
        let provoked = || history.borrow().provoked_after == Some(0);
        let until = self.simulation.after(life.length);
        let half = self.simulation.after(life.length / 2);
        let mut stop = self.simulation.run(half, provoked);
        if life.clock_jump_ms != 0 && stop == Stop::Time {
            self.simulation.jump_wall_clock(self.broker, life.clock_jump_ms);
            stop = self.simulation.run(until, provoked);
            self.simulation.jump_wall_clock(self.broker, -life.clock_jump_ms);
        } else if stop == Stop::Time {
            stop = self.simulation.run(until, provoked);
        }
        if let Stop::Crashed(..) = stop {
            self.note_crash();
            return;
        }
        if life.graceful && stop != Stop::Done && self.stop_broker() {
            self.note_failure();
            return;
        }
        self.note_crash();
        self.simulation.crash(self.broker, life.crash.kind);
    }

    fn note_crash(&mut self) {
        self.crashes += 1;
        self.crashes_in_start += u64::from(!self.status.borrow().ready);
        self.note_failure();
    }

    /// A broker that refuses to start, or ends by itself, does so only for a reason.
    fn note_failure(&mut self) {
        self.was_ready |= self.status.borrow().ready;
        if self.plan.theme != Theme::DiskErrors
            && let Some(text) = self.status.borrow().damages.first()
        {
            // Nobody flipped a bit yet: a crash alone never looks like damage.
            self.history.borrow_mut().violation(format!("undamaged data were called damaged: {text}"));
        }
        if let Some(text) = &self.status.borrow().failed
            && self.plan.theme != Theme::DiskErrors
        {
            self.history.borrow_mut().violation(format!("the broker failed: {text}"));
        }
    }

    /// Stops the broker gracefully; false: it crashed, or did not stop in time.
    fn stop_broker(&mut self) -> bool {
        if let Some(stop) = &self.status.borrow().stop {
            stop();
        }
        let status = self.status.clone();
        let until = self.simulation.after(Duration::from_secs(30));
        let stop = self.simulation.run(until, || status.borrow().ended);
        if stop == Stop::Time && self.plan.theme != Theme::SlowDisk {
            self.history.borrow_mut().violation("the broker did not stop within 30 s".into());
        }
        self.process.into_iter().for_each(|process| self.simulation.kill(process));
        stop == Stop::Done
    }

    /// No faults any more: all must be delivered, then be there, also after the power went.
    fn end(&mut self) {
        if !self.history.borrow().violations.is_empty() {
            return;
        }
        self.simulation.note(|| "--- the end".into());
        self.simulation.crash(self.broker, CrashKind::Kill);
        self.simulation.set_faults(|faults| *faults = Faults::default());
        self.simulation.set_capacity(self.broker, CAPACITY);
        self.simulation.plan(self.broker, CrashPlan::default());
        let shards = 1 + self.random.below(4) as u32;
        self.start_broker(shards);
        self.deliver();
        let Some(first) = self.survey() else { return };
        let mut damage = false;
        if self.plan.theme == Theme::Damage {
            damage = self.damage();
        } else {
            let kind = if self.random.chance(700_000) { CrashKind::Power } else { CrashKind::Kill };
            self.simulation.crash(self.broker, kind);
        }
        self.check(&first, false);
        self.note_failure();
        let shards = 1 + self.random.below(4) as u32;
        self.start_broker(shards);
        if let Some(second) = self.survey() {
            self.check(&second, damage);
        }
        if !damage {
            self.note_end_failure();
        }
    }

    fn note_end_failure(&self) {
        if let Some(text) = &self.status.borrow().failed {
            self.history.borrow_mut().violation(format!("the broker failed at the end: {text}"));
        }
    }

    fn deliver(&mut self) {
        let (history, producers) = (self.history.clone(), self.plan.producers);
        let until = self.simulation.after(PATIENCE);
        let done = || {
            let history = history.borrow();
            history.producers_done == producers && history.admin_done
        };
        let stop = self.simulation.run(until, done);
        if stop != Stop::Done {
            let (unknown, first) = {
                let history = self.history.borrow();
                let mut unknown = history.sent.iter().filter(|(_, sent)| sent.fate == Fate::Unknown);
                let first = unknown.next().map(|(id, sent)| format!("record {id}: {sent:?}"));
                (unknown.count() + usize::from(first.is_some()), first)
            };
            self.note_end_failure();
            let text =
                format!("{unknown} records were not delivered within {PATIENCE:?} ({stop:?}): {first:?}");
            self.history.borrow_mut().violation(text);
        }
    }

    /// Lets the broker mark its tail, ends it, and flips a bit.
    fn damage(&mut self) -> bool {
        let soon = self.simulation.after(Duration::from_millis(200));
        self.simulation.run(soon, || false);
        if self.random.chance(500_000) {
            self.stop_broker();
        }
        self.simulation.crash(self.broker, CrashKind::Kill);
        let later = self.simulation.after(Duration::from_millis(100));
        self.simulation.run(later, || false);
        self.simulation.flip_bit(self.broker, |_| true).is_some()
    }

    fn survey(&self) -> Option<Survey> {
        let result = Rc::new(RefCell::new(None));
        let (told, topics, history) = (result.clone(), self.plan.topics.clone(), self.history.clone());
        self.simulation.start(self.client, "survey", |rt| survey(rt, address(), topics, history, told));
        let until = self.simulation.after(PATIENCE);
        let stop = self.simulation.run(until, || result.borrow().is_some());
        if stop != Stop::Done {
            self.note_end_failure();
            let text = format!("the log could not be read within {PATIENCE:?} ({stop:?})");
            self.history.borrow_mut().violation(text);
        }
        result.take()
    }

    fn check(&self, survey: &Survey, damage: bool) {
        let mut history = self.history.borrow_mut();
        check::check(&mut history, survey, &self.plan.topics, Allowed { damage });
    }

    fn outcome(self, seed: u64) -> Outcome {
        let history: &History = &self.history.borrow();
        let acknowledged =
            history.sent.values().filter(|sent| matches!(sent.fate, Fate::Acknowledged(_) | Fate::Sent));
        Outcome {
            seed,
            theme: format!("{:?}", self.plan.theme),
            violations: history.violations.clone(),
            trace_hash: self.simulation.trace_hash(),
            steps: self.simulation.steps(),
            records: history.sent.len() as u64,
            acknowledged: acknowledged.count() as u64,
            crashes: self.crashes,
            crashes_in_start: self.crashes_in_start,
        }
    }
}

fn config(shards: u32) -> Config {
    Config {
        data: PathBuf::from("/data"),
        listen: address(),
        shards: Some(shards),
        memory_bytes: Some(64 << 20),
        segment_bytes: Some(SEGMENT_BYTES),
        retention_check_ms: 100,
        ..Config::default()
    }
}
