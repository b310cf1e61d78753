//! The known word nearest to a mistyped one, for error texts.
//!
//! Floor 0. Pure; bounded by the lengths of both words.

/// The candidate with the smallest edit distance to `word`, if it is near enough to be meant:
/// at most a third of the word's length (and at least two edits are always tolerated).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (word.len() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes; words longer than 64 bytes are never near anything.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let keys = ["retention.ms", "retention.bytes", "max.message.bytes"];
        assert_eq!(nearest("retension.ms", keys), Some("retention.ms"));
        assert_eq!(nearest("retention.byte", keys), Some("retention.bytes"));
        assert_eq!(nearest("max-message-bytes", keys), Some("max.message.bytes"));
        assert_eq!(nearest("color", keys), None);
        assert_eq!(nearest(&"x".repeat(1000), keys), None);
    }
}
