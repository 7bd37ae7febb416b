//! Strided operands, and copies of them into row-major order.
//!
//! Dimensions that lie behind each other in memory are treated as one; the innermost loop runs along one dimension with
//! fixed steps, and large results are split among threads by rows.

use crate::parallel::rows_mut;

/// Elements and the distance between neighbours along each dimension; 0 repeats one element.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    /// Elements from the first one on.
    pub data: &'a [f32],
    /// One distance for each dimension of the result.
    pub strides: &'a [usize],
}

impl Strided<'_> {
    /// Whether every index of the shape lies inside the data.
    pub(crate) fn fits(&self, shape: &[usize]) -> bool {
        let last: usize = shape.iter().zip(self.strides).map(|(&n, &s)| (n - 1) * s).sum();
        self.strides.len() == shape.len() && last < self.data.len()
    }
}

/// Joins dimensions that lie behind each other in both operands; drops those of extent one.
pub(crate) fn joined(shape: &[usize], x: &[usize], y: &[usize]) -> Vec<(usize, usize, usize)> {
    let mut out: Vec<(usize, usize, usize)> = Vec::with_capacity(shape.len());
    for ((&n, &sx), &sy) in shape.iter().zip(x).zip(y).filter(|((n, _), _)| **n != 1) {
        match out.last_mut() {
            Some(last) if last.1 == sx * n && last.2 == sy * n => *last = (last.0 * n, sx, sy),
            _ => out.push((n, sx, sy)),
        }
    }
    if out.is_empty() {
        out.push((1, 0, 0));
    }
    out
}

/// Calls `row(offset in x, offset in y, out)` for every innermost row of the result.
fn rows(dims: &[(usize, usize, usize)], out: &mut [f32], row: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let Some((&(width, ..), outer)) = dims.split_last() else { return };
    let start = |mut index: usize| {
        let (mut x, mut y) = (0, 0);
        for &(n, sx, sy) in outer.iter().rev() {
            x += index % n * sx;
            y += index % n * sy;
            index /= n;
        }
        (x, y)
    };
    rows_mut(out, width, |first, out| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let (x, y) = start(first + i);
            row(x, y, out);
        }
    });
}

/// Side of the squares in which transposed elements are copied.
const BLOCK: usize = 16;

/// Copies strided elements into row-major order.
///
/// # Panics
/// When `out` does not have the size of the shape or the operand does not cover it.
pub fn copy(shape: &[usize], x: Strided<'_>, out: &mut [f32]) {
    assert_eq!(shape.iter().product::<usize>(), out.len(), "size of the result");
    if out.is_empty() {
        return;
    }
    assert!(x.fits(shape), "the operand covers the shape");
    let dims = joined(shape, x.strides, x.strides);
    let (width, step, _) = dims[dims.len() - 1];
    let near = dims.len().checked_sub(2).filter(|_| step > 1).map(|d| dims[d]);
    if let Some((height, 1, _)) = near {
        // Two dimensions change places: squares stay in the cache.
        if dims.len() == 2 {
            return rows_mut(out, width, |first, out| transpose(&x.data[first..], step, width, out));
        }
        let outer = [&dims[..dims.len() - 2], &[(height * width, 0, 0)]].concat();
        return rows(&outer, out, |at, _, out| transpose(&x.data[at..], step, width, out));
    }
    rows(&dims, out, |at, _, out| {
        if step == 1 {
            out.copy_from_slice(&x.data[at..][..width]);
        } else {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = x.data[at + i * step]);
        }
    });
}

/// `out[i · width + j] = x[i + j · step]`.
fn transpose(x: &[f32], step: usize, width: usize, out: &mut [f32]) {
    let height = out.len() / width;
    for i0 in (0..height).step_by(BLOCK) {
        for j0 in (0..width).step_by(BLOCK) {
            for i in i0..(i0 + BLOCK).min(height) {
                for j in j0..(j0 + BLOCK).min(width) {
                    out[i * width + j] = x[i + j * step];
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The element that an index names, by the definition.
    pub(crate) fn at(x: Strided<'_>, shape: &[usize], mut index: usize) -> f32 {
        let mut offset = 0;
        for (&n, &s) in shape.iter().zip(x.strides).rev() {
            offset += index % n * s;
            index /= n;
        }
        x.data[offset]
    }

    /// A shape with strides of two operands in some memory order, some dimensions repeated.
    pub(crate) fn layouts() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
        let dims = prop::collection::vec((1usize..20, any::<u8>(), any::<u8>(), 0u8..5, 0u8..5), 0..5);
        dims.prop_map(|dims| {
            let shape: Vec<usize> = dims.iter().map(|d| d.0).collect();
            let strides = |key: fn(&(usize, u8, u8, u8, u8)) -> (u8, u8)| {
                let mut order: Vec<usize> = (0..dims.len()).collect();
                order.sort_by_key(|&d| key(&dims[d]).0);
                let (mut out, mut next) = (vec![0; dims.len()], 1);
                for d in order {
                    if key(&dims[d]).1 > 0 {
                        out[d] = next;
                        next *= dims[d].0;
                    }
                }
                out
            };
            (shape.clone(), strides(|d| (d.1, d.3)), strides(|d| (d.2, d.4)))
        })
    }

    proptest! {
        #[test]
        fn any_layout_gives_what_the_definition_gives((shape, xs, _) in layouts(), large in any::<bool>()) {
            // Some results are large enough for several threads.
            let shape = if large { [&[40], shape.as_slice()].concat() } else { shape };
            let xs = if large { [&[0], xs.as_slice()].concat() } else { xs };
            let size: usize = shape.iter().product();
            prop_assume!(size < 1 << 18);
            let data: Vec<f32> = (0..size).map(|i| i as f32).collect();
            let x = Strided { data: &data, strides: &xs };
            let mut out = vec![f32::NAN; size];
            copy(&shape, x, &mut out);
            prop_assert!(out.iter().enumerate().all(|(i, &o)| o == at(x, &shape, i)));
        }
    }
}
