//! [`Pipeline`]: the components of a language model, loaded and checked against each other, and their forward pass.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use coreml_format::model::Model;

use super::{Components, Session, discovery, inputs};
use crate::config::Config;
use crate::engine::{EngineChoice, EngineOptions, native_is_available};
use crate::error::{Error, Result};
use crate::model::{CoreMLModel, FeatureValue, PassSet};
use crate::state::CoreMLState;

/// Dimensions of a pipeline, read from its packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Dimensions {
    /// Tokens in the KV cache and the mask.
    pub context: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Tokens per prefill call.
    pub batch: usize,
}

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) infer: CoreMLModel,
    pub(super) prefill: CoreMLModel,
}

/// A loaded multi-component language model.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) embeddings: CoreMLModel,
    pub(super) chunks: Vec<Chunk>,
    pub(super) head: CoreMLModel,
    /// Outputs of the head, in numeric order.
    parts: Vec<String>,
    dimensions: Dimensions,
    /// True if prefill accepts any number of tokens instead of full batches only.
    open: bool,
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
    let rows = inputs::token_dimensions(&names);
    CoreMLModel::with_rows(package.clone(), function, options, &rows, MAX_PREFILL)
}

/// Number at the end of a name, such as 12 in `logits12`.
fn trailing_number(name: &str) -> usize {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().unwrap_or(0)
}

impl Pipeline {
    /// Loads the model in a folder.
    ///
    /// # Errors
    /// If a component is missing, components disagree on a dimension, or a package can't be loaded.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::load_with(folder, &EngineOptions::default())
    }

    /// Loads the model in a folder on a given engine.
    ///
    /// # Errors
    /// Same as [`Pipeline::load`], or if the native engine is requested but unavailable.
    pub fn load_with(folder: &Path, options: &EngineOptions) -> Result<Self> {
        Self::from_components_with(&discovery::discover(folder)?, options)
    }

    /// Loads given components on the portable engine, with the given passes.
    ///
    /// # Errors
    /// Same as [`Pipeline::load`].
    pub fn from_components(components: &Components, passes: &PassSet) -> Result<Self> {
        let options = EngineOptions { passes: passes.clone(), ..EngineOptions::default() };
        Self::on_one_engine(components, &options.with_choice(EngineChoice::Portable))
    }

    /// Loads given components on a given engine. All components run on the same engine, since they share a state:
    /// `Auto` chooses the native engine only if Core ML loads every component.
    ///
    /// # Errors
    /// Same as [`Pipeline::load_with`].
    pub fn from_components_with(components: &Components, options: &EngineOptions) -> Result<Self> {
        if options.choice != EngineChoice::Auto || !native_is_available() {
            return Self::on_one_engine(components, options);
        }
        let (loaded, reason) = match Self::on_one_engine(components, &options.with_choice(EngineChoice::Native)) {
            Ok(pipeline) => (pipeline, "Core ML loads all components".to_owned()),
            Err(error) => {
                tracing::warn!(%error, "Core ML does not load every component");
                let portable = Self::on_one_engine(components, &options.with_choice(EngineChoice::Portable))?;
                (portable, format!("Core ML does not load every component: {error}"))
            }
        };
        Ok(loaded.because(&reason))
    }

    /// Records why this engine runs the components.
    fn because(mut self, reason: &str) -> Self {
        let chunks = self.chunks.iter_mut().flat_map(|c| [&mut c.infer, &mut c.prefill]);
        for model in chunks.chain([&mut self.embeddings, &mut self.head]) {
            model.set_engine_reason(reason.to_owned());
        }
        self
    }

    /// Name of the engine that runs the components.
    pub fn engine(&self) -> &'static str {
        self.embeddings.engine()
    }

    /// Reason for the choice of engine.
    pub fn engine_reason(&self) -> &str {
        self.embeddings.engine_reason()
    }

    fn on_one_engine(components: &Components, options: &EngineOptions) -> Result<Self> {
        let embeddings = load(&components.embeddings, None, options)?;
        let head = load(&components.lm_head, None, options)?;
        let mut chunks = Vec::with_capacity(components.chunks.len());
        for chunk in &components.chunks {
            chunks.push(Chunk {
                infer: load(&chunk.infer.0, chunk.infer.1.as_deref(), options)?,
                prefill: load_prefill(&chunk.prefill.0, chunk.prefill.1.as_deref(), options)?,
            });
        }
        let mut parts = head.output_names();
        parts.sort_by_key(|name| trailing_number(name));
        let dimensions = dimensions(&chunks, &head, &parts)?;
        let open = chunks.iter().all(|c| c.prefill.rows_are_open());
        let pipeline = Self { embeddings, chunks, head, parts, dimensions, open };
        pipeline.check()?;
        Ok(pipeline)
    }

    /// Dimensions.
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// All components, in execution order.
    pub fn components(&self) -> impl Iterator<Item = &CoreMLModel> {
        std::iter::once(&self.embeddings).chain(self.chunks.iter().map(|c| &c.infer)).chain(std::iter::once(&self.head))
    }

    /// All loaded functions: the components and the chunks' prefill functions.
    pub fn functions(&self) -> impl Iterator<Item = &CoreMLModel> {
        self.components().chain(self.chunks.iter().map(|c| &c.prefill))
    }

    /// Checks that all components agree on the width and all chunks on the context.
    fn check(&self) -> Result<()> {
        let Dimensions { hidden, context, .. } = self.dimensions;
        let first = &self.chunks[0].infer;
        let differ = |other: &CoreMLModel, what: &str, found: usize, expected: usize| Error::Components {
            path: other.path().to_owned(),
            message: format!(
                "{what} is {found} in function `{}`, but {expected} in {}",
                other.function(),
                first.path().display()
            ),
        };
        for model in self.chunks.iter().flat_map(|c| [&c.infer, &c.prefill]).chain([&self.head]) {
            let width = input_shape(model, "hidden_states")?.last().copied().unwrap_or(0);
            if width != hidden {
                return Err(differ(model, "the width of `hidden_states`", width, hidden));
            }
        }
        for model in self.chunks.iter().flat_map(|c| [&c.infer, &c.prefill]) {
            let columns = input_shape(model, "causal_mask")?.last().copied().unwrap_or(0);
            if columns != context {
                return Err(differ(model, "the length of `causal_mask`", columns, context));
            }
            let batch = input_shape(model, "hidden_states")?.get(1).copied().unwrap_or(0);
            let expected = if model.function() == first.function() && std::ptr::eq(model, first) { 1 } else { batch };
            if batch != expected {
                return Err(differ(model, "the number of tokens", batch, expected));
            }
        }
        for chunk in &self.chunks {
            let batch = input_shape(&chunk.prefill, "hidden_states")?.get(1).copied().unwrap_or(0);
            if batch != self.dimensions.batch {
                return Err(differ(&chunk.prefill, "the prefill batch", batch, self.dimensions.batch));
            }
        }
        let row = self.embed(&[0])?;
        let width = row.dims().last().copied().unwrap_or(0);
        if width != hidden {
            return Err(differ(&self.embeddings, "the width of the embeddings", width, hidden));
        }
        Ok(())
    }

    /// Starts a conversation with an empty cache.
    ///
    /// # Errors
    /// If allocation fails, or chunks declare one state with different shapes.
    pub fn session(&self) -> Result<Session> {
        let models: Vec<&CoreMLModel> = self.chunks.iter().flat_map(|c| [&c.infer, &c.prefill]).collect();
        Ok(Session { state: CoreMLState::shared_by(&models)?, tokens: Vec::new() })
    }

    /// Hidden states `[1, ids, hidden]` of tokens.
    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let name = self.embeddings.input_names().first().cloned().unwrap_or_default();
        let run = |ids: &[u32]| -> Result<Tensor> {
            let ids: Vec<i64> = ids.iter().map(|&i| i64::from(i)).collect();
            let n = ids.len();
            first_tensor(&self.embeddings, &[(&name, Tensor::from_vec(ids, (1, n), &Device::Cpu)?)], None)
        };
        match inputs::fixed_length(&self.embeddings, ids.len()) {
            None => run(ids),
            Some(length) => {
                // Fixed-length model: pad, then drop the rows of the padding.
                let mut rows = Vec::new();
                for part in ids.chunks(length.max(1)) {
                    let mut padded = part.to_vec();
                    padded.resize(length, 0);
                    rows.push(run(&padded)?.narrow(1, 0, part.len())?);
                }
                Ok(Tensor::cat(&rows, 1)?)
            }
        }
    }

    /// Runs `hidden` (tokens at positions `start..`) through all chunks.
    fn run_chunks(&self, session: &mut Session, mut hidden: Tensor, start: usize, prefill: bool) -> Result<Tensor> {
        let count = hidden.dim(1)?;
        for chunk in &self.chunks {
            let model = if prefill { &chunk.prefill } else { &chunk.infer };
            let fed = inputs::for_chunk(model, hidden, start, count, self.dimensions.context)?;
            let fed: Vec<(&str, Tensor)> = fed.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            hidden = first_tensor(model, &fed, Some(&mut session.state))?;
        }
        Ok(hidden)
    }

    /// Appends tokens to the conversation and returns the logits `[vocab]` after the last one.
    ///
    /// All but the last token go through prefill in batches, without the LM head; the last one, and remainders too
    /// short for a batch, through `infer`.
    ///
    /// # Errors
    /// If `ids` is empty or has ids outside the vocabulary, exceeds the context, or the engine fails.
    pub fn forward(&self, session: &mut Session, ids: &[u32]) -> Result<Vec<f32>> {
        let logits = self.forward_chunked(session, ids, &mut |_| true)?;
        logits.ok_or(Error::Cancelled)
    }

    /// [`Pipeline::forward`] that calls `more` after every batch with the number of `ids` run so far; stops and returns
    /// `None` if `more` returns false. The session then holds the tokens that have run.
    ///
    /// # Errors
    /// Same as [`Pipeline::forward`].
    pub fn forward_chunked(
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
        let mut at = known;
        while at < total - 1 {
            let rest = total - 1 - at;
            if rest <= if self.open { MAX_STEPWISE } else { batch / PREFILL_MIN_FRACTION } {
                let hidden = self.embed(&all[at..=at])?;
                self.run_chunks(session, hidden, at, false)?;
                at += 1;
            } else if self.open {
                let end = at + next_batch(rest);
                let hidden = self.embed(&all[at..end])?;
                self.run_chunks(session, hidden, at, true)?;
                at = end;
            } else {
                // The last batch must not exceed the window: it starts earlier and recomputes cached tokens.
                let start = if at + batch > context { context.saturating_sub(batch) } else { at };
                let end = (start + batch).min(total - 1);
                let mut part = all[start..end].to_vec();
                part.resize(batch, 0);
                let hidden = self.embed(&part)?;
                self.run_chunks(session, hidden, start, true)?;
                at = end;
            }
            if !more(at - known) {
                all.truncate(at);
                session.tokens = all;
                return Ok(None);
            }
        }
        let hidden = self.embed(&[last])?;
        let hidden = self.run_chunks(session, hidden, total - 1, false)?;
        session.tokens = all;
        let logits = self.logits(hidden)?;
        more(total - known);
        Ok(Some(logits))
    }

    fn logits(&self, hidden: Tensor) -> Result<Vec<f32>> {
        let name = self.head.input_names().first().cloned().unwrap_or_default();
        let outputs = self.head.predict(&[(&name, hidden)], None)?;
        let mut logits = Vec::with_capacity(self.dimensions.vocab);
        for part in &self.parts {
            match outputs.get(part) {
                Some(FeatureValue::Tensor(t)) => {
                    logits.extend(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
                }
                _ => {
                    return Err(Error::Components {
                        path: self.head.path().to_owned(),
                        message: format!("output `{part}` is not a tensor"),
                    });
                }
            }
        }
        Ok(logits)
    }

    /// [`Pipeline::forward`] for one token, sliding the window when it is almost full.
    ///
    /// When two positions are left, the most recent tokens are rerun from position 0 and the rest is dropped: as many
    /// full batches as leave two batches free (the rule of ANEMLL's chat program).
    ///
    /// # Errors
    /// Same as [`Pipeline::forward`].
    pub fn forward_with_shift(&self, session: &mut Session, id: u32) -> Result<Vec<f32>> {
        let Dimensions { context, batch, .. } = self.dimensions;
        let total = session.tokens.len() + 1;
        if total + 2 < context {
            return self.forward(session, &[id]);
        }
        let whole = (context / batch).saturating_sub(2).max(1) * batch;
        let keep = whole.min(context.saturating_sub(batch)).clamp(1, total);
        let mut tail = session.tokens.split_off(total - keep);
        tail.push(id);
        session.tokens.clear();
        tracing::debug!(keep, "slid the window");
        self.forward(session, &tail)
    }
}

/// Fixed shape of an input; unknown dimensions are 0.
fn input_shape(model: &CoreMLModel, name: &str) -> Result<Vec<usize>> {
    inputs::declared_shape(model, name).ok_or_else(|| Error::NotFound {
        what: "input",
        name: name.to_owned(),
        path: model.path().to_owned(),
        available: model.input_names().join(", "),
    })
}

fn dimensions(chunks: &[Chunk], head: &CoreMLModel, parts: &[String]) -> Result<Dimensions> {
    let first = chunks.first().ok_or_else(|| Error::Components {
        path: head.path().to_owned(),
        message: "the model has no FFN chunk".to_owned(),
    })?;
    let hidden = input_shape(&first.infer, "hidden_states")?.last().copied().unwrap_or(0);
    let context = input_shape(&first.infer, "causal_mask")?.last().copied().unwrap_or(0);
    let batch = input_shape(&first.prefill, "hidden_states")?.get(1).copied().unwrap_or(0);
    let mut vocab = 0;
    for part in parts {
        let rows = inputs::output_shape(head, part).and_then(|s| s.last().copied()).unwrap_or(0);
        vocab += rows;
    }
    if hidden == 0 || context == 0 || batch == 0 || vocab == 0 || batch > context {
        return Err(Error::Components {
            path: first.infer.path().to_owned(),
            message: format!(
                "hidden {hidden}, context {context}, prefill batch {batch}, vocabulary {vocab}: not a language model"
            ),
        });
    }
    Ok(Dimensions { context, hidden, vocab, batch })
}

fn first_tensor(model: &CoreMLModel, fed: &[(&str, Tensor)], state: Option<&mut CoreMLState>) -> Result<Tensor> {
    let outputs = model.predict(fed, state)?;
    outputs
        .into_iter()
        .find_map(|(_, o)| match o {
            FeatureValue::Tensor(t) => Some(t),
            _ => None,
        })
        .ok_or_else(|| Error::Components { path: model.path().to_owned(), message: "has no tensor output".to_owned() })
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
