//! [`CoreMLModelWrapper`]: a language model as a function from token ids to logits, for training loops with a student
//! or a teacher. The model's own weights are constant.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use coreml_engine::convert::{Unfit, to_declared};
use coreml_format::dtype::DataType;

use crate::anemll::{Pipeline, Session, inputs};
use crate::config::Config;
use crate::engine::{self, EngineOptions};
use crate::error::{Error, Result};
use crate::generation::{Sampler, Sampling};
use crate::model::CoreMLModel;

#[derive(Debug)]
enum Kind {
    /// A folder of components with a KV cache.
    Components(Box<Pipeline>),
    /// One stateless model over full sequences.
    Whole(Box<CoreMLModel>),
}

/// A language model that returns logits for every token of a batch of sequences.
///
/// Every call has its own cache, so one wrapper serves several threads. Calls block; for async code
/// `nonblocking::AsyncModel` (feature `tokio`) takes a wrapper and awaits its calls.
#[derive(Debug)]
pub struct CoreMLModelWrapper {
    kind: Kind,
    vocab_size: usize,
    max_seq_len: usize,
}

impl CoreMLModelWrapper {
    /// Loads a folder of components, or one model that takes only token ids.
    ///
    /// # Errors
    /// If loading fails, or the vocabulary or context length is not the model's.
    pub fn load(path: impl AsRef<Path>, vocab_size: usize, max_seq_len: usize) -> Result<Self> {
        Self::load_with(path, vocab_size, max_seq_len, &EngineOptions::default())
    }

    /// [`CoreMLModelWrapper::load`] on a given engine.
    ///
    /// # Errors
    /// Same as `load`, or if the native engine is requested but unavailable.
    pub fn load_with(
        path: impl AsRef<Path>,
        vocab_size: usize,
        max_seq_len: usize,
        options: &EngineOptions,
    ) -> Result<Self> {
        let path = path.as_ref();
        let fail = |message: String| Error::Components { path: path.to_owned(), message };
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let kind = if coreml_format::file::is_dir(path) && !matches!(extension.as_str(), "mlpackage" | "mlmodelc") {
            let pipeline = Pipeline::load_with(path, options)?;
            if pipeline.greedy_only() {
                return Err(fail("it gives the best token and no logits of others".to_owned()));
            }
            let found = pipeline.dimensions();
            if found.vocab != vocab_size {
                return Err(fail(format!("its vocabulary has {} tokens, not {vocab_size}", found.vocab)));
            }
            if max_seq_len > found.context {
                return Err(fail(format!("its context holds {} tokens, not {max_seq_len}", found.context)));
            }
            Kind::Components(Box::new(pipeline))
        } else {
            let config = Config { vocab_size, max_sequence_length: max_seq_len, ..Config::default() };
            let mut opened = engine::open(path, options)?;
            let model = CoreMLModel::from_package_with(opened.package.clone(), None, config, options)
                .map_err(|e| opened.explain(e))?;
            if model.is_stateful() || model.input_names().len() != 1 {
                let names = model.input_names().join(", ");
                return Err(fail(format!("expected a stateless model that takes only token ids, found {names}")));
            }
            Kind::Whole(Box::new(model))
        };
        Ok(Self { kind, vocab_size, max_seq_len })
    }

    /// Logits `[batch, seq, vocab]` (F32, on the device of the ids) of token ids `[batch, seq]` or `[seq]`.
    ///
    /// Row `i` predicts token `i + 1`. Sequences are independent and start at position 0.
    ///
    /// # Errors
    /// If a sequence is empty or too long, ids are not integers or outside the vocabulary, or the engine fails.
    pub fn forward(&self, input_ids: &Tensor) -> Result<Tensor> {
        let ids = if input_ids.rank() == 1 { input_ids.unsqueeze(0)? } else { input_ids.clone() };
        let (batch, length) = ids.dims2()?;
        if batch == 0 || length == 0 || length > self.max_seq_len {
            return Err(Error::Input {
                name: "input_ids".to_owned(),
                expected: format!("[batch, 1 to {}]", self.max_seq_len),
                found: format!("{:?}", input_ids.dims()),
            });
        }
        let unfit = |e: Unfit| Error::Input { name: "input_ids".to_owned(), expected: e.expected, found: e.found };
        let rows = to_declared(&ids, DataType::I64).map_err(unfit)?.to_device(&Device::Cpu)?.to_vec2::<i64>()?;
        let mut all = Vec::with_capacity(batch);
        for row in &rows {
            all.push(self.sequence(&self.checked(row)?)?);
        }
        Ok(Tensor::stack(&all, 0)?.to_device(input_ids.device())?)
    }

    fn checked(&self, row: &[i64]) -> Result<Vec<u32>> {
        let id = |&id: &i64| {
            let known = u32::try_from(id).ok().filter(|&i| (i as usize) < self.vocab_size);
            known.ok_or_else(|| Error::unknown_token(id, self.vocab_size))
        };
        row.iter().map(id).collect()
    }

    /// Logits `[seq, vocab]` of one sequence.
    fn sequence(&self, ids: &[u32]) -> Result<Tensor> {
        match &self.kind {
            Kind::Components(pipeline) => {
                let mut session = pipeline.session()?;
                let mut logits = Vec::with_capacity(ids.len() * self.vocab_size);
                for &id in ids {
                    logits.extend(pipeline.forward(&mut session, &[id])?);
                }
                Ok(Tensor::from_vec(logits, (ids.len(), self.vocab_size), &Device::Cpu)?)
            }
            Kind::Whole(model) => self.whole(model, ids),
        }
    }

    /// In a causal model, rows do not depend on the padding after them.
    fn whole(&self, model: &CoreMLModel, ids: &[u32]) -> Result<Tensor> {
        let mut padded: Vec<i64> = ids.iter().map(|&i| i64::from(i)).collect();
        padded.resize(inputs::fixed_length(model, ids.len()).unwrap_or(ids.len()).max(ids.len()), 0);
        let length = padded.len();
        let logits = model.forward(&Tensor::from_vec(padded, (1, length), &Device::Cpu)?)?;
        if logits.dims() != [1, length, self.vocab_size] {
            return Err(Error::Components {
                path: model.path().to_owned(),
                message: format!(
                    "its logits have shape {:?}, expected {:?}",
                    logits.dims(),
                    [1, length, self.vocab_size]
                ),
            });
        }
        Ok(logits.squeeze(0)?.narrow(0, 0, ids.len())?.to_dtype(DType::F32)?)
    }

    /// Generates up to `max_tokens` tokens; stops before a token in `end`, or when the context is full.
    ///
    /// # Errors
    /// Same as [`CoreMLModelWrapper::forward`].
    pub fn generate(&self, prompt: &[u32], max_tokens: usize, sampling: Sampling, end: &[u32]) -> Result<Vec<u32>> {
        if prompt.len() > self.max_seq_len {
            return Err(Error::PromptTooLong { tokens: prompt.len(), context: self.max_seq_len });
        }
        let mut sampler = Sampler::new(sampling);
        let mut cache: Option<Session> = match &self.kind {
            Kind::Components(pipeline) => Some(pipeline.session()?),
            Kind::Whole(_) => None,
        };
        let mut all = prompt.to_vec();
        while all.len() - prompt.len() < max_tokens && all.len() <= self.max_seq_len {
            let logits = match (&self.kind, &mut cache) {
                (Kind::Components(pipeline), Some(session)) => {
                    let known = session.tokens().len();
                    pipeline.forward(session, &all[known..])?
                }
                _ if all.is_empty() => return Err(Error::EmptyPrompt),
                _ => self.sequence(&all)?.get(all.len() - 1)?.to_vec1()?,
            };
            let token = sampler.choose(&logits, &all);
            if end.contains(&token) {
                break;
            }
            all.push(token);
        }
        Ok(all.split_off(prompt.len()))
    }
}
