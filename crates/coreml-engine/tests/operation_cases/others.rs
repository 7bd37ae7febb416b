//! Operations with results other than tensors, or with random results.

use candle_core::{DType, Device, Tensor};
use coreml_engine::DictionaryKey;
use coreml_engine::{Executable, FeatureValue, Options};
use coreml_format::mil_text;
use coreml_format::weights::Weights;
use indexmap::IndexMap;

fn run(parameters: &str, body: &str, outputs: &str, inputs: &[(&str, Tensor)]) -> IndexMap<String, FeatureValue> {
    let text = format!("program(1.3) {{ func main<ios17>({parameters}) {{ {body} }} -> ({outputs}); }}");
    let program = mil_text::parse(&text).expect("it parses");
    let executable = Executable::load(&program, &Weights::default(), "main", &Options::default()).expect("it loads");
    executable.predict(inputs, None).expect("it runs")
}

fn floats(output: &FeatureValue) -> Vec<f64> {
    let FeatureValue::Tensor(t) = output else { panic!("{output:?} is no tensor") };
    t.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("elements")
}

/// Mean and variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

const N: usize = 40_000;

/// Forty thousand draws of an operation, given the parameters before and after the shape.
fn draws(op: &str, parameters: &str, seed: i32) -> Vec<f64> {
    let body =
        format!("tensor<fp32, [{N}]> y = {op}(shape = tensor<int32, [1]>([{N}]), {parameters}, seed = int32({seed}));");
    floats(&run("", &body, "y", &[])["y"])
}

/// Means within five standard errors, variances within a tenth: both hold for these seeds and would fail for another
/// distribution.
#[test]
fn random_numbers_have_their_distribution_and_follow_their_seed() {
    let error = |variance: f64| 5.0 * (variance / N as f64).sqrt();
    for (op, parameters, mean, variance) in [
        ("random_normal", "mean = fp32(2), stddev = fp32(3)", 2.0, 9.0),
        ("random_uniform", "low = fp32(-1), high = fp32(5)", 2.0, 3.0),
        ("random_bernoulli", "prob = fp32(0.25)", 0.25, 0.1875),
    ] {
        let values = draws(op, parameters, 7);
        let (m, v) = moments(&values);
        assert!((m - mean).abs() < error(variance), "{op}: mean {m}");
        assert!((v / variance - 1.0).abs() < 0.1, "{op}: variance {v}");
        assert_eq!(values, draws(op, parameters, 7), "{op}: one seed, one sequence");
        assert_ne!(values, draws(op, parameters, 8), "{op}: another seed");
    }
    let uniform = draws("random_uniform", "low = fp32(-1), high = fp32(5)", 7);
    assert!(uniform.iter().all(|v| (-1.0..5.0).contains(v)));
    let normal = draws("random_normal", "mean = fp32(0), stddev = fp32(1)", 7);
    let tail = normal.iter().filter(|v| v.abs() > 1.96).count() as f64 / N as f64;
    assert!((tail - 0.05).abs() < 0.01, "the tails of a normal distribution hold 5 %: {tail}");
}

#[test]
fn categories_are_drawn_as_often_as_their_weights_say() {
    let x = Tensor::new(&[[1f32, 2., 1.]], &Device::Cpu).and_then(|t| t.log()).expect("logits");
    for (mode, x) in [("logits", x.clone()), ("probs", (x.exp().expect("weights") / 4.0).expect("probabilities"))] {
        let body = format!(
            "tensor<fp32, [1, {N}]> y = random_categorical(x = x, mode = string(\"{mode}\"), size = int32({N}), seed = int32(3));"
        );
        let values = floats(&run("tensor<fp32, [1, 3]> x", &body, "y", &[("x", x)])["y"]);
        for (category, wanted) in [0.25, 0.5, 0.25].into_iter().enumerate() {
            let share = values.iter().filter(|v| **v == category as f64).count() as f64 / N as f64;
            assert!((share - wanted).abs() < 0.0125, "{mode}: {category} has {share}");
        }
    }
}

#[test]
fn classifiers_return_a_label_and_a_dictionary() {
    let x = Tensor::new(&[0.125f32, 0.5, 0.375], &Device::Cpu).expect("probabilities");
    let classify = |classes: &str, label: &str| {
        let body = format!("{label} l, dict<{label}, fp64> p = classify(probabilities = x, classes = {classes});");
        run("tensor<fp32, [3]> x", &body, "l, p", &[("x", x.clone())])
    };
    let found = classify("tensor<string, [3]>([\"cat\", \"dog\", \"emu\"])", "string");
    let FeatureValue::String(label) = &found["l"] else { panic!("a label") };
    assert_eq!(label, "dog");
    let FeatureValue::Dictionary(entries) = &found["p"] else { panic!("a dictionary") };
    let key = |s: &str| DictionaryKey::String(s.to_owned());
    assert_eq!(entries, &[(key("cat"), 0.125), (key("dog"), 0.5), (key("emu"), 0.375)]);

    let found = classify("tensor<int64, [3]>([10, 20, 30])", "int64");
    assert_eq!(floats(&found["l"]), [20.0]);
    let FeatureValue::Dictionary(entries) = &found["p"] else { panic!("a dictionary") };
    assert_eq!(entries[2], (DictionaryKey::Int(30), 0.375));
}

/// As in programs converted from packed sequences; fewer rows than the batch are an error.
#[test]
fn initial_states_of_more_rows_than_the_batch_are_those_of_the_first() {
    let weights = "weight_ih = tensor<fp32, [4, 1]>([[0.5], [-0.25], [1], [0.75]]), weight_hh = tensor<fp32, [4, 1]>([[0.1], [0.2], [-0.3], [0.4]])";
    let states = |rows: usize| {
        let values: Vec<String> = (0..rows).map(|i| format!("[{}]", 0.5 - i as f32)).collect();
        format!("tensor<fp32, [{rows}, 1]>([{}])", values.join(", "))
    };
    let lstm = |rows: usize| {
        let body = format!(
            "tensor<fp32, [?, 2, 1]> y, tensor<fp32, [2, 1]> h, tensor<fp32, [2, 1]> c = lstm(x = x, initial_h = {0}, initial_c = {0}, \
             {weights}, direction = string(\"forward\"), output_sequence = bool(true));",
            states(rows)
        );
        let text = format!("program(1.3) {{ func main<ios17>(tensor<fp32, [3, 2, 1]> x) {{ {body} }} -> (y, h, c); }}");
        let program = mil_text::parse(&text).expect("it parses");
        let x = Tensor::new(&[1f32, -2., 0.5, 3., -1., 0.25], &Device::Cpu).and_then(|t| t.reshape((3, 2, 1)));
        let executable =
            Executable::load(&program, &Weights::default(), "main", &Options::default()).expect("it loads");
        let found = executable.predict(&[("x", x.expect("an input"))], None).ok()?;
        Some(found.values().map(floats).collect::<Vec<_>>())
    };
    let exact = lstm(2).expect("it runs");
    assert_eq!(exact[1].len(), 2);
    assert_eq!(lstm(3).expect("it runs"), exact);
    assert!(lstm(1).is_none());
}

/// A pointwise convolution is a product: w = scale · q + bias per output channel.
#[test]
fn quantized_convolutions_scale_their_weights() {
    let x = Tensor::new(&[[[1f32, 2.], [3., -1.]]], &Device::Cpu).expect("an input");
    let body = "tensor<fp32, [1, 2, 2]> y = conv_quantized(x = x, weight = tensor<uint8, [2, 2, 1]>([[[1], [2]], [[3], [4]]]), \
                quantization_type = string(\"linear\"), nbits = int32(8), quant_scale = tensor<fp32, [2]>([0.5, 2]), \
                quant_bias = tensor<fp32, [2]>([1, -1]), bias = tensor<fp32, [2]>([0, 10]));";
    let found = floats(&run("tensor<fp32, [1, 2, 2]> x", body, "y", &[("x", x)])["y"]);
    // Weight rows: [1.5, 2] and [5, 7].
    assert_eq!(found, [1.5 + 6.0, 3.0 - 2.0, 5.0 + 21.0 + 10.0, 10.0 - 7.0 + 10.0]);
}
