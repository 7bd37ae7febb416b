//! Encodes [`Program`] and [`ModelDescription`] as a protobuf specification.

use prost::Message;

use super::proto;
use crate::description::{
    ColorLayout, DimRange, FeatureDescription, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint,
};
use crate::dtype::DataType;
use crate::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, Program, TensorData, Value, ValueData, ValueType,
};

/// Encodes a specification (`model.mlmodel`).
pub fn encode(description: &ModelDescription, program: &Program) -> Vec<u8> {
    proto::Model {
        specification_version: description.specification_version,
        description: Some(self::description(description)),
        ml_program: Some(proto::Program {
            version: 1,
            functions: program.functions.iter().map(|(n, f)| (n.clone(), function(f))).collect(),
            attributes: attributes(&program.attributes),
        }),
    }
    .encode_to_vec()
}

fn attributes(all: &indexmap::IndexMap<String, Value>) -> std::collections::BTreeMap<String, proto::Value> {
    all.iter().map(|(n, v)| (n.clone(), value(v))).collect()
}

fn function(f: &Function) -> proto::Function {
    let opset = f.opset.spec_name().to_owned();
    proto::Function {
        inputs: named(&f.inputs),
        block_specializations: [(opset.clone(), block(&f.block))].into(),
        opset,
        attributes: attributes(&f.attributes),
    }
}

fn block(b: &Block) -> proto::Block {
    proto::Block {
        inputs: named(&b.inputs),
        outputs: b.outputs.clone(),
        operations: b.operations.iter().map(operation).collect(),
    }
}

fn operation(op: &Operation) -> proto::Operation {
    let binding = |b: &Binding| proto::Binding {
        binding: Some(match b {
            Binding::Name(n) => proto::BindingKind::Name(n.clone()),
            Binding::Value(v) => proto::BindingKind::Value(value(v)),
        }),
    };
    let argument = |a: &Argument| proto::Argument { arguments: a.bindings().iter().map(binding).collect() };
    let mut attributes = attributes(&op.attributes);
    attributes.insert("name".to_owned(), value(&Value::string(&op.name)));
    proto::Operation {
        ty: op.kind.clone(),
        inputs: op.inputs.iter().map(|(n, a)| (n.clone(), argument(a))).collect(),
        outputs: named(&op.outputs),
        blocks: op.blocks.iter().map(block).collect(),
        attributes,
    }
}

fn named(all: &[NamedType]) -> Vec<proto::NamedValueType> {
    all.iter().map(|n| proto::NamedValueType { name: n.name.clone(), ty: Some(value_type(&n.ty)) }).collect()
}

fn dim(d: &Dim) -> proto::Dimension {
    match d {
        Dim::Fixed(n) => {
            proto::Dimension { constant: Some(proto::ConstantDimension { size: *n as u64 }), unknown: None }
        }
        Dim::Unknown => proto::Dimension { constant: None, unknown: Some(proto::UnknownDimension { variadic: false }) },
        Dim::Variadic => proto::Dimension { constant: None, unknown: Some(proto::UnknownDimension { variadic: true }) },
    }
}

fn value_type(ty: &ValueType) -> proto::ValueType {
    let boxed = |t: &ValueType| Some(Box::new(value_type(t)));
    let kind = match ty {
        ValueType::Tensor(t) if t.shape == [Dim::Variadic] => proto::TypeKind::Tensor(proto::TensorType {
            data_type: t.dtype.spec_code(),
            rank: -1,
            dimensions: Vec::new(),
        }),
        ValueType::Tensor(t) => proto::TypeKind::Tensor(proto::TensorType {
            data_type: t.dtype.spec_code(),
            rank: t.shape.len() as i64,
            dimensions: t.shape.iter().map(dim).collect(),
        }),
        ValueType::List(t, n) => {
            proto::TypeKind::List(Box::new(proto::ListType { ty: boxed(t), length: Some(dim(n)) }))
        }
        ValueType::Tuple(all) => {
            proto::TypeKind::Tuple(proto::TupleType { types: all.iter().map(value_type).collect() })
        }
        ValueType::Dictionary(k, v) => {
            proto::TypeKind::Dictionary(Box::new(proto::DictionaryType { key: boxed(k), value: boxed(v) }))
        }
        ValueType::State(t) => proto::TypeKind::State(Box::new(proto::StateType { wrapped: boxed(t) })),
    };
    proto::ValueType { ty: Some(kind) }
}

fn immediate_tensor(v: &Value, bytes: &[u8]) -> proto::ValueKind {
    let dtype = v.ty.tensor().map_or(DataType::U8, |t| t.dtype);
    let tensor = proto::TensorValue { value: Some(elements(dtype, bytes)) };
    proto::ValueKind::Immediate(proto::ImmediateValue { value: Some(proto::ImmediateKind::Tensor(tensor)) })
}

fn value(v: &Value) -> proto::Value {
    let immediate = |kind| proto::ValueKind::Immediate(proto::ImmediateValue { value: Some(kind) });
    let all = |values: &[Value]| proto::Values { values: values.iter().map(value).collect() };
    let kind = match &v.data {
        ValueData::Tensor(TensorData::Blob(b)) => {
            proto::ValueKind::Blob(proto::BlobFileValue { file_name: b.file.to_string(), offset: b.offset })
        }
        ValueData::Tensor(TensorData::Strings(s)) => immediate(proto::ImmediateKind::Tensor(proto::TensorValue {
            value: Some(proto::TensorKind::Strings(proto::Strings { values: s.clone() })),
        })),
        ValueData::Tensor(TensorData::Bytes(b)) => immediate_tensor(v, b),
        ValueData::Tensor(TensorData::Shared(b)) => immediate_tensor(v, b),
        ValueData::Tuple(values) => immediate(proto::ImmediateKind::Tuple(all(values))),
        ValueData::List(values) => immediate(proto::ImmediateKind::List(all(values))),
        ValueData::Dictionary(entries) => {
            let entry = |(k, v): &(Value, Value)| proto::KeyValuePair { key: Some(value(k)), value: Some(value(v)) };
            let values = entries.iter().map(entry).collect();
            immediate(proto::ImmediateKind::Dictionary(proto::DictionaryValue { values }))
        }
    };
    proto::Value { ty: Some(value_type(&v.ty)), value: Some(kind) }
}

/// Elements, in the field that coremltools uses for their type.
fn elements(dtype: DataType, bytes: &[u8]) -> proto::TensorKind {
    fn words<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|&w| f(w)).collect()
    }
    match dtype {
        DataType::Bool => proto::TensorKind::Bools(proto::Bools { values: bytes.iter().map(|&b| b != 0).collect() }),
        DataType::F32 => proto::TensorKind::Floats(proto::Floats { values: words(bytes, f32::from_le_bytes) }),
        DataType::F64 => proto::TensorKind::Doubles(proto::Doubles { values: words(bytes, f64::from_le_bytes) }),
        DataType::I16 => {
            proto::TensorKind::Ints(proto::Ints { values: words(bytes, |w| i32::from(i16::from_le_bytes(w))) })
        }
        DataType::U16 => {
            proto::TensorKind::Ints(proto::Ints { values: words(bytes, |w| i32::from(u16::from_le_bytes(w))) })
        }
        DataType::I32 | DataType::U32 => {
            proto::TensorKind::Ints(proto::Ints { values: words(bytes, i32::from_le_bytes) })
        }
        DataType::I64 | DataType::U64 => {
            proto::TensorKind::LongInts(proto::LongInts { values: words(bytes, i64::from_le_bytes) })
        }
        _ => proto::TensorKind::Bytes(proto::Bytes { values: bytes.to_vec() }),
    }
}

fn description(d: &ModelDescription) -> proto::ModelDescription {
    let mut out = proto::ModelDescription {
        metadata: Some(proto::Metadata {
            short_description: d.metadata.description.clone(),
            version_string: d.metadata.version.clone(),
            author: d.metadata.author.clone(),
            license: d.metadata.license.clone(),
            user_defined: d.metadata.user.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        }),
        ..Default::default()
    };
    // The old form holds a single function, called `main`.
    if let (1, Some(f)) = (d.functions.len(), d.functions.get("main")) {
        out.input = features(&f.inputs);
        out.output = features(&f.outputs);
        out.state = features(&f.states);
        out.predicted_feature_name = f.predicted_feature.clone().unwrap_or_default();
        out.predicted_probabilities_name = f.predicted_probabilities.clone().unwrap_or_default();
    } else {
        out.functions = d.functions.iter().map(|(n, f)| function_description(n, f)).collect();
        out.default_function_name = d.default_function.clone();
    }
    out
}

fn function_description(name: &str, f: &FunctionDescription) -> proto::FunctionDescription {
    proto::FunctionDescription {
        name: name.to_owned(),
        input: features(&f.inputs),
        output: features(&f.outputs),
        state: features(&f.states),
        predicted_feature_name: f.predicted_feature.clone().unwrap_or_default(),
        predicted_probabilities_name: f.predicted_probabilities.clone().unwrap_or_default(),
    }
}

fn features(all: &[FeatureDescription]) -> Vec<proto::FeatureDescription> {
    all.iter()
        .map(|f| proto::FeatureDescription {
            name: f.name.clone(),
            short_description: f.description.clone(),
            ty: Some(proto::FeatureType { is_optional: f.optional, ..feature_type(&f.ty) }),
        })
        .collect()
}

fn extents(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

fn range(r: &DimRange) -> proto::SizeRange {
    proto::SizeRange { lower_bound: r.min as u64, upper_bound: r.max.map_or(-1, |m| m as i64) }
}

fn array_code(dtype: DataType) -> i32 {
    match dtype {
        DataType::F64 => 0x10040,
        DataType::F16 => 0x10010,
        DataType::I32 => 0x20020,
        DataType::I8 => 0x20008,
        _ => 0x10020,
    }
}

fn feature_type(ty: &FeatureType) -> proto::FeatureType {
    let mut out = proto::FeatureType::default();
    match ty {
        FeatureType::Int64 => out.int64 = Some(proto::Empty {}),
        FeatureType::Double => out.double = Some(proto::Empty {}),
        FeatureType::String => out.string = Some(proto::Empty {}),
        FeatureType::Dictionary { int_keys } => {
            let key = || Some(proto::Empty {});
            out.dictionary = Some(if *int_keys {
                proto::DictionaryFeature { int64_key: key(), string_key: None }
            } else {
                proto::DictionaryFeature { int64_key: None, string_key: key() }
            });
        }
        FeatureType::Sequence { ints } => {
            let kind = || Some(proto::Empty {});
            out.sequence = Some(if *ints {
                proto::SequenceFeature { int64: kind(), string: None }
            } else {
                proto::SequenceFeature { int64: None, string: kind() }
            });
        }
        FeatureType::State { dtype, shape } => {
            let array = proto::ArrayType { shape: extents(shape), data_type: array_code(*dtype), ..Default::default() };
            out.state = Some(proto::StateFeature { array: Some(array) });
        }
        FeatureType::MultiArray { dtype, shape, constraint, default } => {
            let mut array = proto::ArrayType {
                shape: extents(shape),
                data_type: array_code(*dtype),
                double_default: *default,
                ..Default::default()
            };
            match constraint {
                ShapeConstraint::Enumerated(all) => {
                    let shapes = all.iter().map(|s| proto::Shape { shape: extents(s) }).collect();
                    array.enumerated_shapes = Some(proto::EnumeratedShapes { shapes });
                }
                ShapeConstraint::Ranges(ranges) => {
                    array.shape_range = Some(proto::ShapeRange { size_ranges: ranges.iter().map(range).collect() });
                }
                ShapeConstraint::Fixed | ShapeConstraint::Unspecified => {}
            }
            out.multi_array = Some(array);
        }
        FeatureType::Image { layout, width, height, sizes } => out.image = Some(image(*layout, *width, *height, sizes)),
    }
    out
}

fn image(layout: ColorLayout, width: usize, height: usize, sizes: &ShapeConstraint) -> proto::ImageType {
    let mut out = proto::ImageType {
        width: width as i64,
        height: height as i64,
        color_space: match layout {
            ColorLayout::Grayscale => 10,
            ColorLayout::Rgb => 20,
            ColorLayout::Bgr => 30,
            ColorLayout::GrayscaleFloat16 => 40,
        },
        ..Default::default()
    };
    match sizes {
        ShapeConstraint::Enumerated(all) => {
            let size = |s: &Vec<usize>| match s.as_slice() {
                [height, width] => Some(proto::ImageSize { width: *width as u64, height: *height as u64 }),
                _ => None,
            };
            out.enumerated_sizes = Some(proto::EnumeratedImageSizes { sizes: all.iter().filter_map(size).collect() });
        }
        ShapeConstraint::Ranges(ranges) => {
            out.size_range =
                Some(proto::ImageSizeRange { height: ranges.first().map(range), width: ranges.get(1).map(range) });
        }
        ShapeConstraint::Fixed | ShapeConstraint::Unspecified => {}
    }
    out
}
