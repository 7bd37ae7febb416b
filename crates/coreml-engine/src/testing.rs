//! Runs MIL text for the unit tests of operations.

use candle_core::{DType, Device, Tensor};
use coreml_format::mil_text;
use coreml_format::verify::verify;
use coreml_format::weights::Weights;

use crate::{Executable, Options};

/// An fp32 input: name, shape and elements.
pub(crate) type Given<'a> = (&'a str, &'a [usize], &'a [f32]);

/// Shape and elements of the tensor `y` after these statements, in a function of opset iOS18 with these inputs and a
/// state `s` of fp16 `[4]`. Operations that depend on an input are not folded.
///
/// # Errors
/// The error of loading or running it, with its causes.
pub(crate) fn run(body: &str, inputs: &[Given<'_>]) -> Result<(Vec<usize>, Vec<f32>), String> {
    let parameters: Vec<String> =
        inputs.iter().map(|(name, shape, _)| format!("tensor<fp32, {shape:?}> {name}")).collect();
    let (parameters, state) = (parameters.join(", "), "state<tensor<fp16, [4]>> s");
    let text = format!("program(1.3) {{ func main<ios18>({parameters}, {state}) {{ {body} }} -> (y); }}");
    let program = mil_text::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    verify(&program).unwrap_or_else(|e| panic!("{e}: {text}"));
    let options = Options { internal_ops: true, ..Options::default() };
    let executable = Executable::load(&program, &Weights::default(), "main", &options).map_err(|e| chain(&e))?;
    let tensor = |(name, shape, data): &Given<'_>| -> (String, Tensor) {
        ((*name).to_owned(), Tensor::from_slice(data, *shape, &Device::Cpu).expect("a tensor"))
    };
    let inputs: Vec<(String, Tensor)> = inputs.iter().map(tensor).collect();
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    let mut state = executable.new_state().map_err(|e| chain(&e))?;
    let outputs = executable.predict(&inputs, Some(&mut state)).map_err(|e| chain(&e))?;
    let y = outputs["y"].tensor().expect("a tensor");
    let elements = y.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1());
    Ok((y.dims().to_vec(), elements.expect("elements")))
}

/// Elements of `y` for an input `x`.
pub(crate) fn of(body: &str, shape: &[usize], x: &[f32]) -> Vec<f32> {
    run(body, &[("x", shape, x)]).unwrap_or_else(|e| panic!("{e}: {body}")).1
}

/// Checks that statements are rejected with an error that contains `words`.
pub(crate) fn refused(body: &str, shape: &[usize], x: &[f32], words: &str) {
    let error = run(body, &[("x", shape, x)]).expect_err(body);
    assert!(error.contains(words), "{error}");
}

/// Compares elements up to rounding (four units of 2⁻²² relative to the larger of the element and one). NaN equals NaN.
pub(crate) fn near(found: &[f32], expected: &[f32]) {
    let same =
        |(&f, &e): (&f32, &f32)| f == e || (f.is_nan() && e.is_nan()) || (f - e).abs() <= 1e-6 * e.abs().max(1.0);
    let all = found.len() == expected.len() && found.iter().zip(expected).all(same);
    assert!(all, "found {found:?}, expected {expected:?}");
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
