//! Prediction outputs: preallocated memory, and conversion of the framework's features.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType, FunctionDescription};
use coreml_values::{DictionaryKey, FeatureValue};
use indexmap::IndexMap;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_core_ml::{MLFeatureProvider, MLFeatureType, MLFeatureValue, MLMultiArray};
use objc2_core_video::CVPixelBuffer;
use objc2_foundation::{NSDictionary, NSNumber, NSString};

use super::array;
use super::features::declared;
use super::handed::NativeArray;
use super::pixel_buffer::{self, pixels};
use crate::alternate::Alternate;
use crate::array::ArrayType;
use crate::error::NativeError;
use crate::pixels::channels;
use crate::report::BackingUse;

/// Output arrays of fixed shape, reused for the lifetime of the model.
pub(super) struct Backings {
    /// Arrays by name, for the framework.
    pub(super) arrays: Retained<NSDictionary<NSString, AnyObject>>,
    /// The same.
    offered: Vec<Offered>,
    in_surfaces: bool,
}

/// The arrays of one output.
struct Offered {
    name: String,
    ty: ArrayType,
    shape: Vec<usize>,
    arrays: Alternate<NativeArray>,
}

impl Backings {
    /// Creates arrays for the outputs, in surfaces where useful; `None` if no output has a fixed shape.
    pub(super) fn new(described: &FunctionDescription, in_surfaces: bool) -> Result<Option<Self>, NativeError> {
        let mut offered = Vec::new();
        for output in &described.outputs {
            let Some((ty, Some(shape))) = declared(output) else { continue };
            let arrays = Alternate::new(NativeArray::new(&output.name, ty, shape, in_surfaces)?);
            offered.push(Offered { name: output.name.clone(), ty, shape: shape.to_vec(), arrays });
        }
        Ok((!offered.is_empty()).then(|| Self { arrays: dictionary(&offered), offered, in_surfaces }))
    }

    /// Puts other arrays in the place of those that were handed on and are still held.
    ///
    /// # Errors
    /// If the framework has no memory for an array.
    pub(super) fn renew(&mut self) -> Result<(), NativeError> {
        let mut changed = false;
        for Offered { name, ty, shape, arrays } in &mut self.offered {
            changed |= arrays.free(|| NativeArray::new(name, *ty, shape, self.in_surfaces))?;
        }
        if changed {
            self.arrays = dictionary(&self.offered);
        }
        Ok(())
    }

    /// The output's array, if the framework wrote to this very one; counts both cases.
    fn written(&self, name: &str, array: &MLMultiArray, used: &mut BackingUse) -> Option<&Arc<NativeArray>> {
        let offered = self.offered.iter().find(|offered| offered.name == name)?;
        if !std::ptr::eq(Retained::as_ptr(offered.arrays.current().object()), array) {
            used.replaced += 1;
            return None;
        }
        used.written += 1;
        Some(offered.arrays.current())
    }
}

fn dictionary(offered: &[Offered]) -> Retained<NSDictionary<NSString, AnyObject>> {
    let names: Vec<_> = offered.iter().map(|offered| NSString::from_str(&offered.name)).collect();
    let keys: Vec<&NSString> = names.iter().map(|name| &**name).collect();
    let arrays: Vec<Retained<AnyObject>> =
        offered.iter().map(|offered| offered.arrays.current().object().clone().into()).collect();
    NSDictionary::from_retained_objects(&keys, &arrays)
}

/// Converts every described output.
///
/// # Errors
/// If an output is missing or has an unsupported type.
pub(super) fn outputs(
    described: &FunctionDescription,
    features: &ProtocolObject<dyn MLFeatureProvider>,
    backings: Option<&Backings>,
    used: &mut BackingUse,
) -> Result<IndexMap<String, FeatureValue>, NativeError> {
    let mut all = IndexMap::with_capacity(described.outputs.len());
    for feature in &described.outputs {
        let value = value(&feature.name, features)?;
        all.insert(feature.name.clone(), output(feature, &value, backings, used)?);
    }
    Ok(all)
}

/// An output of a prediction.
fn value(
    name: &str,
    features: &ProtocolObject<dyn MLFeatureProvider>,
) -> Result<Retained<MLFeatureValue>, NativeError> {
    // SAFETY: rule 1, the name of an output; the provider is the prediction's result.
    let value = unsafe { features.featureValueForName(&NSString::from_str(name)) };
    value.ok_or_else(|| NativeError::feature(name, "an output", "none"))
}

/// The array of an output, where the framework left it: in the array that was offered, else in its own.
///
/// # Errors
/// If the output is missing or no array.
pub(super) fn array_of(
    name: &str,
    features: &ProtocolObject<dyn MLFeatureProvider>,
    backings: Option<&Backings>,
    used: &mut BackingUse,
) -> Result<Arc<NativeArray>, NativeError> {
    // SAFETY: a getter of an immutable value.
    let array = unsafe { value(name, features)?.multiArrayValue() };
    let array = array.ok_or_else(|| NativeError::feature(name, "an array", "another feature"))?;
    match backings.and_then(|backings| backings.written(name, &array, used)) {
        Some(ours) => {
            used.handed += 1;
            Ok(ours.clone())
        }
        None => NativeArray::of(name, array).map(Arc::new),
    }
}

fn output(
    feature: &FeatureDescription,
    value: &MLFeatureValue,
    backings: Option<&Backings>,
    used: &mut BackingUse,
) -> Result<FeatureValue, NativeError> {
    let name = &feature.name;
    let none = |what: &str| NativeError::feature(name, what, "none");
    // SAFETY: getters of an immutable value, each called only for its own kind.
    unsafe {
        Ok(match value.r#type() {
            MLFeatureType::MultiArray => {
                let array = value.multiArrayValue().ok_or_else(|| none("an array"))?;
                FeatureValue::Tensor(match backings.and_then(|b| b.written(name, &array, used)) {
                    Some(ours) => ours.read()?,
                    None => {
                        let (shape, buffer) = array::read(name, &array)?;
                        buffer.into_tensor(shape)?
                    }
                })
            }
            MLFeatureType::Image => {
                let buffer = value.imageBufferValue().ok_or_else(|| none("an image"))?;
                FeatureValue::Tensor(image_tensor(feature, &buffer)?)
            }
            MLFeatureType::Sequence => {
                let sequence = value.sequenceValue().ok_or_else(|| none("a sequence"))?;
                if sequence.r#type() == MLFeatureType::Int64 {
                    let numbers: Vec<i64> = sequence.int64Values().iter().map(|n| n.as_i64()).collect();
                    let length = numbers.len();
                    FeatureValue::Tensor(Tensor::from_vec(numbers, length, &Device::Cpu)?)
                } else {
                    FeatureValue::Strings(sequence.stringValues().iter().map(|s| s.to_string()).collect())
                }
            }
            MLFeatureType::Int64 => FeatureValue::Tensor(Tensor::new(value.int64Value(), &Device::Cpu)?),
            MLFeatureType::Double => FeatureValue::Tensor(Tensor::new(value.doubleValue(), &Device::Cpu)?),
            MLFeatureType::String => FeatureValue::String(value.stringValue().to_string()),
            MLFeatureType::Dictionary => FeatureValue::Dictionary(entries(name, &value.dictionaryValue())?),
            other => {
                let expected = "a feature type that this version knows";
                return Err(NativeError::feature(name, expected, format!("type {}", other.0)));
            }
        })
    }
}

/// Samples of an image, `[1, channels, height, width]`, channels in the order of the model's layout.
fn image_tensor(feature: &FeatureDescription, buffer: &CVPixelBuffer) -> Result<Tensor, NativeError> {
    let (name, FeatureType::Image { layout, .. }) = (&feature.name, &feature.ty) else {
        return Err(NativeError::feature(&feature.name, feature.ty.in_words(), "an image"));
    };
    let format = pixel_buffer::format(name, buffer)?;
    let (rows, samples) = pixel_buffer::read(name, buffer, format.bytes(), |rows, bytes| {
        Ok((rows, rows.unpack(bytes, format, *layout).map_err(|source| pixels(name, source))?))
    })?;
    let tensor = Tensor::from_vec(samples, (1, channels(*layout), rows.height, rows.width), &Device::Cpu)?;
    Ok(if *layout == ColorLayout::GrayscaleFloat16 { tensor.to_dtype(DType::F16)? } else { tensor })
}

/// Entries of a dictionary, sorted by key: the framework's are unordered.
fn entries(
    name: &str,
    dictionary: &NSDictionary<AnyObject, NSNumber>,
) -> Result<Vec<(DictionaryKey, f64)>, NativeError> {
    let (keys, values) = dictionary.to_vecs();
    let key = |object: &AnyObject| {
        let text = object.downcast_ref::<NSString>().map(|s| DictionaryKey::String(s.to_string()));
        let key = text.or_else(|| object.downcast_ref::<NSNumber>().map(|n| DictionaryKey::Int(n.as_i64())));
        key.ok_or_else(|| NativeError::feature(name, "keys that are strings or integers", "another key"))
    };
    let pairs = keys.iter().zip(&values).map(|(k, v)| Ok((key(k)?, v.as_f64())));
    let mut entries = pairs.collect::<Result<Vec<_>, NativeError>>()?;
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}
