//! Compressed constants (`constexpr_*`), kept in stored form as [`Weight`]s.
//!
//! The iOS16 forms carry flat, packed data as attributes; the iOS18 forms take typed sub-byte tensors and can be
//! combined: sparse data that is palettized or quantized.

use std::sync::Arc;

use coreml_format::dtype::DataType;
use coreml_format::program::Opset;

use crate::array::Array;
use crate::budget::{Counted, claim, claim_of, collect, collect_most, filled, room};
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::literal::KEEP_MAPPED;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::{check_size, resolve_axis};
use crate::value::Value;
use crate::weight::{Blocked, Form, Palette, Raw, Weight, check_blocks};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::constant("constexpr_affine_dequantize", IOS16, affine_dequantize),
    OpSpec::constant("constexpr_blockwise_shift_scale", IOS18, blockwise_shift_scale),
    OpSpec::constant("constexpr_cast", IOS16, cast),
    OpSpec::constant("constexpr_lut_to_dense", IOS16_18, lut_to_dense),
    OpSpec::new("constexpr_lut_to_sparse", IOS18, lut_to_sparse),
    OpSpec::new("constexpr_sparse_blockwise_shift_scale", IOS18, sparse_blockwise_shift_scale),
    OpSpec::constant("constexpr_sparse_to_dense", IOS16_18, sparse_to_dense),
];

fn constant<'b>(b: &'b OpBuilder<'_>, name: &str) -> Result<&'b Value, OpError> {
    let slot = b.slot(name)?;
    b.constant(slot).ok_or_else(|| OpError::data(format!("`{name}` of a compressed constant must be constant")))
}

/// Any constant as a weight; small ones that were already decoded are repacked in their own type.
fn weight(b: &OpBuilder<'_>, name: &str) -> Result<Arc<Weight>, OpError> {
    match constant(b, name)? {
        Value::Weight(w) => Ok(w.clone()),
        Value::Array(a) => {
            let raw = Raw::Bytes(pack(a)?.into());
            Ok(Arc::new(Weight::with_form(a.dtype(), a.shape().to_vec(), Form::Dense(raw))))
        }
        other => Err(OpError::Kind { name: name.to_owned(), expected: "a tensor", found: other.kind() }),
    }
}

/// Encodes elements in the packed form of weight files.
fn pack(a: &Array) -> Result<Vec<u8>, OpError> {
    let dtype = a.dtype();
    if dtype.is_float() {
        let values = a.to_f32s()?;
        claim_of::<f64>(values.len().saturating_mul(2))?;
        return Ok(match dtype {
            DataType::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            DataType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataType::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
            DataType::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            other => return Err(OpError::Unsupported(format!("a compressed constant made from inline {other}"))),
        });
    }
    let bits = if dtype == DataType::Bool { 8 } else { dtype.bits().unwrap_or(8) };
    let values = a.to_i64s()?;
    if bits.is_multiple_of(8) {
        claim_of::<i64>(values.len().saturating_mul(2))?;
        return Ok(values.iter().flat_map(|v| v.to_le_bytes().into_iter().take(bits / 8)).collect());
    }
    pack_bits(&values, bits as u32)
}

fn floats(b: &OpBuilder<'_>, name: &str) -> Result<(Vec<f32>, Vec<usize>, DataType), OpError> {
    let array = constant(b, name)?.array(name, &candle_core::Device::Cpu)?;
    Ok((array.to_f32s()?, array.shape().to_vec(), array.dtype()))
}

/// Compressed constants of at most this many elements are decoded at load time: at most 256 KiB of `f32`.
const DECODED: usize = 1 << 16;

/// The value of a compressed constant. Small ones gain nothing by staying compressed; decoded, they take the same path,
/// bit for bit, as uncompressed constants.
fn finish(b: &OpBuilder<'_>, weight: Weight) -> Result<Value, OpError> {
    let count = check_size(weight.shape())?;
    if count > DECODED || !weight.dtype().is_float() {
        return Ok(Value::Weight(Arc::new(weight)));
    }
    let values = weight.expand(&candle_core::Device::Cpu)?.to_f32s()?;
    let dense = Weight::from_f32s(&values, weight.dtype(), weight.shape().to_vec())?;
    if count > KEEP_MAPPED { Ok(Value::Weight(Arc::new(dense))) } else { Ok(Value::Array(dense.expand(b.device())?)) }
}

/// `constexpr_affine_dequantize(quantized_data, zero_point, scale, axis)`: `scale · (q − zero_point)`, the
/// parameters scalars or vectors along `axis`.
fn affine_dequantize(b: &OpBuilder<'_>) -> Result<Value, OpError> {
    let data = weight(b, "quantized_data")?;
    let (scale, _, dtype) = floats(b, "scale")?;
    let (zero, ..) = floats(b, "zero_point")?;
    let axis = resolve_axis(b.attr_or("axis", 0i64)?, data.shape().len().max(1))?;
    let mut shape = vec![1; data.shape().len()];
    let count = scale.len().max(zero.len());
    if let Some(n) = shape.get_mut(axis) {
        *n = count;
    }
    check_blocks(data.shape(), &shape)?;
    let fill = |v: Vec<f32>| {
        if v.len() == count {
            Ok(v)
        } else if v.len() == 1 {
            filled(v[0], count)
        } else {
            Err(OpError::shape(format!("{} parameters for {count} channels", v.len())))
        }
    };
    let form =
        Form::Blocks { scale: Blocked { values: fill(scale)?, shape }, offset: Some(fill(zero)?), data: data.clone() };
    finish(b, Weight::with_form(dtype, data.shape().to_vec(), form))
}

/// `constexpr_blockwise_shift_scale(data, scale, offset?)`: `scale · (data − offset)`; each extent of `scale` divides
/// that of `data`.
pub(super) fn blockwise_shift_scale(b: &OpBuilder<'_>) -> Result<Value, OpError> {
    let data = weight(b, "data")?;
    let (values, shape, dtype) = floats(b, "scale")?;
    check_blocks(data.shape(), &shape)?;
    let offset = if b.has("offset") { Some(floats(b, "offset")?.0) } else { None };
    if offset.as_ref().is_some_and(|o| o.len() != values.len()) {
        return Err(OpError::shape("`offset` does not have the shape of `scale`"));
    }
    let shape_of_data = data.shape().to_vec();
    finish(b, Weight::with_form(dtype, shape_of_data, Form::Blocks { data, scale: Blocked { values, shape }, offset }))
}

/// `constexpr_cast(source_val, output_dtype)`.
fn cast(b: &OpBuilder<'_>) -> Result<Value, OpError> {
    let name: String = b.attr("output_dtype")?;
    let dtype = DataType::from_name(&name).ok_or_else(|| OpError::data(format!("unknown type `{name}`")))?;
    match constant(b, "source_val")? {
        // fp16 values are exact in fp32: the stored form is kept.
        Value::Weight(w) => match w.raw() {
            Some(raw) if w.dtype() == dtype => {
                finish(b, Weight::with_form(dtype, w.shape().to_vec(), Form::Dense(raw.clone())))
            }
            _ => Ok(Value::Array(Array::new(w.expand(b.device())?.into_tensor(), dtype)?)),
        },
        other => Ok(Value::Array(Array::new(other.array("source_val", b.device())?.into_tensor(), dtype)?)),
    }
}

fn table_bits(entries: usize) -> Result<u32, OpError> {
    let bits = entries.trailing_zeros();
    if entries.is_power_of_two() && matches!(bits, 1 | 2 | 3 | 4 | 6 | 8) {
        Ok(bits)
    } else {
        Err(OpError::shape(format!("a table of {entries} entries; expected 2, 4, 8, 16, 64 or 256")))
    }
}

/// `constexpr_lut_to_dense`: iOS16 `(indices, lut, shape)` with packed bytes, iOS18
/// `(indices, lut, vector_axis?)` with `lut` of shape `[blocks…, 2^n, vector]`.
fn lut_to_dense(b: &OpBuilder<'_>) -> Result<Value, OpError> {
    if !b.since(Opset::Ios18) {
        return lut_flat(b);
    }
    let indices = weight(b, "indices")?;
    let lut = weight(b, "lut")?;
    let (palette, shape) = palette(b, &indices, &lut)?;
    finish(b, Weight::with_form(lut.dtype(), shape, Form::Lut(palette)))
}

/// `engine.table_weight(indices, table)`: `table[indices]`, with a table of `2^n` numbers for n-bit indices.
pub(super) fn table_weight(b: &OpBuilder<'_>) -> Result<Value, OpError> {
    let indices = weight(b, "indices")?;
    let (table, ..) = floats(b, "table")?;
    let mut shape = vec![1; indices.shape().len()];
    shape.extend([table.len(), 1]);
    // Products read tables of fp16; numbers that it has not stay in fp32.
    let exact = table.iter().all(|&v| half::f16::from_f32(v).to_f32() == v);
    let lut = Weight::from_f32s(&table, if exact { DataType::F16 } else { DataType::F32 }, shape)?;
    let (palette, shape) = palette(b, &indices, &lut)?;
    finish(b, Weight::with_form(DataType::F32, shape, Form::Lut(palette)))
}

fn lut_flat(b: &OpBuilder<'_>) -> Result<Value, OpError> {
    let lut = weight(b, "lut")?;
    let shape = sizes(b, "shape")?;
    let count = check_size(&shape)?;
    let bits = table_bits(lut.shape().iter().product())?;
    let indices = weight(b, "indices")?;
    let raw = indices.raw().ok_or_else(|| OpError::data("indices that are themselves compressed"))?.clone();
    if raw.len() < (count * bits as usize).div_ceil(8) {
        return Err(OpError::shape(format!("{} bytes of {bits}-bit indices for shape {shape:?}", raw.len())));
    }
    let tables = lut.raw().ok_or_else(|| OpError::data("a table that is itself compressed"))?.clone();
    let blocks = vec![1; shape.len()];
    let palette = Palette {
        bits,
        indices: raw,
        index_shape: shape.clone(),
        table_dtype: lut.dtype(),
        tables,
        blocks,
        vector: 1,
        axis: 0,
    };
    finish(b, Weight::with_form(lut.dtype(), shape, Form::Lut(palette)))
}

fn palette(b: &OpBuilder<'_>, indices: &Weight, lut: &Weight) -> Result<(Palette, Vec<usize>), OpError> {
    let rank = indices.shape().len();
    let [blocks @ .., entries, vector] = lut.shape() else {
        return Err(OpError::shape(format!("a table of shape {:?}", lut.shape())));
    };
    check_blocks(indices.shape(), blocks)?;
    let bits = table_bits(*entries)?;
    let axis = match b.attr_opt::<i64>("vector_axis")? {
        Some(a) => resolve_axis(a, rank)?,
        None if *vector == 1 => 0,
        None => return Err(OpError::Missing("vector_axis".to_owned())),
    };
    let mut shape = indices.shape().to_vec();
    if let Some(n) = shape.get_mut(axis) {
        *n = n.saturating_mul(*vector);
    }
    check_size(&shape)?;
    let raw = match indices.raw() {
        Some(raw) if indices.dtype().bits() == Some(bits as usize) => raw.clone(),
        // Indices in a type wider than the table needs.
        _ => Raw::Bytes(pack_bits(&indices.expand(&candle_core::Device::Cpu)?.to_i64s()?, bits)?.into()),
    };
    let tables = match lut.raw() {
        Some(raw) => (raw.clone(), lut.dtype()),
        None => {
            // Joint compression: the table itself is quantized.
            let values = lut.expand(&candle_core::Device::Cpu)?.to_f32s()?;
            let dense = Weight::from_f32s(&values, lut.dtype(), lut.shape().to_vec())?;
            let dtype = dense.dtype();
            (dense.raw().cloned().ok_or_else(|| OpError::data("an expanded table is dense"))?, dtype)
        }
    };
    let palette = Palette {
        bits,
        indices: raw,
        index_shape: indices.shape().to_vec(),
        table_dtype: tables.1,
        tables: tables.0,
        blocks: blocks.to_vec(),
        vector: *vector,
        axis,
    };
    Ok((palette, shape))
}

/// Packs the lowest bits of integers into a byte stream.
fn pack_bits(values: &[i64], bits: u32) -> Result<Vec<u8>, OpError> {
    let bits = bits as usize;
    claim((values.len() * bits).div_ceil(8))?;
    let mut out = filled(0u8, (values.len() * bits).div_ceil(8))?;
    for (i, v) in values.iter().enumerate() {
        for k in 0..bits {
            let bit = i * bits + k;
            out[bit / 8] |= ((v >> k & 1) as u8) << (bit % 8);
        }
    }
    Ok(out)
}

fn sizes(b: &OpBuilder<'_>, name: &str) -> Result<Vec<usize>, OpError> {
    let values: Vec<i64> = b.attr(name)?;
    values
        .into_iter()
        .map(|v| usize::try_from(v).map_err(|_| OpError::shape(format!("`{name}` has the extent {v}"))))
        .collect()
}

/// The bit mask, one bit per element, and its shape.
fn mask_bits(b: &OpBuilder<'_>, name: &str) -> Result<(Raw, Vec<usize>), OpError> {
    let mask = weight(b, name)?;
    let raw = match mask.raw() {
        Some(raw) if mask.dtype() == DataType::U1 => raw.clone(),
        _ => Raw::Bytes(pack_bits(&mask.expand(&candle_core::Device::Cpu)?.to_i64s()?, 1)?.into()),
    };
    Ok((raw, mask.shape().to_vec()))
}

fn set_bits(mask: &[u8], count: usize) -> impl Iterator<Item = usize> + '_ {
    (0..count).filter(|&i| mask.get(i / 8).is_some_and(|b| b >> (i % 8) & 1 == 1))
}

/// `constexpr_sparse_to_dense`: iOS16 `(nonzero_data, mask, shape)` with a packed mask, iOS18
/// `(nonzero_data, mask)` with a mask of `uint1`.
fn sparse_to_dense(b: &OpBuilder<'_>) -> Result<Value, OpError> {
    let nonzero = weight(b, "nonzero_data")?;
    let (mask, shape) = if !b.since(Opset::Ios18) {
        let packed = weight(b, "mask")?;
        let raw = packed.raw().ok_or_else(|| OpError::data("a mask that is compressed"))?.clone();
        (raw, sizes(b, "shape")?)
    } else {
        mask_bits(b, "mask")?
    };
    let count = check_size(&shape)?;
    if mask.len() < count.div_ceil(8) {
        return Err(OpError::shape(format!("a mask of {} bytes for shape {shape:?}", mask.len())));
    }
    let slice: usize = shape.iter().skip(1).product::<usize>().max(1);
    let mut starts = room(count / slice + 1)?;
    let mut total = 0;
    for i in 0..count {
        if i % slice == 0 {
            starts.push(total);
        }
        total += usize::from(mask[i / 8] >> (i % 8) & 1);
    }
    if nonzero.shape().iter().product::<usize>() < total {
        return Err(OpError::shape(format!("{:?} values for a mask with {total} set bits", nonzero.shape())));
    }
    finish(b, Weight::with_form(nonzero.dtype(), shape, Form::Sparse { mask, nonzero, starts }))
}

fn two(mask: Value, values: &[f32], dtype: DataType) -> Result<Run, OpError> {
    let nonzero = Value::Weight(Arc::new(Weight::from_f32s(values, dtype, vec![values.len()])?));
    Ok(Box::new(move |_| Ok(vec![mask.clone(), nonzero.clone()])))
}

/// `constexpr_lut_to_sparse(indices_mask, indices_nonzero_data, lut, vector_axis?)` → mask, values.
fn lut_to_sparse(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (mask, shape) = mask_bits(b, "indices_mask")?;
    let count = check_size(&shape)?;
    let found = weight(b, "indices_nonzero_data")?.expand(&candle_core::Device::Cpu)?.to_i64s()?;
    let lut = weight(b, "lut")?;
    // Expand the indices to the full shape: their blocks depend on their positions.
    let mut spread = filled(0i64, count)?;
    for (i, v) in set_bits(&mask, count).zip(found) {
        spread[i] = v;
    }
    let bits = table_bits(lut.shape().iter().rev().nth(1).copied().unwrap_or(0))?;
    let packed = Raw::Bytes(pack_bits(&spread, bits)?.into());
    let dtype = DataType::unsigned(bits as usize);
    let indices = Weight::with_form(dtype, shape.clone(), Form::Dense(packed));
    let (palette, out_shape) = palette(b, &indices, &lut)?;
    let (vector, axis) = (palette.vector, palette.axis);
    let dense = Weight::with_form(lut.dtype(), out_shape.clone(), Form::Lut(palette));
    let all = dense.expand(&candle_core::Device::Cpu)?.to_f32s()?;
    if vector == 1 {
        let values = collect_most(set_bits(&mask, count).count(), set_bits(&mask, count).map(|i| all[i]))?;
        return two(constant(b, "indices_mask")?.clone(), &values, lut.dtype());
    }
    // Each set bit yields a vector of elements: repeat the mask along the axis.
    let bools: Vec<u8> = collect((0..count).map(|i| mask[i / 8] >> (i % 8) & 1))?;
    let small = candle_core::Tensor::from_vec(bools, shape.as_slice(), &candle_core::Device::Cpu)?;
    let index: Vec<u32> = collect((0..out_shape[axis]).map(|i| (i / vector) as u32))?;
    let index = candle_core::Tensor::from_vec(index, out_shape[axis], &candle_core::Device::Cpu)?;
    claim(all.len())?;
    let wide = small.index_select(&index, axis)?;
    let flags: Vec<u8> = wide.counted_elements()?;
    let kept = all.iter().zip(&flags).filter(|(_, f)| **f == 1).map(|(v, _)| *v);
    let values: Vec<f32> = collect_most(all.len(), kept)?;
    let mask = Array::new(wide, DataType::U1)?;
    two(Value::Array(mask), &values, lut.dtype())
}

/// `constexpr_sparse_blockwise_shift_scale(data_mask, nonzero_data, scale, offset?)` → mask, values.
fn sparse_blockwise_shift_scale(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (mask, shape) = mask_bits(b, "data_mask")?;
    let count = check_size(&shape)?;
    let found = weight(b, "nonzero_data")?.expand(&candle_core::Device::Cpu)?.to_f32s()?;
    let mut spread = filled(0f32, count)?;
    for (i, v) in set_bits(&mask, count).zip(found) {
        spread[i] = v;
    }
    let (scale, blocks, dtype) = floats(b, "scale")?;
    check_blocks(&shape, &blocks)?;
    let offset = if b.has("offset") { Some(floats(b, "offset")?.0) } else { None };
    if offset.as_ref().is_some_and(|o| o.len() != scale.len()) {
        return Err(OpError::shape("`offset` does not have the shape of `scale`"));
    }
    let data = Arc::new(Weight::from_f32s(&spread, DataType::F32, shape.clone())?);
    let dense =
        Weight::with_form(dtype, shape, Form::Blocks { data, scale: Blocked { values: scale, shape: blocks }, offset });
    let all = dense.expand(&candle_core::Device::Cpu)?.to_f32s()?;
    let values = collect_most(set_bits(&mask, count).count(), set_bits(&mask, count).map(|i| all[i]))?;
    two(constant(b, "data_mask")?.clone(), &values, dtype)
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn constexpr_affine_dequantize_works_along_its_axis() {
        let body = "tensor<fp32, [2, 2]> w = constexpr_affine_dequantize()[quantized_data = tensor<uint8, [2, 2]>([[1, 2], [3, 255]]), \
            zero_point = tensor<uint8, [2]>([1, 3]), scale = tensor<fp32, [2]>([2, 0.5]), axis = int32(0)]; \
            tensor<fp32, [2, 2]> y = add(x = x, y = w);";
        near(&of(body, &[1], &[0.0]), &[0.0, 2.0, 0.0, 126.0]);
    }

    #[test]
    fn constexpr_sparse_to_dense_fills_with_zeros() {
        let body = |values: &str| {
            format!(
                "tensor<fp32, [4]> w = constexpr_sparse_to_dense(nonzero_data = tensor<fp32, [2]>([{values}]), \
                 mask = tensor<uint1, [4]>([0, 1, 0, 1])); tensor<fp32, [4]> y = add(x = x, y = w);"
            )
        };
        near(&of(&body("5, 7"), &[1], &[0.0]), &[0.0, 5.0, 0.0, 7.0]);
    }
}
