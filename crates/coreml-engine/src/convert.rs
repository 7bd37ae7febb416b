//! Lossless conversion of input tensors to the declared types.
//!
//! | declared | accepted elements |
//! |---|---|
//! | fp16, fp32, fp64, bf16 | any number; rounded to the nearest `f32`, ties to even, infinite beyond its range |
//! | integers | whole numbers within the declared range |
//! | bool | 0 and 1 |
//! | fp8, strings | none |
//!
//! Input tensors may be of Candle's `U8`, `U32`, `I16`, `I32`, `I64`, `BF16`, `F16`, `F32` or `F64`. The smaller
//! formats (`F8E4M3`, `F6E2M3`, `F6E3M2`, `F4`, `F8E8M0`) are rejected by name: Candle does not convert some of them at
//! all, and its conversion of others never terminates.

use std::ops::RangeInclusive;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use coreml_format::dtype::DataType;
use coreml_values::number::Number;

use crate::array::storage_dtype;
use crate::layout::{self, is_taken};

/// A tensor that cannot be converted to the declared type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct Unfit {
    /// Values accepted by the declared type.
    pub expected: String,
    /// Offending element type or first offending value.
    pub found: String,
}

/// Range of an integer type or `bool`, for uint64 limited to that of `i64`; `None` for other types.
fn range(declared: DataType) -> Option<RangeInclusive<i64>> {
    let bits = declared.bits().unwrap_or(0) as u32;
    let top = |bits: u32| i64::MAX >> 63_u32.saturating_sub(bits);
    match declared {
        DataType::Bool => Some(0..=1),
        DataType::I4 | DataType::I8 | DataType::I16 | DataType::I32 | DataType::I64 => {
            Some(-top(bits - 1) - 1..=top(bits - 1))
        }
        DataType::U1
        | DataType::U2
        | DataType::U3
        | DataType::U4
        | DataType::U6
        | DataType::U8
        | DataType::U16
        | DataType::U32
        | DataType::U64 => Some(0..=top(bits)),
        DataType::F16
        | DataType::F32
        | DataType::F64
        | DataType::BF16
        | DataType::F8E4M3FN
        | DataType::F8E5M2
        | DataType::String => None,
    }
}

/// Evaluates a generic expression on the elements of a contiguous CPU tensor; `None` for unsupported types.
macro_rules! with_numbers {
    ($tensor:expr, $v:ident => $body:expr) => {{
        let (storage, layout) = $tensor.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cpu(storage), Some((start, end))) => match storage {
                CpuStorage::U8(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::U32(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::I16(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::I32(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::I64(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::BF16(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::F16(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::F32(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::F64(all) => all.get(start..end).map(|$v| $body),
                CpuStorage::F8E4M3(_)
                | CpuStorage::F6E2M3(_)
                | CpuStorage::F6E3M2(_)
                | CpuStorage::F4(_)
                | CpuStorage::F8E8M0(_) => None,
            },
            _ => None,
        }
    }};
}

/// Upper bound of the bytes allocated by [`to_declared`].
pub(crate) fn cost(tensor: &Tensor, declared: DataType) -> usize {
    let found = tensor.dtype();
    let Some(kept) = storage_dtype(declared) else { return 0 };
    if found == DType::F32 && kept == DType::F32 {
        return 0;
    }
    let rows = if tensor.is_contiguous() { 0 } else { found.size_in_bytes() };
    let values = if found == kept { 0 } else { kept.size_in_bytes() };
    tensor.elem_count().saturating_mul(rows + values)
}

/// Converts a CPU tensor to the declared type, in its representation between operations
/// ([`crate::array::storage_dtype`]). A tensor already in that representation is returned as is.
///
/// # Errors
/// [`Unfit`] naming the unsupported element type or the first value outside the declared type.
pub fn to_declared(tensor: &Tensor, declared: DataType) -> Result<Tensor, Unfit> {
    let unfit = |found: String| Unfit { expected: format!("{declared} values"), found };
    let (found, range) = (tensor.dtype(), range(declared));
    let unknown = || unfit(format!("elements of type {}", found.as_str()));
    let float = matches!(declared, DataType::F16 | DataType::F32 | DataType::F64 | DataType::BF16);
    if !is_taken(found) || (range.is_none() && !float) {
        return Err(unknown());
    }
    let candle = |e: candle_core::Error| unfit(format!("a tensor that can't be read ({e})"));
    let rows = || tensor.to_device(&Device::Cpu).and_then(|t| t.contiguous()).map_err(candle);
    let Some(range) = range else {
        return match found {
            DType::F32 => Ok(tensor.clone()),
            DType::F16 => layout::to_dtype(&rows()?, DType::F32).map_err(|e| unfit(e.to_string())),
            _ => {
                let rows = rows()?;
                let floats: Option<Vec<f32>> = with_numbers!(rows, v => v.iter().map(|x| x.single()).collect());
                Tensor::from_vec(floats.ok_or_else(unknown)?, tensor.dims(), &Device::Cpu).map_err(candle)
            }
        };
    };
    let rows = rows()?;
    if let Some(value) = with_numbers!(rows, v => first_outside(v, &range)).ok_or_else(unknown)? {
        return Err(unfit(format!("the value {value}")));
    }
    match (declared, found) {
        (DataType::Bool, DType::U8) => Ok(tensor.clone()),
        (DataType::Bool, _) => {
            let bytes: Option<Vec<u8>> =
                with_numbers!(rows, v => v.iter().map(|x| u8::from(x.whole() == Some(1))).collect());
            Tensor::from_vec(bytes.ok_or_else(unknown)?, tensor.dims(), &Device::Cpu).map_err(candle)
        }
        (_, DType::I64) => Ok(tensor.clone()),
        _ => {
            // All of them are whole, as checked above.
            let whole: Option<Vec<i64>> =
                with_numbers!(rows, v => v.iter().map(|x| x.whole().unwrap_or_default()).collect());
            Tensor::from_vec(whole.ok_or_else(unknown)?, tensor.dims(), &Device::Cpu).map_err(candle)
        }
    }
}

/// Text of the first number that is fractional or outside the range.
fn first_outside<T: Number>(numbers: &[T], range: &RangeInclusive<i64>) -> Option<String> {
    let fits = |x: &T| x.whole().is_some_and(|n| range.contains(&n));
    // No early exit, so that the comparison vectorises.
    let all = numbers.iter().fold(true, |all, x| all & fits(x));
    if all { None } else { numbers.iter().find(|x| !fits(x)).map(T::to_string) }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    const FLOATS: [DataType; 4] = [DataType::F16, DataType::F32, DataType::F64, DataType::BF16];

    fn tensor<T: candle_core::WithDType>(values: &[T]) -> Tensor {
        Tensor::new(values, &Device::Cpu).expect("a tensor")
    }

    fn integers(t: &Tensor, declared: DataType) -> Result<Vec<i64>, String> {
        let made = to_declared(t, declared).map_err(|e| e.to_string())?;
        Ok(made.flatten_all().and_then(|t| t.to_vec1()).expect("I64"))
    }

    fn floats(t: &Tensor, declared: DataType) -> Vec<f32> {
        to_declared(t, declared).map(|t| t.flatten_all().and_then(|t| t.to_vec1()).expect("F32")).expect("floats")
    }

    /// Limits of every integer type.
    const LIMITS: [(DataType, i64, i64); 14] = [
        (DataType::I4, -8, 7),
        (DataType::I8, -128, 127),
        (DataType::I16, -32_768, 32_767),
        (DataType::I32, -2_147_483_648, 2_147_483_647),
        (DataType::I64, i64::MIN, i64::MAX),
        (DataType::U1, 0, 1),
        (DataType::U2, 0, 3),
        (DataType::U3, 0, 7),
        (DataType::U4, 0, 15),
        (DataType::U6, 0, 63),
        (DataType::U8, 0, 255),
        (DataType::U16, 0, 65_535),
        (DataType::U32, 0, 4_294_967_295),
        (DataType::U64, 0, i64::MAX),
    ];

    #[test]
    fn integers_are_taken_within_the_declared_range() {
        for (declared, min, max) in LIMITS {
            assert_eq!(integers(&tensor(&[min, 0, max]), declared), Ok(vec![min, 0, max]), "{declared}");
            for outside in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
                let error = integers(&tensor(&[0, outside]), declared).expect_err("outside");
                assert_eq!(error, format!("expected {declared} values, found the value {outside}"));
                // The same number as a float, if exactly representable.
                if (outside as f64) as i64 == outside {
                    assert!(integers(&tensor(&[outside as f64]), declared).is_err(), "{declared}: {outside}");
                }
            }
            assert_eq!(integers(&tensor::<i64>(&[]), declared), Ok(vec![]));
        }
    }

    #[test]
    fn every_type_that_inputs_bring_keeps_its_values() {
        let (h, b) = (f16::from_f32, bf16::from_f32);
        let bring = [
            tensor(&[0_u8, 1, 7]),
            tensor(&[0_u32, 1, 7]),
            tensor(&[0_i16, 1, 7]),
            tensor(&[0_i32, 1, 7]),
            tensor(&[0_i64, 1, 7]),
            tensor(&[b(0.0), b(1.0), b(7.0)]),
            tensor(&[h(0.0), h(1.0), h(7.0)]),
            tensor(&[0_f32, 1.0, 7.0]),
            tensor(&[0_f64, 1.0, 7.0]),
        ];
        for t in bring {
            for (declared, _, max) in LIMITS {
                assert_eq!(integers(&t, declared).ok(), (max >= 7).then_some(vec![0, 1, 7]), "{declared} {t:?}");
            }
            for declared in FLOATS {
                assert_eq!(floats(&t, declared), [0.0, 1.0, 7.0], "{declared} {t:?}");
            }
            let two = t.narrow(0, 0, 2).expect("two of three");
            let made = to_declared(&two, DataType::Bool).expect("0 and 1");
            assert_eq!(made.to_vec1::<u8>().expect("U8"), [0, 1]);
            let error = to_declared(&t, DataType::Bool).expect_err("7");
            assert_eq!((error.expected.as_str(), error.found.as_str()), ("bool values", "the value 7"));
        }
    }

    #[test]
    fn floats_become_integers_only_where_they_are_whole() {
        assert_eq!(integers(&tensor(&[1.0, -2.0, -0.0]), DataType::I32), Ok(vec![1, -2, 0]));
        assert_eq!(integers(&tensor(&[-9_223_372_036_854_775_808.0]), DataType::I64), Ok(vec![i64::MIN]));
        for bad in [0.5, -1e-300, 9_223_372_036_854_775_808.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let error = integers(&tensor(&[1.0, bad]), DataType::I64).expect_err("no integer");
            assert!(error.ends_with(&format!("the value {bad}")), "{error}");
            assert!(to_declared(&tensor(&[bad]), DataType::Bool).is_err(), "{bad}");
        }
        assert!(integers(&tensor(&[f16::NAN]), DataType::U8).is_err());
        assert!(integers(&tensor(&[bf16::INFINITY]), DataType::U8).is_err());
    }

    #[test]
    fn wide_numbers_round_to_the_nearest_float() {
        // 2^24 + 1 is a tie and rounds to even; 2^25 + 3 rounds to the next float.
        assert_eq!(
            floats(&tensor(&[16_777_217_i64, 33_554_435, i64::MAX]), DataType::F32),
            [16_777_216.0, 33_554_436.0, 9_223_372_036_854_775_808.0]
        );
        assert_eq!(floats(&tensor(&[u32::MAX]), DataType::F32), [4_294_967_296.0]);
        assert_eq!(floats(&tensor(&[1e300, -1e300, 1e-300]), DataType::F16), [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
        assert!(floats(&tensor(&[f64::NAN]), DataType::F32)[0].is_nan());
        // All values of both 16-bit formats, from sign, exponent and fraction.
        let value = |bits: u16, exponent_bits: u32, bias: i32| {
            let fraction_bits = 15 - exponent_bits;
            let exponent = i32::from(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
            let fraction = f64::from(bits & ((1 << fraction_bits) - 1)) / f64::from(1 << fraction_bits);
            let magnitude = match exponent {
                0 => fraction * 2_f64.powi(1 - bias),
                e if e == (1 << exponent_bits) - 1 => {
                    if fraction == 0.0 {
                        f64::INFINITY
                    } else {
                        f64::NAN
                    }
                }
                e => (1.0 + fraction) * 2_f64.powi(e - bias),
            };
            (if bits >> 15 == 1 { -magnitude } else { magnitude }) as f32
        };
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let (halves, brains) = (floats(&tensor(&halves), DataType::F16), floats(&tensor(&brains), DataType::F32));
        for bits in 0..=u16::MAX {
            for (got, want) in
                [(halves[bits as usize], value(bits, 5, 15)), (brains[bits as usize], value(bits, 8, 127))]
            {
                assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:#x}: {got} {want}");
            }
        }
    }

    #[test]
    fn formats_below_sixteen_bits_are_refused_by_name() {
        let one = |dtype: DType| Tensor::from_raw_buffer(&[0x38], dtype, &[1], &Device::Cpu).expect("one byte");
        for dtype in [DType::F8E4M3, DType::F6E2M3, DType::F6E3M2, DType::F4, DType::F8E8M0] {
            let all = LIMITS.iter().map(|l| l.0).chain(FLOATS).chain([DataType::Bool]);
            for declared in all {
                let error = to_declared(&one(dtype), declared).expect_err("refused").to_string();
                assert_eq!(error, format!("expected {declared} values, found elements of type {}", dtype.as_str()));
            }
        }
        for declared in [DataType::F8E4M3FN, DataType::F8E5M2, DataType::String] {
            assert!(to_declared(&tensor(&[1_f32]), declared).is_err(), "{declared}");
        }
    }

    #[test]
    fn views_are_read_in_the_order_of_their_elements() {
        let t = tensor(&[0_i32, 1, 2, 3, 4, 5]).reshape((2, 3)).and_then(|t| t.t()).expect("a view");
        assert_eq!(integers(&t, DataType::I8), Ok(vec![0, 3, 1, 4, 2, 5]));
        assert_eq!(floats(&t, DataType::F32), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let part = tensor(&[9_i64, 1, 2, 900]).narrow(0, 1, 2).expect("a view");
        assert_eq!(integers(&part, DataType::I8), Ok(vec![1, 2]));
    }
}
