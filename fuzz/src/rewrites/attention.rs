//! Programs with attention and states: scores of every rank and layout, caches read and written in any order.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, NamedType, TensorType, Value, ValueType};

use super::maker::{Maker, Val, broadcast, eighths, packed};

/// A mask for scores of this shape: random numbers, or rows open up to a position.
fn mask(m: &mut Maker<'_>, scores: &[usize]) -> Val {
    let shape =
        if m.bytes.below(2) == 0 { [1, 1].iter().chain(tail(scores)).copied().collect() } else { m.partner(scores) };
    let count = shape.iter().product::<usize>();
    let columns = shape.last().copied().unwrap_or(1).max(1);
    let kind = m.bytes.below(4);
    if kind == 0 || count == 0 {
        return m.value(&shape);
    }
    // Rarely a fully masked row.
    let shut = m.bytes.rare(12);
    let low = m.bytes.pick(&[f32::NEG_INFINITY, -1e4, -6e4, -1e3]);
    let open = |i: usize| match kind {
        1 => i % columns <= i / columns,
        2 => i % columns >= 1 || columns == 1,
        _ => !i.is_multiple_of(3) || i.is_multiple_of(columns),
    };
    let data = (0..count).map(|i| if open(i) && !(shut && i / columns == 0) { 0.0 } else { low }).collect::<Vec<_>>();
    if m.bytes.below(3) == 0 { m.floats(&shape, &data) } else { m.fed(&shape, data) }
}

fn tail(shape: &[usize]) -> &[usize] {
    &shape[shape.len().saturating_sub(2)..]
}

/// Scaled, masked scores after softmax.
fn weighed(m: &mut Maker<'_>, scores: Val) -> Option<Val> {
    let mut scores = scores;
    for _ in 0..m.bytes.pick(&[1, 1, 0, 2]) {
        let factor = m.near(0.25, &[0.0, -1.0, 2.0]);
        let factor = if m.bytes.rare(16) {
            let extents = m.partner(&scores.shape);
            m.operand(&extents)
        } else {
            m.number(factor)
        };
        let divides = m.bytes.rare(4) && !factor.shape.iter().any(|&n| n > 1);
        scores = if divides { m.binary("real_div", &scores, &factor)? } else { m.either("mul", &scores, &factor)? };
    }
    if m.bytes.below(4) < 3 {
        let mask = mask(m, &scores.shape);
        let kind = if m.bytes.rare(32) { "sub" } else { "add" };
        scores = m.either(kind, &scores, &mask)?;
    }
    softmax(m, &scores)
}

fn softmax(m: &mut Maker<'_>, scores: &Val) -> Option<Val> {
    let rank = scores.shape.len();
    let axis = if m.bytes.rare(16) { m.bytes.below(rank) } else { rank.checked_sub(1)? };
    let mut inputs = vec![("x", scores.argument())];
    if axis + 1 != rank || m.bytes.below(4) < 3 {
        let number = m.axis(axis, rank);
        inputs.push(("axis", m.int(number)));
    }
    Some(m.op("softmax", &inputs, &scores.shape.clone()))
}

/// `softmax(q · kᵀ · scale + mask) · v`.
pub fn attend(m: &mut Maker<'_>) -> Option<Val> {
    let outer: Vec<usize> = (0..m.bytes.pick(&[2, 1, 3, 0])).map(|_| m.bytes.pick(&[1, 2, 3])).collect();
    let sizes: Vec<usize> =
        (0..4).map(|_| if m.bytes.rare(48) { 0 } else { m.bytes.pick(&[3, 2, 1, 5, 17, 4, 30]) }).collect();
    let [n, keys, d, w] = sizes[..] else { return None };
    let batch = |m: &mut Maker<'_>| match m.bytes.below(4) {
        3 => m.partner(&outer),
        2 => outer[m.bytes.below(outer.len() + 1)..].to_vec(),
        _ => outer.clone(),
    };
    let (qs, ks, vs) = (batch(m), batch(m), batch(m));
    let columns = m.bytes.below(2) == 1;
    let vector = [m.bytes.rare(48), m.bytes.rare(48)];
    let q = if vector[0] { m.value(&[d]) } else { m.value(&[qs, vec![n, d]].concat()) };
    let k = if q.shape.len() > 1 && keys == n && m.bytes.rare(12) {
        q.clone()
    } else {
        m.value(&[ks, if columns { vec![d, keys] } else { vec![keys, d] }].concat())
    };
    let v = match m.bytes.below(12) {
        10 => k.clone(),
        11 => q.clone(),
        _ if vector[1] => m.value(&[keys]),
        9 if m.dtype == DataType::F32 => {
            let bytes = (0..keys * w).flat_map(|i| (i as i32 % 5 - 2).to_le_bytes()).collect();
            let binding = m.named(Value::tensor(DataType::I32, &[keys, w], bytes));
            Val { binding, shape: vec![keys, w] }
        }
        _ => m.value(&[vs, vec![keys, w]].concat()),
    };
    let turned = [m.bytes.rare(48), m.bytes.rare(48)];
    let scores = m.matmul(&q, &k, [turned[0], !columns])?;
    let weights = weighed(m, scores)?;
    m.matmul(&weights, &v, [false, turned[1]])
}

/// A state of the function.
#[derive(Clone)]
struct State {
    name: String,
    shape: Vec<usize>,
}

impl State {
    fn new(m: &mut Maker<'_>, shape: &[usize]) -> Self {
        let name = format!("s{}", m.states.len());
        let dtype = if m.bytes.below(4) == 3 { DataType::F32 } else { m.dtype };
        let dtype = if m.dtype == DataType::F32 && m.bytes.below(2) == 0 { DataType::F16 } else { dtype };
        let ty = ValueType::State(Box::new(ValueType::Tensor(TensorType::fixed(dtype, shape))));
        m.states.push(NamedType { name: name.clone(), ty });
        Self { name, shape: shape.to_vec() }
    }

    fn argument(&self) -> Argument {
        Argument::One(Binding::Name(self.name.clone()))
    }

    fn read(&self, m: &mut Maker<'_>) -> Val {
        m.op("read_state", &[("input", self.argument())], &self.shape)
    }

    fn write(&self, m: &mut Maker<'_>, data: &Val) {
        m.push("write_state", &[("input", self.argument()), ("data", data.argument())], Vec::new());
    }
}

/// A part of a tensor: offsets and extents.
struct Part {
    parameters: Vec<(&'static str, Argument)>,
    extents: Vec<usize>,
    squeezed: Vec<bool>,
}

impl Part {
    fn new(m: &mut Maker<'_>, shape: &[usize]) -> Self {
        let rank = shape.len();
        let mut extents: Vec<usize> = Vec::new();
        let mut begin: Vec<i32> = Vec::new();
        for &n in shape {
            let from = m.bytes.below(n.max(1));
            begin.push(from as i32);
            extents.push(if n == 0 { 0 } else { 1 + m.bytes.below(n - from) });
        }
        let mut end: Vec<i32> = (0..rank).map(|d| begin[d] + extents[d] as i32).collect();
        let flags = |m: &mut Maker<'_>| (0..rank).map(|_| m.bytes.rare(16)).collect::<Vec<bool>>();
        let (begin_mask, end_mask, mut squeezed) = (flags(m), flags(m), flags(m));
        for d in 0..rank {
            squeezed[d] &= extents[d] == 1 && !begin_mask[d] && !end_mask[d];
            let from = if begin_mask[d] { 0 } else { begin[d] as usize };
            let to = if end_mask[d] { shape[d] } else { end[d] as usize };
            extents[d] = to - from;
            if end[d] < shape[d] as i32 && m.bytes.rare(16) {
                end[d] -= shape[d] as i32;
            }
        }
        let mut parameters = Vec::new();
        if !begin.is_empty() && m.bytes.rare(6) {
            // The offset is an input.
            let at: Vec<i64> = begin.iter().map(|&b| i64::from(b)).collect();
            let to: Vec<i64> = end.iter().map(|&e| i64::from(e)).collect();
            parameters.push(("begin", Argument::One(m.positions(&at))));
            parameters.push(("end", Argument::One(m.positions(&to))));
        } else {
            parameters.push(("begin", m.ints(&begin)));
            parameters.push(("end", m.ints(&end)));
        }
        for (name, flags) in [("begin_mask", &begin_mask), ("end_mask", &end_mask), ("squeeze_mask", &squeezed)] {
            if flags.contains(&true) {
                parameters.push((name, m.flags(flags)));
            }
        }
        if m.bytes.rare(12) {
            let mut strides = vec![1i32; rank];
            if let Some(d) = (0..rank).find(|&d| extents[d] > 1 && m.bytes.below(2) == 1) {
                strides[d] = 2;
                extents[d] = extents[d].div_ceil(2);
            }
            parameters.push(("stride", m.ints(&strides)));
        }
        Self { parameters, extents, squeezed }
    }

    fn of(&self, m: &mut Maker<'_>, x: &Val) -> Val {
        let shape: Vec<usize> =
            self.extents.iter().zip(&self.squeezed).filter(|(_, squeezed)| !**squeezed).map(|(&n, _)| n).collect();
        let mut inputs = vec![("x", x.argument())];
        inputs.extend(self.parameters.iter().cloned());
        m.op("slice_by_index", &inputs, &shape)
    }

    fn replaced(&self, m: &mut Maker<'_>, x: &Val, update: &Val) -> Val {
        let mut inputs = vec![("x", x.argument()), ("update", update.argument())];
        inputs.extend(self.parameters.iter().cloned());
        m.op("slice_update", &inputs, &x.shape)
    }
}

/// States read, sliced, changed and written in any order.
pub fn states(m: &mut Maker<'_>) -> Option<Val> {
    let shape = m.shape(1, 4);
    let count = match m.bytes.below(16) {
        12.. => return shifted(m, &shape),
        n => 1 + n % 2,
    };
    let all: Vec<State> = (0..count).map(|_| State::new(m, &shape)).collect();
    let mut reads: Vec<Val> = Vec::new();
    let mut last = None;
    for _ in 0..2 + m.bytes.below(7) {
        let state = all[m.bytes.below(all.len())].clone();
        // A value read before, or another one.
        let read = match reads.len() {
            n if n > 0 && m.bytes.below(3) == 2 => reads[m.bytes.below(n)].clone(),
            _ => state.read(m),
        };
        reads.push(read.clone());
        match m.bytes.below(8) {
            0 | 1 => {
                let part = Part::new(m, &shape);
                let extents = if m.bytes.rare(6) { m.partner(&part.extents) } else { part.extents.clone() };
                let update = match m.bytes.below(12) {
                    11 => read.clone(),
                    _ => m.value(&extents),
                };
                let changed = part.replaced(m, &read, &update);
                if m.bytes.rare(8) {
                    last = Some(Part::new(m, &shape).of(m, &changed));
                }
                if m.bytes.rare(12) {
                    let other = all[m.bytes.below(all.len())].clone();
                    other.write(m, &changed);
                } else if !m.bytes.rare(12) {
                    state.write(m, &changed);
                }
            }
            2 | 3 => last = Some(Part::new(m, &shape).of(m, &read)),
            4 => {
                let data = m.value(&shape);
                state.write(m, &data);
            }
            5 => {
                let value = m.value(&shape);
                let inputs = [("state", state.argument()), ("value", value.argument())];
                last = Some(m.op("coreml_update_state", &inputs, &shape));
            }
            6 if m.bytes.rare(4) => {
                let data = m.value(&shape);
                last = Some(m.branch(&data, Some(&state.argument())));
            }
            6 => last = Some(m.unary("relu", &read)),
            _ => {
                let kept = m.value(&shape);
                last = Some(m.either("add", &read, &kept)?);
                if m.bytes.below(2) == 1 {
                    state.write(m, &last.clone()?);
                }
            }
        }
    }
    let end = all[0].read(m);
    Some(match last {
        Some(last) if m.bytes.below(2) == 0 => last,
        _ => end,
    })
}

/// A part of a state that is written again, moved along one dimension, with new positions behind it.
fn shifted(m: &mut Maker<'_>, shape: &[usize]) -> Option<Val> {
    let rank = shape.len();
    let axis = m.bytes.below(rank);
    let n = shape[axis];
    let state = State::new(m, shape);
    let kept = m.value(shape);
    state.write(m, &kept);
    let read = state.read(m);
    let by = (1 + m.bytes.below(n.max(2) - 1)).min(n);
    let mut bounds = [vec![0i32; rank], shape.iter().map(|&n| n as i32).collect::<Vec<_>>()];
    // Sometimes not whole in another dimension, or not from the same place.
    let other = m.bytes.below(rank);
    if m.bytes.rare(3) && shape[other] > 1 && other != axis {
        bounds[1][other] -= 1;
    }
    let mut source = bounds.clone();
    source[0][axis] += by as i32;
    if m.bytes.rare(12) && source[1][other] < shape[other] as i32 {
        source[0][other] += 1;
        source[1][other] += 1;
    }
    if m.bytes.rare(12) {
        source[0][axis] -= by as i32;
        source[1][axis] -= by as i32;
    }
    let extents = |b: &[Vec<i32>; 2]| (0..rank).map(|d| (b[1][d] - b[0][d]) as usize).collect::<Vec<_>>();
    let part = |m: &mut Maker<'_>, b: &[Vec<i32>; 2]| vec![("begin", m.ints(&b[0])), ("end", m.ints(&b[1]))];
    let mut inputs = vec![("x", read.argument())];
    inputs.extend(part(m, &source));
    let tail = m.op("slice_by_index", &inputs, &extents(&source));
    if m.bytes.rare(8) {
        let between = m.value(shape);
        state.write(m, &between);
    }
    let target = extents(&bounds);
    let mut new = target.clone();
    new[axis] = by;
    let new = m.value(&new);
    let values = Argument::Many(vec![tail.binding.clone(), new.binding.clone()]);
    let interleave = m.bytes.rare(12);
    let (axis, interleave) = (m.axis(axis, rank), m.flag(interleave));
    let inputs = [("values", values), ("axis", m.int(axis)), ("interleave", interleave)];
    let joined = m.op("concat", &inputs, &target);
    let old = state.read(m);
    let mut inputs = vec![("x", old.argument()), ("update", joined.argument())];
    inputs.extend(part(m, &bounds));
    let changed = m.op("slice_update", &inputs, shape);
    state.write(m, &changed);
    Some(state.read(m))
}

/// Attention over keys and values in a state.
pub fn cached(m: &mut Maker<'_>) -> Option<Val> {
    let (kv, share) = (m.bytes.pick(&[2, 1, 3]), m.bytes.pick(&[2, 1, 3]));
    let (len, dim) = (m.bytes.pick(&[4, 8, 1, 3]), m.bytes.pick(&[4, 2, 8, 1]));
    let (heads, queries) = (kv * share, m.bytes.pick(&[1, 2, 3, 9]));
    let entries = m.bytes.pick(&[2, 3]);
    let state = State::new(m, &[entries, kv, len, dim]);
    for entry in [0, 1] {
        let rows = if queries <= len { queries } else { len };
        let at = m.bytes.below(len - rows + 1);
        let update = row_input(m, &[1, kv, rows, dim], queries);
        let read = state.read(m);
        let (begin, end) = ([entry, 0, at, 0], [entry + 1, kv, at + rows, dim]);
        let [begin, end] = [begin, end].map(|v| m.ints(&v.map(|n| n as i32)));
        let inputs = [("x", read.argument()), ("update", update.argument()), ("begin", begin), ("end", end)];
        let changed = m.op("slice_update", &inputs, &state.shape.clone());
        state.write(m, &changed);
    }
    let key = entry_of(m, &state, 0, share)?;
    if m.bytes.rare(24) {
        let data = m.value(&state.shape.clone());
        state.write(m, &data);
    }
    let value = entry_of(m, &state, 1, share)?;
    let mut shape = vec![1, heads, queries, dim];
    match m.bytes.below(24) {
        20 => shape[0] = 2,
        21 => shape[1] = 1,
        22 => drop(shape.remove(0)),
        23 => shape.insert(0, m.bytes.pick(&[1, 2])),
        _ => {}
    }
    let query = row_input(m, &shape, queries);
    let turned = !m.bytes.rare(48);
    let scores = m.matmul(&query, &key, [false, turned])?;
    let factor = m.near(0.5, &[0.0, -1.0]);
    let factor = if m.bytes.rare(24) { m.operand(&[1]) } else { m.number(factor) };
    let scaled = m.either("mul", &scores, &factor)?;
    let mask = mask(m, &scaled.shape);
    if let Binding::Name(name) = &mask.binding
        && m.inputs.iter().any(|i| i.name == *name)
        && mask.shape == [1, 1, queries, len]
        && queries > 1
    {
        m.rows.push((name.clone(), 2));
    }
    let masked = m.either("add", &scaled, &mask)?;
    if m.bytes.rare(48) {
        let data = m.value(&state.shape.clone());
        state.write(m, &data);
    }
    let mut weights = softmax(m, &masked)?;
    if weights.shape.first() == Some(&1) && m.bytes.rare(4) {
        let narrow = weights.shape[1..].to_vec();
        weights = m.reshape(&weights, &narrow);
    }
    m.matmul(&weights, &value, [false, false])
}

/// A value whose third dimension is the queries; often an input with these rows.
fn row_input(m: &mut Maker<'_>, shape: &[usize], queries: usize) -> Val {
    if queries < 2 || shape.get(2) != Some(&queries) || m.bytes.below(2) == 0 {
        return m.value(shape);
    }
    let x = m.input(shape);
    if let Binding::Name(name) = &x.binding {
        m.rows.push((name.clone(), 2));
    }
    x
}

/// An entry of the state, each head repeated.
fn entry_of(m: &mut Maker<'_>, state: &State, entry: usize, share: usize) -> Option<Val> {
    let [entries, kv, len, dim] = state.shape[..] else { return None };
    let entry = if m.bytes.rare(24) { m.bytes.below(entries) } else { entry };
    let read = state.read(m);
    let narrow = m.bytes.rare(24);
    let (from, to) = if narrow { (m.bytes.below(len), len) } else { (0, len) };
    let squeeze = m.bytes.rare(24);
    let begin = m.ints(&[entry as i32, 0, from as i32, 0]);
    let end = m.ints(&[entry as i32 + 1, kv as i32, to as i32, dim as i32]);
    let len = to - from;
    let mut inputs = vec![("x", read.argument()), ("begin", begin), ("end", end)];
    if squeeze || m.bytes.below(2) == 1 {
        inputs.push(("squeeze_mask", m.flags(&[squeeze, false, false, false])));
    }
    let shape = if squeeze { vec![kv, len, dim] } else { vec![1, kv, len, dim] };
    let part = m.op("slice_by_index", &inputs, &shape);
    if share == 1 && m.bytes.below(2) == 0 {
        return Some(part);
    }
    let wide = match m.bytes.below(3) {
        1 if !squeeze => {
            let axes = m.ints(&[2]);
            m.op("expand_dims", &[("x", part.argument()), ("axes", axes)], &[1, kv, 1, len, dim])
        }
        2 => m.reshape(&part, &[1, kv, 1, len, dim]),
        _ => m.reshape(&part, &[kv, 1, len, dim]),
    };
    let mut reps = vec![1; wide.shape.len()];
    let at = if m.bytes.rare(24) { m.bytes.below(reps.len()) } else { reps.len() - 3 };
    reps[at] = share;
    let shape: Vec<usize> = wide.shape.iter().zip(&reps).map(|(n, r)| n * r).collect();
    let counts: Vec<i32> = reps.iter().map(|&r| r as i32).collect();
    let counts = m.ints(&counts);
    let tiled = m.op("tile", &[("x", wide.argument()), ("reps", counts)], &shape);
    let joined = if m.bytes.rare(8) { vec![kv * share, len, dim] } else { vec![1, kv * share, len, dim] };
    (shape.iter().product::<usize>() == joined.iter().product::<usize>()).then(|| m.reshape(&tiled, &joined))
}

/// A table of rows, gathered by positions.
pub fn gathered(m: &mut Maker<'_>, rows: usize, size: usize) -> (Val, String) {
    let value = Value::tensor(m.dtype, &[7, size], packed(m.dtype, &eighths(7 * size, 3)));
    let table = Argument::One(m.named(value));
    let at: Vec<i64> = (0..rows as i64).collect();
    let positions = m.positions(&at);
    let Binding::Name(name) = &positions else { unreachable!("an input") };
    let (name, axis) = (name.clone(), m.int(0));
    let inputs = [("x", table), ("indices", Argument::One(positions)), ("axis", axis)];
    (m.op("gather", &inputs, &[rows, size]), name)
}

/// True if the second shape broadcasts to the first.
pub fn within(shape: &[usize], other: &[usize]) -> bool {
    broadcast(shape, other).as_deref() == Some(shape)
}
