//! Loads and runs MIL text of one or a few statements.

use candle_core::{DType, Device, Tensor};
use coreml_engine::{Executable, FeatureValue, Options};
use coreml_format::mil_text;
use coreml_format::verify::verify;
use coreml_format::weights::Weights;

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    message
}

/// Loads a function of an opset with these parameters and statements that returns `y`.
pub(crate) fn load(opset: &str, parameters: &str, body: &str) -> Result<Executable, String> {
    let text = format!("program(1.3) {{ func main<{opset}>({parameters}) {{ {body} }} -> (y); }}");
    let program = mil_text::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    verify(&program).unwrap_or_else(|e| panic!("{e}: {text}"));
    Executable::load(&program, &Weights::default(), "main", &Options::default()).map_err(|e| chain(&e))
}

/// Elements of `y`.
pub(crate) fn run_with(
    opset: &str,
    parameters: &str,
    body: &str,
    inputs: &[(&str, Tensor)],
) -> Result<Vec<f64>, String> {
    let outputs = load(opset, parameters, body)?.predict(inputs, None).map_err(|e| chain(&e))?;
    let FeatureValue::Tensor(y) = &outputs["y"] else { panic!("{outputs:?}") };
    Ok(y.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1()).expect("elements"))
}

/// A tensor of floats.
pub(crate) fn floats(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).expect("a tensor")
}

/// Elements of `y` for an fp32 input `x`; operations on it are not folded.
pub(crate) fn run(opset: &str, x: &[f32], shape: &[usize], body: &str) -> Result<Vec<f64>, String> {
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    let parameters = format!("tensor<fp32, [{}]> x", extents.join(", "));
    run_with(opset, &parameters, body, &[("x", floats(x, shape))])
}
