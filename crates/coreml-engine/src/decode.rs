//! Decoding of packed little-endian elements of all types to arrays, floats and integers.

use candle_core::Device;
use coreml_format::bits;
use coreml_format::dtype::DataType;
use half::{bf16, f16};

use crate::array::{Array, storage_dtype};
use crate::budget::claim;
use crate::error::OpError;
use crate::shape::check_size;

/// Decodes packed little-endian elements to an array.
///
/// # Errors
/// If there are fewer bytes than the shape needs.
pub(crate) fn decode(bytes: &[u8], dtype: DataType, shape: &[usize], device: &Device) -> Result<Array, OpError> {
    let count = check_size(shape)?;
    let needed = dtype.packed_len(count).ok_or_else(|| OpError::data("a literal of strings has bytes"))?;
    let bytes = bytes
        .get(..needed)
        .ok_or_else(|| OpError::shape(format!("{dtype} {shape:?} needs {needed} bytes, found {}", bytes.len())))?;
    let width = storage_dtype(dtype).map_or(0, |d| d.size_in_bytes());
    claim(count.saturating_mul(width))?;
    match dtype {
        DataType::Bool => Array::from_bool(bytes.iter().map(|&b| u8::from(b != 0)).collect(), shape, device),
        d if d.is_float() => Array::from_f32(floats(bytes, dtype), shape, dtype, device),
        _ => Array::from_i64(ints(bytes, dtype, count), shape, dtype, device),
    }
}

/// Decodes elements of a float type to `f32`.
pub(crate) fn floats(bytes: &[u8], dtype: DataType) -> Vec<f32> {
    match dtype {
        DataType::F16 => words(bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        DataType::BF16 => words(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        DataType::F64 => words(bytes).map(|b| f64::from_le_bytes(b) as f32).collect(),
        DataType::F8E4M3FN => bytes.iter().map(|&b| fp8(b, 4, 7, true)).collect(),
        DataType::F8E5M2 => bytes.iter().map(|&b| fp8(b, 5, 15, false)).collect(),
        _ => words(bytes).map(f32::from_le_bytes).collect(),
    }
}

/// Decodes byte-aligned elements of any numeric type to `f32`.
pub(crate) fn floats_or_ints(bytes: &[u8], dtype: DataType) -> Vec<f32> {
    if dtype.is_float() {
        return floats(bytes, dtype);
    }
    let count = bytes.len() * 8 / dtype.bits().unwrap_or(8);
    ints(bytes, dtype, count).into_iter().map(|v| v as f32).collect()
}

/// Decodes elements of an integer type to `i64`; `uint64` values above `i64::MAX` wrap.
pub(crate) fn ints(bytes: &[u8], dtype: DataType, count: usize) -> Vec<i64> {
    match dtype {
        DataType::I8 => bytes.iter().map(|&b| i64::from(b as i8)).collect(),
        DataType::U8 => bytes.iter().map(|&b| i64::from(b)).collect(),
        DataType::I16 => words(bytes).map(|b| i64::from(i16::from_le_bytes(b))).collect(),
        DataType::U16 => words(bytes).map(|b| i64::from(u16::from_le_bytes(b))).collect(),
        DataType::I32 => words(bytes).map(|b| i64::from(i32::from_le_bytes(b))).collect(),
        DataType::U32 => words(bytes).map(|b| i64::from(u32::from_le_bytes(b))).collect(),
        DataType::I64 | DataType::U64 => words(bytes).map(i64::from_le_bytes).collect(),
        sub_byte => {
            let bits = sub_byte.bits().unwrap_or(8);
            let signed = sub_byte == DataType::I4;
            (0..count).map(|i| unpack(bytes, i, bits, signed)).collect()
        }
    }
}

/// Element `index` of a bit stream of `width`-bit elements, least significant bit first.
#[inline]
pub(crate) fn unpack(bytes: &[u8], index: usize, width: usize, signed: bool) -> i64 {
    let raw = i64::from(bits::unpack(width, bytes, index));
    if signed && raw >= 1 << (width - 1) { raw - (1 << width) } else { raw }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Decodes an 8-bit float with this many exponent bits; E4M3FN has no infinities and one NaN pattern (OCP 8-bit
/// floating point specification).
fn fp8(byte: u8, exponent_bits: u32, bias: i32, finite_only: bool) -> f32 {
    let mantissa_bits = 7 - exponent_bits;
    let sign = if byte & 0x80 != 0 { -1.0 } else { 1.0 };
    let exponent = i32::from((byte & 0x7f) >> mantissa_bits);
    let mantissa = f32::from(byte & ((1 << mantissa_bits) - 1)) / (1u32 << mantissa_bits) as f32;
    let top = exponent == (1 << exponent_bits) - 1;
    let magnitude = match (top, finite_only) {
        (true, true) if byte & 0x7f == 0x7f => f32::NAN,
        (true, false) if mantissa == 0.0 => f32::INFINITY,
        (true, false) => f32::NAN,
        _ if exponent == 0 => mantissa * 2f32.powi(1 - bias),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - bias),
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_byte_elements_straddle_bytes_and_keep_their_sign() {
        // 1, 2, 3, 63 in 6 bits: 000001 000010 000011 111111, least significant first.
        let packed = [0b1000_0001, 0b0011_0000, 0b1111_1100];
        assert_eq!(ints(&packed, DataType::U6, 4), [1, 2, 3, 63]);
        assert_eq!(ints(&[0x8f], DataType::I4, 2), [-1, -8]);
        assert_eq!(ints(&[], DataType::U3, 0), [] as [i64; 0]);
    }

    #[test]
    fn eight_bit_floats_follow_the_ocp_tables() {
        let e4m3 = floats(&[0x38, 0x7e, 0x7f, 0x01], DataType::F8E4M3FN);
        assert_eq!(&e4m3[..2], &[1.0, 448.0]);
        assert!(e4m3[2].is_nan());
        assert_eq!(e4m3[3], 2f32.powi(-9));
        assert_eq!(floats(&[0x3c, 0x7b, 0xfc], DataType::F8E5M2), [1.0, 57344.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn short_data_is_rejected() {
        assert!(decode(&[0; 7], DataType::F16, &[4], &Device::Cpu).is_err());
        assert!(decode(&[0; 8], DataType::F16, &[4], &Device::Cpu).is_ok());
    }
}
