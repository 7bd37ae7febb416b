//! Slice parameters of `slice_by_index` and `slice_update`.

use candle_core::Tensor;
use coreml_kernels::gather::AxisIndices;

use crate::budget::{claim_of, room};
use crate::build::{OpBuilder, Param};
use crate::error::OpError;
use crate::frame::Frame;
use crate::rearrange::pick;

/// Positions selected by a slice in one dimension.
pub(crate) fn positions(
    n: usize,
    begin: i64,
    end: i64,
    stride: i64,
    begin_mask: bool,
    end_mask: bool,
) -> Result<AxisIndices, OpError> {
    if stride == 0 {
        return Err(OpError::shape("a slice with a stride of zero"));
    }
    let n = n as i64;
    let wrap = |v: i64| if v < 0 { v + n } else { v };
    let mut out = Vec::new();
    let claimed = |from: i64, to: i64| room::<usize>(from.abs_diff(to).div_ceil(stride.unsigned_abs()) as usize);
    if stride > 0 {
        let begin = if begin_mask { 0 } else { wrap(begin).clamp(0, n) };
        let end = if end_mask { n } else { wrap(end).clamp(0, n) };
        if begin < end && (stride == 1 || end - begin <= stride) {
            return Ok(AxisIndices::Run(begin as usize..if stride == 1 { end } else { begin + 1 } as usize));
        }
        let mut i = begin;
        if begin < end {
            out = claimed(begin, end)?;
        }
        while i < end {
            out.push(i as usize);
            i = i.saturating_add(stride);
        }
    } else {
        let begin = if begin_mask { n - 1 } else { wrap(begin).clamp(-1, n - 1) };
        let end = if end_mask { -1 } else { wrap(end).clamp(-1, n - 1) };
        let mut i = begin;
        if begin > end {
            out = claimed(begin, end)?;
        }
        while i > end {
            out.push(i as usize);
            i = i.saturating_add(stride);
        }
        if let [one] = out[..] {
            return Ok(AxisIndices::Run(one..one + 1));
        }
    }
    Ok(AxisIndices::At(out))
}

/// Parameters of `slice_by_index` and `slice_update`.
pub(crate) struct SliceParams {
    begin: Param<Vec<i64>>,
    end: Param<Vec<i64>>,
    stride: Param<Vec<i64>>,
    begin_mask: Param<Vec<bool>>,
    end_mask: Param<Vec<bool>>,
    squeeze_mask: Param<Vec<bool>>,
}

impl SliceParams {
    pub(crate) fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        Self::with_prefix(b, "")
    }

    /// The parameters of one of several slices of an operation, by prefix.
    pub(crate) fn with_prefix(b: &OpBuilder<'_>, prefix: &str) -> Result<Self, OpError> {
        let named = |name: &str| format!("{prefix}{name}");
        Ok(Self {
            begin: b.param(&named("begin"))?,
            end: b.param(&named("end"))?,
            stride: b.param_or(&named("stride"), Vec::new())?,
            begin_mask: b.param_or(&named("begin_mask"), Vec::new())?,
            end_mask: b.param_or(&named("end_mask"), Vec::new())?,
            squeeze_mask: b.param_or(&named("squeeze_mask"), Vec::new())?,
        })
    }

    /// The positions in each dimension, and the dimensions to squeeze.
    pub(crate) fn resolve(&self, f: &Frame<'_>, dims: &[usize]) -> Result<(Vec<AxisIndices>, Vec<bool>), OpError> {
        self.resolve_rows(f, dims, None)
    }

    /// Same as [`resolve`](Self::resolve); `rows` overrides the end of one dimension by a number of positions.
    pub(crate) fn resolve_rows(
        &self,
        f: &Frame<'_>,
        dims: &[usize],
        rows: Option<(usize, usize)>,
    ) -> Result<(Vec<AxisIndices>, Vec<bool>), OpError> {
        let (begin, mut end) = (self.begin.get(f)?, self.end.get(f)?);
        let (stride, squeeze) = (self.stride.get(f)?, self.squeeze_mask.get(f)?);
        let (begin_mask, end_mask) = (self.begin_mask.get(f)?, self.end_mask.get(f)?);
        if begin.len() != dims.len() || end.len() != dims.len() {
            return Err(OpError::shape(format!("slice {begin:?}..{end:?} of shape {dims:?}")));
        }
        if let Some((d, count)) = rows.filter(|&(d, _)| d < dims.len()) {
            end.to_mut()[d] = begin[d].saturating_add(count as i64);
        }
        let flag = |v: &[bool], d: usize| v.get(d).copied().unwrap_or(false);
        let mut all = Vec::with_capacity(dims.len());
        for (d, &n) in dims.iter().enumerate() {
            if flag(&squeeze, d) {
                let at = if flag(&begin_mask, d) {
                    0
                } else if begin[d] < 0 {
                    begin[d] + n as i64
                } else {
                    begin[d]
                };
                let at = usize::try_from(at).ok().filter(|&a| a < n);
                let at = at.ok_or_else(|| OpError::shape(format!("index {} of an extent of {n}", begin[d])))?;
                all.push(AxisIndices::Run(at..at + 1));
                continue;
            }
            let step = stride.get(d).copied().unwrap_or(1);
            all.push(positions(n, begin[d], end[d], step, flag(&begin_mask, d), flag(&end_mask, d))?);
        }
        let squeeze = (0..dims.len()).map(|d| flag(&squeeze, d)).collect();
        Ok((all, squeeze))
    }
}

/// The positions as ranges, if contiguous in every dimension.
pub(crate) fn runs(positions: &[AxisIndices]) -> Option<Vec<std::ops::Range<usize>>> {
    let run = |p: &AxisIndices| match p {
        AxisIndices::Run(run) => Some(run.clone()),
        AxisIndices::At(_) => None,
    };
    positions.iter().map(run).collect()
}

/// Takes the positions of each dimension; contiguous ranges are views.
pub(crate) fn take(t: &Tensor, positions: &[AxisIndices], squeeze: &[bool]) -> Result<Tensor, OpError> {
    let mut t = t.clone();
    let mut places: Vec<AxisIndices> = Vec::with_capacity(positions.len());
    for (d, p) in positions.iter().enumerate() {
        match p {
            AxisIndices::Run(run) => {
                if run.len() != t.dims()[d] {
                    t = t.narrow(d, run.start, run.len())?;
                }
                places.push(AxisIndices::Run(0..run.len()));
            }
            AxisIndices::At(_) => {
                claim_of::<usize>(p.len())?;
                places.push(p.clone());
            }
        }
    }
    if places.iter().any(|p| matches!(p, AxisIndices::At(_))) {
        t = pick(&t, &places, None)?;
    }
    for d in (0..squeeze.len()).rev() {
        if squeeze[d] {
            t = t.squeeze(d)?;
        }
    }
    Ok(t)
}

/// Scatters values to these positions of `data` with the given shape.
pub(super) fn scatter_positions<T: Copy>(
    mut data: Vec<T>,
    shape: &[usize],
    positions: &[AxisIndices],
    values: Vec<T>,
) -> Vec<T> {
    let strides = crate::weight::strides(shape);
    let mut index = vec![0usize; shape.len()];
    for value in values {
        let at: usize = index.iter().zip(positions).zip(&strides).map(|((&i, p), s)| p.get(i) * s).sum();
        data[at] = value;
        for d in (0..index.len()).rev() {
            index[d] += 1;
            if index[d] < positions[d].len() {
                break;
            }
            index[d] = 0;
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn slices_go_backwards_and_squeeze() {
        let body = "tensor<fp32, [2]> y = slice_by_index(x = x, begin = tensor<int32, [2]>([1, -1]), end = tensor<int32, [2]>([2, 0]), \
            stride = tensor<int32, [2]>([1, -1]), squeeze_mask = tensor<bool, [2]>([true, false]));";
        near(&of(body, &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), &[5.0, 4.0]);
    }

    #[test]
    fn a_mask_stands_for_the_whole_extent() {
        let body = "tensor<fp32, [3]> y = slice_by_index(x = x, begin = tensor<int32, [1]>([2]), end = tensor<int32, [1]>([1]), \
            begin_mask = tensor<bool, [1]>([true]), end_mask = tensor<bool, [1]>([true]));";
        near(&of(body, &[3], &[1.0, 2.0, 3.0]), &[1.0, 2.0, 3.0]);
    }
}
