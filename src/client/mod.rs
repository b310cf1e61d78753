//! client (docs follow)
pub mod error;
pub mod session;
pub mod sync;
pub mod producer;
