//! `engine.neighbors`: the classes of the nearest samples.

use super::{numbers, search::Samples};
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::Value;

pub(super) const OP: OpSpec = OpSpec::new("engine.neighbors", &[], build);

/// `engine.neighbors(x…, samples, dimensions, class, classes, count, inverse, leaf)` → the share of each of `classes` in the
/// votes of the `count` nearest samples, by Euclidean distance; of equally near ones the first.
///
/// A vote is 1, or with `inverse` 1 / distance; if samples lie at x itself, only those vote. `samples` has `dimensions`
/// columns, `class` the class of each row. `leaf` above 0: samples are searched in a k-d tree with leaves of at most as
/// many; results are the same.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slots("x")?;
    let (all, dimensions): (Vec<f64>, i64) = (b.attr("samples")?, b.attr("dimensions")?);
    let class: Vec<i64> = b.attr("class")?;
    let (classes, count): (i64, i64) = (b.attr("classes")?, b.attr("count")?);
    let (inverse, leaf): (bool, i64) = (b.attr("inverse")?, b.attr("leaf")?);
    let positive = |name: &str, n: i64| {
        let found = usize::try_from(n).ok().filter(|&n| n > 0);
        found.ok_or_else(|| OpError::data(format!("{n} as `{name}`")))
    };
    let (dimensions, classes) = (positive("dimensions", dimensions)?, positive("classes", classes)?);
    let count = positive("count", count)?.min(class.len());
    if all.len() != class.len().saturating_mul(dimensions) {
        return Err(OpError::shape(format!("{} numbers for {} samples of {dimensions}", all.len(), class.len())));
    }
    let inside = |&c: &i64| usize::try_from(c).ok().filter(|&c| c < classes);
    let class: Option<Vec<usize>> = class.iter().map(inside).collect();
    let class = class.ok_or_else(|| OpError::data("a sample of a class that there is not"))?;
    let samples = Samples::new(all, dimensions, usize::try_from(leaf).unwrap_or(0))?;
    b.run(move |f| {
        let x = numbers(f, &x)?;
        if x.len() != dimensions {
            return Err(OpError::shape(format!("{} features for samples of {dimensions}", x.len())));
        }
        if x.iter().any(|x| x.is_nan()) {
            return Err(OpError::data("a feature that is not a number has no neighbours"));
        }
        budget::products(&[class.len(), dimensions])?;
        budget::claim_of::<(f64, usize)>(count.saturating_mul(2))?;
        let nearest = samples.nearest(&x, count);
        let mut votes = budget::filled(0.0, classes)?;
        let at_x = inverse && nearest.iter().any(|(squared, _)| *squared == 0.0);
        for (squared, sample) in nearest {
            votes[class[sample]] += match inverse {
                false => 1.0,
                true if at_x => f64::from(u8::from(squared == 0.0)),
                true => 1.0 / squared.sqrt(),
            };
        }
        let sum: f64 = votes.iter().sum();
        if sum > 0.0 {
            votes.iter_mut().for_each(|v| *v /= sum);
        }
        one(Value::doubles(votes, vec![classes]))
    })
}
