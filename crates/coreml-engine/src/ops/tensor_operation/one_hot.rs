//! Vectors with one element set.

use candle_core::Tensor;
use coreml_kernels::buffer_pool::zeros;

use crate::array::Array;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::planned::Run;
use crate::shape::{check_size, resolve_axis};

/// `one_hot(indices, one_hot_vector_size, axis = -1, on_value = 1, off_value = 0)`.
pub(super) fn one_hot(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let index = b.slot("indices")?;
    let size = b.param::<i64>("one_hot_vector_size")?;
    let axis = b.attr_or("axis", -1i64)?;
    let (on, off) = (b.attr_or("on_value", 1f32)?, b.attr_or("off_value", 0f32)?);
    let dtype = b.output_dtype(0)?;
    b.run(move |f| {
        let index = f.array(index)?;
        let size = usize::try_from(*size.get(f)?).map_err(|_| OpError::shape("a negative vector size"))?;
        let axis = resolve_axis(axis, index.rank() + 1)?;
        let mut shape = index.shape().to_vec();
        shape.insert(axis, size);
        let count = check_size(&shape)?;
        let inner: usize = index.shape()[axis..].iter().product();
        let places = index.with_i64s(|indices| {
            let place = |(i, &at): (usize, &i64)| {
                let at = if at < 0 { at + size as i64 } else { at };
                let at = usize::try_from(at).ok().filter(|&at| at < size)?;
                Some((i / inner * size + at) * inner + i % inner)
            };
            budget::collect_most(indices.len(), indices.iter().enumerate().filter_map(place))
        })??;
        if dtype.is_int() {
            let mut data = budget::filled(off as i64, count)?;
            places.into_iter().for_each(|at| data[at] = on as i64);
            return one(Array::from_i64(data, &shape, dtype, f.device())?);
        }
        budget::claim_of::<f32>(count)?;
        let mut data = zeros(count);
        if off != 0.0 {
            data.fill(off);
        }
        places.into_iter().for_each(|at| data[at] = on);
        one(Array::new(Tensor::from_vec(data, shape, f.device())?, dtype)?)
    })
}
