//! `ringsim`: runs simulated schedules of a broker and its clients on all CPUs.
//!
//! Floor 6.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use clap::Parser;
use ringlog::rt::sim::StepCount;
use ringlog::sim::{MUTATIONS, Mutation, Options, Outcome, run};

/// How often a long run tells how far it is.
const PROGRESS_SECONDS: f64 = 10.0;

const REPLAY: &str = "cargo run --release --features sim --bin ringsim --";

/// Runs seeded schedules of crashes and faults against the real broker and client, in virtual time.
#[derive(Parser)]
struct Cli {
    /// Seeds to run, as FIRST..END (END is not run).
    #[arg(long, default_value = "0..1000")]
    seeds: String,
    /// Runs one seed twice and prints its outcome.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: prints everything that happens, on stderr.
    #[arg(long)]
    trace: bool,
    /// Switches a deliberate bug on.
    #[arg(long)]
    mutation: Option<String>,
    /// Runs every deliberate bug until a schedule catches it.
    #[arg(long)]
    mutations: bool,
    /// Threads; default: one per CPU.
    #[arg(long)]
    threads: Option<usize>,
    /// Goes on after a violation.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let well = match (cli.seed, cli.mutations) {
        (Some(seed), _) => one(seed, &cli),
        (None, true) => mutations(),
        (None, false) => many(&cli),
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options(cli: &Cli) -> Options {
    Options { trace: false, mutation: cli.mutation.clone() }
}

fn print(outcome: &Outcome) {
    println!(
        "seed {} ({}): trace {:016x}, {} records, {} acknowledged, {} crashes ({} while starting)",
        outcome.seed,
        outcome.theme,
        outcome.trace_hash,
        outcome.records,
        outcome.acknowledged,
        outcome.crashes,
        outcome.crashes_in_start,
    );
    outcome.violations.iter().for_each(|text| println!("  VIOLATION {text}"));
}

fn one(seed: u64, cli: &Cli) -> bool {
    let first = run(seed, &options(cli));
    print(&first);
    let second = run(seed, &Options { trace: cli.trace, ..options(cli) });
    let same = first.trace_hash == second.trace_hash;
    println!("a second run gives {} trace", if same { "the same" } else { "ANOTHER" });
    same && first.violations.is_empty()
}

/// What many schedules came to.
#[derive(Default)]
struct Totals {
    schedules: u64,
    violated: Vec<Outcome>,
    records: u64,
    acknowledged: u64,
    crashes: u64,
    crashes_in_start: u64,
    themes: BTreeMap<String, u64>,
    steps: BTreeMap<&'static str, StepCount>,
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.schedules += 1;
        self.records += outcome.records;
        self.acknowledged += outcome.acknowledged;
        self.crashes += outcome.crashes;
        self.crashes_in_start += outcome.crashes_in_start;
        *self.themes.entry(outcome.theme.clone()).or_default() += 1;
        for (step, count) in &outcome.steps {
            let total = self.steps.entry(step).or_default();
            total.reached += count.reached;
            total.crashed += count.crashed;
        }
        if !outcome.violations.is_empty() {
            print(&outcome);
            println!("  replay: {REPLAY} --seed {} --trace", outcome.seed);
            self.violated.push(outcome);
        }
    }

    fn print(&self, seconds: f64) {
        println!("crashes at each step (of all visits):");
        for (step, count) in &self.steps {
            println!("  {step:32} {:>9} ({})", count.crashed, count.reached);
        }
        println!("schedules by theme: {:?}", self.themes);
        println!(
            "{} schedules in {seconds:.1} s, {:.1} a second: {} records sent, {} acknowledged, {} crashes ({} while \
             starting), {} schedules with violations",
            self.schedules,
            self.schedules as f64 / seconds,
            self.records,
            self.acknowledged,
            self.crashes,
            self.crashes_in_start,
            self.violated.len(),
        );
    }
}

/// Seeds under way, by the name of their thread.
type Running = Arc<Mutex<BTreeMap<String, u64>>>;

/// A panic of the code under test is a violation too: says which seed it was.
fn name_seed_of_panics() -> Running {
    let running = Running::default();
    let (seeds, default) = (running.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let seed = seeds.lock().ok().and_then(|seeds| seeds.get(&thread).copied());
        if let Some(seed) = seed {
            println!("seed {seed}\n  VIOLATION panic: {info}");
            println!("  replay: {REPLAY} --seed {seed} --trace");
        }
        default(info);
    }));
    running
}

/// Runs seeds on several threads until `see` says that it is enough.
fn spread(first: u64, end: u64, cli: &Cli, mut see: impl FnMut(Outcome) -> bool) {
    let threads = cli.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (running, options) = (name_seed_of_panics(), options(cli));
    let next = AtomicU64::new(first);
    let enough = AtomicBool::new(false);
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for number in 0..threads {
            let (sender, next, enough, running, options) =
                (sender.clone(), &next, &enough, &running, &options);
            let name = format!("worker-{number}");
            let work = {
                let name = name.clone();
                move || {
                    while !enough.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        if let Ok(mut running) = running.lock() {
                            running.insert(name.clone(), seed);
                        }
                        if sender.send(run(seed, options)).is_err() {
                            return;
                        }
                    }
                }
            };
            let started = std::thread::Builder::new().name(name).spawn_scoped(scope, work);
            assert!(started.is_ok(), "the system refuses a thread");
        }
        drop(sender);
        for outcome in outcomes {
            if see(outcome) {
                enough.store(true, Ordering::Relaxed);
            }
        }
    });
}

fn many(cli: &Cli) -> bool {
    let Some((first, end)) = cli
        .seeds
        .split_once("..")
        .and_then(|(first, end)| Some((first.parse::<u64>().ok()?, end.parse::<u64>().ok()?)))
    else {
        eprintln!("--seeds wants FIRST..END, such as 0..1000");
        return false;
    };
    let began = seconds();
    let mut totals = Totals::default();
    let mut told = began;
    spread(first, end, cli, |outcome| {
        totals.add(outcome);
        let now = seconds();
        if now - told >= PROGRESS_SECONDS {
            told = now;
            let (done, violated) = (totals.schedules, totals.violated.len());
            let rate = done as f64 / (now - began);
            let of = end - first;
            eprintln!("ringsim: {done} of {of} schedules, {rate:.0} a second, {violated} with violations");
        }
        !cli.keep_going && !totals.violated.is_empty()
    });
    totals.print(seconds() - began);
    totals.violated.is_empty()
}

/// Schedules that a deliberate bug gets to be caught.
const SEEDS_PER_MUTATION: &str = "0..6000";

/// Each runs in a process of its own: an assertion that catches it ends that process.
fn mutations() -> bool {
    let mut missed = 0;
    for Mutation { name, what } in MUTATIONS {
        let tried = std::env::current_exe().and_then(|program| {
            Command::new(program).args(["--mutation", name, "--seeds", SEEDS_PER_MUTATION]).output()
        });
        let output = match tried {
            Ok(output) => output,
            Err(error) => {
                eprintln!("cannot run a schedule: {error}");
                return false;
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let violation = text.lines().find(|line| line.contains("VIOLATION")).unwrap_or_default().trim();
        let seed = text.lines().find(|line| line.starts_with("seed ")).unwrap_or_default();
        let seed: String = seed.chars().take_while(|char| *char != ':').collect();
        if output.status.success() || violation.is_empty() {
            missed += 1;
            println!("MISSED  {name} ({what})");
        } else {
            println!("caught  {name} ({what}): {seed}: {violation}");
        }
        // One a line as they come, also into a file.
        let _ = std::io::stdout().flush();
    }
    println!("{} mutations, {missed} missed", MUTATIONS.len());
    missed == 0
}

/// Of the machine's clock: schedules have their own.
#[allow(clippy::disallowed_types)]
fn seconds() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
