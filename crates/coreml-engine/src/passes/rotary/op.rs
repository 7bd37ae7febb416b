//! `engine.rotary`: a rotary embedding in a single pass over its operands.

use candle_core::Tensor;
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::parallel::rows_mut;

use crate::array::Array;
use crate::batch;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::layout;
use crate::memory_order::with_f32s;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;

pub(super) const ROTARY: OpSpec = OpSpec::new("engine.rotary", IOS15, rotary).batch(|dim, op| {
    let (axis, last) = (batch::place(dim, op)?, dim.source(op, "x")?.shape.len() - 1);
    if axis == last { Err("works along the dimension".to_owned()) } else { batch::stays(axis) }
});

/// `engine.rotary(x [… , D], cos, sin)`: `x · cos + concat(−x[D/2 ..], x[.. D/2]) · sin`; cosines and sines broadcast
/// to the shape of `x`, or are `[… , D/2]`, both halves of it.
fn rotary(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, cos, sin) = (b.slot("x")?, b.slot("cos")?, b.slot("sin")?);
    b.run(move |f| {
        let (x, cos, sin) = (f.array(x)?, f.array(cos)?, f.array(sin)?);
        let shape = x.shape();
        let (cos, sin) = (twice(cos, shape)?, twice(sin, shape)?);
        let tables = Table::new(cos.floats()?, shape).zip(Table::new(sin.floats()?, shape));
        let (Some((cos, sin)), Some((&size, rows)), true) =
            (tables, shape.split_last(), shape.last().is_some_and(|n| n % 2 == 0))
        else {
            let found = format!("{shape:?}, {:?} and {:?}", cos.shape(), sin.shape());
            return Err(OpError::shape(format!("a rotary embedding of {found}")));
        };
        let xt = layout::contiguous(x.floats()?)?;
        if xt.elem_count() == 0 {
            return one(x.with(xt));
        }
        let (ct, st) = (cos.rows(size)?, sin.rows(size)?);
        let turned =
            with_f32s(&xt, |x| with_f32s(&ct, |c| with_f32s(&st, |s| turned([(c, &cos), (s, &sin)], x, rows, size))));
        match turned.flatten().flatten().transpose()? {
            Some(data) => one(x.with(Tensor::from_vec(data, shape, f.device())?)),
            None => {
                budget::claim(x.bytes().saturating_mul(5))?;
                let last = rows.len();
                let (low, high) = (xt.narrow(last, 0, size / 2)?, xt.narrow(last, size / 2, size / 2)?);
                let halves = Tensor::cat(&[high.neg()?, low], last)?;
                one(x.with((xt.broadcast_mul(&ct)? + halves.broadcast_mul(&st)?)?))
            }
        }
    })
}

/// A table for the last extent of `shape`: one for half of it is repeated.
fn twice(table: Array, shape: &[usize]) -> Result<Array, OpError> {
    match (table.shape().last(), shape.last()) {
        (Some(&half), Some(&size)) if half > 1 && Some(size) == half.checked_mul(2) => {
            budget::claim(table.bytes().saturating_mul(2))?;
            let t = table.tensor();
            Ok(table.with(Tensor::cat(&[t, t], table.rank() - 1)?))
        }
        _ => Ok(table),
    }
}

/// Cosines or sines that broadcast to the shape of `x`.
struct Table<'a> {
    tensor: &'a Tensor,
    /// Outer extents (all but the last), padded with ones to the rank of the shape.
    outer: Vec<usize>,
}

impl<'a> Table<'a> {
    /// `None` if it does not broadcast to the shape.
    fn new(tensor: &'a Tensor, shape: &[usize]) -> Option<Self> {
        let mut extents = vec![1; shape.len().checked_sub(tensor.rank())?];
        extents.extend(tensor.dims());
        let fits = extents.iter().zip(shape).all(|(&own, &n)| own == 1 || own == n);
        extents.pop().filter(|_| fits).map(|_| Self { tensor, outer: extents })
    }

    /// Contiguous rows of `size` elements.
    fn rows(&self, size: usize) -> Result<Tensor, OpError> {
        if self.tensor.dims().last() == Some(&size) {
            return layout::contiguous(self.tensor);
        }
        let extents = [&self.outer[..], &[size]].concat();
        layout::contiguous(&self.tensor.broadcast_as(extents)?)
    }

    /// True if the rows from dimension `from` on repeat periodically in the order of `x`'s rows.
    fn repeats(&self, rows: &[usize], from: usize) -> bool {
        let own = &self.outer[from..];
        let first = own.iter().position(|&n| n != 1).unwrap_or(own.len());
        own[first..] == rows[from + first..]
    }

    /// First row for block `block` of `x`, given the extents of the blocks.
    fn first(&self, blocks: &[usize], mut block: usize) -> usize {
        let mut stride: usize = self.outer[blocks.len()..].iter().product();
        let mut first = 0;
        for (&n, &own) in blocks.iter().zip(&self.outer).rev() {
            if own != 1 {
                first += block % n * stride;
                stride *= own;
            }
            block /= n;
        }
        first
    }
}

/// Rotates rows block by block, where both tables repeat with each block; usually there is one block.
fn turned(tables: [(&[f32], &Table<'_>); 2], x: &[f32], rows: &[usize], size: usize) -> Result<Vec<f32>, OpError> {
    budget::claim_of::<f32>(x.len())?;
    let mut out = zeros(x.len());
    let repeat = |&from: &usize| tables.iter().all(|(_, table)| table.repeats(rows, from));
    let from = (0..rows.len()).find(repeat).unwrap_or(rows.len());
    let (blocks, rows) = rows.split_at(from);
    let length = rows.iter().product::<usize>() * size;
    rows_mut(&mut out, length, |first, out| {
        for (i, out) in out.chunks_exact_mut(length).enumerate() {
            let block = first + i;
            let [cos, sin] = tables.map(|(data, table)| {
                let rows: usize = table.outer[from..].iter().product();
                &data[table.first(blocks, block) * size..][..rows * size]
            });
            coreml_kernels::rotary::rotary(&x[block * length..][..length], cos, sin, size, out);
        }
    });
    Ok(out)
}
