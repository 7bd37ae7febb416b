//! A result that contradicts its declaration is an error naming operation, declaration and result.

use crate::text::{floats, load, run, run_with};

fn refused(result: Result<impl Sized, String>, parts: &[&str]) {
    let message = result.err().expect("a contradiction");
    assert!(parts.iter().all(|part| message.contains(part)), "{parts:?} in {message}");
}

#[test]
fn results_have_the_declared_rank_and_extents() {
    let x = [1.0];
    refused(
        run("ios17", &x, &[1], "tensor<fp32, [20, 7]> y = identity(x = x);"),
        &["op `y` (identity)", "`y` is declared as fp32 tensor [20, 7], found fp32 tensor [1]"],
    );
    refused(run("ios17", &x, &[1], "fp32 y = identity(x = x);"), &["fp32 tensor [], found fp32 tensor [1]"]);
    refused(
        run("ios17", &[1.0; 6], &[2, 3], "tensor<fp32, [?, 4]> y = relu(x = x);"),
        &["(relu)", "fp32 tensor [?, 4], found fp32 tensor [2, 3]"],
    );
    refused(run("ios17", &[], &[0], "tensor<fp32, [1]> y = relu(x = x);"), &["[1], found fp32 tensor [0]"]);
    // Unknown extents match anything.
    for open in ["[2, 3]", "[?, 3]", "[?, ?]", "[*?]"] {
        let body = format!("tensor<fp32, {open}> y = relu(x = x);");
        assert_eq!(run("ios17", &[1.0; 6], &[2, 3], &body).expect("it fits"), [1.0; 6]);
    }
}

#[test]
fn results_have_the_declared_element_type() {
    for declared in ["int32", "bool", "fp16"] {
        let body = format!("tensor<{declared}, [1]> y = relu(x = x);");
        let expected = format!("declared as {declared} tensor [1], found fp32 tensor [1]");
        refused(run("ios17", &[1.5], &[1], &body), &["(relu)", &expected]);
    }
    refused(run("ios17", &[1.5], &[1], "tensor<fp32, [1]> y = cast(x = x, dtype = string(\"int32\"));"), &["int32"]);
    refused(run("ios17", &[1.5], &[1], "tensor<int32, [1]> y = greater(x = x, y = fp32(1));"), &["found bool"]);
    let body = "string y = classify(probabilities = x, classes = tensor<int64, [1]>([7]));";
    refused(
        load("ios17", "tensor<fp32, [1]> x", body).and_then(|e| {
            e.predict(&[("x", floats(&[1.0], &[1]))], None).map(drop).map_err(|e| crate::text::chain(&e))
        }),
        &["declares 1 outputs but has 2"],
    );
}

#[test]
fn constants_and_folded_values_hold_what_they_declare() {
    for body in [
        // A literal of another type, shape or rank.
        "tensor<fp32, [2]> y = const()[val = tensor<int32, [2]>([1, 2])];",
        "tensor<fp32, [3]> y = const()[val = tensor<fp32, [2]>([1, 2])];",
        "fp32 y = const()[val = tensor<fp32, [1]>([1])];",
        "string y = const()[val = fp32(1)];",
        // Folded at load time.
        "tensor<fp32, [3]> y = add(x = tensor<fp32, [2]>([1, 2]), y = fp32(1));",
        "tensor<int32, [2]> y = add(x = tensor<fp32, [2]>([1, 2]), y = fp32(1));",
        // Too large to fold.
        "tensor<fp32, [300001]> y = fill(shape = tensor<int32, [1]>([300000]), value = fp32(1));",
        // Compressed: two values where a gigabyte is declared.
        "tensor<fp32, [1073741824]> y = constexpr_sparse_to_dense()[nonzero_data = tensor<fp32, [1]>([5]), \
         mask = tensor<uint8, [1]>([1]), shape = tensor<uint32, [1]>([2])];",
        "tensor<fp16, [2, 2]> y = constexpr_affine_dequantize()[quantized_data = tensor<uint8, [2, 2]>([[1, 2], [3, 4]]), \
         zero_point = uint8(1), scale = fp32(2), axis = int32(0)];",
        "tensor<fp32, [2]> y = constexpr_cast()[source_val = tensor<fp16, [3]>([1, 2, 3]), output_dtype = string(\"fp32\")];",
    ] {
        refused(run_with("ios16", "", body, &[]), &["declared as", "found"]);
    }
    let body = "tensor<fp32, [2]> y = constexpr_sparse_to_dense()[nonzero_data = tensor<fp32, [1]>([5]), \
                mask = tensor<uint8, [1]>([2]), shape = tensor<uint32, [1]>([2])];";
    assert_eq!(run_with("ios16", "", body, &[]).expect("it fits"), [0.0, 5.0]);
}

#[test]
fn blocks_take_and_return_what_they_declare() {
    let branch = |declared: &str| {
        format!(
            "bool p = const()[val = bool(true)]; {declared} y = cond(pred = p) \
             {{ tensor<fp32, [2]> a = relu(x = x); }} -> (a) {{ tensor<fp32, [2]> b = relu(x = x); }} -> (b);"
        )
    };
    let x = [1.0, -1.0];
    assert_eq!(run("ios17", &x, &[2], &branch("tensor<fp32, [2]>")).expect("it fits"), [1.0, 0.0]);
    refused(run("ios17", &x, &[2], &branch("tensor<fp32, [3]>")), &["(cond)", "[3], found fp32 tensor [2]"]);
    // A loop variable that grows, contrary to its block's declaration.
    let grow = |declared: &str| {
        format!(
            "tensor<fp32, [?]> y = while_loop(loop_vars = x) \
             ({declared} c) {{ tensor<int32, [1]> n = shape(x = c); tensor<int32, []> k = squeeze(x = n); \
             bool go = less(x = k, y = int32(8)); }} -> (go) \
             ({declared} v) {{ tensor<fp32, [?]> w = concat(values = (v, v), axis = int32(0)); }} -> (w);"
        )
    };
    assert_eq!(run("ios17", &x, &[2], &grow("tensor<fp32, [?]>")).expect("it grows").len(), 8);
    refused(run("ios17", &x, &[2], &grow("tensor<fp32, [2]>")), &["`c` is declared as fp32 tensor [2]"]);
}
