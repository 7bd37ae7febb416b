//! Decoding steps that read the weights once for several tokens: of several conversations, or guesses of one.

use super::chunked::Chunked;
use super::inputs::{self, Fed};
use super::{Dimensions, Session};
use crate::error::{Error, Result};
use crate::model::{CoreMLModel, FeatureValue};
use crate::state::CoreMLState;

/// A token and the index of its conversation. Tokens of one conversation follow each other.
pub(crate) type Token = (usize, u32);

/// What one component gives for each token.
type Outputs = Vec<indexmap::IndexMap<String, FeatureValue>>;

impl Chunked {
    /// Whether tokens can run together: no state sums up all tokens, and there are no positions at which caches move.
    fn can_join(&self, sessions: &[&mut Session], tokens: &[Token]) -> bool {
        let Dimensions { context, vocab, .. } = self.dimensions();
        let fits = |(i, session): (usize, &&mut Session)| {
            let end = session.tokens.len() + tokens.iter().filter(|t| t.0 == i).count();
            // Behind that, `forward_with_shift` makes room.
            end + 2 < context && self.window().is_none_or(|window| end <= window)
        };
        let known = |&(i, id): &Token| i < sessions.len() && (id as usize) < vocab;
        !self.is_recurrent()
            && !self.declares("update_mask")
            && sessions.iter().enumerate().all(fits)
            && tokens.iter().all(known)
    }

    /// Whether a chunk has this input.
    fn declares(&self, input: &str) -> bool {
        self.chunks.iter().any(|c| c.infer.input_names().iter().any(|name| name == input))
    }

    /// Appends each token to its conversation and returns the logits after each, to the bit those of one after the other.
    /// `None` where they can't run together: nothing has then changed.
    ///
    /// # Errors
    /// If the engine fails. Conversations then have the tokens that they had.
    pub(super) fn forward_together(
        &self,
        sessions: &mut [&mut Session],
        tokens: &[Token],
    ) -> Option<Result<Vec<Vec<f32>>>> {
        if !self.can_join(sessions, tokens) {
            return None;
        }
        let mut next: Vec<usize> = sessions.iter().map(|s| s.tokens.len()).collect();
        let mut positions = Vec::with_capacity(tokens.len());
        for &(i, _) in tokens {
            positions.push(next[i]);
            next[i] += 1;
        }
        let logits = self.run_together(sessions, tokens, &positions).transpose()?;
        if logits.is_ok() {
            for &(i, id) in tokens {
                sessions[i].tokens.push(id);
            }
        }
        Some(logits)
    }

    fn run_together(
        &self,
        sessions: &mut [&mut Session],
        tokens: &[Token],
        positions: &[usize],
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let mut hidden: Option<Vec<FeatureValue>> = None;
        if let Some(embeddings) = &self.embeddings {
            let one = |&(_, id): &Token| Ok(FeatureValue::Tensor(self.embed(embeddings, &[id])?.into_tensor()?));
            hidden = Some(tokens.iter().map(one).collect::<Result<Vec<_>>>()?);
        }
        for (i, chunk) in self.chunks.iter().enumerate() {
            let model = &chunk.infer;
            let fed = self.fed(model, tokens, positions, hidden.take())?;
            let rows: Vec<(Vec<(&str, FeatureValue)>, usize)> =
                fed.iter().map(|(row, state)| (borrowed(row), *state)).collect();
            let mut states: Vec<&mut CoreMLState> = sessions.iter_mut().map(|s| s.state_of(i)).collect();
            let Some(outputs) = model.predict_together(&rows, &mut states).transpose()? else { return Ok(None) };
            if self.embeddings.is_none() {
                return outputs.iter().map(|row| self.head.logits(model, row)).collect::<Result<_>>().map(Some);
            }
            hidden = Some(single(model, outputs)?);
        }
        let (Some(head), Some(hidden)) = (&self.head_model, hidden) else { return Ok(None) };
        let name = head.input_names().first().cloned().unwrap_or_default();
        let rows: Vec<(Vec<(&str, FeatureValue)>, usize)> =
            hidden.into_iter().map(|h| (vec![(name.as_str(), h)], 0)).collect();
        let Some(outputs) = head.predict_together(&rows, &mut []).transpose()? else { return Ok(None) };
        outputs.iter().map(|row| self.head.logits(head, row)).collect::<Result<_>>().map(Some)
    }

    /// The inputs of a chunk for each token, and the index of its state.
    fn fed(
        &self,
        model: &CoreMLModel,
        tokens: &[Token],
        positions: &[usize],
        hidden: Option<Vec<FeatureValue>>,
    ) -> Result<Vec<(Vec<(String, FeatureValue)>, usize)>> {
        let mut hidden = hidden.map(Vec::into_iter);
        let mut all = Vec::with_capacity(tokens.len());
        for (&(i, id), &position) in tokens.iter().zip(positions) {
            let ids = [id];
            let fed = if hidden.is_some() { Fed::Hidden } else { Fed::Ids(&ids) };
            let fed = inputs::for_chunk(model, fed, position, 1, self.mask)?;
            let mut row: Vec<(String, FeatureValue)> =
                fed.into_iter().map(|(name, t)| (name, FeatureValue::Tensor(t))).collect();
            if let Some(h) = hidden.as_mut().and_then(Iterator::next) {
                row.push((inputs::tokens_input(false).to_owned(), h));
            }
            all.push((row, i));
        }
        Ok(all)
    }
}

fn borrowed(row: &[(String, FeatureValue)]) -> Vec<(&str, FeatureValue)> {
    row.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
}

/// The first output of each row.
fn single(model: &CoreMLModel, outputs: Outputs) -> Result<Vec<FeatureValue>> {
    let name = model.output_names().first().cloned().unwrap_or_default();
    let missing = || Error::Output {
        name: name.clone(),
        expected: "an output of the model".to_owned(),
        found: "none".to_owned(),
    };
    outputs.into_iter().map(|mut row| row.swap_remove(&name).ok_or_else(missing)).collect()
}
