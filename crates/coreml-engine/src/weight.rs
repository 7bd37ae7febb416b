//! Constants in stored form: mapped dense data and the compressed forms of `constexpr_*`.
//!
//! Operations on the hot path compute from [`Weight::matrix`] or gather [`Weight::rows`]; others use
//! [`Weight::expand`], a temporary dense copy.

use std::sync::{Arc, OnceLock};

use candle_core::Device;
use coreml_format::blob::Blob;
use coreml_format::dtype::DataType;
use coreml_kernels::weight_matrix::{Blocks, Lut, RowDecoder, Storage as MatStorage, WeightMatrix};

use crate::array::Array;
use crate::budget::{claim, claim_of, lent, room};
use crate::decode;
use crate::error::OpError;
use crate::kept::Kept;

/// Elements of the largest dense copy that is kept: 16 MB. Operands of elementwise operations are rarely larger; whole
/// matrices stay compressed.
const MAX_KEPT: usize = 1 << 22;

/// Bytes of elements, mapped or in memory.
#[derive(Clone)]
pub enum Raw {
    /// In a weight file.
    Blob(Blob),
    /// In memory.
    Bytes(Arc<[u8]>),
}

impl std::ops::Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Raw::Blob(b) => b,
            Raw::Bytes(b) => b,
        }
    }
}

/// A constant in its stored form.
pub struct Weight {
    dtype: DataType,
    shape: Vec<usize>,
    form: Form,
    /// The dense copy, once operations that can't read the stored form have asked for it.
    expanded: OnceLock<Array>,
}

/// Values with one entry per block of a tensor; `shape[d]` divides the extent of dimension d.
pub struct Blocked {
    /// Entries, row-major.
    pub values: Vec<f32>,
    /// Number of blocks along each dimension.
    pub shape: Vec<usize>,
}

/// Storage format of the elements.
pub(crate) enum Form {
    /// Uncompressed elements.
    Dense(Raw),
    /// Indices into tables (palettization).
    Lut(Palette),
    /// Block-wise `scale · (data − offset)`.
    Blocks {
        /// Integers (or floats) of the weight's shape.
        data: Arc<Weight>,
        /// One entry per block.
        scale: Blocked,
        /// Zero points, in the shape of `scale`.
        offset: Option<Vec<f32>>,
    },
    /// Zero where the mask is zero.
    Sparse {
        /// One bit per element, least significant bit first.
        mask: Raw,
        /// Values of the set bits, in order.
        nonzero: Arc<Weight>,
        /// Number of set bits before each slice of the first dimension.
        starts: Vec<usize>,
    },
}

/// Palettized elements: `table[block of the element, index]` gives `vector` elements along `axis`.
pub(crate) struct Palette {
    /// Width of an index in bits.
    pub bits: u32,
    /// The indices, a bit stream.
    pub indices: Raw,
    /// Shape of the indices: that of the weight, except for `axis`, which is `vector` times shorter.
    pub index_shape: Vec<usize>,
    /// Element type of the entries.
    pub table_dtype: DataType,
    /// The entries: `blocks × 2^bits × vector`.
    pub tables: Raw,
    /// Number of blocks along each dimension of the indices.
    pub blocks: Vec<usize>,
    /// Number of elements of one entry.
    pub vector: usize,
    /// Axis along which an entry's elements are laid out.
    pub axis: usize,
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weight({} {:?})", self.dtype, self.shape)
    }
}

/// Encodes elements as bytes, directly into their final allocation.
///
/// # Errors
/// If allocation fails.
fn packed<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N]) -> Result<Arc<[u8]>, OpError> {
    let len = values.len().saturating_mul(N);
    claim(len)?;
    let mut out: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
    // Not shared yet.
    if let Some(out) = Arc::get_mut(&mut out) {
        out.as_chunks_mut::<N>().0.iter_mut().zip(values).for_each(|(out, &v)| *out = bytes(v));
    }
    Ok(out)
}

/// Row-major strides of a shape.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        out[d] = out[d + 1] * shape[d + 1];
    }
    out
}

/// Iterates over the elements `range` of a shape in row-major order; calls `f(element, block)` with the flat index of
/// the element's block.
fn walk_blocks(shape: &[usize], blocks: &[usize], range: std::ops::Range<usize>, mut f: impl FnMut(usize, usize)) {
    let block_strides = strides(blocks);
    let sizes: Vec<usize> = shape.iter().zip(blocks).map(|(&n, &b)| (n / b.max(1)).max(1)).collect();
    let mut index = vec![0usize; shape.len()];
    let mut rest = range.start;
    for (d, stride) in strides(shape).into_iter().enumerate() {
        index[d] = rest / stride.max(1);
        rest %= stride.max(1);
    }
    for element in range {
        let block = index.iter().zip(&sizes).zip(&block_strides).map(|((i, s), t)| i / s * t).sum();
        f(element, block);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            if index[d] < shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
}

/// Checks that `blocks` divides `shape`.
pub(crate) fn check_blocks(shape: &[usize], blocks: &[usize]) -> Result<(), OpError> {
    let fits = shape.len() == blocks.len() && shape.iter().zip(blocks).all(|(&n, &b)| b != 0 && n % b == 0);
    if fits { Ok(()) } else { Err(OpError::shape(format!("blocks {blocks:?} do not divide the shape {shape:?}"))) }
}

impl Weight {
    /// Mapped elements; the caller has checked that the blob holds them all.
    pub(crate) fn dense(blob: Blob, dtype: DataType, shape: Vec<usize>) -> Self {
        Self { dtype, shape, form: Form::Dense(Raw::Blob(blob)), expanded: OnceLock::new() }
    }

    /// A weight in this form; the caller has checked the sizes.
    pub(crate) fn with_form(dtype: DataType, shape: Vec<usize>, form: Form) -> Self {
        Self { dtype, shape, form, expanded: OnceLock::new() }
    }

    /// An array as f32 elements in memory.
    pub(crate) fn from_array(array: &Array) -> Result<Self, OpError> {
        Self::from_f32s(&array.to_f32s()?, DataType::F32, array.shape().to_vec())
    }

    /// Dense elements computed at load time, kept in their declared float type.
    pub(crate) fn from_f32s(values: &[f32], dtype: DataType, shape: Vec<usize>) -> Result<Self, OpError> {
        let (kept, bytes) = match dtype {
            DataType::F16 => (DataType::F16, packed(values, |v| half::f16::from_f32(v).to_le_bytes())?),
            _ => (DataType::F32, packed(values, f32::to_le_bytes)?),
        };
        Ok(Self { dtype: kept, shape, form: Form::Dense(Raw::Bytes(bytes)), expanded: OnceLock::new() })
    }

    /// Declared element type after expansion.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Logical shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The stored elements if dense.
    pub(crate) fn raw(&self) -> Option<&Raw> {
        match &self.form {
            Form::Dense(raw) => Some(raw),
            _ => None,
        }
    }

    /// True for uncompressed floats, as they are or times a factor.
    pub(crate) fn is_dense_float(&self) -> bool {
        match &self.form {
            Form::Dense(_) => self.dtype.is_float(),
            Form::Blocks { data, offset: None, .. } => data.raw().is_some() && data.dtype.is_float(),
            _ => false,
        }
    }

    /// Number of bytes held in memory rather than in a file.
    pub(crate) fn held_bytes(&self) -> usize {
        let held = |raw: &Raw| match raw {
            Raw::Blob(_) => 0,
            Raw::Bytes(bytes) => bytes.len(),
        };
        match &self.form {
            Form::Dense(raw) => held(raw),
            Form::Lut(p) => held(&p.indices) + held(&p.tables),
            Form::Blocks { data, scale, offset } => {
                data.held_bytes() + size_of::<f32>() * (scale.values.len() + offset.as_ref().map_or(0, Vec::len))
            }
            Form::Sparse { mask, nonzero, starts } => {
                held(mask) + nonzero.held_bytes() + starts.len() * size_of::<usize>()
            }
        }
    }

    /// Size of the stored form in bytes.
    pub fn stored_bytes(&self) -> usize {
        match &self.form {
            Form::Dense(raw) => raw.len(),
            Form::Lut(p) => p.indices.len() + p.tables.len(),
            Form::Blocks { data, scale, offset } => {
                data.stored_bytes() + 4 * (scale.values.len() + offset.as_ref().map_or(0, Vec::len))
            }
            Form::Sparse { mask, nonzero, .. } => mask.len() + nonzero.stored_bytes(),
        }
    }

    fn slice_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Decodes elements `first .. first + count` in row-major order to `f32`.
    ///
    /// # Errors
    /// If they are out of range.
    fn elements(&self, first: usize, count: usize) -> Result<Vec<f32>, OpError> {
        let total: usize = self.shape.iter().product();
        if first.checked_add(count).is_none_or(|end| end > total) {
            return Err(OpError::shape(format!("elements {first}+{count} of a weight of shape {:?}", self.shape)));
        }
        match &self.form {
            Form::Dense(raw) => dense_elements(raw, self.dtype, first, count),
            Form::Lut(p) => Ok(p.elements(&self.shape, first, count)),
            Form::Blocks { data, scale, offset } => {
                let mut values = data.elements(first, count)?;
                walk_blocks(&self.shape, &scale.shape, first..first + count, |i, block| {
                    let shift = offset.as_ref().map_or(0.0, |o| o[block]);
                    values[i - first] = scale.values[block] * (values[i - first] - shift);
                });
                Ok(values)
            }
            Form::Sparse { mask, nonzero, starts } => {
                let slice = self.slice_len().max(1);
                let bit = |i: usize| mask[i / 8] >> (i % 8) & 1 == 1;
                let before = (first / slice * slice..first).filter(|&i| bit(i)).count();
                let at = starts.get(first / slice).copied().unwrap_or(0) + before;
                let set: Vec<usize> = (0..count).filter(|&i| bit(first + i)).collect();
                let mut values = vec![0f32; count];
                for (i, value) in set.iter().zip(nonzero.elements(at, set.len())?) {
                    values[*i] = value;
                }
                Ok(values)
            }
        }
    }

    /// One element, by its position in row-major order.
    ///
    /// # Errors
    /// If it is out of range.
    pub(crate) fn element(&self, at: usize) -> Result<f32, OpError> {
        match (self.elements(at, 1)?).first() {
            Some(&value) => Ok(value),
            None => Err(OpError::shape(format!("element {at} of a weight of shape {:?}", self.shape))),
        }
    }

    /// Upper bound of the temporary bytes needed to expand this many elements.
    fn temporaries(&self, count: usize) -> usize {
        match &self.form {
            Form::Dense(_) if self.dtype.is_float() => 0,
            Form::Dense(_) => count.saturating_mul(size_of::<i64>()),
            Form::Lut(p) => p.tables.len().saturating_mul(8 * size_of::<f32>()),
            Form::Blocks { data, .. } => data.temporaries(count),
            // Positions of the set bits, and their values.
            Form::Sparse { nonzero, .. } => {
                let values = count.saturating_mul(2 * size_of::<usize>() + size_of::<f32>());
                values.saturating_add(nonzero.temporaries(count))
            }
        }
    }

    /// Expands to a dense copy.
    ///
    /// # Errors
    /// If allocation fails or Candle cannot create the tensor.
    pub fn expand(&self, device: &Device) -> Result<Array, OpError> {
        match &self.form {
            Form::Dense(raw) => decode::decode(raw, self.dtype, &self.shape, device),
            _ => {
                let count = self.shape.iter().product();
                claim_of::<f32>(count)?;
                let _temporaries = lent(self.temporaries(count))?;
                let values = self.elements(0, count)?;
                Array::from_f32(values, &self.shape, self.dtype, device)
            }
        }
    }

    /// [`expand`](Self::expand), kept for later predictions where the copy is not large.
    ///
    /// # Errors
    /// As `expand`.
    pub(crate) fn expand_once(&self, device: &Device, kept: &Kept) -> Result<Array, OpError> {
        if let Some(array) = self.expanded.get() {
            return Ok(array.clone());
        }
        let array = self.expand(device)?;
        if self.shape.iter().product::<usize>() <= MAX_KEPT && kept.take(array.bytes()) {
            return Ok(self.expanded.get_or_init(|| array).clone());
        }
        Ok(array)
    }

    /// Gathers slices of the first dimension as `f32`: `[indices.len(), …]`; nothing else is expanded.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn rows(&self, indices: &[usize]) -> Result<Vec<f32>, OpError> {
        let slice = self.slice_len();
        let mut out = room(indices.len().saturating_mul(slice))?;
        let matrix = self.matrix();
        for &i in indices {
            let Some(matrix) = matrix.filter(|m| i < m.rows()) else {
                return Err(OpError::shape(format!("row {i} of a weight of shape {:?}", self.shape)));
            };
            let start = out.len();
            out.resize(start + slice, 0.0);
            coreml_kernels::expand::expand_row(&matrix, i, &mut out[start..]);
        }
        Ok(out)
    }

    /// The weight as a matrix, the first dimension by all others; `None` for a scalar. Kernels read the common forms
    /// directly and expand rows of the others on demand.
    pub fn matrix(&self) -> Option<WeightMatrix<'_>> {
        let (rows, cols) = (*self.shape.first()?, self.slice_len());
        let known = self.known_form(rows, cols).and_then(|form| WeightMatrix::new(rows, cols, form).ok());
        known.or_else(|| WeightMatrix::new(rows, cols, MatStorage::OnDemand(self)).ok())
    }

    fn known_form(&self, rows: usize, cols: usize) -> Option<MatStorage<'_>> {
        match &self.form {
            Form::Dense(raw) if self.dtype == DataType::F16 => Some(MatStorage::F16(raw)),
            Form::Dense(raw) if self.dtype == DataType::F32 => Some(MatStorage::F32(raw)),
            Form::Lut(p) => {
                let by_rows = p.vector == 1 && p.blocks.iter().skip(1).all(|&b| b == 1);
                if !by_rows || p.table_dtype != DataType::F16 {
                    return None;
                }
                let group_rows = rows / p.blocks.first()?;
                Some(MatStorage::Lut(Lut { bits: p.bits, indices: &p.indices, tables: &p.tables, group_rows }))
            }
            Form::Blocks { data, scale, offset } => {
                let raw = data.raw()?;
                let (bits, signed) = match data.dtype {
                    DataType::I8 => (8, true),
                    DataType::U8 => (8, false),
                    DataType::I4 => (4, true),
                    DataType::U4 => (4, false),
                    _ => return None,
                };
                // Blocks along the second dimension are segments of a row; the other dimensions must not be divided.
                if scale.shape.iter().skip(2).any(|&b| b != 1) {
                    return None;
                }
                Some(MatStorage::Blocks(Blocks {
                    bits,
                    signed,
                    data: raw,
                    scale: &scale.values,
                    offset: offset.as_deref(),
                    block_rows: rows / scale.shape.first()?,
                    block_cols: cols / scale.shape.get(1).copied().unwrap_or(1),
                }))
            }
            _ => None,
        }
    }
}

impl RowDecoder for Weight {
    fn row(&self, row: usize, out: &mut [f32]) {
        match self.elements(row * out.len(), out.len()) {
            Ok(values) => out.copy_from_slice(&values),
            // Unreachable: the matrix has the weight's own shape.
            Err(_) => out.fill(f32::NAN),
        }
    }
}

fn dense_elements(raw: &[u8], dtype: DataType, first: usize, count: usize) -> Result<Vec<f32>, OpError> {
    let bits = dtype.bits().ok_or_else(|| OpError::data("strings as a weight"))?;
    if bits % 8 == 0 {
        let width = bits / 8;
        let bytes = raw
            .get(first * width..(first + count) * width)
            .ok_or_else(|| OpError::shape("a weight is shorter than its shape"))?;
        return Ok(match dtype {
            d if d.is_float() => decode::floats(bytes, dtype),
            _ => decode::ints(bytes, dtype, count).into_iter().map(|v| v as f32).collect(),
        });
    }
    let signed = dtype == DataType::I4;
    Ok((first..first + count).map(|i| decode::unpack(raw, i, bits, signed) as f32).collect())
}

impl Palette {
    /// Elements `first .. first + count` of the expanded shape.
    fn elements(&self, shape: &[usize], first: usize, count: usize) -> Vec<f32> {
        let tables = decode::floats_or_ints(&self.tables, self.table_dtype);
        let entries = 1usize << self.bits;
        let mut out = Vec::with_capacity(count);
        if self.vector == 1 {
            walk_blocks(&self.index_shape, &self.blocks, first..first + count, |i, block| {
                let index = decode::unpack(&self.indices, i, self.bits as usize, false) as usize;
                out.push(tables.get(block * entries + index).copied().unwrap_or(0.0));
            });
            return out;
        }
        let (index_strides, block_strides) = (strides(&self.index_shape), strides(&self.blocks));
        for element in first..first + count {
            let (mut rest, mut at, mut block, mut lane) = (element, 0, 0, 0);
            for (d, stride) in strides(shape).into_iter().enumerate() {
                let mut i = rest / stride;
                rest %= stride;
                if d == self.axis {
                    lane = i % self.vector;
                    i /= self.vector;
                }
                at += i * index_strides[d];
                block += i / (self.index_shape[d] / self.blocks[d]).max(1) * block_strides[d];
            }
            let index = decode::unpack(&self.indices, at, self.bits as usize, false) as usize;
            out.push(tables.get((block * entries + index) * self.vector + lane).copied().unwrap_or(0.0));
        }
        out
    }
}
