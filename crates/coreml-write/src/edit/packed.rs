//! Packed elements as numbers, and numbers as packed elements.

use coreml_format::bits;
use coreml_format::dtype::DataType;
use half::{bf16, f16};

/// Elements as numbers; `None` for types that are no numbers. `bytes` has at least `count` elements.
pub fn numbers(dtype: DataType, bytes: &[u8], count: usize) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], count: usize, f: impl Fn([u8; N]) -> f32) -> Option<Vec<f32>> {
        Some(bytes.as_chunks::<N>().0.get(..count)?.iter().map(|&c| f(c)).collect())
    }
    match dtype {
        DataType::F32 => each(bytes, count, f32::from_le_bytes),
        DataType::F16 => each(bytes, count, |c| f16::from_le_bytes(c).to_f32()),
        DataType::BF16 => each(bytes, count, |c| bf16::from_le_bytes(c).to_f32()),
        DataType::F64 => each(bytes, count, |c| f64::from_le_bytes(c) as f32),
        DataType::I8 => each::<1>(bytes, count, |c| f32::from(i8::from_le_bytes(c))),
        DataType::U8 | DataType::Bool => each::<1>(bytes, count, |c| f32::from(c[0])),
        DataType::I16 => each(bytes, count, |c| f32::from(i16::from_le_bytes(c))),
        DataType::U16 => each(bytes, count, |c| f32::from(u16::from_le_bytes(c))),
        DataType::I32 => each(bytes, count, |c| i32::from_le_bytes(c) as f32),
        DataType::U32 => each(bytes, count, |c| u32::from_le_bytes(c) as f32),
        DataType::I4 => {
            (bytes.len() >= dtype.packed_len(count)?).then_some(())?;
            // Shifted up and back, the nibble keeps its sign.
            Some((0..count).map(|i| f32::from((bits::unpack(4, bytes, i) << 4) as i8 >> 4)).collect())
        }
        DataType::U1 | DataType::U2 | DataType::U3 | DataType::U4 | DataType::U6 => {
            (bytes.len() >= dtype.packed_len(count)?).then_some(())?;
            let width = dtype.bits()?;
            Some((0..count).map(|i| f32::from(bits::unpack(width, bytes, i))).collect())
        }
        _ => None,
    }
}

/// Unsigned indices of up to eight bits, unpacked.
pub fn indices(width: usize, bytes: &[u8], count: usize) -> Option<Vec<u8>> {
    let needed = count.checked_mul(width)?.div_ceil(8);
    (1..=8).contains(&width).then_some(())?;
    (bytes.len() >= needed).then(|| (0..count).map(|i| bits::unpack(width, bytes, i)).collect())
}

/// Numbers of up to eight bits as a bit stream, least significant bit first.
pub fn pack_bits(width: usize, values: &[u8]) -> Vec<u8> {
    if width == 8 {
        return values.to_vec();
    }
    bits::pack(width, values.iter().copied())
}

/// Numbers as packed floats; `None` for other types.
pub fn floats(dtype: DataType, values: &[f32]) -> Option<Vec<u8>> {
    Some(match dtype {
        DataType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        DataType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_streams_read_back() {
        for width in 1..=8 {
            let values: Vec<u8> = (0..37u32).map(|i| (i * 29 % (1 << width)) as u8).collect();
            let packed = pack_bits(width, &values);
            assert_eq!(packed.len(), (37 * width).div_ceil(8));
            assert_eq!(indices(width, &packed, 37), Some(values), "{width}");
            assert_eq!(indices(width, &packed, 37 * 9), None);
        }
        // Three 3-bit numbers 5, 3, 6 from the least significant bit: 0b110_011_101.
        assert_eq!(pack_bits(3, &[5, 3, 6]), [0b1001_1101, 0b1]);
        assert_eq!(pack_bits(4, &[]), [0u8; 0]);
    }

    #[test]
    fn signed_nibbles_and_short_buffers() {
        assert_eq!(numbers(DataType::I4, &[0x8f], 2), Some(vec![-1.0, -8.0]));
        assert_eq!(numbers(DataType::F16, &[0, 0x3c, 0], 2), None);
        assert_eq!(numbers(DataType::String, &[0], 1), None);
    }
}
