//! Reductions, positions of extrema, sorting, sums along an axis.

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::reduce::{
    ArgReduce, ArgSort, CumSum, Reduce, ReduceAxes, ReduceAxis, ReduceOperation, TopK,
};

use super::build::{Blob, Network, flag, int, ints, of, tensor};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;

pub(super) fn reduce(n: &mut Network, layer: &NeuralNetworkLayer, p: &Reduce) -> Lowered<()> {
    let x = n.only(layer)?;
    let axes: &[usize] = match n.choice("axis", p.axis)? {
        ReduceAxis::Chw => &[3, 2, 1],
        ReduceAxis::Hw => &[2, 1],
        ReduceAxis::C => &[3],
        ReduceAxis::H => &[2],
        ReduceAxis::W => &[1],
    };
    let kind = match n.choice("mode", p.mode)? {
        ReduceOperation::Sum => "reduce_sum",
        ReduceOperation::Average => "reduce_mean",
        ReduceOperation::Product => "reduce_prod",
        ReduceOperation::SumSquare => "reduce_sum_square",
        ReduceOperation::L1 => "reduce_l1_norm",
        ReduceOperation::L2 => "reduce_l2_norm",
        ReduceOperation::Max => "reduce_max",
        ReduceOperation::Min => "reduce_min",
        ReduceOperation::LogSum => {
            let epsilon = if p.epsilon == 0.0 { 1e-6 } else { p.epsilon };
            let shifted = n.with("add", &x, epsilon);
            let logs = n.map("log", &shifted, Vec::new());
            let y = n.reduced("reduce_sum", &logs, axes)?;
            return n.write(layer, vec![y]);
        }
        ReduceOperation::ArgMax => {
            let [axis] = axes else { return n.refuse("it looks for a position along several axes") };
            let y = position(n, "reduce_argmax", &x, -(*axis as i64), true)?;
            return n.write(layer, vec![y]);
        }
    };
    let y = n.reduced(kind, &x, axes)?;
    n.write(layer, vec![y])
}

/// The position of an extremum, as a float.
fn position(n: &mut Network, kind: &str, x: &Blob, axis: i64, keep: bool) -> Lowered<Blob> {
    let (x, axis) = n.axis(x, axis)?;
    let x = if keep { x } else { Blob { short: false, ..x } };
    let mut shape = x.shape.clone();
    // A blob has an axis at least.
    let keep = keep || shape.len() == 1;
    if keep {
        shape[axis] = Some(1);
    } else {
        shape.remove(axis);
    }
    let inputs = vec![("x", of(&x)), ("axis", int(axis as i32)), ("keep_dims", flag(keep))];
    let found = n.typed(kind, inputs, DataType::I32, shape);
    let y = n.cast(&found, DataType::F32);
    Ok(Blob { short: x.short, ..y })
}

pub(super) fn arg(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str, p: &ArgReduce) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let y = position(n, kind, &x, p.axis, !p.remove_dim)?;
    n.write(layer, vec![y])
}

pub(super) fn axes(n: &mut Network, layer: &NeuralNetworkLayer, kind: &str, p: &ReduceAxes) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    let rank = x.shape.len();
    let mut gone = vec![p.reduce_all; rank];
    if !p.reduce_all {
        if p.axes.is_empty() {
            return n.refuse("it names no axes");
        }
        for &axis in &p.axes {
            gone[n.axis(&x, axis)?.1] = true;
        }
    }
    let which: Vec<i32> = (0..rank).filter(|&i| gone[i]).map(|i| i as i32).collect();
    let mut shape = x.shape.clone();
    for (d, _) in shape.iter_mut().zip(&gone).filter(|(_, gone)| **gone) {
        *d = Some(1);
    }
    let inputs = vec![("x", of(&x)), ("axes", ints(&which)), ("keep_dims", flag(true))];
    let mut y = n.op(kind, inputs, shape);
    if !p.keep_dims {
        // A blob has an axis at least.
        let squeezed = if which.len() == rank { which.get(1..).unwrap_or_default() } else { &which[..] };
        let kept = (0..rank).filter(|&i| !squeezed.contains(&(i as i32))).map(|i| y.shape[i]).collect();
        if !squeezed.is_empty() {
            y = n.op("squeeze", vec![("x", of(&y)), ("axes", ints(squeezed))], kept);
        }
    }
    n.write(layer, vec![y])
}

pub(super) fn top_k(n: &mut Network, layer: &NeuralNetworkLayer, p: &TopK) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let x = n.full(&x);
    let (x, axis) = n.axis(&x, p.axis)?;
    let (k, extent) = match layer.input.len() {
        1 => {
            let k = n.size("K", p.k)?;
            (int(k), Some(k as usize))
        }
        _ => (n.number(layer, 1)?, None),
    };
    let mut shape = x.shape.clone();
    shape[axis] = extent;
    let inputs = vec![("x", of(&x)), ("k", k), ("axis", int(axis as i32)), ("ascending", flag(p.use_bottom_k))];
    let types = vec![tensor(DataType::F32, &shape), tensor(DataType::I32, &shape)];
    let names = n.push("topk", inputs, types);
    let mut made = names.into_iter().map(|name| Blob { name, shape: shape.clone(), short: false });
    let (Some(values), Some(indices)) = (made.next(), made.next()) else { return n.refuse("it has no results") };
    let indices = n.cast(&indices, DataType::F32);
    match layer.output.len() {
        1 => n.write(layer, vec![values]),
        _ => n.write(layer, vec![values, indices]),
    }
}

pub(super) fn arg_sort(n: &mut Network, layer: &NeuralNetworkLayer, p: &ArgSort) -> Lowered<()> {
    let x = n.only(layer)?;
    let (x, axis) = n.axis(&x, p.axis)?;
    let inputs = vec![("x", of(&x)), ("axis", int(axis as i32)), ("ascending", flag(!p.descending))];
    let order = n.typed("argsort", inputs, DataType::I32, x.shape.clone());
    let y = n.cast(&order, DataType::F32);
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

pub(super) fn cum_sum(n: &mut Network, layer: &NeuralNetworkLayer, p: &CumSum) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let mut along = p.axis;
    if layer.input.len() > 1 {
        let given = n.input(layer, 1)?;
        match n.integers(&given).as_deref() {
            Some(&[axis]) => along = axis,
            _ => {
                let x = n.full(&x);
                let axis = n.number(layer, 1)?;
                let more = vec![("axis", axis), ("exclusive", flag(p.exclude_final_sum)), ("reverse", flag(p.reverse))];
                let y = n.map("cumsum", &x, more);
                return n.write(layer, vec![y]);
            }
        }
    }
    let (x, axis) = n.axis(&x, along)?;
    let more = vec![("axis", int(axis as i32)), ("exclusive", flag(p.exclude_final_sum)), ("reverse", flag(p.reverse))];
    let y = n.map("cumsum", &x, more);
    n.write(layer, vec![y])
}
