//! Products with packed weights: `y[i, r] = f(Σ_c w[r, c] · x[i, c] + bias[r] + residual[i, r])`.
//!
//! Weights are packed once, at load, into panels of [`PANEL`] outputs, so a step of the sum reads one contiguous
//! segment of a panel and one element of some rows of `x`. The rows stay in place as lists of segments: a convolution
//! multiplies its patches without copying them. The epilogue is applied while the sums are in registers.

use std::ops::Range;

use crate::activation::Activation;
use crate::aligned::Aligned;
use crate::buffer_pool::Element;
use crate::isa;
use crate::parallel::{self, Shared};
use crate::sizes::{checked, part_start, size};

mod matrices;
mod rows;
mod sdpa;
mod small;
mod tile;

pub use matrices::{Matrices, is_packed, multiply};
use rows::Sources;
pub(crate) use rows::{Rows, Starts};
pub use sdpa::{Heads, Sizes, sdpa};
use tile::{Sums, TILES, Tiles};

/// Number of outputs of one panel.
pub const PANEL: usize = 32;

/// Multiply-adds below which waking a second thread does not pay, and the minimum per task.
const SPLIT: usize = 1 << 16;
/// Tasks per thread, for load balance at the end.
const TASKS: usize = 8;
/// Maximum number of elements of `x` that a task reads for every panel: 256 KB, which stay in L2.
const L2_ELEMENTS: usize = 1 << 16;
/// Maximum number of weight elements read by every task: 1 MB. Beyond, each task has a part.
const SHARED: usize = 1 << 18;

/// Weights in panels: `groups` matrices of `outputs × cols`.
pub struct Packed {
    groups: usize,
    outputs: usize,
    cols: usize,
    data: Aligned<f32>,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({} × [{}, {}])", self.groups, self.outputs, self.cols)
    }
}

impl Packed {
    /// Packs matrices; `row(r, out)` writes the `cols` weights of output `r`, counted over all groups.
    ///
    /// # Panics
    /// If the size of the weights overflows.
    pub fn new(groups: usize, outputs: usize, cols: usize, mut row: impl FnMut(usize, &mut [f32])) -> Self {
        let mut data = Aligned::empty();
        let panels = outputs.div_ceil(PANEL);
        let packed = data.at_least(size([groups, panels, cols, PANEL]));
        let mut weights = vec![0f32; if packed.is_empty() { 0 } else { cols }];
        for r in 0..size([groups, outputs]) {
            row(r, &mut weights);
            let (group, r) = (r / outputs, r % outputs);
            let panel = &mut packed[(group * panels + r / PANEL) * cols * PANEL..][..cols * PANEL];
            panel.iter_mut().skip(r % PANEL).step_by(PANEL).zip(&weights).for_each(|(p, &w)| *p = w);
        }
        Self { groups, outputs, cols, data }
    }

    /// Number of outputs of all groups.
    pub fn outputs(&self) -> usize {
        self.groups * self.outputs
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Number of inputs per group.
    pub fn cols(&self) -> usize {
        self.cols
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    fn panel(&self, group: usize, panel: usize) -> &[f32] {
        let size = self.cols * PANEL;
        &self.data.elements()[(group * self.panels() + panel) * size..][..size]
    }
}

/// Epilogue of a product, applied to its sums.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One value per output.
    pub bias: Option<&'a [f32]>,
    /// One value per result.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

/// Layout of results: strides between rows and between groups.
#[derive(Clone, Copy)]
struct Layout {
    row: usize,
    group: usize,
}

/// Tiles of one instruction set.
#[derive(Clone, Copy)]
pub struct Variant(&'static Tiles);

impl Variant {
    /// Variants supported by the CPU, fastest first; the scalar definition is last.
    pub fn all() -> impl Iterator<Item = Variant> {
        TILES.iter().filter(|t| t.isa.enabled()).map(Variant)
    }

    /// Name for tests and benchmarks.
    pub fn name(self) -> &'static str {
        self.0.isa.name()
    }

    pub(crate) fn best() -> Self {
        Self(isa::best(TILES, |t| t.isa))
    }
}

/// `X · Wᵀ` for `X` of `m` rows, including the epilogue; `[m, outputs]`.
///
/// # Panics
/// If lengths do not match or the weights have groups.
pub fn product(x: &[f32], m: usize, weights: &Packed, epilogue: &Epilogue<'_>) -> Vec<f32> {
    product_with(Variant::best(), x, m, weights, epilogue)
}

/// [`product`] with a given variant, for tests and benchmarks.
///
/// # Panics
/// Same as [`product`].
pub fn product_with<'a>(
    variant: Variant,
    x: &'a [f32],
    m: usize,
    weights: &Packed,
    epilogue: &Epilogue<'_>,
) -> Vec<f32> {
    assert_eq!((checked([m, weights.cols]), weights.groups), (Some(x.len()), 1), "length of x, and groups");
    let cols = weights.cols;
    let fill = |rows: Range<usize>, _: usize, out: &mut Starts<'_, 'a>| {
        out.run(0, 0..rows.len(), x, rows.start * cols, cols);
    };
    run(variant, &Rows { count: m, segments: (1, cols), fill: &fill }, weights, epilogue)
}

/// Some rows and some panels of a group.
struct Task {
    group: usize,
    rows: Range<usize>,
    panels: Range<usize>,
}

/// Part `i` of `count` even parts of `0..n`.
pub(crate) fn part(n: usize, count: usize, i: usize) -> Range<usize> {
    part_start(n, count, i)..part_start(n, count, i + 1)
}

/// Number of parts of rows and of panels for tasks.
fn split(m: usize, weights: &Packed, step: usize, threads: usize) -> (usize, usize) {
    let (panels, k) = (weights.panels(), weights.cols.max(1));
    let total = [weights.groups, m, panels, PANEL, k].into_iter().fold(1, usize::saturating_mul);
    let wanted = (total / SPLIT).clamp(1, threads * TASKS).div_ceil(weights.groups);
    let (tiles, near) = (m.div_ceil(step), m.saturating_mul(k).div_ceil(L2_ELEMENTS));
    let wanted = if threads == 1 { 1 } else { wanted };
    // Split the larger operand among tasks; rows if both are small.
    let (rows, columns) = if panels * PANEL > m && panels * PANEL * k > SHARED {
        let columns = panels.min(wanted);
        (wanted.div_ceil(columns), columns)
    } else {
        let rows = tiles.min(wanted);
        (rows, wanted.div_ceil(rows))
    };
    (rows.max(near).clamp(1, tiles), columns.clamp(1, panels))
}

/// Product of rows with weights, `[rows, groups, outputs of a group]`.
///
/// # Panics
/// If sizes do not match.
pub(crate) fn run(variant: Variant, x: &Rows<'_, '_>, weights: &Packed, epilogue: &Epilogue<'_>) -> Vec<f32> {
    run_to(variant, x, weights, epilogue, Layout { row: weights.outputs(), group: weights.outputs })
}

/// [`run`] with results in a dense layout.
fn run_to(variant: Variant, x: &Rows<'_, '_>, weights: &Packed, epilogue: &Epilogue<'_>, layout: Layout) -> Vec<f32> {
    let (m, outputs) = (x.count, weights.outputs());
    let size = size([m, outputs]);
    assert_eq!(checked(x.segments.into()), Some(weights.cols), "columns of the weights");
    assert!(u32::try_from(x.segments.0).is_ok(), "segments of a row");
    assert!(epilogue.bias.is_none_or(|b| b.len() == outputs), "length of the bias");
    assert!(epilogue.residual.is_none_or(|r| r.len() == size), "size of the residual");
    if size == 0 {
        return Vec::new();
    }
    let mut out = f32::room(size);
    assert!(out.capacity() >= size, "room for the result");
    let target = Shared(out.as_mut_ptr());
    let work = size.saturating_mul(weights.cols);
    let threads = if work < SPLIT { 1 } else { parallel::threads() };
    let (blocks, columns) = split(m, weights, variant.0.rows, threads);
    let task = |i: usize| {
        let (group, i) = (i / (blocks * columns), i % (blocks * columns));
        let task =
            Task { group, rows: part(m, blocks, i / columns), panels: part(weights.panels(), columns, i % columns) };
        one_task(variant.0, x, weights, epilogue, &task, layout, &target);
    };
    let count = weights.groups * blocks * columns;
    if threads == 1 {
        (0..count).for_each(task)
    } else {
        parallel::for_each(count, task)
    }
    // SAFETY: within the capacity, and the tasks wrote every element: each row of every group belongs to one block,
    // each panel to one part, and a panel's tiles write all of its outputs.
    unsafe { out.set_len(size) };
    out
}

/// Part of a product for some panels of a group, single-threaded; `out[rows, outputs]`.
///
/// # Panics
/// If sizes do not match.
pub(crate) fn run_part(
    variant: Variant,
    x: &Rows<'_, '_>,
    weights: &Packed,
    group: usize,
    panels: Range<usize>,
    out: &mut [f32],
) {
    assert_eq!(checked(x.segments.into()), Some(weights.cols), "columns of the weights");
    assert!(u32::try_from(x.segments.0).is_ok(), "segments of a row");
    assert!(group < weights.groups && panels.end <= weights.panels(), "panels of the weights");
    assert!(checked([x.count, weights.outputs()]).is_some_and(|size| out.len() >= size), "room for the results");
    let task = Task { group, rows: 0..x.count, panels };
    let layout = Layout { row: weights.outputs(), group: weights.outputs };
    one_task(variant.0, x, weights, &Epilogue::default(), &task, layout, &Shared(out.as_mut_ptr()));
}

fn one_task(
    tiles: &Tiles,
    x: &Rows<'_, '_>,
    weights: &Packed,
    epilogue: &Epilogue<'_>,
    task: &Task,
    layout: Layout,
    target: &Shared<f32>,
) {
    let length = x.segments.1;
    let m = task.rows.len();
    // Tiles of similar height: a final single-row tile would be slow.
    let count = m.div_ceil(tiles.rows);
    let sources = Sources::new(x, &task.rows, task.group, count);
    for p in task.panels.clone() {
        let width = PANEL.min(weights.outputs - p * PANEL);
        let first = task.group * weights.outputs + p * PANEL;
        let mut bias = [0f32; PANEL];
        if let Some(values) = epilogue.bias {
            bias[..width].copy_from_slice(&values[first..first + width]);
        }
        let panel = weights.panel(task.group, p);
        for t in 0..count {
            let rows = sources.rows(t);
            let at = (task.rows.start + rows.start) * layout.row + task.group * layout.group + p * PANEL;
            let (starts, segments) = sources.tile(t);
            let sums = Sums {
                starts,
                segments,
                length,
                weights: panel,
                bias: &bias,
                residual: epilogue.residual.map(|r| &r[at..]),
                // SAFETY: `at` is within the result, which has `m · outputs` elements.
                out: unsafe { target.get().add(at) },
                step: layout.row,
                width,
                hard_swish: epilogue.activation.hard_swish(),
                bounds: epilogue.activation.bounds(),
            };
            // SAFETY: every start has at least `length` elements, the variant is available (it comes from
            // `Variant::all` or is the definition), and the rows and columns written are exclusive to this task.
            unsafe { tiles.run(rows.len(), &sums) };
            if !epilogue.activation.in_registers() {
                for i in 0..rows.len() {
                    // SAFETY: the tile wrote these elements, which are exclusive to this task.
                    let row = unsafe { std::slice::from_raw_parts_mut(sums.out.add(i * layout.row), width) };
                    epilogue.activation.apply(row);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::{HardSigmoid, HardSwish, Unary};

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed * 7) % 97) as f32 / 48.0 - 1.0).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn all_variants_agree_with_the_definition_at_every_height_and_width() {
        for (outputs, cols) in [(1, 5), (16, 3), (17, 40), (32, 9), (47, 64), (70, 1)] {
            let w = values(outputs * cols, 1);
            let packed = Packed::new(1, outputs, cols, |r, out| out.copy_from_slice(&w[r * cols..][..cols]));
            let bias = values(outputs, 3);
            for m in (1..=26).chain([400]) {
                let (x, residual) = (values(m * cols, 2), values(m * outputs, 4));
                let sum = |i: usize, r: usize| -> f64 {
                    let products = (0..cols).map(|c| f64::from(w[r * cols + c]) * f64::from(x[i * cols + c]));
                    products.sum::<f64>() + f64::from(bias[r]) + f64::from(residual[i * outputs + r])
                };
                let clamp = Activation::Clamp { low: -0.5, high: 2.0 };
                let gate = HardSigmoid { slope: 0.4, offset: 0.5 };
                let activations = [
                    Activation::default(),
                    clamp,
                    Activation::Gelu,
                    Activation::Silu,
                    Activation::Sigmoid,
                    Activation::HardSigmoid(gate),
                    Activation::HardSwish(HardSwish { gate, threshold: None }),
                    // Near the gate's threshold, sums that differ in their last bits have close results.
                    Activation::HardSwish(HardSwish { gate, threshold: Some(-1.25) }),
                ];
                for activation in activations {
                    let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), activation };
                    for variant in Variant::all() {
                        let y = product_with(variant, &x, m, &packed, &epilogue);
                        for (at, &y) in y.iter().enumerate() {
                            let mut want = [sum(at / outputs, at % outputs) as f32];
                            activation.apply(&mut want);
                            let place = format!("{} {activation:?} [{m}, {cols}, {outputs}] at {at}", variant.name());
                            assert!((y - want[0]).abs() < 2e-5, "{place}: {y} != {}", want[0]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_gives_nothing_and_nan_stays() {
        let empty = Packed::new(1, 0, 4, |_, _| panic!("there is no row"));
        assert!(product(&[0.0; 8], 2, &empty, &Epilogue::default()).is_empty());
        let narrow = Packed::new(1, 3, 0, |_, _| {});
        let bias = [1.0, 2.0, 3.0];
        assert_eq!(
            product(&[], 2, &narrow, &Epilogue { bias: Some(&bias), ..Epilogue::default() }),
            [bias, bias].concat()
        );
        let one = Packed::new(1, 33, 1, |_, out| out[0] = 1.0);
        let clamp = Activation::Clamp { low: 0.0, high: 6.0 };
        for variant in Variant::all() {
            let epilogue = Epilogue { activation: clamp, ..Epilogue::default() };
            let y = product_with(variant, &[f32::NAN, 7.0, -1.0], 3, &one, &epilogue);
            assert!(y[..33].iter().all(|v| v.is_nan()), "{}", variant.name());
            assert!(y[33..66].iter().all(|&v| v == 6.0) && y[66..].iter().all(|&v| v == 0.0), "{}", variant.name());
        }
    }

    #[test]
    fn hard_swish_in_registers_is_that_of_single_elements() {
        let one = Packed::new(1, 33, 1, |_, out| out[0] = 1.0);
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -3.5, -3.0, -1.0, 0.0, 0.4, 2.9, 3.0, 7.0];
        let gate = HardSigmoid { slope: 1.0 / 6.0, offset: 0.5 };
        for threshold in [None, Some(-3.0), Some(0.5), Some(f32::NAN)] {
            let f = HardSwish { gate, threshold };
            let epilogue = Epilogue { activation: Activation::HardSwish(f), ..Epilogue::default() };
            for variant in Variant::all() {
                let y = product_with(variant, &x, x.len(), &one, &epilogue);
                for (i, &y) in y.iter().enumerate() {
                    let want = f.at::<false>(x[i / 33]);
                    assert!(y == want || y.is_nan() && want.is_nan(), "{} {f:?} {}: {y}", variant.name(), x[i / 33]);
                }
            }
        }
    }
}
