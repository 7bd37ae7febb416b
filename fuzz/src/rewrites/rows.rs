//! Programs whose rows are a batch: most operations are independent along it, some are not.

use coreml_format::program::Binding;

use super::attention::{gathered, within};
use super::maker::{Maker, Val, eighths};
use super::patterns::{concat, rotated};

/// A chain of operations on `[1, rows, size]`, with the rows declared by the inputs.
pub fn rows(m: &mut Maker<'_>) -> Option<Val> {
    let (count, size) = (m.bytes.pick(&[3, 2, 4, 5]), m.bytes.pick(&[4, 8, 6]));
    let x = m.input(&[1, count, size]);
    let Binding::Name(name) = &x.binding else { return None };
    m.rows.push((name.clone(), 1));
    let mut value = x;
    for _ in 0..1 + m.bytes.below(8) {
        value = step(m, value, count)?;
    }
    Some(value)
}

fn step(m: &mut Maker<'_>, x: Val, count: usize) -> Option<Val> {
    let shape = x.shape.clone();
    let rank = shape.len();
    let last = rank.checked_sub(1)?;
    Some(match m.bytes.below(14) {
        0 => {
            let outputs = m.bytes.pick(&[4, 6, 8]);
            let weight = m.floats(&[outputs, shape[last]], &eighths(outputs * shape[last], 4));
            let mut wide = shape.clone();
            wide[last] = outputs;
            m.op("linear", &[("x", x.argument()), ("weight", weight.argument())], &wide)
        }
        1 => {
            let kind = m.bytes.pick(&["silu", "relu", "sigmoid", "gelu"]);
            m.unary(kind, &x)
        }
        2 => {
            let axis = if m.bytes.rare(4) { m.bytes.below(rank) } else { last };
            let number = m.axis(axis, rank);
            let axis = m.int(number);
            m.op("softmax", &[("x", x.argument()), ("axis", axis)], &shape)
        }
        3 => {
            let axis = if m.bytes.rare(4) { m.bytes.below(rank) } else { last };
            let number = m.axis(axis, rank);
            let axes = m.ints(&[number]);
            m.op("layer_norm", &[("x", x.argument()), ("axes", axes)], &shape)
        }
        4 => {
            let order = m.permutation(rank);
            let perm: Vec<i32> = order.iter().map(|&d| m.axis(d, rank)).collect();
            let moved: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
            let perm = m.ints(&perm);
            m.op("transpose", &[("x", x.argument()), ("perm", perm)], &moved)
        }
        5 if shape[last].is_multiple_of(2) && rank < 5 => {
            // Heads and back, or rows merged with other dimensions.
            let mut heads = shape.clone();
            heads[last] /= 2;
            heads.insert(last, 2);
            m.reshape(&x, &heads)
        }
        6 if rank > 2 => {
            let d = m.bytes.below(rank - 1);
            let mut joined = shape.clone();
            joined[d] *= joined.remove(d + 1);
            m.reshape(&x, &joined)
        }
        7 => {
            let extents = m.partner(&shape);
            let other = m.operand(&extents);
            if within(&shape, &other.shape) { m.either("mul", &x, &other)? } else { x }
        }
        8 => {
            let axis = if m.bytes.rare(4) { m.bytes.below(rank) } else { last };
            concat(m, &[x.clone(), x], axis)?
        }
        9 => {
            let at = m.bytes.below(rank + 1);
            let mut wide = shape.clone();
            wide.insert(at, 1);
            let number = m.axis(at, rank + 1);
            let axes = m.ints(&[number]);
            m.op("expand_dims", &[("x", x.argument()), ("axes", axes)], &wide)
        }
        10 if shape.contains(&1) && rank > 1 => {
            let at = shape.iter().position(|&n| n == 1)?;
            let mut narrow = shape.clone();
            narrow.remove(at);
            let number = m.axis(at, rank);
            let axes = m.ints(&[number]);
            m.op("squeeze", &[("x", x.argument()), ("axes", axes)], &narrow)
        }
        11 => part(m, &x, count),
        12 if shape[last].is_multiple_of(2) && rank > 1 && shape[last - 1] == count => {
            let (cos, at) = gathered(m, count, shape[last]);
            m.rows.push((at, 0));
            let (sin, at) = gathered(m, count, shape[last]);
            m.rows.push((at, 0));
            rotated(m, &x, &cos, &sin)?
        }
        _ => {
            let gate = m.unary("silu", &x);
            let other = m.input(&shape);
            if let (Binding::Name(name), Some(axis)) = (&other.binding, shape.iter().position(|&n| n == count)) {
                m.rows.push((name.clone(), axis));
            }
            m.either("mul", &gate, &other)?
        }
    })
}

/// All rows, the first one, or some of another dimension.
fn part(m: &mut Maker<'_>, x: &Val, count: usize) -> Val {
    let rank = x.shape.len();
    let mut shape = x.shape.clone();
    let mut end: Vec<i32> = shape.iter().map(|&n| n as i32).collect();
    let d = m.bytes.below(rank);
    let squeeze = m.bytes.rare(4);
    let mut squeezed = vec![false; rank];
    if shape[d] == count || m.bytes.below(2) == 1 {
        end[d] = m.bytes.pick(&[1, end[d]]);
        shape[d] = end[d] as usize;
    }
    let mut narrow = shape.clone();
    if squeeze && shape[d] == 1 {
        squeezed[d] = true;
        narrow.remove(d);
    }
    let (begin, end) = (m.ints(&vec![0; rank]), m.ints(&end));
    let squeezed = m.flags(&squeezed);
    let inputs = [("x", x.argument()), ("begin", begin), ("end", end), ("squeeze_mask", squeezed)];
    m.op("slice_by_index", &inputs, &narrow)
}
