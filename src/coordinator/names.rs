//! What a topic may be called: Kafka's rules.
//!
//! Floor 2. Pure.

use crate::model::{ErrorCode, Failure};

const NAME_BYTES_MAX: usize = 249;
/// Kafka's internal topics; ours will bear the same names.
const RESERVED: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// Kafka's rules: 1 to 249 letters, digits, `.`, `_` and `-`; not `.` or `..`.
pub fn check_topic_name(name: &str) -> Result<(), Failure> {
    let refuse = |text: String| Err(Failure::new(ErrorCode::InvalidTopic, text));
    if name.is_empty() {
        return refuse("a topic needs a name: 1 to 249 letters, digits, '.', '_' and '-'".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return refuse(format!("a topic name has at most {NAME_BYTES_MAX} characters, not {}", name.len()));
    }
    if name == "." || name == ".." {
        return refuse(format!("a topic cannot be called '{name}'"));
    }
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
        return refuse(format!("{bad:?} cannot be in a topic name: use letters, digits, '.', '_' and '-'"));
    }
    if RESERVED.contains(&name) {
        return refuse(format!("{name} is reserved for the broker"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rules() {
        for good in ["a", "...", "my-topic_1.v2", "__mine", &"x".repeat(249)] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "über", "a\n", "__consumer_offsets", &"x".repeat(250)] {
            assert_eq!(check_topic_name(bad).unwrap_err().code, ErrorCode::InvalidTopic, "{bad}");
        }
    }
}
