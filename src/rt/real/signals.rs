//! SIGTERM and SIGINT as messages.
//!
//! Floor 1. Owner: broker. The signals are blocked in the calling thread, and so in every thread that
//! it starts later; one thread waits for them. So call this before anything starts a thread.

use std::io;

use crate::rt::mesh::{Receiver, channel};

/// A message for each SIGTERM or SIGINT that arrives from now on.
pub(in crate::rt) fn signals() -> io::Result<Receiver<()>> {
    // SAFETY: an all-zero sigset_t is valid storage for sigemptyset, which initialises it; the set
    // outlives the calls that read it.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        set
    };
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            let mut signal = 0;
            // SAFETY: the kernel reads the set and writes one int; both live in this thread.
            if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
                sender.send(());
            }
        }
    })?;
    Ok(receiver)
}
