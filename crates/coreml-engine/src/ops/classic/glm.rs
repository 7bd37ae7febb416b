//! `engine.glm`: generalized linear models.

use super::{Declared, logistic, numbers, softmax};
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.glm", &[], build);

#[derive(Clone, Copy, PartialEq)]
enum Link {
    None,
    Logit,
    Probit,
}

#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Regression,
    Reference,
    OneVsRest,
}

/// `engine.glm(x…, weights, offset, link, encoding)` → a value for each row of the weights, or the probability of each class.
///
/// Two classes have one row, of the second. More have a row each and share the sum of their probabilities, or a row for all
/// but the first, whose score is 0, and the softmax.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slots("x")?, Declared::of(b, 0)?);
    let (weights, offset): (Vec<f64>, Vec<f64>) = (b.attr("weights")?, b.attr("offset")?);
    let link = b.required_choice("link", &[("none", Link::None), ("logit", Link::Logit), ("probit", Link::Probit)])?;
    let encoding = b.required_choice(
        "encoding",
        &[
            ("regression", Encoding::Regression),
            ("reference", Encoding::Reference),
            ("one_vs_rest", Encoding::OneVsRest),
        ],
    )?;
    let rows = offset.len();
    if rows == 0 || !weights.len().is_multiple_of(rows) {
        return Err(OpError::shape(format!("{} weights in {rows} rows", weights.len())));
    }
    let length = weights.len() / rows;
    if encoding != Encoding::Regression && (link == Link::None || (rows > 1 && link == Link::Probit)) {
        return Err(OpError::Unsupported("this link of a classifier of several rows".to_owned()));
    }
    b.run(move |f| {
        let x = numbers(f, &x)?;
        if x.len() != length {
            return Err(OpError::shape(format!("{} features for weights of {length}", x.len())));
        }
        budget::products(&[rows, length])?;
        budget::claim_of::<f64>(rows + 1)?;
        let mut scores = Vec::with_capacity(rows + 1);
        for (r, &offset) in offset.iter().enumerate() {
            let row = &weights[r * length..(r + 1) * length];
            scores.push(row.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>() + offset);
        }
        if encoding == Encoding::Reference && rows > 1 {
            scores.insert(0, 0.0);
            softmax(&mut scores);
        } else {
            scores.iter_mut().for_each(|x| {
                *x = match link {
                    Link::None => *x,
                    Link::Logit => logistic(*x),
                    Link::Probit => super::normal(*x),
                }
            });
            if encoding != Encoding::Regression && rows == 1 {
                scores.insert(0, 1.0 - scores[0]);
            } else if encoding == Encoding::OneVsRest {
                let sum: f64 = scores.iter().sum();
                scores.iter_mut().for_each(|x| *x /= sum);
            }
        }
        let length = scores.len();
        one(declared.value(scores, &[length])?)
    })
}
