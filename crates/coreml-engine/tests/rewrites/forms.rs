//! Programs at the edge of what rewrites match: cases unsupported by the fused operation stay unchanged.

use candle_core::{DType, Device, Tensor};
use coreml_engine::passes::{ALL, PassSet};
use coreml_engine::{Executable, Options};
use coreml_format::mil_text;
use coreml_format::program::Program;
use coreml_format::weights::Weights;

/// Concatenated outputs of a program for small inputs; runs twice with the same states.
fn outputs(program: &Program, passes: PassSet) -> Result<Vec<f32>, String> {
    let options = Options { passes, ..Options::default() };
    let executable = Executable::load(program, &Weights::default(), "main", &options).map_err(|e| e.to_string())?;
    let inputs: Vec<(&str, Tensor)> = executable
        .inputs()
        .iter()
        .map(|input| {
            let ty = input.ty.tensor().expect("a tensor");
            let shape = ty.fixed_shape().expect("a shape");
            let values = (0..shape.iter().product()).map(|i: usize| (i * 29 % 33) as f32 / 8.0 - 2.0).collect();
            let t = Tensor::from_vec(values, shape, &Device::Cpu).expect("an input");
            let dtype = if ty.dtype.is_float() { DType::F32 } else { DType::I64 };
            (input.name.as_str(), t.to_dtype(dtype).expect("an input"))
        })
        .collect();
    let mut state = executable.new_state().map_err(|e| e.to_string())?;
    let mut all = Vec::new();
    for _ in 0..2 {
        let outputs = executable.predict(&inputs, Some(&mut state)).map_err(|e| e.to_string())?;
        for output in outputs.values() {
            let t = output.tensor().expect("a tensor").to_dtype(DType::F32).and_then(|t| t.flatten_all());
            all.extend(t.and_then(|t| t.to_vec1::<f32>()).expect("numbers"));
        }
    }
    Ok(all)
}

/// Checks for the same results with all rewrites, each alone and each disabled as with none.
#[track_caller]
fn agree(function: &str) {
    let program = mil_text::parse(&format!("program(1.3) {{ func {function} }}")).unwrap_or_else(|e| panic!("{e}"));
    let wanted = outputs(&program, PassSet::none()).unwrap_or_else(|e| panic!("without rewrites: {e}"));
    let alone = ALL.iter().map(|p| (p.name, PassSet::only(p.name)));
    let without = ALL.iter().map(|p| (p.name, PassSet::all().without(p.name)));
    for (name, passes) in alone.chain(without).chain([("all", PassSet::all())]) {
        let found = outputs(&program, passes).unwrap_or_else(|e| panic!("`{name}`: {e} in {function}"));
        assert_eq!(found.len(), wanted.len());
        for (i, (f, w)) in found.iter().zip(&wanted).enumerate() {
            // The order of sums.
            let same = (f - w).abs() <= 1e-5 * (1.0 + w.abs()) || (f.is_nan() && w.is_nan());
            assert!(same, "`{name}` at {i}: {f} instead of {w} in {function}");
        }
    }
}

#[test]
fn attention_of_vectors_and_along_other_axes() {
    // Queries or values without a row dimension.
    agree(
        "main<ios17>(tensor<fp32, [4]> q, tensor<fp32, [2, 3, 4, 5]> k, tensor<fp32, [2, 5, 6]> v) {
            tensor<fp32, [2, 3, 5]> s = matmul(x = q, y = k);
            tensor<fp32, [2, 3, 5]> w = softmax(x = s, axis = int32(-1));
            tensor<fp32, [2, 3, 6]> y = matmul(x = w, y = v);
         } -> (y);",
    );
    agree(
        "main<ios17>(tensor<fp32, [2, 3, 4]> q, tensor<fp32, [2, 4, 5]> k, tensor<fp32, [5]> v) {
            tensor<fp32, [2, 3, 5]> s = matmul(x = q, y = k);
            tensor<fp32, [2, 3, 5]> w = softmax(x = s, axis = int32(-1));
            tensor<fp32, [2, 3]> y = matmul(x = w, y = v);
         } -> (y);",
    );
    // A computed axis.
    agree(
        "main<ios17>(tensor<fp32, [2, 3, 4]> q, tensor<fp32, [2, 4, 5]> k, tensor<fp32, [2, 5, 6]> v) {
            int32 a = identity(x = int32(1));
            tensor<fp32, [2, 3, 5]> s = matmul(x = q, y = k);
            tensor<fp32, [2, 3, 5]> w = softmax(x = s, axis = a);
            tensor<fp32, [2, 3, 6]> y = matmul(x = w, y = v);
         } -> (y);",
    );
    // Integer values.
    agree(
        "main<ios17>(tensor<fp32, [2, 3, 4]> q, tensor<fp32, [2, 4, 5]> k, tensor<int32, [2, 5, 6]> v) {
            tensor<fp32, [2, 3, 5]> s = matmul(x = q, y = k);
            tensor<fp32, [2, 3, 5]> w = softmax(x = s, axis = int32(-1));
            tensor<fp32, [2, 3, 6]> y = matmul(x = w, y = v);
         } -> (y);",
    );
}

/// Attention over a state with these query and score shapes, and softmax along `axis`.
fn over_a_cache(query: &str, scores: &str, mask: &str, axis: i32, result: &str) {
    let whole = "tensor<fp16, [2, 2, 4, 4]>";
    let slice = |out: &str, at: i32| {
        format!(
            "tensor<fp16, [1, 2, 4, 4]> {out} = slice_by_index(x = r, begin = tensor<int32, [4]>([{at}, 0, 0, 0]),
                end = tensor<int32, [4]>([{}, 2, 4, 4]));",
            at + 1
        )
    };
    agree(&format!(
        "main<ios18>(tensor<fp16, {query}> q, tensor<fp16, {mask}> m, {whole} u, state<{whole}> c) {{
            {whole} a = read_state(input = c);
            {whole} b = add(x = a, y = u);
            write_state(input = c, data = b);
            {whole} r = read_state(input = c);
            {} {}
            tensor<fp16, {scores}> s = matmul(x = q, y = k, transpose_x = bool(false), transpose_y = bool(true));
            tensor<fp16, {scores}> t = mul(x = s, y = fp16(0.5));
            tensor<fp16, {scores}> o = add(x = t, y = m);
            tensor<fp16, {scores}> w = softmax(x = o, axis = int32({axis}));
            tensor<fp16, {result}> y = matmul(x = w, y = v, transpose_x = bool(false), transpose_y = bool(false));
         }} -> (y);",
        slice("k", 0),
        slice("v", 1)
    ));
}

#[test]
fn attention_over_a_cache_with_queries_of_other_shapes() {
    over_a_cache("[1, 2, 3, 4]", "[1, 2, 3, 4]", "[1, 1, 3, 4]", -1, "[1, 2, 3, 4]");
    // A batch of queries, one head for all, no batch, five dimensions with softmax along the fourth.
    over_a_cache("[2, 2, 3, 4]", "[2, 2, 3, 4]", "[1, 1, 3, 4]", -1, "[2, 2, 3, 4]");
    over_a_cache("[1, 1, 3, 4]", "[1, 2, 3, 4]", "[1, 1, 3, 4]", -1, "[1, 2, 3, 4]");
    over_a_cache("[2, 3, 4]", "[1, 2, 3, 4]", "[1, 1, 3, 4]", -1, "[1, 2, 3, 4]");
    over_a_cache("[1, 1, 2, 3, 4]", "[1, 1, 2, 3, 4]", "[1, 1, 3, 4]", 3, "[1, 1, 2, 3, 4]");
    // A mask per head.
    over_a_cache("[1, 2, 3, 4]", "[1, 2, 3, 4]", "[1, 2, 3, 4]", 3, "[1, 2, 3, 4]");
    over_a_cache("[1, 1, 3, 4]", "[1, 2, 3, 4]", "[1, 2, 3, 4]", 3, "[1, 2, 3, 4]");
}

#[test]
fn a_mask_that_makes_scores_a_batch_is_no_mask() {
    let whole = "tensor<fp16, [2, 2, 4, 4]>";
    let slice = |out: &str, at: i32| {
        format!(
            "tensor<fp16, [1, 2, 4, 4]> {out} = slice_by_index(x = r, begin = tensor<int32, [4]>([{at}, 0, 0, 0]),
                end = tensor<int32, [4]>([{}, 2, 4, 4]));",
            at + 1
        )
    };
    agree(&format!(
        "main<ios18>(tensor<fp16, [1, 2, 3, 4]> q, tensor<fp16, [2, 1, 3, 4]> m, {whole} u, state<{whole}> c) {{
            write_state(input = c, data = u);
            {whole} r = read_state(input = c);
            {} {}
            tensor<fp16, [1, 2, 3, 4]> s = matmul(x = q, y = k, transpose_y = bool(true));
            tensor<fp16, [1, 2, 3, 4]> t = mul(x = s, y = fp16(0.5));
            tensor<fp16, [2, 2, 3, 4]> o = add(x = t, y = m);
            tensor<fp16, [2, 2, 3, 4]> w = softmax(x = o, axis = int32(-1));
            tensor<fp16, [2, 2, 3, 4]> y = matmul(x = w, y = v);
         }} -> (y);",
        slice("k", 0),
        slice("v", 1)
    ));
}

#[test]
fn states_are_cut_in_strides() {
    let whole = "tensor<fp16, [4, 5]>";
    agree(&format!(
        "main<ios18>({whole} u, state<{whole}> c) {{
            write_state(input = c, data = u);
            {whole} r = read_state(input = c);
            tensor<fp16, [2, 2]> y = slice_by_index(x = r, begin = tensor<int32, [2]>([3, 1]), end = tensor<int32, [2]>([0, 4]),
                stride = tensor<int32, [2]>([-2, 2]));
         }} -> (y);"
    ));
}

/// A state `[4, 2, 5, 3]` into which a part of it and new rows are written; true if this becomes a move in place.
fn moved(rows: usize, new: &str, parts: [&str; 3], extra: &str) -> bool {
    let whole = "tensor<fp16, [4, 2, 5, 3]>";
    let [first, second, target] = parts;
    let function = format!(
        "main<ios18>({whole} u, tensor<fp16, {new}> n, state<{whole}> c) {{
            {whole} a = read_state(input = c);
            {whole} b = add(x = a, y = u);
            write_state(input = c, data = b);
            {whole} r = read_state(input = c);
            tensor<fp16, [1, 2, ?, 3]> s = slice_by_index(x = r, {first});
            tensor<fp16, [1, 2, {rows}, 3]> t = slice_by_index(x = s, {second});
            {extra}
            tensor<fp16, [1, 2, 5, 3]> k = concat(values = (t, n), axis = int32(2), interleave = bool(false));
            {whole} q = read_state(input = c);
            {whole} w = slice_update(x = q, update = k, {target});
            write_state(input = c, data = w);
            {whole} y = read_state(input = c);
         }} -> (y, k);"
    );
    agree(&function);
    let mut program = mil_text::parse(&format!("program(1.3) {{ func {function} }}")).expect("a program");
    let main = program.functions.get_mut("main").expect("a function");
    let run = |name: &str, main: &mut _| (ALL.iter().find(|p| p.name == name).expect("a rewrite").run)(main);
    run("state_access", main);
    run("state_shift", main) > 0
}

fn bounds(begin: [i32; 4], end: [i32; 4]) -> String {
    format!("begin = tensor<int32, [4]>({begin:?}), end = tensor<int32, [4]>({end:?})")
}

#[test]
fn windows_move_in_a_state() {
    let entry = |e: i32, from: i32| bounds([e, 0, from, 0], [e + 1, 2, 5, 3]);
    let masked = "begin = tensor<int32, [4]>([2, 0, 0, 0]), end = tensor<int32, [4]>([3, 0, 0, 0]),
        end_mask = tensor<bool, [4]>([false, true, true, true])";
    // As converters write it: an entry, its tail, new rows behind it.
    assert!(moved(4, "[1, 2, 1, 3]", [masked, &bounds([0, 0, 1, 0], [1, 2, 5, 3]), masked], ""));
    assert!(moved(2, "[1, 2, 3, 3]", [&entry(1, 0), &bounds([0, 0, -2, 0], [1, 2, 5, 3]), &entry(1, 0)], ""));
    assert!(moved(4, "[1, 2, 1, 3]", [&entry(1, 1), &bounds([0; 4], [1, 2, 4, 3]), &entry(1, 0)], ""));
    // From another entry; a tail that is not the end; the state is written in between.
    assert!(!moved(4, "[1, 2, 1, 3]", [&entry(2, 1), &bounds([0; 4], [1, 2, 4, 3]), &entry(1, 0)], ""));
    assert!(!moved(4, "[1, 2, 1, 3]", [&entry(1, 0), &bounds([0; 4], [1, 2, 4, 3]), &entry(1, 0)], ""));
    assert!(!moved(
        4,
        "[1, 2, 1, 3]",
        [&entry(1, 1), &bounds([0; 4], [1, 2, 4, 3]), &entry(1, 0)],
        "write_state(input = c, data = u);"
    ));
}

#[test]
fn rotations_of_one_element_have_none() {
    let part = "begin = tensor<int32, [2]>([0, 0]), end = tensor<int32, [2]>([2, 0])";
    agree(&format!(
        "main<ios17>(tensor<fp32, [2, 1]> a, tensor<fp32, [2, 1]> c) {{
            tensor<fp32, [2, 1]> x = identity(x = a);
            tensor<fp32, [2, 1]> p = mul(x = x, y = c);
            tensor<fp32, [2, 0]> l = slice_by_index(x = x, {part});
            tensor<fp32, [2, 0]> h = slice_by_index(x = x, {part});
            tensor<fp32, [2, 0]> n = mul(x = h, y = fp32(-1));
            tensor<fp32, [2, 0]> r = concat(values = (n, l), axis = int32(-1), interleave = bool(false));
            tensor<fp32, [2, 0]> q = mul(x = r, y = c);
            tensor<fp32, [2, 0]> y = add(x = p, y = q);
         }} -> (y);"
    ));
}

#[test]
fn norms_and_gains_of_no_elements() {
    agree(
        "main<ios17>(tensor<fp32, [3, 0]> x) {
            tensor<fp32, [3, 0]> n = mul(x = x, y = fp32(-1));
            tensor<fp32, [3, 0]> c = concat(values = (x, n), axis = int32(-1), interleave = bool(false));
            tensor<fp32, [3, 0]> l = layer_norm(x = c, axes = tensor<int32, [1]>([-1]));
            tensor<fp32, [3, 0]> h = slice_by_index(x = l, begin = tensor<int32, [2]>([0, 0]), end = tensor<int32, [2]>([3, 0]));
            tensor<fp32, [3, 0]> y = mul(x = h, y = tensor<fp32, [0]>([]));
         } -> (y);",
    );
}

#[test]
fn products_of_integers_stay_exact() {
    let weight = "tensor<int32, [2, 3]>([[16777217, 2, 3], [4, 5, 6]])";
    agree(&format!(
        "main<ios17>(tensor<int32, [4, 3]> x) {{
            tensor<int32, [4, 2]> a = linear(x = x, weight = {weight});
            tensor<int32, [4, 2]> b = linear(x = x, weight = {weight});
            tensor<int32, [4, 2]> y = add(x = a, y = b);
         }} -> (y);"
    ));
}

#[test]
fn rotations_and_gates_of_integers() {
    let t = "tensor<int32, [2, 4]>";
    let h = "tensor<int32, [2, 2]>";
    let at =
        |from: i32| format!("begin = tensor<int32, [2]>([0, {from}]), end = tensor<int32, [2]>([2, {}])", from + 2);
    agree(&format!(
        "main<ios17>({t} a, {t} c, {t} s) {{
            {t} x = identity(x = a);
            {t} p = mul(x = x, y = c);
            {h} l = slice_by_index(x = x, {});
            {h} g = slice_by_index(x = x, {});
            {h} n = mul(x = g, y = int32(-1));
            {t} r = concat(values = (n, l), axis = int32(-1), interleave = bool(false));
            {t} q = mul(x = r, y = s);
            {t} y = add(x = p, y = q);
         }} -> (y);",
        at(0),
        at(2)
    ));
    agree(
        "main<ios17>(tensor<fp32, [2, 3]> x, tensor<int32, [3]> c) {
            tensor<fp32, [2, 3]> g = silu(x = x);
            tensor<fp32, [2, 3]> y = mul(x = g, y = c);
         } -> (y);",
    );
}

#[test]
fn what_is_not_a_number_passes_a_threshold() {
    agree(
        "main<ios17>(tensor<fp32, [5, 4]> x) {
            tensor<fp32, [5, 4]> n = real_div(x = x, y = x);
            tensor<fp32, [5, 4]> w = thresholded_relu(x = n, alpha = fp32(-3));
            tensor<fp32, [5, 4]> s = sigmoid_hard(x = w, alpha = fp32(0x1.555556p-3), beta = fp32(0.5));
            tensor<fp32, [5, 4]> y = mul(x = w, y = s);
         } -> (y);",
    );
}
