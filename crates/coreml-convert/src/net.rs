//! Operations that networks are written with, in the forms that the Neural Engine prefers: linear layers as 1×1
//! convolutions over `[1, channels, 1, tokens]`, RMS norms as layer norms of (x, −x).

use std::cell::RefCell;
use std::collections::HashMap;

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

impl Matrix {
    /// Its first extent.
    pub(crate) fn rows(&self) -> usize {
        let (Self::Dense(value) | Self::Table { indices: value, .. }) = self;
        value.ty.tensor().and_then(|t| t.shape.first()?.fixed()).unwrap_or(0)
    }
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

/// x · cos + (−x₂, x₁) · sin, written as (x₁ · cos − x₂ · sin, x₂ · cos + x₁ · sin): `cos` and `sin` are their first halves.
pub(crate) fn rotate_halves(f: &mut FunctionBuilder, x: &Var, cos: &Var, sin: &Var, head: usize) -> Built {
    let (first, second) = (last(f, x, 0, head / 2)?, last(f, x, head / 2, head)?);
    let mul = |f: &mut FunctionBuilder, x: &Var, y: &Var| f.op("mul").arg("x", x).arg("y", y).done();
    let (a, b) = (mul(f, &first, cos)?, mul(f, &second, sin)?);
    let left = f.op("sub").arg("x", &a).arg("y", &b).done()?;
    let (a, b) = (mul(f, &second, cos)?, mul(f, &first, sin)?);
    let right = f.op("add").arg("x", &a).arg("y", &b).done()?;
    f.op("concat").arg("values", [&left, &right]).arg("axis", -1).arg("interleave", false).done()
}

/// Rows of a table `[1, positions, head]` at these positions, as `[1, 1, tokens, head]`.
pub(crate) fn positions(f: &mut FunctionBuilder, lookups: &mut Lookups, table: &Value, at: &Var) -> Built {
    let table = f.shared("rope", table.clone());
    let rows = lookups.gather(f, &table, at, 1)?;
    let all = shape(&rows);
    let (tokens, head) = (all[1], all[2]);
    let rows = reshape(f, &rows, &[1, tokens, 1, head])?;
    if tokens == 1 { Ok(rows) } else { transpose(f, &rows, &[0, 2, 1, 3]) }
}

/// Softmax over the last axis: one operation, or five.
pub(crate) fn softmax(f: &mut FunctionBuilder, x: &Var, spelled: bool) -> Built {
    if !spelled {
        return f.op("softmax").arg("x", x).arg("axis", -1).done();
    }
    let largest = f.op("reduce_max").arg("x", x).arg("axes", [-1]).arg("keep_dims", true).done()?;
    let x = f.op("sub").arg("x", x).arg("y", &largest).done()?;
    let x = f.op("exp").arg("x", &x).done()?;
    let sum = f.op("reduce_sum").arg("x", &x).arg("axes", [-1]).arg("keep_dims", true).done()?;
    f.op("real_div").arg("x", &x).arg("y", &sum).done()
}

/// Softmax(q·kᵀ·scale + mask)·v, with keys `[1, heads, length, head]` and values of this shape or, for a product of three
/// axes, `[heads, length, head]`.
pub(crate) fn attention(
    f: &mut FunctionBuilder,
    q: &Var,
    k: &Var,
    v: &Var,
    scale: f64,
    mask: &Var,
    spelled: bool,
) -> Built {
    let scores = f.op("matmul").arg("x", q).arg("y", k).arg("transpose_x", false).arg("transpose_y", true).done()?;
    let scores = f.op("mul").arg("x", &scores).arg("y", scale).done()?;
    let scores = f.op("add").arg("x", &scores).arg("y", mask).done()?;
    let mut weights = softmax(f, &scores, spelled)?;
    let (all, values) = (shape(&weights), shape(v));
    let flat = values.len() == 3;
    if flat {
        weights = reshape(f, &weights, &all[1..])?;
    }
    let product = f.op("matmul").arg("x", &weights).arg("y", v).arg("transpose_x", false).arg("transpose_y", false);
    let product = product.done()?;
    if flat { reshape(f, &product, &[1, all[1], all[2], values[2]]) } else { Ok(product) }
}

/// A vector `[row, 0, position, 0]` of a position that is known at run time.
pub(crate) fn bound(f: &mut FunctionBuilder, row: usize, position: &Var) -> Built {
    let (row, zero) = (f.shared("row", Value::ints(&[row as i32])), f.shared("zero", Value::ints(&[0])));
    f.op("concat").arg("values", [&row, &zero, position, &zero]).arg("axis", 0).arg("interleave", false).done()
}

/// Writes `x` `[1, kv, tokens, head]` to a row of a cache between two bounds; returns the new content.
pub(crate) fn write(f: &mut FunctionBuilder, cache: &State, x: &Var, begin: &Var, end: &Var) -> Built {
    let content = cache.read(f)?;
    let call = f.op("slice_update").arg("x", &content).arg("update", x).arg("begin", begin).arg("end", end);
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

/// Values of a row of a cache for a product of three axes, `[heads, length, head]`, as many as a mask has columns: in one
/// reshape, or in two.
pub(crate) fn flat_values(
    f: &mut FunctionBuilder,
    content: &Var,
    row: usize,
    heads: usize,
    mask: &Var,
    one: bool,
) -> Built {
    let (columns, length) = (shape(mask)[3], shape(content)[2]);
    if one && length <= columns {
        return repeated(f, content, row, heads, true);
    }
    let values = repeated(f, content, row, heads, false)?;
    let values = as_long_as(f, &values, mask)?;
    let all = shape(&values);
    reshape(f, &values, &all[1..])
}

/// Shifts a row of a cache by the tokens of `x` and appends them; returns the new content.
pub(crate) fn append(f: &mut FunctionBuilder, cache: &State, x: &Var, row: usize) -> Built {
    let content = cache.read(f)?;
    let (all, tokens) = (shape(&content), shape(x)[2]);
    let (kv, length, head) = (all[1], all[2], all[3]);
    let shifted = if tokens == length {
        x.clone()
    } else {
        let old = part(f, &content, &[row, 0, 0, 0], &[row + 1, kv, length, head])?;
        let tail = part(f, &old, &[0, 0, tokens, 0], &[1, kv, length, head])?;
        f.op("concat").arg("values", [&tail, x]).arg("axis", 2).arg("interleave", false).done()?
    };
    replace(f, cache, &content, &shifted, &[row, 0, 0, 0], &[row + 1, kv, length, head])
}

/// A row of a cache, each head repeated for the query heads that share it: `[1, heads, length, head]`, or without the first
/// axis.
pub(crate) fn repeated(f: &mut FunctionBuilder, content: &Var, row: usize, heads: usize, flat: bool) -> Built {
    let all = shape(content);
    let (kv, length, head) = (all[1], all[2], all[3]);
    let entry = part(f, content, &[row, 0, 0, 0], &[row + 1, kv, length, head])?;
    let share = heads / kv;
    if share == 1 || kv == 1 {
        let tiled = match share {
            1 => entry,
            _ => f.op("tile").arg("x", &entry).arg("reps", [1, share, 1, 1]).done()?,
        };
        return if flat { reshape(f, &tiled, &[heads, length, head]) } else { Ok(tiled) };
    }
    let entry = f.op("squeeze").arg("x", &entry).arg("axes", [0]).done()?;
    let wide = f.op("expand_dims").arg("x", &entry).arg("axes", [1]).done()?;
    let tiled = f.op("tile").arg("x", &wide).arg("reps", [1, share, 1, 1]).done()?;
    let all = [1, heads, length, head];
    reshape(f, &tiled, if flat { &all[1..] } else { &all })
}

/// Zero, made of the first element of a cache.
pub(crate) fn nothing(f: &mut FunctionBuilder, cache: &State) -> Built {
    let mut first = cache.read(f)?;
    while !shape(&first).is_empty() {
        let extents = shape(&first);
        let mut end = extents.clone();
        end[0] = 1;
        let outer: Vec<bool> = (0..extents.len()).map(|i| i == 0).collect();
        let inner: Vec<bool> = outer.iter().map(|o| !o).collect();
        let call = f.op("slice_by_index").arg("x", &first).arg("begin", vec![0usize; extents.len()]).arg("end", end);
        first = call.arg("end_mask", inner.as_slice()).arg("squeeze_mask", outer.as_slice()).done()?;
    }
    f.op("mul").arg("x", &first).arg("y", 0.0).done()
}

/// Rows of the longest table whose indices are narrowed to 16 bits.
const NARROW: usize = i16::MAX as usize;

/// True if indices of this many elements are narrowed to 16 bits.
pub(crate) fn is_narrow(elements: usize) -> bool {
    elements <= NARROW
}

pub(crate) fn cast(f: &mut FunctionBuilder, x: &Var, dtype: &str) -> Built {
    f.op("cast").arg("x", x).arg("dtype", dtype).done()
}

/// Look-ups of a function in tables, with indices as coremltools' passes `add_int16_cast` and
/// `guard_negative_gather_indices` leave them: the first ones, and those of tables that are too long for 16 bits, count from
/// the end where they are negative.
#[derive(Default)]
pub(crate) struct Lookups {
    begun: bool,
    /// Whether the passes ran twice, as they do before tables are made and after.
    twice: bool,
    /// Indices that are ready, by name and rows of the table; no rows where these don't matter.
    ready: HashMap<(String, Option<usize>), Var>,
}

impl Lookups {
    /// Those of a package with tables, or without.
    pub(crate) fn new(twice: bool) -> Self {
        Self { twice, ..Self::default() }
    }

    fn guard(&self, f: &mut FunctionBuilder, at: &Var, rows: usize) -> Built {
        let guarded = from_end(f, at, rows)?;
        if self.twice { from_end(f, &guarded, rows) } else { Ok(guarded) }
    }

    pub(crate) fn gather(&mut self, f: &mut FunctionBuilder, table: &Var, at: &Var, axis: usize) -> Built {
        let rows = shape(table)[axis];
        let first = !std::mem::replace(&mut self.begun, true);
        let key = (at.name().to_owned(), (!is_narrow(rows)).then_some(rows));
        let indices = match self.ready.get(&key) {
            Some(ready) => ready.clone(),
            None if first && is_narrow(rows) => {
                let narrow = cast(f, at, "int16")?;
                let wide = cast(f, &narrow, "int32")?;
                let guarded = from_end(f, &wide, rows)?;
                let narrow = cast(f, &guarded, "int16")?;
                if self.twice {
                    let wide = cast(f, &narrow, "int32")?;
                    from_end(f, &wide, rows)?
                } else {
                    narrow
                }
            }
            None => {
                let new = if is_narrow(rows) { cast(f, at, "uint16")? } else { self.guard(f, at, rows)? };
                self.ready.insert(key, new.clone());
                new
            }
        };
        let axis = i32::try_from(axis).unwrap_or_default();
        let call = f.op("gather").arg("x", table).arg("indices", &indices).arg("axis", axis);
        call.arg("batch_dims", 0).arg("validate_indices", false).done()
    }
}

/// Indices, those below zero counted from the end of `rows`.
fn from_end(f: &mut FunctionBuilder, at: &Var, rows: usize) -> Built {
    let fine = f.op("greater_equal").arg("x", at).arg("y", 0).done()?;
    let moved = f.op("add").arg("x", at).arg("y", rows).done()?;
    f.op("select").arg("cond", &fine).arg("a", at).arg("b", &moved).done()
}

/// Token ids to rows of a table.
pub(crate) fn embed(
    f: &mut FunctionBuilder,
    lookups: &mut Lookups,
    table: &Matrix,
    ids: &Var,
    scale: Option<f64>,
) -> Built {
    let table = matrix(f, "model_model_embed_tokens_weight", table)?;
    let rows = lookups.gather(f, &table, ids, 0)?;
    match scale {
        Some(scale) => f.op("mul").arg("x", &rows).arg("y", scale).done(),
        None => Ok(rows),
    }
}

/// Element type of all numbers.
pub(crate) const HALF: DataType = DataType::F16;
