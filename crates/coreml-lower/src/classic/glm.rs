//! `glmRegressor`, `glmClassifier`: generalized linear models.

use std::borrow::Cow;

use coreml_format::model_types::Body;
use coreml_format::model_types::data_structures::ClassLabels;
use coreml_format::model_types::glm::{ClassEncoding, ClassificationTransform, DoubleArray, RegressionTransform};
use coreml_format::program::Program;

use super::{Maker, Parameters, doubles, text};
use crate::error::LowerError;
use crate::model_types::Source;

fn parameters(
    maker: &Maker<'_>,
    weights: &[DoubleArray],
    offset: &[f64],
    link: &str,
    encoding: &str,
) -> Result<Parameters, LowerError> {
    let length = weights.first().map_or(0, |row| row.value.len());
    if weights.len() != offset.len() || weights.is_empty() {
        return Err(maker.invalid(format!("an offset for each of {} rows of weights", weights.len()), offset.len()));
    }
    if let Some(row) = weights.iter().find(|row| row.value.len() != length) {
        return Err(maker.invalid(format!("rows of {length} weights"), row.value.len()));
    }
    let all: Vec<f64> = weights.iter().flat_map(|row| &row.value).copied().collect();
    Ok(vec![
        ("x", maker.numbers()?),
        ("weights", doubles(&all)),
        ("offset", doubles(offset)),
        ("link", text(link)),
        ("encoding", text(encoding)),
    ])
}

/// Both types.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    match source.body {
        Body::GlmRegressor(model) => {
            let link = match RegressionTransform::try_from(model.post_evaluation_transform) {
                Ok(RegressionTransform::NoTransform) => "none",
                Ok(RegressionTransform::Logit) => "logit",
                Ok(RegressionTransform::Probit) => "probit",
                Err(_) => return Err(maker.invalid("a known transform", model.post_evaluation_transform)),
            };
            let result = maker.result(maker.output()?)?;
            let parameters = parameters(&maker, &model.weights, &model.offset, link, "regression")?;
            maker.add("engine.glm", parameters, vec![result]);
        }
        Body::GlmClassifier(model) => {
            let link = match ClassificationTransform::try_from(model.post_evaluation_transform) {
                Ok(ClassificationTransform::Logit) => "logit",
                Ok(ClassificationTransform::Probit) => "probit",
                Err(_) => return Err(maker.invalid("a known transform", model.post_evaluation_transform)),
            };
            let (encoding, most) = match ClassEncoding::try_from(model.class_encoding) {
                Ok(ClassEncoding::ReferenceClass) => ("reference", 1),
                Ok(ClassEncoding::OneVsRest) => ("one_vs_rest", 0),
                Err(_) => return Err(maker.invalid("a known class encoding", model.class_encoding)),
            };
            let (rows, classes) = (model.weights.len(), model.class_labels.as_ref().map_or(0, ClassLabels::count));
            // Two classes have one row in both encodings.
            let fits = (classes == 2 && rows == 1) || (classes > 2 && rows + most == classes);
            if !fits {
                return Err(maker.invalid(format!("rows of weights for {classes} classes"), rows));
            }
            if rows > 1 && link == "probit" {
                return Err(maker.invalid("two classes, as the probit has", classes));
            }
            let parameters = parameters(&maker, &model.weights, &model.offset, link, encoding)?;
            let scores = maker.intermediate("scores");
            let name = scores.name.clone();
            maker.add("engine.glm", parameters, vec![scores]);
            maker.classify(&name, &model.class_labels, None)?;
        }
        other => return Err(maker.invalid("a linear model", other.name())),
    }
    maker.finish()
}
