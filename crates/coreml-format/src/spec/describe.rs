//! Converts a protobuf description to [`ModelDescription`].

use indexmap::IndexMap;

use super::{SpecError, proto};
use crate::description::{
    ColorLayout, DimRange, FeatureDescription, FeatureType, FunctionDescription, Metadata, ModelDescription,
    ShapeConstraint,
};
use crate::dtype::DataType;

pub(super) fn description(version: i32, m: proto::ModelDescription) -> Result<ModelDescription, SpecError> {
    let mut functions = IndexMap::new();
    let mut default_function = m.default_function_name;
    if m.functions.is_empty() {
        let optional = |s: String| Some(s).filter(|s| !s.is_empty());
        functions.insert(
            "main".to_owned(),
            FunctionDescription {
                inputs: features(m.input)?,
                outputs: features(m.output)?,
                states: features(m.state)?,
                predicted_feature: optional(m.predicted_feature_name),
                predicted_probabilities: optional(m.predicted_probabilities_name),
            },
        );
    }
    for f in m.functions {
        let optional = |s: String| Some(s).filter(|s| !s.is_empty());
        functions.insert(
            f.name,
            FunctionDescription {
                inputs: features(f.input)?,
                outputs: features(f.output)?,
                states: features(f.state)?,
                predicted_feature: optional(f.predicted_feature_name),
                predicted_probabilities: optional(f.predicted_probabilities_name),
            },
        );
    }
    if !functions.contains_key(&default_function) {
        let first = functions.keys().next().cloned().unwrap_or_default();
        default_function = if functions.contains_key("main") { "main".to_owned() } else { first };
    }
    let metadata = m.metadata.unwrap_or_default();
    Ok(ModelDescription {
        specification_version: version,
        functions,
        default_function,
        metadata: Metadata {
            description: metadata.short_description,
            version: metadata.version_string,
            author: metadata.author,
            license: metadata.license,
            user: metadata.user_defined.into_iter().collect(),
        },
    })
}

fn features(messages: Vec<proto::FeatureDescription>) -> Result<Vec<FeatureDescription>, SpecError> {
    messages
        .into_iter()
        .map(|m| {
            let place = format!("feature `{}`", m.name);
            let ty = m.ty.ok_or_else(|| SpecError::invalid(&place, "a type", "none"))?;
            let optional = ty.is_optional;
            Ok(FeatureDescription {
                ty: feature_type(&place, ty)?,
                name: m.name,
                description: m.short_description,
                optional,
            })
        })
        .collect()
}

fn extent(place: &str, n: i64) -> Result<usize, SpecError> {
    usize::try_from(n).map_err(|_| SpecError::invalid(place, "an extent of zero or more", n))
}

fn extents(place: &str, shape: &[i64]) -> Result<Vec<usize>, SpecError> {
    shape.iter().map(|&n| extent(place, n)).collect()
}

/// A negative upper bound means unbounded.
fn range(r: proto::SizeRange) -> DimRange {
    DimRange { min: usize::try_from(r.lower_bound).unwrap_or(usize::MAX), max: usize::try_from(r.upper_bound).ok() }
}

/// `ArrayDataType` codes of `FeatureTypes.proto`.
fn array_dtype(place: &str, code: i32) -> Result<DataType, SpecError> {
    Ok(match code {
        0x10020 => DataType::F32,
        0x10040 => DataType::F64,
        0x10010 => DataType::F16,
        0x20020 => DataType::I32,
        0x20008 => DataType::I8,
        0 => DataType::F32,
        other => return Err(SpecError::invalid(place, "a known array data type", format!("code {other}"))),
    })
}

fn feature_type(place: &str, m: proto::FeatureType) -> Result<FeatureType, SpecError> {
    if let Some(a) = m.multi_array {
        let default = a.double_default.or(a.float_default.map(f64::from)).or(a.int_default.map(f64::from));
        let shape = extents(place, &a.shape)?;
        let constraint = if let Some(e) = &a.enumerated_shapes {
            ShapeConstraint::Enumerated(e.shapes.iter().map(|s| extents(place, &s.shape)).collect::<Result<_, _>>()?)
        } else if let Some(r) = &a.shape_range {
            ShapeConstraint::Ranges(r.size_ranges.iter().copied().map(range).collect())
        } else if shape.is_empty() {
            ShapeConstraint::Unspecified
        } else {
            ShapeConstraint::Fixed
        };
        return Ok(FeatureType::MultiArray { dtype: array_dtype(place, a.data_type)?, shape, constraint, default });
    }
    if let Some(i) = m.image {
        return image_type(place, i);
    }
    if let Some(s) = m.state {
        let a = s.array.ok_or_else(|| SpecError::invalid(place, "a state of array type", "another state"))?;
        return Ok(FeatureType::State { dtype: array_dtype(place, a.data_type)?, shape: extents(place, &a.shape)? });
    }
    if let Some(d) = m.dictionary {
        return Ok(FeatureType::Dictionary { int_keys: d.int64_key.is_some() });
    }
    if let Some(s) = m.sequence {
        return Ok(FeatureType::Sequence { ints: s.int64.is_some() });
    }
    match (m.int64, m.double, m.string) {
        (Some(_), _, _) => Ok(FeatureType::Int64),
        (_, Some(_), _) => Ok(FeatureType::Double),
        (_, _, Some(_)) => Ok(FeatureType::String),
        _ => Err(SpecError::invalid(place, "a known feature type", "none")),
    }
}

fn image_type(place: &str, i: proto::ImageType) -> Result<FeatureType, SpecError> {
    let layout = match i.color_space {
        10 => ColorLayout::Grayscale,
        20 => ColorLayout::Rgb,
        30 => ColorLayout::Bgr,
        40 => ColorLayout::GrayscaleFloat16,
        other => return Err(SpecError::invalid(place, "a known colour space", format!("code {other}"))),
    };
    let size = |n: u64| usize::try_from(n).map_err(|_| SpecError::invalid(place, "an image size", n));
    let sizes = if let Some(e) = &i.enumerated_sizes {
        ShapeConstraint::Enumerated(
            e.sizes.iter().map(|s| Ok(vec![size(s.height)?, size(s.width)?])).collect::<Result<_, SpecError>>()?,
        )
    } else if let Some(r) = i.size_range {
        let open = proto::SizeRange { lower_bound: 1, upper_bound: -1 };
        ShapeConstraint::Ranges(vec![range(r.height.unwrap_or(open)), range(r.width.unwrap_or(open))])
    } else {
        ShapeConstraint::Fixed
    };
    Ok(FeatureType::Image { layout, width: extent(place, i.width)?, height: extent(place, i.height)?, sizes })
}
