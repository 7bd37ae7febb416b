//! Strided operands; dimensions that are contiguous to each other are merged.

use crate::sizes;

/// Elements with a stride along each dimension; stride 0 broadcasts.
#[derive(Clone, Copy)]
pub struct Strided<'a, T = f32> {
    /// Elements, starting with the first.
    pub data: &'a [T],
    /// One stride per dimension of the result.
    pub strides: &'a [usize],
}

impl<T> Strided<'_, T> {
    /// True if every index of the shape, which has no extent of zero, lies inside the data. If so, no offset of an
    /// index overflows.
    pub(crate) fn fits(&self, shape: &[usize]) -> bool {
        let last = sizes::last(shape.iter().copied().zip(self.strides.iter().copied()));
        self.strides.len() == shape.len() && last.is_some_and(|last| last < self.data.len())
    }
}

/// Merges dimensions contiguous in both operands, which [fit](Strided::fits); drops those of extent one.
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Definition: the element at an index.
    pub(crate) fn at(x: Strided<'_>, shape: &[usize], mut index: usize) -> f32 {
        let mut offset = 0;
        for (&n, &s) in shape.iter().zip(x.strides).rev() {
            offset += index % n * s;
            index /= n;
        }
        x.data[offset]
    }

    /// A shape with strides of two operands in some memory order, with some dimensions broadcast.
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
        #[cfg_attr(miri, ignore = "many elements")]
        fn any_layout_gives_what_the_definition_gives((shape, xs, _) in layouts(), large in any::<bool>()) {
            // Some results are large enough for several threads.
            let shape = if large { [&[40], shape.as_slice()].concat() } else { shape };
            let xs = if large { [&[0], xs.as_slice()].concat() } else { xs };
            let size: usize = shape.iter().product();
            prop_assume!(size < 1 << 18);
            let data: Vec<f32> = (0..size).map(|i| i as f32).collect();
            let x = Strided { data: &data, strides: &xs };
            let copied = crate::gather::contiguous(&shape, x);
            prop_assert!(copied.iter().enumerate().all(|(i, &o)| o == at(x, &shape, i)));
            let wide: Vec<i64> = data.iter().map(|&v| v as i64).collect();
            let wide = crate::gather::contiguous(&shape, Strided { data: &wide, strides: &xs });
            prop_assert!(copied.iter().zip(&wide).all(|(&o, &w)| o == w as f32) && copied.len() == wide.len());
        }
    }
}
