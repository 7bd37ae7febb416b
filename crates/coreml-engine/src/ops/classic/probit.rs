//! `engine.probit`: a sum of Gaussian weights.

use std::collections::HashMap;

use super::{Declared, numbers};
use crate::budget;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.probit", &[], build);

/// `engine.probit(x, feature, value, mean, variance, bias)` → mean and variance of the sum of the bias and of a weight for each
/// element of x.
///
/// Element i is a category, a whole number; its weight is that with `feature` i and its `value`. `bias` is mean and
/// variance. A category without a weight is an error.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, features) = (b.slot("x")?, b.attr::<i64>("features")?);
    let declared = [Declared::of(b, 0)?, Declared::of(b, 1)?];
    let (feature, value): (Vec<i64>, Vec<i64>) = (b.attr("feature")?, b.attr("value")?);
    let (mean, variance, bias): (Vec<f64>, Vec<f64>, Vec<f64>) =
        (b.attr("mean")?, b.attr("variance")?, b.attr("bias")?);
    let lengths = [value.len(), mean.len(), variance.len()];
    if lengths.iter().any(|&n| n != feature.len()) || bias.len() != 2 {
        return Err(OpError::shape(format!("tables of {lengths:?} for {} weights", feature.len())));
    }
    budget::claim(feature.len().saturating_mul(64))?;
    let mut weights = HashMap::with_capacity(feature.len());
    for i in 0..feature.len() {
        if weights.insert((feature[i], value[i]), (mean[i], variance[i])).is_some() {
            return Err(OpError::data(format!("two weights for the value {} of feature {}", value[i], feature[i])));
        }
    }
    b.run(move |f| {
        let x = numbers(f, &[x])?;
        if usize::try_from(features).ok() != Some(x.len()) {
            return Err(OpError::shape(format!("{} features for weights of {features}", x.len())));
        }
        let mut sum = (bias[0], bias[1]);
        for (i, &x) in x.iter().enumerate() {
            let known = (x.fract() == 0.0 && x.abs() < 9e15).then(|| weights.get(&(i as i64, x as i64))).flatten();
            let (mean, variance) = known.ok_or_else(|| OpError::data(format!("feature {i} has no weight for {x}")))?;
            sum = (sum.0 + mean, sum.1 + variance);
        }
        Ok(vec![declared[0].value(vec![sum.0], &[1])?, declared[1].value(vec![sum.1], &[1])?])
    })
}
