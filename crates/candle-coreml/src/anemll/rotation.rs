//! [`Rotation`]: caches that hold only the last tokens of a conversation, and how they go back.
//!
//! Beyond its window a cache moves by one row with each token, so that the rows of earlier tokens are gone. Copies taken
//! whenever the tokens are a multiple of the window bring them back: a copy after `s` tokens has the rows of tokens
//! `s − window .. s`, the cache after `t ≤ s + window` tokens those of `t − window .. t`; together they have every row
//! that any length between `s` and `t` needs. One copy in `window` tokens costs as much as one more row a token.

use candle_core::Tensor;

use crate::error::Result;

/// The dimension of tokens in a cache `[layers, heads, tokens, width]`.
const TOKENS: usize = 2;
/// Copies that are kept beside the one from before the first token beyond the window.
const LATEST: usize = 2;

/// Caches that hold only the last tokens, once the conversation is longer than their window.
#[derive(Debug)]
pub(super) struct Rotation {
    /// Tokens that the caches hold.
    window: usize,
    /// Names of the caches.
    names: Vec<String>,
    /// Copies of the caches after so many tokens, oldest first.
    copies: Vec<(usize, Vec<Tensor>)>,
}

impl Rotation {
    pub(super) fn new(window: usize, names: Vec<String>) -> Self {
        Self { window, names, copies: Vec::new() }
    }

    /// Names of the caches.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the caches of so many tokens have moved.
    pub(super) fn has_moved(&self, tokens: usize) -> bool {
        tokens > self.window
    }

    /// Whether to [`keep`](Self::keep) the caches after so many tokens, before the next one moves them.
    pub(super) fn is_due(&self, tokens: usize) -> bool {
        tokens > 0 && tokens.is_multiple_of(self.window) && self.copies.last().is_none_or(|(at, _)| *at < tokens)
    }

    /// Keeps copies of the caches, in the order of their names, after so many tokens.
    pub(super) fn keep(&mut self, tokens: usize, copies: Vec<Tensor>) {
        self.copies.push((tokens, copies));
        if self.copies.len() > LATEST + 1 {
            // The first one stays: within the window, caches are whole.
            self.copies.remove(1);
        }
    }

    /// Forgets the copies of more than `tokens` tokens.
    pub(super) fn forget(&mut self, tokens: usize) {
        self.copies.retain(|(at, _)| *at <= tokens);
    }

    /// The longest beginning of at most `length` tokens to which caches of `tokens` tokens, read by `current`, can go
    /// back, and their content then.
    ///
    /// # Errors
    /// Those of `current`.
    pub(super) fn back(
        &self,
        tokens: usize,
        length: usize,
        current: impl FnOnce() -> Result<Vec<Tensor>>,
    ) -> Result<(usize, Vec<Tensor>)> {
        let Some(before) = self.copies.iter().rposition(|(at, _)| *at <= length) else {
            // Within the window the first copy has every row that there was.
            return Ok(match self.copies.first() {
                Some((_, copies)) => (length, copies.clone()),
                None => (0, Vec::new()),
            });
        };
        let (start, earlier) = &self.copies[before];
        let next = self.copies.get(before + 1);
        let end = next.map_or(tokens, |(at, _)| *at);
        if *start == length || end - start > self.window {
            return Ok((*start, earlier.clone()));
        }
        let later = match next {
            Some((_, copies)) => copies.clone(),
            None => current()?,
        };
        // Rows of tokens `length - window .. start` and `start .. length`.
        let new = length - start;
        let join = |(earlier, later): (&Tensor, &Tensor)| -> Result<Tensor> {
            let old = earlier.narrow(TOKENS, new, self.window - new)?;
            let recent = later.narrow(TOKENS, self.window - (end - start), new)?;
            Ok(Tensor::cat(&[old, recent], TOKENS)?)
        };
        let rows: Result<Vec<Tensor>> = earlier.iter().zip(&later).map(join).collect();
        Ok((length, rows?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A cache of so many tokens: the row of token `t` holds `t`; empty rows −1.
    fn cache(tokens: usize, window: usize) -> Tensor {
        let first = tokens.saturating_sub(window);
        let rows: Vec<f32> = (first..first + window).map(|t| if t < tokens { t as f32 } else { -1.0 }).collect();
        Tensor::from_vec(rows, (1, 1, window, 1), &Device::Cpu).expect("a cache")
    }

    fn rows(cache: &Tensor) -> Vec<f32> {
        cache.flatten_all().and_then(|t| t.to_vec1()).expect("rows")
    }

    #[test]
    fn caches_go_back_to_every_length_that_copies_cover() {
        for (window, total) in [(1, 4), (3, 3), (3, 4), (4, 11), (4, 12), (4, 13), (5, 29)] {
            let mut rotation = Rotation::new(window, vec!["a".to_owned()]);
            for tokens in 0..total {
                if tokens >= window && rotation.is_due(tokens) {
                    rotation.keep(tokens, vec![cache(tokens, window)]);
                }
            }
            for length in 0..total {
                let (kept, caches) =
                    rotation.back(total, length, || Ok(vec![cache(total, window)])).expect("it goes back");
                if total > window {
                    let held = rows(&caches[0]);
                    let wanted = rows(&cache(kept, window));
                    let same = wanted.iter().zip(&held).all(|(w, h)| *w < 0.0 || w == h);
                    assert!(same, "window {window}, {total} to {length}: {held:?} of {kept} tokens");
                    // Two windows are always there, and so is everything within the first one.
                    if length <= window || length + window >= total {
                        assert_eq!(kept, length, "window {window}, from {total}");
                    }
                    assert!(kept <= length && kept >= length.min(window));
                } else {
                    assert!(rotation.copies.is_empty());
                }
            }
        }
    }

    #[test]
    fn copies_of_what_is_forgotten_are_not_used() {
        let mut rotation = Rotation::new(2, vec!["a".to_owned()]);
        for tokens in [2, 4, 6, 8] {
            assert!(rotation.is_due(tokens) && !rotation.is_due(tokens + 1));
            rotation.keep(tokens, vec![cache(tokens, 2)]);
            assert!(!rotation.is_due(tokens));
        }
        let kept: Vec<usize> = rotation.copies.iter().map(|(at, _)| *at).collect();
        assert_eq!(kept, [2, 6, 8]);
        rotation.forget(7);
        assert_eq!(rotation.copies.last().map(|(at, _)| *at), Some(6));
        assert!(rotation.is_due(8));
    }
}
