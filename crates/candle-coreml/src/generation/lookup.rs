//! Prompt look-up: guesses of the next tokens from what the conversation has already said.
//!
//! After Saxena, Prompt Lookup Decoding (2023): if the last tokens occur earlier, those that followed them there are likely to
//! follow again. Guesses are verified by the model, so the text stays what it is without them.

/// Most guesses in one step.
pub(super) const MOST: usize = 15;

/// Longest run of last tokens that is looked for, and shortest.
const LONGEST: usize = 3;
const SHORTEST: usize = 2;

/// At most `count` guesses of what follows `tokens`: what followed the latest earlier place of the longest run of last tokens
/// that occurs there.
pub(super) fn guesses(tokens: &[u32], count: usize) -> &[u32] {
    for length in (SHORTEST..=LONGEST).rev() {
        let Some(start) = tokens.len().checked_sub(length).filter(|&n| n > 0) else { continue };
        let last = &tokens[start..];
        // A place that ends before the last token: something follows it.
        let places = tokens[..tokens.len() - 1].windows(length);
        if let Some(place) = places.rev().position(|run| run == last) {
            let end = tokens.len() - 1 - place;
            return &tokens[end..(end + count).min(tokens.len())];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::guesses;

    #[test]
    fn what_followed_the_latest_longest_run_is_guessed() {
        assert_eq!(guesses(&[1, 2, 3, 9, 4, 1, 2, 3], 4), [9, 4, 1, 2]);
        assert_eq!(guesses(&[1, 2, 3, 9, 4, 1, 2, 3], 1), [9]);
        // The run of three occurs nowhere, that of two twice: the later place counts.
        assert_eq!(guesses(&[2, 3, 5, 2, 3, 6, 7, 2, 3], 2), [6, 7]);
        // A run that overlaps itself.
        assert_eq!(guesses(&[7, 7, 7, 7], 3), [7]);
        assert!(guesses(&[1, 2, 3, 4], 3).is_empty());
        assert!(guesses(&[5], 3).is_empty() && guesses(&[], 3).is_empty());
        assert!(guesses(&[1, 2, 1, 2], 0).is_empty());
    }
}
