//! The broker's program.
//!
//! Floor 7. Everything lies in the library, so that the simulator runs the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringlog::server::run()
}
