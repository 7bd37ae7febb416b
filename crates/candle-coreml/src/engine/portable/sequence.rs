//! Sequences of the arrays of a network of rank 5 (coremltools' `NeuralNetwork.proto`, "array input shape mapping").
//!
//! `coreml_lower::neural_network` says which networks take which sequences. Layers treat each element alike unless they
//! have a sequence axis; a program with one takes the sequence itself. Others run once for each element, where all arrays
//! are sequences of one length; [`super::shaped`] has the rest.

use candle_core::Tensor;
use coreml_engine::executable::Executable;
use coreml_format::description::{FeatureType, FunctionDescription};
use coreml_lower::neural_network::sequence_length;
use coreml_values::FeatureValue;
use indexmap::IndexMap;

use crate::error::{Error, Result};

/// The inputs of each step, where every array is a sequence of the same length; `None` if none is.
pub(super) fn steps<'n>(
    executable: &Executable,
    described: &FunctionDescription,
    inputs: &[(&'n str, FeatureValue)],
) -> Result<Option<Vec<Vec<(&'n str, FeatureValue)>>>> {
    let mut parts: Vec<(&str, Vec<Tensor>)> = Vec::with_capacity(inputs.len());
    for (name, value) in inputs {
        let FeatureValue::Tensor(tensor) = value else { return Ok(None) };
        let Some(FeatureType::MultiArray { shape, .. }) = described.input(name).map(|f| &f.ty) else { return Ok(None) };
        let declared = executable.inputs().iter().find(|i| i.name == *name).and_then(|i| i.ty.tensor());
        // A program with a sequence axis takes the sequence.
        if declared.is_none_or(|ty| ty.shape.len() == 5) {
            return Ok(None);
        }
        let Some(length) = sequence_length(shape, tensor.dims()) else { return Ok(None) };
        let each = (0..length).map(|i| tensor.get(i)?.get(0)).collect::<candle_core::Result<_>>()?;
        parts.push((name, each));
    }
    let Some(length) = parts.first().map(|(_, each)| each.len()) else { return Ok(None) };
    if parts.iter().any(|(_, each)| each.len() != length) {
        return Ok(None);
    }
    let step = |i: usize| parts.iter().map(|(name, each)| (*name, FeatureValue::Tensor(each[i].clone()))).collect();
    Ok(Some((0..length).map(step).collect()))
}

/// The results of all steps, `[sequence, 1, …]`.
pub(super) fn join(steps: Vec<IndexMap<String, FeatureValue>>) -> Result<IndexMap<String, FeatureValue>> {
    let Some(first) = steps.first() else { return Ok(IndexMap::new()) };
    let mut joined = IndexMap::with_capacity(first.len());
    for (name, value) in first {
        let mut parts = Vec::with_capacity(steps.len());
        for step in &steps {
            match &step[name] {
                FeatureValue::Tensor(tensor) => parts.push(tensor.unsqueeze(0)?),
                _ => {
                    return Err(Error::Input {
                        name: name.clone(),
                        expected: "one element, since this output is no array".to_owned(),
                        found: format!("a sequence of {}: {value:?}", steps.len()),
                    });
                }
            }
        }
        joined.insert(name.clone(), FeatureValue::Tensor(Tensor::cat(&parts, 0)?.unsqueeze(1)?));
    }
    Ok(joined)
}
