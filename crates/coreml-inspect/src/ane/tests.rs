//! Each rule on a program that violates it and on one that does not.

use coreml_format::mil_text;

use super::*;

fn estimated(inputs: &str, body: &str, output: &str) -> Vec<FunctionVerdict> {
    let text = format!("program(1.3)\n{{ func main<ios18>({inputs}) {{ {body} }} -> ({output}); }}");
    let program = mil_text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let description = ModelDescription { default_function: "main".to_owned(), ..ModelDescription::default() };
    estimate(&program, &description)
}

/// Verdicts of the operations, with the names of their rules.
fn verdicts(inputs: &str, body: &str) -> Vec<(Verdict, Vec<&'static str>)> {
    let report = estimated(inputs, body, "y");
    report[0].operations.iter().map(|o| (o.verdict, o.reasons.iter().map(|r| r.rule).collect())).collect()
}

fn one(inputs: &str, body: &str) -> (Verdict, Vec<&'static str>) {
    verdicts(inputs, body).pop().expect("an operation")
}

const LIKELY: (Verdict, Vec<&str>) = (Verdict::Likely, Vec::new());

#[test]
fn fp16_networks_are_likely_and_fp32_is_refused() {
    let relu = |dtype: &str| {
        let ty = format!("tensor<{dtype}, [1, 8, 4, 4]>");
        one(&format!("{ty} x"), &format!("{ty} y = relu(x = x)[name = string(\"y\")];"))
    };
    assert_eq!(relu("fp16"), LIKELY);
    assert_eq!(relu("fp32"), (Verdict::Refused, vec!["precision"]));
    let cast = "tensor<fp16, [4]> y = cast(x = x, dtype = string(\"fp16\"))[name = string(\"y\")];";
    assert_eq!(one("tensor<fp32, [4]> x", cast), LIKELY, "the border of a model");
    assert_eq!(one("tensor<int32, [4]> x", cast), (Verdict::Refused, vec!["integers"]));
}

#[test]
fn integers_and_lookups_are_refused() {
    let add = "tensor<int32, [4]> y = add(x = x, y = x)[name = string(\"y\")];";
    assert_eq!(one("tensor<int32, [4]> x", add), (Verdict::Refused, vec!["integers"]));
    let gather = "tensor<fp16, [4, 8]> y = gather(x = w, indices = x, axis = int32(0))[name = string(\"y\")];";
    assert_eq!(one("tensor<int32, [4]> x, tensor<fp16, [9, 8]> w", gather).1, ["gather"]);
    // A comparison turns floats into booleans, a selection consumes them.
    let body = "tensor<bool, [4]> c = greater(x = x, y = x)[name = string(\"c\")]; \
                tensor<fp16, [4]> y = select(cond = c, a = x, b = x)[name = string(\"y\")];";
    assert_eq!(verdicts("tensor<fp16, [4]> x", body), [LIKELY, LIKELY]);
}

#[test]
fn ranks_and_extents_have_limits() {
    let square = |shape: &str| {
        let ty = format!("tensor<fp16, [{shape}]>");
        one(&format!("{ty} x"), &format!("{ty} y = square(x = x)[name = string(\"y\")];"))
    };
    assert_eq!(square("1, 2, 3, 4, 5"), LIKELY);
    assert_eq!(square("1, 2, 3, 4, 5, 6"), (Verdict::Refused, vec!["rank"]));
    assert_eq!(square("1, 16384"), LIKELY);
    assert_eq!(square("1, 16385"), (Verdict::Unsure, vec!["extent"]));
    assert_eq!(square("1, 65536, 1, 1"), LIKELY, "channels");
    assert_eq!(square("1, 65537, 1, 1"), (Verdict::Refused, vec!["extent"]));
    assert_eq!(square(""), LIKELY, "a scalar");
}

#[test]
fn convolutions_have_limits() {
    let conv = |x: &str, w: &str, y: &str, more: &str| {
        let body = format!(
            "tensor<fp16, [{w}]> w = const()[name = string(\"w\"), val = tensor<fp16, [{w}]>(BLOBFILE(path = \
             string(\"@model_path/w\"), offset = uint64(64)))]; \
             tensor<fp16, [{y}]> y = conv(x = x, weight = w{more})[name = string(\"y\")];"
        );
        one(&format!("tensor<fp16, [{x}]> x"), &body)
    };
    assert_eq!(conv("1, 4, 9, 9", "8, 4, 3, 3", "1, 8, 7, 7", ""), LIKELY);
    assert_eq!(conv("1, 1, 400", "8, 1, 14", "1, 8, 387", "").1, ["kernel"]);
    assert_eq!(conv("1, 4, 9, 9, 9", "8, 4, 3, 3, 3", "1, 8, 7, 7, 7", "").1, ["conv3d"]);
    let dilated = ", dilations = tensor<int32, [2]>([2, 2])";
    assert_eq!(conv("1, 4, 9, 9", "8, 4, 3, 3", "1, 8, 5, 5", dilated), (Verdict::Unsure, vec!["dilation"]));
}

#[test]
fn states_need_a_width_and_open_shapes_are_unsure() {
    let read = |width: usize| {
        let ty = format!("tensor<fp16, [1, 4, {width}]>");
        one(&format!("state<{ty}> s"), &format!("{ty} y = read_state(input = s)[name = string(\"y\")];"))
    };
    assert_eq!(read(64), LIKELY);
    assert_eq!(read(270), (Verdict::Refused, vec!["state_width"]));
    let open = "tensor<fp16, [1, ?]> y = relu(x = x)[name = string(\"y\")];";
    assert_eq!(one("tensor<fp16, [1, ?]> x", open), (Verdict::Unsure, vec!["flexible_shape"]));
}

#[test]
fn computed_parameters_and_control_flow_are_told() {
    let slice =
        "tensor<fp16, [2]> y = slice_by_size(x = x, begin = b, size = tensor<int32, [1]>([2]))[name = string(\"y\")];";
    assert_eq!(one("tensor<fp16, [9]> x, tensor<int32, [1]> b", slice), (Verdict::Unsure, vec!["computed"]));
    let lstm = "tensor<fp16, [4]> y = lstm(x = x)[name = string(\"y\")];";
    assert_eq!(one("tensor<fp16, [4]> x", lstm).1, ["no_path"]);
    let new = "tensor<fp16, [4]> y = brand_new(x = x)[name = string(\"y\")];";
    assert_eq!(one("tensor<fp16, [4]> x", new), (Verdict::Unsure, vec!["unpublished"]));
}

#[test]
fn reports_count_operations_multiplications_and_switches() {
    let body = "tensor<fp16, [2, 3]> a = relu(x = x)[name = string(\"a\")]; \
                tensor<fp16, [2, 5]> b = matmul(x = a, y = w)[name = string(\"b\")]; \
                tensor<fp16, [2, 5]> c = gather(x = b, indices = i, axis = int32(0))[name = string(\"c\")]; \
                tensor<fp16, [2, 5]> y = relu(x = c)[name = string(\"y\")];";
    let report = estimated("tensor<fp16, [2, 3]> x, tensor<fp16, [3, 5]> w, tensor<int32, [2]> i", body, "y");
    let main = &report[0];
    assert_eq!((main.function.as_str(), main.needs, main.switches), ("main", "iOS 18, macOS 15", 2));
    assert_eq!([Verdict::Likely, Verdict::Unsure, Verdict::Refused].map(|v| main.count(v)), [3, 0, 1]);
    assert_eq!(main.operations[1].multiplications, Some(2 * 5 * 3));
    assert_eq!(main.share(Verdict::Likely), Some(1.0));
    let summary = main.summary();
    assert_eq!((summary[0].0.rule, summary[0].1.get("gather")), ("gather", Some(&1)));
    // No fraction without products.
    let none = estimated("tensor<fp16, [2]> x", "tensor<fp16, [2]> y = relu(x = x)[name = string(\"y\")];", "y");
    assert_eq!(none[0].share(Verdict::Likely), None);
}
