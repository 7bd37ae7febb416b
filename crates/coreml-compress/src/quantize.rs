//! Linear quantization: scale · (q − offset).

/// Quantized numbers of a row or block.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Integers.
    pub values: Vec<i16>,
    /// Scale, as a number of fp16 if `half` was set.
    pub scale: f32,
    /// Integer that stands for zero.
    pub offset: i16,
}

/// Quantizes numbers to integers of `bits` bits: signed around 0 if `symmetric` (without the lowest one), else unsigned
/// from the smallest number to the largest one, with 0 among them. `half` rounds the scale to fp16 first, as it is
/// stored.
///
/// ```
/// let q = coreml_compress::quantize::quantize(&[-1.0, 0.0, 0.5], 8, true, false);
/// assert_eq!((q.values, q.offset), (vec![-127, 0, 64], 0));
/// ```
pub fn quantize(numbers: &[f32], bits: usize, symmetric: bool, half: bool) -> Quantized {
    let round = |v: f32| if half { half::f16::from_f32(v).to_f32() } else { v };
    let (low, high) = numbers.iter().fold((0f32, 0f32), |(l, h), &v| (l.min(v), h.max(v)));
    let top = ((1u32 << bits) - 1) as f32;
    if symmetric {
        let most = ((1u32 << (bits - 1)) - 1) as f32;
        let mut scale = round((high.max(-low)) / most);
        if scale == 0.0 {
            scale = 1.0;
        }
        let values = numbers.iter().map(|v| (v / scale).round().clamp(-most, most) as i16).collect();
        return Quantized { values, scale, offset: 0 };
    }
    let mut scale = round((high - low) / top);
    if scale == 0.0 {
        scale = 1.0;
    }
    let offset = (-low / scale).round().clamp(0.0, top);
    let values = numbers.iter().map(|v| (v / scale + offset).round().clamp(0.0, top) as i16).collect();
    Quantized { values, scale, offset: offset as i16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_at_most_half_a_step() {
        let numbers: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin() * 3.0 - 0.5).collect();
        for (bits, symmetric) in [(8, true), (8, false), (4, true), (4, false)] {
            for half in [false, true] {
                let q = quantize(&numbers, bits, symmetric, half);
                let worst = numbers
                    .iter()
                    .zip(&q.values)
                    .map(|(v, &i)| (v - f32::from(i - q.offset) * q.scale).abs())
                    .fold(0.0, f32::max);
                // Rounding the scale to fp16 moves the ends by at most 2⁻¹¹ of the range.
                assert!(
                    worst <= q.scale * (0.5 + if half { 0.13 } else { 1e-3 } + 0.5 * f32::from(!symmetric as u8)),
                    "{bits} {symmetric} {half}: {worst} of {}",
                    q.scale
                );
            }
        }
        assert_eq!(quantize(&[0.0; 3], 4, true, true).values, [0; 3]);
        assert_eq!(quantize(&[], 4, false, true).values, [0i16; 0]);
        // Zero stays zero.
        let q = quantize(&[5.0, 6.0, 0.0], 8, false, false);
        assert_eq!(q.values[2], q.offset);
    }
}
