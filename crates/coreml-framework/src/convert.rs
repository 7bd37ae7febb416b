//! Value-preserving conversion between numeric types.
//!
//! Narrowed integers must fit; floats converted to integers must be integral and fit. Narrowed floats round to nearest,
//! ties to even, and overflow to infinity (IEEE 754); integers converted to floats round likewise.

use coreml_values::number::Number;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::array::{ArrayType, Buffer, Slice};

/// A value out of range of the declared type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{feature}`: the value {value} at element {index} does not fit {}", expected.data_type())]
pub struct ConvertError {
    /// Input or state.
    pub feature: String,
    /// The first value that does not fit.
    pub value: String,
    /// Its row-major index.
    pub index: usize,
    /// The declared type.
    pub expected: ArrayType,
}

/// Calls a generic function with the elements of a slice of any type.
macro_rules! with_elements {
    ($slice:expr, $v:ident => $body:expr) => {
        match $slice {
            Slice::U8($v) => $body,
            Slice::U32($v) => $body,
            Slice::I8($v) => $body,
            Slice::I16($v) => $body,
            Slice::I32($v) => $body,
            Slice::I64($v) => $body,
            Slice::BF16($v) => $body,
            Slice::F16($v) => $body,
            Slice::F32($v) => $body,
            Slice::F64($v) => $body,
        }
    };
}

/// Converts elements to a multi-array type.
///
/// # Errors
/// [`ConvertError`] for the first value that the type cannot represent.
pub fn to_array(feature: &str, source: Slice<'_>, ty: ArrayType) -> Result<Buffer, ConvertError> {
    Ok(match (ty, source) {
        (ArrayType::F16, Slice::F16(v)) => Buffer::F16(v.to_vec()),
        (ArrayType::F16, Slice::F32(v)) => {
            let mut out = vec![f16::ZERO; v.len()];
            out.convert_from_f32_slice(v);
            Buffer::F16(out)
        }
        (ArrayType::F32, Slice::F16(v)) => {
            let mut out = vec![0.0; v.len()];
            v.convert_to_f32_slice(&mut out);
            Buffer::F32(out)
        }
        (ArrayType::F16, any) => {
            Buffer::F16(with_elements!(any, v => v.iter().map(|x| f16::from_f64(x.double())).collect()))
        }
        (ArrayType::F32, any) => Buffer::F32(with_elements!(any, v => v.iter().map(|x| x.single()).collect())),
        (ArrayType::F64, any) => Buffer::F64(with_elements!(any, v => v.iter().map(|x| x.double()).collect())),
        (ArrayType::I8, any) => Buffer::I8(with_elements!(any, v => whole(feature, v, ty)?)),
        (ArrayType::I32, any) => Buffer::I32(with_elements!(any, v => whole(feature, v, ty)?)),
    })
}

fn whole<S: Number, T: TryFrom<i64>>(feature: &str, source: &[S], expected: ArrayType) -> Result<Vec<T>, ConvertError> {
    let convert = |(index, x): (usize, &S)| {
        x.whole().and_then(|n| T::try_from(n).ok()).ok_or_else(|| ConvertError {
            feature: feature.to_owned(),
            value: x.to_string(),
            index,
            expected,
        })
    };
    source.iter().enumerate().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    /// Reference for integers: through `i128`, which holds all of them.
    fn narrow(values: &[i128], min: i128, max: i128) -> Result<Vec<i128>, usize> {
        match values.iter().position(|v| !(min..=max).contains(v)) {
            Some(index) => Err(index),
            None => Ok(values.to_vec()),
        }
    }

    fn check_integers(slice: Slice<'_>, wide: &[i128]) -> Result<(), TestCaseError> {
        let expected = [(ArrayType::I8, -128, 127), (ArrayType::I32, i128::from(i32::MIN), i128::from(i32::MAX))];
        for (ty, min, max) in expected {
            let got = to_array("x", slice, ty).map(|b| match b {
                Buffer::I8(v) => v.into_iter().map(i128::from).collect::<Vec<_>>(),
                Buffer::I32(v) => v.into_iter().map(i128::from).collect(),
                other => panic!("{other:?}"),
            });
            match narrow(wide, min, max) {
                Ok(want) => prop_assert_eq!(got.ok(), Some(want)),
                Err(index) => {
                    let error = got.expect_err("a value does not fit");
                    prop_assert_eq!(error.feature, "x");
                    prop_assert_eq!((error.index, error.value), (index, wide[index].to_string()));
                }
            }
        }
        Ok(())
    }

    /// Half of the values are near the limits of some type.
    fn near_limits() -> impl Strategy<Value = i64> {
        let edges = prop::sample::select(vec![0, 127, 128, -128, -129, 255, 1 << 31, -(1 << 31), i64::MAX, i64::MIN]);
        prop_oneof![any::<i64>(), edges.prop_flat_map(|e| (-2_i64..=2).prop_map(move |d| e.saturating_add(d)))]
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        #[test]
        fn integers_narrow_only_where_they_fit(values in prop::collection::vec(near_limits(), 0..20)) {
            let wide = |v: &[i64]| v.iter().map(|&x| i128::from(x)).collect::<Vec<_>>();
            check_integers(Slice::I64(&values), &wide(&values))?;
            let v: Vec<u32> = values.iter().map(|&x| x as u32).collect();
            check_integers(Slice::U32(&v), &v.iter().map(|&x| i128::from(x)).collect::<Vec<_>>())?;
            let v: Vec<u8> = values.iter().map(|&x| x as u8).collect();
            check_integers(Slice::U8(&v), &v.iter().map(|&x| i128::from(x)).collect::<Vec<_>>())?;
            let v: Vec<i16> = values.iter().map(|&x| x as i16).collect();
            check_integers(Slice::I16(&v), &v.iter().map(|&x| i128::from(x)).collect::<Vec<_>>())?;
        }

        #[test]
        fn floats_round_as_single_conversions_do(values in prop::collection::vec(any::<f32>(), 0..40)) {
            let Ok(Buffer::F16(half)) = to_array("x", Slice::F32(&values), ArrayType::F16) else { panic!() };
            for (got, &x) in half.iter().zip(&values) {
                let want = f16::from_f32(x);
                prop_assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{x}");
            }
            let Ok(Buffer::F32(back)) = to_array("x", Slice::F16(&half), ArrayType::F32) else { panic!() };
            for (got, h) in back.iter().zip(&half) {
                prop_assert!(got.to_bits() == h.to_f32().to_bits() || (got.is_nan() && h.is_nan()));
            }
            let Ok(Buffer::F64(double)) = to_array("x", Slice::F32(&values), ArrayType::F64) else { panic!() };
            let Ok(Buffer::F32(single)) = to_array("x", Slice::F64(&double), ArrayType::F32) else { panic!() };
            for (got, x) in single.iter().zip(&values) {
                prop_assert!(got.to_bits() == x.to_bits() || (got.is_nan() && x.is_nan()), "F32 → F64 → F32");
            }
        }

        #[test]
        fn integers_become_the_nearest_float(values in prop::collection::vec(any::<i64>(), 0..20)) {
            let Ok(Buffer::F32(single)) = to_array("x", Slice::I64(&values), ArrayType::F32) else { panic!() };
            prop_assert_eq!(single, values.iter().map(|&x| x as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn floats_become_integers_only_where_they_are_whole_and_fit() {
        let convert = |x: f64, ty| to_array("ids", Slice::F64(&[1.0, x]), ty);
        assert_eq!(convert(-2.0, ArrayType::I32), Ok(Buffer::I32(vec![1, -2])));
        assert_eq!(convert(-128.0, ArrayType::I8), Ok(Buffer::I8(vec![1, -128])));
        for bad in [0.5, 3e9, -128.5, 9_223_372_036_854_775_808.0, f64::INFINITY, f64::NAN] {
            let error = convert(bad, ArrayType::I32).expect_err("does not fit");
            assert_eq!((error.index, error.expected), (1, ArrayType::I32));
            assert!(error.to_string().contains("`ids`") && error.to_string().contains("int32"), "{error}");
        }
        assert!(convert(128.0, ArrayType::I8).is_err());
        let half = [bf16::from_f32(7.0)];
        assert_eq!(to_array("x", Slice::BF16(&half), ArrayType::I8), Ok(Buffer::I8(vec![7])));
        assert_eq!(to_array("x", Slice::I64(&[]), ArrayType::I8), Ok(Buffer::I8(vec![])));
    }
}
