//! Sums of products by the names of axes.

use candle_core::Tensor;

use super::batched;
use crate::budget::{Counted, bytes_of, claim};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::Slot;
use crate::planned::Run;

/// `einsum(values, equation)` of two operands; indices in only one operand that the result lacks are summed, shared
/// indices that it lacks are contracted.
pub(super) fn einsum(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let values = b.slots("values")?;
    let equation: String = b.attr("equation")?;
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let bad = || OpError::data(format!("einsum equation `{equation}`"));
    let (inputs, output) = text.split_once("->").ok_or_else(bad)?;
    let terms: Vec<Vec<char>> = inputs.split(',').map(|t| t.chars().collect()).collect();
    let output: Vec<char> = output.chars().collect();
    let [left, right] = <[Vec<char>; 2]>::try_from(terms).map_err(|_| bad())?;
    let [x, y] = <[Slot; 2]>::try_from(values).map_err(|_| bad())?;
    let unique = |v: &[char]| (1..v.len()).all(|i| !v[..i].contains(&v[i]));
    if !unique(&left)
        || !unique(&right)
        || !unique(&output)
        || !output.iter().all(|c| left.contains(c) || right.contains(c))
    {
        return Err(bad());
    }
    b.run(move |f| {
        let (x, y) = (f.array(x)?, f.array(y)?);
        if x.rank() != left.len() || y.rank() != right.len() {
            return Err(OpError::shape(format!(
                "operands {:?} and {:?} for {left:?}, {right:?}",
                x.shape(),
                y.shape()
            )));
        }
        // Sum over indices that only one operand has and the result lacks.
        let reduce = |t: &Tensor, own: &[char], other: &[char]| -> Result<(Tensor, Vec<char>), OpError> {
            let (mut t, mut names) = (t.clone(), own.to_vec());
            for d in (0..own.len()).rev() {
                if !other.contains(&own[d]) && !output.contains(&own[d]) {
                    // The sum, and a copy in Candle's summation order.
                    claim(bytes_of(&t).saturating_mul(2))?;
                    t = t.sum(d)?;
                    names.remove(d);
                }
            }
            Ok((t, names))
        };
        let (xt, xn) = reduce(x.tensor(), &left, &right)?;
        let (yt, yn) = reduce(y.tensor(), &right, &left)?;
        let batch: Vec<char> = output.iter().copied().filter(|c| xn.contains(c) && yn.contains(c)).collect();
        // One operand may have an extent of 1 where the other has more.
        let spread = |t: Tensor, own: &[char], other: &Tensor, names: &[char]| -> Result<Tensor, OpError> {
            let mut shape = t.dims().to_vec();
            for (d, c) in own.iter().enumerate().filter(|(_, c)| batch.contains(c)) {
                if let (1, Some(at)) = (shape[d], names.iter().position(|n| n == c)) {
                    shape[d] = other.dims()[at];
                }
            }
            crate::shape::check_size(&shape)?;
            Ok(if shape == t.dims() { t } else { t.broadcast_as(shape)? })
        };
        let (xt, yt) = (spread(xt.clone(), &xn, &yt, &yn)?, spread(yt, &yn, &xt, &xn)?);
        let summed: Vec<char> = xn.iter().copied().filter(|c| yn.contains(c) && !output.contains(c)).collect();
        let rows: Vec<char> = output.iter().copied().filter(|c| xn.contains(c) && !yn.contains(c)).collect();
        let cols: Vec<char> = output.iter().copied().filter(|c| yn.contains(c) && !xn.contains(c)).collect();
        let arrange =
            |t: &Tensor, names: &[char], groups: [&[char]; 3]| -> Result<(Tensor, [Vec<usize>; 3]), OpError> {
                let mut order = Vec::new();
                let mut sizes: [Vec<usize>; 3] = Default::default();
                for (g, size) in groups.iter().zip(&mut sizes) {
                    for c in *g {
                        let d = names.iter().position(|n| n == c).ok_or_else(|| OpError::data("einsum index"))?;
                        order.push(d);
                        size.push(t.dims()[d]);
                    }
                }
                let shape: Vec<usize> = sizes.iter().map(|s| s.iter().product()).collect();
                crate::shape::check_size(&shape)?;
                Ok((t.permute(order)?.counted_reshape(shape)?, sizes))
            };
        let (xt, [bs, ms, ks]) = arrange(&xt, &xn, [&batch, &rows, &summed])?;
        let (yt, [bs2, ks2, ns]) = arrange(&yt, &yn, [&batch, &summed, &cols])?;
        if bs != bs2 || ks != ks2 {
            return Err(OpError::shape(format!("operands {:?} and {:?} do not agree", x.shape(), y.shape())));
        }
        let t = batched(&xt, &yt)?;
        let mut shape = bs;
        shape.extend(ms);
        shape.extend(ns);
        let names: Vec<char> = batch.iter().chain(&rows).chain(&cols).copied().collect();
        let order: Vec<usize> = output.iter().filter_map(|c| names.iter().position(|n| n == c)).collect();
        one(x.with(t.reshape(shape)?.permute(order)?.counted_contiguous()?))
    })
}
