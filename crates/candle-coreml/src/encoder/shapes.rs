//! Batch sizes and lengths that an encoder accepts.

use coreml_format::description::{DimRange, FeatureType, ShapeConstraint};

use super::INPUTS;
use crate::error::{Error, Result};
use crate::model::CoreMLModel;

/// Shapes `[texts, tokens]` of the ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shapes {
    /// Any shape.
    Any,
    /// One of these shapes.
    Listed(Vec<[usize; 2]>),
    /// Within these ranges.
    Within([DimRange; 2]),
}

impl Shapes {
    /// The shapes that a model declares.
    pub(super) fn of(model: &CoreMLModel) -> Result<Self> {
        let bad = |found: String| Error::Components {
            path: model.path().to_owned(),
            message: format!("input `{}`: expected a shape [texts, tokens], found {found}", INPUTS[0]),
        };
        let pair = |shape: &Vec<usize>| <[usize; 2]>::try_from(shape.as_slice()).map_err(|_| bad(format!("{shape:?}")));
        match model.function_description().input(INPUTS[0]).map(|f| &f.ty) {
            None => Ok(Self::Any),
            Some(FeatureType::MultiArray { shape, constraint, .. }) => match constraint {
                ShapeConstraint::Unspecified => Ok(Self::Any),
                ShapeConstraint::Fixed => Ok(Self::Listed(vec![pair(shape)?])),
                ShapeConstraint::Enumerated(all) => Ok(Self::Listed(all.iter().map(pair).collect::<Result<_>>()?)),
                ShapeConstraint::Ranges(ranges) => match ranges.as_slice() {
                    &[texts, tokens] => Ok(Self::Within([texts, tokens])),
                    other => Err(bad(format!("{} dimensions", other.len()))),
                },
            },
            Some(other) => Err(bad(format!("{other:?}"))),
        }
    }

    /// Maximum number of tokens per text.
    pub(super) fn longest(&self) -> Option<usize> {
        match self {
            Self::Any => None,
            Self::Listed(all) => all.iter().map(|s| s[1]).max(),
            Self::Within([_, tokens]) => tokens.max,
        }
    }

    /// The shape for `rows` texts of up to `longest` tokens. It may hold fewer texts; the rest then needs another
    /// prediction. `None` if the model accepts no text of this length.
    pub(super) fn fit(&self, rows: usize, longest: usize) -> Option<[usize; 2]> {
        let fitting = match self {
            Self::Any => Some([rows, longest]),
            // The shortest that holds the tokens; among these the smallest that holds the texts, else the largest.
            Self::Listed(all) => all.iter().copied().filter(|s| s[1] >= longest).min_by_key(|s| {
                let missing = rows.saturating_sub(s[0]);
                (s[1], missing, s[0])
            }),
            Self::Within([texts, tokens]) => {
                let clamp = |n: usize, r: &DimRange| n.max(r.min).min(r.max.unwrap_or(usize::MAX));
                let shape = [clamp(rows, texts), clamp(longest, tokens)];
                (shape[1] >= longest).then_some(shape)
            }
        };
        fitting.filter(|s| s[0] > 0 && s[1] > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_find_the_smallest_shape_that_holds_them() {
        let listed = Shapes::Listed(vec![[1, 128], [1, 32], [8, 32], [2, 32]]);
        assert_eq!(listed.longest(), Some(128));
        for (rows, longest, expected) in [
            (1, 5, Some([1, 32])),
            (2, 32, Some([2, 32])),
            (3, 32, Some([8, 32])),
            (20, 32, Some([8, 32])),
            (20, 33, Some([1, 128])),
            (1, 129, None),
        ] {
            assert_eq!(listed.fit(rows, longest), expected, "{rows} {longest}");
        }
        let range = |min, max| DimRange { min, max };
        let within = Shapes::Within([range(1, Some(4)), range(8, None)]);
        assert_eq!(within.fit(9, 3), Some([4, 8]));
        assert_eq!(within.fit(2, 1000), Some([2, 1000]));
        assert_eq!(Shapes::Within([range(2, None), range(1, Some(6))]).fit(1, 7), None);
        assert_eq!(Shapes::Any.fit(3, 7), Some([3, 7]));
        assert_eq!(Shapes::Listed(vec![[0, 4]]).fit(1, 1), None, "a shape without texts");
    }
}
