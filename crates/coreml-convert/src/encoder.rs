//! Encoders of texts: BERT and its kin, and what sentence-transformers put behind them, as one ML Program.
//!
//! Inputs `input_ids` and `attention_mask` `[texts, tokens]` of any number up to the limits, and where the family has
//! several kinds of tokens, `token_type_ids`, which may be left out. Outputs `last_hidden_state` `[texts, tokens, width]`, and
//! `sentence_embedding` `[texts, width]` for sentence-transformers, or `pooler_output` if the checkpoint has a pooler. A
//! classifier gives `logits` `[texts, labels]`, or `[texts, tokens, labels]`, in place of the pooler's output.

use std::path::Path;

use coreml_format::description::{DimRange, FeatureType};
use coreml_format::dtype::DataType;
use coreml_format::program::{Opset, Value};
use coreml_write::builder::{BuildError, Extents, FunctionBuilder, PackageBuilder, Var};

use crate::checkpoint::{Change, Checkpoint};
use crate::error::{ConvertError, Result};
use crate::job::Job;
use crate::net::{self, HALF, Matrix};
use crate::weights::{Linear, Lut, Store};

mod config;
mod head;
mod modules;

pub(crate) use config::Config;
use config::Positions;
pub(crate) use modules::Modules;
use modules::{Dense, Pooling};

/// Options of encoders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoder {
    /// Most tokens of a text; the limit of the checkpoint if omitted.
    pub length: Option<usize>,
    /// Most texts of a prediction.
    pub batch: usize,
    /// Tables for the layers.
    pub lut: Option<Lut>,
    /// Tables for the embeddings.
    pub lut_embeddings: Option<Lut>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { length: None, batch: 32, lut: None, lut_embeddings: None }
    }
}

/// Files that go with an encoder, besides those of every model.
pub(crate) const FILES: [&str; 6] = [
    "vocab.txt",
    "sentencepiece.bpe.model",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// Tensors that a conversion leaves: buffers, heads of pretraining, and the pooler where nothing uses it.
pub(crate) fn spare(name: &str) -> bool {
    const HEADS: [&str; 7] =
        ["cls.", "lm_head.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "mlm.", "pooler."];
    name.ends_with("position_ids") || HEADS.iter().any(|h| name.starts_with(h) || name.contains(&format!(".{h}")))
}

/// A conversion to this layout.
pub(crate) struct Conversion<'a> {
    pub(crate) c: &'a Config,
    pub(crate) from: &'a Checkpoint,
    /// Prefix of the encoder's tensors.
    pub(crate) prefix: &'a str,
    pub(crate) modules: Option<&'a Modules>,
    pub(crate) o: &'a Encoder,
}

type Built = std::result::Result<Var, BuildError>;

/// Gain and bias.
struct Norm(Value, Value);

struct Layer {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm: Norm,
    up: Linear,
    down: Linear,
    out_norm: Norm,
}

/// What goes before and behind the layers.
struct Ends {
    words: Matrix,
    positions: Value,
    types: Option<Value>,
    norm: Norm,
    /// Of MPNet: `[1, heads, tokens, tokens]`, added to the scores.
    bias: Option<Value>,
    pooler: Option<Linear>,
    head: Option<head::Weights>,
    dense: Vec<(Linear, Dense)>,
}

/// The least fp16 number: smaller epsilons would be zero.
const LEAST_HALF: f64 = 5.960_464_477_539_063e-8;

fn norm(f: &mut FunctionBuilder, x: &Var, n: &Norm, eps: f64) -> Built {
    let (gain, bias) = (f.shared("gain", n.0.clone()), f.shared("bias", n.1.clone()));
    let call = f.op("layer_norm").arg("x", x).arg("axes", [-1]).arg("gamma", &gain).arg("beta", &bias);
    call.arg("epsilon", eps.max(LEAST_HALF)).done()
}

fn linear(f: &mut FunctionBuilder, x: &Var, w: &Linear, name: &str) -> Built {
    net::linear(f, x, w, &format!("{name}_weight"))
}

impl Conversion<'_> {
    /// Most tokens of a text.
    fn length(&self) -> usize {
        let limit = self.modules.and_then(|m| m.length).unwrap_or(usize::MAX).min(self.c.longest());
        self.o.length.unwrap_or(limit)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str, expected: String, found: usize| {
            Err(ConvertError::invalid(&self.from.folder, what, expected, found.to_string()))
        };
        let (length, longest) = (self.length(), self.c.longest());
        if length == 0 || length > longest {
            return wrong("the length", format!("1 to the {longest} positions of the checkpoint"), length);
        }
        if self.o.batch == 0 || self.o.batch > 1 << 16 {
            return wrong("the batch", "1 to 65536".to_owned(), self.o.batch);
        }
        for lut in [self.o.lut, self.o.lut_embeddings].into_iter().flatten() {
            if ![1, 2, 3, 4, 6, 8].contains(&lut.bits) {
                return wrong("the bits of tables", "1, 2, 3, 4, 6 or 8".to_owned(), lut.bits);
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self, job: &mut Job) -> Result<()> {
        job.package("encoder", |path, progress| self.write(path, progress))
    }

    fn write(&self, path: &Path, progress: &mut dyn FnMut(usize)) -> Result<()> {
        let c = self.c;
        let mut package = PackageBuilder::create(path)?;
        let mut store = Store { from: self.from, to: &mut package, prefix: "", lut: self.o.lut_embeddings };
        let ends = self.ends(&mut store)?;
        store.lut = self.o.lut;
        let mut layers = Vec::new();
        for i in 0..c.layers {
            layers.push(self.layer_weights(&mut store, i)?);
            progress(i);
        }
        let tables = self.o.lut.is_some() || self.o.lut_embeddings.is_some();
        let mut f = FunctionBuilder::new(if tables { Opset::Ios18 } else { Opset::Ios17 });
        self.build(&mut f, &ends, &layers)?;
        let (function, mut description) = f.finish()?;
        for input in description.inputs.iter_mut().filter(|i| i.name == TYPES) {
            input.optional = true;
            if let FeatureType::MultiArray { default, .. } = &mut input.ty {
                *default = Some(0.0);
            }
        }
        package.add_finished("main", function, description)?;
        let metadata = &mut package.description.metadata;
        metadata.description = "Converted with candle-coreml".to_owned();
        if let Some(head) = &c.head {
            metadata.user.insert("id2label".to_owned(), head.id2label());
        }
        Ok(package.finish()?)
    }

    fn norm_weights(&self, store: &mut Store<'_>, name: &str) -> Result<Norm> {
        let c = self.c;
        // Checkpoints of TensorFlow's time say gamma and beta.
        let old = self.from.has(&format!("{name}.gamma"));
        let [gain, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
        let mut vector = |part: &str| store.vector(&format!("{name}.{part}"), c.hidden, Change::Keep);
        Ok(Norm(vector(gain)?, vector(bias)?))
    }

    fn linear_weights(&self, store: &mut Store<'_>, name: &str, out: usize, from: usize) -> Result<Linear> {
        let weight = store.matrix(&format!("{name}.weight"), [out, from], 0..out, &[out, from])?;
        Ok(Linear { weight, bias: Some(store.vector(&format!("{name}.bias"), out, Change::Keep)?) })
    }

    fn layer_weights(&self, store: &mut Store<'_>, index: usize) -> Result<Layer> {
        let (c, row) = (self.c, self.c.row);
        let at = |part: &str| format!("{}{}{index}.{part}", self.prefix, row.layer);
        let [q, k, v, o, up, down] = row.products.map(at);
        let [first, second] = row.norms.map(at);
        let (h, wide) = (c.hidden, c.intermediate);
        Ok(Layer {
            q: self.linear_weights(store, &q, h, h)?,
            k: self.linear_weights(store, &k, h, h)?,
            v: self.linear_weights(store, &v, h, h)?,
            o: self.linear_weights(store, &o, h, h)?,
            norm: self.norm_weights(store, &first)?,
            up: self.linear_weights(store, &up, wide, h)?,
            down: self.linear_weights(store, &down, h, wide)?,
            out_norm: self.norm_weights(store, &second)?,
        })
    }

    fn ends(&self, store: &mut Store<'_>) -> Result<Ends> {
        let c = self.c;
        let at = |part: &str| format!("{}{part}", self.prefix);
        let words = store.matrix(
            &at("embeddings.word_embeddings.weight"),
            [c.vocab, c.hidden],
            0..c.vocab,
            &[c.vocab, c.hidden],
        );
        let words = words?;
        store.lut = None;
        let mut table =
            |name: &str, rows: usize| match store.matrix(&at(name), [rows, c.hidden], 0..rows, &[rows, c.hidden])? {
                Matrix::Dense(value) => Ok::<_, ConvertError>(value),
                Matrix::Table { .. } => {
                    Err(ConvertError::invalid(&self.from.folder, format!("tensor `{name}`"), "numbers", "a table"))
                }
            };
        let positions = table("embeddings.position_embeddings.weight", c.positions)?;
        let types = (c.types > 0).then(|| table("embeddings.token_type_embeddings.weight", c.types)).transpose()?;
        let norm = self.norm_weights(store, &at("embeddings.LayerNorm"))?;
        let bias = c.row.relative.map(|name| self.relative(store, &at(name))).transpose()?;
        let pooler = at("pooler.dense");
        let has = self.modules.is_none() && c.head.is_none() && self.from.has(&format!("{pooler}.weight"));
        let pooler = has.then(|| self.linear_weights(store, &pooler, c.hidden, c.hidden)).transpose()?;
        let head = self.head_weights(store)?;
        let mut dense = Vec::new();
        for d in self.modules.iter().flat_map(|m| &m.dense) {
            let from = Checkpoint::open(&d.folder)?;
            let mut own = Store { from: &from, to: store.to, prefix: "", lut: None };
            let weight = own.matrix("linear.weight", [d.out, d.inputs], 0..d.out, &[d.out, d.inputs])?;
            let bias = d.bias.then(|| own.vector("linear.bias", d.out, Change::Keep)).transpose()?;
            from.all_used(&|_| false)?;
            dense.push((Linear { weight, bias }, d.clone()));
        }
        Ok(Ends { words, positions, types, norm, bias, pooler, head, dense })
    }

    /// Biases of every pair of positions (transformers, `MPNetEncoder.relative_position_bucket`).
    fn relative(&self, store: &mut Store<'_>, name: &str) -> Result<Value> {
        let (c, n, buckets) = (self.c, self.length(), self.c.buckets);
        let table = self.from.numbers(name, &[buckets, c.heads], 0..buckets, Change::Keep)?;
        let half = buckets / 2;
        let exact = half / 2;
        let bucket = |from: usize, to: usize| {
            let far = from.abs_diff(to);
            // In f32, as the formula's logarithms are.
            let log = (far as f32 / exact as f32).ln() / (128.0 / exact as f64).ln() as f32;
            let near = if far < exact { far } else { (exact + (log * (half - exact) as f32) as usize).min(half - 1) };
            near + if to > from { half } else { 0 }
        };
        let row = |i: usize| {
            let (head, from) = (i / n, i % n);
            let numbers: Vec<f32> = (0..n).map(|to| table[bucket(from, to) * c.heads + head]).collect();
            coreml_write::edit::packed::floats(HALF, &numbers).unwrap_or_default()
        };
        Ok(store.to.weight(HALF, &[1, c.heads, n, n], (0..c.heads * n).map(row))?)
    }

    fn build(&self, f: &mut FunctionBuilder, ends: &Ends, layers: &[Layer]) -> std::result::Result<(), BuildError> {
        let c = self.c;
        let up_to = |n: usize| DimRange { min: 1, max: Some(n) };
        let extents = || Extents::Ranges(vec![up_to(self.o.batch), up_to(self.length())], vec![1, 1]);
        let ids = f.input("input_ids", DataType::I32, extents())?;
        let mask = f.input("attention_mask", DataType::I32, extents())?;
        // All tokens are of the only kind.
        let typed = ends.types.is_some() && c.types > 1;
        let types = typed.then(|| f.input(TYPES, DataType::I32, extents())).transpose()?;

        let sizes = f.op("shape").arg("x", &ids).done()?;
        let tokens = net::element(f, &sizes, 1)?;
        let words = net::matrix(f, "model_model_embed_tokens_weight", &ends.words)?;
        let mut x = f.op("gather").arg("x", &words).arg("indices", &ids).arg("axis", 0).done()?;
        if let Some(table) = &ends.types {
            let table = f.shared("token_types", table.clone());
            let rows = match &types {
                Some(types) => f.op("gather").arg("x", &table).arg("indices", types).arg("axis", 0).done()?,
                None => table,
            };
            x = f.op("add").arg("x", &x).arg("y", &rows).done()?;
        }
        let rows = self.positions(f, &ends.positions, &ids, &tokens)?;
        let x = f.op("add").arg("x", &x).arg("y", &rows).done()?;
        let mut x = norm(f, &x, &ends.norm, c.eps)?;

        // 1 for tokens, 0 for padding.
        let open = f.op("cast").arg("x", &mask).arg("dtype", "fp16").done()?;
        let closed = closed(f, &open)?;
        let mut closed = f.op("expand_dims").arg("x", &closed).arg("axes", [1, 2]).done()?;
        if let Some(bias) = &ends.bias {
            let bias = f.shared("position_bias", bias.clone());
            let zero = f.shared("zero", Value::ints(&[0]));
            let end = f.op("concat").arg("values", [&zero, &zero, &tokens, &tokens]).arg("axis", 0);
            let end = end.arg("interleave", false).done()?;
            let call = f.op("slice_by_index").arg("x", &bias).arg("begin", [0; 4].map(|n: i32| n)).arg("end", &end);
            let bias = call.arg("end_mask", [true, true, false, false]).done()?;
            closed = f.op("add").arg("x", &closed).arg("y", &bias).done()?;
        }
        for (i, layer) in layers.iter().enumerate() {
            x = self.layer(f, &x, &closed, layer, i)?;
        }
        if let Some(weights) = &ends.head {
            let y = head::logits(f, &x, weights)?;
            f.output("logits", &y)?;
            // As the logits are.
            let states = f.op("cast").arg("x", &x).arg("dtype", "fp32").done()?;
            f.output("last_hidden_state", &states)?;
        } else {
            f.output("last_hidden_state", &x)?;
        }
        if let Some(pooler) = &ends.pooler {
            let first = first(f, &x)?;
            let y = linear(f, &first, pooler, "pooler")?;
            let y = f.op("tanh").arg("x", &y).done()?;
            f.output("pooler_output", &y)?;
        }
        if let Some(modules) = self.modules {
            let y = self.sentence(f, modules, ends, &x, &open)?;
            f.output("sentence_embedding", &y)?;
        }
        Ok(())
    }

    /// Embeddings of positions, `[tokens, width]` or `[texts, tokens, width]`.
    fn positions(&self, f: &mut FunctionBuilder, table: &Value, ids: &Var, tokens: &Var) -> Built {
        let table = f.shared("positions", table.clone());
        match self.c.row.positions {
            Positions::Plain => {
                let zero = f.shared("zero", Value::ints(&[0]));
                let end =
                    f.op("concat").arg("values", [tokens, &zero]).arg("axis", 0).arg("interleave", false).done()?;
                let call = f.op("slice_by_index").arg("x", &table).arg("begin", [0, 0]).arg("end", &end);
                call.arg("end_mask", [false, true]).done()
            }
            // Tokens that are not padding are counted from the one after the padding's id.
            Positions::Counted => {
                let pad = self.c.pad;
                let real = f.op("not_equal").arg("x", ids).arg("y", pad).done()?;
                let real = f.op("cast").arg("x", &real).arg("dtype", "int32").done()?;
                let count = f.op("cumsum").arg("x", &real).arg("axis", 1).done()?;
                let at = f.op("mul").arg("x", &count).arg("y", &real).done()?;
                let at = f.op("add").arg("x", &at).arg("y", pad).done()?;
                f.op("gather").arg("x", &table).arg("indices", &at).arg("axis", 0).done()
            }
        }
    }

    fn layer(&self, f: &mut FunctionBuilder, x: &Var, closed: &Var, w: &Layer, index: usize) -> Built {
        let c = self.c;
        let (heads, size) = (c.heads as i32, (c.hidden / c.heads) as i32);
        let name = |part: &str| format!("layer_{index}_{part}");
        let split = |f: &mut FunctionBuilder, w: &Linear, part: &str| {
            let y = linear(f, x, w, &name(part))?;
            let y = f.op("expand_dims").arg("x", &y).arg("axes", [2]).done()?;
            let y = f.op("reshape").arg("x", &y).arg("shape", [0, 0, heads, size]).done()?;
            net::transpose(f, &y, &[0, 2, 1, 3])
        };
        let (q, k, v) = (split(f, &w.q, "query")?, split(f, &w.k, "key")?, split(f, &w.v, "value")?);
        let q = f.op("mul").arg("x", &q).arg("y", f64::from(size).powf(-0.5)).done()?;
        let scores = f.op("matmul").arg("x", &q).arg("y", &k).arg("transpose_y", true).done()?;
        let scores = f.op("add").arg("x", &scores).arg("y", closed).done()?;
        let share = f.op("softmax").arg("x", &scores).arg("axis", -1).done()?;
        let y = f.op("matmul").arg("x", &share).arg("y", &v).done()?;
        let y = net::transpose(f, &y, &[0, 2, 1, 3])?;
        let y = f.op("reshape").arg("x", &y).arg("shape", [0, 0, 1, heads * size]).done()?;
        let y = f.op("squeeze").arg("x", &y).arg("axes", [2]).done()?;
        let y = linear(f, &y, &w.o, &name("output"))?;
        let y = f.op("add").arg("x", x).arg("y", &y).done()?;
        let x = norm(f, &y, &w.norm, c.eps)?;
        let y = linear(f, &x, &w.up, &name("up"))?;
        let y = match c.act {
            "relu" | "silu" => f.op(c.act).arg("x", &y).done()?,
            mode => f.op("gelu").arg("x", &y).arg("mode", mode).done()?,
        };
        let y = linear(f, &y, &w.down, &name("down"))?;
        let y = f.op("add").arg("x", &x).arg("y", &y).done()?;
        norm(f, &y, &w.out_norm, c.eps)
    }

    /// One vector a text, by the modules of sentence-transformers.
    fn sentence(&self, f: &mut FunctionBuilder, m: &Modules, ends: &Ends, x: &Var, open: &Var) -> Built {
        let count =
            |f: &mut FunctionBuilder| f.op("reduce_sum").arg("x", open).arg("axes", [1]).arg("keep_dims", true).done();
        let mut y = match m.pooling {
            Pooling::First => first(f, x)?,
            Pooling::Max => {
                let closed = closed(f, open)?;
                let closed = f.op("expand_dims").arg("x", &closed).arg("axes", [2]).done()?;
                let y = f.op("add").arg("x", x).arg("y", &closed).done()?;
                f.op("reduce_max").arg("x", &y).arg("axes", [1]).arg("keep_dims", false).done()?
            }
            Pooling::Mean | Pooling::RootMean => {
                // Shares of the tokens, so that no sum grows with the text.
                let total = count(f)?;
                let total = match m.pooling {
                    Pooling::RootMean => f.op("sqrt").arg("x", &total).done()?,
                    _ => total,
                };
                let share = f.op("real_div").arg("x", open).arg("y", &total).done()?;
                let share = f.op("expand_dims").arg("x", &share).arg("axes", [1]).done()?;
                let y = f.op("matmul").arg("x", &share).arg("y", x).done()?;
                f.op("squeeze").arg("x", &y).arg("axes", [1]).done()?
            }
        };
        for (i, (w, dense)) in ends.dense.iter().enumerate() {
            y = linear(f, &y, w, &format!("dense_{i}"))?;
            if dense.tanh {
                y = f.op("tanh").arg("x", &y).done()?;
            }
        }
        if m.normalize {
            let norm = f.op("reduce_l2_norm").arg("x", &y).arg("axes", [-1]).arg("keep_dims", true).done()?;
            let norm = f.op("maximum").arg("x", &norm).arg("y", LEAST_HALF).done()?;
            y = f.op("real_div").arg("x", &y).arg("y", &norm).done()?;
        }
        Ok(y)
    }
}

/// Input with the kinds of tokens.
const TYPES: &str = "token_type_ids";

/// 0 for tokens, −30000 for padding: far below every score, and finite in fp16.
fn closed(f: &mut FunctionBuilder, open: &Var) -> Built {
    let less = f.op("sub").arg("x", open).arg("y", 1.0).done()?;
    f.op("mul").arg("x", &less).arg("y", 30000.0).done()
}

/// The state of the first token.
fn first(f: &mut FunctionBuilder, x: &Var) -> Built {
    let call = f.op("slice_by_index").arg("x", x).arg("begin", [0, 0, 0]).arg("end", [0, 1, 0]);
    call.arg("end_mask", [true, false, true]).arg("squeeze_mask", [false, true, false]).done()
}
