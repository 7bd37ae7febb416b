//! Weights of layers as floats.

use coreml_format::model_types::neural_network::weights::{Quantization, WeightParams, floats};

use super::build::{Blob, Network};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;
type Params = Option<Box<WeightParams>>;

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Value `i` of `bits` bits, packed from the most significant bit.
fn packed(bytes: &[u8], bits: usize, i: usize) -> usize {
    (0..bits).fold(0, |v, k| {
        let at = i * bits + k;
        v << 1 | usize::from(bytes[at / 8] >> (7 - at % 8) & 1)
    })
}

impl Network {
    /// The product of sizes that the file states.
    pub(super) fn count(&self, sizes: &[u64]) -> Lowered<usize> {
        let count = sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).and_then(|n| usize::try_from(n).ok());
        count.map_or_else(|| self.refuse(format!("weights of shape {sizes:?}")), Ok)
    }

    /// `count` weights, decoded; `rows` of them may have a scale each.
    pub(super) fn weights(&self, what: &str, params: &Params, count: usize, rows: usize) -> Lowered<Vec<f32>> {
        let Some(p) = params else { return self.refuse(format!("it lacks `{what}`")) };
        let unfit = |found: usize| self.refuse(format!("`{what}` has {found} values instead of {count}"));
        let plain = floats(&p.float_value).or_else(|e| self.refuse(format!("`{what}`: {e}")))?;
        if !p.int8_raw_value.is_empty() {
            return self.refuse(format!("`{what}` is of int8 for inputs that are quantized in a prediction"));
        }
        if !plain.is_empty() {
            return if plain.len() / 4 == count { Ok(f32s(&plain)) } else { unfit(plain.len() / 4) };
        }
        if !p.float16_value.is_empty() {
            let halves = p.float16_value.len() / 2;
            if halves != count || p.float16_value.len() % 2 != 0 {
                return unfit(halves);
            }
            let value = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
            return Ok(p.float16_value.chunks_exact(2).map(value).collect());
        }
        let Some(q) = &p.quantization else {
            return if count == 0 { Ok(Vec::new()) } else { unfit(0) };
        };
        let bits = q.number_of_bits as usize;
        let needed = count.checked_mul(bits).map(|n| n.div_ceil(8));
        if !(1..=8).contains(&q.number_of_bits) || needed != Some(p.raw_value.len()) {
            return self.refuse(format!("`{what}` has {} bytes for {count} values of {bits} bits", p.raw_value.len()));
        }
        let numbers = |parts| floats(parts).map(|b| f32s(&b)).or_else(|e| self.refuse(format!("`{what}`: {e}")));
        match &q.quantization {
            Some(Quantization::LookUpTable(t)) => {
                let table = numbers(&t.float_value)?;
                if table.len() != 1 << bits {
                    return self.refuse(format!("`{what}` has a table of {} values for {bits} bits", table.len()));
                }
                Ok((0..count).map(|i| table[packed(&p.raw_value, bits, i)]).collect())
            }
            Some(Quantization::Linear(l)) => {
                let (scale, bias) = (numbers(&l.scale)?, numbers(&l.bias)?);
                let bias = if bias.is_empty() { vec![0.0] } else { bias };
                let fits = |v: &[f32]| v.len() == 1 || (rows > 0 && v.len() == rows && count.is_multiple_of(rows));
                if !fits(&scale) || !fits(&bias) {
                    return self.refuse(format!("`{what}` has {} scales for {rows} channels", scale.len()));
                }
                let width = (count / rows.max(1)).max(1);
                let of = |v: &[f32], i: usize| if v.len() == 1 { v[0] } else { v[i / width] };
                let value = |i| of(&scale, i) * packed(&p.raw_value, bits, i) as f32 + of(&bias, i);
                Ok((0..count).map(value).collect())
            }
            None => self.refuse(format!("`{what}` is quantized in an unknown way")),
        }
    }

    /// Weights of one row as a constant.
    pub(super) fn vector(&mut self, what: &str, params: &Params, count: u64) -> Lowered<Blob> {
        let count = self.count(&[count])?;
        let values = self.weights(what, params, count, count)?;
        Ok(self.constant(&[count], &values))
    }

    /// A matrix as a constant, `[rows, columns]`.
    pub(super) fn matrix(&mut self, what: &str, params: &Params, rows: u64, columns: u64) -> Lowered<Blob> {
        let (count, rows, columns) = (self.count(&[rows, columns])?, self.count(&[rows])?, self.count(&[columns])?);
        let values = self.weights(what, params, count, rows)?;
        Ok(self.constant(&[rows, columns], &values))
    }
}

/// The columns of a matrix `[rows, columns]` as rows.
pub(super) fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_packed_from_the_most_significant_bit() {
        let bytes = [0b1011_0001, 0b1100_0000];
        let found: Vec<usize> = (0..5).map(|i| packed(&bytes, 3, i)).collect();
        assert_eq!(found, [0b101, 0b100, 0b011, 0b100, 0]);
        assert_eq!(packed(&bytes, 8, 0), 0b1011_0001);
    }

    #[test]
    fn matrices_are_turned() {
        assert_eq!(turned(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
