//! Programs around the patterns of rewrites of elementwise operations, norms and permutations: the plain form, and
//! variants with a different shape, number, axis or operand.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, NamedType, TensorType, Value, ValueType};

use super::maker::{Maker, Val, eighths};

/// A pattern; `None` if the choices yield no program.
pub type Pattern = fn(&mut Maker<'_>) -> Option<Val>;

/// A reduction along axes; dropping dimensions keeps the order of the others.
fn reduce(m: &mut Maker<'_>, kind: &str, x: &Val, axis: usize, kept: bool) -> Val {
    let rank = x.shape.len();
    let mut shape = x.shape.clone();
    match (shape.get_mut(axis), kept) {
        (Some(n), true) => *n = 1,
        (Some(_), false) => drop(shape.remove(axis)),
        (None, _) => {}
    }
    let number = m.axis(axis, rank);
    let axes = m.ints(&[number]);
    let keep = m.flag(kept);
    m.op(kind, &[("x", x.argument()), ("axes", axes), ("keep_dims", keep)], &shape)
}

/// Special values for functions of one element.
pub(super) const ODD: [f32; 5] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e4, -1e4];

/// The first of these are NaN and infinities, which sums preserve.
pub(super) const NO_NUMBERS: usize = 3;

/// An input that rarely contains some of these numbers.
pub(super) fn odd_operand(m: &mut Maker<'_>, shape: &[usize], odd: &[f32]) -> Val {
    if !m.bytes.rare(12) {
        return m.value(shape);
    }
    let mut data = eighths(shape.iter().product(), 3);
    let (step, odd) = (2 + m.bytes.below(4), m.bytes.pick(odd));
    data.iter_mut().step_by(step).for_each(|v| *v = odd);
    m.fed(shape, data)
}

/// `exp(x − max) / Σ exp(x − max)`.
pub fn softmax(m: &mut Maker<'_>) -> Option<Val> {
    let shape = m.shape(1, 5);
    let rank = shape.len();
    let x = odd_operand(m, &shape, &ODD);
    let axis = m.bytes.below(rank);
    let other = |m: &mut Maker<'_>| if m.bytes.rare(16) { m.bytes.below(rank) } else { axis };
    let (top, whole) = (other(m), other(m));
    let kept = [!m.bytes.rare(24), !m.bytes.rare(24)];
    let source = if m.bytes.rare(24) { m.value(&shape) } else { x.clone() };
    let kind = if m.bytes.rare(24) { "reduce_min" } else { "reduce_max" };
    let max = reduce(m, kind, &source, top, kept[0]);
    let shifted = if m.bytes.rare(24) { m.binary("sub", &max, &x)? } else { m.binary("sub", &x, &max)? };
    let exp = m.unary("exp", &shifted);
    let sum = reduce(m, "reduce_sum", &exp, whole, kept[1]);
    if m.bytes.rare(24) { m.binary("real_div", &sum, &exp) } else { m.binary("real_div", &exp, &sum) }
}

/// The first half of a layer norm of concat(x, −x), with a gain.
pub fn rms_norm(m: &mut Maker<'_>) -> Option<Val> {
    let shape = m.shape(1, 4);
    let rank = shape.len();
    let x = m.value(&shape);
    let minus = m.near(-1.0, &[1.0, -2.0, 0.0]);
    let minus = m.number(minus);
    let negated = m.either("mul", &x, &minus)?;
    let (first, second) = if m.bytes.rare(24) { (&negated, &x) } else { (&x, &negated) };
    let axis = if m.bytes.rare(24) { m.bytes.below(rank) } else { rank - 1 };
    let joined = concat(m, &[first.clone(), second.clone()], axis)?;
    let normed = if m.bytes.rare(24) { m.bytes.below(rank) } else { rank - 1 };
    let number = m.axis(normed, rank);
    let mut inputs = vec![("x", joined.argument()), ("axes", m.ints(&[number]))];
    if m.bytes.below(2) == 0 {
        let epsilon = m.bytes.pick(&[1e-5, 1e-3, 1.0]);
        let value = Value::tensor(m.dtype, &[], super::maker::packed(m.dtype, &[epsilon]));
        inputs.push(("epsilon", m.parameter(value)));
    }
    if m.bytes.rare(24) {
        let n = joined.shape[normed];
        let gamma = m.floats(&[n], &eighths(n, 2));
        inputs.push(("gamma", gamma.argument()));
    }
    let norm = m.op("layer_norm", &inputs, &joined.shape);
    let half = slice_last(m, &norm, 0, shape[rank - 1])?;
    if m.bytes.rare(6) {
        return Some(half);
    }
    let size = *half.shape.last()?;
    let extents = match m.bytes.below(8) {
        1 => m.partner(&half.shape),
        2 => [vec![1; half.shape.len() - 1], vec![size]].concat(),
        3 => [vec![1; half.shape.len()], vec![size]].concat(),
        _ => vec![size],
    };
    let gain = match m.bytes.below(4) {
        3 => m.operand(&extents),
        _ => m.floats(&extents, &eighths(extents.iter().product(), 6)),
    };
    m.either("mul", &half, &gain)
}

pub fn concat(m: &mut Maker<'_>, parts: &[Val], axis: usize) -> Option<Val> {
    let first = parts.first()?;
    let rank = first.shape.len();
    let mut shape = first.shape.clone();
    let alike = |p: &Val| p.shape.len() == rank && (0..rank).all(|d| d == axis || p.shape[d] == first.shape[d]);
    if axis >= rank || !parts.iter().all(alike) {
        return None;
    }
    shape[axis] = parts.iter().map(|p| p.shape[axis]).sum();
    let number = m.axis(axis, rank);
    let values = Argument::Many(parts.iter().map(|p| p.binding.clone()).collect());
    let interleave = parts.iter().all(|p| p.shape == first.shape) && m.bytes.rare(32);
    let (axis, interleave) = (m.int(number), m.flag(interleave));
    Some(m.op("concat", &[("values", values), ("axis", axis), ("interleave", interleave)], &shape))
}

/// A range of the last dimension, written in one of many ways.
pub fn slice_last(m: &mut Maker<'_>, x: &Val, from: usize, to: usize) -> Option<Val> {
    let last = x.shape.len().checked_sub(1)?;
    let n = x.shape[last];
    let (from, to) = if m.bytes.rare(24) { (m.bytes.below(n + 1), to) } else { (from, to) };
    if from > to || to > n {
        return None;
    }
    let mut shape = x.shape.clone();
    shape[last] = to - from;
    let (mut begin, mut end): (Vec<i32>, Vec<i32>) = (vec![0; last + 1], shape.iter().map(|&n| n as i32).collect());
    (begin[last], end[last]) = (from as i32, to as i32);
    let (mut begin_mask, mut end_mask) = (vec![false; last + 1], vec![false; last + 1]);
    for d in 0..last {
        end_mask[d] = m.bytes.below(2) == 1;
        begin_mask[d] = m.bytes.rare(8);
        if end_mask[d] && m.bytes.rare(8) {
            end[d] = 0;
        }
    }
    if m.bytes.rare(6) && n > to {
        end[last] -= n as i32;
    }
    if from == 0 && m.bytes.rare(6) {
        begin_mask[last] = true;
        begin[last] = m.bytes.pick(&[0, 1, 2]);
    }
    end_mask[last] = to == n && m.bytes.below(2) == 1;
    let mut squeeze = vec![false; last + 1];
    if last > 0 && shape[0] == 1 && m.bytes.rare(32) {
        squeeze[0] = true;
        shape.remove(0);
    }
    let (begin, end) = (m.ints(&begin), m.ints(&end));
    let mut inputs = vec![("x", x.argument()), ("begin", begin), ("end", end)];
    let always = m.bytes.below(2) == 1;
    for (name, flags) in [("begin_mask", &begin_mask), ("end_mask", &end_mask), ("squeeze_mask", &squeeze)] {
        if always || flags.contains(&true) {
            inputs.push((name, m.flags(flags)));
        }
    }
    if m.bytes.rare(6) {
        inputs.push(("stride", m.ints(&vec![1; last + 1])));
    }
    Some(m.op("slice_by_index", &inputs, &shape))
}

/// `x · cos + concat(−x[D/2 ..], x[.. D/2]) · sin`, half by half, or a look-up at positions.
pub fn rotary(m: &mut Maker<'_>) -> Option<Val> {
    let mut shape = m.shape(0, 4);
    shape.push(m.bytes.pick(&[4, 2, 8, 6, 1, 3, 0]));
    let x = odd_operand(m, &shape, &ODD[..NO_NUMBERS]);
    let (cos, sin) = (angles(m, &shape), angles(m, &shape));
    let whole = rotated(m, &x, &cos, &sin);
    match m.bytes.below(4) {
        1 => by_halves(m, &x),
        2 => looked_up(m),
        3 => sliced_twice(m, &x),
        _ => whole,
    }
}

/// `concat(a · cos − b · sin, b · cos + a · sin)` of the halves of a value.
fn by_halves(m: &mut Maker<'_>, x: &Val) -> Option<Val> {
    let last = x.shape.len() - 1;
    let (size, half) = (x.shape[last], x.shape[last] / 2);
    let mut extents = x.shape.clone();
    extents[last] = half;
    let (cos, sin) = (angles(m, &extents), angles(m, &extents));
    let (a, b) = (slice_last(m, x, 0, half)?, slice_last(m, x, half, size)?);
    let (plain, turned) = (m.either("mul", &a, &cos)?, m.either("mul", &b, &sin)?);
    let kind = if m.bytes.rare(48) { "add" } else { "sub" };
    let left = m.binary(kind, &plain, &turned)?;
    let (plain, turned) = (m.either("mul", &b, &cos)?, m.either("mul", &a, &sin)?);
    let right = m.either("add", &plain, &turned)?;
    let parts = if m.bytes.rare(48) { [right, left] } else { [left, right] };
    concat(m, &parts, last)
}

/// A slice of a slice that drops the first dimension.
fn sliced_twice(m: &mut Maker<'_>, x: &Val) -> Option<Val> {
    let (&first, rest) = x.shape.split_first().filter(|(n, rest)| **n > 0 && !rest.is_empty())?;
    let at = m.bytes.below(first);
    let drops = !m.bytes.rare(24);
    let row = cut(m, x, &[(at, at + 1, drops)]);
    let lead = usize::from(!drops);
    let bounds: Vec<(usize, usize, bool)> = rest
        .iter()
        .map(|&n| {
            let from = m.bytes.below(n + 1);
            let to = from + m.bytes.below(n - from + 1);
            (from, to, to == from + 1 && m.bytes.below(2) == 0)
        })
        .collect();
    let whole = vec![(0, 1, false); lead];
    Some(cut(m, &row, &[whole, bounds].concat()))
}

/// Parts of the first dimensions, with those that are dropped, and the others as they are.
fn cut(m: &mut Maker<'_>, x: &Val, bounds: &[(usize, usize, bool)]) -> Val {
    let mut bounds = bounds.to_vec();
    bounds.extend(x.shape[bounds.len()..].iter().map(|&n| (0, n, false)));
    let open: Vec<bool> =
        bounds.iter().zip(&x.shape).map(|(b, &n)| b.1 == n && !b.2 && m.bytes.below(2) == 0).collect();
    let shape: Vec<usize> = bounds.iter().filter(|b| !b.2).map(|b| b.1 - b.0).collect();
    let begin: Vec<i32> = bounds.iter().map(|b| b.0 as i32).collect();
    let end: Vec<i32> = bounds.iter().map(|b| b.1 as i32).collect();
    let drops: Vec<bool> = bounds.iter().map(|b| b.2).collect();
    let (begin, end) = (m.ints(&begin), m.ints(&end));
    let (open, drops) = (m.flags(&open), m.flags(&drops));
    let inputs = [("x", x.argument()), ("begin", begin), ("end", end), ("end_mask", open), ("squeeze_mask", drops)];
    m.op("slice_by_index", &inputs, &shape)
}

/// Rows of a table at positions that count from the end where they are negative.
fn looked_up(m: &mut Maker<'_>) -> Option<Val> {
    let (rows, size) = (1 + m.bytes.below(4), m.extent());
    let at: Vec<i64> = (0..1 + m.bytes.below(4)).map(|i| (i * 3 % (2 * rows)) as i64 - rows as i64).collect();
    let count = at.len();
    let x = Argument::One(m.positions(&at));
    let made = |m: &mut Maker<'_>, kind: &str, inputs: &[(&str, Argument)], dtype: DataType| {
        let (name, ty) = (m.name("i"), ValueType::Tensor(TensorType::fixed(dtype, &[count])));
        m.push(kind, inputs, vec![NamedType { name: name.clone(), ty }]);
        Argument::One(Binding::Name(name))
    };
    let (least, more) = (m.near(0.0, &[1.0, -1.0]) as i32, m.near(rows as f32, &[0.0]) as i32);
    let (least, more) = (m.int(least), m.int(more));
    let fine = made(m, "greater_equal", &[("x", x.clone()), ("y", least)], DataType::Bool);
    let moved = made(m, "add", &[("x", x.clone()), ("y", more)], DataType::I32);
    let chosen = made(m, "select", &[("cond", fine), ("a", x), ("b", moved)], DataType::I32);
    let table = m.value(&[rows, size]);
    let axis = m.int(0);
    Some(m.op("gather", &[("x", table.argument()), ("indices", chosen), ("axis", axis)], &[count, size]))
}

/// A cosine or sine for values of this shape.
pub(super) fn angles(m: &mut Maker<'_>, shape: &[usize]) -> Val {
    let extents = m.partner(shape);
    if m.dtype == DataType::F32 && m.bytes.rare(48) {
        let rank = extents.len();
        let n = extents.iter().product::<usize>();
        let bytes = (0..n).flat_map(|i| (i as i32 % 3 - 1).to_le_bytes()).collect();
        let binding = m.named(Value::tensor(DataType::I32, &extents[..rank], bytes));
        return Val { binding, shape: extents };
    }
    m.value(&extents)
}

/// The rotation of a value.
pub fn rotated(m: &mut Maker<'_>, x: &Val, cos: &Val, sin: &Val) -> Option<Val> {
    let last = x.shape.len() - 1;
    let (size, half) = (x.shape[last], x.shape[last] / 2);
    let low = slice_last(m, x, 0, half)?;
    let end = if m.bytes.rare(48) { half * 2 } else { size };
    let high = slice_last(m, x, half, end)?;
    let minus = m.near(-1.0, &[1.0, -0.5]);
    let minus = m.number(minus);
    let negated = m.either("mul", &high, &minus)?;
    let parts = if m.bytes.rare(48) { [low, negated] } else { [negated, low] };
    let rank = parts[0].shape.len();
    let axis = if m.bytes.rare(48) { m.bytes.below(rank) } else { rank.checked_sub(1)? };
    let halves = concat(m, &parts, axis)?;
    let plain = m.either("mul", x, cos)?;
    let turned = m.either("mul", &halves, sin)?;
    let kind = if m.bytes.rare(48) { "sub" } else { "add" };
    m.either(kind, &plain, &turned)
}

/// `silu(a) · b`.
pub fn gate(m: &mut Maker<'_>) -> Option<Val> {
    let shape = m.shape(0, 5);
    let a = odd_operand(m, &shape, &ODD);
    let gate = m.unary("silu", &a);
    let other = match m.bytes.below(8) {
        6 => a,
        7 => gate.clone(),
        4 | 5 => {
            let extents = m.partner(&shape);
            angles(m, &extents)
        }
        _ => odd_operand(m, &shape, &ODD),
    };
    m.either("mul", &gate, &other)
}

/// `w · sigmoid_hard(w)` of a thresholded value.
pub fn hard_swish(m: &mut Maker<'_>) -> Option<Val> {
    let shape = m.shape(0, 5);
    let x = match m.bytes.below(3) {
        0 => odd_operand(m, &shape, &ODD),
        1 => m.value(&shape),
        _ => super::products::product(m)?,
    };
    swish_of(m, &x)
}

pub(super) fn scalars(m: &mut Maker<'_>, from: &[f32], names: [&'static str; 2]) -> Vec<(&'static str, Argument)> {
    let mut found = Vec::new();
    for name in names {
        if m.bytes.below(3) < 2 {
            let value = m.bytes.pick(from);
            let value = Value::tensor(m.dtype, &[], super::maker::packed(m.dtype, &[value]));
            found.push((name, m.parameter(value)));
        }
    }
    found
}

pub(super) fn swish_of(m: &mut Maker<'_>, x: &Val) -> Option<Val> {
    let mut w = x.clone();
    if m.bytes.below(2) == 0 {
        // Between the possible values of exact sums.
        let alpha = m.bytes.pick(&[-3.001, -0.501, 0.251]);
        let value = Value::tensor(m.dtype, &[], super::maker::packed(m.dtype, &[alpha]));
        let alpha = m.parameter(value);
        w = m.op("thresholded_relu", &[("x", x.argument()), ("alpha", alpha)], &x.shape.clone());
    }
    let mut inputs = vec![("x", w.argument())];
    inputs.extend(scalars(m, &[0.25, 0.5, 1.0, -0.25], ["alpha", "beta"]));
    let gate = m.op("sigmoid_hard", &inputs, &w.shape.clone());
    let own = match m.bytes.below(16) {
        14 => x.clone(),
        15 => {
            let extents = m.partner(&w.shape);
            m.value(&extents)
        }
        _ => w,
    };
    m.either("mul", &own, &gate)
}

/// A chain of reshapes and transposes.
pub fn permute(m: &mut Maker<'_>) -> Option<Val> {
    let shape = m.shape(0, 5);
    let mut x = m.value(&shape);
    for _ in 0..4 + m.bytes.below(5) {
        let shape = x.shape.clone();
        x = match m.bytes.below(8) {
            0..3 => {
                let order = m.permutation(shape.len());
                let perm: Vec<i32> = order.iter().map(|&d| m.axis(d, shape.len())).collect();
                let moved: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
                let perm = m.ints(&perm);
                m.op("transpose", &[("x", x.argument()), ("perm", perm)], &moved)
            }
            6 if shape.len() < 5 => {
                let at = m.bytes.below(shape.len() + 1);
                let mut wide = shape;
                wide.insert(at, 1);
                let number = m.axis(at, wide.len());
                let axes = m.ints(&[number]);
                m.op("expand_dims", &[("x", x.argument()), ("axes", axes)], &wide)
            }
            7 if shape.contains(&1) => {
                let at = shape.iter().position(|&n| n == 1)?;
                let number = m.axis(at, shape.len());
                let mut narrow = shape;
                narrow.remove(at);
                let axes = m.ints(&[number]);
                m.op("squeeze", &[("x", x.argument()), ("axes", axes)], &narrow)
            }
            _ => {
                let shape = regrouped(m, &shape);
                m.reshape(&x, &shape)
            }
        };
    }
    Some(x)
}

/// Another shape with as many elements: one dimension split, two merged, or a new shape.
fn regrouped(m: &mut Maker<'_>, shape: &[usize]) -> Vec<usize> {
    let mut shape = shape.to_vec();
    for _ in 0..1 + m.bytes.below(2) {
        let rank = shape.len();
        if m.bytes.below(2) == 0 && rank < 6 && rank > 0 {
            let d = m.bytes.below(rank);
            let divisors: Vec<usize> = (1..=shape[d]).filter(|f| shape[d].is_multiple_of(*f)).collect();
            let outer = if divisors.is_empty() { 1 } else { divisors[m.bytes.below(divisors.len())] };
            shape[d] /= outer;
            shape.insert(d, outer);
        } else if rank > 1 {
            let d = m.bytes.below(rank - 1);
            let inner = shape.remove(d + 1);
            shape[d] *= inner;
        } else if m.bytes.below(2) == 1 {
            shape.insert(0, 1);
        }
    }
    shape
}
