//! Shape checks for features, and conversion of the framework's constraints.

use coreml_format::description::{ColorLayout, DimRange, FeatureDescription, FeatureType, ShapeConstraint};

use crate::pixels::channels;

/// A shape that a feature does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{feature}`: expected {expected}, found shape {found:?}")]
pub struct ShapeError {
    /// Input, output or state.
    pub feature: String,
    /// Description of the accepted shapes.
    pub expected: String,
    /// The given shape.
    pub found: Vec<usize>,
}

/// Checks a shape against a feature. A scalar is accepted as an array of one element, which is how Core ML describes a
/// program's scalars. Images are arrays `[1, channels, height, width]`, sequences one-dimensional arrays, numbers
/// arrays of one element. Other features accept any shape here.
///
/// # Errors
/// [`ShapeError`] with the accepted shapes.
pub fn check(feature: &FeatureDescription, found: &[usize]) -> Result<(), ShapeError> {
    let bad = |expected: String| Err(ShapeError { feature: feature.name.clone(), expected, found: found.to_vec() });
    let (shape, constraint) = match &feature.ty {
        FeatureType::MultiArray { shape, constraint, .. } => (shape, constraint),
        FeatureType::State { shape, .. } => (shape, &ShapeConstraint::Fixed),
        FeatureType::Image { layout, width, height, sizes } => {
            return image(*layout, [*height, *width], sizes, found).or_else(bad);
        }
        FeatureType::Sequence { .. } if found.len() != 1 => return bad("a sequence, of one dimension".to_owned()),
        FeatureType::Int64 | FeatureType::Double if found.iter().product::<usize>() != 1 => {
            return bad("one number".to_owned());
        }
        _ => return Ok(()),
    };
    match constraint {
        ShapeConstraint::Unspecified => Ok(()),
        ShapeConstraint::Fixed if shape == found || (found.is_empty() && shape == &[1]) => Ok(()),
        ShapeConstraint::Fixed => bad(format!("shape {shape:?}")),
        ShapeConstraint::Enumerated(all) if all.iter().any(|s| s == found) => Ok(()),
        ShapeConstraint::Enumerated(all) => bad(format!("one of the shapes {all:?}")),
        ShapeConstraint::Ranges(ranges) if fits(ranges, found) => Ok(()),
        ShapeConstraint::Ranges(ranges) => {
            let words: Vec<String> = ranges.iter().map(range_in_words).collect();
            bad(format!("a shape within [{}]", words.join(", ")))
        }
    }
}

/// Checks the shape of an image; the error is the expected shape.
fn image(layout: ColorLayout, default: [usize; 2], sizes: &ShapeConstraint, found: &[usize]) -> Result<(), String> {
    let channels = channels(layout);
    let fits = match found {
        [1, c, size @ ..] if *c == channels && size.len() == 2 => match sizes {
            ShapeConstraint::Unspecified => true,
            ShapeConstraint::Fixed => size == default,
            ShapeConstraint::Enumerated(all) => size == default || all.iter().any(|s| s == size),
            ShapeConstraint::Ranges(ranges) => fits(ranges, size),
        },
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let size = |words: String| format!("an image, shape [1, {channels}, {words}]");
    Err(match sizes {
        ShapeConstraint::Unspecified => size("height, width".to_owned()),
        ShapeConstraint::Fixed => size(format!("{}, {}", default[0], default[1])),
        ShapeConstraint::Enumerated(all) => {
            format!("{} of a size (height, width) in {all:?}", size("height, width".to_owned()))
        }
        ShapeConstraint::Ranges(ranges) => size(ranges.iter().map(range_in_words).collect::<Vec<_>>().join(", ")),
    })
}

fn fits(ranges: &[DimRange], shape: &[usize]) -> bool {
    ranges.len() == shape.len()
        && ranges.iter().zip(shape).all(|(r, &n)| n >= r.min && r.max.is_none_or(|max| n <= max))
}

fn range_in_words(range: &DimRange) -> String {
    match range.max {
        None => format!("{}..", range.min),
        Some(max) if max == range.min => max.to_string(),
        Some(max) => format!("{}..={max}", range.min),
    }
}

/// Content of an `MLMultiArrayConstraint`, as plain numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawConstraint {
    /// `MLMultiArrayShapeConstraintType`: 1 unspecified, 2 enumerated, 3 range.
    pub kind: isize,
    /// Default shape.
    pub shape: Vec<usize>,
    /// `enumeratedShapes`.
    pub enumerated: Vec<Vec<usize>>,
    /// `sizeRangeForDimension`: `(location, length)` of each `NSRange`, which contains the extents `location..location
    /// + length`. A length of zero, which would allow no extent, means "no limit".
    pub ranges: Vec<(usize, usize)>,
}

/// Extents from here on mean "no limit": Core ML's own arrays cannot be larger in one dimension.
const NO_LIMIT: usize = i32::MAX as usize;

impl RawConstraint {
    /// Converts the constraint. A single shape, or ranges of one extent each, become `Fixed`.
    pub fn resolve(&self) -> ShapeConstraint {
        match self.kind {
            2 if self.enumerated.iter().any(|s| *s != self.shape) => {
                ShapeConstraint::Enumerated(self.enumerated.clone())
            }
            3 if self.ranges.iter().any(|r| r.1 != 1) => {
                ShapeConstraint::Ranges(self.ranges.iter().map(|&r| range(r)).collect())
            }
            _ if self.shape.is_empty() => ShapeConstraint::Unspecified,
            _ => ShapeConstraint::Fixed,
        }
    }
}

/// Content of an `MLImageSizeConstraint`, as plain numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawImageSizes {
    /// `MLImageSizeConstraintType`: 0 unspecified, 2 enumerated, 3 range.
    pub kind: isize,
    /// `enumeratedImageSizes`, as `[height, width]`.
    pub enumerated: Vec<Vec<usize>>,
    /// `pixelsHighRange` and `pixelsWideRange`, in the form of [`RawConstraint::ranges`].
    pub ranges: [(usize, usize); 2],
}

impl RawImageSizes {
    /// Converts the sizes; an image with only its default size becomes `Fixed`.
    pub fn resolve(&self) -> ShapeConstraint {
        match self.kind {
            2 if self.enumerated.len() > 1 => ShapeConstraint::Enumerated(self.enumerated.clone()),
            3 if self.ranges.iter().any(|r| r.1 != 1) => ShapeConstraint::Ranges(self.ranges.map(range).to_vec()),
            _ => ShapeConstraint::Fixed,
        }
    }
}

fn range((location, length): (usize, usize)) -> DimRange {
    let last = length.checked_sub(1).map(|more| location.saturating_add(more));
    DimRange { min: location, max: last.filter(|&last| last < NO_LIMIT) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::dtype::DataType;
    use proptest::prelude::*;

    fn feature(shape: &[usize], constraint: ShapeConstraint) -> FeatureDescription {
        let ty = FeatureType::MultiArray { dtype: DataType::F32, shape: shape.to_vec(), constraint, default: None };
        FeatureDescription { name: "x".to_owned(), description: String::new(), ty, optional: false }
    }

    fn any_shape() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(0_usize..4, 0..4)
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        #[test]
        fn ranges_take_what_lies_within_every_one(
            limits in prop::collection::vec((0_usize..3, 0_usize..3, any::<bool>()), 0..4),
            shape in any_shape(),
        ) {
            let ranges: Vec<DimRange> = limits
                .iter()
                .map(|&(min, more, open)| DimRange { min, max: (!open).then_some(min + more) })
                .collect();
            // Reference: walk the dimensions and list the allowed extents.
            let mut want = shape.len() == ranges.len();
            for (d, n) in shape.iter().enumerate().take(ranges.len()) {
                let allowed: Vec<usize> = (0..100).filter(|e| {
                    *e >= limits[d].0 && (limits[d].2 || *e <= limits[d].0 + limits[d].1)
                }).collect();
                want &= allowed.contains(n);
            }
            prop_assert_eq!(check(&feature(&[1], ShapeConstraint::Ranges(ranges)), &shape).is_ok(), want);
        }

        #[test]
        fn listed_shapes_are_taken_and_no_others(
            listed in prop::collection::vec(any_shape(), 1..4),
            shape in any_shape(),
        ) {
            let want = listed.contains(&shape);
            prop_assert_eq!(check(&feature(&[1], ShapeConstraint::Enumerated(listed)), &shape).is_ok(), want);
        }

        #[test]
        fn framework_ranges_hold_location_to_location_plus_length(location in 0_usize..50, length in 1_usize..50) {
            let raw = RawConstraint { kind: 3, shape: vec![1, 1], enumerated: vec![], ranges: vec![(location, length), (1, 2)] };
            let x = feature(&[1, 1], raw.resolve());
            for n in 0..110 {
                prop_assert_eq!(check(&x, &[n, 1]).is_ok(), (location..location + length).contains(&n), "{}", n);
            }
        }
    }

    #[test]
    fn fixed_shapes_are_exact_but_for_scalars() {
        let fixed = |shape: &[usize], found: &[usize]| check(&feature(shape, ShapeConstraint::Fixed), found);
        assert!(fixed(&[1, 2], &[1, 2]).is_ok());
        assert!(fixed(&[1], &[]).is_ok());
        let error = fixed(&[1, 2], &[2, 1]).expect_err("another shape");
        assert_eq!(error.to_string(), "`x`: expected shape [1, 2], found shape [2, 1]");
        assert!(fixed(&[2], &[]).is_err());
        assert!(check(&feature(&[], ShapeConstraint::Unspecified), &[7, 0]).is_ok());
    }

    #[test]
    fn images_sequences_and_numbers_have_their_shapes() {
        let of = |ty: FeatureType| FeatureDescription { ty, ..feature(&[], ShapeConstraint::Unspecified) };
        let image = |layout, sizes| of(FeatureType::Image { layout, width: 4, height: 3, sizes });
        let color = image(ColorLayout::Bgr, ShapeConstraint::Fixed);
        assert!(check(&color, &[1, 3, 3, 4]).is_ok());
        for bad in [&[1, 3, 4, 3][..], &[1, 1, 3, 4], &[2, 3, 3, 4], &[3, 3, 4], &[], &[1, 3, 3, 4, 1]] {
            let error = check(&color, bad).expect_err("another shape").expected;
            assert!(error.starts_with("an image, shape [1, 3, "), "{error}");
        }
        let listed = image(ColorLayout::Grayscale, ShapeConstraint::Enumerated(vec![vec![3, 4], vec![6, 8]]));
        assert!(check(&listed, &[1, 1, 6, 8]).is_ok() && check(&listed, &[1, 1, 8, 6]).is_err());
        let raw = RawImageSizes { kind: 3, enumerated: vec![], ranges: [(2, 3), (4, usize::MAX)] };
        let ranges = image(ColorLayout::GrayscaleFloat16, raw.resolve());
        assert!(check(&ranges, &[1, 1, 4, 4000]).is_ok() && check(&ranges, &[1, 1, 4, 3]).is_err());
        let error = check(&ranges, &[1, 1, 5, 4]).expect_err("too high").expected;
        assert_eq!(error, "an image, shape [1, 1, 2..=4, 4..]");
        let fixed = RawImageSizes { kind: 3, enumerated: vec![], ranges: [(3, 1), (4, 1)] };
        assert_eq!(fixed.resolve(), ShapeConstraint::Fixed);
        assert_eq!(
            RawImageSizes { kind: 2, enumerated: vec![vec![3, 4]], ..fixed.clone() }.resolve(),
            ShapeConstraint::Fixed
        );
        assert_eq!(RawImageSizes::default().resolve(), ShapeConstraint::Fixed);

        let ids = of(FeatureType::Sequence { ints: true });
        assert!(check(&ids, &[7]).is_ok() && check(&ids, &[0]).is_ok() && check(&ids, &[1, 7]).is_err());
        let number = of(FeatureType::Int64);
        assert!(check(&number, &[]).is_ok() && check(&number, &[1, 1]).is_ok() && check(&number, &[2]).is_err());
    }

    #[test]
    fn errors_say_which_shapes_fit() {
        let ranges = vec![
            DimRange { min: 1, max: Some(1) },
            DimRange { min: 2, max: None },
            DimRange { min: 1, max: Some(512) },
        ];
        let error = check(&feature(&[], ShapeConstraint::Ranges(ranges)), &[1, 1, 1]).expect_err("too short");
        assert_eq!(error.expected, "a shape within [1, 2.., 1..=512]");
    }

    #[test]
    fn framework_constraints_are_told_apart() {
        let raw = |kind, enumerated: &[&[usize]], ranges: &[(usize, usize)]| RawConstraint {
            kind,
            shape: vec![1, 8],
            enumerated: enumerated.iter().map(|s| s.to_vec()).collect(),
            ranges: ranges.to_vec(),
        };
        assert_eq!(raw(1, &[], &[]).resolve(), ShapeConstraint::Fixed);
        assert_eq!(raw(2, &[&[1, 8]], &[]).resolve(), ShapeConstraint::Fixed);
        assert!(matches!(raw(2, &[&[1, 8], &[1, 9]], &[]).resolve(), ShapeConstraint::Enumerated(s) if s.len() == 2));
        assert_eq!(raw(3, &[], &[(1, 1), (8, 1)]).resolve(), ShapeConstraint::Fixed);
        assert_eq!(RawConstraint::default().resolve(), ShapeConstraint::Unspecified);
        for no_limit in [usize::MAX, i32::MAX as usize, isize::MAX as usize, 0] {
            let open = raw(3, &[], &[(1, 1), (2, no_limit)]).resolve();
            let want = vec![DimRange { min: 1, max: Some(1) }, DimRange { min: 2, max: None }];
            assert_eq!(open, ShapeConstraint::Ranges(want), "{no_limit}");
        }
    }
}
