//! [`SingleFile`]: a language model in one file that takes token ids and gives logits, in the layouts of Apple's and
//! Hugging Face's exporters. [`interface`] reads which one; nothing is known of the model's architecture.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use coreml_format::description::FunctionDescription;
use coreml_format::model::Model;
use coreml_format::program::ValueType;
use indexmap::IndexMap;

use crate::anemll::{Dimensions, Passed, Session};
use crate::config::Config;
use crate::engine::{self, EngineOptions};
use crate::error::{Error, Result};
use crate::files;
use crate::model::{CoreMLModel, FeatureValue};
use crate::state::CoreMLState;

mod extent;
mod feed;
mod interface;
mod names;

pub(crate) use interface::Caches;
use interface::{Interface, Role};

/// Tokens of one prediction at most, where the model sets no limit; longer ones are no faster and delay progress.
const MAX_PREFILL: usize = 128;

/// Differences between logits of a causal model with and without later tokens: rounding of fp16, on logits of any size.
const CAUSAL_TOLERANCE: f32 = 0.02;

/// A loaded model.
#[derive(Debug)]
pub(crate) struct SingleFile {
    model: CoreMLModel,
    interface: Interface,
    vocab: usize,
    /// Whether later tokens were seen to leave earlier logits alone; asked of models that run padding.
    causal: AtomicBool,
}

/// Whether a function is that of such a model: it takes token ids, and gives logits or keeps caches.
pub(crate) fn looks_like_one(function: &FunctionDescription) -> bool {
    interface::looks_like_one(function)
}

/// States of a function, by name and shape, from the description or the program.
fn states(package: &Model, function: &str) -> Vec<(String, Vec<usize>)> {
    use coreml_format::description::FeatureType;
    let described = package.description.functions.get(function).map_or(&[][..], |f| &f.states);
    let mut all: Vec<(String, Vec<usize>)> = Vec::new();
    for feature in described {
        let FeatureType::State { shape, .. } = &feature.ty else { continue };
        all.push((feature.name.clone(), shape.clone()));
    }
    let program = engine::program(package);
    for input in program.iter().filter_map(|p| p.functions.get(function)).flat_map(|f| &f.inputs) {
        if let ValueType::State(ty) = &input.ty
            && all.iter().all(|(name, _)| *name != input.name)
        {
            all.push((input.name.clone(), ty.tensor().and_then(|t| t.fixed_shape()).unwrap_or_default()));
        }
    }
    all
}

/// The length that `config.json` beside a model says it was trained for.
fn trained_length(package: &Path) -> Option<usize> {
    let config = files::json_if_there(&files::beside(package).join("config.json")).ok()??;
    ["max_position_embeddings", "n_positions", "n_ctx"].iter().find_map(|k| config.get(k)?.as_u64()).map(|n| n as usize)
}

/// Last extent of an output by the program's types, if they say it.
fn last_extent(package: &Model, function: &str, output: &str) -> Option<usize> {
    let program = engine::program(package)?;
    let function = program.functions.get(function)?;
    let made = function.block.operations.iter().flat_map(|op| &op.outputs).find(|o| o.name == output)?;
    made.ty.tensor()?.shape.last()?.fixed()
}

impl SingleFile {
    /// Loads a model on an engine.
    pub(crate) fn load(package: &std::sync::Arc<Model>, options: &EngineOptions) -> Result<Self> {
        let path = package.path.clone();
        let fail = |message: String| Error::Components { path: path.clone(), message };
        let name = package.description.default_function.clone();
        let function = package.description.functions.get(&name).cloned().unwrap_or_default();
        let interface = Interface::read(&function, &states(package, &name), trained_length(&path)).map_err(fail)?;
        let model = CoreMLModel::from_package_with(package.clone(), None, Config::default(), options)?;
        let mut single = Self { model, interface, vocab: 0, causal: AtomicBool::new(false) };
        let described = crate::anemll::inputs::output_shape(&single.model, &single.interface.logits);
        let declared = described.and_then(|s| s.last().copied());
        single.vocab = match declared.or_else(|| last_extent(package, &name, &single.interface.logits)) {
            Some(vocab) => vocab,
            None => single.vocab_by_running()?,
        };
        if single.vocab < 2 {
            let message = format!("`{}` has {} logits: not a language model", single.interface.logits, single.vocab);
            return Err(Error::Components { path, message });
        }
        Ok(single)
    }

    /// The number of logits, where neither description nor program says it.
    fn vocab_by_running(&self) -> Result<usize> {
        let mut session = self.session()?;
        let count = self.interface.tokens.above(1).unwrap_or(1);
        let outputs = self.predict(&mut session, &feed::Run { ids: &vec![0; count], real: 1, start: 0 })?;
        Ok(self.logits_of(&outputs)?.dims().last().copied().unwrap_or(0))
    }

    pub(crate) fn model(&self) -> &CoreMLModel {
        &self.model
    }

    pub(crate) fn model_mut(&mut self) -> &mut CoreMLModel {
        &mut self.model
    }

    pub(crate) fn caches(&self) -> Caches {
        self.interface.caches
    }

    pub(crate) fn dimensions(&self) -> Dimensions {
        let batch = self.most().min(self.interface.context);
        Dimensions { context: self.interface.context, hidden: 0, vocab: self.vocab, batch }
    }

    /// Tokens of one prediction at most.
    fn most(&self) -> usize {
        let scores = self.interface.input(&Role::Scores).filter(|i| i.extents.len() >= 2);
        let queries = scores.and_then(|i| i.extents[i.extents.len() - 2].most());
        let most = [self.interface.tokens.most(), queries].into_iter().flatten().min();
        match &self.interface.tokens {
            interface_tokens if interface_tokens.is_fixed() => most.unwrap_or(1),
            _ => most.unwrap_or(MAX_PREFILL).min(MAX_PREFILL),
        }
    }

    /// An empty conversation.
    pub(crate) fn session(&self) -> Result<Session> {
        let mut passed = Vec::new();
        for input in &self.interface.inputs {
            let Role::Cache { grows, .. } = input.role else { continue };
            let shape: Vec<usize> =
                input.extents.iter().enumerate().map(|(i, e)| if grows == Some(i) { 0 } else { e.least() }).collect();
            let dtype = if input.dtype == coreml_format::dtype::DataType::F16 { DType::F16 } else { DType::F32 };
            passed.push(Passed { cache: Tensor::zeros(shape, dtype, &Device::Cpu)?, grows });
        }
        Ok(Session::of(CoreMLState::shared_by(&[&self.model])?, passed))
    }

    fn predict(&self, session: &mut Session, run: &feed::Run<'_>) -> Result<IndexMap<String, FeatureValue>> {
        let mut fed: Vec<(&str, Tensor)> = Vec::with_capacity(self.interface.inputs.len());
        let mut caches = session.passed.iter();
        for input in &self.interface.inputs {
            let tensor = match feed::tensor(&self.interface, input, run)? {
                Some(tensor) => tensor,
                None => match caches.next() {
                    Some(passed) => passed.cache.clone(),
                    None => return Err(self.broken(format!("nothing is known of the cache `{}`", input.name))),
                },
            };
            fed.push((&input.name, tensor));
        }
        let state = (self.interface.caches == Caches::States).then_some(&mut session.state);
        let mut outputs = self.model.predict(&fed, state)?;
        let mut caches = session.passed.iter_mut();
        for (input, before) in self.interface.inputs.iter().zip(&fed) {
            let Role::Cache { output, grows } = &input.role else { continue };
            let after = match outputs.swap_remove(output) {
                Some(FeatureValue::Tensor(tensor)) => tensor,
                _ => return Err(self.broken(format!("output `{output}` is not a tensor"))),
            };
            let mut wanted = before.1.dims().to_vec();
            if let Some(axis) = *grows {
                wanted[axis] += run.ids.len();
            }
            if after.dims() != wanted {
                let found = after.dims();
                return Err(self.broken(format!("output `{output}` has the shape {found:?}, expected {wanted:?}")));
            }
            if let Some(passed) = caches.next() {
                passed.cache = after;
            }
        }
        Ok(outputs)
    }

    fn broken(&self, message: String) -> Error {
        Error::Components { path: self.model.path().to_owned(), message }
    }

    fn logits_of<'o>(&self, outputs: &'o IndexMap<String, FeatureValue>) -> Result<&'o Tensor> {
        match outputs.get(&self.interface.logits) {
            Some(FeatureValue::Tensor(tensor)) => Ok(tensor),
            _ => Err(self.broken(format!("output `{}` is not a tensor", self.interface.logits))),
        }
    }

    /// Logits `[vocab]` after token `row` of a prediction of `count` tokens.
    fn row(&self, outputs: &IndexMap<String, FeatureValue>, row: usize, count: usize) -> Result<Vec<f32>> {
        let tensor = self.logits_of(outputs)?;
        let name = &self.interface.logits;
        let (vocab, dims) = (self.vocab, tensor.dims());
        let rows = match dims {
            [1, rows, last] | [rows, last] if *last == vocab => *rows,
            [last] if *last == vocab => 1,
            _ => {
                let message = format!("output `{name}` has the shape {dims:?}, expected [1, {count}, {vocab}]");
                return Err(self.broken(message));
            }
        };
        let at = match rows {
            rows if rows == count => row,
            1 if row + 1 == count => 0,
            1 => {
                return Err(self
                    .broken(format!("output `{name}` is of the last of {count} tokens alone, so fewer can't be run")));
            }
            _ => return Err(self.broken(format!("output `{name}` has {rows} rows for {count} tokens"))),
        };
        let rows = tensor.reshape((rows, vocab))?;
        Ok(rows.narrow(0, at, 1)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// As [`Pipeline::forward_chunked`](crate::anemll::Pipeline::forward_chunked).
    pub(crate) fn forward_chunked(
        &self,
        session: &mut Session,
        ids: &[u32],
        more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Vec<f32>>> {
        let Dimensions { context, vocab, .. } = self.dimensions();
        let (known, total) = (session.tokens.len(), session.tokens.len() + ids.len());
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::unknown_token(id, vocab));
        }
        if total > context {
            return Err(Error::PromptTooLong { tokens: total, context });
        }
        if self.interface.caches == Caches::None {
            let mut all = session.tokens.clone();
            all.extend(ids);
            let logits = self.whole(session, &all)?;
            session.tokens = all;
            more(ids.len());
            return Ok(Some(logits));
        }
        let all: Vec<u32> = session.tokens.iter().chain(ids).copied().collect();
        let mut at = known;
        loop {
            let (start, end, count) = self.next(at, total);
            let mut part = all[start..end].to_vec();
            part.resize(count, 0);
            let run = feed::Run { ids: &part, real: end - start, start };
            let outputs = self.predict(session, &run)?;
            session.tokens.extend(&all[at..end]);
            at = end;
            let go_on = more(at - known);
            if at == total {
                return self.row(&outputs, run.real - 1, count).map(Some);
            }
            if !go_on {
                return Ok(None);
            }
        }
    }

    /// The tokens `start..end` of the next prediction, and its length with padding. A length that the model does not
    /// take is filled with tokens that have run before, which writes the same rows again; with padding only at the
    /// beginning, where there are not enough.
    fn next(&self, at: usize, total: usize) -> (usize, usize, usize) {
        let rest = (total - at).min(self.most());
        let tokens = &self.interface.tokens;
        let (up, down) = (tokens.above(rest), tokens.below(rest));
        let count = match (up, down) {
            (Some(up), Some(down)) if up > 2 * rest || self.interface.grows() => down,
            (Some(up), _) => up,
            (None, Some(down)) => down,
            (None, None) => rest,
        };
        let end = (at + count).min(at + rest);
        let start = if count > end - at { end.saturating_sub(count) } else { at };
        (start, end, count)
    }

    /// Runs all tokens of a conversation without caches.
    fn whole(&self, session: &mut Session, all: &[u32]) -> Result<Vec<f32>> {
        let mut padded = all.to_vec();
        padded.resize(self.interface.tokens.above(all.len()).unwrap_or(all.len()), 0);
        let run = feed::Run { ids: &padded, real: all.len(), start: 0 };
        let outputs = self.predict(session, &run)?;
        let logits = self.row(&outputs, all.len() - 1, padded.len())?;
        if !self.causal.load(Ordering::Relaxed) {
            self.check_causal(session, all, &logits)?;
        }
        Ok(logits)
    }

    /// Refuses a model whose logits depend on later tokens, such as one that fills in masked words: it would answer, but
    /// with wrong text. Runs one prediction with another token behind, or compares the last but one where there is no
    /// room.
    fn check_causal(&self, session: &mut Session, all: &[u32], logits: &[f32]) -> Result<()> {
        let other = if all.last() == Some(&1) { 2 % self.vocab as u32 } else { 1 };
        let run = |session: &mut Session, ids: &[u32], row: usize| -> Result<Option<Vec<f32>>> {
            let mut padded = ids.to_vec();
            padded.resize(self.interface.tokens.above(ids.len()).unwrap_or(ids.len()), 0);
            let outputs = self.predict(session, &feed::Run { ids: &padded, real: ids.len(), start: 0 })?;
            let rows = self.logits_of(&outputs)?.dims();
            if !matches!(rows, [1, r, _] | [r, _] if *r == padded.len()) {
                return Ok(None);
            }
            self.row(&outputs, row, padded.len()).map(Some)
        };
        let (one, two) = if all.len() < self.interface.context {
            let longer: Vec<u32> = all.iter().copied().chain([other]).collect();
            (Some(logits.to_vec()), run(session, &longer, all.len() - 1)?)
        } else if all.len() > 1 {
            let mut changed = all.to_vec();
            changed[all.len() - 1] = other;
            (run(session, all, all.len() - 2)?, run(session, &changed, all.len() - 2)?)
        } else {
            return Ok(());
        };
        let (Some(one), Some(two)) = (one, two) else { return Ok(()) };
        let scale = one.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        let off = one.iter().zip(&two).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        if off > CAUSAL_TOLERANCE * scale {
            return Err(self.broken(format!(
                "its logits change by {off} with the token that follows: it is no model that continues texts"
            )));
        }
        self.causal.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// As [`Pipeline::forward_with_shift`](crate::anemll::Pipeline::forward_with_shift): the later half of a full context
    /// stays.
    pub(crate) fn forward_with_shift(&self, session: &mut Session, id: u32) -> Result<Option<Vec<f32>>> {
        let context = self.interface.context;
        let mut ids = vec![id];
        if session.tokens.len() + 1 > context {
            let keep = (context / 2).min(context - 1);
            ids = session.tokens[session.tokens.len() - keep..].to_vec();
            ids.push(id);
            session.truncate(0);
            tracing::debug!(keep, "slid the window");
        }
        self.forward_chunked(session, &ids, &mut |_| true)
    }
}
