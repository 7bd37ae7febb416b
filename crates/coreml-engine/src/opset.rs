//! The opset of an operation: that of its function, or its own.

use coreml_format::program::{Operation, Opset, TensorData, ValueData};

/// Attribute of an operation whose opset is not that of its function: parts of a pipeline keep theirs.
pub(crate) const OPSET: &str = "engine.opset";

/// The opset of an operation in a function of opset `function`.
pub(crate) fn opset(op: &Operation, function: Opset) -> Opset {
    let own = op.attributes.get(OPSET).and_then(|value| match &value.data {
        ValueData::Tensor(TensorData::Strings(text)) => Opset::from_name(text.first()?),
        _ => None,
    });
    own.unwrap_or(function)
}
