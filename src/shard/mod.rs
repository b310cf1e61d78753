//! One core of the broker: its journals, lanes, connections and memory.
//!
//! Floor 5. Owner: shard.

pub mod mesh;

pub use mesh::{JournalPlan, Recovered, Settings, ShardPlan, ToControl, ToShard};
