//! Inputs that may be left out.

use coreml_format::description::{FeatureDescription, FeatureType};
use coreml_format::dtype::DataType;

/// What an optional input is that is not given, where it has a default.
#[derive(Debug, Clone, PartialEq)]
pub enum Absent {
    /// A number: NaN, which is how classic models say "missing".
    Number(f64),
    /// An array of one value, 0 if the description has none.
    Array {
        /// `F64` for arrays of doubles, else `F32`.
        dtype: DataType,
        /// Its default extents.
        shape: Vec<usize>,
        /// Every element.
        value: f64,
    },
}

/// What an input is that is not given; none if it is not optional, if values of its type have no default, or if its array
/// is larger than memory can be. Nothing is allocated: whoever fills the array counts its bytes first.
pub fn absent(feature: &FeatureDescription) -> Option<Absent> {
    match &feature.ty {
        _ if !feature.optional => None,
        FeatureType::Double => Some(Absent::Number(f64::NAN)),
        FeatureType::MultiArray { shape, default, dtype, .. } => {
            let bytes = shape.iter().try_fold(size_of::<f64>(), |n, &d| n.checked_mul(d));
            bytes.filter(|&n| isize::try_from(n).is_ok())?;
            let dtype = if *dtype == DataType::F64 { DataType::F64 } else { DataType::F32 };
            Some(Absent::Array { dtype, shape: shape.clone(), value: default.unwrap_or(0.0) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use coreml_format::description::ShapeConstraint;

    use super::*;

    fn array(dtype: DataType, shape: &[usize], default: Option<f64>) -> FeatureDescription {
        let ty = FeatureType::MultiArray { dtype, shape: shape.to_vec(), constraint: ShapeConstraint::Fixed, default };
        FeatureDescription { name: "x".to_owned(), description: String::new(), ty, optional: true }
    }

    #[test]
    fn arrays_have_their_default_and_nothing_is_larger_than_memory() {
        let found = absent(&array(DataType::F64, &[2, 3], Some(0.1)));
        assert_eq!(found, Some(Absent::Array { dtype: DataType::F64, shape: vec![2, 3], value: 0.1 }));
        let found = absent(&array(DataType::I32, &[2], None));
        assert_eq!(found, Some(Absent::Array { dtype: DataType::F32, shape: vec![2], value: 0.0 }));
        assert_eq!(absent(&array(DataType::F32, &[1 << 40, 1 << 40], None)), None);
        assert_eq!(absent(&FeatureDescription { optional: false, ..array(DataType::F32, &[2], None) }), None);
    }
}
