//! Weight matrices in stored form: dense, palettized, block-wise quantized.

use half::f16;

/// A part of a matrix does not match its shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected} bytes or elements, found {found}")]
#[non_exhaustive]
pub struct WeightMatrixError {
    /// Name of the part.
    pub what: &'static str,
    /// Size required by the shape.
    pub expected: usize,
    /// Actual size.
    pub found: usize,
}

/// A matrix of `rows × cols` weights, row-major; a row holds the weights of one output.
#[derive(Debug, Clone, Copy)]
pub struct WeightMatrix<'a> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) form: Storage<'a>,
}

/// Storage format of the weights. Multi-byte elements are little-endian and may be unaligned.
#[derive(Debug, Clone, Copy)]
pub enum Storage<'a> {
    /// `f32` elements.
    F32(&'a [u8]),
    /// Elements in memory, row stride, column stride.
    Strided(&'a [f32], usize, usize),
    /// `f16` elements.
    F16(&'a [u8]),
    /// Indices into tables.
    Lut(Lut<'a>),
    /// Integers with a scale per block.
    Blocks(Blocks<'a>),
    /// Rows decoded on demand.
    OnDemand(&'a dyn RowDecoder),
}

/// Decoder for weights in other formats.
pub trait RowDecoder: Sync + std::fmt::Debug {
    /// Decodes one row of the matrix; `out` has its length.
    fn row(&self, row: usize, out: &mut [f32]);
}

/// Palettized weights: `bits`-wide indices in a bit stream, least significant bit first, and a table of `2^bits` fp16
/// entries per `group_rows` rows.
#[derive(Debug, Clone, Copy)]
pub struct Lut<'a> {
    /// Width of an index: 1, 2, 3, 4, 6 or 8.
    pub bits: u32,
    /// The indices of all rows, packed.
    pub indices: &'a [u8],
    /// The tables, concatenated, `f16`.
    pub tables: &'a [u8],
    /// Number of rows that share a table.
    pub group_rows: usize,
}

/// Block-wise quantized weights: `w = scale · (q − offset)`.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    /// Width of an integer: 4 or 8.
    pub bits: u32,
    /// True for two's complement integers.
    pub signed: bool,
    /// The integers of all rows, packed least significant bit first.
    pub data: &'a [u8],
    /// `[rows / block_rows, cols / block_cols]`.
    pub scale: &'a [f32],
    /// Offsets in the shape of `scale`; `None` means zero.
    pub offset: Option<&'a [f32]>,
    /// Number of rows per block.
    pub block_rows: usize,
    /// Number of columns per block.
    pub block_cols: usize,
}

fn check(what: &'static str, expected: Option<usize>, found: usize) -> Result<(), WeightMatrixError> {
    match expected {
        Some(n) if found >= n => Ok(()),
        other => Err(WeightMatrixError { what, expected: other.unwrap_or(usize::MAX), found }),
    }
}

impl<'a> WeightMatrix<'a> {
    /// Creates a matrix, checking that its parts match its shape.
    ///
    /// # Errors
    /// [`WeightMatrixError`] if a part is too small or groups or blocks do not divide the shape.
    pub fn new(rows: usize, cols: usize, form: Storage<'a>) -> Result<Self, WeightMatrixError> {
        let count = rows.checked_mul(cols);
        // Also for broadcast or decoded elements, whose row offsets are products.
        check("elements", count.map(|_| 0), 0)?;
        match form {
            Storage::F32(b) => check("f32 weights", count.and_then(|n| n.checked_mul(4)), b.len())?,
            Storage::Strided(data, row, col) => {
                let last = |n: usize, step: usize| n.saturating_sub(1).checked_mul(step);
                let end = last(rows, row).zip(last(cols, col)).and_then(|(r, c)| r.checked_add(c)?.checked_add(1));
                check("elements", if count == Some(0) { Some(0) } else { end }, data.len())?;
            }
            Storage::F16(b) => check("f16 weights", count.and_then(|n| n.checked_mul(2)), b.len())?,
            Storage::Lut(l) => {
                if !matches!(l.bits, 1 | 2 | 3 | 4 | 6 | 8) {
                    return Err(WeightMatrixError { what: "index width", expected: 8, found: l.bits as usize });
                }
                if l.group_rows == 0 || !rows.is_multiple_of(l.group_rows) {
                    return Err(WeightMatrixError {
                        what: "rows that share a table",
                        expected: rows,
                        found: l.group_rows,
                    });
                }
                let bits = count.and_then(|n| n.checked_mul(l.bits as usize));
                check("indices", bits.map(|b| b.div_ceil(8)), l.indices.len())?;
                check("tables", (rows / l.group_rows).checked_mul(2 << l.bits), l.tables.len())?;
            }
            Storage::Blocks(b) => {
                if !matches!(b.bits, 4 | 8) {
                    return Err(WeightMatrixError { what: "integer width", expected: 8, found: b.bits as usize });
                }
                let divides = |n: usize, by: usize| by != 0 && n.is_multiple_of(by);
                if !divides(rows, b.block_rows) || !divides(cols, b.block_cols) {
                    return Err(WeightMatrixError { what: "block size", expected: cols, found: b.block_cols });
                }
                let scales = (rows / b.block_rows).checked_mul(cols / b.block_cols);
                let bits = count.and_then(|n| n.checked_mul(b.bits as usize));
                check("integers", bits.map(|n| n.div_ceil(8)), b.data.len())?;
                check("scales", scales, b.scale.len())?;
                if let Some(offset) = b.offset {
                    check("offsets", scales, offset.len())?;
                }
            }
            Storage::OnDemand(_) => {}
        }
        Ok(Self { rows, cols, form })
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Some rows in memory, if stored as contiguous `f32`.
    pub(crate) fn whole_rows(&self, first: usize, count: usize) -> Option<&'a [f32]> {
        let end = first.checked_add(count).filter(|&end| end <= self.rows)?;
        let range = first * self.cols..end * self.cols;
        match self.form {
            Storage::Strided(data, row, 1) if row == self.cols => data.get(range),
            Storage::F32(bytes) if cfg!(target_endian = "little") => {
                // SAFETY: every bit pattern is a valid f32.
                let (before, data, _) = unsafe { bytes.align_to::<f32>() };
                if before.is_empty() { data.get(range) } else { None }
            }
            _ => None,
        }
    }

    /// Expands one row to `f32`: the reference for every kernel.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is shorter than a row.
    pub fn expand_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let out = &mut out[..self.cols];
        if out.is_empty() {
            // Without elements, the row's start may be out of range.
            return;
        }
        let start = row * self.cols;
        match self.form {
            Storage::F32(bytes) => {
                let (words, _) = bytes[start * 4..].as_chunks::<4>();
                out.iter_mut().zip(words).for_each(|(o, &w)| *o = f32::from_le_bytes(w));
            }
            Storage::Strided(data, step, 1) => out.copy_from_slice(&data[row * step..][..self.cols]),
            Storage::Strided(data, step, 0) => out.fill(data[row * step]),
            Storage::Strided(data, step, col) => {
                out.iter_mut().zip(data[row * step..].iter().step_by(col)).for_each(|(o, &v)| *o = v);
            }
            Storage::F16(bytes) => {
                let (words, _) = bytes[start * 2..].as_chunks::<2>();
                out.iter_mut().zip(words).for_each(|(o, &w)| *o = f16::from_le_bytes(w).to_f32());
            }
            Storage::Lut(l) => {
                let entries = 1usize << l.bits;
                let table = &l.tables[row / l.group_rows * entries * 2..][..entries * 2];
                let (words, _) = table.as_chunks::<2>();
                let mut values = [0f32; 256];
                values.iter_mut().zip(words).for_each(|(v, &w)| *v = f16::from_le_bytes(w).to_f32());
                unpack(
                    l.indices,
                    start,
                    l.bits,
                    |i, index| {
                        if let Some(o) = out.get_mut(i) {
                            *o = values[index as usize];
                        }
                    },
                    self.cols,
                );
            }
            Storage::Blocks(b) => b.expand(row, out),
            Storage::OnDemand(source) => source.row(row, out),
        }
    }
}

impl Blocks<'_> {
    /// Expands one row; `out` has its length.
    #[inline(always)]
    pub(crate) fn expand(&self, row: usize, out: &mut [f32]) {
        let (start, per_row) = (row * out.len(), out.len() / self.block_cols);
        let first = row / self.block_rows * per_row;
        // Two's complement: flip the sign bit, then subtract its weight.
        let sign = if self.signed { 1i32 << (self.bits - 1) } else { 0 };
        let value = |raw: u8| ((i32::from(raw) ^ sign) - sign) as f32;
        for (i, out) in out.chunks_exact_mut(self.block_cols).enumerate() {
            let (scale, offset) = (self.scale[first + i], self.offset.map_or(0.0, |o| o[first + i]));
            let at = start + i * self.block_cols;
            if self.bits == 8 {
                for (o, &raw) in out.iter_mut().zip(&self.data[at..]) {
                    *o = scale * (value(raw) - offset);
                }
            } else if at.is_multiple_of(2) && out.len().is_multiple_of(2) {
                for (o, &raw) in out.as_chunks_mut::<2>().0.iter_mut().zip(&self.data[at / 2..]) {
                    *o = [scale * (value(raw & 15) - offset), scale * (value(raw >> 4) - offset)];
                }
            } else {
                unpack(self.data, at, 4, |i, raw| out[i] = scale * (value(raw as u8) - offset), self.block_cols);
            }
        }
    }
}

/// Calls `f(i, value)` for `count` elements of a bit stream, starting at element `start`.
fn unpack(bytes: &[u8], start: usize, bits: u32, mut f: impl FnMut(usize, u32), count: usize) {
    let mask = (1u32 << bits) - 1;
    if bits == 8 {
        bytes[start..start + count].iter().enumerate().for_each(|(i, &b)| f(i, u32::from(b)));
        return;
    }
    for i in 0..count {
        let bit = (start + i) * bits as usize;
        let low = u32::from(bytes[bit / 8]);
        let high = u32::from(bytes.get(bit / 8 + 1).copied().unwrap_or(0));
        f(i, (low | high << 8) >> (bit % 8) & mask);
    }
}
