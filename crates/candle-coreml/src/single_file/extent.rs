//! [`Extent`]: the sizes that one dimension of an input takes.

use coreml_format::description::{FeatureDescription, FeatureType, ShapeConstraint};
use coreml_format::dtype::DataType;

/// Sizes of a dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extent {
    Fixed(usize),
    /// Ascending.
    Listed(Vec<usize>),
    Range {
        min: usize,
        max: Option<usize>,
    },
}

impl Extent {
    /// The largest size; none where there is no limit.
    pub(super) fn most(&self) -> Option<usize> {
        match self {
            Self::Fixed(n) => Some(*n),
            Self::Listed(all) => all.last().copied(),
            Self::Range { max, .. } => *max,
        }
    }

    pub(super) fn least(&self) -> usize {
        match self {
            Self::Fixed(n) => *n,
            Self::Listed(all) => all.first().copied().unwrap_or(0),
            Self::Range { min, .. } => *min,
        }
    }

    pub(super) fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// The smallest size that holds `count`.
    pub(super) fn above(&self, count: usize) -> Option<usize> {
        match self {
            Self::Fixed(n) => Some(*n).filter(|&n| n >= count),
            Self::Listed(all) => all.iter().copied().find(|&n| n >= count),
            Self::Range { min, max } => Some(count.max(*min)).filter(|&n| max.is_none_or(|max| n <= max)),
        }
    }

    /// The largest size that `count` fills.
    pub(super) fn below(&self, count: usize) -> Option<usize> {
        match self {
            Self::Fixed(n) => Some(*n).filter(|&n| n <= count),
            Self::Listed(all) => all.iter().copied().rfind(|&n| n <= count),
            Self::Range { min, max } => Some(max.map_or(count, |max| max.min(count))).filter(|n| n >= min),
        }
    }

    /// Whether a size is one of them.
    pub(super) fn has(&self, count: usize) -> bool {
        self.above(count) == Some(count)
    }
}

/// Element type and dimensions of an array feature; why not, if it is none, or one of unknown shape.
pub(super) fn array(feature: &FeatureDescription) -> Result<(DataType, Vec<Extent>), String> {
    let FeatureType::MultiArray { dtype, shape, constraint, .. } = &feature.ty else {
        return Err(format!("`{}` is {}, not an array", feature.name, feature.ty.in_words()));
    };
    let extents = match constraint {
        ShapeConstraint::Ranges(ranges) => {
            let one = |r: &coreml_format::description::DimRange| match r.max {
                Some(max) if max == r.min => Extent::Fixed(max),
                max => Extent::Range { min: r.min, max },
            };
            ranges.iter().map(one).collect()
        }
        ShapeConstraint::Enumerated(all) => {
            let rank = all.first().map_or(0, Vec::len);
            if all.iter().any(|shape| shape.len() != rank) {
                return Err(format!("`{}` takes shapes of several ranks", feature.name));
            }
            let column = |i: usize| {
                let mut sizes: Vec<usize> = all.iter().map(|shape| shape[i]).collect();
                sizes.sort_unstable();
                sizes.dedup();
                if sizes.len() == 1 { Extent::Fixed(sizes[0]) } else { Extent::Listed(sizes) }
            };
            (0..rank).map(column).collect()
        }
        ShapeConstraint::Fixed | ShapeConstraint::Unspecified => shape.iter().map(|&n| Extent::Fixed(n)).collect(),
    };
    let extents: Vec<Extent> = extents;
    if extents.is_empty() {
        return Err(format!("nothing says what shape `{}` has", feature.name));
    }
    Ok((*dtype, extents))
}

#[cfg(test)]
mod tests {
    use super::Extent;

    #[test]
    fn sizes_above_and_below_a_count() {
        let range = |min, max| Extent::Range { min, max };
        for (extent, count, above, below) in [
            (Extent::Fixed(4), 3, Some(4), None),
            (Extent::Fixed(4), 4, Some(4), Some(4)),
            (Extent::Fixed(4), 5, None, Some(4)),
            (Extent::Listed(vec![1, 8]), 5, Some(8), Some(1)),
            (Extent::Listed(vec![1, 8]), 9, None, Some(8)),
            (range(2, Some(6)), 1, Some(2), None),
            (range(2, Some(6)), 7, None, Some(6)),
            (range(1, None), 7, Some(7), Some(7)),
        ] {
            assert_eq!((extent.above(count), extent.below(count)), (above, below), "{extent:?} {count}");
            assert_eq!(extent.has(count), above == Some(count));
        }
    }
}
