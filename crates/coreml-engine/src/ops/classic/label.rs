//! `engine.label`: scores of classes as a label and a dictionary.

use super::{constant_keys, numbers, positions};
use crate::border;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.label", &[], build);

/// `engine.label(scores, classes, best)` → the class at position `best`, else the first of the highest score, as
/// scikit-learn's forests and linear models choose, and a dictionary of all scores. NaN is an error.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (scores, best) = (b.slot("scores")?, b.param_opt::<i64>("best")?);
    let classes = constant_keys(b, "classes")?;
    positions(&classes)?;
    b.run(move |f| {
        let scores = numbers(f, &[scores])?;
        if scores.len() != classes.len() || scores.is_empty() {
            return Err(OpError::shape(format!("{} scores for {} classes", scores.len(), classes.len())));
        }
        if let Some(i) = scores.iter().position(|x| x.is_nan()) {
            return Err(OpError::data(format!("the score of {:?} is not a number", classes[i])));
        }
        let best = match &best {
            Some(best) => {
                let found = usize::try_from(*best.get(f)?).ok().filter(|&i| i < classes.len());
                found.ok_or_else(|| OpError::data("a class that there is not"))?
            }
            None => (0..scores.len()).fold(0, |b, i| if scores[i] > scores[b] { i } else { b }),
        };
        let label = border::key_value(classes[best].clone())?;
        let all: Vec<_> = classes.iter().cloned().zip(scores).collect();
        Ok(vec![label, border::dictionary(all)?])
    })
}
