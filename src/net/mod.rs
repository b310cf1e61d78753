//! Connections of the native protocol: bytes <-> requests.
//!
//! Floor 4. Owner: shard.
