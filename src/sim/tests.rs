//! A few schedules on every test run; `ringsim` runs many.
//!
//! Floor 6.

use super::{Options, run};

#[test]
fn schedules_hold_and_repeat_themselves() {
    for seed in 0..8 {
        let outcome = run(seed, &Options::default());
        assert_eq!(
            outcome.violations,
            Vec::<String>::new(),
            "cargo run --features sim --bin ringsim -- --seed {seed} --trace"
        );
        assert_eq!(run(seed, &Options::default()).trace_hash, outcome.trace_hash);
    }
}
