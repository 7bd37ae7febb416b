//! Recurrent networks.
//!
//! Semantics after the reference documentation of coremltools' `recurrent` chapter: x is [steps, batch,
//! inputs]; gates are stacked in the order reset, output, update (gru) and input, forget, output, cell (lstm).

use candle_core::Tensor;

use super::activation::sigmoid;
use super::{OpSpec, since::*};
use crate::build::{Build, Run, Slot};
use crate::error::OpError;
use crate::run::Frame;
use crate::value::{Array, Value};

pub(super) const OPS: &[OpSpec] =
    &[OpSpec::new("gru", IOS15_17_18, gru), OpSpec::new("lstm", IOS15_17, lstm), OpSpec::new("rnn", IOS15_17, rnn)];

type Activation = fn(f32) -> f32;

fn activation(name: &str) -> Result<Activation, OpError> {
    Ok(match name.to_lowercase().as_str() {
        "linear" => |x| x,
        "relu" => |x| x.max(0.0),
        // Both constants of `scaled_tanh` are 1 here, as coremltools' tests of `lstm` have it.
        "tanh" | "scaled_tanh" => f32::tanh,
        "sigmoid" => sigmoid,
        "sigmoid_hard" | "hard_sigmoid" => |x| (0.2 * x + 0.5).clamp(0.0, 1.0),
        "softplus" => |x| x.max(0.0) + (-x.abs()).exp().ln_1p(),
        "softsign" => |x| x / (1.0 + x.abs()),
        "leaky_relu" => |x| if x >= 0.0 { x } else { 0.01 * x },
        "elu" => |x| if x >= 0.0 { x } else { x.exp_m1() },
        "thresholded_relu" => |x| if x >= 1.0 { x } else { 0.0 },
        other => return Err(OpError::data(format!("unknown activation `{other}`"))),
    })
}

fn named(b: &Build<'_>, parameter: &str, default: &str) -> Result<Activation, OpError> {
    activation(&b.attr_or(parameter, default.to_owned())?)
}

/// Weights of one direction.
struct Weights {
    ih: Slot,
    hh: Slot,
    bias: Option<Slot>,
    input_bias: Option<Slot>,
    peephole: Option<Slot>,
}

impl Weights {
    fn new(b: &Build<'_>, suffix: &str) -> Result<Self, OpError> {
        let name = |n: &str| format!("{n}{suffix}");
        Ok(Self {
            ih: b.slot(&name("weight_ih"))?,
            hh: b.slot(&name("weight_hh"))?,
            bias: b.slot_opt(&name("bias"))?,
            input_bias: b.slot_opt(&name("input_bias"))?,
            peephole: b.slot_opt(&name("peephole"))?,
        })
    }
}

/// One direction, with weights at hand.
struct Cell {
    /// Wx + b for every step: [steps, batch, gates · hidden].
    inputs: Vec<f32>,
    /// Recurrent weights, transposed: [hidden, gates · hidden].
    hh: Tensor,
    bias: Vec<f32>,
    peephole: Option<Vec<f32>>,
    steps: usize,
    batch: usize,
    gates: usize,
    hidden: usize,
}

impl Cell {
    /// `split`: the bias is not added to the inputs (gru adds parts of it elsewhere).
    fn new(f: &Frame<'_>, x: &Array, w: &Weights, gates: usize, split: bool) -> Result<Self, OpError> {
        let (ih, hh) = (f.array(w.ih)?, f.array(w.hh)?);
        let (&[steps, batch, width], &[rows, columns], &[rows2, hidden]) = (x.shape(), ih.shape(), hh.shape()) else {
            return Err(OpError::shape(format!("x {:?}, weights {:?} and {:?}", x.shape(), ih.shape(), hh.shape())));
        };
        if columns != width || rows != rows2 || rows != gates * hidden {
            return Err(OpError::shape(format!("x {:?}, weights {:?} and {:?}", x.shape(), ih.shape(), hh.shape())));
        }
        let vector = |slot: Option<Slot>, n: usize| -> Result<Option<Vec<f32>>, OpError> {
            let Some(slot) = slot else { return Ok(None) };
            let v = f.array(slot)?.to_f32s()?;
            if v.len() == n { Ok(Some(v)) } else { Err(OpError::shape(format!("a bias of {} for {n}", v.len()))) }
        };
        let bias = vector(w.bias, rows)?.unwrap_or_else(|| vec![0.0; rows]);
        let flat = x.tensor().reshape((steps * batch, width))?;
        let mut inputs: Vec<f32> = flat.matmul(&ih.tensor().t()?.contiguous()?)?.flatten_all()?.to_vec1()?;
        let own = vector(w.input_bias, rows)?;
        for row in inputs.chunks_exact_mut(rows.max(1)) {
            for (i, v) in row.iter_mut().enumerate() {
                *v += own.as_ref().map_or(0.0, |o| o[i]) + if split { 0.0 } else { bias[i] };
            }
        }
        let peephole = vector(w.peephole, 3 * hidden)?;
        Ok(Self { inputs, hh: hh.tensor().t()?.contiguous()?, bias, peephole, steps, batch, gates, hidden })
    }

    /// Runs all steps; `step(inputs, recurrent, h, c)` updates one batch row. Returns every h, [steps, batch,
    /// hidden], in the order in which they were computed.
    ///
    /// Rows of the initial states beyond the batch are dropped: programs converted from packed sequences have one for each
    /// step of the longest sequence.
    fn run(
        &self,
        h: &mut Vec<f32>,
        c: &mut Vec<f32>,
        reverse: bool,
        mut step: impl FnMut(&[f32], &[f32], &mut [f32], &mut [f32]),
    ) -> Result<Vec<f32>, OpError> {
        let (n, size) = (self.gates * self.hidden, self.batch * self.hidden);
        let rows = |state: &Vec<f32>| state.len() >= size && state.len().is_multiple_of(self.hidden.max(1));
        if !rows(h) || !rows(c) {
            return Err(OpError::shape(format!("initial states of {} and {} for {size}", h.len(), c.len())));
        }
        h.truncate(size);
        c.truncate(size);
        let mut all = vec![0f32; self.steps * size];
        for k in 0..self.steps {
            let t = if reverse { self.steps - 1 - k } else { k };
            let before = Tensor::from_slice(h.as_slice(), (self.batch, self.hidden), self.hh.device())?;
            let recurrent: Vec<f32> = before.matmul(&self.hh)?.flatten_all()?.to_vec1()?;
            for row in 0..self.batch {
                let cells = row * self.hidden..(row + 1) * self.hidden;
                step(
                    &self.inputs[(t * self.batch + row) * n..][..n],
                    &recurrent[row * n..][..n],
                    &mut h[cells.clone()],
                    &mut c[cells],
                );
            }
            all[k * size..(k + 1) * size].copy_from_slice(h);
        }
        Ok(all)
    }

    /// The outputs: every state or the last one, and the last one.
    fn outputs(&self, x: &Array, all: Vec<f32>, h: Vec<f32>, sequence: bool) -> Result<Vec<Value>, OpError> {
        let device = x.tensor().device();
        let last = Array::from_f32(h.clone(), &[self.batch, self.hidden], x.dtype(), device)?;
        let first = if sequence {
            Array::from_f32(all, &[self.steps, self.batch, self.hidden], x.dtype(), device)?
        } else {
            Array::from_f32(h, &[1, self.batch, self.hidden], x.dtype(), device)?
        };
        Ok(vec![first.into(), last.into()])
    }
}

fn is_reverse(b: &Build<'_>) -> Result<bool, OpError> {
    let direction: String = b.attr_or("direction", "forward".to_owned())?;
    match direction.as_str() {
        "forward" => Ok(false),
        "reverse" => Ok(true),
        other => Err(OpError::data(format!("unknown direction `{other}`"))),
    }
}

/// `rnn(x, initial_h, weight_ih, weight_hh, bias?, direction, output_sequence = false, activation = "tanh")`.
fn rnn(b: &Build<'_>) -> Result<Run, OpError> {
    let (x, h0, weights) = (b.slot("x")?, b.slot("initial_h")?, Weights::new(b, "")?);
    let (reverse, sequence, act) =
        (is_reverse(b)?, b.attr_or("output_sequence", false)?, named(b, "activation", "tanh")?);
    b.run(move |f| {
        let x = f.array(x)?;
        let cell = Cell::new(f, &x, &weights, 1, false)?;
        let mut h = f.array(h0)?.to_f32s()?;
        let mut c = h.clone();
        let all = cell.run(&mut h, &mut c, reverse, |i, r, h, _| {
            for (k, h) in h.iter_mut().enumerate() {
                *h = act(i[k] + r[k]);
            }
        })?;
        cell.outputs(&x, all, h, sequence)
    })
}

/// `gru(x, initial_h, weight_ih, weight_hh, bias?, input_bias? (iOS18), direction, output_sequence,
/// recurrent_activation = "sigmoid", activation = "tanh", reset_after (iOS18) = false)`.
fn gru(b: &Build<'_>) -> Result<Run, OpError> {
    let (x, h0, weights) = (b.slot("x")?, b.slot("initial_h")?, Weights::new(b, "")?);
    let (reverse, sequence) = (is_reverse(b)?, b.attr_or("output_sequence", false)?);
    let gate = named(b, "recurrent_activation", "sigmoid")?;
    let act = named(b, "activation", "tanh")?;
    let after = b.attr_or("reset_after", false)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let cell = Cell::new(f, &x, &weights, 3, true)?;
        let n = cell.hidden;
        let mut h = f.array(h0)?.to_f32s()?;
        let mut c = h.clone();
        let bias = &cell.bias;
        let hh: Vec<f32> = cell.hh.flatten_all()?.to_vec1()?;
        let all = cell.run(&mut h, &mut c, reverse, |i, r, h, _| {
            let reset: Vec<f32> = (0..n).map(|k| gate(i[k] + r[k] + bias[k])).collect();
            let before = h.to_vec();
            for k in 0..n {
                // With the reset after the product: r · (W h + b); before: W (r · h) + b.
                let recurrent = if after {
                    reset[k] * (r[n + k] + bias[n + k])
                } else {
                    (0..n).map(|j| hh[j * 3 * n + n + k] * reset[j] * before[j]).sum::<f32>() + bias[n + k]
                };
                let o = act(i[n + k] + recurrent);
                let z = gate(i[2 * n + k] + r[2 * n + k] + bias[2 * n + k]);
                h[k] = (1.0 - z) * o + z * before[k];
            }
        })?;
        cell.outputs(&x, all, h, sequence)
    })
}

/// Settings of a lstm.
#[derive(Clone, Copy)]
struct Gates {
    recurrent: Activation,
    cell: Activation,
    output: Activation,
    clip: f32,
}

fn lstm_direction(
    f: &Frame<'_>,
    x: &Array,
    weights: &Weights,
    gates: Gates,
    (h, c): (&mut Vec<f32>, &mut Vec<f32>),
    reverse: bool,
) -> Result<(Cell, Vec<f32>), OpError> {
    let cell = Cell::new(f, x, weights, 4, false)?;
    let n = cell.hidden;
    let peephole = cell.peephole.clone();
    let look = |gate: usize, k: usize, c: f32| peephole.as_ref().map_or(0.0, |p| p[gate * n + k] * c);
    let all = cell.run(h, c, reverse, |i, r, h, c| {
        for k in 0..n {
            let sum = |gate: usize| i[gate * n + k] + r[gate * n + k];
            let input = (gates.recurrent)(sum(0) + look(0, k, c[k]));
            let forget = (gates.recurrent)(sum(1) + look(1, k, c[k]));
            let candidate = (gates.cell)(sum(3));
            c[k] = (forget * c[k] + input * candidate).clamp(-gates.clip, gates.clip);
            let output = (gates.recurrent)(sum(2) + look(2, k, c[k]));
            h[k] = output * (gates.output)(c[k]);
        }
    })?;
    Ok((cell, all))
}

/// `lstm(x, initial_h, initial_c, weight_ih, weight_hh, bias?, peephole?, …_back, direction, output_sequence,
/// recurrent_activation = "sigmoid", cell_activation = "tanh", activation = "tanh", clip?)` → states, h, c.
fn lstm(b: &Build<'_>) -> Result<Run, OpError> {
    let (x, h0, c0) = (b.slot("x")?, b.slot("initial_h")?, b.slot("initial_c")?);
    let direction: String = b.attr_or("direction", "forward".to_owned())?;
    let forward = Weights::new(b, "")?;
    let backward = if direction == "bidirectional" { Some(Weights::new(b, "_back")?) } else { None };
    let reverse = direction == "reverse";
    let sequence = b.attr_or("output_sequence", false)?;
    let gates = Gates {
        recurrent: named(b, "recurrent_activation", "sigmoid")?,
        cell: named(b, "cell_activation", "tanh")?,
        output: named(b, "activation", "tanh")?,
        clip: b.attr_opt::<f32>("clip")?.filter(|c| *c > 0.0).unwrap_or(f32::INFINITY),
    };
    b.run(move |f| {
        let x = f.array(x)?;
        let (h0, c0) = (f.array(h0)?, f.array(c0)?);
        let Some(backward) = &backward else {
            let (mut h, mut c) = (h0.to_f32s()?, c0.to_f32s()?);
            let (cell, all) = lstm_direction(f, &x, &forward, gates, (&mut h, &mut c), reverse)?;
            let last = Array::from_f32(c, &[cell.batch, cell.hidden], x.dtype(), f.device())?;
            let mut out = cell.outputs(&x, all, h, sequence)?;
            out.push(last.into());
            return Ok(out);
        };
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for (k, (weights, reverse)) in [(&forward, false), (backward, true)].into_iter().enumerate() {
            let half = |a: &Array| -> Result<Vec<f32>, OpError> {
                let width = a.shape().last().copied().unwrap_or(0) / 2;
                a.with(a.tensor().narrow(a.rank().saturating_sub(1), k * width, width)?).to_f32s()
            };
            let (mut h, mut c) = (half(&h0)?, half(&c0)?);
            let (cell, mut all) = lstm_direction(f, &x, weights, gates, (&mut h, &mut c), reverse)?;
            if reverse {
                // Both directions stand side by side in the order of time.
                let steps: Vec<&[f32]> = all.chunks_exact((cell.batch * cell.hidden).max(1)).rev().collect();
                all = steps.concat();
            }
            let small = [cell.batch, cell.hidden];
            parts[2].push(Tensor::from_vec(c, &small[..], f.device())?);
            let out = cell.outputs(&x, all, h, sequence)?;
            for (part, value) in parts.iter_mut().zip(out) {
                part.push(value.array("state", f.device())?.into_tensor());
            }
        }
        let join =
            |p: &Vec<Tensor>| -> Result<Value, OpError> { Ok(x.with(Tensor::cat(p, candle_core::D::Minus1)?).into()) };
        parts.iter().map(join).collect()
    })
}
