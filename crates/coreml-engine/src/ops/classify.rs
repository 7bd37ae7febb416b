//! Classifier outputs.

use std::sync::Arc;

use crate::array::Array;
use crate::budget;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::value::{Strings, Value};
use coreml_format::dtype::DataType;

pub(super) const OPS: &[OpSpec] = &[OpSpec::new("classify", IOS15, classify)];

/// Approximate size of a scalar tensor in bytes.
const SCALAR: usize = 512;

/// Splits the class labels, a list or a tensor, into single values.
fn labels(classes: &Value) -> Result<Vec<Value>, OpError> {
    match classes {
        Value::List(items) => Ok(items.to_vec()),
        Value::Strings(s) => Ok(s
            .data
            .iter()
            .map(|t| Value::Strings(Arc::new(Strings { data: vec![t.clone()], shape: Vec::new() })))
            .collect()),
        other => {
            let device = candle_core::Device::Cpu;
            let values = other.array("classes", &device)?.to_i64s()?;
            values
                .into_iter()
                .map(|v| Ok(Value::Array(Array::from_i64(vec![v], &[], DataType::I64, &device)?)))
                .collect()
        }
    }
}

/// `classify(probabilities, classes)` → the most likely class, and a dictionary of probabilities.
fn classify(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (probabilities, classes) = (b.slot("probabilities")?, b.slot("classes")?);
    b.run(move |f| {
        let values = f.array(probabilities)?.to_f32s()?;
        // A tensor for each probability and each class.
        budget::claim(values.len().saturating_mul(2 * SCALAR))?;
        let labels = labels(f.value(classes)?)?;
        if labels.len() != values.len() || labels.is_empty() {
            return Err(OpError::shape(format!("{} probabilities for {} classes", values.len(), labels.len())));
        }
        let best = (0..values.len()).fold(0, |b, i| if values[i] > values[b] { i } else { b });
        let entries = labels.iter().zip(&values).map(|(label, &p)| {
            Ok((label.clone(), Value::Array(Array::from_f32(vec![p], &[], DataType::F64, f.device())?)))
        });
        let entries = budget::try_collect(entries)?;
        Ok(vec![labels[best].clone(), Value::Dictionary(Arc::new(entries))])
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn classify_takes_the_first_of_the_likeliest_and_needs_a_class_for_each() {
        let body =
            "int64 y, dict<int64, fp64> p = classify(probabilities = x, classes = tensor<int64, [3]>([5, 6, 7]));";
        near(&of(body, &[3], &[0.2, 0.4, 0.4]), &[6.0]);
        refused(body, &[2], &[0.5, 0.5], "2 probabilities for 3 classes");
    }
}
