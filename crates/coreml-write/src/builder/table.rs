//! The table of operations: parameters of each by opset, as coremltools 9 defines them (`tools/op_parameters.py`).

use std::collections::HashMap;
use std::sync::OnceLock;

use coreml_format::dtype::DataType;
use coreml_format::program::Opset;
use indexmap::IndexMap;

/// A parameter of an operation.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct Parameter {
    /// Names of the element types that it takes; empty if it is no tensor.
    #[serde(default)]
    types: Vec<String>,
    /// True if it may be omitted.
    #[serde(default)]
    pub optional: bool,
    /// True if it must be known when the program is built.
    #[serde(default)]
    pub constant: bool,
    /// Value of an omitted parameter, where it does not depend on others.
    #[serde(default)]
    pub default: Option<serde_json::Value>,
}

impl Parameter {
    /// Element types that it takes; empty if any.
    pub fn types(&self) -> impl Iterator<Item = DataType> {
        self.types.iter().filter_map(|name| DataType::from_name(name))
    }

    /// True if it takes elements of this type.
    pub fn takes(&self, dtype: DataType) -> bool {
        self.types.is_empty() || self.types().any(|t| t == dtype)
    }
}

/// Parameters of an operation in some opsets.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Definition {
    op: String,
    opsets: Vec<String>,
    /// Parameters, in order.
    pub parameters: IndexMap<String, Parameter>,
}

impl Definition {
    fn is_for(&self, opset: Opset) -> bool {
        // coremltools 9 defines no operation of its own for iOS 26.
        let opset = if opset == Opset::Ios26 { Opset::Ios18 } else { opset };
        self.opsets.iter().any(|name| Opset::from_name(name) == Some(opset))
    }

    /// First opset of this definition.
    pub fn since(&self) -> Option<Opset> {
        self.opsets.iter().filter_map(|name| Opset::from_name(name)).min()
    }
}

fn table() -> &'static HashMap<String, Vec<Definition>> {
    static TABLE: OnceLock<HashMap<String, Vec<Definition>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let rows: Vec<Definition> = serde_json::from_str(include_str!("op_parameters.json")).unwrap_or_default();
        let mut table: HashMap<String, Vec<Definition>> = HashMap::new();
        for row in rows {
            table.entry(row.op.clone()).or_default().push(row);
        }
        table
    })
}

/// Every definition of an operation; empty if there is no such operation.
pub fn definitions(kind: &str) -> &'static [Definition] {
    table().get(kind).map_or(&[], Vec::as_slice)
}

/// The definition of an operation in this opset.
pub fn definition(kind: &str, opset: Opset) -> Option<&'static Definition> {
    definitions(kind).iter().find(|d| d.is_for(opset))
}

/// Names of all operations.
pub fn names() -> impl Iterator<Item = &'static str> {
    table().keys().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_knows_opsets() {
        assert!(names().count() > 160);
        let conv = definition("conv", Opset::Ios18).expect("conv");
        assert!(!conv.parameters["bias"].constant && conv.parameters["groups"].optional);
        assert!(definition("conv", Opset::Ios15).expect("conv").parameters["bias"].constant);
        assert!(definition("slice_update", Opset::Ios17).is_none());
        assert!(definition("slice_update", Opset::Ios26).is_some());
        assert!(definitions("nonsense").is_empty());
        assert!(conv.parameters["x"].takes(DataType::F16) && !conv.parameters["x"].takes(DataType::I32));
    }
}
