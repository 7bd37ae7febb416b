//! Sorting along an axis: `argsort`, `topk`.

use candle_core::Tensor;
use coreml_format::dtype::DataType;
use coreml_format::program::Opset;
use coreml_kernels::{parallel, sort};

use crate::array::Array;
use crate::budget::{self, claim_of};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::ops::reduction::index_dtype;
use crate::planned::Run;
use crate::rearrange::pick_slices;
use crate::shape::resolve_axis;
use crate::value::Value;

/// The tensor with `axis` last, in row-major order, and the indices of the first `k` elements of each row.
fn ranked(x: &Array, axis: usize, k: usize, ascending: bool) -> Result<(Tensor, Vec<usize>), OpError> {
    let n = x.shape()[axis];
    if u32::try_from(n).is_err() {
        return Err(OpError::TooLarge { shape: x.shape().to_vec(), limit: u32::MAX as usize });
    }
    let moved = layout::contiguous(&x.tensor().transpose(axis, x.rank() - 1)?)?;
    if moved.elem_count() == 0 {
        return Ok((moved, Vec::new()));
    }
    claim_of::<usize>((moved.elem_count() / n).saturating_mul(k))?;
    // Sort keys of a row, per thread.
    let wide = if x.dtype().is_float() { size_of::<u64>() } else { size_of::<u128>() };
    let row = n.saturating_mul(wide * 2);
    let _words = budget::lent(row.saturating_mul(parallel::threads().min(moved.elem_count() / n)))?;
    let order = match with_f32s(&moved, |data| sort::top_k(data, n, k, ascending)) {
        Some(order) => order,
        None if x.dtype().is_float() => sort::top_k(&x.with(moved.clone()).to_f32s()?, n, k, ascending),
        None => sort::top_k(&x.with(moved.clone()).to_i64s()?, n, k, ascending),
    };
    Ok((moved, order))
}

/// Indices along the last dimension of `shape`, moved back to `axis`.
fn indices(
    data: Vec<usize>,
    shape: &[usize],
    axis: usize,
    dtype: DataType,
    device: &candle_core::Device,
) -> Result<Array, OpError> {
    let data = budget::collect(data.into_iter().map(|i| i as i64))?;
    let array = Array::from_i64(data, shape, dtype, device)?;
    let t = layout::contiguous(&array.tensor().transpose(axis, shape.len() - 1)?)?;
    Ok(array.with(t))
}

/// `argsort(x, axis = -1, ascending = false)`: stable.
pub(super) fn argsort(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let axis = b.attr_or("axis", -1i64)?;
    let ascending = b.attr_or("ascending", false)?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(axis, x.rank())?;
        let (moved, order) = ranked(&x, axis, x.shape()[axis], ascending)?;
        one(indices(order, moved.dims(), axis, DataType::I32, f.device())?)
    })
}

/// `topk(x, k = 1, axis = -1, ascending = false, sort = true (iOS16), return_indices = true (iOS16),
/// output_indices_dtype = "int32" (iOS17))`: sorted even if the program does not require it.
pub(super) fn topk(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let k = b.param_or("k", 1i64)?;
    let axis = b.attr_or("axis", -1i64)?;
    let ascending = b.attr_or("ascending", false)?;
    b.attr_since(Opset::Ios16, "sort", true)?;
    let wanted = b.attr_since(Opset::Ios16, "return_indices", true)?;
    let index_dtype = index_dtype(b, "output_indices_dtype")?;
    b.run(move |f| {
        let x = f.array(x)?;
        let axis = resolve_axis(axis, x.rank())?;
        let n = x.shape()[axis];
        let k = *k.get(f)?;
        let k = if k == -1 { n } else { usize::try_from(k).unwrap_or(usize::MAX) };
        if k > n {
            return Err(OpError::shape(format!("the best {k} of {n}")));
        }
        let (moved, order) = ranked(&x, axis, k, ascending)?;
        let last = x.rank() - 1;
        let mut shape = moved.dims().to_vec();
        shape[last] = k;
        let starts = budget::collect(order.iter().enumerate().map(|(i, at)| i / k * n + at))?;
        let values = pick_slices(&moved, &starts, 1, &shape)?.transpose(axis, last)?;
        let mut all = vec![Value::Array(x.with(values))];
        if wanted {
            all.push(Value::Array(indices(order, &shape, axis, index_dtype, f.device())?));
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn argsort_keeps_the_order_of_equals() {
        let body = |ascending: bool| {
            format!("tensor<int32, [4]> y = argsort(x = x, axis = int32(0), ascending = bool({ascending}));")
        };
        near(&of(&body(true), &[4], &[2.0, 1.0, 2.0, 1.0]), &[1.0, 3.0, 0.0, 2.0]);
        near(&of(&body(false), &[4], &[2.0, 1.0, 2.0, 1.0]), &[0.0, 2.0, 1.0, 3.0]);
    }
}
