//! `bayesianProbitRegressor`: a sum of Gaussian weights, one for the category of each feature.
//!
//! The format defines mean and variance of the weights; it does not say how optimism and sampling enter the two
//! probabilities that a model may return beside them, so a model that returns those is refused.

use std::borrow::Cow;

use coreml_format::model_types::Body;
use coreml_format::model_types::bayesian_probit::Gaussian;
use coreml_format::program::Program;

use super::{Maker, doubles, ints, is_numeric, named};
use crate::error::LowerError;
use crate::model_types::Source;

/// Mean and variance.
fn gaussian(maker: &Maker<'_>, of: Option<Gaussian>, what: &str) -> Result<(f64, f64), LowerError> {
    let of = of.ok_or_else(|| maker.invalid(what, "none"))?;
    if of.precision.is_nan() || of.precision <= 0.0 {
        return Err(maker.invalid(format!("{what} of a precision above 0"), of.precision));
    }
    Ok((of.mean, 1.0 / of.precision))
}

pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    let Body::BayesianProbitRegressor(model) = source.body else {
        return Err(maker.invalid("a Bayesian probit regressor", source.body.name()));
    };
    for feature in &maker.described.outputs {
        let known = [&model.mean_output_feature_name, &model.variance_output_feature_name];
        if !known.contains(&&feature.name) {
            let expected = "mean and variance: the format does not define the other results of this type";
            return Err(maker.invalid(expected, format!("the output `{}`", feature.name)));
        }
    }
    let input = maker.described.input(&model.regression_input_feature_name);
    let input = input.filter(|f| is_numeric(&f.ty));
    let input = input
        .ok_or_else(|| maker.invalid(format!("an array `{}`", model.regression_input_feature_name), "no such input"))?;
    let bias = gaussian(&maker, model.bias, "a bias")?;
    let (mut feature, mut value, mut mean, mut variance) = (vec![], vec![], vec![], vec![]);
    for weights in &model.features {
        if weights.feature_id >= model.number_of_features {
            let expected = format!("weights of {} features", model.number_of_features);
            return Err(maker.invalid(expected, format!("feature {}", weights.feature_id)));
        }
        for weight in &weights.weights {
            let (m, v) = gaussian(&maker, weight.feature_weight, "a weight")?;
            feature.push(i64::from(weights.feature_id));
            value.push(i64::from(weight.feature_value));
            mean.push(m);
            variance.push(v);
        }
    }
    let mut outputs = Vec::with_capacity(2);
    for name in [&model.mean_output_feature_name, &model.variance_output_feature_name] {
        outputs.push(match maker.described.output(name) {
            Some(described) => maker.result(described)?,
            None => maker.intermediate(if name.is_empty() { "unnamed" } else { name }),
        });
    }
    if outputs[0].name == outputs[1].name {
        outputs[1].name.push('_');
    }
    let parameters = vec![
        ("x", named(&input.name)),
        ("features", ints(&[i64::from(model.number_of_features)])),
        ("feature", ints(&feature)),
        ("value", ints(&value)),
        ("mean", doubles(&mean)),
        ("variance", doubles(&variance)),
        ("bias", doubles(&[bias.0, bias.1])),
    ];
    maker.add("engine.probit", parameters, outputs);
    maker.finish()
}
