//! Memory layouts of tensors: views are kept where possible, and kernels make the copies.
//!
//! A convolution produces channels-last data; elementwise operations preserve that layout, so the next convolution can
//! use it directly.

use candle_core::{DType, Tensor, WithDType};
use coreml_kernels::buffer_pool::{Element, zeros};
use coreml_kernels::elementwise::{Binary, Unary, map as map_elements, zip};
use coreml_kernels::fp16;
use coreml_kernels::strided::Strided;
use half::f16;

use crate::budget::{self, Counted, claim_of};
use crate::error::OpError;
pub(crate) use crate::memory_order::{from_memory, inverse, memory_order, with_elements, with_f32s, with_memory};
pub(crate) use crate::rearrange::contiguous;
use crate::recycle::recycle_temp;

/// Applies `f` to an `F32` CPU tensor in memory order; `None` for other tensors and for those with gaps.
pub(crate) fn map(t: &Tensor, f: impl Unary) -> Result<Option<Tensor>, OpError> {
    let done = with_memory(t, |data| claim_of::<f32>(data.len()).map(|()| map_elements(data, f)));
    done.map(|(out, order)| from_memory(out?, t.dims(), &order, t)).transpose()
}

/// True if input tensors may have this element type.
pub(crate) fn is_taken(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, U8 | U32 | I16 | I32 | I64 | BF16 | F16 | F32 | F64)
}

/// Converts the element type. Rejects Candle's formats of 8 bits or less, some of whose conversions never terminate.
pub(crate) fn to_dtype(t: &Tensor, dtype: DType) -> Result<Tensor, OpError> {
    if !is_taken(t.dtype()) {
        return Err(OpError::data(format!("elements of type {}", t.dtype().as_str())));
    }
    let (n, contiguous) = (t.elem_count(), t.is_contiguous());
    let narrow = |data: &[f32]| {
        let mut out = budget::filled(f16::ZERO, n)?;
        fp16::narrow(&data[..n], &mut out);
        Ok(Tensor::from_vec(out, t.dims(), t.device())?)
    };
    let widen = |data: &[f16]| {
        claim_of::<f32>(n)?;
        let mut out = zeros(n);
        fp16::widen(&data[..n], &mut out);
        Ok(Tensor::from_vec(out, t.dims(), t.device())?)
    };
    let converted = match (t.dtype(), dtype) {
        (DType::F32, DType::F16) if contiguous => with_elements(t, narrow),
        (DType::F16, DType::F32) if contiguous => with_elements(t, widen),
        _ => None,
    };
    converted.unwrap_or_else(|| t.counted_to_dtype(dtype))
}

/// Calls `f` with the elements in row-major order; `None` if they are not in CPU memory.
pub(crate) fn with_rows<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<Option<R>, OpError> {
    let rows = contiguous(t)?;
    let result = with_f32s(&rows, f);
    recycle_temp(&rows, t);
    Ok(result)
}

/// Rounds floats to fp16.
pub(crate) fn rounded(t: &Tensor) -> Result<Tensor, OpError> {
    let round = |data: &[f32]| {
        claim_of::<f32>(data.len())?;
        let mut out = zeros(data.len());
        fp16::round(data, &mut out);
        Ok::<_, OpError>(out)
    };
    match with_memory(t, round) {
        Some((out, order)) => from_memory(out?, t.dims(), &order, t),
        None => t.counted_to_dtype(DType::F16)?.counted_to_dtype(DType::F32),
    }
}

/// Copies the elements of an `F32` tensor in row-major order.
pub(crate) fn to_f32s(t: &Tensor) -> Result<Vec<f32>, OpError> {
    let t = contiguous(t)?;
    match with_f32s(&t, |data| claim_of::<f32>(data.len()).map(|()| data.to_vec())) {
        Some(data) => data,
        None => t.counted_elements(),
    }
}

/// Applies `f` to two broadcast CPU tensors of one element type, in the memory order of the larger one; `None` for tensors of
/// other types or elsewhere.
pub(crate) fn binary<T: WithDType + Element, F: Binary<T, Output: WithDType>>(
    x: &Tensor,
    y: &Tensor,
    shape: &[usize],
    f: F,
) -> Result<Option<Tensor>, OpError> {
    let order = match (x.dims() == shape, y.dims() == shape) {
        (true, _) => memory_order(x),
        (false, true) => memory_order(y),
        _ => (0..shape.len()).collect(),
    };
    let dims: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
    let (xs, ys) = (spread(x, shape, &order)?, spread(y, shape, &order)?);
    if x.dtype() == T::DTYPE && y.dtype() == T::DTYPE {
        claim_of::<F::Output>(shape.iter().product())?;
    }
    let result = with_elements::<T, _>(x, |x| {
        with_elements::<T, _>(y, |y| {
            zip(&dims, Strided { data: x, strides: &xs }, Strided { data: y, strides: &ys }, f)
        })
    });
    match result.flatten() {
        Some(out) => Ok(Some(from_memory(out, shape, &order, x)?)),
        None => Ok(None),
    }
}

/// Strides of a tensor broadcast to a shape with its dimensions in this order, without creating a view.
fn spread(t: &Tensor, shape: &[usize], order: &[usize]) -> Result<Vec<usize>, OpError> {
    let new = shape.len().checked_sub(t.rank());
    let fits = new.is_some_and(|new| t.dims().iter().zip(&shape[new..]).all(|(&own, &n)| own == 1 || own == n));
    let new = new.filter(|_| fits).ok_or_else(|| OpError::shape(format!("{:?} as {shape:?}", t.dims())))?;
    let stride = |d: usize| d.checked_sub(new).filter(|&own| t.dims()[own] != 1).map_or(0, |own| t.stride()[own]);
    Ok(order.iter().map(|&d| stride(d)).collect())
}

/// Views an `F32` CPU tensor as three extents with `axes` in the middle, in memory order, and returns the extents and
/// the order of the dimensions. If its layout does not allow that, copies it with `axes` last. `None` for tensors on
/// other devices.
pub(crate) fn along<R>(
    t: &Tensor,
    axes: &[usize],
    f: impl FnOnce(&[f32], [usize; 3]) -> R,
) -> Result<Option<(R, Vec<usize>)>, OpError> {
    let order = memory_order(t);
    let dense = t.permute(order.as_slice())?;
    let split = |order: &[usize]| {
        let wide: Vec<usize> = order.iter().copied().filter(|&d| t.dims()[d] != 1).collect();
        let first = wide.iter().position(|d| axes.contains(d)).unwrap_or(wide.len());
        let count = wide[first..].iter().take_while(|d| axes.contains(d)).count();
        let extent = |dims: &[usize]| dims.iter().map(|&d| t.dims()[d]).product::<usize>();
        let (middle, inner) = wide[first..].split_at(count);
        let together = !inner.iter().any(|d| axes.contains(d));
        together.then(|| [extent(&wide[..first]), extent(middle), extent(inner)])
    };
    if let (Some(extents), true) = (split(&order), dense.is_contiguous()) {
        return Ok(with_f32s(&dense, |data| f(data, extents)).map(|r| (r, order)));
    }
    let mut order: Vec<usize> = (0..t.rank()).filter(|d| !axes.contains(d)).collect();
    order.extend(axes);
    let dense = contiguous(&t.permute(order.as_slice())?)?;
    let size = axes.iter().map(|&d| t.dims()[d]).product::<usize>();
    let outer = order[..t.rank() - axes.len()].iter().map(|&d| t.dims()[d]).product::<usize>();
    Ok(with_f32s(&dense, |data| f(data, [outer, size, 1])).map(|r| (r, order)))
}

/// Target extents that each extent of a shape splits into, ignoring ones; `None` if extents are merged.
fn splits(from: &[usize], to: &[usize]) -> Option<Vec<Vec<usize>>> {
    let mut rest = to.iter().copied().peekable();
    let mut groups = Vec::with_capacity(from.len());
    for &n in from {
        let (mut group, mut size) = (Vec::new(), 1);
        while size < n {
            let next = rest.next()?;
            size *= next;
            group.push(next);
        }
        if size != n {
            return None;
        }
        groups.push(group);
    }
    // The remaining extents are one and belong to the last dimension.
    let left: Vec<usize> = rest.collect();
    if left.iter().any(|&n| n != 1) {
        return None;
    }
    groups.last_mut()?.extend(left);
    Some(groups)
}

/// `reshape` that keeps the memory order if dimensions are only split; copies otherwise.
pub(crate) fn reshape(t: &Tensor, shape: &[usize]) -> Result<Tensor, OpError> {
    if t.is_contiguous() || t.elem_count() == 0 {
        return Ok(t.reshape(shape)?);
    }
    let order = memory_order(t);
    let dense = t.permute(order.as_slice())?;
    let groups = splits(t.dims(), shape).filter(|_| dense.is_contiguous());
    let Some(groups) = groups else { return Ok(contiguous(t)?.reshape(shape)?) };
    // Split extents in memory order, and the new position of each target dimension.
    let starts: Vec<usize> = groups
        .iter()
        .scan(0, |next, g| {
            let start = *next;
            *next += g.len();
            Some(start)
        })
        .collect();
    let in_memory: Vec<usize> = order.iter().flat_map(|&d| starts[d]..starts[d] + groups[d].len()).collect();
    let extents: Vec<usize> = in_memory.iter().map(|&d| shape[d]).collect();
    Ok(dense.reshape(extents)?.permute(inverse(&in_memory))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    fn elements(t: &Tensor) -> Vec<f32> {
        t.flatten_all().and_then(|t| t.to_vec1()).expect("elements")
    }

    proptest! {
        #[test]
        fn views_have_the_elements_of_copies(
            dims in prop::collection::vec(1usize..5, 1..5),
            keys in prop::collection::vec(any::<u8>(), 4),
            parts in prop::collection::vec(1usize..4, 5),
        ) {
            let mut order: Vec<usize> = (0..dims.len()).collect();
            order.sort_by_key(|&d| keys[d]);
            let size: usize = dims.iter().product();
            let base = Tensor::arange(0f32, size as f32, &Device::Cpu).and_then(|t| t.reshape(dims)).expect("a tensor");
            let view = base.permute(order).expect("a view");
            prop_assert_eq!(elements(&contiguous(&view).expect("copied")), elements(&view));
            prop_assert_eq!(to_f32s(&view).expect("copied"), elements(&view));
            // Random extents: split in two where divisible, merged, with ones in between.
            let mut split: Vec<usize> = Vec::new();
            for (&n, &p) in view.dims().iter().zip(&parts) {
                split.extend(if n % p == 0 { vec![p, 1, n / p] } else { vec![n] });
            }
            for target in [split, vec![size], vec![1, size, 1]] {
                let got = reshape(&view, &target).expect("reshaped");
                prop_assert_eq!(got.dims(), target.as_slice());
                prop_assert_eq!(elements(&got), elements(&view));
            }
            let row = Tensor::arange(0f32, view.dims()[view.rank() - 1] as f32, &Device::Cpu).expect("a row");
            let sum = binary(&view, &row, view.dims(), |a: f32, b: f32| a + b).expect("added").expect("on the CPU");
            prop_assert_eq!(elements(&sum), elements(&view.broadcast_add(&row).expect("added")));
            prop_assert_eq!(memory_order(&sum), memory_order(&view));
        }
    }

    #[test]
    fn splitting_the_channels_of_a_convolution_copies_nothing() {
        let rows = Tensor::zeros((1, 1, 5, 8), candle_core::DType::F32, &Device::Cpu).expect("channels last");
        let y = rows.permute((0, 3, 1, 2)).expect("channels second");
        let heads = reshape(&y, &[1, 2, 4, 5]).expect("heads");
        assert_eq!(heads.stride()[1..], [4, 1, 8]);
    }
}
