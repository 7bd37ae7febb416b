//! Operations that networks are written with, in the forms that the Neural Engine prefers: linear layers as 1×1
//! convolutions over `[1, channels, 1, tokens]`, RMS norms as layer norms of (x, −x).

use std::cell::RefCell;

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, Value};
use coreml_write::builder::{BuildError, FunctionBuilder, Var};

use crate::weights::Linear;

/// A stored matrix: dense, or indices into tables.
#[derive(Debug, Clone)]
pub(crate) enum Matrix {
    Dense(Value),
    Table { indices: Value, lut: Value },
}

type Built = Result<Var, BuildError>;

/// A state, and its content as it was last read.
pub(crate) struct State {
    var: Var,
    content: RefCell<Option<Var>>,
}

impl State {
    pub(crate) fn new(var: Var) -> Self {
        Self { var, content: RefCell::new(None) }
    }

    /// The content: what was read after it was last written.
    pub(crate) fn read(&self, f: &mut FunctionBuilder) -> Built {
        let known = self.content.borrow().clone();
        match known {
            Some(content) => Ok(content),
            None => {
                let content = f.read_state(&self.var)?;
                self.content.replace(Some(content.clone()));
                Ok(content)
            }
        }
    }

    /// Replaces the content; returns it as it is read then.
    pub(crate) fn write(&self, f: &mut FunctionBuilder, new: &Var) -> Built {
        f.write_state(&self.var, new)?;
        self.content.replace(None);
        self.read(f)
    }
}

/// Extents of a value; every one is known.
fn shape(x: &Var) -> Vec<usize> {
    x.ty().tensor().map(|t| t.shape.iter().map(|d| d.fixed().unwrap_or(1)).collect()).unwrap_or_default()
}

pub(crate) fn matrix(f: &mut FunctionBuilder, name: &str, m: &Matrix) -> Built {
    match m {
        Matrix::Dense(value) => f.constant(name, value.clone()),
        Matrix::Table { indices, lut } => {
            let call = f.op("constexpr_lut_to_dense").named(name);
            call.arg("indices", indices.clone()).arg("lut", lut.clone()).done()
        }
    }
}

/// x · Wᵀ + b of `[.., from]`; `name` is that of the weight.
pub(crate) fn linear(f: &mut FunctionBuilder, x: &Var, w: &Linear, name: &str) -> Built {
    let weight = matrix(f, name, &w.weight)?;
    let bias = w.bias.as_ref().map(|b| f.shared("bias", b.clone()));
    let call = f.op("linear").arg("x", x).arg("weight", &weight);
    match &bias {
        Some(bias) => call.arg("bias", bias).done(),
        None => call.done(),
    }
}

/// x / √(mean(x²) + ε) · gain over the last axis: a layer norm of (x, −x) has mean 0 and variance mean(x²).
pub(crate) fn rms_norm(f: &mut FunctionBuilder, x: &Var, gain: &Value, eps: f64) -> Built {
    let negated = f.op("mul").arg("x", x).arg("y", -1.0).done()?;
    let both = f.op("concat").arg("values", [x, &negated]).arg("axis", -1).arg("interleave", false).done()?;
    let normed = f.op("layer_norm").arg("x", &both).arg("axes", [-1]).arg("epsilon", eps).done()?;
    let half = last(f, &normed, 0, shape(x).last().copied().unwrap_or(0))?;
    let gain = f.shared("gain", gain.clone());
    f.op("mul").arg("x", &half).arg("y", &gain).done()
}

/// Elements `from..to` of the last axis; others as they are, known or not.
pub(crate) fn last(f: &mut FunctionBuilder, x: &Var, from: usize, to: usize) -> Built {
    let dims = x.ty().tensor().map(|t| t.shape.clone()).unwrap_or_default();
    let rank = dims.len();
    let mut begin = vec![0usize; rank];
    let mut end: Vec<usize> = dims.iter().map(|d| d.fixed().unwrap_or(0)).collect();
    let mut open = vec![true; rank];
    (begin[rank - 1], end[rank - 1], open[rank - 1]) = (from, to, dims[rank - 1] == Dim::Fixed(to));
    f.op("slice_by_index").arg("x", x).arg("begin", begin).arg("end", end).arg("end_mask", open.as_slice()).done()
}

/// An element of a vector, as a vector of one.
pub(crate) fn element(f: &mut FunctionBuilder, x: &Var, at: usize) -> Built {
    f.op("slice_by_index").arg("x", x).arg("begin", [at]).arg("end", [at + 1]).done()
}

/// A box of a tensor of known extents.
pub(crate) fn part(f: &mut FunctionBuilder, x: &Var, begin: &[usize], end: &[usize]) -> Built {
    f.op("slice_by_index").arg("x", x).arg("begin", begin).arg("end", end).done()
}

pub(crate) fn transpose(f: &mut FunctionBuilder, x: &Var, perm: &[i32]) -> Built {
    f.op("transpose").arg("x", x).arg("perm", perm).done()
}

pub(crate) fn reshape(f: &mut FunctionBuilder, x: &Var, shape: &[usize]) -> Built {
    f.op("reshape").arg("x", x).arg("shape", shape).done()
}

/// [1, tokens, width] to [1, width, 1, tokens].
pub(crate) fn channels_first(f: &mut FunctionBuilder, x: &Var) -> Built {
    let x = transpose(f, x, &[0, 2, 1])?;
    f.op("expand_dims").arg("x", &x).arg("axes", [2]).done()
}

/// [1, width, 1, tokens] to [1, tokens, width].
pub(crate) fn tokens_first(f: &mut FunctionBuilder, x: &Var) -> Built {
    let x = f.op("squeeze").arg("x", x).arg("axes", [2]).done()?;
    transpose(f, &x, &[0, 2, 1])
}

/// A convolution with kernels of one element, over one or two axes.
pub(crate) fn conv(f: &mut FunctionBuilder, x: &Var, weight: &Var, bias: Option<&Value>) -> Built {
    let bias = bias.map(|b| f.shared("bias", b.clone()));
    let call = f.op("conv").arg("x", x).arg("weight", weight);
    match &bias {
        Some(bias) => call.arg("bias", bias).done(),
        None => call.done(),
    }
}

/// x · cos + (−x₂, x₁) · sin over halves of the last axis.
pub(crate) fn rotate(f: &mut FunctionBuilder, x: &Var, cos: &Var, sin: &Var, head: usize) -> Built {
    let straight = f.op("mul").arg("x", x).arg("y", cos).done()?;
    let (first, second) = (last(f, x, 0, head / 2)?, last(f, x, head / 2, head)?);
    let negated = f.op("mul").arg("x", &second).arg("y", -1.0).done()?;
    let turned = f.op("concat").arg("values", [&negated, &first]).arg("axis", -1).arg("interleave", false).done()?;
    let turned = f.op("mul").arg("x", &turned).arg("y", sin).done()?;
    f.op("add").arg("x", &straight).arg("y", &turned).done()
}

/// Rows of a table `[1, positions, head]` at these positions, as `[1, 1, tokens, head]`.
pub(crate) fn positions(f: &mut FunctionBuilder, table: &Value, at: &Var) -> Built {
    let table = f.shared("rope", table.clone());
    let rows = f.op("gather").arg("x", &table).arg("indices", at).arg("axis", 1).done()?;
    let all = shape(&rows);
    let (tokens, head) = (all[1], all[2]);
    let rows = reshape(f, &rows, &[1, tokens, 1, head])?;
    if tokens == 1 { Ok(rows) } else { transpose(f, &rows, &[0, 2, 1, 3]) }
}

/// Softmax(q·kᵀ·scale + mask)·v, with keys and values `[1, heads, length, head]`.
pub(crate) fn attention(f: &mut FunctionBuilder, q: &Var, k: &Var, v: &Var, scale: f64, mask: &Var) -> Built {
    let scores = f.op("matmul").arg("x", q).arg("y", k).arg("transpose_x", false).arg("transpose_y", true).done()?;
    let scores = f.op("mul").arg("x", &scores).arg("y", scale).done()?;
    let scores = f.op("add").arg("x", &scores).arg("y", mask).done()?;
    let weights = f.op("softmax").arg("x", &scores).arg("axis", -1).done()?;
    f.op("matmul").arg("x", &weights).arg("y", v).arg("transpose_x", false).arg("transpose_y", false).done()
}

/// A vector `[row, 0, position, 0]` of a position that is known at run time.
fn bound(f: &mut FunctionBuilder, row: usize, position: &Var) -> Built {
    let (row, zero) = (f.shared("row", Value::ints(&[row as i32])), f.shared("zero", Value::ints(&[0])));
    f.op("concat").arg("values", [&row, &zero, position, &zero]).arg("axis", 0).arg("interleave", false).done()
}

/// Writes `x` `[1, kv, tokens, head]` to a row of a cache from a position on; returns the new content.
pub(crate) fn write(f: &mut FunctionBuilder, cache: &State, x: &Var, row: usize, from: &Var, to: &Var) -> Built {
    let content = cache.read(f)?;
    let (begin, end) = (bound(f, row, from)?, bound(f, row + 1, to)?);
    let call = f.op("slice_update").arg("x", &content).arg("update", x).arg("begin", &begin).arg("end", &end);
    let call = call.arg("stride", [1, 1, 1, 1]).arg("begin_mask", [false; 4]);
    let new = call.arg("end_mask", [false, true, false, true]).arg("squeeze_mask", [false; 4]).done()?;
    cache.write(f, &new)
}

/// Writes token `t` of `x` `[1, kv, tokens, head]` to the rows `r` of a cache where `update[0, 0, r, t]` is 1; returns the
/// new content.
pub(crate) fn blend(f: &mut FunctionBuilder, cache: &State, x: &Var, row: usize, update: &Var) -> Built {
    let content = cache.read(f)?;
    let (all, masks) = (shape(&content), shape(update));
    let (kv, length, head) = (all[1], all[2], all[3]);
    let rows = length.min(masks[2]);
    let update = if rows < masks[2] { part(f, update, &[0; 4], &[1, 1, rows, masks[3]])? } else { update.clone() };
    let old = part(f, &content, &[row, 0, 0, 0], &[row + 1, kv, rows, head])?;
    let sum = f.op("reduce_sum").arg("x", &update).arg("axes", [-1]).arg("keep_dims", true).done()?;
    let negated = f.op("mul").arg("x", &sum).arg("y", -1.0).done()?;
    let others = f.op("add").arg("x", &negated).arg("y", 1.0).done()?;
    let kept = f.op("mul").arg("x", &old).arg("y", &others).done()?;
    let placed =
        f.op("matmul").arg("x", &update).arg("y", x).arg("transpose_x", false).arg("transpose_y", false).done()?;
    let row_of = f.op("add").arg("x", &kept).arg("y", &placed).done()?;
    replace(f, cache, &content, &row_of, &[row, 0, 0, 0], &[row + 1, kv, rows, head])
}

/// Puts `x` into a box of a cache whose content is `content`; returns the new content.
fn replace(
    f: &mut FunctionBuilder,
    cache: &State,
    content: &Var,
    x: &Var,
    begin: &[usize; 4],
    end: &[usize; 4],
) -> Built {
    let call = f.op("slice_update").arg("x", content).arg("update", x).arg("begin", *begin).arg("end", *end);
    let call = call.arg("stride", [1, 1, 1, 1]).arg("begin_mask", [false; 4]);
    let new = call.arg("end_mask", [false; 4]).arg("squeeze_mask", [false; 4]).done()?;
    cache.write(f, &new)
}

/// The first rows of keys or values `[1, heads, length, head]`, as many as a mask has columns.
pub(crate) fn as_long_as(f: &mut FunctionBuilder, x: &Var, mask: &Var) -> Built {
    let (all, columns) = (shape(x), shape(mask)[3]);
    if all[2] <= columns { Ok(x.clone()) } else { part(f, x, &[0; 4], &[1, all[1], columns, all[3]]) }
}

/// Shifts a row of a cache by the tokens of `x` and appends them; returns the new content.
pub(crate) fn append(f: &mut FunctionBuilder, cache: &State, x: &Var, row: usize) -> Built {
    let content = cache.read(f)?;
    let (all, tokens) = (shape(&content), shape(x)[2]);
    let (kv, length, head) = (all[1], all[2], all[3]);
    let shifted = if tokens == length {
        x.clone()
    } else {
        let tail = part(f, &content, &[row, 0, tokens, 0], &[row + 1, kv, length, head])?;
        f.op("concat").arg("values", [&tail, x]).arg("axis", 2).arg("interleave", false).done()?
    };
    replace(f, cache, &content, &shifted, &[row, 0, 0, 0], &[row + 1, kv, length, head])
}

/// A row of a cache, each head repeated for the query heads that share it: `[1, heads, length, head]`.
pub(crate) fn repeated(f: &mut FunctionBuilder, content: &Var, row: usize, heads: usize) -> Built {
    let all = shape(content);
    let (kv, length, head) = (all[1], all[2], all[3]);
    let entry = part(f, content, &[row, 0, 0, 0], &[row + 1, kv, length, head])?;
    let share = heads / kv;
    if share == 1 {
        return Ok(entry);
    }
    if kv == 1 {
        return f.op("tile").arg("x", &entry).arg("reps", [1, share, 1, 1]).done();
    }
    let entry = f.op("squeeze").arg("x", &entry).arg("axes", [0]).done()?;
    let wide = f.op("expand_dims").arg("x", &entry).arg("axes", [1]).done()?;
    let tiled = f.op("tile").arg("x", &wide).arg("reps", [1, share, 1, 1]).done()?;
    reshape(f, &tiled, &[1, heads, length, head])
}

/// Token ids to rows of a table.
pub(crate) fn embed(f: &mut FunctionBuilder, table: &Matrix, ids: &Var, scale: Option<f64>) -> Built {
    let table = matrix(f, "model_model_embed_tokens_weight", table)?;
    let rows = f.op("gather").arg("x", &table).arg("indices", ids).arg("axis", 0).done()?;
    match scale {
        Some(scale) => f.op("mul").arg("x", &rows).arg("y", scale).done(),
        None => Ok(rows),
    }
}

/// Element type of all numbers.
pub(crate) const HALF: DataType = DataType::F16;
