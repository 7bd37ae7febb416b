//! Rotary embedding with cosines and sines of every broadcastable shape, against its definition.

use candle_core::{DType, Device, Tensor};
use coreml_engine::{Executable, Options};
use coreml_format::mil_text;
use coreml_format::weights::Weights;

/// Shapes of `x`, cosines and sines, and true if they fuse into one operation.
type Form = (&'static [usize], &'static [usize], &'static [usize], bool);

const FORMS: [Form; 18] = [
    // Rows of one conversation, as in compiled models.
    (&[1, 3, 4, 8], &[1, 1, 4, 8], &[1, 1, 4, 8], true),
    (&[1, 3, 1, 8], &[1, 1, 1, 8], &[8], true),
    (&[6], &[6], &[6], true),
    // transformers: batches of two with equal or different positions.
    (&[2, 3, 4, 8], &[1, 1, 4, 8], &[1, 1, 4, 8], true),
    (&[2, 3, 4, 8], &[2, 1, 4, 8], &[2, 1, 4, 8], true),
    // [B, T, H, D], with cosines of rank four and three.
    (&[2, 4, 3, 8], &[2, 4, 1, 8], &[2, 4, 1, 8], true),
    (&[2, 4, 3, 8], &[4, 1, 8], &[1, 4, 1, 8], true),
    // [T, B, H, D].
    (&[4, 2, 3, 8], &[4, 1, 1, 8], &[4, 1, 1, 8], true),
    // Per head, and per element.
    (&[1, 3, 4, 8], &[1, 3, 1, 8], &[3, 1, 8], true),
    (&[2, 3, 4, 8], &[2, 3, 4, 8], &[2, 3, 4, 8], true),
    // One per batch entry and one per position.
    (&[2, 3, 4, 8], &[2, 1, 1, 8], &[1, 1, 4, 8], true),
    (&[2, 3, 4, 2, 6], &[2, 1, 4, 1, 6], &[3, 1, 2, 6], true),
    // Scalars, and one per row.
    (&[2, 3, 8], &[], &[1], true),
    (&[2, 3, 8], &[2, 3, 1], &[3, 1], true),
    // No elements.
    (&[2, 0, 8], &[1, 1, 8], &[2, 0, 8], true),
    // Cosines with more elements or dimensions than `x`.
    (&[1, 1, 4, 8], &[2, 3, 4, 8], &[2, 1, 4, 8], false),
    (&[4, 8], &[1, 1, 4, 8], &[4, 8], false),
    (&[4, 1, 8], &[4, 8], &[8], false),
];

fn values(shape: &[usize], seed: usize) -> Vec<f32> {
    (0..shape.iter().product()).map(|i| ((i + seed) * 37 % 41) as f32 / 16.0 - 1.25).collect()
}

/// Element of a value at an index of a shape that it broadcasts to.
fn at(data: &[f32], shape: &[usize], index: &[usize]) -> f32 {
    let index = &index[index.len() - shape.len()..];
    data[index.iter().zip(shape).fold(0, |at, (&i, &n)| at * n + if n == 1 { 0 } else { i })]
}

fn broadcast(x: &[usize], y: &[usize]) -> Vec<usize> {
    let rank = x.len().max(y.len());
    let extent = |s: &[usize], d: usize| (d + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank).map(|d| if extent(x, d) == 1 { extent(y, d) } else { extent(x, d) }).collect()
}

/// The definition, element by element.
fn defined(shapes: [&[usize]; 3], data: [&[f32]; 3], result: &[usize]) -> Vec<f32> {
    let size = shapes[0][shapes[0].len() - 1];
    (0..result.iter().product())
        .map(|i: usize| {
            let mut index = vec![0; result.len()];
            result.iter().enumerate().rev().fold(i, |rest, (d, &n)| {
                index[d] = rest % n;
                rest / n
            });
            let of = |which: usize, index: &[usize]| at(data[which], shapes[which], index);
            let mut other = index.clone();
            let last = index.len() - 1;
            let sign = if index[last] < size / 2 { -1.0 } else { 1.0 };
            other[last] = (index[last] + size / 2) % size;
            of(0, &index) * of(1, &index) + sign * of(0, &other) * of(2, &index)
        })
        .collect()
}

fn text(dtype: &str, shapes: [&[usize]; 3], result: &[usize]) -> String {
    let ty = |shape: &[usize]| format!("tensor<{dtype}, {shape:?}>");
    let [x, cos, sin] = shapes;
    let (rank, size) = (x.len(), x[x.len() - 1]);
    let mut half = x.to_vec();
    half[rank - 1] = size / 2;
    let mut begin = vec![0; rank];
    let ints = |v: &[usize]| format!("tensor<int32, [{rank}]>({v:?})");
    let low = format!("begin = {}, end = {}", ints(&begin), ints(&half));
    begin[rank - 1] = size / 2;
    let high = format!("begin = {}, end = {}", ints(&begin), ints(x));
    format!(
        "program(1.3) {{ func main<ios17>({} a, {} c, {} s) {{
            {} x = identity(x = a);
            {} p = mul(x = x, y = c);
            {} l = slice_by_index(x = x, {low});
            {} h = slice_by_index(x = x, {high});
            {} n = mul(x = h, y = {dtype}(-1));
            {} r = concat(values = (n, l), axis = int32(-1), interleave = bool(false));
            {} q = mul(x = r, y = s);
            {} y = add(x = p, y = q);
         }} -> (y); }}",
        ty(x),
        ty(cos),
        ty(sin),
        ty(x),
        ty(&broadcast(x, cos)),
        ty(&half),
        ty(&half),
        ty(&half),
        ty(x),
        ty(&broadcast(x, sin)),
        ty(result),
    )
}

/// Results of a form, and the number of operations.
fn run(dtype: &str, shapes: [&[usize]; 3], data: [&[f32]; 3], result: &[usize]) -> Result<(Vec<f32>, usize), String> {
    let program = mil_text::parse(&text(dtype, shapes, result)).expect("it parses");
    let executable =
        Executable::load(&program, &Weights::default(), "main", &Options::default()).map_err(|e| e.to_string())?;
    let tensor = |i: usize| Tensor::from_vec(data[i].to_vec(), shapes[i], &Device::Cpu).expect("an input");
    let inputs = [("a", tensor(0)), ("c", tensor(1)), ("s", tensor(2))];
    let outputs = executable.predict(&inputs, None).map_err(|e| e.to_string())?;
    let y = outputs["y"].tensor().expect("a tensor");
    if y.dims() != result {
        return Err(format!("a result {:?}", y.dims()));
    }
    let y = y.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("floats");
    Ok((y, executable.places().iter().filter(|p| p.kind == "engine.rotary").count()))
}

#[test]
fn cosines_and_sines_of_every_shape_that_broadcasts() {
    let mut failures = Vec::new();
    for dtype in ["fp32", "fp16"] {
        // Two products and a sum in f32; for fp16, the rounding of the result.
        let tolerance = if dtype == "fp16" { 1.0 / 1024.0 } else { 1e-6 };
        for (x, cos, sin, joined) in FORMS {
            let shapes = [x, cos, sin];
            let result = broadcast(&broadcast(x, cos), sin);
            let data = [values(x, 0), values(cos, 5), values(sin, 11)];
            let data = [data[0].as_slice(), &data[1], &data[2]];
            let want = defined(shapes, data, &result);
            let close = |(y, w): (&f32, &f32)| (y - w).abs() <= tolerance * (1.0 + w.abs());
            match run(dtype, shapes, data, &result) {
                Ok((y, count)) if y.iter().zip(&want).all(close) && count == usize::from(joined) => {}
                other => failures.push(format!("{dtype} {shapes:?}: {other:?} instead of {want:?}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} forms:\n{}", failures.len(), failures.join("\n"));
}
