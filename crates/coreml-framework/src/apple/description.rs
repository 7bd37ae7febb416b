//! Converts `MLModelDescription` to [`coreml_format::description`] types.

use coreml_format::description::{FeatureDescription, FeatureType, FunctionDescription, Metadata, ModelDescription};
use indexmap::IndexMap;
use objc2::rc::Retained;
use objc2::runtime::AnyObject;
use objc2_core_ml::{
    MLFeatureDescription, MLFeatureType, MLImageConstraint, MLImageSizeConstraintType, MLModel, MLModelAuthorKey,
    MLModelCreatorDefinedKey, MLModelDescription, MLModelDescriptionKey, MLModelLicenseKey, MLModelMetadataKey,
    MLModelVersionStringKey, MLMultiArrayConstraint, MLMultiArrayShapeConstraintType,
};
use objc2_foundation::{NSArray, NSDictionary, NSNumber, NSRange, NSString};

use super::available::{Api, require};
use super::foundation::extents;
use crate::array::ArrayType;
use crate::error::NativeError;
use crate::pixels::PixelFormat;
use crate::shape::{RawConstraint, RawImageSizes};

// The platform-neutral constants match the framework's.
const _: () = {
    assert!(MLMultiArrayShapeConstraintType::Unspecified.0 == 1);
    assert!(MLMultiArrayShapeConstraintType::Enumerated.0 == 2);
    assert!(MLMultiArrayShapeConstraintType::Range.0 == 3);
    assert!(MLImageSizeConstraintType::Unspecified.0 == 0);
    assert!(MLImageSizeConstraintType::Enumerated.0 == 2);
    assert!(MLImageSizeConstraintType::Range.0 == 3);
};

/// Describes a loaded model: one function, under the name it was loaded by (default `main`). Features are sorted by
/// name, because the framework's dictionaries are unordered.
///
/// # Errors
/// If a feature has a type unknown to this version.
pub(super) fn describe(model: &MLModel, function: Option<&str>) -> Result<ModelDescription, NativeError> {
    // SAFETY: rule 2; the getters of a loaded model and of its immutable description, here and below.
    let description = unsafe { model.modelDescription() };
    let (inputs, outputs) =
        // SAFETY: as above.
        unsafe { (description.inputDescriptionsByName(), description.outputDescriptionsByName()) };
    let states = match require(Api::State) {
        Ok(()) => {
            // SAFETY: as above; the system has states.
            let states = unsafe { description.stateDescriptionsByName() };
            features(&states, true)?
        }
        Err(_) => Vec::new(),
    };
    // SAFETY: as above.
    let (label, probabilities) =
        unsafe { (description.predictedFeatureName(), description.predictedProbabilitiesName()) };
    let described = FunctionDescription {
        inputs: features(&inputs, false)?,
        outputs: features(&outputs, false)?,
        states,
        predicted_feature: label.map(|s| s.to_string()),
        predicted_probabilities: probabilities.map(|s| s.to_string()),
    };
    let name = function.unwrap_or("main").to_owned();
    Ok(ModelDescription {
        specification_version: 0,
        functions: IndexMap::from([(name.clone(), described)]),
        default_function: name,
        metadata: metadata(&description),
    })
}

/// Features by name: states, or inputs and outputs.
fn features(
    all: &NSDictionary<NSString, MLFeatureDescription>,
    states: bool,
) -> Result<Vec<FeatureDescription>, NativeError> {
    let (names, descriptions) = all.to_vecs();
    let mut features = Vec::with_capacity(names.len());
    for (name, description) in names.iter().zip(&descriptions) {
        let name = name.to_string();
        let ty = feature_type(&name, description)?;
        // A state is no input of a prediction, should the framework list it as one.
        if matches!(ty, FeatureType::State { .. }) != states {
            continue;
        }
        // SAFETY: a getter of an immutable description.
        let optional = unsafe { description.isOptional() };
        features.push(FeatureDescription { name, description: String::new(), ty, optional });
    }
    features.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(features)
}

fn missing(name: &str, what: &str) -> NativeError {
    NativeError::feature(name, format!("the framework to give {what}"), "none")
}

fn element_type(name: &str, code: isize) -> Result<ArrayType, NativeError> {
    ArrayType::from_code(code)
        .ok_or_else(|| NativeError::feature(name, "a known array data type", format!("code {code}")))
}

/// Type of a feature.
fn feature_type(name: &str, description: &MLFeatureDescription) -> Result<FeatureType, NativeError> {
    // SAFETY: getters of an immutable description; constraints of other feature kinds are nil.
    let (kind, array, state, image, dictionary, sequence) = unsafe {
        let kind = description.r#type();
        let state = (kind == MLFeatureType::State).then(|| description.stateConstraint()).flatten();
        (
            kind,
            description.multiArrayConstraint(),
            state,
            description.imageConstraint(),
            description.dictionaryConstraint(),
            description.sequenceConstraint(),
        )
    };
    Ok(match kind {
        MLFeatureType::MultiArray => multi_array(name, &*array.ok_or_else(|| missing(name, "an array constraint"))?)?,
        MLFeatureType::State => {
            let state = state.ok_or_else(|| missing(name, "a state constraint"))?;
            // SAFETY: as above.
            let (code, shape) = unsafe { (state.dataType().0, state.bufferShape()) };
            FeatureType::State { dtype: element_type(name, code)?.data_type(), shape: extents(name, &shape)? }
        }
        MLFeatureType::Image => image_type(name, &*image.ok_or_else(|| missing(name, "an image constraint"))?)?,
        MLFeatureType::Sequence => {
            let sequence = sequence.ok_or_else(|| missing(name, "a sequence constraint"))?;
            // SAFETY: as above.
            FeatureType::Sequence { ints: unsafe { sequence.valueDescription().r#type() } == MLFeatureType::Int64 }
        }
        MLFeatureType::Dictionary => {
            let dictionary = dictionary.ok_or_else(|| missing(name, "a dictionary constraint"))?;
            // SAFETY: as above.
            FeatureType::Dictionary { int_keys: unsafe { dictionary.keyType() } == MLFeatureType::Int64 }
        }
        MLFeatureType::Int64 => FeatureType::Int64,
        MLFeatureType::Double => FeatureType::Double,
        MLFeatureType::String => FeatureType::String,
        other => {
            return Err(NativeError::feature(
                name,
                "a feature type that this version knows",
                format!("type {}", other.0),
            ));
        }
    })
}

/// Image type, with its allowed sizes.
fn image_type(name: &str, image: &MLImageConstraint) -> Result<FeatureType, NativeError> {
    // SAFETY: getters of an immutable constraint.
    let (width, height, code, sizes) =
        unsafe { (image.pixelsWide(), image.pixelsHigh(), image.pixelFormatType(), image.sizeConstraint()) };
    let unknown = || NativeError::feature(name, "a known pixel format", format!("code {code:#x}"));
    let format = PixelFormat::from_code(code).ok_or_else(unknown)?;
    let pixels = |n: isize| usize::try_from(n).map_err(|_| missing(name, "an image size"));
    // SAFETY: as above.
    let (kind, listed, high, wide) =
        unsafe { (sizes.r#type(), sizes.enumeratedImageSizes(), sizes.pixelsHighRange(), sizes.pixelsWideRange()) };
    // SAFETY: as above.
    let listed = listed.iter().map(|size| unsafe { (size.pixelsHigh(), size.pixelsWide()) });
    let range = |range: NSRange| (range.location, range.length);
    let raw = RawImageSizes {
        kind: kind.0,
        enumerated: listed.map(|(h, w)| Ok(vec![pixels(h)?, pixels(w)?])).collect::<Result<_, NativeError>>()?,
        ranges: [range(high), range(wide)],
    };
    let (layout, sizes) = (format.layout(), raw.resolve());
    Ok(FeatureType::Image { layout, width: pixels(width)?, height: pixels(height)?, sizes })
}

fn multi_array(name: &str, constraint: &MLMultiArrayConstraint) -> Result<FeatureType, NativeError> {
    // SAFETY: getters of an immutable constraint.
    let (code, shape, shapes) = unsafe { (constraint.dataType().0, constraint.shape(), constraint.shapeConstraint()) };
    // SAFETY: as above.
    let (kind, enumerated, ranges) =
        unsafe { (shapes.r#type().0, shapes.enumeratedShapes(), shapes.sizeRangeForDimension()) };
    let listed = |shape: Retained<NSArray<NSNumber>>| extents(name, &shape);
    let range = |value: Retained<objc2_foundation::NSValue>| {
        let range = value.get_range().ok_or_else(|| missing(name, "ranges of extents"))?;
        Ok::<_, NativeError>((range.location, range.length))
    };
    let raw = RawConstraint {
        kind,
        // A negative extent means unknown, for instance an output whose shape follows its input.
        shape: extents(name, &shape).unwrap_or_default(),
        enumerated: enumerated.iter().map(listed).collect::<Result<_, _>>()?,
        ranges: ranges.iter().map(range).collect::<Result<_, _>>()?,
    };
    let constraint = raw.resolve();
    Ok(FeatureType::MultiArray {
        dtype: element_type(name, code)?.data_type(),
        shape: raw.shape,
        constraint,
        default: None,
    })
}

fn metadata(description: &MLModelDescription) -> Metadata {
    // SAFETY: a getter of an immutable description.
    let all = unsafe { description.metadata() };
    let object = |key: Option<&MLModelMetadataKey>| key.and_then(|key| all.objectForKey(key));
    let text = |key| object(key).and_then(|o| Some(o.downcast_ref::<NSString>()?.to_string())).unwrap_or_default();
    // SAFETY: framework constants, present since Core ML's first version.
    let (about, version, author, license, user) = unsafe {
        (MLModelDescriptionKey, MLModelVersionStringKey, MLModelAuthorKey, MLModelLicenseKey, MLModelCreatorDefinedKey)
    };
    let mut entries: Vec<(String, String)> =
        object(user).and_then(|o| Some(strings(o.downcast_ref::<NSDictionary>()?))).unwrap_or_default();
    entries.sort();
    Metadata {
        description: text(about),
        version: text(version),
        author: text(author),
        license: text(license),
        user: entries.into_iter().collect(),
    }
}

/// Entries of a dictionary whose key and value are strings.
fn strings(dictionary: &NSDictionary<AnyObject, AnyObject>) -> Vec<(String, String)> {
    let (keys, values) = dictionary.to_vecs();
    let text = |o: &AnyObject| o.downcast_ref::<NSString>().map(NSString::to_string);
    keys.iter().zip(&values).filter_map(|(k, v)| Some((text(k)?, text(v)?))).collect()
}
