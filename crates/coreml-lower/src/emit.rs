//! What every lowering emits: unused names, arguments, operations, class labels.

use std::collections::{HashMap, HashSet};

use coreml_format::dtype::DataType;
use coreml_format::model_types::data_structures::ClassLabels;
use coreml_format::program::{
    Argument, Binding, NamedType, Operation, TensorData, TensorType, Value, ValueData, ValueType,
};
use indexmap::IndexMap;

/// Names in use.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
    /// Last suffix number used for each name.
    numbers: HashMap<String, usize>,
}

impl Names {
    /// These names are in use already.
    pub(crate) fn new(taken: impl Iterator<Item = String>) -> Self {
        Self { taken: taken.collect(), numbers: HashMap::new() }
    }

    /// Returns an unused name, which is in use from now on.
    pub(crate) fn fresh(&mut self, name: &str) -> String {
        let mut found = name.to_owned();
        while !self.taken.insert(found.clone()) {
            let number = self.numbers.entry(name.to_owned()).or_insert(0);
            *number += 1;
            found = format!("{name}_{number}");
        }
        found
    }
}

/// A literal as an argument.
pub(crate) fn constant(value: Value) -> Argument {
    Argument::One(Binding::Value(value))
}

/// A string as an argument.
pub(crate) fn text(text: &str) -> Argument {
    constant(Value::string(text))
}

/// A value of the program as an argument.
pub(crate) fn named(name: &str) -> Argument {
    Argument::One(Binding::Name(name.to_owned()))
}

/// An operation without blocks and attributes, named after its first output.
pub(crate) fn operation<'n>(
    kind: &str,
    inputs: impl IntoIterator<Item = (&'n str, Argument)>,
    outputs: Vec<NamedType>,
) -> Operation {
    Operation {
        kind: kind.to_owned(),
        name: outputs.first().map(|o| o.name.clone()).unwrap_or_default(),
        inputs: inputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        outputs,
        blocks: Vec::new(),
        attributes: IndexMap::new(),
    }
}

/// A vector of strings.
pub(crate) fn strings(all: &[String]) -> Value {
    let ty = ValueType::Tensor(TensorType::fixed(DataType::String, &[all.len()]));
    Value { ty, data: ValueData::Tensor(TensorData::Strings(all.to_vec())) }
}

/// A vector of int64.
pub(crate) fn int64s(all: &[i64]) -> Value {
    Value::tensor(DataType::I64, &[all.len()], all.iter().flat_map(|n| n.to_le_bytes()).collect())
}

/// Class labels as a vector.
pub(crate) fn labels(labels: &ClassLabels) -> Value {
    match labels {
        ClassLabels::Strings(all) => strings(&all.vector),
        ClassLabels::Int64s(all) => int64s(&all.vector),
    }
}
