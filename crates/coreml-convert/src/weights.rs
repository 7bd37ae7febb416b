//! Weights of a decoder, streamed from the checkpoint into the weight file of a package.

use std::cell::RefCell;
use std::ops::Range;

use coreml_compress::kmeans;
use coreml_format::dtype::DataType;
use coreml_format::program::Value;
use coreml_write::builder::PackageBuilder;
use coreml_write::edit::packed;

use crate::checkpoint::{Change, Checkpoint};
use crate::config::{Config, Family, Rope};
use crate::error::{ConvertError, Result};
use crate::net::{HALF, Matrix};

/// Tables for the weights of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lut {
    /// Bits of an index: 1, 2, 3, 4, 6 or 8.
    pub bits: usize,
    /// Output channels that share a table; all if omitted.
    pub group: Option<usize>,
}

/// Fewest elements of a weight that gets tables, as in coremltools.
const SMALLEST: usize = 2049;

/// Where weights come from and go to.
pub(crate) struct Store<'a> {
    pub(crate) from: &'a Checkpoint,
    pub(crate) to: &'a mut PackageBuilder,
    /// Prefix of the decoder's tensors.
    pub(crate) prefix: &'a str,
    pub(crate) lut: Option<Lut>,
}

/// A projection.
#[derive(Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Value>,
}

/// Weights of a layer.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) index: usize,
    pub(crate) input_norm: Value,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) q_norm: Option<Value>,
    pub(crate) k_norm: Option<Value>,
    /// After attention: Gemma's norm of its result, else the norm before the MLP.
    pub(crate) post_norm: Value,
    /// Gemma's norms around the MLP.
    pub(crate) mlp_norms: Option<(Value, Value)>,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

impl Store<'_> {
    /// Rows of a tensor `[rows, columns]`, in a shape with as many elements; with tables if this part has them.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        stored: [usize; 2],
        rows: Range<usize>,
        shape: &[usize],
    ) -> Result<Matrix> {
        match self.lut.filter(|_| rows.len() * stored[1] >= SMALLEST) {
            Some(lut) => self.table(name, stored, rows, shape, lut),
            None => Ok(Matrix::Dense(self.dense(name, &stored, rows, shape, Change::Keep)?)),
        }
    }

    fn dense(
        &mut self,
        name: &str,
        stored: &[usize],
        rows: Range<usize>,
        shape: &[usize],
        change: Change,
    ) -> Result<Value> {
        // Wrong shapes and missing tensors are found before anything is written.
        self.from.numbers(name, stored, rows.start..rows.start, change)?;
        let failed = RefCell::new(None);
        let value = self.to.weight(HALF, shape, self.from.halves(name, stored, rows, change, &failed));
        match failed.into_inner() {
            Some(e) => Err(e),
            None => Ok(value?),
        }
    }

    /// K-means tables, a group of rows at a time on every core.
    fn table(
        &mut self,
        name: &str,
        stored: [usize; 2],
        rows: Range<usize>,
        shape: &[usize],
        lut: Lut,
    ) -> Result<Matrix> {
        let count = rows.len();
        // As in coremltools: rows that the group does not divide share one table.
        let group = lut.group.filter(|g| count.is_multiple_of(*g)).unwrap_or(count);
        let entries = 1usize << lut.bits;
        let from = self.from;
        let one = |g: usize| -> Result<(Vec<f32>, Vec<u8>)> {
            let start = rows.start + g * group;
            let numbers = from.numbers(name, &stored, start..start + group, Change::Keep)?;
            let numbers: Vec<f32> = numbers.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect();
            let mut table = kmeans::optimal(&numbers, None, entries);
            table.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
            let indices = kmeans::nearest(&numbers, &table);
            table.resize(entries, 0.0);
            Ok((table, indices))
        };
        // Groups are independent; what is held are the indices of one matrix.
        let all = coreml_compress::parallel(count / group.max(1), one).ok_or_else(|| ConvertError::cancelled(name))?;
        let all = all.into_iter().collect::<Result<Vec<_>>>()?;
        let luts: Vec<f32> = all.iter().flat_map(|(t, _)| t.iter().copied()).collect();
        let indices: Vec<u8> = all.into_iter().flat_map(|(_, i)| i).collect();
        let dtype = DataType::unsigned(lut.bits);
        let mut form = vec![1; shape.len()];
        form[0] = count / group.max(1);
        form.extend([entries, 1]);
        let indices = self.to.weight(dtype, shape, [packed::pack_bits(lut.bits, &indices)])?;
        let lut = self.to.weight(HALF, &form, [packed::floats(HALF, &luts).unwrap_or_default()])?;
        Ok(Matrix::Table { indices, lut })
    }

    /// A vector.
    pub(crate) fn vector(&mut self, name: &str, length: usize, change: Change) -> Result<Value> {
        self.dense(name, &[length], 0..length, &[length], change)
    }

    fn linear(&mut self, name: &str, out: usize, from: usize, rank: usize, bias: bool) -> Result<Linear> {
        let name = format!("{}{name}", self.prefix);
        let mut shape = vec![out, from];
        shape.resize(rank, 1);
        let weight = self.matrix(&format!("{name}.weight"), [out, from], 0..out, &shape)?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), out, Change::Keep)).transpose()?;
        Ok(Linear { weight, bias })
    }

    /// A projection, without tables on a condition.
    fn dense_if(
        &mut self,
        dense: bool,
        name: &str,
        out: usize,
        from: usize,
        rank: usize,
        bias: bool,
    ) -> Result<Linear> {
        let lut = self.lut;
        self.lut = lut.filter(|_| !dense);
        let linear = self.linear(name, out, from, rank, bias);
        self.lut = lut;
        linear
    }

    /// Weights of a layer; `rank` is that of the matrices (4 for convolutions, 2 for products).
    pub(crate) fn layer(&mut self, c: &Config, index: usize, rank: usize) -> Result<Layer> {
        let gemma = c.family == Family::Gemma3;
        let change = if gemma { Change::PlusOne } else { Change::Keep };
        let at = format!("layers.{index}.");
        let prefix = self.prefix.to_owned();
        let norm = |s: &mut Self, name: &str, n: usize| s.vector(&format!("{prefix}{at}{name}.weight"), n, change);
        let (q, kv) = (c.heads * c.head, c.kv * c.head);
        let bias = c.family == Family::Qwen2;
        let heads = matches!(c.family, Family::Qwen3 | Family::Gemma3);
        // ANEMLL leaves keys and values of Gemma dense.
        let (bare, llama) = (gemma && rank == 4, c.family.is_llama());
        Ok(Layer {
            index,
            input_norm: norm(self, "input_layernorm", c.hidden)?,
            q: self.linear(&format!("{at}self_attn.q_proj"), q, c.hidden, rank, bias)?,
            k: self.dense_if(bare, &format!("{at}self_attn.k_proj"), kv, c.hidden, rank, bias)?,
            v: self.dense_if(bare, &format!("{at}self_attn.v_proj"), kv, c.hidden, rank, bias)?,
            // ANEMLL convolves the result of attention over one axis, but of Llama.
            o: self.linear(
                &format!("{at}self_attn.o_proj"),
                c.hidden,
                q,
                if llama { 2 } else { rank.min(3) },
                false,
            )?,
            q_norm: heads.then(|| norm(self, "self_attn.q_norm", c.head)).transpose()?,
            k_norm: heads.then(|| norm(self, "self_attn.k_norm", c.head)).transpose()?,
            post_norm: norm(self, "post_attention_layernorm", c.hidden)?,
            mlp_norms: gemma
                .then(|| {
                    Ok::<_, ConvertError>((
                        norm(self, "pre_feedforward_layernorm", c.hidden)?,
                        norm(self, "post_feedforward_layernorm", c.hidden)?,
                    ))
                })
                .transpose()?,
            gate: self.linear(&format!("{at}mlp.gate_proj"), c.intermediate, c.hidden, rank, false)?,
            up: self.linear(&format!("{at}mlp.up_proj"), c.intermediate, c.hidden, rank, false)?,
            down: self.linear(&format!("{at}mlp.down_proj"), c.hidden, c.intermediate, rank, false)?,
        })
    }

    /// The norm after the last layer.
    pub(crate) fn final_norm(&mut self, c: &Config) -> Result<Value> {
        let change = if c.family == Family::Gemma3 { Change::PlusOne } else { Change::Keep };
        self.vector(&format!("{}norm.weight", self.prefix), c.hidden, change)
    }

    /// The table of embeddings.
    pub(crate) fn embeddings(&mut self, c: &Config) -> Result<Matrix> {
        self.matrix(
            &format!("{}embed_tokens.weight", self.prefix),
            [c.vocab, c.hidden],
            0..c.vocab,
            &[c.vocab, c.hidden],
        )
    }

    /// Rows of the head's matrix.
    pub(crate) fn head(&mut self, c: &Config, rows: Range<usize>, rank: usize) -> Result<Matrix> {
        let name = head_name(self.from, self.prefix, c)?;
        let mut shape = vec![rows.len(), c.hidden];
        shape.resize(rank, 1);
        self.matrix(&name, [c.vocab, c.hidden], rows, &shape)
    }

    /// Cosines and sines of positions, `[1, positions, head]` each.
    pub(crate) fn rope(&mut self, c: &Config, rope: &Rope, positions: usize) -> Result<(Value, Value)> {
        let mut table = |f: fn(f64) -> f64| {
            let row = |p: usize| {
                let half: Vec<f32> = rope.0.iter().map(|w| f(p as f64 * w) as f32).collect();
                packed::floats(HALF, &[half.as_slice(), half.as_slice()].concat()).unwrap_or_default()
            };
            self.to.weight(HALF, &[1, positions, c.head], (0..positions).map(row))
        };
        Ok((table(f64::cos)?, table(f64::sin)?))
    }
}

/// Name of the head's matrix: its own, or the embeddings.
pub(crate) fn head_name(from: &Checkpoint, prefix: &str, c: &Config) -> Result<String> {
    let own = format!("{}lm_head.weight", prefix.trim_end_matches("model."));
    let names = [own, "lm_head.weight".to_owned()];
    match names.into_iter().find(|n| from.has(n)) {
        Some(name) if !c.tied => Ok(name),
        None if !c.tied => Err(ConvertError::invalid(
            &from.folder,
            "tensor `lm_head.weight`",
            "a matrix, as embeddings are not tied",
            "none",
        )),
        _ => Ok(format!("{prefix}embed_tokens.weight")),
    }
}
