//! The one way to take a lock.
//!
//! Floor 0.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The guarded value. Nothing of ours panics half way through a change of it, so it is whole even if a
/// thread panicked that held it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
