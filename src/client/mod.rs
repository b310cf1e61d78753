//! (see src/lib.rs for the floors)
