//! 3 × 3 convolution with stride one by Winograd's minimal filtering F(2 × 2, 3 × 3): four results of a channel from
//! sixteen products instead of 36.
//!
//! A tile of 4 × 4 positions is transformed (`Bᵀ d B`), multiplied pointwise with transformed weights (`G g Gᵀ`),
//! summed over channels, and transformed back (`Aᵀ m A`): A. Lavin and S. Gray, "Fast Algorithms for Convolutional
//! Neural Networks", 2015, arXiv:1509.09308, section 4.1. The sums over channels are sixteen products with packed
//! weights. Neighbours are added and subtracted before the products, so an infinity or NaN spreads to all four results
//! of its tiles.

#![allow(clippy::needless_range_loop, reason = "tiles are addressed by row and column")]

use std::cell::RefCell;
use std::ops::Range;

use super::Windows;
use crate::activation::Gate;
use crate::aligned::Aligned;
use crate::buffer_pool::Element;
use crate::elementwise::HardSwish;
use crate::isa::{self, Isa};
use crate::packed::{self, Epilogue, PANEL, Packed, Rows, Starts, Variant};
use crate::parallel::{self, Shared};
use crate::simd::Vector;
use crate::sizes::size;

/// Points of a transformed tile.
const POINTS: usize = 16;
/// Minimum number of input and output channels at which products outweigh the transforms.
const CHANNELS: usize = 32;
/// Minimum number of tiles to reuse the weights, which grow by 16/9.
const TILES: usize = 32;
/// Maximum number of elements of transformed tiles and products per task: 1 MB, in the core's L2.
const HELD: usize = 1 << 18;
/// Minimum and maximum number of tiles per task.
const MIN_TILES: usize = 12;
const MAX_TILES: usize = 48;
/// Number of panels that amortise transforming the same tiles again.
const PANELS: usize = 4;

/// Transformed weights of a 3 × 3 convolution.
#[derive(Debug)]
pub struct Winograd {
    weights: Packed,
}

impl Winograd {
    /// True for these windows: planes of dense 3 × 3 windows with stride one.
    pub fn supports(windows: &Windows) -> bool {
        windows.kernel == [1, 3, 3]
            && windows.strides == [1; 3]
            && windows.dilations[1..] == [1; 2]
            && windows.before[0] == 0
            && windows.out[0] == windows.input[0]
    }

    /// True if faster than direct convolution, for planes of `[height, width]` results.
    pub fn is_worthwhile(planes: usize, plane: [usize; 2], channels: usize, outputs: usize) -> bool {
        let tiles = planes.saturating_mul(plane[0].div_ceil(2)).saturating_mul(plane[1].div_ceil(2));
        tiles >= TILES && channels.min(outputs) >= CHANNELS
    }

    /// Transforms weights; `weight(output, out)` writes the `[3, 3, channels]` of an output.
    ///
    /// # Panics
    /// If the size of the weights overflows.
    pub fn new(outputs: usize, channels: usize, mut weight: impl FnMut(usize, &mut [f32])) -> Self {
        let mut points = vec![0f32; size([outputs, POINTS, channels])];
        let mut dense = vec![0f32; if points.is_empty() { 0 } else { 9 * channels }];
        for (o, points) in points.chunks_exact_mut(POINTS.saturating_mul(channels).max(1)).enumerate() {
            weight(o, &mut dense);
            for c in 0..channels {
                for (p, v) in transformed(|tap| dense[tap * channels + c]).into_iter().enumerate() {
                    points[p * channels + c] = v;
                }
            }
        }
        let weights = Packed::new(POINTS, outputs, channels, |r, out| {
            let (point, o) = (r / outputs, r % outputs);
            out.copy_from_slice(&points[(o * POINTS + point) * channels..][..channels]);
        });
        Self { weights }
    }

    fn outputs(&self) -> usize {
        self.weights.outputs() / POINTS
    }

    /// `[images, out…, outputs]` from `x[images, input…, channels]`, including the epilogue.
    ///
    /// # Panics
    /// If sizes do not match, or for [unsupported](Self::supports) windows.
    pub fn conv(&self, windows: &Windows, x: &[f32], images: usize, epilogue: &Epilogue<'_>) -> Vec<f32> {
        let transforms = isa::best(ALL, |t| t.isa);
        self.conv_with(Variant::best(), transforms, windows, x, images, epilogue)
    }

    fn conv_with(
        &self,
        variant: Variant,
        transforms: &Transforms,
        windows: &Windows,
        x: &[f32],
        images: usize,
        epilogue: &Epilogue<'_>,
    ) -> Vec<f32> {
        let (channels, outputs) = (self.weights.cols(), self.outputs());
        assert!(Self::supports(windows), "3 × 3 windows that are neighbours");
        let windows = &windows.checked(x, images, channels);
        let size = size([images, windows.positions(), outputs]);
        assert!(epilogue.bias.is_none_or(|b| b.len() == outputs), "length of the bias");
        assert!(epilogue.residual.is_none_or(|r| r.len() == size), "size of the residual");
        if size == 0 {
            return Vec::new();
        }
        let mut out = f32::room(size);
        assert!(out.capacity() >= size, "room for the result");
        let job = Job {
            winograd: self,
            variant,
            transforms,
            tiles: [windows.out[1].div_ceil(2), windows.out[2].div_ceil(2)],
            windows,
            x,
            zeros: &vec![0f32; channels],
            epilogue,
            out: Shared(out.as_mut_ptr()),
        };
        let tiles = images * windows.out[0] * job.tiles[0] * job.tiles[1];
        let most = (HELD / POINTS / (channels + outputs)).clamp(MIN_TILES, MAX_TILES);
        let wanted = parallel::threads() * 4;
        let blocks = tiles.div_ceil(most).max(wanted.min(tiles.div_ceil(MIN_TILES * 2)));
        let panels = outputs.div_ceil(PANEL);
        let columns = wanted.div_ceil(blocks).clamp(1, panels.div_ceil(PANELS));
        parallel::for_each(blocks * columns, |i| {
            job.run(packed::part(tiles, blocks, i / columns), packed::part(panels, columns, i % columns));
        });
        // SAFETY: within the capacity, and the tasks wrote every element: each position lies in one tile, each channel
        // in one panel.
        unsafe { out.set_len(size) };
        out
    }
}

/// `G g Gᵀ` of the nine weights between a channel and an output.
fn transformed(weight: impl Fn(usize) -> f32) -> [f32; POINTS] {
    let line = |a: f64, b: f64, c: f64| [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c];
    let columns = [0, 1, 2].map(|j| {
        let w = |i: usize| f64::from(weight(i * 3 + j));
        line(w(0), w(1), w(2))
    });
    let mut out = [0f32; POINTS];
    for i in 0..4 {
        for (j, v) in line(columns[0][i], columns[1][i], columns[2][i]).into_iter().enumerate() {
            out[i * 4 + j] = v as f32;
        }
    }
    out
}

/// One convolution.
struct Job<'a> {
    winograd: &'a Winograd,
    variant: Variant,
    transforms: &'a Transforms,
    windows: &'a Windows,
    /// Number of tiles down and across a plane.
    tiles: [usize; 2],
    x: &'a [f32],
    /// Padding around the planes.
    zeros: &'a [f32],
    epilogue: &'a Epilogue<'a>,
    out: Shared<f32>,
}

thread_local! {
    /// Transformed tiles `[points, tiles, channels]` and their products `[tiles, points, outputs]`.
    static HELD_TILES: RefCell<[Aligned<f32>; 2]> = const { RefCell::new([const { Aligned::empty() }; 2]) };
}

impl Job<'_> {
    /// Computes some tiles for some panels of outputs.
    fn run(&self, tiles: Range<usize>, panels: Range<usize>) {
        let weights = &self.winograd.weights;
        let (count, channels, outputs) = (tiles.len(), weights.cols(), self.winograd.outputs());
        HELD_TILES.with_borrow_mut(|[held, products]| {
            let held = held.at_least(POINTS * count * channels);
            for (i, tile) in tiles.clone().enumerate() {
                self.transforms.input(&self.sources(tile), &mut held[i * channels..], count * channels);
            }
            let products = products.at_least(count * POINTS * outputs);
            self.multiply(held, count, panels.clone(), products);
            let channels = panels.start * PANEL..outputs.min(panels.end * PANEL);
            for (tile, products) in tiles.zip(products.chunks_exact(POINTS * outputs)) {
                self.results(tile, products, channels.clone());
            }
        });
    }

    /// Pointwise products of transformed tiles with the weights.
    fn multiply<'h>(&self, held: &'h [f32], count: usize, panels: Range<usize>, out: &mut [f32]) {
        let weights = &self.winograd.weights;
        let channels = weights.cols();
        for point in 0..POINTS {
            let fill = |rows: Range<usize>, _: usize, out: &mut Starts<'_, 'h>| {
                out.run(0, 0..rows.len(), held, (point * count + rows.start) * channels, channels);
            };
            let rows = Rows { count, segments: (1, channels), fill: &fill };
            packed::run_part(self.variant, &rows, weights, point, panels.clone(), out);
        }
    }

    /// Plane, row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let [down, across] = self.tiles;
        (tile / (down * across), tile / across % down, tile % across)
    }

    /// Channels of the 16 positions read by a tile.
    fn sources(&self, tile: usize) -> [&[f32]; POINTS] {
        let (plane, row, column) = self.place(tile);
        let (w, channels) = (self.windows, self.zeros.len());
        let at = |d: usize, at: usize| at.checked_sub(w.before[d]).filter(|&at| at < w.input[d]);
        std::array::from_fn(|i| match (at(1, row * 2 + i / 4), at(2, column * 2 + i % 4)) {
            (Some(y), Some(x)) => &self.x[((plane * w.input[1] + y) * w.input[2] + x) * channels..][..channels],
            _ => self.zeros,
        })
    }

    /// Transforms the products of a tile back and writes those of its four positions that exist.
    fn results(&self, tile: usize, products: &[f32], channels: Range<usize>) {
        let (plane, row, column) = self.place(tile);
        let ([_, height, width], outputs) = (self.windows.out, self.winograd.outputs());
        for i in 0..2 {
            let y = row * 2 + i;
            if y >= height {
                continue;
            }
            let first = ((plane * height + y) * width + column * 2) * outputs;
            let positions = (width - column * 2).min(2);
            let results = Results {
                products,
                outputs,
                channels: channels.clone(),
                row: i,
                positions,
                bias: self.epilogue.bias,
                residual: self.epilogue.residual.map(|r| &r[first..first + positions * outputs]),
                hard_swish: self.epilogue.activation.hard_swish(),
                bounds: self.epilogue.activation.bounds(),
                // SAFETY: within the result, which has `planes · height · width · outputs` elements.
                out: unsafe { self.out.get().add(first) },
            };
            // SAFETY: positions of the result whose channels only this task writes.
            unsafe { self.transforms.output(&results) };
            if !self.epilogue.activation.in_registers() {
                for j in 0..positions {
                    // SAFETY: just written, and exclusive to this task.
                    let out = unsafe {
                        std::slice::from_raw_parts_mut(results.out.add(j * outputs + channels.start), channels.len())
                    };
                    self.epilogue.activation.apply(out);
                }
            }
        }
    }
}

/// Two adjacent results, or the last one of a row, from the products of their tile.
struct Results<'a> {
    /// `[POINTS, outputs]`.
    products: &'a [f32],
    outputs: usize,
    channels: Range<usize>,
    /// Row in the tile: 0 or 1.
    row: usize,
    positions: usize,
    bias: Option<&'a [f32]>,
    /// `[positions, outputs]`.
    residual: Option<&'a [f32]>,
    hard_swish: Option<HardSwish>,
    bounds: (f32, f32),
    /// `[positions, outputs]`.
    out: *mut f32,
}

/// `Bᵀ d` of four elements.
///
/// # Safety
/// Same as [`Vector`].
#[inline(always)]
unsafe fn forth<V: Vector>(d: [V; 4]) -> [V; 4] {
    // SAFETY: guaranteed by the caller.
    unsafe { [d[0].minus(d[2]), d[1].plus(d[2]), d[2].minus(d[1]), d[1].minus(d[3])] }
}

/// Transforms a tile, writing a point every `step` elements of `out`.
///
/// # Safety
/// The CPU must support the instruction set; sources have equal lengths, and `out` has that many elements at each step.
#[inline(always)]
unsafe fn input<V: Vector>(sources: &[&[f32]; POINTS], out: *mut f32, step: usize) {
    let channels = sources[0].len();
    let mut c = 0;
    while c < channels {
        let (count, whole) = (channels - c, channels - c >= V::LANES);
        // SAFETY: guaranteed by the caller; partial registers access only existing elements.
        unsafe {
            let mut rows = [[V::splat(0.0); 4]; 4];
            for j in 0..4 {
                let mut column = [V::splat(0.0); 4];
                for i in 0..4 {
                    let from = sources[i * 4 + j].as_ptr().add(c);
                    column[i] = if whole { V::load(from) } else { V::load_part(from, count) };
                }
                let column = forth(column);
                for i in 0..4 {
                    rows[i][j] = column[i];
                }
            }
            for i in 0..4 {
                let row = forth(rows[i]);
                for j in 0..4 {
                    let to = out.add((i * 4 + j) * step + c);
                    if whole { row[j].store(to) } else { row[j].store_part(to, count) }
                }
            }
        }
        c += V::LANES;
    }
}

/// Transforms products back and applies the epilogue.
///
/// # Safety
/// The CPU must support the instruction set; the slices have the stated lengths, and `out` is writable.
#[inline(always)]
unsafe fn output<V: Vector>(r: &Results<'_>) {
    let mut c = r.channels.start;
    while c < r.channels.end {
        let (count, whole) = (r.channels.end - c, r.channels.end - c >= V::LANES);
        // SAFETY: guaranteed by the caller; partial registers access only existing elements.
        unsafe {
            let load = |from: *const f32| if whole { V::load(from) } else { V::load_part(from, count) };
            let point = |i: usize, j: usize| load(r.products.as_ptr().add((i * 4 + j) * r.outputs + c));
            let mut sums = [V::splat(0.0); 4];
            for j in 0..4 {
                let (near, middle) = (point(1, j), point(2, j));
                sums[j] = if r.row == 0 {
                    point(0, j).plus(near).plus(middle)
                } else {
                    near.minus(middle).minus(point(3, j))
                };
            }
            let pair = [sums[0].plus(sums[1]).plus(sums[2]), sums[1].minus(sums[2]).minus(sums[3])];
            let bias = r.bias.map_or(V::splat(0.0), |b| load(b.as_ptr().add(c)));
            for j in 0..2 {
                if j == r.positions {
                    break;
                }
                let at = j * r.outputs + c;
                let mut v = pair[j].plus(bias);
                if let Some(residual) = r.residual {
                    v = v.plus(load(residual.as_ptr().add(at)));
                }
                if let Some(f) = &r.hard_swish {
                    v = Gate::new(f).at(v);
                }
                let v = v.between(V::splat(r.bounds.0), V::splat(r.bounds.1));
                if whole { v.store(r.out.add(at)) } else { v.store_part(r.out.add(at), count) }
            }
        }
        c += V::LANES;
    }
}

/// Transforms of one instruction set.
struct Transforms {
    isa: Isa,
    input: unsafe fn(&[&[f32]; POINTS], *mut f32, usize),
    output: unsafe fn(&Results<'_>),
}

impl Transforms {
    fn input(&self, sources: &[&[f32]; POINTS], out: &mut [f32], step: usize) {
        let channels = sources[0].len();
        assert!(sources.iter().all(|s| s.len() == channels), "channels of all positions");
        assert!(out.len() >= (POINTS - 1) * step + channels, "room for the points");
        // SAFETY: the variant is available, and the lengths were just checked.
        unsafe { (self.input)(sources, out.as_mut_ptr(), step) }
    }

    /// # Safety
    /// The results must be writable.
    unsafe fn output(&self, r: &Results<'_>) {
        assert!(r.products.len() >= POINTS * r.outputs && r.channels.end <= r.outputs, "products");
        assert!(r.bias.is_none_or(|b| b.len() >= r.outputs), "length of the bias");
        assert!(r.residual.is_none_or(|v| v.len() >= r.positions * r.outputs), "size of the residual");
        // SAFETY: the variant is available, the lengths were just checked, and the rest is guaranteed by the caller.
        unsafe { (self.output)(r) }
    }
}

/// All instruction sets, fastest first; the scalar definition is last.
const ALL: &[Transforms] = &[
    #[cfg(target_arch = "x86_64")]
    Transforms { isa: Isa::Avx512, input: x86::avx512_input, output: x86::avx512_output },
    #[cfg(target_arch = "x86_64")]
    Transforms { isa: Isa::Avx2, input: x86::avx2_input, output: x86::avx2_output },
    #[cfg(target_arch = "aarch64")]
    Transforms {
        isa: Isa::Neon,
        input: input::<std::arch::aarch64::float32x4_t>,
        output: output::<std::arch::aarch64::float32x4_t>,
    },
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Transforms {
        isa: Isa::Simd128,
        input: input::<std::arch::wasm32::v128>,
        output: output::<std::arch::wasm32::v128>,
    },
    Transforms { isa: Isa::Scalar, input: input::<f32>, output: output::<f32> },
];

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{POINTS, Results, input, output};

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512_input(sources: &[&[f32]; POINTS], out: *mut f32, step: usize) {
        // SAFETY: guaranteed by the caller, as in the functions below.
        unsafe { input::<__m512>(sources, out, step) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2_input(sources: &[&[f32]; POINTS], out: *mut f32, step: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe { input::<__m256>(sources, out, step) }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512_output(results: &Results<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { output::<__m512>(results) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2_output(results: &Results<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { output::<__m256>(results) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sum, values};
    use super::*;
    use crate::activation::Activation;
    use crate::elementwise::HardSigmoid;

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn all_variants_agree_with_the_definition() {
        let planes =
            [([1, 6, 8], [0, 1, 1], [1, 6, 8]), ([2, 5, 7], [0, 0, 2], [2, 3, 9]), ([1, 1, 1], [0, 1, 1], [1, 1, 1])];
        for (input, before, out) in planes {
            let w = Windows { input, kernel: [1, 3, 3], strides: [1; 3], dilations: [1; 3], before, out };
            assert!(Winograd::supports(&w));
            for (channels, outputs, images) in [(3, 5, 2), (37, 70, 1)] {
                let x = values(images * w.plane() * channels, 1);
                let weights = values(outputs * 9 * channels, 2);
                let winograd = Winograd::new(outputs, channels, |o, out| {
                    out.copy_from_slice(&weights[o * 9 * channels..][..9 * channels]);
                });
                let bias = values(outputs, 3);
                let residual = values(images * w.positions() * outputs, 4);
                let gate = HardSigmoid { slope: 0.5, offset: 0.5 };
                let hard_swish = Activation::HardSwish(HardSwish { gate, threshold: Some(-1.0) });
                for activation in [Activation::Clamp { low: -1.0, high: 1.0 }, Activation::Silu, hard_swish] {
                    let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), activation };
                    for (variant, transforms) in
                        Variant::all().flat_map(|v| ALL.iter().filter(|t| t.isa.enabled()).map(move |t| (v, t)))
                    {
                        let y = winograd.conv_with(variant, transforms, &w, &x, images, &epilogue);
                        assert_eq!(y.len(), residual.len());
                        for (i, &y) in y.iter().enumerate() {
                            let (row, o) = (i / outputs, i % outputs);
                            let image = &x[row / w.positions() * w.plane() * channels..];
                            let at = |tap, c| weights[(o * 9 + tap) * channels + c];
                            let sum = sum(&w, image, channels, row % w.positions(), at);
                            let mut want = [(f64::from(bias[o]) + sum + f64::from(residual[i])) as f32];
                            activation.apply(&mut want);
                            let place = format!("{} {} {w:?} at {i}", variant.name(), transforms.isa.name());
                            assert!((y - want[0]).abs() < 2e-5, "{place}: {y} != {}", want[0]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn other_windows_are_not_taken() {
        let w = Windows {
            input: [1, 6, 8],
            kernel: [1, 3, 3],
            strides: [1; 3],
            dilations: [1; 3],
            before: [0; 3],
            out: [1, 4, 6],
        };
        assert!(Winograd::supports(&w));
        for other in [
            Windows { kernel: [1, 1, 3], ..w },
            Windows { strides: [1, 2, 1], ..w },
            Windows { dilations: [1, 1, 2], ..w },
            Windows { kernel: [3, 3, 3], ..w },
        ] {
            assert!(!Winograd::supports(&other), "{other:?}");
        }
        assert!(Winograd::is_worthwhile(1, [14, 14], 256, 256) && !Winograd::is_worthwhile(1, [7, 7], 512, 512));
        assert!(!Winograd::is_worthwhile(1, [56, 56], 3, 64));
    }
}
