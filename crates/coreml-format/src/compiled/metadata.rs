//! `metadata.json` of a compiled model: a list with one entry, numbers and flags as strings.

use indexmap::IndexMap;
use serde_json::Value;

use crate::description::{
    ColorLayout, DimRange, FeatureDescription, FeatureType, FunctionDescription, Metadata, ModelDescription,
    ShapeConstraint,
};
use crate::dtype::DataType;
use crate::model_types::TYPES;

/// Parses the description, as far as it is understood.
pub(super) fn read(bytes: &[u8]) -> Option<ModelDescription> {
    let parsed: Value = serde_json::from_slice(bytes).ok()?;
    let entry = match &parsed {
        Value::Array(all) => all.first()?,
        other => other,
    };
    let mut functions = IndexMap::new();
    for function in entry.get("functions").and_then(Value::as_array).into_iter().flatten() {
        functions.insert(text(function, "name")?, self::function(function)?);
    }
    if functions.is_empty() {
        functions.insert("main".to_owned(), function(entry)?);
    }
    let user = entry.get("userDefinedMetadata").and_then(Value::as_object).into_iter().flatten();
    Some(ModelDescription {
        specification_version: number(entry, "specificationVersion").and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        functions,
        default_function: text(entry, "defaultFunctionName").unwrap_or_default(),
        metadata: Metadata {
            description: text(entry, "shortDescription").unwrap_or_default(),
            version: text(entry, "version").unwrap_or_default(),
            author: text(entry, "author").unwrap_or_default(),
            license: text(entry, "license").unwrap_or_default(),
            user: user.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
        },
    })
}

/// Name of the model type: `"modelType": {"name": "MLModelType_neuralNetwork"}`.
pub(super) fn model_type(bytes: &[u8]) -> Option<&'static str> {
    let parsed: Value = serde_json::from_slice(bytes).ok()?;
    let name = parsed.get(0).unwrap_or(&parsed).get("modelType")?.get("name")?.as_str()?;
    let name = name.strip_prefix("MLModelType_").unwrap_or(name);
    TYPES.iter().map(|row| row.name).find(|known| *known == name)
}

fn function(entry: &Value) -> Option<FunctionDescription> {
    let features = |key: &str| match entry.get(key) {
        None => Some(Vec::new()),
        Some(list) => list.as_array()?.iter().map(feature).collect::<Option<Vec<_>>>(),
    };
    Some(FunctionDescription {
        inputs: features("inputSchema")?,
        outputs: features("outputSchema")?,
        states: features("stateSchema")?,
        predicted_feature: text(entry, "predictedFeatureName"),
        predicted_probabilities: text(entry, "predictedProbabilitiesName"),
    })
}

fn text(entry: &Value, key: &str) -> Option<String> {
    entry.get(key)?.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}

/// A number, or a string containing one.
fn number(entry: &Value, key: &str) -> Option<u64> {
    let value = entry.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// A (nested) list of numbers, or a string containing one, such as `"[1, 64]"`.
fn list(entry: &Value, key: &str) -> Option<Value> {
    match entry.get(key)? {
        Value::String(s) => serde_json::from_str(s).ok(),
        other => Some(other.clone()),
    }
}

fn extents(list: &Value) -> Option<Vec<usize>> {
    list.as_array()?.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect()
}

fn shapes(entry: &Value, key: &str) -> Option<Vec<Vec<usize>>> {
    list(entry, key)?.as_array()?.iter().map(extents).collect()
}

/// Ranges `[[low, high], …]`; a `high` of -1 is unbounded.
fn ranges(entry: &Value, key: &str) -> Option<Vec<DimRange>> {
    let range = |pair: &Value| {
        let [low, high] = pair.as_array()?.as_slice() else { return None };
        let max = high.as_i64().and_then(|n| usize::try_from(n).ok());
        Some(DimRange { min: usize::try_from(low.as_u64()?).ok()?, max })
    };
    list(entry, key)?.as_array()?.iter().map(range).collect()
}

fn constraint(entry: &Value, known: bool) -> ShapeConstraint {
    let ranges = ranges(entry, "shapeRange").or_else(|| ranges(entry, "sizeRange"));
    let shapes = shapes(entry, "enumeratedShapes").or_else(|| shapes(entry, "enumeratedSizes"));
    match (shapes, ranges) {
        (Some(shapes), _) => ShapeConstraint::Enumerated(shapes),
        (None, Some(ranges)) => ShapeConstraint::Ranges(ranges),
        (None, None) if known => ShapeConstraint::Fixed,
        (None, None) => ShapeConstraint::Unspecified,
    }
}

fn dtype(entry: &Value) -> Option<DataType> {
    Some(match text(entry, "dataType")?.as_str() {
        "Float16" => DataType::F16,
        "Float32" => DataType::F32,
        "Double" | "Float64" => DataType::F64,
        "Int32" => DataType::I32,
        "Int8" => DataType::I8,
        _ => return None,
    })
}

fn feature(entry: &Value) -> Option<FeatureDescription> {
    let shape = || list(entry, "shape").and_then(|s| extents(&s)).unwrap_or_default();
    let size = |key: &str| number(entry, key).and_then(|n| usize::try_from(n).ok());
    let ty = match text(entry, "type")?.as_str() {
        "MultiArray" => {
            let shape = shape();
            let constraint = constraint(entry, !shape.is_empty());
            FeatureType::MultiArray { dtype: dtype(entry)?, shape, constraint, default: None }
        }
        "State" => FeatureType::State { dtype: dtype(entry)?, shape: shape() },
        "Image" => FeatureType::Image {
            layout: match text(entry, "colorspace").unwrap_or_default().as_str() {
                "BGR" => ColorLayout::Bgr,
                "Grayscale" => ColorLayout::Grayscale,
                "Grayscale16Half" | "GrayscaleFloat16" => ColorLayout::GrayscaleFloat16,
                _ => ColorLayout::Rgb,
            },
            width: size("width")?,
            height: size("height")?,
            sizes: constraint(entry, true),
        },
        "Int64" => FeatureType::Int64,
        "Double" => FeatureType::Double,
        "String" => FeatureType::String,
        "Dictionary" => FeatureType::Dictionary { int_keys: text(entry, "keyType").as_deref() == Some("Int64") },
        "Sequence" => FeatureType::Sequence { ints: text(entry, "valueType").as_deref() == Some("Int64") },
        _ => return None,
    };
    Some(FeatureDescription {
        name: text(entry, "name")?,
        description: text(entry, "shortDescription").unwrap_or_default(),
        ty,
        optional: number(entry, "isOptional") == Some(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_of_all_kinds_are_understood() {
        let json = br#"[{"specificationVersion": 9, "author": "me", "userDefinedMetadata": {"k": "v"},
            "functions": [{"name": "infer",
              "inputSchema": [
                {"type": "MultiArray", "dataType": "Int32", "shape": "[1, 64]", "name": "ids", "isOptional": "1",
                 "hasShapeFlexibility": "1", "shapeRange": "[[1, 1], [1, -1]]"},
                {"type": "Image", "colorspace": "BGR", "width": "8", "height": "4", "name": "picture",
                 "enumeratedSizes": "[[4, 8], [2, 2]]"}],
              "outputSchema": [{"type": "Dictionary", "keyType": "Int64", "name": "p"}],
              "stateSchema": [{"type": "State", "dataType": "Float16", "shape": "[2, 2]", "name": "kv"}]}]}]"#;
        let description = read(json).expect("understood");
        assert_eq!((description.specification_version, description.metadata.author.as_str()), (9, "me"));
        assert_eq!(description.metadata.user["k"], "v");
        let infer = &description.functions["infer"];
        let ranges = vec![DimRange { min: 1, max: Some(1) }, DimRange { min: 1, max: None }];
        let ids = FeatureType::MultiArray {
            dtype: DataType::I32,
            shape: vec![1, 64],
            constraint: ShapeConstraint::Ranges(ranges),
            default: None,
        };
        assert_eq!((&infer.inputs[0].ty, infer.inputs[0].optional), (&ids, true));
        let picture = FeatureType::Image {
            layout: ColorLayout::Bgr,
            width: 8,
            height: 4,
            sizes: ShapeConstraint::Enumerated(vec![vec![4, 8], vec![2, 2]]),
        };
        assert_eq!(infer.inputs[1].ty, picture);
        assert_eq!(infer.outputs[0].ty, FeatureType::Dictionary { int_keys: true });
        assert_eq!(infer.states[0].ty, FeatureType::State { dtype: DataType::F16, shape: vec![2, 2] });
    }

    #[test]
    fn nonsense_is_left_out() {
        for json in
            ["", "[]", "[{\"inputSchema\": 3}]", "[{\"inputSchema\": [{\"type\": \"Thing\", \"name\": \"x\"}]}]"]
        {
            assert!(read(json.as_bytes()).is_none(), "{json}");
        }
    }
}
