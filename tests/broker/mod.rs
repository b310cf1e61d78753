//! The real broker binary from outside: its own process, real files, real sockets.
//!
//! Every test starts its brokers on free ports of a loopback address of its own, with data under the build
//! folder, and stops them by the process that it started. Small in an ordinary run; `RINGLOG_ROUNDS=100`
//! makes each loop as long. Where the machine forbids io_uring or a mount, a test says so and passes.

mod client;
mod damage;
mod full;
mod journals;
mod killed;
mod large;
mod library;
mod process;
mod reshape;
mod startup;

/// Repetitions of a test's loop: `few` unless the environment asks for another number.
fn rounds(few: u64) -> u64 {
    let wanted = std::env::var("RINGLOG_ROUNDS").ok();
    wanted.map_or(few, |text| text.parse().expect("RINGLOG_ROUNDS is a number"))
}
