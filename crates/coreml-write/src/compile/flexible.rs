//! The attribute of a function with the shapes that its inputs take, which the compiler derives from the description.

use coreml_format::description::{FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, TensorType, Value, ValueData, ValueType};

/// Name of the attribute.
pub(super) const ATTRIBUTE: &str = "FlexibleShapeInformation";

/// Default shapes, then ranges or lists of shapes, of the inputs that have any; `None` if all shapes are fixed.
///
/// Names of enumerated shapes are ours: those of Apple's compiler are hashes.
pub(super) fn information(f: &FunctionDescription) -> Option<Value> {
    let arrays: Vec<_> = f.inputs.iter().filter_map(array).collect();
    let mut ranges = Vec::new();
    let mut enumerated: Vec<(&str, &[Vec<usize>])> = Vec::new();
    let mut defaults = Vec::new();
    for (name, shape, constraint) in arrays {
        match constraint {
            ShapeConstraint::Ranges(all) => {
                let bound = |n: Option<usize>| n.map_or(-1, |n| i32::try_from(n).unwrap_or(i32::MAX));
                let pairs = all.iter().map(|r| Value::ints(&[bound(Some(r.min)), bound(r.max)])).collect();
                ranges.push((Value::string(name), Value { ty: pairs_type(), data: ValueData::List(pairs) }));
            }
            ShapeConstraint::Enumerated(all) => enumerated.push((name, all)),
            ShapeConstraint::Fixed | ShapeConstraint::Unspecified => continue,
        }
        defaults.push((Value::string(name), extents(shape)));
    }
    if defaults.is_empty() {
        return None;
    }
    defaults.sort_by(|a, b| format!("{:?}", a.0.data).cmp(&format!("{:?}", b.0.data)));
    let mut parts = vec![entry("DefaultShapes", extents_type(), defaults)];
    if !ranges.is_empty() {
        ranges.sort_by(|a, b| format!("{:?}", a.0.data).cmp(&format!("{:?}", b.0.data)));
        parts.push(entry("RangeDims", pairs_type(), ranges));
    }
    // Shapes at the same place of the lists belong together.
    let count = enumerated.iter().map(|(_, all)| all.len()).max().unwrap_or(0);
    if count > 0 {
        let together = (0..count).map(|i| {
            let shapes = enumerated.iter().filter_map(|(n, all)| Some((Value::string(n), extents(all.get(i)?))));
            let data = ValueData::Dictionary(shapes.collect());
            (Value::string(&format!("shapes_{i}")), Value { ty: dictionary(extents_type()), data })
        });
        parts.push(entry("EnumeratedShapes", dictionary(extents_type()), together.collect()));
    }
    let ty = ValueType::Tuple(parts.iter().map(|p| p.ty.clone()).collect());
    Some(Value { ty, data: ValueData::Tuple(parts) })
}

fn array(f: &FeatureDescription) -> Option<(&str, &[usize], &ShapeConstraint)> {
    match &f.ty {
        FeatureType::MultiArray { shape, constraint, .. } => Some((&f.name, shape, constraint)),
        _ => None,
    }
}

fn extents(shape: &[usize]) -> Value {
    Value::ints(&shape.iter().map(|&n| i32::try_from(n).unwrap_or(i32::MAX)).collect::<Vec<_>>())
}

fn ints(extent: Dim) -> ValueType {
    ValueType::Tensor(TensorType { dtype: DataType::I32, shape: vec![extent] })
}

fn extents_type() -> ValueType {
    ints(Dim::Unknown)
}

fn pairs_type() -> ValueType {
    ValueType::List(Box::new(ints(Dim::Fixed(2))), Dim::Unknown)
}

fn dictionary(of: ValueType) -> ValueType {
    ValueType::Dictionary(Box::new(Value::string("").ty), Box::new(of))
}

/// A name and a dictionary by input.
fn entry(name: &str, of: ValueType, entries: Vec<(Value, Value)>) -> Value {
    let all = Value { ty: dictionary(of), data: ValueData::Dictionary(entries) };
    let name = Value::string(name);
    let ty = ValueType::Tuple(vec![name.ty.clone(), all.ty.clone()]);
    Value { ty, data: ValueData::Tuple(vec![name, all]) }
}
