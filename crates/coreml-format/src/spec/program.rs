//! Converts a protobuf program to [`Program`].

use indexmap::IndexMap;

use super::{SpecError, proto};
use crate::blob::BlobRef;
use crate::dtype::DataType;
use crate::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, Opset, Program, TensorData, TensorType, Value,
    ValueData, ValueType,
};

/// Maximum number of elements of an expanded splat.
const MAX_SPLAT: usize = 1 << 20;

pub(super) fn program(message: proto::Program) -> Result<Program, SpecError> {
    let mut functions = IndexMap::with_capacity(message.functions.len());
    for (name, f) in message.functions {
        let function = function(&name, f)?;
        functions.insert(name, function);
    }
    if functions.is_empty() {
        return Err(SpecError::invalid("program", "at least one function", "none"));
    }
    Ok(Program { functions, attributes: attributes("program", message.attributes)? })
}

fn function(name: &str, mut message: proto::Function) -> Result<Function, SpecError> {
    let place = format!("function `{name}`");
    let opset = Opset::from_name(&message.opset)
        .ok_or_else(|| SpecError::invalid(&place, "an opset CoreML5 to CoreML9", format!("`{}`", message.opset)))?;
    let active = message
        .block_specializations
        .remove(&message.opset)
        .ok_or_else(|| SpecError::invalid(&place, format!("a block for opset {}", message.opset), "no such block"))?;
    Ok(Function {
        opset,
        inputs: named_types(&place, message.inputs)?,
        block: block(&place, active)?,
        attributes: attributes(&place, message.attributes)?,
    })
}

fn block(place: &str, message: proto::Block) -> Result<Block, SpecError> {
    Ok(Block {
        inputs: named_types(place, message.inputs)?,
        operations: message.operations.into_iter().map(operation).collect::<Result<_, _>>()?,
        outputs: message.outputs,
    })
}

fn operation(message: proto::Operation) -> Result<Operation, SpecError> {
    let first = message.outputs.first().map(|o| o.name.as_str()).unwrap_or_default();
    let place = format!("operation `{}` ({first})", message.ty);
    let mut attributes = attributes(&place, message.attributes)?;
    let label = match attributes.shift_remove("name").map(|v| v.data) {
        Some(ValueData::Tensor(TensorData::Strings(s))) => s.into_iter().next(),
        _ => None,
    };
    let mut inputs = IndexMap::with_capacity(message.inputs.len());
    for (name, argument) in message.inputs {
        let place = format!("{place}, parameter `{name}`");
        let mut bindings = argument.arguments.into_iter().map(|b| binding(&place, b)).collect::<Result<Vec<_>, _>>()?;
        let argument = match bindings.len() {
            1 => bindings.pop().map(Argument::One),
            _ => None,
        };
        inputs.insert(name, argument.unwrap_or(Argument::Many(bindings)));
    }
    let outputs = named_types(&place, message.outputs)?;
    Ok(Operation {
        name: label.or_else(|| outputs.first().map(|o| o.name.clone())).unwrap_or_default(),
        kind: message.ty,
        inputs,
        blocks: message.blocks.into_iter().map(|b| block(&place, b)).collect::<Result<_, _>>()?,
        outputs,
        attributes,
    })
}

fn binding(place: &str, message: proto::Binding) -> Result<Binding, SpecError> {
    match message.binding {
        Some(proto::BindingKind::Name(name)) => Ok(Binding::Name(name)),
        Some(proto::BindingKind::Value(v)) => Ok(Binding::Value(value(place, v)?)),
        None => Err(SpecError::invalid(place, "a name or a value", "an empty binding")),
    }
}

fn named_types(place: &str, messages: Vec<proto::NamedValueType>) -> Result<Vec<NamedType>, SpecError> {
    messages
        .into_iter()
        .map(|m| {
            let place = format!("{place}, value `{}`", m.name);
            let ty = value_type(&place, m.ty)?;
            Ok(NamedType { name: m.name, ty })
        })
        .collect()
}

fn attributes(
    place: &str,
    messages: std::collections::BTreeMap<String, proto::Value>,
) -> Result<IndexMap<String, Value>, SpecError> {
    messages
        .into_iter()
        .map(|(name, v)| {
            let v = value(&format!("{place}, attribute `{name}`"), v)?;
            Ok((name, v))
        })
        .collect()
}

fn dim(place: &str, message: proto::Dimension) -> Result<Dim, SpecError> {
    match (message.constant, message.unknown) {
        (Some(c), _) => usize::try_from(c.size)
            .map(Dim::Fixed)
            .map_err(|_| SpecError::invalid(place, "an extent that fits the address space", c.size)),
        (None, Some(u)) if u.variadic => Ok(Dim::Variadic),
        _ => Ok(Dim::Unknown),
    }
}

fn value_type(place: &str, message: Option<proto::ValueType>) -> Result<ValueType, SpecError> {
    let boxed = |m: Option<Box<proto::ValueType>>| value_type(place, m.map(|b| *b)).map(Box::new);
    match message.and_then(|m| m.ty) {
        Some(proto::TypeKind::Tensor(t)) => {
            let dtype = DataType::from_spec_code(t.data_type)
                .ok_or_else(|| SpecError::invalid(place, "a known data type", format!("code {}", t.data_type)))?;
            let shape = if t.rank < 0 {
                vec![Dim::Variadic]
            } else {
                t.dimensions.into_iter().map(|d| dim(place, d)).collect::<Result<Vec<_>, _>>()?
            };
            if t.rank >= 0 && shape.len() as i64 != t.rank {
                return Err(SpecError::invalid(place, format!("{} dimensions (the rank)", t.rank), shape.len()));
            }
            Ok(ValueType::Tensor(TensorType { dtype, shape }))
        }
        Some(proto::TypeKind::List(l)) => {
            let length = l.length.map_or(Ok(Dim::Unknown), |d| dim(place, d))?;
            Ok(ValueType::List(boxed(l.ty)?, length))
        }
        Some(proto::TypeKind::Tuple(t)) => {
            t.types.into_iter().map(|t| value_type(place, Some(t))).collect::<Result<_, _>>().map(ValueType::Tuple)
        }
        Some(proto::TypeKind::Dictionary(d)) => Ok(ValueType::Dictionary(boxed(d.key)?, boxed(d.value)?)),
        Some(proto::TypeKind::State(s)) => Ok(ValueType::State(boxed(s.wrapped)?)),
        None => Err(SpecError::invalid(place, "a type", "none")),
    }
}

fn value(place: &str, message: proto::Value) -> Result<Value, SpecError> {
    let ty = value_type(place, message.ty)?;
    let data = match message.value {
        Some(proto::ValueKind::Blob(b)) => {
            ValueData::Tensor(TensorData::Blob(BlobRef { file: b.file_name.into(), offset: b.offset }))
        }
        Some(proto::ValueKind::Immediate(i)) => match i.value {
            Some(proto::ImmediateKind::Tensor(t)) => ValueData::Tensor(tensor_data(place, &ty, t)?),
            Some(proto::ImmediateKind::Tuple(v)) => ValueData::Tuple(values(place, v)?),
            Some(proto::ImmediateKind::List(v)) => ValueData::List(values(place, v)?),
            Some(proto::ImmediateKind::Dictionary(d)) => ValueData::Dictionary(
                d.values
                    .into_iter()
                    .map(|kv| match (kv.key, kv.value) {
                        (Some(k), Some(v)) => Ok((value(place, k)?, value(place, v)?)),
                        _ => Err(SpecError::invalid(place, "a key and a value", "an incomplete dictionary entry")),
                    })
                    .collect::<Result<_, _>>()?,
            ),
            None => return Err(SpecError::invalid(place, "a value", "an empty immediate value")),
        },
        None => return Err(SpecError::invalid(place, "a value", "none")),
    };
    Ok(Value { ty, data })
}

fn values(place: &str, message: proto::Values) -> Result<Vec<Value>, SpecError> {
    message.values.into_iter().map(|v| value(place, v)).collect()
}

/// Converts elements from whichever field they are in to the declared type, packed little-endian.
fn tensor_data(place: &str, ty: &ValueType, message: proto::TensorValue) -> Result<TensorData, SpecError> {
    let ty = match ty {
        ValueType::Tensor(t) => t,
        _ => return Err(SpecError::invalid(place, "a tensor type for a tensor value", "another type")),
    };
    let shape = ty.fixed_shape().ok_or_else(|| SpecError::invalid(place, "a fixed shape for a literal", "unknown"))?;
    let elements = shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .ok_or_else(|| SpecError::invalid(place, "a shape that fits the address space", format!("{shape:?}")))?;
    let dtype = ty.dtype;
    let wrong = |field: &str| SpecError::invalid(place, format!("elements of type {dtype}"), field);
    let (bytes, found) = match message.value {
        Some(proto::TensorKind::Strings(s)) => {
            if dtype != DataType::String || s.values.len() != elements {
                return Err(SpecError::invalid(
                    place,
                    format!("{elements} elements of type {dtype}"),
                    format!("{} strings", s.values.len()),
                ));
            }
            return Ok(TensorData::Strings(s.values));
        }
        Some(proto::TensorKind::Floats(v)) => {
            let n = v.values.len();
            (
                match dtype {
                    DataType::F32 => v.values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                    DataType::F16 => v.values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
                    _ => return Err(wrong("floats")),
                },
                n,
            )
        }
        Some(proto::TensorKind::Doubles(v)) => match dtype {
            DataType::F64 => (v.values.iter().flat_map(|x| x.to_le_bytes()).collect(), v.values.len()),
            _ => return Err(wrong("doubles")),
        },
        Some(proto::TensorKind::Ints(v)) => {
            (int_bytes(dtype, v.values.iter().map(|&x| i64::from(x))).ok_or_else(|| wrong("ints"))?, v.values.len())
        }
        Some(proto::TensorKind::LongInts(v)) => {
            (int_bytes(dtype, v.values.iter().copied()).ok_or_else(|| wrong("long ints"))?, v.values.len())
        }
        Some(proto::TensorKind::Bools(v)) => match dtype {
            DataType::Bool => (v.values.iter().map(|&b| u8::from(b)).collect(), v.values.len()),
            _ => return Err(wrong("bools")),
        },
        Some(proto::TensorKind::Bytes(b)) => {
            let bits = dtype.bits().ok_or_else(|| wrong("bytes"))?;
            let n =
                if dtype.packed_len(elements) == Some(b.values.len()) { elements } else { b.values.len() * 8 / bits };
            (b.values, n)
        }
        None => (Vec::new(), 0),
    };
    fit(place, dtype, elements, bytes, found)
}

/// Checks the number of elements; a single one may be a splat.
fn fit(place: &str, dtype: DataType, elements: usize, bytes: Vec<u8>, found: usize) -> Result<TensorData, SpecError> {
    if found == elements {
        return Ok(TensorData::Bytes(bytes));
    }
    let whole = dtype.bits().is_some_and(|b| b % 8 == 0);
    if found == 1 && whole && elements <= MAX_SPLAT {
        return Ok(TensorData::Bytes(bytes.repeat(elements)));
    }
    Err(SpecError::invalid(place, format!("{elements} elements of type {dtype}"), format!("{found}")))
}

fn int_bytes(dtype: DataType, values: impl Iterator<Item = i64>) -> Option<Vec<u8>> {
    let width = match dtype {
        DataType::I8 | DataType::U8 | DataType::Bool => 1,
        DataType::I16 | DataType::U16 => 2,
        DataType::I32 | DataType::U32 => 4,
        DataType::I64 | DataType::U64 => 8,
        _ => return None,
    };
    // The low bytes of the two's complement are the value in every narrower integer type.
    Some(values.flat_map(|x| x.to_le_bytes().into_iter().take(width)).collect())
}
