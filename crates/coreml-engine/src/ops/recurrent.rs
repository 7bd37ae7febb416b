//! Recurrent networks.
//!
//! Semantics follow the reference documentation of coremltools' `recurrent` chapter: x is [steps, batch, inputs]; gates
//! are stacked in the order reset, output, update (gru) and input, forget, output, cell (lstm).
//!
//! `engine.rnn`, `engine.gru` and `engine.lstm` are the recurrent layers of neural networks (coremltools'
//! `NeuralNetwork.proto`): the same cells with a matrix per gate, initial states that default to zero, activations with
//! parameters, pre-activations clipped to ±`limit`, and for an lstm a forget gate that is 1 − the input gate.

use std::sync::Arc;

use candle_core::Tensor;
use coreml_format::program::Opset;
use coreml_kernels::matmul::matmul_t;
use coreml_kernels::matvec::Precision;

use super::linear::copies;
use crate::array::Array;
use crate::budget;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::{INTERNAL, OpSpec, since::*};
use crate::planned::Run;
use crate::shape::check_size;
use crate::value::Value;
use crate::weight::Weight;

use activation::{Activation, bounded, sigmoid_or, tanh_or};

mod activation;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("gru", IOS15_17_18, gru).kernel("product on stored weights"),
    OpSpec::new("lstm", IOS15_17, lstm).kernel("product on stored weights"),
    OpSpec::new("rnn", IOS15_17, rnn).kernel("product on stored weights"),
];

/// The same for layers of neural networks.
pub(super) const LAYERS: &[OpSpec] = &[
    OpSpec::new("engine.gru", &[], gru).kernel("product on stored weights"),
    OpSpec::new("engine.lstm", &[], lstm).kernel("product on stored weights"),
    OpSpec::new("engine.rnn", &[], rnn).kernel("product on stored weights"),
];

/// True for layers of neural networks.
fn is_layer(b: &OpBuilder<'_>) -> bool {
    b.op().kind.starts_with(INTERNAL)
}

/// The bound of pre-activations; none outside of layers of networks.
fn limit(b: &OpBuilder<'_>) -> Result<f32, OpError> {
    let limit = if is_layer(b) { b.attr_or("limit", f32::INFINITY)? } else { f32::INFINITY };
    if limit > 0.0 { Ok(limit) } else { Err(OpError::data(format!("values clipped to {limit}"))) }
}

/// The slot of an initial state; a layer of a network may lack it.
fn state(b: &OpBuilder<'_>, name: &str) -> Result<Option<Slot>, OpError> {
    if is_layer(b) { b.slot_opt(name) } else { b.slot(name).map(Some) }
}

/// An initial state for `[batch, hidden]`: zeros if there is none.
fn initial(f: &Frame<'_>, slot: Option<Slot>, cell: &Cell) -> Result<Vec<f32>, OpError> {
    match slot {
        Some(slot) => f.array(slot)?.to_f32s(),
        None => budget::filled(0.0, check_size(&[cell.batch, cell.hidden])?),
    }
}

/// Weights of one direction.
struct Weights {
    /// The rows of all gates, or a matrix for each.
    ih: Vec<Slot>,
    hh: Vec<Slot>,
    bias: Option<Slot>,
    input_bias: Option<Slot>,
    peephole: Option<Slot>,
}

impl Weights {
    /// The parameters `weight_ih`, `weight_hh` and `bias?`, with the suffix of a direction.
    fn new(b: &OpBuilder<'_>, suffix: &str) -> Result<Self, OpError> {
        let name = |n: &str| format!("{n}{suffix}");
        let matrices = |n: &str| if is_layer(b) { b.slots(n) } else { Ok(vec![b.slot(n)?]) };
        Ok(Self {
            ih: matrices(&name("weight_ih"))?,
            hh: matrices(&name("weight_hh"))?,
            bias: b.slot_opt(&name("bias"))?,
            input_bias: None,
            peephole: None,
        })
    }

    /// Same as `new`, with `peephole?`.
    fn with_peephole(b: &OpBuilder<'_>, suffix: &str) -> Result<Self, OpError> {
        let peephole = b.slot_opt(&format!("peephole{suffix}"))?;
        Ok(Self { peephole, ..Self::new(b, suffix)? })
    }
}

/// Rows of a matrix, in one or several parts of the same width.
struct Matrix(Vec<Arc<Weight>>);

impl Matrix {
    /// In stored form, or built from computed values.
    fn new(f: &Frame<'_>, slots: &[Slot]) -> Result<Self, OpError> {
        let part = |&slot: &Slot| match f.value(slot)? {
            Value::Weight(w) => Ok(w.clone()),
            _ => Ok(Arc::new(Weight::from_array(&f.array(slot)?)?)),
        };
        Ok(Self(slots.iter().map(part).collect::<Result<_, OpError>>()?))
    }

    /// Rows and columns.
    fn shape(&self) -> Result<(usize, usize), OpError> {
        let mut all = (0usize, None);
        for part in &self.0 {
            let &[rows, columns] = part.shape() else {
                return Err(OpError::shape(format!("weights of shape {:?}", part.shape())));
            };
            if all.1.is_some_and(|c| c != columns) {
                return Err(OpError::shape("weights of gates with different widths"));
            }
            all = (all.0.saturating_add(rows), Some(columns));
        }
        Ok((all.0, all.1.ok_or_else(|| OpError::Missing("weight_ih".to_owned()))?))
    }

    /// `x · Wᵀ + bias` for contiguous rows of `x`; of the part at `index` alone if there is one.
    fn times(&self, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) -> Result<(), OpError> {
        if y.is_empty() {
            return Ok(());
        }
        let product = |part: &Weight, bias: Option<&[f32]>, y: &mut [f32]| {
            let matrix = part.matrix().ok_or_else(|| OpError::shape("a weight without dimensions"))?;
            matmul_t(matrix, x, bias, Precision::Single, y);
            Ok(())
        };
        if let [whole] = &self.0[..] {
            return product(whole, bias, y);
        }
        let (rows, columns) = self.shape()?;
        let count = x.len().checked_div(columns).unwrap_or(0);
        let mut start = 0;
        for part in &self.0 {
            let width = part.shape()[0];
            let bias = bias.map(|b| &b[start..start + width]);
            if count == 1 {
                product(part, bias, &mut y[start..start + width])?;
            } else {
                let mut own = budget::filled(0f32, count.saturating_mul(width))?;
                product(part, bias, &mut own)?;
                for (y, own) in y.chunks_exact_mut(rows).zip(own.chunks_exact(width)) {
                    y[start..start + width].copy_from_slice(own);
                }
            }
            start += width;
        }
        Ok(())
    }
}

/// One direction with its weights resolved.
struct Cell {
    /// Wx + b for every step: [steps, batch, gates · hidden].
    inputs: Vec<f32>,
    /// Recurrent weights: [gates · hidden, hidden].
    hh: Matrix,
    bias: Vec<f32>,
    peephole: Option<Vec<f32>>,
    steps: usize,
    batch: usize,
    gates: usize,
    hidden: usize,
}

impl Cell {
    /// `split`: the bias is not added to the inputs (gru adds its parts separately).
    fn new(f: &Frame<'_>, x: &Array, w: &Weights, gates: usize, split: bool) -> Result<Self, OpError> {
        let (ih, hh) = (Matrix::new(f, &w.ih)?, Matrix::new(f, &w.hh)?);
        let ((rows, columns), (rows2, hidden)) = (ih.shape()?, hh.shape()?);
        let &[steps, batch, width] = x.shape() else { return Err(OpError::shape(format!("x {:?}", x.shape()))) };
        if columns != width || rows != rows2 || hidden.checked_mul(gates) != Some(rows) {
            let (ih, hh) = ([rows, columns], [rows2, hidden]);
            return Err(OpError::shape(format!("x {:?}, weights {ih:?} and {hh:?}", x.shape())));
        }
        let vector = |slot: Option<Slot>, n: usize| -> Result<Option<Vec<f32>>, OpError> {
            let Some(slot) = slot else { return Ok(None) };
            let v = f.array(slot)?.to_f32s()?;
            if v.len() == n { Ok(Some(v)) } else { Err(OpError::shape(format!("a bias of {} for {n}", v.len()))) }
        };
        let bias = vector(w.bias, rows)?.unwrap_or_else(|| vec![0.0; rows]);
        let mut own = vector(w.input_bias, rows)?.unwrap_or_else(|| vec![0.0; rows]);
        if !split {
            own.iter_mut().zip(&bias).for_each(|(o, b)| *o += b);
        }
        let count = check_size(&[steps, batch, rows])?;
        budget::claim_of::<f32>(count)?;
        let _rows = budget::lent(copies(steps * batch, width))?;
        budget::products(&[steps, batch, rows, width.saturating_add(hidden)])?;
        let mut inputs = coreml_kernels::buffer_pool::zeros(count);
        ih.times(&x.to_f32s()?, Some(&own), &mut inputs)?;
        let peephole = vector(w.peephole, 3 * hidden)?;
        Ok(Self { inputs, hh, bias, peephole, steps, batch, gates, hidden })
    }

    /// Runs all steps; `step(inputs, recurrent, h, c)` updates one batch row and may overwrite `recurrent`. Returns
    /// every h, [steps, batch, hidden], in the order of computation.
    ///
    /// Initial-state rows beyond the batch are ignored: programs converted from packed sequences have one for each step
    /// of the longest sequence.
    fn run(
        &self,
        h: &mut Vec<f32>,
        c: &mut Vec<f32>,
        reverse: bool,
        mut step: impl FnMut(&[f32], &mut [f32], &mut [f32], &mut [f32]) -> Result<(), OpError>,
    ) -> Result<Vec<f32>, OpError> {
        let (n, size) = (self.gates * self.hidden, self.batch * self.hidden);
        let rows = |state: &Vec<f32>| state.len() >= size && state.len().is_multiple_of(self.hidden.max(1));
        if !rows(h) || !rows(c) {
            return Err(OpError::shape(format!("initial states of {} and {} for {size}", h.len(), c.len())));
        }
        h.truncate(size);
        c.truncate(size);
        let mut all = budget::room(check_size(&[self.steps, size])?)?;
        let mut recurrent = budget::filled(0f32, check_size(&[self.batch, n])?)?;
        for k in 0..self.steps {
            let t = if reverse { self.steps - 1 - k } else { k };
            self.hh.times(h, None, &mut recurrent)?;
            for row in 0..self.batch {
                let cells = row * self.hidden..(row + 1) * self.hidden;
                step(
                    &self.inputs[(t * self.batch + row) * n..][..n],
                    &mut recurrent[row * n..][..n],
                    &mut h[cells.clone()],
                    &mut c[cells],
                )?;
            }
            all.extend_from_slice(h);
        }
        Ok(all)
    }

    /// The outputs: all states or the last one, then the last one.
    fn outputs(&self, x: &Array, all: Vec<f32>, h: Vec<f32>, sequence: bool) -> Result<Vec<Value>, OpError> {
        let device = x.tensor().device();
        let last = Array::from_f32(budget::collect(h.iter().copied())?, &[self.batch, self.hidden], x.dtype(), device)?;
        let first = if sequence {
            Array::from_f32(all, &[self.steps, self.batch, self.hidden], x.dtype(), device)?
        } else {
            Array::from_f32(h, &[1, self.batch, self.hidden], x.dtype(), device)?
        };
        Ok(vec![first.into(), last.into()])
    }
}

/// `x[i] += y[i]`.
fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn is_reverse(b: &OpBuilder<'_>) -> Result<bool, OpError> {
    b.choice("direction", &[("forward", false), ("reverse", true)])
}

/// `rnn(x, initial_h, weight_ih, weight_hh, bias?, direction, output_sequence = false, activation = "tanh")`.
fn rnn(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, h0, weights) = (b.slot("x")?, state(b, "initial_h")?, Weights::new(b, "")?);
    let (reverse, sequence, act) = (is_reverse(b)?, b.attr_or("output_sequence", false)?, tanh_or(b, "activation")?);
    let limit = limit(b)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let cell = Cell::new(f, &x, &weights, 1, false)?;
        let mut h = initial(f, h0, &cell)?;
        let mut c = budget::collect(h.iter().copied())?;
        let all = cell.run(&mut h, &mut c, reverse, |inputs, recurrent, h, _| {
            h.copy_from_slice(inputs);
            add(h, recurrent);
            bounded(h, limit, act);
            Ok(())
        })?;
        cell.outputs(&x, all, h, sequence)
    })
}

/// `gru(x, initial_h, weight_ih, weight_hh, bias?, input_bias? (iOS18), direction, output_sequence,
/// recurrent_activation = "sigmoid", activation = "tanh", reset_after (iOS18) = false)`.
fn gru(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, h0, mut weights) = (b.slot("x")?, state(b, "initial_h")?, Weights::new(b, "")?);
    let limit = limit(b)?;
    let (reverse, sequence) = (is_reverse(b)?, b.attr_or("output_sequence", false)?);
    let gate = sigmoid_or(b, "recurrent_activation")?;
    let act = tanh_or(b, "activation")?;
    let after = b.attr_since(Opset::Ios18, "reset_after", false)?;
    if b.since(Opset::Ios18) {
        weights.input_bias = b.slot_opt("input_bias")?;
    }
    b.run(move |f| {
        let x = f.array(x)?;
        let cell = Cell::new(f, &x, &weights, 3, true)?;
        let n = cell.hidden;
        let mut h = initial(f, h0, &cell)?;
        let mut c = budget::collect(h.iter().copied())?;
        let mut again = vec![0f32; 3 * n];
        let all = cell.run(&mut h, &mut c, reverse, |inputs, recurrent, h, _| {
            add(recurrent, &cell.bias);
            let (reset, rest) = recurrent.split_at_mut(n);
            let (new, update) = rest.split_at_mut(n);
            add(reset, &inputs[..n]);
            bounded(reset, limit, gate);
            // Reset after the product: r · (W h + b); before: W (r · h) + b.
            if after {
                new.iter_mut().zip(&*reset).for_each(|(o, r)| *o *= r);
            } else {
                reset.iter_mut().zip(&*h).for_each(|(r, h)| *r *= h);
                cell.hh.times(reset, None, &mut again)?;
                new.copy_from_slice(&again[n..2 * n]);
                add(new, &cell.bias[n..2 * n]);
            }
            add(new, &inputs[n..2 * n]);
            bounded(new, limit, act);
            add(update, &inputs[2 * n..]);
            bounded(update, limit, gate);
            for (h, (o, z)) in h.iter_mut().zip(new.iter().zip(&*update)) {
                *h = (1.0 - z) * o + z * *h;
            }
            Ok(())
        })?;
        cell.outputs(&x, all, h, sequence)
    })
}

/// Settings of an lstm.
#[derive(Clone, Copy)]
struct Gates {
    recurrent: Activation,
    cell: Activation,
    output: Activation,
    clip: f32,
    limit: f32,
    /// The forget gate is 1 − the input gate.
    coupled: bool,
}

fn lstm_direction(
    gates: Gates,
    cell: &Cell,
    (h, c): (&mut Vec<f32>, &mut Vec<f32>),
    reverse: bool,
) -> Result<Vec<f32>, OpError> {
    let n = cell.hidden;
    // Peephole contribution of the cell state to a gate.
    let look = |gate: usize, z: &mut [f32], c: &[f32]| {
        if let Some(p) = &cell.peephole {
            z.iter_mut().zip(&p[gate * n..]).zip(c).for_each(|((z, p), c)| *z += p * c);
        }
    };
    let mut shown = vec![0f32; n];
    let all = cell.run(h, c, reverse, |inputs, recurrent, h, c| {
        add(recurrent, inputs);
        let (input, rest) = recurrent.split_at_mut(n);
        let (forget, rest) = rest.split_at_mut(n);
        let (output, candidate) = rest.split_at_mut(n);
        look(0, input, c);
        look(1, forget, c);
        bounded(input, gates.limit, gates.recurrent);
        if gates.coupled {
            forget.iter_mut().zip(&*input).for_each(|(f, i)| *f = 1.0 - i);
        } else {
            bounded(forget, gates.limit, gates.recurrent);
        }
        bounded(candidate, gates.limit, gates.cell);
        for (k, c) in c.iter_mut().enumerate() {
            *c = (forget[k] * *c + input[k] * candidate[k]).clamp(-gates.clip, gates.clip);
        }
        look(2, output, c);
        bounded(output, gates.limit, gates.recurrent);
        shown.copy_from_slice(c);
        gates.output.run(&mut shown);
        h.iter_mut().zip(output.iter().zip(&shown)).for_each(|(h, (o, c))| *h = o * c);
        Ok(())
    })?;
    Ok(all)
}

/// `lstm(x, initial_h, initial_c, weight_ih, weight_hh, bias?, peephole?, …_back, direction, output_sequence,
/// recurrent_activation = "sigmoid", cell_activation = "tanh", activation = "tanh", clip?)` → states, h, c.
fn lstm(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, h0, c0) = (b.slot("x")?, state(b, "initial_h")?, state(b, "initial_c")?);
    let directions = [("forward", (false, false)), ("reverse", (true, false)), ("bidirectional", (false, true))];
    let (reverse, both) = b.choice("direction", &directions)?;
    let forward = Weights::with_peephole(b, "")?;
    let backward = if both { Some(Weights::with_peephole(b, "_back")?) } else { None };
    b.without_effect(&["weight_ih_back", "weight_hh_back", "bias_back", "peephole_back"]);
    let sequence = b.attr_or("output_sequence", false)?;
    let gates = Gates {
        recurrent: sigmoid_or(b, "recurrent_activation")?,
        cell: tanh_or(b, "cell_activation")?,
        output: tanh_or(b, "activation")?,
        clip: match b.attr_or("clip", 0f32)? {
            0.0 => f32::INFINITY,
            clip if clip > 0.0 => clip,
            clip => return Err(OpError::data(format!("states clipped to {clip}"))),
        },
        limit: limit(b)?,
        coupled: is_layer(b) && b.attr_or("coupled", false)?,
    };
    b.run(move |f| {
        let x = f.array(x)?;
        let Some(backward) = &backward else {
            let cell = Cell::new(f, &x, &forward, 4, false)?;
            let (mut h, mut c) = (initial(f, h0, &cell)?, initial(f, c0, &cell)?);
            let all = lstm_direction(gates, &cell, (&mut h, &mut c), reverse)?;
            let last = Array::from_f32(c, &[cell.batch, cell.hidden], x.dtype(), f.device())?;
            let mut out = cell.outputs(&x, all, h, sequence)?;
            out.push(last.into());
            return Ok(out);
        };
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for (k, (weights, reverse)) in [(&forward, false), (backward, true)].into_iter().enumerate() {
            let cell = Cell::new(f, &x, weights, 4, false)?;
            let half = |slot: Option<Slot>| -> Result<Vec<f32>, OpError> {
                let Some(slot) = slot else { return initial(f, None, &cell) };
                let a = f.array(slot)?;
                let width = a.shape().last().copied().unwrap_or(0) / 2;
                a.with(a.tensor().narrow(a.rank().saturating_sub(1), k * width, width)?).to_f32s()
            };
            let (mut h, mut c) = (half(h0)?, half(c0)?);
            let mut all = lstm_direction(gates, &cell, (&mut h, &mut c), reverse)?;
            if reverse {
                // Both directions are concatenated in time order, so reverse the steps.
                budget::claim_of::<f32>(all.len())?;
                let steps = budget::collect(all.chunks_exact((cell.batch * cell.hidden).max(1)).rev())?;
                all = steps.concat();
            }
            let small = [cell.batch, cell.hidden];
            parts[2].push(Tensor::from_vec(c, &small[..], f.device())?);
            let out = cell.outputs(&x, all, h, sequence)?;
            for (part, value) in parts.iter_mut().zip(out) {
                part.push(value.array("state", f.device())?.into_tensor());
            }
        }
        let join = |p: &Vec<Tensor>| -> Result<Value, OpError> { Ok(x.with(budget::cat(p, p[0].rank() - 1)?).into()) };
        parts.iter().map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn rnn_carries_its_state_and_a_reversed_one_begins_at_the_end() {
        let body = |direction: &str| {
            format!(
                "tensor<fp32, [2, 1, 1]> y, tensor<fp32, [1, 1]> h = rnn(x = x, initial_h = tensor<fp32, [1, 1]>([[0.5]]), \
                 weight_ih = tensor<fp32, [1, 1]>([[1]]), weight_hh = tensor<fp32, [1, 1]>([[1]]), direction = string(\"{direction}\"), \
                 activation = string(\"relu\"), output_sequence = bool(true));"
            )
        };
        near(&of(&body("forward"), &[2, 1, 1], &[1.0, -4.0]), &[1.5, 0.0]);
        // Results are in the order of computation.
        near(&of(&body("reverse"), &[2, 1, 1], &[1.0, -4.0]), &[0.0, 1.0]);
    }
}
