//! Depthwise convolution and max pooling on channels-last data: one row of windows at a time, channels in registers.

#![allow(clippy::needless_range_loop, reason = "tiles are addressed by row and column")]

use std::mem::MaybeUninit;

use super::Windows;
use crate::activation::{Activation, Gate};
use crate::buffer_pool::alloc_with;
use crate::isa::{self, Isa};
use crate::packed::Epilogue;
use crate::parallel::threads;
use crate::simd::Vector;
use crate::sizes::size;

/// Depthwise convolution with `weights[taps, channels]`; returns `[images, out…, channels]` including the epilogue.
///
/// # Panics
/// If sizes do not match.
pub fn depthwise(windows: &Windows, x: &[f32], images: usize, weights: &[f32], epilogue: &Epilogue<'_>) -> Vec<f32> {
    depthwise_with(best(), windows, x, images, weights, epilogue)
}

/// Max pooling: `[images, out…, channels]`; −∞ for windows outside the image, NaN for windows that contain one.
///
/// # Panics
/// If sizes do not match.
pub fn max_pool(windows: &Windows, x: &[f32], images: usize, channels: usize) -> Vec<f32> {
    max_pool_with(best(), windows, x, images, channels)
}

fn depthwise_with(
    lines: &Lines,
    windows: &Windows,
    x: &[f32],
    images: usize,
    weights: &[f32],
    epilogue: &Epilogue<'_>,
) -> Vec<f32> {
    let taps = size(windows.kernel);
    assert!(taps > 0 && weights.len().is_multiple_of(taps), "number of weights");
    let channels = weights.len() / taps;
    let zeros;
    let bias = match epilogue.bias {
        Some(bias) => bias,
        None => {
            zeros = vec![0f32; channels];
            &zeros
        }
    };
    assert!(bias.len() == channels, "length of the bias");
    all(windows, x, images, channels, epilogue, |line| lines.sums(line, weights, bias))
}

fn max_pool_with(lines: &Lines, windows: &Windows, x: &[f32], images: usize, channels: usize) -> Vec<f32> {
    all(windows, x, images, channels, &Epilogue::default(), |line| lines.largest(line))
}

/// Calls `work` for every row of windows.
fn all(
    windows: &Windows,
    x: &[f32],
    images: usize,
    channels: usize,
    epilogue: &Epilogue<'_>,
    work: impl Fn(&mut Line<'_, '_>) + Sync,
) -> Vec<f32> {
    let windows = &windows.checked(x, images, channels);
    let len = size([images, windows.positions(), channels]);
    assert!(epilogue.residual.is_none_or(|r| r.len() == len), "size of the residual");
    if len == 0 {
        return Vec::new();
    }
    let (width, lines, plane) =
        (windows.out[2] * channels, windows.out[0] * windows.out[1], windows.plane() * channels);
    // Windows are grouped over all taps, unless far more taps than elements are outside the image.
    let several = windows.out[2] >= MANY
        && windows.kernel[2] <= SHARED_TAPS.max(windows.input[2].saturating_add(windows.out[2]).saturating_mul(MANY));
    // Neighbouring window rows read the same image rows: a task takes several.
    let run = (images * lines).div_ceil(threads() * 8);
    // SAFETY: `work` writes all windows of its row.
    unsafe {
        alloc_with(len, run * width, |task, out| {
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let line = task * run + i;
                let (image, at) = (&x[line / lines * plane..][..plane], line % lines);
                let residual = epilogue.residual.map(|r| &r[line * width..][..width]);
                let outer = [at / windows.out[1], at % windows.out[1]];
                let (rows, activation) = (windows.rows(outer), epilogue.activation);
                work(&mut Line {
                    windows,
                    image,
                    rows: &rows,
                    channels,
                    several,
                    part: 0..0,
                    residual,
                    activation,
                    out,
                });
            }
        })
    }
}

/// One row of windows.
struct Line<'a, 'o> {
    windows: &'a Windows,
    image: &'a [f32],
    /// Image rows read by the windows: first tap of each, and position of its first element.
    rows: &'a [(usize, usize)],
    channels: usize,
    /// True if [`MANY`] windows are computed together.
    several: bool,
    /// Channel range of the current pass.
    part: std::ops::Range<usize>,
    residual: Option<&'a [f32]>,
    activation: Activation,
    out: &'o mut [MaybeUninit<f32>],
}

/// A group of consecutive windows.
struct Group {
    /// First window.
    at: usize,
    /// Taps along the row inside the image; for several windows, all taps.
    taps: std::ops::Range<usize>,
    /// Position in the row read by the first tap of the first window; out of range at the edges.
    source: isize,
}

impl Line<'_, '_> {
    /// The group of windows starting at `at`: [`MANY`], or one in short rows. The last group may overlap the previous
    /// one.
    #[inline(always)]
    fn group(&self, at: usize) -> (Group, bool) {
        let (w, many) = (self.windows, self.several);
        let at = if many { at.min(w.out[2] - MANY) } else { at };
        let source = |tap: usize| (at * w.strides[2] + tap * w.dilations[2]) as isize - w.before[2] as isize;
        if many {
            return (Group { at, taps: 0..w.kernel[2], source: source(0) }, true);
        }
        let taps = w.taps_inside(2, at);
        (Group { at, source: source(taps.start), taps }, false)
    }

    /// True if taps of several windows read outside the row.
    #[inline(always)]
    fn hangs_over(&self, group: &Group) -> bool {
        let w = self.windows;
        let last = group.source + ((MANY - 1) * w.strides[2] + w.kernel[2].saturating_sub(1) * w.dilations[2]) as isize;
        group.source < 0 || last >= w.input[2] as isize
    }

    /// Applies an activation other than bounds.
    ///
    /// # Safety
    /// All windows have been written.
    unsafe fn activate(&mut self) {
        if !self.activation.in_registers() {
            // SAFETY: guaranteed by the caller.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.as_mut_ptr().cast::<f32>(), self.out.len()) };
            self.activation.apply(out);
        }
    }
}

/// Number of windows that share weights in registers.
const MANY: usize = 4;
/// Number of taps along a row up to which windows are always grouped.
const SHARED_TAPS: usize = 1 << 10;
/// Number of channels per pass over a row of windows: their weights and shared inputs stay in L1. A multiple of the
/// channels a single window processes at once.
const PART: usize = 128;
/// Registers read outside the image.
static NOTHING: [f32; 32] = [0.0; 32];
static LEAST: [f32; 32] = [f32::NEG_INFINITY; 32];
/// Number of inputs read by this many windows of five taps at stride two.
const REACH: usize = (MANY - 1) * 2 + 5;

/// Computes [`MANY`] windows over all channels.
///
/// # Safety
/// The CPU must support the instruction set; the group lies in the row; `operands`, weights `[taps, channels]` and
/// bias, match the row.
#[inline(always)]
unsafe fn many<V: Vector, const EDGE: bool>(line: &mut Line<'_, '_>, group: &Group, operands: Operands<'_>) {
    assert!(line.out.len() >= (group.at + MANY) * line.channels, "windows of the line");
    let w = line.windows;
    let neighbours = w.dilations[2] == 1 && operands.is_some();
    // SAFETY: the caller's contract.
    unsafe {
        match (w.strides[2], w.kernel[2]) {
            (1, 3) if neighbours => channels::<V, MANY, 1, 3, EDGE>(line, group, operands),
            (2, 3) if neighbours => channels::<V, MANY, 2, 3, EDGE>(line, group, operands),
            (1, 5) if neighbours => channels::<V, MANY, 1, 5, EDGE>(line, group, operands),
            (2, 5) if neighbours => channels::<V, MANY, 2, 5, EDGE>(line, group, operands),
            _ => channels::<V, MANY, 0, 0, EDGE>(line, group, operands),
        }
    }
}

/// Computes `P` windows over all channels; for windows of `TAPS` adjacent inputs at stride `STEP`, each input is loaded
/// once.
///
/// # Safety
/// Same as [`many`]; if `STEP` is not zero, there are weights and the windows have that shape; taps lie inside the
/// image unless `EDGE`.
#[inline(always)]
unsafe fn channels<V: Vector, const P: usize, const STEP: usize, const TAPS: usize, const EDGE: bool>(
    line: &mut Line<'_, '_>,
    group: &Group,
    operands: Operands<'_>,
) {
    let std::ops::Range { start: mut first, end } = line.part.clone();
    // SAFETY: the caller's contract; partial registers access only existing channels.
    unsafe {
        // A single window keeps as many sums in flight by taking more channels.
        while P == 1 && first + 2 * MANY * V::LANES <= end {
            block::<V, P, { 2 * MANY }, STEP, TAPS, EDGE, true>(line, group, operands, first);
            first += 2 * MANY * V::LANES;
        }
        while first + 2 * V::LANES <= end {
            block::<V, P, 2, STEP, TAPS, EDGE, true>(line, group, operands, first);
            first += 2 * V::LANES;
        }
        if first + V::LANES <= end {
            block::<V, P, 1, STEP, TAPS, EDGE, true>(line, group, operands, first);
            first += V::LANES;
        }
        if first < end {
            block::<V, P, 1, STEP, TAPS, EDGE, false>(line, group, operands, first);
        }
    }
}

/// Weights and bias; `None` for max pooling.
type Operands<'a> = Option<(&'a [f32], &'a [f32])>;

/// Loads a whole or partial register.
///
/// # Safety
/// Same as [`Vector::load`] and [`Vector::load_part`].
#[inline(always)]
unsafe fn load<V: Vector, const WHOLE: bool>(from: *const f32, count: usize) -> V {
    // SAFETY: guaranteed by the caller.
    unsafe { if WHOLE { V::load(from) } else { V::load_part(from, count) } }
}

/// Computes `P` windows by `W` registers of channels, in whole or partial registers.
///
/// # Safety
/// Same as [`channels`]; if `WHOLE`, all lanes are in range.
#[inline(always)]
unsafe fn block<
    V: Vector,
    const P: usize,
    const W: usize,
    const STEP: usize,
    const TAPS: usize,
    const EDGE: bool,
    const WHOLE: bool,
>(
    line: &mut Line<'_, '_>,
    group: &Group,
    operands: Operands<'_>,
    first: usize,
) {
    let channels = line.channels;
    let (stride, dilation) = (line.windows.strides[2], line.windows.dilations[2]);
    let width = line.windows.input[2] as isize;
    let (low, high) = line.activation.bounds();
    let count = channels - first;
    // Neutral element of the sum or maximum.
    let nothing = if operands.is_some() { &NOTHING } else { &LEAST }.as_ptr();
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[V::splat(f32::NEG_INFINITY); W]; P];
        if let Some((_, bias)) = operands {
            for j in 0..W {
                let bias = load::<V, WHOLE>(bias.as_ptr().add(first + j * V::LANES), count);
                for p in 0..P {
                    acc[p][j] = bias;
                }
            }
        }
        for &(tap, row) in line.rows {
            // In an empty image nothing is read here.
            let x = line.image.as_ptr().wrapping_add(row * channels + first);
            // The register at an offset of positions from the group's start.
            let at = |i: usize, j: usize| {
                let column = group.source + i as isize;
                let from = x.wrapping_offset(column * channels as isize);
                // Branch-free, since a branch would depend on the group.
                let inside = !EDGE || (0..width).contains(&column);
                let from = std::hint::select_unpredictable(inside, from, nothing);
                load::<V, WHOLE>(from.wrapping_add(j * V::LANES), count)
            };
            if let (1.., Some((weights, _))) = (STEP, operands) {
                let weights = weights.as_ptr().add(tap * channels + first);
                for j in 0..W {
                    let mut xs = [V::splat(0.0); REACH];
                    for i in 0..(P - 1) * STEP + TAPS {
                        xs[i] = at(i, j);
                    }
                    for k in 0..TAPS {
                        let w = load::<V, WHOLE>(weights.add(k * channels + j * V::LANES), count);
                        for p in 0..P {
                            acc[p][j] = acc[p][j].add_product(xs[p * STEP + k], w);
                        }
                    }
                }
                continue;
            }
            for k in group.taps.clone() {
                let from = (k - group.taps.start) * dilation;
                if let Some((weights, _)) = operands {
                    let weights = weights.as_ptr().add((tap + k) * channels + first);
                    for j in 0..W {
                        let w = load::<V, WHOLE>(weights.add(j * V::LANES), count);
                        for p in 0..P {
                            acc[p][j] = acc[p][j].add_product(at(from + p * stride, j), w);
                        }
                    }
                } else {
                    for j in 0..W {
                        for p in 0..P {
                            acc[p][j] = acc[p][j].larger(at(from + p * stride, j));
                        }
                    }
                }
            }
        }
        if let Some(residual) = line.residual {
            for p in 0..P {
                for j in 0..W {
                    acc[p][j] = acc[p][j].plus(load::<V, WHOLE>(
                        residual.as_ptr().add((group.at + p) * channels + first + j * V::LANES),
                        count,
                    ));
                }
            }
        }
        if let Some(f) = &line.activation.hard_swish() {
            let gate = Gate::new(f);
            for p in 0..P {
                for j in 0..W {
                    acc[p][j] = gate.at(acc[p][j]);
                }
            }
        }
        let (low, high) = (V::splat(low), V::splat(high));
        let out = line.out.as_mut_ptr().cast::<f32>();
        for p in 0..P {
            for j in 0..W {
                let to = out.add((group.at + p) * channels + first + j * V::LANES);
                let v = acc[p][j].between(low, high);
                if WHOLE {
                    v.store(to);
                } else {
                    v.store_part(to, count);
                }
            }
        }
    }
}

/// Computes all windows of a row.
///
/// # Safety
/// Same as [`many`].
#[inline(always)]
unsafe fn line<V: Vector>(line: &mut Line<'_, '_>, operands: Operands<'_>) {
    assert!(line.out.len() >= line.windows.out[2] * line.channels, "windows of the line");
    // SAFETY: groups are windows of the row; single windows have only taps inside the image, and groups either do or
    // are at the edge; all windows are eventually written.
    unsafe {
        for first in (0..line.channels).step_by(PART) {
            line.part = first..line.channels.min(first + PART);
            let mut at = 0;
            while at < line.windows.out[2] {
                let (group, several) = line.group(at);
                match several {
                    true if line.hangs_over(&group) => many::<V, true>(line, &group, operands),
                    true => many::<V, false>(line, &group, operands),
                    false => channels::<V, 1, 0, 0, false>(line, &group, operands),
                }
                at += if several { MANY } else { 1 };
            }
        }
        line.activate();
    }
}

/// Computes a row of windows with weights and bias, or their maximum without.
///
/// # Safety
/// Same as [`many`].
type Run = unsafe fn(&mut Line<'_, '_>, Operands<'_>);

/// Row kernel of one instruction set.
struct Lines {
    isa: Isa,
    run: Run,
}

impl Lines {
    fn sums(&self, line: &mut Line<'_, '_>, weights: &[f32], bias: &[f32]) {
        assert!(weights.len() >= line.windows.taps() * line.channels && bias.len() >= line.channels, "operands");
        // SAFETY: the variant is available; rows and taps come from `Windows`, and the operands were just checked.
        unsafe { (self.run)(line, Some((weights, bias))) }
    }

    fn largest(&self, line: &mut Line<'_, '_>) {
        // SAFETY: the variant is available; rows and taps come from `Windows`.
        unsafe { (self.run)(line, None) }
    }
}

/// All instruction sets, fastest first; the scalar definition is last.
const LINES: &[Lines] = &[
    #[cfg(target_arch = "x86_64")]
    Lines { isa: Isa::Avx512, run: x86::avx512 },
    #[cfg(target_arch = "x86_64")]
    Lines { isa: Isa::Avx2, run: x86::avx2 },
    #[cfg(target_arch = "aarch64")]
    Lines { isa: Isa::Neon, run: line::<std::arch::aarch64::float32x4_t> },
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Lines { isa: Isa::Simd128, run: line::<std::arch::wasm32::v128> },
    Lines { isa: Isa::Scalar, run: line::<f32> },
];

fn best() -> &'static Lines {
    isa::best(LINES, |l| l.isa)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Line, Operands};

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(line: &mut Line<'_, '_>, operands: Operands<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { super::line::<__m512>(line, operands) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(line: &mut Line<'_, '_>, operands: Operands<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe { super::line::<__m256>(line, operands) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sum, values, windows};
    use super::*;
    use crate::elementwise::{HardSigmoid, HardSwish, Unary};

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn depthwise_convolutions_agree_with_the_definition() {
        for w in windows() {
            for (channels, images) in [(1, 2), (37, 2), (64, 1)] {
                let x = values(images * w.plane() * channels, 1);
                let (weights, bias) = (values(w.taps() * channels, 2), values(channels, 3));
                let residual = values(images * w.positions() * channels, 4);
                let activation = Activation::Clamp { low: -0.5, high: 0.5 };
                let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), activation };
                for lines in LINES.iter().filter(|l| l.isa.enabled()) {
                    let y = depthwise_with(lines, &w, &x, images, &weights, &epilogue);
                    for (i, &y) in y.iter().enumerate() {
                        let (row, c) = (i / channels, i % channels);
                        let image = &x[row / w.positions() * w.plane() * channels..];
                        let at = |tap, other| if other == c { weights[tap * channels + c] } else { 0.0 };
                        let sum = sum(&w, image, channels, row % w.positions(), at);
                        let want = (f64::from(bias[c]) + sum + f64::from(residual[i])).clamp(-0.5, 0.5);
                        assert!((f64::from(y) - want).abs() < 1e-5, "{} {w:?} at {i}: {y} != {want}", lines.isa.name());
                    }
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "many elements")]
    fn the_largest_is_found_nan_kept_and_nothing_is_less_than_all() {
        for w in windows() {
            let mut x = values(2 * w.plane() * 5, 1);
            x.iter_mut().skip(7).take(1).for_each(|v| *v = f32::NAN);
            for lines in LINES.iter().filter(|l| l.isa.enabled()) {
                let y = max_pool_with(lines, &w, &x, 2, 5);
                for (i, &y) in y.iter().enumerate() {
                    let (row, c) = (i / 5, i % 5);
                    let image = &x[row / w.positions() * w.plane() * 5..];
                    let mut want = f32::NEG_INFINITY;
                    w.each_tap(w.place(row % w.positions()), |_, at| {
                        let v = image[at * 5 + c];
                        want = if want.is_nan() || v.is_nan() { f32::NAN } else { want.max(v) };
                    });
                    assert!(
                        y == want || y.is_nan() && want.is_nan(),
                        "{} {w:?} at {i}: {y} != {want}",
                        lines.isa.name()
                    );
                }
            }
        }
    }

    #[test]
    fn activations_that_are_no_bounds_follow() {
        let w = windows().remove(0);
        let (x, weights) = (values(w.plane() * 3, 1), values(w.taps() * 3, 2));
        let plain = depthwise(&w, &x, 1, &weights, &Epilogue::default());
        let activated =
            depthwise(&w, &x, 1, &weights, &Epilogue { activation: Activation::Silu, ..Epilogue::default() });
        let close = |(&x, &y): (&f32, &f32)| (y - crate::math::silu::<false>(x)).abs() < 1e-6;
        assert!(plain.iter().zip(&activated).all(close));
        let f = HardSwish { gate: HardSigmoid { slope: 0.5, offset: 0.5 }, threshold: Some(-0.25) };
        let epilogue = Epilogue { activation: Activation::HardSwish(f), ..Epilogue::default() };
        for lines in LINES.iter().filter(|l| l.isa.enabled()) {
            let plain = depthwise_with(lines, &w, &x, 1, &weights, &Epilogue::default());
            let finished = depthwise_with(lines, &w, &x, 1, &weights, &epilogue);
            let want: Vec<f32> = plain.iter().map(|&v| f.at::<false>(v)).collect();
            assert_eq!(finished, want, "{}", lines.isa.name());
        }
    }
}
