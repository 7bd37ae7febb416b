//! Whole patterns that rewrites fuse: same results with all rewrites, with none, and with each disabled.

use candle_core::{DType, Device, Tensor};
use coreml_engine::passes::{ALL, PassSet};
use coreml_engine::{Executable, FeatureValue, Options};
use coreml_format::mil_text;
use coreml_format::weights::Weights;

/// A literal of this type with elements between −1 and 1.
fn literal(dtype: &str, shape: &[usize], seed: usize) -> String {
    fn nested(shape: &[usize], next: &mut impl FnMut() -> f32) -> String {
        match shape {
            [] => format!("{:?}", next()),
            [n, inner @ ..] => {
                let parts: Vec<String> = (0..*n).map(|_| nested(inner, next)).collect();
                format!("[{}]", parts.join(", "))
            }
        }
    }
    let mut at = seed;
    let mut next = || {
        at += 1;
        // Eighths, which are exact in fp16.
        (at * 37 % 17) as f32 / 8.0 - 1.0
    };
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("tensor<{dtype}, [{}]>({})", extents.join(", "), nested(shape, &mut next))
}

fn run(text: &str, shape: &[usize], passes: PassSet) -> (Vec<f32>, usize) {
    let program = mil_text::parse(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let options = Options { passes, ..Options::default() };
    let executable = Executable::load(&program, &Weights::default(), "main", &options).expect("it loads");
    let count: usize = shape.iter().product();
    let x: Vec<f32> = (0..count).map(|i| (i * 29 % 64) as f32 / 32.0 - 1.0).collect();
    let x = Tensor::from_vec(x, shape, &Device::Cpu).expect("an input");
    let outputs = executable.predict(&[("x", x)], None).expect("it runs");
    let FeatureValue::Tensor(y) = &outputs["y"] else { panic!("{outputs:?}") };
    let y = y.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("elements");
    (y, executable.places().len())
}

/// Runs a body from `x` of a shape to `y`; with all rewrites it has `steps` operations.
fn check(dtype: &str, shape: &[usize], body: &str, steps: usize) {
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    let text = format!(
        "program(1.3) {{ func main<ios17>(tensor<{dtype}, [{}]> x) {{ {body} }} -> (y); }}",
        extents.join(", ")
    );
    let (wanted, _) = run(&text, shape, PassSet::none());
    assert!(wanted.iter().any(|v| *v != wanted[0]), "results that say something: {body}");
    let (_, found) = run(&text, shape, PassSet::all());
    assert_eq!(found, steps, "operations of {body}");
    let sets = ALL.iter().map(|p| (p.name, PassSet::all().without(p.name))).chain([("none", PassSet::all())]);
    for (name, passes) in sets {
        let (y, _) = run(&text, shape, passes);
        assert_eq!(y.len(), wanted.len());
        // The order of sums differs, and fp16 results are rounded once.
        let tolerance = if dtype == "fp16" { 1e-3 } else { 1e-5 };
        for (i, (y, w)) in y.iter().zip(&wanted).enumerate() {
            assert!((y - w).abs() <= tolerance * (1.0 + w.abs()), "without {name}, at {i}: {y} != {w} in {body}");
        }
    }
}

#[test]
fn convolutions_with_what_follows_them() {
    for dtype in ["fp32", "fp16"] {
        let conv = |out: &str, x: &str, weight: &[usize], more: &str, shape: &str| {
            let (w, b) = (literal(dtype, weight, 3), literal(dtype, &weight[..1], 5));
            format!("tensor<{dtype}, {shape}> {out} = conv(x = {x}, weight = {w}, bias = {b}{more});")
        };
        let same = ", pad_type = string(\"same\")";
        // An inverted residual: expand, depthwise with stride two, project, add.
        let low = format!("alpha = {dtype}(0), beta = {dtype}(1.5)");
        let body = format!(
            "{} tensor<{dtype}, [1, 20, 7, 5]> b = clip(x = a, {low});
             {} tensor<{dtype}, [1, 20, 7, 5]> d = relu6(x = c);
             {} tensor<{dtype}, [1, 6, 7, 5]> y = add(x = x, y = e);",
            conv("a", "x", &[20, 6, 1, 1], "", "[1, 20, 7, 5]"),
            conv("c", "b", &[20, 1, 3, 3], &format!("{same}, groups = int32(20)"), "[1, 20, 7, 5]"),
            conv("e", "d", &[6, 20, 1, 1], "", "[1, 6, 7, 5]"),
        );
        // The residual is an input of the function.
        check(dtype, &[1, 6, 7, 5], &body, 3);
        // A residual block with an activation after the sum, and grouped strided convolution.
        let strides = ", strides = tensor<int32, [2]>([2, 2]), groups = int32(3)";
        let body = format!(
            "{} tensor<{dtype}, [2, 9, 7, 5]> b = relu(x = a);
             {} tensor<{dtype}, [2, 9, 7, 5]> d = add(x = c, y = b);
             tensor<{dtype}, [2, 9, 7, 5]> e = relu(x = d);
             {} tensor<{dtype}, [2, 12, 4, 3]> y = silu(x = g);",
            conv("a", "x", &[9, 6, 3, 3], same, "[2, 9, 7, 5]"),
            conv("c", "b", &[9, 9, 3, 3], same, "[2, 9, 7, 5]"),
            conv("g", "e", &[12, 3, 3, 3], &format!("{same}{strides}"), "[2, 12, 4, 3]"),
        );
        check(dtype, &[2, 6, 7, 5], &body, 3);
    }
}

#[test]
fn gates_of_hard_swish_and_of_channels() {
    for dtype in ["fp32", "fp16"] {
        let conv = |out: &str, x: &str, weight: &[usize], shape: &str| {
            let (w, b) = (literal(dtype, weight, 3), literal(dtype, &weight[..1], 5));
            format!("tensor<{dtype}, {shape}> {out} = conv(x = {x}, weight = {w}, bias = {b});")
        };
        // As converted from PyTorch, and a gate computed from channel means.
        let wide = "[1, 20, 7, 5]";
        let gate = |out: &str, x: &str| {
            let parameters = format!("alpha = {dtype}(0.25), beta = {dtype}(0.5)");
            format!(
                "tensor<{dtype}, {wide}> {out}s = sigmoid_hard(x = {x}, {parameters});
                 tensor<{dtype}, {wide}> {out} = mul(x = {x}, y = {out}s);"
            )
        };
        let body = format!(
            "{} tensor<{dtype}, {wide}> w = thresholded_relu(x = a, alpha = {dtype}(-2)); {}
             tensor<{dtype}, [1, 20, 1, 1]> m = reduce_mean(x = h, axes = tensor<int32, [2]>([2, 3]), keep_dims = bool(true));
             {} tensor<{dtype}, [1, 20, 1, 1]> o = sigmoid_hard(x = n);
             {} tensor<{dtype}, [1, 20, 1, 1]> q = sigmoid(x = p);
             tensor<{dtype}, {wide}> r = mul(x = h, y = o);
             tensor<{dtype}, {wide}> t = mul(x = r, y = q); {}",
            conv("a", "x", &[20, 6, 1, 1], wide),
            gate("h", "w"),
            conv("n", "m", &[20, 20, 1, 1], "[1, 20, 1, 1]"),
            conv("p", "m", &[20, 20, 1, 1], "[1, 20, 1, 1]"),
            gate("y", "t"),
        );
        // The engine does not fuse epilogues of fp16 products with a single position.
        check(dtype, &[1, 6, 7, 5], &body, if dtype == "fp32" { 7 } else { 9 });
    }
}

#[test]
fn products_with_what_follows_them() {
    let linear = |out: &str, x: &str, weight: [usize; 2]| {
        let (w, b) = (literal("fp32", &weight, 3), literal("fp32", &weight[..1], 5));
        format!("tensor<fp32, [1, 30, {}]> {out} = linear(x = {x}, weight = {w}, bias = {b});", weight[0])
    };
    let body = format!(
        "{} {} tensor<fp32, [1, 30, 40]> c = gelu(x = b);
         {} tensor<fp32, [1, 30, 24]> y = add(x = a, y = d);",
        linear("a", "x", [24, 8]),
        linear("b", "a", [40, 24]),
        linear("d", "c", [24, 40]),
    );
    check("fp32", &[1, 30, 8], &body, 3);
}

#[test]
fn attention_over_a_sequence() {
    // With a mask or a second factor.
    for (dtype, mask) in [("fp32", true), ("fp32", false), ("fp16", true)] {
        let scores = format!("tensor<{dtype}, [1, 3, 35, 35]>");
        let masked = if mask { "add(x = t, y = m)" } else { "mul(x = t, y = m)" };
        let mask = literal(dtype, &[1, 1, 1, if mask { 35 } else { 1 }], 4);
        let heads = format!("tensor<{dtype}, [1, 35, 3, 8]>");
        let turned = format!("tensor<{dtype}, [1, 3, 35, 8]>");
        let body = format!(
            "{heads} r = reshape(x = x, shape = tensor<int32, [4]>([1, 35, 3, 8]));
             {turned} q = transpose(x = r, perm = tensor<int32, [4]>([0, 2, 1, 3]));
             {scores} s = matmul(x = q, y = q, transpose_y = bool(true));
             {scores} t = real_div(x = s, y = {dtype}(2));
             tensor<{dtype}, [1, 1, 1, {}]> m = const()[val = {mask}];
             {scores} u = {masked};
             {scores} w = softmax(x = u, axis = int32(-1));
             {turned} v = matmul(x = w, y = q);
             {heads} z = transpose(x = v, perm = tensor<int32, [4]>([0, 2, 1, 3]));
             tensor<{dtype}, [1, 35, 24]> y = reshape(x = z, shape = tensor<int32, [3]>([1, 35, 24]));",
            if masked.starts_with("add") { 35 } else { 1 }
        );
        check(dtype, &[1, 35, 24], &body, 5);
    }
}

#[test]
fn permutations_that_are_written_with_several() {
    let reshape = |out: &str, x: &str, shape: &[usize]| {
        format!(
            "tensor<fp32, {shape:?}> {out} = reshape(x = {x}, shape = tensor<int32, [{}]>({shape:?}));",
            shape.len()
        )
    };
    let transpose = |out: &str, x: &str, perm: &[i32], shape: &[usize]| {
        format!("tensor<fp32, {shape:?}> {out} = transpose(x = {x}, perm = tensor<int32, [{}]>({perm:?}));", perm.len())
    };
    // Windows of 3 × 2 of an image [1, 4, 6, 6], channels last, written by coremltools with four dimensions.
    let windows = [
        reshape("a", "x", &[4, 2, 3, 6]),
        transpose("b", "a", &[1, 0, 2, 3], &[2, 4, 3, 6]),
        reshape("c", "b", &[2, 12, 3, 2]),
        transpose("d", "c", &[0, -2, 1, 3], &[2, 3, 12, 2]),
        reshape("e", "d", &[6, 4, 6, 1]),
        transpose("f", "e", &[0, 2, 1, 3], &[6, 6, 4, 1]),
        reshape("y", "f", &[6, 6, 4]),
    ];
    check("fp32", &[1, 4, 6, 6], &windows.concat(), 3);
    // A leading transpose; a trailing transpose.
    let others = [
        transpose("a", "x", &[0, 2, 3, 1], &[1, 6, 6, 4]),
        "tensor<fp32, [6, 6, 4]> b = squeeze(x = a, axes = tensor<int32, [1]>([0]));".to_owned(),
        reshape("c", "b", &[2, 3, 24]),
        transpose("y", "c", &[2, 0, 1], &[24, 2, 3]),
    ];
    check("fp32", &[1, 4, 6, 6], &others.concat(), 3);
    // Moves that are not a permutation of whole dimensions, and a value used twice.
    let uneven = [
        transpose("a", "x", &[0, 2, 3, 1], &[1, 6, 6, 4]),
        reshape("b", "a", &[1, 9, 4, 4]),
        reshape("c", "b", &[16, 9]),
        transpose("y", "c", &[1, 0], &[9, 16]),
    ];
    check("fp32", &[1, 4, 6, 6], &uneven.concat(), 4);
    let twice = [
        transpose("a", "x", &[0, 2, 3, 1], &[1, 6, 6, 4]),
        reshape("b", "a", &[36, 4]),
        reshape("c", "b", &[6, 6, 4]),
        transpose("d", "c", &[1, 0, 2], &[6, 6, 4]),
        reshape("e", "d", &[36, 4]),
        "tensor<fp32, [36, 4]> y = add(x = b, y = e);".to_owned(),
    ];
    check("fp32", &[1, 4, 6, 6], &twice.concat(), 6);
}
