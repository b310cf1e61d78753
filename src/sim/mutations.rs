//! Deliberate bugs, each of which some schedule must catch: a checker that catches nothing proves
//! nothing.
//!
//! Floor 6. The names are those that the code asks `Rt::mutated` for.

use super::plan::{Focus, Theme};

/// A deliberate bug.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    pub name: &'static str,
    pub what: &'static str,
}

pub const MUTATIONS: &[Mutation] = &[
    Mutation { name: "disk.flush_lies", what: "flushes say that they are done, and do nothing" },
    Mutation { name: "ack-before-durable", what: "records are acknowledged before their frame is durable" },
    Mutation { name: "checkpoint-before-durable", what: "a checkpoint captures what is not durable" },
    Mutation { name: "publish-checkpoint-first", what: "a checkpoint is published before it is flushed" },
    Mutation { name: "damage-is-a-torn-tail", what: "recovery cuts at damage as if it were a torn tail" },
    Mutation { name: "recover-without-crc", what: "recovery believes frames that do not verify" },
    Mutation { name: "recover-without-flush", what: "recovery does not flush what it found" },
    Mutation { name: "recover-without-locks", what: "recovery does not wait for a dead broker's writes" },
    Mutation { name: "forget-the-producers", what: "a restart forgets what producers wrote" },
    Mutation { name: "read-above-high-watermark", what: "consumers read what is not durable" },
    Mutation { name: "remove-before-manifest", what: "files go before the manifest says so" },
    Mutation { name: "serve-without-crc", what: "reads are served without their checksums" },
    Mutation { name: "twinlog.append_without_flush", what: "metadata and manifest are not flushed" },
    Mutation { name: "twinlog.header_before_snapshot", what: "a snapshot counts before it is written" },
    Mutation { name: "metadata.answer_before_durable", what: "admin requests are answered too early" },
];

/// Where schedules look for a deliberate bug: everywhere, unless it shows too rarely there.
pub(super) fn focus(mutation: &str) -> Focus {
    let (theme, power_cut_at) = match mutation {
        // A frame's write must outlast the whole checkpoint.
        "checkpoint-before-durable" => (Theme::SlowDisk, Some("checkpoint.published")),
        "metadata.answer_before_durable" => (Theme::SlowDisk, None),
        "twinlog.header_before_snapshot" => (Theme::SlowDisk, Some("twinlog.snapshot_group_written")),
        "damage-is-a-torn-tail" | "serve-without-crc" => (Theme::Damage, None),
        _ => return Focus::default(),
    };
    Focus { theme: Some(theme), power_cut_at }
}
