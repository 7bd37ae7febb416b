//! [`TextEncoder`]: text embeddings from an encoder such as BERT or a sentence-transformers model.
//!
//! A folder holds one model (inputs `input_ids` and usually `attention_mask`; outputs hidden states or a pooled
//! sentence embedding), `tokenizer.json`, and optionally `1_Pooling/config.json`, which selects the pooling as in
//! sentence-transformers; the default is mean pooling over the tokens.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;

use crate::byte_limit::ByteLimit;
use crate::engine::EngineOptions;
use crate::error::{Error, Result};
use crate::generation::vocabulary::Vocabulary;
use crate::model::CoreMLModel;

mod files;
mod shapes;

pub use files::Pooling;
use shapes::Shapes;

/// Supported inputs, in the order in which they are built. Only the first is required.
const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];

/// Names of outputs with pooled embeddings `[texts, width]`.
const FINISHED: [&str; 5] = ["sentence_embedding", "sentence_embeddings", "embeddings", "embedding", "text_embeds"];

/// Preferred names for hidden states `[texts, tokens, width]` if several outputs have that rank.
const HIDDEN: [&str; 3] = ["last_hidden_state", "hidden_states", "token_embeddings"];

/// Maximum number of texts, and of tokens with padding, per prediction if the model sets no limit.
const BATCH: usize = 32;
const BATCH_TOKENS: usize = 8192;

/// Default maximum of tokens per text, as in BERT. Memory grows quadratically with the length, and texts may be
/// untrusted.
const USUAL_LIMIT: usize = 512;

/// One text to encode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncoderInput {
    /// A text; the tokenizer adds its special tokens.
    Text(String),
    /// Token ids, used unchanged.
    Tokens(Vec<u32>),
}

impl From<&str> for EncoderInput {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for EncoderInput {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u32>> for EncoderInput {
    fn from(ids: Vec<u32>) -> Self {
        Self::Tokens(ids)
    }
}

/// Embeddings of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector of unit length (Euclidean) per text.
    pub vectors: Vec<Vec<f32>>,
    /// Number of tokens of all texts, special tokens included.
    pub tokens: usize,
}

/// An encoder with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    model: CoreMLModel,
    tokenizer: Vocabulary,
    folder: PathBuf,
    shapes: Shapes,
    output: String,
    /// Pooling of hidden states; `None` for outputs that are pooled already.
    pooling: Option<Pooling>,
    width: usize,
    limit: usize,
    bytes: ByteLimit,
}

impl TextEncoder {
    /// Loads the encoder in a folder.
    ///
    /// # Errors
    /// If files are missing or malformed, an input is not supported, or the model has no hidden states.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        Self::load_with(folder, &EngineOptions::default())
    }

    /// Loads the encoder in a folder on a given engine.
    ///
    /// # Errors
    /// Same as [`TextEncoder::load`], or if the native engine is requested but unavailable.
    pub fn load_with(folder: impl AsRef<Path>, options: &EngineOptions) -> Result<Self> {
        let folder = folder.as_ref();
        let path = files::only_model(folder)?;
        let (tokenizer, limit) = files::tokenizer(folder)?;
        let builder = CoreMLModel::builder(&path).engine(options.choice);
        let builder =
            builder.compute_units(options.compute_units).passes(options.passes.clone()).limits(options.limits);
        let builder = builder.native_options(options.native.clone());
        let builder = match &options.cache {
            Some(folder) => builder.compiled_models(folder),
            None => builder,
        };
        let model = builder.load()?;
        let names = model.input_names();
        let unknown = names.iter().find(|n| !INPUTS.contains(&n.as_str()));
        if model.is_stateful() || unknown.is_some() || !names.iter().any(|n| n == INPUTS[0]) {
            let found = names.join(", ");
            return Err(Error::Components {
                path,
                message: format!("expected a stateless model with inputs among {}, found {found}", INPUTS.join(", ")),
            });
        }
        let shapes = Shapes::of(&model)?;
        let limit = [limit, shapes.longest()].into_iter().flatten().min().unwrap_or(USUAL_LIMIT);
        let bytes = ByteLimit::new(&tokenizer, limit);
        let mut encoder = Self {
            model,
            tokenizer,
            folder: folder.to_owned(),
            shapes,
            output: String::new(),
            pooling: None,
            width: 0,
            limit,
            bytes,
        };
        encoder.choose_output()?;
        Ok(encoder)
    }

    /// Output shapes may be known only after a prediction.
    fn choose_output(&mut self) -> Result<()> {
        let row = self.row(&EncoderInput::Text("a".to_owned()))?;
        let shape = self.fit(1, row.len())?;
        let length = shape[1];
        let outputs = self.predict(&[&row], shape)?;
        let finished = FINISHED.iter().find(|n| outputs.get(**n).is_some_and(|t| t.rank() == 2));
        let is_hidden =
            |name: &str, t: &Tensor| t.rank() == 3 && t.dims()[1] == length && !name.to_lowercase().contains("logits");
        let hidden: Vec<&str> =
            outputs.iter().filter(|(n, t)| is_hidden(n, t)).map(|(name, _)| name.as_str()).collect();
        let named = HIDDEN.iter().copied().find(|n| hidden.contains(n)).or(hidden.first().copied());
        let name = match (finished, named) {
            (Some(name), _) => *name,
            (None, Some(name)) => {
                self.pooling = Some(files::pooling(&self.folder)?);
                name
            }
            (None, None) => {
                let all: Vec<String> = outputs.iter().map(|(n, t)| format!("{n} {:?}", t.dims())).collect();
                return Err(Error::Components {
                    path: self.model.path().to_owned(),
                    message: format!(
                        "no output has hidden states [texts, tokens, width]; available: {}",
                        all.join(", ")
                    ),
                });
            }
        };
        self.width = outputs[name].dims().last().copied().unwrap_or(0);
        self.output = name.to_owned();
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &CoreMLModel {
        &self.model
    }

    /// The folder it was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Name of the output used, and its pooling.
    pub fn output(&self) -> (&str, Option<Pooling>) {
        (&self.output, self.pooling)
    }

    /// Length of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Maximum number of tokens per text: the minimum of the limits in the model's shapes, `config.json` and the
    /// tokenizer's files, or 512 if there are none.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Rejects texts whose byte length or number of ids shows that they are too long, before the cost of tokenizing
    /// them.
    ///
    /// # Errors
    /// [`Error::PromptBytes`] and [`Error::PromptTooLong`].
    pub fn check_lengths(&self, texts: &[EncoderInput]) -> Result<()> {
        texts.iter().try_for_each(|text| match text {
            EncoderInput::Text(text) => self.bytes.check(text.len()),
            EncoderInput::Tokens(ids) => self.check_length(ids.len()),
        })
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        if tokens > self.limit { Err(Error::PromptTooLong { tokens, context: self.limit }) } else { Ok(()) }
    }

    /// Computes the embeddings of texts (`&str`, `String`) or token ids. They are independent of each other; nothing is
    /// truncated.
    ///
    /// ```
    /// # std::env::set_current_dir("../..")?;
    /// use candle_coreml::encoder::TextEncoder;
    ///
    /// let encoder = TextEncoder::load("models/tiny-intent")?;
    /// let found = encoder.embed(&["turn on the lamp", "lights on", "is it raining"])?;
    /// let [lamp, lights, rain] = [0, 1, 2].map(|i| &found.vectors[i]);
    /// // Vectors have the length 1: their product is their cosine.
    /// let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    /// assert!(cosine(lamp, lights) > cosine(lamp, rain));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::PromptBytes`], [`Error::EmptyPrompt`], [`Error::UnknownToken`]; if the engine
    /// fails.
    pub fn embed<T: Clone + Into<EncoderInput>>(&self, texts: &[T]) -> Result<Embeddings> {
        let rows = texts.iter().map(|text| self.row(&text.clone().into())).collect::<Result<Vec<_>>>()?;
        // Batch texts of similar length to reduce padding.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&i| rows[i].len());
        let mut vectors = vec![Vec::new(); rows.len()];
        let mut rest = order.as_slice();
        while let Some(&shortest) = rest.first() {
            let most = (BATCH_TOKENS / rows[shortest].len()).clamp(1, BATCH).min(rest.len());
            let longest = rows[rest[most - 1]].len();
            let count = (BATCH_TOKENS / longest).clamp(1, most);
            let shape = self.fit(count, rows[rest[count - 1]].len())?;
            let (part, later) = rest.split_at(shape[0].min(count));
            let given: Vec<&Vec<u32>> = part.iter().map(|&i| &rows[i]).collect();
            for (&index, vector) in part.iter().zip(self.vectors(&given, shape)?) {
                vectors[index] = vector;
            }
            rest = later;
        }
        Ok(Embeddings { vectors, tokens: rows.iter().map(Vec::len).sum() })
    }

    fn row(&self, text: &EncoderInput) -> Result<Vec<u32>> {
        let ids = match text {
            EncoderInput::Tokens(ids) => ids.clone(),
            EncoderInput::Text(text) => {
                self.bytes.check(text.len())?;
                self.tokenizer.encode(text, true)?
            }
        };
        let vocab = self.tokenizer.size();
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::unknown_token(id, vocab));
        }
        self.check_length(ids.len())?;
        Ok(ids)
    }

    fn fit(&self, rows: usize, longest: usize) -> Result<[usize; 2]> {
        self.shapes
            .fit(rows, longest)
            .ok_or_else(|| Error::PromptTooLong { tokens: longest, context: self.shapes.longest().unwrap_or_default() })
    }

    /// Predicts rows that fit a shape of the model.
    fn predict(&self, rows: &[&Vec<u32>], [batch, length]: [usize; 2]) -> Result<IndexMap<String, Tensor>> {
        // Fill a fixed batch with copies of the first row.
        let row = |i: usize| rows.get(i).or(rows.first()).map_or(&[][..], |r| r.as_slice());
        let tensor = |value: &dyn Fn(&[u32], usize) -> i64| {
            let data: Vec<i64> =
                (0..batch).flat_map(|i| (0..length).map(move |j| (i, j))).map(|(i, j)| value(row(i), j)).collect();
            Tensor::from_vec(data, (batch, length), &Device::Cpu)
        };
        let mut inputs = Vec::new();
        for name in self.model.input_names() {
            let made = match name.as_str() {
                "input_ids" => tensor(&|row, j| row.get(j).map_or(0, |&id| i64::from(id)))?,
                "attention_mask" => tensor(&|row, j| i64::from(j < row.len()))?,
                "position_ids" => tensor(&|_, j| j as i64)?,
                _ => tensor(&|_, _| 0)?,
            };
            inputs.push(made);
        }
        self.model.forward_all(&inputs)
    }

    fn vectors(&self, rows: &[&Vec<u32>], shape: [usize; 2]) -> Result<Vec<Vec<f32>>> {
        let outputs = self.predict(rows, shape)?;
        let output = outputs.get(&self.output).ok_or_else(|| Error::NotFound {
            what: "tensor output",
            name: self.output.clone(),
            path: self.model.path().to_owned(),
            available: self.model.output_names().join(", "),
        })?;
        let output = output.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let mut vectors = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let own = output.get(i)?;
            let vector = match self.pooling {
                None => own.to_vec1()?,
                Some(pooling) => pooling.apply(&own.narrow(0, 0, row.len())?.to_vec2()?),
            };
            vectors.push(unit(vector));
        }
        Ok(vectors)
    }
}

/// Scales the vector to unit length; zeros stay.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
    vector
}
