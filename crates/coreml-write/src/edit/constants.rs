//! Constants of a function: as stored, and decoded.
//!
//! Formulas: the docstrings of coremltools' `constexpr_*` operations (iOS 16 and iOS 18).

use std::collections::HashMap;

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Block, Operation, TensorData, Value, ValueData};
use coreml_format::weights::Weights;

use super::packed;

/// Most compressed forms inside of each other.
const DEPTH: usize = 4;

/// A constant as stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Element type.
    pub dtype: DataType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Packed elements.
    pub bytes: Vec<u8>,
}

impl Stored {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements as numbers.
    ///
    /// # Errors
    /// The element type, if it is no number.
    pub fn numbers(&self) -> Result<Vec<f32>, String> {
        packed::numbers(self.dtype, &self.bytes, self.elements())
            .ok_or_else(|| format!("expected numbers, found {}", self.dtype))
    }
}

/// A decoded weight.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Element type that the program sees.
    pub dtype: DataType,
    /// Shape that the program sees.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

/// Sparse elements between a compressed form and its expansion: mask by position, the rest in order.
struct Sparse {
    shape: Vec<usize>,
    mask: Vec<bool>,
    values: Vec<f32>,
}

/// Constants and compressed weights of a block, by name.
pub struct Constants<'m> {
    by_name: HashMap<&'m str, &'m Operation>,
    weights: &'m Weights,
}

/// Reads a literal.
///
/// # Errors
/// What is wrong with it, or with the weight file.
pub fn stored(value: &Value, weights: &Weights) -> Result<Stored, String> {
    let ty = value.ty.tensor().ok_or("expected a tensor")?;
    let shape = ty.fixed_shape().ok_or("expected a known shape")?;
    let count =
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("expected a shape that fits in memory")?;
    let bytes = match &value.data {
        ValueData::Tensor(TensorData::Bytes(bytes)) => bytes.clone(),
        ValueData::Tensor(TensorData::Blob(at)) => {
            let blob = weights.resolve(at).map_err(|e| e.to_string())?;
            let needed = ty.dtype.packed_len(count).ok_or("expected numbers")?;
            // Files write int4 as uint4 and the like; the bits count.
            if blob.dtype().bits() != ty.dtype.bits() || blob.len() < needed {
                return Err(format!("expected {count} × {}, found {} × {}", ty.dtype, blob.elements(), blob.dtype()));
            }
            blob[..needed].to_vec()
        }
        _ => return Err("expected numbers".to_owned()),
    };
    Ok(Stored { dtype: ty.dtype, shape, bytes })
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        out[i] = out[i + 1] * shape[i + 1].max(1);
    }
    out
}

/// For each element of `shape`, the flat index of its block in `blocks`, whose extents divide those of `shape`.
fn block_of(shape: &[usize], blocks: &[usize]) -> Result<Vec<usize>, String> {
    if shape.len() != blocks.len() || shape.iter().zip(blocks).any(|(&n, &b)| b == 0 || !n.is_multiple_of(b)) {
        return Err(format!("expected blocks that divide {shape:?}, found {blocks:?}"));
    }
    let steps = strides(blocks);
    let mut out = vec![0usize];
    for ((&n, &b), &step) in shape.iter().zip(blocks).zip(&steps) {
        let each = (n / b).max(1);
        out = out.iter().flat_map(|&base| (0..n).map(move |i| base + i / each * step)).collect();
    }
    Ok(out)
}

impl<'m> Constants<'m> {
    /// Constants of a block and those nested in it.
    pub fn of(block: &'m Block, weights: &'m Weights) -> Self {
        let mut all = Self { by_name: HashMap::new(), weights };
        all.collect(block);
        all
    }

    fn collect(&mut self, block: &'m Block) {
        for op in &block.operations {
            if op.kind == "const" || op.kind.starts_with("constexpr_") {
                for output in &op.outputs {
                    self.by_name.insert(&output.name, op);
                }
            }
            op.blocks.iter().for_each(|b| self.collect(b));
        }
    }

    /// The operation that makes a constant.
    pub fn get(&self, name: &str) -> Option<&'m Operation> {
        self.by_name.get(name).copied()
    }

    fn binding(&self, op: &'m Operation, parameter: &str) -> Option<&'m Binding> {
        match op.inputs.get(parameter)? {
            Argument::One(b) => Some(b),
            Argument::Many(_) => None,
        }
    }

    /// Literal of a parameter, which may be an attribute, a value or a `const`.
    pub fn literal(&self, op: &'m Operation, parameter: &str) -> Option<&'m Value> {
        match self.binding(op, parameter) {
            Some(Binding::Value(v)) => Some(v),
            Some(Binding::Name(name)) => self.get(name).filter(|op| op.kind == "const")?.attributes.get("val"),
            None => op.attributes.get(parameter),
        }
    }

    /// A parameter as stored.
    fn parameter(&self, op: &'m Operation, name: &str) -> Result<Stored, String> {
        let value = self.literal(op, name).ok_or_else(|| format!("parameter `{name}` is no constant"))?;
        stored(value, self.weights).map_err(|e| format!("parameter `{name}`: {e}"))
    }

    /// A parameter decoded, which may itself be compressed.
    fn inner(&self, op: &'m Operation, name: &str, depth: usize) -> Result<Decoded, String> {
        match self.binding(op, name) {
            Some(Binding::Name(of)) if self.get(of).is_some_and(|op| op.kind != "const") => {
                self.decode_at(of, depth.checked_sub(1).ok_or("compressed forms are nested too deeply")?)
            }
            _ => {
                let s = self.parameter(op, name)?;
                Ok(Decoded { dtype: s.dtype, data: s.numbers()?, shape: s.shape })
            }
        }
    }

    /// A weight decoded: a `const`, or a `constexpr_*` of any form.
    ///
    /// # Errors
    /// The operation, and what is wrong.
    pub fn decode(&self, name: &str) -> Result<Decoded, String> {
        self.decode_at(name, DEPTH)
    }

    fn decode_at(&self, name: &str, depth: usize) -> Result<Decoded, String> {
        let op = self.get(name).ok_or_else(|| format!("`{name}` is no constant"))?;
        let decoded = match op.kind.as_str() {
            "const" => self
                .parameter(op, "val")
                .and_then(|s| Ok(Decoded { dtype: s.dtype, data: s.numbers()?, shape: s.shape })),
            "constexpr_cast" => self.cast(op),
            "constexpr_affine_dequantize" => self.affine(op),
            "constexpr_blockwise_shift_scale" => self.blockwise(op, depth),
            "constexpr_lut_to_dense" => self.table(op, depth),
            "constexpr_sparse_to_dense" => self.sparse(op, depth).map(|(s, dtype)| {
                let mut values = s.values.into_iter();
                let data = s.mask.iter().map(|&m| if m { values.next().unwrap_or(0.0) } else { 0.0 }).collect();
                Decoded { dtype, shape: s.shape, data }
            }),
            other => Err(format!("`{other}` has no dense form of its own")),
        };
        let mut decoded = decoded.map_err(|e| format!("operation `{}` (`{}`): {e}", op.kind, op.name))?;
        if decoded.dtype == DataType::F16 && op.kind != "const" {
            decoded.data.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
        }
        Ok(decoded)
    }

    fn out_dtype(op: &Operation) -> Result<DataType, String> {
        op.outputs.last().and_then(|o| o.ty.tensor()).map(|t| t.dtype).ok_or_else(|| "expected a result".to_owned())
    }

    fn cast(&self, op: &'m Operation) -> Result<Decoded, String> {
        let s = self.parameter(op, "source_val")?;
        Ok(Decoded { dtype: Self::out_dtype(op)?, data: s.numbers()?, shape: s.shape })
    }

    /// scale · (q − zero_point) along `axis`.
    fn affine(&self, op: &'m Operation) -> Result<Decoded, String> {
        let data = self.parameter(op, "quantized_data")?;
        let (scale, zero) = (self.parameter(op, "scale")?.numbers()?, self.parameter(op, "zero_point")?.numbers()?);
        let axis = self.parameter(op, "axis")?.numbers()?.first().copied().unwrap_or(0.0) as i64;
        let rank = data.shape.len() as i64;
        let axis = usize::try_from(axis.rem_euclid(rank.max(1))).unwrap_or(0);
        let (n, step) =
            (data.shape.get(axis).copied().unwrap_or(1).max(1), strides(&data.shape).get(axis).copied().unwrap_or(1));
        let pick = |all: &[f32], i: usize| all.get(if all.len() == 1 { 0 } else { i }).copied();
        let numbers = data.numbers()?;
        let value = |(i, q): (usize, f32)| {
            let channel = i / step % n;
            Some((q - pick(&zero, channel)?) * pick(&scale, channel)?)
        };
        let out = numbers.into_iter().enumerate().map(value).collect::<Option<_>>();
        let out = out
            .ok_or_else(|| format!("expected {n} scales and zero points, found {} and {}", scale.len(), zero.len()))?;
        Ok(Decoded { dtype: Self::out_dtype(op)?, shape: data.shape, data: out })
    }

    fn scales(&self, op: &'m Operation, shape: &[usize]) -> Result<(Vec<usize>, Vec<f32>, Option<Vec<f32>>), String> {
        let scale = self.parameter(op, "scale")?;
        let blocks = block_of(shape, &scale.shape)?;
        let offset = match self.literal(op, "offset") {
            Some(_) => Some(self.parameter(op, "offset")?.numbers()?),
            None => None,
        };
        let scale = scale.numbers()?;
        if offset.as_ref().is_some_and(|o| o.len() != scale.len()) {
            return Err(format!("expected {} offsets", scale.len()));
        }
        Ok((blocks, scale, offset))
    }

    /// scale · (q − offset) by block.
    fn blockwise(&self, op: &'m Operation, depth: usize) -> Result<Decoded, String> {
        let data = self.inner(op, "data", depth)?;
        let (blocks, scale, offset) = self.scales(op, &data.shape)?;
        let value = |(q, &b): (f32, &usize)| (q - offset.as_ref().map_or(0.0, |o| o[b])) * scale[b];
        let out = data.data.into_iter().zip(&blocks).map(value).collect();
        Ok(Decoded { dtype: Self::out_dtype(op)?, shape: data.shape, data: out })
    }

    /// The tables of an operation: numbers, groups along each axis, entries, length of a vector.
    fn tables(
        &self,
        op: &'m Operation,
        rank: usize,
        depth: usize,
    ) -> Result<(Vec<f32>, Vec<usize>, usize, usize), String> {
        let lut = self.inner(op, "lut", depth)?;
        match lut.shape.as_slice() {
            // iOS 16: one table.
            [entries] => Ok((lut.data, vec![1; rank], *entries, 1)),
            [groups @ .., entries, vector] if groups.len() == rank => {
                Ok((lut.data, groups.to_vec(), *entries, *vector))
            }
            other => Err(format!("parameter `lut`: expected rank 1 or {}, found {other:?}", rank + 2)),
        }
    }

    fn table(&self, op: &'m Operation, depth: usize) -> Result<Decoded, String> {
        let stored = self.parameter(op, "indices")?;
        let (mut shape, old) = match self.literal(op, "shape") {
            Some(_) => (self.parameter(op, "shape")?.numbers()?.iter().map(|&n| n as usize).collect(), true),
            None => (stored.shape.clone(), false),
        };
        let (lut, groups, entries, vector) = self.tables(op, shape.len(), depth)?;
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("the shape is too large")?;
        let width = if old { entries.max(2).ilog2() as usize } else { stored.dtype.bits().unwrap_or(8) };
        let indices = packed::indices(width, &stored.bytes, count)
            .ok_or_else(|| format!("expected {count} indices of {width} bits, found {} bytes", stored.bytes.len()))?;
        if let Some(&large) = indices.iter().find(|&&i| usize::from(i) >= entries) {
            return Err(format!("expected indices below {entries}, found {large}"));
        }
        let blocks = block_of(&shape, &groups)?;
        let at = |i: usize, v: usize| lut[(blocks[i] * entries + usize::from(indices[i])) * vector + v];
        let data = if vector == 1 {
            (0..count).map(|i| at(i, 0)).collect()
        } else {
            let rank = shape.len() as i64;
            let axis = self.parameter(op, "vector_axis")?.numbers()?.first().copied().unwrap_or(0.0) as i64;
            let axis = usize::try_from(axis.rem_euclid(rank.max(1))).unwrap_or(0);
            let (inner, n) = (strides(&shape)[axis], shape[axis]);
            // Vectors lie along `axis`.
            let outer = count / (inner * n).max(1);
            let mut data = Vec::with_capacity(count * vector);
            for o in 0..outer {
                for j in 0..n * vector {
                    data.extend((0..inner).map(|k| at((o * n + j / vector) * inner + k, j % vector)));
                }
            }
            shape[axis] = n * vector;
            data
        };
        Ok(Decoded { dtype: Self::out_dtype(op)?, shape, data })
    }

    fn mask(
        &self,
        op: &'m Operation,
        name: &str,
        shape: Option<Vec<usize>>,
    ) -> Result<(Vec<usize>, Vec<bool>), String> {
        let stored = self.parameter(op, name)?;
        let shape = shape.unwrap_or_else(|| stored.shape.clone());
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or("the shape is too large")?;
        let bits = packed::indices(1, &stored.bytes, count)
            .ok_or_else(|| format!("parameter `{name}`: expected {count} bits"))?;
        Ok((shape, bits.into_iter().map(|b| b == 1).collect()))
    }

    /// Content of an operation with sparse data, and its element type.
    fn sparse(&self, op: &'m Operation, depth: usize) -> Result<(Sparse, DataType), String> {
        let depth = depth.checked_sub(1).ok_or("compressed forms are nested too deeply")?;
        let (mask_name, data_name) = match op.kind.as_str() {
            "constexpr_lut_to_sparse" => ("indices_mask", "indices_nonzero_data"),
            "constexpr_sparse_blockwise_shift_scale" => ("data_mask", "nonzero_data"),
            _ => ("mask", "nonzero_data"),
        };
        // Mask and data are the two results of another operation, or constants.
        let source = match self.binding(op, data_name) {
            Some(Binding::Name(name)) => self.get(name).filter(|op| op.kind != "const"),
            _ => None,
        };
        let mut sparse = match source {
            Some(source) => self.sparse(source, depth)?.0,
            None => {
                let old = self.literal(op, "shape").is_some();
                let shape = old.then(|| self.parameter(op, "shape")).transpose()?;
                let shape = shape.map(|s| s.numbers()).transpose()?.map(|s| s.iter().map(|&n| n as usize).collect());
                let (shape, mask) = self.mask(op, mask_name, shape)?;
                Sparse { shape, mask, values: self.parameter(op, data_name)?.numbers()? }
            }
        };
        let wanted = sparse.mask.iter().filter(|&&m| m).count();
        if sparse.values.len() < wanted {
            return Err(format!("expected {wanted} elements that are not zero, found {}", sparse.values.len()));
        }
        let positions = || sparse.mask.iter().enumerate().filter(|(_, m)| **m).map(|(i, _)| i);
        match op.kind.as_str() {
            "constexpr_lut_to_sparse" => {
                let (lut, groups, entries, vector) = self.tables(op, sparse.shape.len(), depth)?;
                if vector != 1 {
                    return Err("tables of vectors with sparse indices are not supported".to_owned());
                }
                let blocks = block_of(&sparse.shape, &groups)?;
                let at = |(i, &v): (usize, &f32)| {
                    lut.get(blocks[i] * entries + v as usize).copied().filter(|_| (v as usize) < entries)
                };
                let values = positions().zip(&sparse.values).map(at).collect::<Option<_>>();
                sparse.values = values.ok_or_else(|| format!("expected indices below {entries}"))?;
            }
            "constexpr_sparse_blockwise_shift_scale" => {
                let (blocks, scale, offset) = self.scales(op, &sparse.shape)?;
                let at =
                    |(i, &q): (usize, &f32)| (q - offset.as_ref().map_or(0.0, |o| o[blocks[i]])) * scale[blocks[i]];
                sparse.values = positions().zip(&sparse.values).map(at).collect();
            }
            _ => {}
        }
        let dtype = Self::out_dtype(op)?;
        Ok((sparse, dtype))
    }
}
