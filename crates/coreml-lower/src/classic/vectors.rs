//! `scaler`, `normalizer`, `featureVectorizer`, `arrayFeatureExtractor`: arithmetic on vectors.

use std::borrow::Cow;

use coreml_format::description::FeatureType;
use coreml_format::model_types::Body;
use coreml_format::model_types::normalizer::NormType;
use coreml_format::program::{Argument, Binding, Program};

use super::{Maker, doubles, ints, is_numeric, named, text};
use crate::error::LowerError;
use crate::model_types::Source;

/// All four types.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    let output = maker.output()?;
    let result = maker.result(output)?;
    if !matches!(source.body, Body::FeatureVectorizer(_)) {
        maker.numbers()?;
    }
    if !is_numeric(&output.ty) {
        return Err(maker.invalid(format!("numbers in `{}`", output.name), output.ty.in_words()));
    }
    let (kind, parameters) = match source.body {
        Body::Scaler(model) => {
            let or = |all: &[f64], default: f64| if all.is_empty() { doubles(&[default]) } else { doubles(all) };
            let (shift, scale) = (or(&model.shift_value, 0.0), or(&model.scale_value, 1.0));
            ("engine.scale", vec![("x", named(&maker.input()?.name)), ("shift", shift), ("scale", scale)])
        }
        Body::Normalizer(model) => {
            let norm = match NormType::try_from(model.norm_type) {
                Ok(NormType::Max) => "max",
                Ok(NormType::L1) => "l1",
                Ok(NormType::L2) => "l2",
                Err(_) => return Err(maker.invalid("a known norm", model.norm_type)),
            };
            ("engine.normalize", vec![("x", named(&maker.input()?.name)), ("norm", text(norm))])
        }
        Body::ArrayFeatureExtractor(model) => {
            let narrow = |&i: &u64| i64::try_from(i).map_err(|_| maker.invalid("an element of the input", i));
            let indices = model.extract_index.iter().map(narrow).collect::<Result<Vec<_>, _>>()?;
            ("engine.select", vec![("x", named(&maker.input()?.name)), ("indices", ints(&indices))])
        }
        Body::FeatureVectorizer(model) => {
            let (mut names, mut lengths) = (Vec::new(), Vec::new());
            for column in &model.input_list {
                let Some(feature) = maker.described.input(&column.input_column) else {
                    return Err(maker.invalid(format!("an input `{}`", column.input_column), "none"));
                };
                // A dictionary from positions to values is a sparse vector.
                if !is_numeric(&feature.ty) && feature.ty != (FeatureType::Dictionary { int_keys: true }) {
                    return Err(maker.invalid(format!("numbers in `{}`", feature.name), feature.ty.in_words()));
                }
                names.push(Binding::Name(column.input_column.clone()));
                let length = i64::try_from(column.input_dimensions);
                lengths.push(length.map_err(|_| maker.invalid("a number of elements", column.input_dimensions))?);
            }
            ("engine.features", vec![("x", Argument::Many(names)), ("lengths", ints(&lengths))])
        }
        other => return Err(maker.invalid("arithmetic on vectors", other.name())),
    };
    maker.add(kind, parameters, vec![result]);
    maker.finish()
}
