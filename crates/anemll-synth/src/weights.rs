//! Random weights, streamed to disk.

use coreml_format::dtype::DataType;
use coreml_format::program::Value;
use coreml_format::write::PackageWriter;
use half::f16;

use crate::body::Body;
use crate::{Dimensions, Matrix};

/// Pseudorandom bytes: one noise buffer, read from varying offsets.
pub(crate) struct Random {
    noise: Vec<u8>,
    at: usize,
}

const BUFFER: usize = 1 << 20;

impl Random {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut noise = Vec::with_capacity(2 * BUFFER);
        while noise.len() < 2 * BUFFER {
            // xorshift64 (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend(state.to_le_bytes());
        }
        Self { noise, at: 0 }
    }

    /// Pieces with a total length of `length` bytes.
    fn pieces(&mut self, length: usize) -> Vec<&[u8]> {
        self.at = (self.at + 7919) % BUFFER;
        let (start, mut left) = (self.at, length);
        let mut out = Vec::new();
        while left > 0 {
            let n = left.min(BUFFER);
            out.push(&self.noise[start..start + n]);
            left -= n;
        }
        out
    }

    /// fp16 values with a spread that keeps activations of this width in range.
    fn halves(&mut self, count: usize, width: usize) -> Vec<u8> {
        let scale = 1.7 / (width as f32).sqrt();
        self.at = (self.at + 7919) % BUFFER;
        let noise = &self.noise[self.at..];
        let number = |i: usize| f16::from_f32((f32::from(noise[i % BUFFER]) / 127.5 - 1.0) * scale);
        (0..count).flat_map(|i| number(i).to_le_bytes()).collect()
    }

    /// A dense fp16 weight.
    pub(crate) fn dense(&mut self, writer: &mut PackageWriter, shape: &[usize]) -> std::io::Result<Value> {
        let (count, width) = (shape.iter().product::<usize>(), shape.last().copied().unwrap_or(1));
        let piece = self.halves(BUFFER, width);
        let (mut left, mut pieces) = (count * 2, Vec::new());
        while left > 0 {
            let n = left.min(piece.len());
            pieces.push(&piece[..n]);
            left -= n;
        }
        Ok(Value::blob(DataType::F16, shape, writer.blob(DataType::F16, count, pieces)?))
    }

    /// A matrix in the form of a 1×1 convolution weight.
    pub(crate) fn stored(
        &mut self,
        writer: &mut PackageWriter,
        rows: usize,
        cols: usize,
        lut: Option<u32>,
    ) -> std::io::Result<Matrix> {
        let shape = [rows, cols, 1, 1];
        let Some(bits) = lut else { return Ok(Matrix::Dense(self.dense(writer, &shape)?)) };
        let dtype = match bits {
            1 => DataType::U1,
            2 => DataType::U2,
            3 => DataType::U3,
            4 => DataType::U4,
            6 => DataType::U6,
            8 => DataType::U8,
            other => return Err(std::io::Error::other(format!("tables of {other} bits; expected 1, 2, 3, 4, 6 or 8"))),
        };
        let bytes = (rows * cols * bits as usize).div_ceil(8);
        let indices = writer.blob(dtype, rows * cols, self.pieces(bytes))?;
        let group = if rows.is_multiple_of(8) { 8 } else { rows };
        let table = [rows / group, 1, 1, 1, 1 << bits, 1];
        let entries = self.halves(table.iter().product(), cols);
        let lut = writer.blob(DataType::F16, table.iter().product(), [entries.as_slice()])?;
        Ok(Matrix::Lut {
            indices: Value::blob(dtype, &shape, indices),
            lut: Value::blob(DataType::F16, &table, lut),
            shape,
        })
    }

    /// [`Random::stored`], bound in a body.
    pub(crate) fn matrix(
        &mut self,
        writer: &mut PackageWriter,
        body: &mut Body,
        rows: usize,
        cols: usize,
        lut: Option<u32>,
    ) -> std::io::Result<String> {
        let matrix = self.stored(writer, rows, cols, lut)?;
        Ok(body.matrix(&matrix))
    }

    /// RoPE tables: cosines and sines, `[2 · context, head_dim]`.
    pub(crate) fn rope(&mut self, writer: &mut PackageWriter, d: &Dimensions) -> std::io::Result<(Value, Value)> {
        let rows = 2 * d.context;
        let mut table = |f: fn(f64) -> f64| {
            let angle =
                |p: usize, i: usize| p as f64 / 1e6f64.powf((2 * (i % (d.head_dim / 2))) as f64 / d.head_dim as f64);
            let values = (0..rows).flat_map(|p| (0..d.head_dim).map(move |i| f(angle(p, i)) as f32));
            let bytes: Vec<u8> = values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect();
            let at = writer.blob(DataType::F16, rows * d.head_dim, [bytes.as_slice()])?;
            Ok::<_, std::io::Error>(Value::blob(DataType::F16, &[rows, d.head_dim], at))
        };
        Ok((table(f64::cos)?, table(f64::sin)?))
    }
}
