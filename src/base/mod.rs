//! Small tools without a vocabulary of their own: checksums, bounded cursors, alignment,
//! hash maps whose order does not depend on the process, locks.
//!
//! Floor 0. Owner: nobody; everything here is a value or a pure function.

pub mod align;
pub mod crc;
pub mod cursor;
pub mod few;
pub mod lock;
pub mod map;
pub mod nearest;

pub use cursor::{DecodeError, Reader};
pub use few::Few;
pub use lock::lock;
pub use map::{Map, Set};
pub use nearest::nearest;
