//! Weights of layers: as floats, or as constants in their stored form.

use coreml_format::bits;
use coreml_format::blob::Blob as Elements;
use coreml_format::dtype::DataType;
use coreml_format::model_types::Bytes;
use coreml_format::model_types::neural_network::weights::{Quantization, WeightParams, floats};
use coreml_format::program::{TensorData, TensorType, Value, ValueData, ValueType};

use super::build::{Blob, Network, of};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;
type Params = Option<Box<WeightParams>>;

pub(super) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Value `i` of `bits` bits, at most 8, packed from the most significant bit.
fn packed(bytes: &[u8], bits: usize, i: usize) -> u8 {
    let at = i * bits;
    let pair = u16::from(bytes[at / 8]) << 8 | u16::from(bytes.get(at / 8 + 1).copied().unwrap_or(0));
    (pair >> (16 - at % 8 - bits)) as u8 & (0xFF >> (8 - bits))
}

/// Values packed from the most significant bit, as the engine packs them: from the least significant bit, in a type that
/// it has, of `kept` bits.
fn repacked(bytes: &[u8], width: usize, kept: usize, count: usize) -> Vec<u8> {
    bits::pack(kept, (0..count).map(|i| packed(bytes, width, i)))
}

/// Weights with more elements than this stay where they lie in the file; the engine keeps smaller ones as tensors anyway.
const KEPT: usize = 4096;

impl Network<'_> {
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
        match &q.quantization {
            Some(Quantization::LookUpTable(t)) => {
                let table = self.numbers(what, &t.float_value)?;
                if table.len() != 1 << bits {
                    return self.refuse(format!("`{what}` has a table of {} values for {bits} bits", table.len()));
                }
                Ok((0..count).map(|i| table[usize::from(packed(&p.raw_value, bits, i))]).collect())
            }
            Some(Quantization::Linear(l)) => {
                let (scale, bias) = (self.numbers(what, &l.scale)?, self.numbers(what, &l.bias)?);
                let bias = if bias.is_empty() { vec![0.0] } else { bias };
                let fits = |v: &[f32]| v.len() == 1 || (rows > 0 && v.len() == rows && count.is_multiple_of(rows));
                if !fits(&scale) || !fits(&bias) {
                    return self.refuse(format!("`{what}` has {} scales for {rows} channels", scale.len()));
                }
                let width = (count / rows.max(1)).max(1);
                let of = |v: &[f32], i: usize| if v.len() == 1 { v[0] } else { v[i / width] };
                let value = |i| of(&scale, i) * f32::from(packed(&p.raw_value, bits, i)) + of(&bias, i);
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

    /// A matrix `[rows, columns]`, in its stored form.
    pub(super) fn matrix(&mut self, what: &str, params: &Params, rows: u64, columns: u64) -> Lowered<Blob> {
        let scales = self.count(&[rows])?;
        self.stored(what, params, &[rows, columns], scales)
    }

    /// A matrix of int8 with one scale, or one for each row.
    pub(super) fn int8_matrix(&mut self, what: &str, params: &Params, rows: u64, columns: u64) -> Lowered<Blob> {
        let (count, shape) = (self.count(&[rows, columns])?, [self.count(&[rows])?, self.count(&[columns])?]);
        let Some(p) = params else { return self.refuse(format!("it lacks `{what}`")) };
        let Some(Quantization::Linear(l)) = p.quantization.as_ref().and_then(|q| q.quantization.as_ref()) else {
            return self.refuse(format!("`{what}` lacks a scale"));
        };
        let scale = self.numbers(what, &l.scale)?;
        let bias = self.numbers(what, &l.bias)?;
        if p.int8_raw_value.len() != count
            || bias.iter().any(|&b| b != 0.0)
            || !(scale.len() == 1 || scale.len() == shape[0])
        {
            let found = p.int8_raw_value.len();
            return self.refuse(format!("`{what}` has {found} bytes and {} scales for {rows} rows", scale.len()));
        }
        let data = self.shared(what, p.int8_raw_value.clone(), DataType::I8, &shape)?;
        let scale = self.constant(&[scale.len(), 1], &scale);
        let extents = shape.iter().map(|&d| Some(d)).collect();
        Ok(self.op("engine.linear_weight", vec![("data", of(&data)), ("scale", of(&scale))], extents))
    }

    fn numbers(&self, what: &str, parts: &[Bytes]) -> Lowered<Vec<f32>> {
        floats(parts).map(|b| f32s(&b)).or_else(|e| self.refuse(format!("`{what}`: {e}")))
    }

    /// A constant whose elements lie in the file, or were repacked.
    fn shared(&mut self, what: &str, bytes: Bytes, dtype: DataType, shape: &[usize]) -> Lowered<Blob> {
        let count = shape.iter().product();
        let Some(elements) = Elements::new(bytes, dtype, count) else {
            return self.refuse(format!("`{what}` does not have {count} values"));
        };
        let made = self.typed("const", Vec::new(), dtype, shape.iter().map(|&d| Some(d)).collect());
        if let Some(op) = self.operations.last_mut() {
            let ty = ValueType::Tensor(TensorType::fixed(dtype, shape));
            op.attributes.insert("val".to_owned(), Value { ty, data: ValueData::Tensor(TensorData::Shared(elements)) });
        }
        Ok(made)
    }

    /// Weights of this shape, as floats: large ones of fp32 and quantized ones stay in the file.
    pub(super) fn stored_floats(&mut self, what: &str, params: &Params, shape: &[u64], rows: usize) -> Lowered<Blob> {
        let half = params.as_ref().is_some_and(|p| !p.float16_value.is_empty());
        if half {
            let values = self.weights(what, params, self.count(shape)?, rows)?;
            let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
            return Ok(self.constant(&shape, &values));
        }
        self.stored(what, params, shape, rows)
    }

    /// Weights of this shape for products: large ones stay in the file, in fp32, fp16 or integers. `rows` of them may have a
    /// scale each.
    pub(super) fn stored(&mut self, what: &str, params: &Params, shape: &[u64], rows: usize) -> Lowered<Blob> {
        let count = self.count(shape)?;
        let fixed = shape.iter().map(|&d| self.count(&[d])).collect::<Lowered<Vec<usize>>>()?;
        let dense = |n: &mut Self| {
            let values = n.weights(what, params, count, rows)?;
            Ok(n.constant(&fixed, &values))
        };
        let Some(p) = params.as_ref().filter(|p| count > KEPT && p.int8_raw_value.is_empty()) else {
            return dense(self);
        };
        let plain = floats(&p.float_value).or_else(|e| self.refuse(format!("`{what}`: {e}")))?;
        if !plain.is_empty() {
            return self.shared(what, plain, DataType::F32, &fixed);
        }
        if !p.float16_value.is_empty() {
            return self.shared(what, p.float16_value.clone(), DataType::F16, &fixed);
        }
        let Some(q) = &p.quantization else { return dense(self) };
        let bits = q.number_of_bits as usize;
        let needed = count.checked_mul(bits).map(|n| n.div_ceil(8));
        if !(1..=8).contains(&q.number_of_bits) || needed != Some(p.raw_value.len()) {
            // The error is that of decoding.
            return dense(self);
        }
        match &q.quantization {
            Some(Quantization::LookUpTable(t)) => {
                let mut table = self.numbers(what, &t.float_value)?;
                if table.len() != 1 << bits {
                    return dense(self);
                }
                let data = self.quantized(what, p, bits, DataType::unsigned(bits), &fixed)?;
                // Indices of 5 and 7 bits are kept in 8.
                table.resize(if matches!(bits, 5 | 7) { 256 } else { table.len() }, 0.0);
                let table = self.constant(&[table.len()], &table);
                let inputs = vec![("indices", of(&data)), ("table", of(&table))];
                Ok(self.op("engine.table_weight", inputs, fixed.iter().map(|&d| Some(d)).collect()))
            }
            Some(Quantization::Linear(l)) => {
                let (scale, bias) = (self.numbers(what, &l.scale)?, self.numbers(what, &l.bias)?);
                let channels = if fixed.first() == Some(&rows) { rows } else { 1 };
                let fits = |v: &[f32]| v.len() == 1 || v.len() == channels;
                if !fits(&scale) || !(bias.is_empty() || fits(&bias)) || scale.iter().any(|s| !s.is_normal()) {
                    return dense(self);
                }
                let data =
                    self.quantized(what, p, bits, if bits <= 4 { DataType::U4 } else { DataType::U8 }, &fixed)?;
                // scale · q + bias = scale · (q − offset).
                let many = scale.len().max(bias.len());
                let at = |v: &[f32], i: usize| v.get(i).or(v.first()).copied().unwrap_or(0.0);
                let scales: Vec<f32> = (0..many).map(|i| at(&scale, i)).collect();
                let offsets: Vec<f32> = (0..many).map(|i| -at(&bias, i) / at(&scale, i)).collect();
                let blocks: Vec<usize> = (0..fixed.len()).map(|d| if d == 0 { many } else { 1 }).collect();
                let (scale, offset) = (self.constant(&blocks, &scales), self.constant(&blocks, &offsets));
                let inputs = vec![("data", of(&data)), ("scale", of(&scale)), ("offset", of(&offset))];
                Ok(self.op("engine.linear_weight", inputs, fixed.iter().map(|&d| Some(d)).collect()))
            }
            None => dense(self),
        }
    }

    /// Integers: those of 8 bits as they lie, others in the engine's order of bits.
    fn quantized(&mut self, what: &str, p: &WeightParams, bits: usize, to: DataType, shape: &[usize]) -> Lowered<Blob> {
        let count = shape.iter().product();
        let bytes = match bits {
            8 => p.raw_value.clone(),
            _ => repacked(&p.raw_value, bits, to.bits().unwrap_or(8), count).into(),
        };
        self.shared(what, bytes, to, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_packed_from_the_most_significant_bit() {
        let bytes = [0b1011_0001, 0b1100_0000];
        let found: Vec<u8> = (0..5).map(|i| packed(&bytes, 3, i)).collect();
        assert_eq!(found, [0b101, 0b100, 0b011, 0b100, 0]);
        assert_eq!(packed(&bytes, 8, 0), 0b1011_0001);
    }

    #[test]
    fn values_are_repacked_from_the_least_significant_bit() {
        let bytes = [0b1011_0001, 0b1100_0000];
        // 5, 4, 3, 4, 0 in three bits each, and in bytes.
        assert_eq!(repacked(&bytes, 3, 3, 5), [0b1110_0101, 0b0000_1000]);
        assert_eq!(repacked(&bytes, 3, 8, 5), [5, 4, 3, 4, 0]);
        assert_eq!(repacked(&[0x1F, 0x20], 4, 4, 3), [0xF1, 0x02]);
    }
}
