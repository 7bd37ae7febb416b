//! Scaled dot-product attention over whole sequences: `softmax(scale · q · kᵀ + mask) · v` for each head.
//!
//! A thread packs the keys and values of a head once for all its queries; the scores of a tile of queries stay in L1.

use std::cell::RefCell;

use super::tile::{MAX_ROWS, Sums, Tiles};
use super::{PANEL, Variant, part};
use crate::aligned::Aligned;
use crate::buffer_pool::Element;
use crate::parallel::{self, Shared};
use crate::sizes::{last, size};
use crate::softmax::exponentials;

/// One matrix per head, with contiguous rows.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// Elements of all heads.
    pub data: &'a [f32],
    /// Offset of the first element of each.
    pub starts: &'a [usize],
    /// Row stride.
    pub row: usize,
}

impl<'a> Heads<'a> {
    /// True if each head has `rows` rows of `width` elements. If so, no offset of a row overflows.
    fn has(&self, rows: usize, width: usize) -> bool {
        let reach = last([(rows, self.row)]).and_then(|at| at.checked_add(width));
        let lies = |&start: &usize| reach.and_then(|n| n.checked_add(start)).is_some_and(|end| end <= self.data.len());
        rows == 0 || width == 0 || self.starts.iter().all(lies)
    }

    fn row(&self, head: usize, row: usize, width: usize) -> &'a [f32] {
        // Empty rows may start anywhere.
        if width == 0 { &[] } else { &self.data[self.starts[head] + row * self.row..][..width] }
    }
}

/// Sizes per head.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Number of queries.
    pub queries: usize,
    /// Number of keys and values.
    pub keys: usize,
    /// Length of a query and of a key.
    pub dim: usize,
    /// Length of a value.
    pub width: usize,
    /// Number of heads with interleaved results.
    pub together: usize,
}

/// `[heads / together, queries, together, width]`; a mask has a row of `keys` elements per query.
///
/// # Panics
/// If a matrix does not have the stated size or `together` does not divide the heads.
pub fn sdpa(sizes: Sizes, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>, mask: Option<Heads<'_>>, scale: f32) -> Vec<f32> {
    attend_with(Variant::best(), sizes, &Operands { q, k, v, mask, scale })
}

struct Operands<'a> {
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    mask: Option<Heads<'a>>,
    scale: f32,
}

fn attend_with(variant: Variant, sizes: Sizes, operands: &Operands<'_>) -> Vec<f32> {
    let heads = operands.q.starts.len();
    let Sizes { queries, width, together, .. } = sizes;
    assert!(together > 0 && heads.is_multiple_of(together), "heads that lie together");
    let alike = [Some(operands.k), Some(operands.v), operands.mask];
    assert!(alike.into_iter().flatten().all(|h| h.starts.len() == heads), "heads");
    let len = size([heads, queries, width]);
    if len == 0 {
        return Vec::new();
    }
    let Sizes { keys, dim, .. } = sizes;
    let Operands { q, k, v, mask, .. } = operands;
    assert!(q.has(queries, dim) && k.has(keys, dim) && v.has(keys, width), "rows of the heads");
    assert!(mask.is_none_or(|mask| mask.has(queries, keys)), "rows of the mask");
    // Size of panels, which have whole columns, and of scores.
    let whole = |n: usize| n.checked_next_multiple_of(PANEL).expect("columns of panels");
    size([whole(keys), dim.max(whole(width)).max(MAX_ROWS)]);
    let mut out = f32::room(len);
    assert!(out.capacity() >= len, "room for the result");
    let target = Shared(out.as_mut_ptr());
    // One task per head, or per block of queries if there are few heads.
    let blocks = (2 * parallel::threads()).div_ceil(heads).min(queries.div_ceil(variant.0.rows));
    parallel::for_each(heads * blocks, |i| {
        SCRATCH.with_borrow_mut(|scratch| {
            let (head, rows) = (i / blocks, part(queries, blocks, i % blocks));
            one_head(variant.0, sizes, operands, head, rows, scratch, &target);
        });
    });
    // SAFETY: within the capacity, and each row of each head was written by the task that owns it.
    unsafe { out.set_len(len) };
    out
}

thread_local! {
    /// Panels of keys and values, and scores.
    static SCRATCH: RefCell<[Aligned<f32>; 3]> = const { RefCell::new([Aligned::empty(), Aligned::empty(), Aligned::empty()]) };
}

fn one_head(
    tiles: &Tiles,
    sizes: Sizes,
    operands: &Operands<'_>,
    head: usize,
    queries: std::ops::Range<usize>,
    scratch: &mut [Aligned<f32>; 3],
    target: &Shared<f32>,
) {
    let Sizes { keys, dim, width, together, .. } = sizes;
    let Operands { q, k, v, mask, scale } = *operands;
    let [key_panels, value_panels, scores] = scratch;
    let (over_keys, over_values) = (keys.div_ceil(PANEL), width.div_ceil(PANEL));
    let key_panels = key_panels.at_least(over_keys * dim * PANEL);
    for (p, panel) in key_panels.chunks_exact_mut((dim * PANEL).max(1)).enumerate() {
        for j in 0..PANEL {
            // Positions beyond the last panel keep old contents; their scores are not written.
            if p * PANEL + j < keys {
                let key = k.row(head, p * PANEL + j, dim);
                panel.iter_mut().skip(j).step_by(PANEL).zip(key).for_each(|(p, &k)| *p = k);
            }
        }
    }
    let value_panels = value_panels.at_least(over_values * keys * PANEL);
    for row in 0..keys {
        for (p, value) in v.row(head, row, width).chunks(PANEL).enumerate() {
            value_panels[(p * keys + row) * PANEL..][..value.len()].copy_from_slice(value);
        }
    }
    let scores = scores.at_least(tiles.rows * keys);
    // Offset of the first query's result, and stride.
    let step = together * width;
    let base = head / together * sizes.queries * step + head % together * width;
    let count = queries.len().div_ceil(tiles.rows);
    for t in 0..count {
        let rows = part(queries.len(), count, t);
        let (first, rows) = (queries.start + rows.start, rows.len());
        let product = |starts: &[*const f32], length, panel: &[f32], width, out, step| {
            let bounds = (f32::NEG_INFINITY, f32::INFINITY);
            let bias = &[0.0; PANEL];
            let sums = Sums {
                starts,
                segments: &[0],
                length,
                weights: panel,
                bias,
                residual: None,
                out,
                step,
                width,
                hard_swish: None,
                bounds,
            };
            // SAFETY: by the callers below, the variant is available, starts have rows of `length` elements, and `out`
            // has `rows` rows of `width` elements, `step` apart.
            unsafe { tiles.run(rows, &sums) };
        };
        let starts: Vec<*const f32> = (0..rows).map(|i| q.row(head, first + i, dim).as_ptr()).collect();
        for p in 0..over_keys {
            let panel = &key_panels[p * dim * PANEL..][..dim * PANEL];
            let out = scores[p * PANEL..].as_mut_ptr();
            product(&starts, dim, panel, PANEL.min(keys - p * PANEL), out, keys);
        }
        let mut sums = [0f32; MAX_ROWS];
        for (i, row) in scores.chunks_exact_mut(keys.max(1)).take(rows).enumerate() {
            let mask = mask.map(|m| m.row(head, first + i, keys));
            sums[i] = exponentials(row, mask, scale);
        }
        let starts: Vec<*const f32> = (0..rows).map(|i| scores[i * keys..].as_ptr()).collect();
        for p in 0..over_values {
            let panel = &value_panels[p * keys * PANEL..][..keys * PANEL];
            let width = PANEL.min(width - p * PANEL);
            // SAFETY: within the result, which has `queries · together` rows of `width` for each group of heads.
            let out = unsafe { target.get().add(base + first * step + p * PANEL) };
            product(&starts, keys, panel, width, out, step);
            for (i, sum) in sums.iter().enumerate().take(rows) {
                // SAFETY: just written by the tile, and exclusive to this task.
                let row = unsafe { std::slice::from_raw_parts_mut(out.add(i * step), width) };
                row.iter_mut().for_each(|v| *v /= sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn every_variant_agrees_with_the_formula_in_f64() {
        let value = |i: usize, seed: usize| ((i * 29 + seed * 11) % 83) as f32 / 40.0 - 1.0;
        for (queries, keys, dim, width, heads, together) in
            [(1, 1, 1, 1, 1, 1), (13, 40, 5, 37, 4, 2), (30, 33, 32, 32, 3, 3), (5, 3, 8, 2, 2, 1)]
        {
            let sizes = Sizes { queries, keys, dim, width, together };
            let side = |n: usize, seed: usize| (0..n).map(|i| value(i, seed)).collect::<Vec<f32>>();
            let (q, k, v) =
                (side(heads * queries * dim, 1), side(heads * keys * dim, 2), side(heads * keys * width, 3));
            let mut mask = side(queries * keys, 4);
            mask.iter_mut()
                .enumerate()
                .filter(|(i, _)| i % keys != 0 && i % 5 == 0)
                .for_each(|(_, m)| *m = f32::NEG_INFINITY);
            let starts = |n: usize| (0..heads).map(|h| h * n).collect::<Vec<usize>>();
            let (qs, ks, vs, ms) = (starts(queries * dim), starts(keys * dim), starts(keys * width), vec![0; heads]);
            let operands = Operands {
                q: Heads { data: &q, starts: &qs, row: dim },
                k: Heads { data: &k, starts: &ks, row: dim },
                v: Heads { data: &v, starts: &vs, row: width },
                mask: Some(Heads { data: &mask, starts: &ms, row: keys }),
                scale: 0.7,
            };
            for variant in Variant::all() {
                let out = attend_with(variant, sizes, &operands);
                assert_eq!(out.len(), heads * queries * width);
                for (h, i) in (0..heads).flat_map(|h| (0..queries).map(move |i| (h, i))) {
                    let score = |p: usize| {
                        let dot = |d: usize| {
                            f64::from(q[(h * queries + i) * dim + d]) * f64::from(k[(h * keys + p) * dim + d])
                        };
                        (0.7 * (0..dim).map(dot).sum::<f64>() + f64::from(mask[i * keys + p])).exp()
                    };
                    let total: f64 = (0..keys).map(score).sum();
                    for c in 0..width {
                        let sum: f64 = (0..keys).map(|p| score(p) * f64::from(v[(h * keys + p) * width + c])).sum();
                        let at = ((h / together * queries + i) * together + h % together) * width + c;
                        let (got, want) = (f64::from(out[at]), sum / total);
                        assert!((got - want).abs() < 1e-5, "{} {sizes:?} {h} {i} {c}: {got} != {want}", variant.name());
                    }
                }
            }
        }
    }
}
