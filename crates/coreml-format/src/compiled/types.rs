//! Derives a description from the types of a program.

use std::collections::{HashMap, HashSet};

use crate::description::{DimRange, FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use crate::dtype::DataType;
use crate::program::{Dim, Function, NamedType, TensorData, TensorType, Value, ValueData, ValueType};

/// Returns true if a description names the same inputs, states and outputs as the program.
pub(super) fn agree(function: &Function, described: &FunctionDescription) -> bool {
    let returned: HashSet<&str> = function.block.outputs.iter().map(String::as_str).collect();
    let mut wanted: Vec<&str> = function.inputs.iter().map(|i| i.name.as_str()).collect();
    let mut found: Vec<&str> =
        described.inputs.iter().chain(&described.states).map(|feature| feature.name.as_str()).collect();
    wanted.sort_unstable();
    found.sort_unstable();
    wanted == found && described.outputs.iter().all(|o| returned.contains(o.name.as_str()))
}

/// Inputs, outputs and states declared by the program.
pub(super) fn describe(function: &Function) -> FunctionDescription {
    let flexible = Flexible(function.attributes.get("FlexibleShapeInformation"));
    let mut description = FunctionDescription::default();
    for NamedType { name, ty } in &function.inputs {
        let feature = feature(name, ty, &flexible);
        let list = if matches!(ty, ValueType::State(_)) { &mut description.states } else { &mut description.inputs };
        list.push(feature);
    }
    let made = function.block.operations.iter().flat_map(|o| &o.outputs).chain(&function.inputs);
    let types: HashMap<&str, &ValueType> = made.map(|v| (v.name.as_str(), &v.ty)).collect();
    for name in &function.block.outputs {
        if let Some(ty) = types.get(name.as_str()) {
            description.outputs.push(feature(name, ty, &Flexible(None)));
        }
    }
    description
}

fn feature(name: &str, ty: &ValueType, flexible: &Flexible<'_>) -> FeatureDescription {
    let extents = |t: &TensorType| t.shape.iter().map(|d| d.fixed().unwrap_or(1)).collect();
    let ty = match ty {
        ValueType::State(inner) => {
            let tensor = inner.tensor().cloned().unwrap_or_else(|| TensorType::fixed(DataType::F16, &[]));
            FeatureType::State { dtype: tensor.dtype, shape: extents(&tensor) }
        }
        ValueType::Tensor(t) if t.dtype == DataType::String => FeatureType::String,
        ValueType::Tensor(t) if t.dtype == DataType::I64 && t.shape.is_empty() => FeatureType::Int64,
        ValueType::Tensor(t) => FeatureType::MultiArray {
            dtype: t.dtype,
            shape: flexible.default_shape(name).unwrap_or_else(|| extents(t)),
            constraint: flexible.constraint(name).unwrap_or_else(|| constraint(t)),
            default: None,
        },
        ValueType::Dictionary(key, _) => {
            FeatureType::Dictionary { int_keys: key.tensor().is_some_and(|t| t.dtype == DataType::I64) }
        }
        ValueType::List(..) | ValueType::Tuple(_) => FeatureType::Sequence { ints: false },
    };
    FeatureDescription { name: name.to_owned(), description: String::new(), ty, optional: false }
}

fn constraint(t: &TensorType) -> ShapeConstraint {
    if t.fixed_shape().is_some() {
        return ShapeConstraint::Fixed;
    }
    if t.shape.contains(&Dim::Variadic) {
        return ShapeConstraint::Unspecified;
    }
    let range = |d: &Dim| match d.fixed() {
        Some(n) => DimRange { min: n, max: Some(n) },
        None => DimRange { min: 1, max: None },
    };
    ShapeConstraint::Ranges(t.shape.iter().map(range).collect())
}

/// Attribute with default shapes and ranges: pairs of a title and a dictionary by input name.
struct Flexible<'p>(Option<&'p Value>);

impl Flexible<'_> {
    fn entry(&self, title: &str, name: &str) -> Option<&Value> {
        let ValueData::Tuple(pairs) = &self.0?.data else { return None };
        pairs.iter().find_map(|pair| {
            let ValueData::Tuple(pair) = &pair.data else { return None };
            let ([heading, values], true) = (pair.as_slice(), pair.len() == 2) else { return None };
            let ValueData::Dictionary(entries) = &values.data else { return None };
            let found = entries.iter().find(|(key, _)| text(key) == Some(name));
            found.filter(|_| text(heading) == Some(title)).map(|(_, value)| value)
        })
    }

    fn default_shape(&self, name: &str) -> Option<Vec<usize>> {
        numbers(self.entry("DefaultShapes", name)?)?.into_iter().map(|n| usize::try_from(n).ok()).collect()
    }

    fn constraint(&self, name: &str) -> Option<ShapeConstraint> {
        if let Some(all) = self.entry("EnumeratedShapes", name).and_then(rows) {
            let shape = |row: Vec<i64>| row.into_iter().map(|n| usize::try_from(n).ok()).collect();
            return all.into_iter().map(shape).collect::<Option<_>>().map(ShapeConstraint::Enumerated);
        }
        let range = |row: Vec<i64>| match row.as_slice() {
            // An unbounded end is a negative number or the maximum.
            [low, high] => Some(DimRange {
                min: usize::try_from(*low).ok()?,
                max: usize::try_from(*high).ok().filter(|&n| n < i32::MAX as usize),
            }),
            _ => None,
        };
        let all = rows(self.entry("RangeDims", name)?)?;
        all.into_iter().map(range).collect::<Option<_>>().map(ShapeConstraint::Ranges)
    }
}

fn text(value: &Value) -> Option<&str> {
    match &value.data {
        ValueData::Tensor(TensorData::Strings(s)) => s.first().map(String::as_str),
        _ => None,
    }
}

/// Elements of an `int32` tensor or of a list of scalars.
fn numbers(value: &Value) -> Option<Vec<i64>> {
    match &value.data {
        ValueData::Tensor(TensorData::Bytes(bytes)) => match value.ty.tensor()?.dtype {
            DataType::I32 => Some(bytes.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect()),
            DataType::I64 | DataType::U64 => Some(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            DataType::U32 => Some(bytes.as_chunks().0.iter().map(|&b| i64::from(u32::from_le_bytes(b))).collect()),
            _ => None,
        },
        ValueData::List(items) => items.iter().map(|i| numbers(i)?.first().copied()).collect(),
        _ => None,
    }
}

/// Rows of a matrix: a list of vectors, or a tensor of rank 2.
fn rows(value: &Value) -> Option<Vec<Vec<i64>>> {
    match &value.data {
        ValueData::List(items) => items.iter().map(numbers).collect(),
        _ => {
            let width = *value.ty.tensor()?.fixed_shape()?.get(1).filter(|&&w| w > 0)?;
            Some(numbers(value)?.chunks(width).map(<[i64]>::to_vec).collect())
        }
    }
}
