//! The topics of a schedule, and what may happen to each.
//!
//! Floor 6. Plain values.

/// What a topic is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything stays.
    Keep,
    /// An administrator deletes records from the front.
    Trim,
    /// `retention.bytes` removes from the front.
    Size,
    /// Deleted and created again under its name.
    Churn,
}

#[derive(Clone, Debug)]
pub(super) struct TopicPlan {
    pub name: String,
    pub role: Role,
    pub partitions: u32,
}

/// Of topics that are bounded by size.
pub(super) const RETENTION_BYTES: u64 = 48 << 10;

impl TopicPlan {
    pub(super) fn configs(&self) -> Vec<(String, String)> {
        let mut configs = vec![("message.timestamp.after.max.ms".to_owned(), i64::MAX.to_string())];
        if self.role == Role::Size {
            configs.push(("retention.bytes".to_owned(), RETENTION_BYTES.to_string()));
        }
        configs
    }
}
