//! What a panic comes to: half a broker must not go on.
//!
//! Floor 1. Owner: broker.

use std::any::Any;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; a panic is printed past any capture of output, and aborts the process.
pub(super) fn run_or_abort(work: impl FnOnce()) {
    let Err(payload) = catch_unwind(AssertUnwindSafe(work)) else { return };
    if cfg!(test) {
        // Under `cargo test` the thread that joins reports the failure of its own test.
        std::panic::resume_unwind(payload);
    }
    let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let _ = writeln!(io::stderr(), "ringlog: thread {name} panicked: {}; aborting", text_of(&*payload));
    std::process::abort();
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
