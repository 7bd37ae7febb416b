//! Elementwise work on strided operands: pairs of broadcast operands and single ones.
//!
//! Dimensions that lie behind each other in memory are treated as one; the innermost loop runs along one dimension with
//! fixed steps, and large results are split among threads by rows.

use crate::parallel::rows_mut;
use crate::vectorized::{Work, vectorized};

/// Elements and the distance between neighbours along each dimension; 0 repeats one element.
#[derive(Clone, Copy)]
pub struct Strided<'a, T = f32> {
    /// Elements from the first one on.
    pub data: &'a [T],
    /// One distance for each dimension of the result.
    pub strides: &'a [usize],
}

impl<T> Strided<'_, T> {
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

/// `out[i] = f(x[i], y[i])` for every index of the shape, row-major.
///
/// # Panics
/// When `out` does not have the size of the shape or an operand does not cover it.
pub fn binary(shape: &[usize], x: Strided<'_>, y: Strided<'_>, out: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(shape.iter().product::<usize>(), out.len(), "size of the result");
    if out.is_empty() {
        return;
    }
    assert!(x.fits(shape) && y.fits(shape), "operands cover the shape");
    let dims = joined(shape, x.strides, y.strides);
    let (_, sx, sy) = dims[dims.len() - 1];
    rows(&dims, out, |at_x, at_y, out| {
        vectorized(Pair { x: &x.data[at_x..], y: &y.data[at_y..], steps: (sx, sy), out, f: &f });
    });
}

/// One innermost row of [`binary`].
struct Pair<'a, F> {
    x: &'a [f32],
    y: &'a [f32],
    steps: (usize, usize),
    out: &'a mut [f32],
    f: &'a F,
}

impl<F: Fn(f32, f32) -> f32> Work for Pair<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, y, steps, out, f } = self;
        match steps {
            (1, 1) => {
                let (x, y) = (&x[..out.len()], &y[..out.len()]);
                for (o, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
                    *o = f(x, y);
                }
            }
            (1, 0) => {
                let y = y[0];
                for (o, &x) in out.iter_mut().zip(x) {
                    *o = f(x, y);
                }
            }
            (0, 1) => {
                let x = x[0];
                for (o, &y) in out.iter_mut().zip(y) {
                    *o = f(x, y);
                }
            }
            (sx, sy) => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = f(x[i * sx], y[i * sy]);
                }
            }
        }
    }
}

/// A run of elements of [`unary`].
struct Each<'a, F> {
    x: &'a [f32],
    out: &'a mut [f32],
    f: &'a F,
}

impl<F: Fn(f32) -> f32> Work for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (o, &x) in self.out.iter_mut().zip(self.x) {
            *o = (self.f)(x);
        }
    }
}

/// `out[i] = f(x[i])` for elements that lie behind each other.
///
/// # Panics
/// When the lengths differ.
pub fn unary(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(x.len(), out.len(), "lengths");
    rows_mut(out, 1, |first, out| {
        let x = &x[first..][..out.len()];
        vectorized(Each { x, out, f: &f });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The element that an index names, by the definition.
    fn at(x: Strided<'_>, shape: &[usize], mut index: usize) -> f32 {
        let mut offset = 0;
        for (&n, &s) in shape.iter().zip(x.strides).rev() {
            offset += index % n * s;
            index /= n;
        }
        x.data[offset]
    }

    /// A shape with strides of some memory order, some dimensions repeated.
    fn layouts() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
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
        fn any_layout_gives_what_the_definition_gives((shape, xs, ys) in layouts(), large in any::<bool>()) {
            // Some results are large enough for several threads.
            let shape = if large { [&[40], shape.as_slice()].concat() } else { shape };
            let (xs, ys) = if large { ([&[0], xs.as_slice()].concat(), [&[0], ys.as_slice()].concat()) } else { (xs, ys) };
            let size: usize = shape.iter().product();
            prop_assume!(size < 1 << 18);
            let data: Vec<f32> = (0..size).map(|i| i as f32).collect();
            let (x, y) = (Strided { data: &data, strides: &xs }, Strided { data: &data, strides: &ys });
            let mut out = vec![f32::NAN; size];
            let copied = crate::pick::copied(&shape, x);
            prop_assert!(copied.iter().enumerate().all(|(i, &o)| o == at(x, &shape, i)));
            let wide: Vec<i64> = data.iter().map(|&v| v as i64).collect();
            let wide = crate::pick::copied(&shape, Strided { data: &wide, strides: &xs });
            prop_assert!(copied.iter().zip(&wide).all(|(&o, &w)| o == w as f32) && copied.len() == wide.len());
            binary(&shape, x, y, &mut out, |a, b| a - 2.0 * b);
            prop_assert!(out.iter().enumerate().all(|(i, &o)| o == at(x, &shape, i) - 2.0 * at(y, &shape, i)));
            unary(&data, &mut out, |v| v + 1.0);
            prop_assert!(out.iter().zip(&data).all(|(&o, &v)| o == v + 1.0));
        }
    }
}
