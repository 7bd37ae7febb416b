//! `nonMaximumSuppression`: boxes without those that overlap better ones.

use std::borrow::Cow;

use coreml_format::description::{DimRange, FeatureDescription, FeatureType, ShapeConstraint};
use coreml_format::dtype::DataType;
use coreml_format::model_types::Body;
use coreml_format::program::{Dim, NamedType, Program, TensorType, Value, ValueType};

use super::{Maker, Parameters, constant, doubles, ints, named};
use crate::error::LowerError;
use crate::model_types::Source;

/// The feature of this name that is an array.
fn array<'m>(
    maker: &Maker<'m>,
    all: &'m [FeatureDescription],
    name: &str,
    what: &str,
) -> Result<&'m FeatureDescription, LowerError> {
    let found = all.iter().find(|f| f.name == name && matches!(f.ty, FeatureType::MultiArray { .. }));
    found.ok_or_else(|| maker.invalid(format!("an array `{name}` for {what}"), "no such feature"))
}

/// The least and the largest number of rows that a description asks for; −1 for any number.
fn rows(maker: &Maker<'_>, feature: &FeatureDescription) -> Result<Option<(i64, i64)>, LowerError> {
    let FeatureType::MultiArray { shape, constraint, .. } = &feature.ty else { return Ok(None) };
    let matrix = |rank: usize| match rank {
        0 | 2 => Ok(()),
        rank => {
            Err(maker.invalid(format!("boxes by columns in `{}`", feature.name), format!("an array of rank {rank}")))
        }
    };
    let fits = |n: usize| i64::try_from(n).map_err(|_| maker.invalid("a number of boxes", n));
    Ok(match constraint {
        ShapeConstraint::Unspecified => None,
        ShapeConstraint::Fixed => {
            matrix(shape.len())?;
            shape.first().map(|&n| Ok::<_, LowerError>((fits(n)?, fits(n)?))).transpose()?
        }
        ShapeConstraint::Ranges(ranges) => {
            matrix(ranges.len())?;
            let pair = |r: &DimRange| Ok::<_, LowerError>((fits(r.min)?, r.max.map_or(Ok(-1), fits)?));
            ranges.first().map(pair).transpose()?
        }
        ShapeConstraint::Enumerated(all) => match all.as_slice() {
            [one] => {
                matrix(one.len())?;
                one.first().map(|&n| Ok::<_, LowerError>((fits(n)?, fits(n)?))).transpose()?
            }
            several => return Err(maker.invalid("one number of boxes, or a range", several.len())),
        },
    })
}

/// A threshold that an input may replace.
fn threshold(
    maker: &Maker<'_>,
    all: &mut Parameters,
    [parameter, given]: [&'static str; 2],
    value: f64,
    name: &str,
) -> Result<(), LowerError> {
    if value.is_nan() || value < 0.0 {
        return Err(maker.invalid(format!("a threshold `{parameter}` from 0"), value));
    }
    all.push((parameter, doubles(&[value])));
    let Some(feature) = maker.described.input(name).filter(|_| !name.is_empty()) else { return Ok(()) };
    if feature.ty != FeatureType::Double {
        return Err(maker.invalid(format!("a number in `{name}`"), feature.ty.in_words()));
    }
    all.push((given, named(name)));
    Ok(())
}

pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    let Body::NonMaximumSuppression(model) = source.body else {
        return Err(maker.invalid("non-maximum suppression", source.body.name()));
    };
    let top = model.pick_top.ok_or_else(|| maker.invalid("the method `pickTop`", "none"))?;
    let (inputs, outputs) = (&maker.described.inputs, &maker.described.outputs);
    let names = [&model.confidence_input_feature_name, &model.coordinates_input_feature_name];
    let confidence = array(&maker, inputs, names[0], "confidences")?;
    let coordinates = array(&maker, inputs, names[1], "coordinates")?;
    let results = [
        array(&maker, outputs, &model.confidence_output_feature_name, "confidences")?,
        array(&maker, outputs, &model.coordinates_output_feature_name, "coordinates")?,
    ];
    let thresholds = [&model.iou_threshold_input_feature_name, &model.confidence_threshold_input_feature_name];
    if let Some(other) = inputs.iter().find(|f| !names.contains(&&f.name) && !thresholds.contains(&&f.name)) {
        return Err(maker.invalid("confidences, coordinates and thresholds", format!("the input `{}`", other.name)));
    }
    if let Some(other) = outputs.iter().find(|f| results.iter().all(|r| r.name != f.name)) {
        return Err(maker.invalid("confidences and coordinates", format!("the output `{}`", other.name)));
    }
    let (mut fewest, mut most) = (0, -1);
    for result in results {
        let Some((least, largest)) = rows(&maker, result)? else { continue };
        fewest = fewest.max(least);
        most = if most < 0 || (largest >= 0 && largest < most) { largest } else { most };
    }
    if most >= 0 && fewest > most {
        return Err(maker.invalid(format!("at least {fewest} boxes"), format!("at most {most}")));
    }
    let mut all = vec![
        ("confidence", named(&confidence.name)),
        ("coordinates", named(&coordinates.name)),
        ("per_class", constant(Value::bool(top.per_class))),
        ("fewest", ints(&[fewest])),
        ("most", ints(&[most])),
    ];
    threshold(&maker, &mut all, ["iou", "iou_given"], model.iou_threshold, thresholds[0])?;
    threshold(&maker, &mut all, ["least", "least_given"], model.confidence_threshold, thresholds[1])?;
    let result = |feature: &FeatureDescription| {
        let dtype = match feature.ty {
            FeatureType::MultiArray { dtype, .. } => dtype,
            _ => DataType::F64,
        };
        let ty = ValueType::Tensor(TensorType { dtype, shape: vec![Dim::Unknown, Dim::Unknown] });
        NamedType { name: feature.name.clone(), ty }
    };
    let outputs = results.map(result).to_vec();
    maker.add("engine.suppress", all, outputs);
    maker.finish()
}
