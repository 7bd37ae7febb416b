//! [`Chunked`]: ANEMLL's layouts. Components of a language model or all of it in one chunk, loaded and checked against each
//! other, and their forward pass.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use coreml_format::model::Model;
use indexmap::IndexMap;

use super::head::Head;
use super::inputs::{self, Fed};
use super::rotation::Rotation;
use super::{Components, Dimensions, Session, checks, discovery, states};
use crate::config::Config;
use crate::engine::{EngineOptions, Handed};
use crate::error::{Error, Result};
use crate::model::{CoreMLModel, FeatureValue};
use crate::state::CoreMLState;

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) infer: CoreMLModel,
    pub(super) prefill: CoreMLModel,
    /// Decodes beyond the window of local layers.
    pub(super) rotate: Option<CoreMLModel>,
}

impl Chunk {
    pub(super) fn functions(&self) -> impl Iterator<Item = &CoreMLModel> {
        [&self.infer, &self.prefill].into_iter().chain(&self.rotate)
    }
}

/// A loaded model.
#[derive(Debug)]
pub(super) struct Chunked {
    /// None in monolithic models, whose only chunk takes token ids and gives logits.
    pub(super) embeddings: Option<CoreMLModel>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) head_model: Option<CoreMLModel>,
    pub(super) head: Head,
    dimensions: Dimensions,
    /// Columns of the mask.
    pub(super) mask: usize,
    /// The window of local layers where the context is longer, and their caches.
    window: Option<(usize, Vec<String>)>,
    /// Whether batches may start anywhere, instead of at the first position alone.
    batches: bool,
    /// Whether prefill takes the tokens that there are, instead of whole batches alone.
    open: bool,
    /// Whether the chunks share their states, as they do unless they declare unlike ones or write the same rows.
    shared: bool,
    /// Whether a state sums up all tokens: none may be padding, and none may run twice.
    recurrent: bool,
}

/// Prompt remainders below this fraction of a batch run token by token: a mostly padded batch costs as much as a full
/// one, and a decode step costs between 1/15 (4-bit tables) and 1/7 (fp16) of it.
const PREFILL_MIN_FRACTION: usize = 8;

/// With dynamic batches, up to this many tokens run one by one: weights are read equally often, but need not be
/// expanded to i16 values.
const MAX_STEPWISE: usize = 3;
/// Longest dynamic batch; longer ones are no faster and delay progress reports.
const MAX_PREFILL: usize = 128;
/// Kernels pad the number of rows to a multiple of this.
const ROW_MULTIPLE: usize = 16;

/// Length of the next batch of the `rest` tokens; splits them into batches of about equal length.
fn next_batch(rest: usize) -> usize {
    let batches = rest.div_ceil(MAX_PREFILL).max(1);
    rest.div_ceil(batches).next_multiple_of(ROW_MULTIPLE).min(rest)
}

fn load(package: &Arc<Model>, function: Option<&str>, options: &EngineOptions) -> Result<CoreMLModel> {
    CoreMLModel::from_package_with(package.clone(), function, Config::default(), options)
}

/// Loads a prefill function, with a dynamic batch if the engine supports it.
fn load_prefill(package: &Arc<Model>, function: Option<&str>, options: &EngineOptions) -> Result<CoreMLModel> {
    let name = function.unwrap_or(&package.description.default_function);
    let program = crate::engine::program(package);
    let inputs = program.as_ref().and_then(|p| p.functions.get(name)).map_or(&[][..], |f| &f.inputs);
    let names: Vec<String> = inputs.iter().map(|i| i.name.clone()).collect();
    if names.iter().any(|n| n == "update_mask") {
        // It has a column for each token of the batch.
        return load(package, function, options);
    }
    let rows = inputs::token_dimensions(&names);
    CoreMLModel::with_rows(package.clone(), function, options, &rows, MAX_PREFILL)
}

impl Chunked {
    pub(super) fn models_mut(&mut self) -> impl Iterator<Item = &mut CoreMLModel> {
        let chunks =
            self.chunks.iter_mut().flat_map(|c| [&mut c.infer, &mut c.prefill].into_iter().chain(&mut c.rotate));
        chunks.chain(&mut self.embeddings).chain(&mut self.head_model)
    }

    pub(super) fn load(components: &Components, options: &EngineOptions) -> Result<Self> {
        Self::load_parts(components, options).map_err(|error| match (error, &components.meta.architecture) {
            (Error::Components { path, message }, Some(name)) => {
                Error::Components { path, message: format!("{message} (architecture {name})") }
            }
            (error, _) => error,
        })
    }

    fn load_parts(components: &Components, options: &EngineOptions) -> Result<Self> {
        let monolithic = components.embeddings.is_none();
        let whole = |package: &Option<Arc<Model>>| package.as_ref().map(|p| load(p, None, options)).transpose();
        let (embeddings, head_model) = (whole(&components.embeddings)?, whole(&components.lm_head)?);
        let mut chunks = Vec::with_capacity(components.chunks.len());
        for chunk in &components.chunks {
            let rotate = chunk.rotate.as_ref().map(|(package, name)| load(package, name.as_deref(), options));
            chunks.push(Chunk {
                infer: load(&chunk.infer.0, chunk.infer.1.as_deref(), options)?,
                prefill: load_prefill(&chunk.prefill.0, chunk.prefill.1.as_deref(), options)?,
                rotate: rotate.transpose()?,
            });
        }
        let Some(first) = chunks.first() else {
            return Err(Error::Components {
                path: "the model".into(),
                message: "the model has no FFN chunk".to_owned(),
            });
        };
        let meta = &components.meta;
        let head = Head::of(head_model.as_ref().unwrap_or(&first.infer), meta)?;
        if let Some(rotate) = first.rotate.as_ref().filter(|_| monolithic) {
            // Both functions must say the same about the next token.
            let other = Head::of(rotate, meta)?;
            if other != head {
                let message = format!("functions `infer` and `{}` have different outputs", rotate.function());
                return Err(Error::Components { path: rotate.path().to_owned(), message });
            }
        }
        let dimensions = checks::dimensions(&chunks, head_model.as_ref().unwrap_or(&first.infer), &head, monolithic)?;
        checks::functions(&chunks, head_model.as_ref(), dimensions)?;
        let mask = checks::last_extent(&first.infer, "causal_mask")?;
        let window = checks::window(&chunks, dimensions.context)?;
        let batches = dimensions.batch == 1 || chunks.iter().all(|c| checks::writes_at_position(&c.prefill, meta));
        if !batches {
            tracing::info!("prefill writes the first rows of the cache alone: prompts run token by token");
        }
        let open = chunks.iter().all(|c| c.prefill.rows_are_open());
        let (shared, recurrent) = (states::are_shared(&chunks), states::any_recurrent(&chunks)?);
        let loaded =
            Self { embeddings, chunks, head_model, head, dimensions, mask, window, batches, open, shared, recurrent };
        if let Some(embeddings) = &loaded.embeddings {
            let width = loaded.embed(embeddings, &[0])?.shape().last().copied().unwrap_or(0);
            if width != dimensions.hidden {
                return Err(Error::Components {
                    path: embeddings.path().to_owned(),
                    message: format!(
                        "the width of the embeddings is {width} in function `{}`, but {} in {}",
                        embeddings.function(),
                        dimensions.hidden,
                        loaded.chunks[0].infer.path().display()
                    ),
                });
            }
        }
        Ok(loaded)
    }

    pub(super) fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    pub(super) fn greedy_only(&self) -> bool {
        matches!(self.head, Head::Argmax(_))
    }

    pub(super) fn window(&self) -> Option<usize> {
        self.window.as_ref().map(|(window, _)| *window)
    }

    /// Whether prompts run in batches.
    pub(super) fn batches(&self) -> bool {
        self.batches && self.dimensions.batch > 1
    }

    /// The components, in the order in which a token passes them.
    pub(super) fn components(&self) -> impl Iterator<Item = &CoreMLModel> {
        self.embeddings.iter().chain(self.chunks.iter().map(|c| &c.infer)).chain(&self.head_model)
    }

    /// Functions of the chunks that are no components.
    pub(super) fn others(&self) -> impl Iterator<Item = &CoreMLModel> {
        self.chunks.iter().flat_map(|c| std::iter::once(&c.prefill).chain(&c.rotate))
    }

    /// Whether a state sums up all tokens.
    pub(super) fn is_recurrent(&self) -> bool {
        self.recurrent
    }

    /// The context of a function that there is for several contexts.
    pub(super) fn longest(&self) -> Option<usize> {
        let functions = &self.chunks[0].infer.description().functions;
        discovery::has_contexts(functions.keys().map(String::as_str)).then_some(self.dimensions.context)
    }

    pub(super) fn session(&self) -> Result<Session> {
        let rotation = self.window.clone().map(|(window, states)| Rotation::new(window, states));
        let of = |chunks: &[Chunk]| {
            let models: Vec<&CoreMLModel> = chunks.iter().flat_map(Chunk::functions).collect();
            CoreMLState::shared_by(&models)
        };
        let (state, others) = match self.chunks.split_first().filter(|_| !self.shared) {
            Some((first, rest)) => {
                let others: Result<Vec<_>> = rest.iter().map(|chunk| of(std::slice::from_ref(chunk))).collect();
                (of(std::slice::from_ref(first))?, others?)
            }
            None => (of(&self.chunks)?, Vec::new()),
        };
        Ok(Session { rotation, others, recurrent: self.recurrent, ..Session::of(state, Vec::new()) })
    }

    /// Hidden states `[1, ids, hidden]` of tokens.
    pub(super) fn embed(&self, embeddings: &CoreMLModel, ids: &[u32]) -> Result<Handed> {
        let name = embeddings.input_names().first().cloned().unwrap_or_default();
        let output = embeddings.output_names().first().cloned().unwrap_or_default();
        let run = |ids: &[u32]| -> Result<Handed> {
            let ids: Vec<i64> = ids.iter().map(|&i| i64::from(i)).collect();
            let n = ids.len();
            let ids = FeatureValue::Tensor(Tensor::from_vec(ids, (1, n), &Device::Cpu)?);
            embeddings.predict_handing(&[(&name, ids)], None, None, &output)
        };
        match inputs::fixed_length(embeddings, ids.len()) {
            None => run(ids),
            Some(length) => {
                // Fixed-length model: pad, then drop the rows of the padding.
                let mut rows = Vec::new();
                for part in ids.chunks(length.max(1)) {
                    let mut padded = part.to_vec();
                    padded.resize(length, 0);
                    rows.push(run(&padded)?.into_tensor()?.narrow(1, 0, part.len())?);
                }
                Ok(Handed::Tensor(Tensor::cat(&rows, 1)?))
            }
        }
    }

    /// Runs tokens at positions `start..` through all chunks.
    fn run_chunks(&self, session: &mut Session, ids: &[u32], start: usize, prefill: bool) -> Result<Last> {
        session.begin()?;
        let beyond = self.window.as_ref().is_some_and(|(window, _)| start >= *window);
        if beyond {
            session.keep()?;
        }
        let mut hidden = self.embeddings.as_ref().map(|embeddings| self.embed(embeddings, ids)).transpose()?;
        for (i, chunk) in self.chunks.iter().enumerate() {
            let model = match (&chunk.rotate, beyond, prefill) {
                (Some(rotate), true, _) => rotate,
                (_, _, true) => &chunk.prefill,
                _ => &chunk.infer,
            };
            let fed = if hidden.is_some() { Fed::Hidden } else { Fed::Ids(ids) };
            let fed = inputs::for_chunk(model, fed, start, ids.len(), self.mask)?;
            let fed: Vec<(&str, FeatureValue)> =
                fed.iter().map(|(n, t)| (n.as_str(), FeatureValue::Tensor(t.clone()))).collect();
            let state = Some(session.state_of(i));
            let given = match hidden.take() {
                None => model.predict_values(&fed, state).map(Last::Outputs),
                Some(before) => {
                    let output = model.output_names().first().cloned().unwrap_or_default();
                    let handed = Some((inputs::tokens_input(false), before));
                    model.predict_handing(&fed, handed, state, &output).map(Last::Hidden)
                }
            };
            match given.inspect_err(|_| {
                if beyond || self.recurrent {
                    // Some states have moved on, others have not.
                    session.spoil();
                }
            })? {
                Last::Hidden(next) => hidden = Some(next),
                outputs => return Ok(outputs),
            }
        }
        hidden.map(Last::Hidden).ok_or_else(|| Error::Components {
            path: "the model".into(),
            message: "the model has no FFN chunk".to_owned(),
        })
    }

    /// Runs one step beyond the window of local layers, if there is one, on a state of its own.
    ///
    /// # Errors
    /// If a function fails.
    pub(super) fn trial_beyond_window(&self) -> Result<()> {
        match self.window() {
            Some(window) if window < self.dimensions.context => {
                self.run_chunks(&mut self.session()?, &[0], window, false).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// As [`Pipeline::forward_chunked`](super::Pipeline::forward_chunked).
    ///
    /// All but the last token go through prefill in batches, without the LM head; the last one, and remainders too short for a
    /// batch, through `infer`.
    pub(super) fn forward_chunked(
        &self,
        session: &mut Session,
        ids: &[u32],
        more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<f32>>> {
        let Dimensions { context, vocab, batch, .. } = self.dimensions;
        let (Some(&last), total) = (ids.last(), session.tokens.len() + ids.len()) else {
            return Err(Error::EmptyPrompt);
        };
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::unknown_token(id, vocab));
        }
        if total > context {
            return Err(Error::PromptTooLong { tokens: total, context });
        }
        let mut all = session.tokens.clone();
        all.extend(ids);
        let known = session.tokens.len();
        // Positions that batches may write.
        let filled = self.window.as_ref().map_or(context, |(window, _)| *window);
        let mut at = known;
        while at < total - 1 {
            let rest = (total - 1).min(filled).saturating_sub(at);
            let start = if at + batch > filled { filled.saturating_sub(batch) } else { at };
            let few = match (self.open, self.recurrent) {
                (true, _) => MAX_STEPWISE,
                (false, true) => batch - 1,
                (false, false) => batch / PREFILL_MIN_FRACTION,
            };
            let end = if rest <= few || !self.batches || (start + batch > filled && !self.open) {
                self.run_chunks(session, &all[at..=at], at, false)?;
                at + 1
            } else if self.open {
                let end = at + next_batch(rest);
                self.run_chunks(session, &all[at..end], at, true)?;
                end
            } else {
                // The last batch may not hang over the window: it starts earlier and repeats what it knows.
                let end = (start + batch).min(at + rest);
                let mut part = all[start..end].to_vec();
                part.resize(batch, 0);
                self.run_chunks(session, &part, start, true)?;
                end
            };
            session.tokens.extend(&all[at..end]);
            at = end;
            if !more(at - known) {
                return Ok(None);
            }
        }
        let given = self.run_chunks(session, &[last], total - 1, false)?;
        session.tokens.push(last);
        let chunk = &self.chunks[0].infer;
        let logits = match (given, &self.head_model) {
            (Last::Outputs(outputs), _) => self.head.logits(chunk, &outputs)?,
            (Last::Hidden(hidden), Some(head)) => {
                let name = head.input_names().first().cloned().unwrap_or_default();
                self.head.logits(head, &head.predict_handed(&[], (&name, hidden), None)?)?
            }
            (Last::Hidden(_), None) => {
                let message = "the model has hidden states and no head".to_owned();
                return Err(Error::Components { path: chunk.path().to_owned(), message });
            }
        };
        more(total - known);
        Ok(Some(logits))
    }

    /// As [`Pipeline::forward_with_shift`](super::Pipeline::forward_with_shift).
    ///
    /// When two positions are left, the most recent tokens are rerun from position 0 and the rest is dropped: as many
    /// full batches as leave two batches free (the rule of ANEMLL's chat program).
    pub(super) fn forward_with_shift(&self, session: &mut Session, id: u32) -> Result<Option<Vec<f32>>> {
        let Dimensions { context, batch, .. } = self.dimensions;
        let total = session.tokens.len() + 1;
        if total + 2 < context {
            return self.forward_chunked(session, &[id], &mut |_| true);
        }
        let whole = (context / batch).saturating_sub(2).max(1) * batch;
        let keep = whole.min(context.saturating_sub(batch)).clamp(1, total);
        let mut tail = session.tokens[total - keep..].to_vec();
        tail.push(id);
        session.truncate(0);
        tracing::debug!(keep, "slid the window");
        self.forward_chunked(session, &tail, &mut |_| true)
    }
}

/// What the last chunk gives.
#[derive(Debug)]
enum Last {
    /// Hidden states, for the head.
    Hidden(Handed),
    /// Everything, of a chunk that is the whole model.
    Outputs(IndexMap<String, FeatureValue>),
}

#[cfg(test)]
mod tests {
    use super::{MAX_PREFILL, next_batch};

    #[test]
    fn batches_are_about_as_long_as_each_other() {
        let all = |mut rest: usize| {
            let mut batches = Vec::new();
            while rest > 0 {
                batches.push(next_batch(rest));
                rest -= batches[batches.len() - 1];
            }
            batches
        };
        assert_eq!(all(17), [17]);
        assert_eq!(all(128), [128]);
        assert_eq!(all(129), [80, 49]);
        assert_eq!(all(448), [112; 4]);
        assert!(
            (1..1000)
                .all(|n| all(n).iter().all(|&b| (1..=MAX_PREFILL).contains(&b)) && all(n).iter().sum::<usize>() == n)
        );
    }
}
