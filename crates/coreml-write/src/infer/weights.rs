//! Compressed constants: the type that they decode to.

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, ValueType};

use super::{Call, Rule, dims, extent, one};

pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "constexpr_lut_to_dense" => lut,
        "constexpr_blockwise_shift_scale" => blockwise,
        "constexpr_affine_dequantize" => |c| one(c.ty("scale")?.dtype, c.ty("quantized_data")?.shape.clone()),
        "constexpr_sparse_to_dense" => sparse,
        "constexpr_cast" => |c| {
            let name = c.text("output_dtype").ok_or("parameter `output_dtype` is missing")?;
            let dtype = DataType::from_name(name).ok_or_else(|| format!("expected an element type, found `{name}`"))?;
            one(dtype, c.ty("source_val")?.shape.clone())
        },
        _ => return None,
    })
}

fn lut(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (indices, lut) = (c.ty("indices")?, c.ty("lut")?);
    if c.has("shape") {
        // iOS 16: one table, flat indices of eight bits that hold packed ones.
        let shape = c.ints("shape").ok_or("expected a known shape")?;
        return one(lut.dtype, shape.into_iter().map(extent).collect());
    }
    let rank = indices.shape.len();
    let &[.., entries, vector] = lut.shape.as_slice() else {
        return Err(format!("parameter `lut`: expected rank {}, found {}", rank + 2, dims(&lut.shape)));
    };
    let bits = indices.dtype.bits().filter(|&b| b <= 8 && !indices.dtype.is_float());
    let (Some(bits), Some(entries), Some(vector)) = (bits, entries.fixed(), vector.fixed()) else {
        return Err(format!("expected indices of 1 to 8 bits, found {}", indices.dtype));
    };
    if lut.shape.len() != rank + 2 || entries != 1 << bits {
        return Err(format!(
            "parameter `lut`: expected rank {} with {} entries, found {}",
            rank + 2,
            1 << bits,
            dims(&lut.shape)
        ));
    }
    let mut shape = indices.shape.clone();
    if vector > 1 {
        if !c.has("vector_axis") {
            return Err("parameter `vector_axis` is missing, and the tables hold vectors".to_owned());
        }
        let at = c.axis("vector_axis", 0, rank)?;
        shape[at] = shape[at].fixed().and_then(|n| n.checked_mul(vector)).map_or(Dim::Unknown, Dim::Fixed);
    }
    for (i, (n, groups)) in indices.shape.iter().zip(&lut.shape).enumerate() {
        if let (Some(n), Some(groups)) = (n.fixed(), groups.fixed())
            && (groups == 0 || !n.is_multiple_of(groups))
        {
            return Err(format!("parameter `lut`: expected a divisor of {n} along axis {i}, found {groups}"));
        }
    }
    one(lut.dtype, shape)
}

fn blockwise(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (data, scale) = (c.ty("data")?, c.ty("scale")?);
    if data.shape.len() != scale.shape.len() {
        return Err(format!("parameter `scale`: expected rank {}, found {}", data.shape.len(), dims(&scale.shape)));
    }
    for (n, blocks) in data.shape.iter().zip(&scale.shape) {
        if let (Some(n), Some(blocks)) = (n.fixed(), blocks.fixed())
            && (blocks == 0 || !n.is_multiple_of(blocks))
        {
            return Err(format!(
                "parameter `scale`: expected divisors of {}, found {}",
                dims(&data.shape),
                dims(&scale.shape)
            ));
        }
    }
    if c.has("offset") {
        super::fits("offset", &c.ty("offset")?.shape, &scale.shape)?;
    }
    one(scale.dtype, data.shape.clone())
}

fn sparse(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let data = c.ty("nonzero_data")?;
    match c.ints("shape") {
        Some(shape) => one(data.dtype, shape.into_iter().map(extent).collect()),
        None => one(data.dtype, c.ty("mask")?.shape.clone()),
    }
}
