//! Inputs and outputs of a prediction as the framework's dictionaries of features.

use candle_core::{DType, Device, Tensor, WithDType};
use coreml_format::description::{FeatureDescription, FeatureType, FunctionDescription, ShapeConstraint};
use indexmap::IndexMap;
use objc2::AllocAnyThread;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_core_ml::{MLDictionaryFeatureProvider, MLFeatureProvider, MLFeatureType, MLFeatureValue, MLMultiArray};
use objc2_foundation::{NSDictionary, NSNumber, NSString};

use super::array;
use super::foundation::failure;
use crate::array::{ArrayType, Buffer};
use crate::error::NativeError;
use crate::inputs::{Declared, Locked, Memory, prepare, prepare_owned};
use crate::lend::Lender;
use crate::output::{Key, Output};
use crate::shape;

/// Inputs of one prediction, ready for the framework.
pub(super) type Provider = Retained<ProtocolObject<dyn MLFeatureProvider>>;

/// Tensors that are lent to Core ML, so that one can tell when it has let go of them.
pub(super) type Lent = Vec<Lender<Tensor>>;

/// Checks the names of inputs: all known, each once, and none missing that the model needs.
pub(super) fn check_names(described: &FunctionDescription, inputs: &[(&str, &Tensor)]) -> Result<(), NativeError> {
    let names = || described.inputs.iter().map(|f| f.name.clone()).collect();
    for (i, (name, _)) in inputs.iter().enumerate() {
        if described.input(name).is_none() {
            return Err(NativeError::Unknown { what: "input", name: (*name).to_owned(), available: names() });
        }
        if inputs[..i].iter().any(|(other, _)| other == name) {
            return Err(NativeError::feature(name, "one tensor", "two"));
        }
    }
    let given = |f: &FeatureDescription| inputs.iter().any(|(name, _)| *name == f.name);
    match described.inputs.iter().find(|f| !f.optional && !given(f)) {
        Some(f) => Err(NativeError::feature(&f.name, "a tensor, as the input is not optional", "none")),
        None => Ok(()),
    }
}

/// Whether this engine can feed and read a model: which features it has no words for.
pub(super) fn supported(described: &FunctionDescription) -> Result<(), NativeError> {
    for input in &described.inputs {
        if !matches!(input.ty, FeatureType::MultiArray { .. } | FeatureType::Int64 | FeatureType::Double) {
            return Err(NativeError::feature(&input.name, "an array or a number as input", format!("{:?}", input.ty)));
        }
    }
    for output in &described.outputs {
        if matches!(output.ty, FeatureType::Image { .. } | FeatureType::Sequence { .. }) {
            let expected = "an array, a number, a string or a dictionary as output";
            return Err(NativeError::feature(&output.name, expected, format!("{:?}", output.ty)));
        }
    }
    Ok(())
}

/// Element type and only shape of an array feature.
fn declared(feature: &FeatureDescription) -> Option<(ArrayType, Option<&[usize]>)> {
    match &feature.ty {
        FeatureType::MultiArray { dtype, shape, constraint, .. } => {
            let fixed = (*constraint == ShapeConstraint::Fixed).then_some(shape.as_slice());
            Some((ArrayType::from_data_type(*dtype)?, fixed))
        }
        _ => None,
    }
}

/// Inputs that Core ML may use until the locks are given up: lent where they fit.
///
/// `lent` gets a lender for each tensor that is lent.
pub(super) fn borrowed(
    described: &FunctionDescription,
    inputs: &[(&str, &Tensor)],
    locked: &Locked<'_>,
    lend: bool,
    lent: &mut Lent,
) -> Result<Provider, NativeError> {
    let mut values = Vec::with_capacity(inputs.len());
    for (position, (name, tensor)) in inputs.iter().enumerate() {
        let value = value(described, name, tensor, |declared| {
            let ready = prepare(declared, tensor, locked, position, lend)?;
            match ready.memory {
                Memory::Copied(buffer) => over_buffer(name, &ready.shape, buffer),
                Memory::Lent(pointer) => {
                    let lender = Lender::new((*tensor).clone());
                    let loan =
                        lender.lend().map_err(|e| NativeError::feature(name, "a tensor at hand", e.to_string()))?;
                    lent.push(lender);
                    // SAFETY: `prepare` found the dense elements of this type at the pointer. The loan holds a
                    // clone of the tensor and with it the storage; the caller holds the read lock until the
                    // prediction is over, after which Core ML keeps the array but reads it no more.
                    unsafe { array::over(name, ready.ty, &ready.shape, pointer, loan) }
                }
            }
        })?;
        values.push((*name, value));
    }
    provider(&values)
}

/// Inputs that outlive the call: copied.
pub(super) fn copied(described: &FunctionDescription, inputs: &[(&str, &Tensor)]) -> Result<Provider, NativeError> {
    let mut values = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        let value = value(described, name, tensor, |declared| {
            let (shape, buffer) = prepare_owned(declared, tensor)?;
            over_buffer(name, &shape, buffer)
        })?;
        values.push((*name, value));
    }
    provider(&values)
}

fn over_buffer(name: &str, shape: &[usize], buffer: Buffer) -> Result<Retained<MLMultiArray>, NativeError> {
    let (ty, pointer) = (buffer.array_type(), array::first(&buffer));
    let loan = Lender::new(buffer).lend().map_err(|e| NativeError::feature(name, "a buffer", e.to_string()))?;
    // SAFETY: a dense buffer with as many elements as the shape has; the loan is its only owner, so that nothing
    // changes it, and moving it does not move its elements.
    unsafe { array::over(name, ty, shape, pointer, loan) }
}

/// One input as a feature value.
fn value(
    described: &FunctionDescription,
    name: &str,
    tensor: &Tensor,
    array: impl FnOnce(Declared<'_>) -> Result<Retained<MLMultiArray>, NativeError>,
) -> Result<Retained<MLFeatureValue>, NativeError> {
    let unknown = || NativeError::Unknown { what: "input", name: name.to_owned(), available: Vec::new() };
    let feature = described.input(name).ok_or_else(unknown)?;
    if let Some((ty, fixed)) = declared(feature) {
        shape::check(feature, tensor.dims())?;
        let array = array(Declared { name, ty, shape: fixed })?;
        // SAFETY: rule 1; the value retains the array.
        return Ok(unsafe { MLFeatureValue::featureValueWithMultiArray(&array) });
    }
    match feature.ty {
        FeatureType::Double => {
            let number = scalar::<f64>(name, &tensor.to_dtype(DType::F64)?)?;
            // SAFETY: a value from a number.
            Ok(unsafe { MLFeatureValue::featureValueWithDouble(number) })
        }
        FeatureType::Int64 => {
            let number = whole(name, tensor)?;
            // SAFETY: as above.
            Ok(unsafe { MLFeatureValue::featureValueWithInt64(number) })
        }
        _ => Err(NativeError::feature(name, "an array or a number as input", format!("{:?}", feature.ty))),
    }
}

/// The only element of a tensor.
fn scalar<T: WithDType>(name: &str, tensor: &Tensor) -> Result<T, NativeError> {
    match tensor.flatten_all()?.to_vec1::<T>()?.as_slice() {
        [number] => Ok(*number),
        _ => Err(NativeError::feature(name, "one number", format!("shape {:?}", tensor.dims()))),
    }
}

/// The only element of a tensor, as an integer: floats must be whole, and within what `f64` tells apart.
fn whole(name: &str, tensor: &Tensor) -> Result<i64, NativeError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if tensor.dtype().is_float() {
        let number = scalar::<f64>(name, &tensor.to_dtype(DType::F64)?)?;
        if number.fract() != 0.0 || number.abs() > EXACT {
            return Err(NativeError::feature(name, "a whole number", number.to_string()));
        }
    }
    scalar(name, &tensor.to_dtype(DType::I64)?)
}

fn provider(values: &[(&str, Retained<MLFeatureValue>)]) -> Result<Provider, NativeError> {
    let names: Vec<_> = values.iter().map(|(name, _)| NSString::from_str(name)).collect();
    let keys: Vec<&NSString> = names.iter().map(|name| &**name).collect();
    let objects: Vec<Retained<AnyObject>> = values.iter().map(|(_, value)| value.clone().into()).collect();
    let dictionary = NSDictionary::from_retained_objects(&keys, &objects);
    let empty = MLDictionaryFeatureProvider::alloc();
    // SAFETY: rule 1, a dictionary from names to feature values.
    let provider = unsafe { MLDictionaryFeatureProvider::initWithDictionary_error(empty, &dictionary) }
        .map_err(|e| failure("collecting the inputs", &e))?;
    Ok(ProtocolObject::from_retained(provider))
}

/// Arrays that live as long as the model, for outputs of fixed shape; `None` when there are none.
pub(super) fn backings(
    described: &FunctionDescription,
) -> Result<Option<Retained<NSDictionary<NSString, AnyObject>>>, NativeError> {
    let (mut names, mut arrays) = (Vec::new(), Vec::<Retained<AnyObject>>::new());
    for output in &described.outputs {
        if let Some((ty, Some(shape))) = declared(output) {
            names.push(NSString::from_str(&output.name));
            arrays.push(array::owned(&output.name, ty, shape)?.into());
        }
    }
    let keys: Vec<&NSString> = names.iter().map(|name| &**name).collect();
    Ok((!keys.is_empty()).then(|| NSDictionary::from_retained_objects(&keys, &arrays)))
}

/// Every output that the description names.
///
/// # Errors
/// Outputs that are missing or of types without words here.
pub(super) fn outputs(
    described: &FunctionDescription,
    features: &ProtocolObject<dyn MLFeatureProvider>,
) -> Result<IndexMap<String, Output>, NativeError> {
    let mut all = IndexMap::with_capacity(described.outputs.len());
    for feature in &described.outputs {
        let name = &feature.name;
        // SAFETY: rule 1, the name of an output; the provider is the prediction's result.
        let value = unsafe { features.featureValueForName(&NSString::from_str(name)) };
        let value = value.ok_or_else(|| NativeError::feature(name, "an output", "none"))?;
        all.insert(name.clone(), output(name, &value)?);
    }
    Ok(all)
}

fn output(name: &str, value: &MLFeatureValue) -> Result<Output, NativeError> {
    // SAFETY: getters of an immutable value; each is asked only for the kind that it has.
    unsafe {
        Ok(match value.r#type() {
            MLFeatureType::MultiArray => {
                let array = value.multiArrayValue();
                let array = array.ok_or_else(|| NativeError::feature(name, "an array", "none"))?;
                let (shape, buffer) = array::read(name, &array)?;
                Output::Tensor(buffer.into_tensor(shape)?)
            }
            MLFeatureType::Int64 => Output::Tensor(Tensor::new(value.int64Value(), &Device::Cpu)?),
            MLFeatureType::Double => Output::Tensor(Tensor::new(value.doubleValue(), &Device::Cpu)?),
            MLFeatureType::String => Output::Text(value.stringValue().to_string()),
            MLFeatureType::Dictionary => Output::Dictionary(entries(name, &value.dictionaryValue())?),
            other => {
                let expected = "an array, a number, a string or a dictionary";
                return Err(NativeError::feature(name, expected, format!("feature type {}", other.0)));
            }
        })
    }
}

/// The entries of a dictionary, in the order of their keys: the framework's has none.
fn entries(name: &str, dictionary: &NSDictionary<AnyObject, NSNumber>) -> Result<Vec<(Key, f64)>, NativeError> {
    let (keys, values) = dictionary.to_vecs();
    let key = |object: &AnyObject| {
        let text = object.downcast_ref::<NSString>().map(|s| Key::Text(s.to_string()));
        let key = text.or_else(|| object.downcast_ref::<NSNumber>().map(|n| Key::Int(n.as_i64())));
        key.ok_or_else(|| NativeError::feature(name, "keys that are strings or integers", "another key"))
    };
    let pairs = keys.iter().zip(&values).map(|(k, v)| Ok((key(k)?, v.as_f64())));
    let mut entries = pairs.collect::<Result<Vec<_>, NativeError>>()?;
    entries.sort_by(|(a, _), (b, _)| match (a, b) {
        (Key::Int(a), Key::Int(b)) => a.cmp(b),
        (Key::Text(a), Key::Text(b)) => a.cmp(b),
        (Key::Int(_), Key::Text(_)) => std::cmp::Ordering::Less,
        (Key::Text(_), Key::Int(_)) => std::cmp::Ordering::Greater,
    });
    Ok(entries)
}
