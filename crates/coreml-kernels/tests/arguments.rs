//! Safe functions with mismatched and extreme arguments: they return what their definition says, without integer
//! overflow, or panic as documented. Under AddressSanitizer and Miri this also tests memory accesses.

use std::panic::{AssertUnwindSafe, catch_unwind};

use coreml_kernels::activation::Activation;
use coreml_kernels::cached_attention::{self, Cache, Shape, cached_attention};
use coreml_kernels::conv::{self, Transposed, TransposedShape, Windows, Winograd, conv_packed, depthwise, max_pool};
use coreml_kernels::elementwise::zip;
use coreml_kernels::gather::{
    Axis, AxisIndices, FILL, Indices, Outside, concat, contiguous, index_select, index_select_along,
};
use coreml_kernels::matmul::{self, matmul_rows, matmul_t, matmul_t_many};
use coreml_kernels::matvec::{self, Precision, Product, matvec, matvec_many};
use coreml_kernels::packed::{Epilogue, Heads, Matrices, Packed, Sizes, multiply, product, sdpa};
use coreml_kernels::reduce::{Running, running_sum, sum};
use coreml_kernels::resample::{Between, OUTSIDE, Taps, bilinear, sample};
use coreml_kernels::strided::Strided;
use coreml_kernels::weight_matrix::{Blocks, Lut, Storage, WeightMatrix};
use coreml_kernels::{expand, fp16, norm, parallel, rotary::rotary, softmax::softmax, sort};
use half::f16;
use proptest::prelude::*;

/// Maximum number of elements of results and buffers in cases that run; cases too large for any memory also run.
const MOST: u128 = 1 << 14;

/// Result of `f`; `None` if it rejects its arguments. Fails on undocumented panics: arithmetic overflow and
/// out-of-range slices.
fn answer<R>(f: impl FnOnce() -> R) -> Option<R> {
    let panic = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(answer) => return Some(answer),
        Err(panic) => panic,
    };
    let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let said = said.expect("a message");
    let own = [
        "attempt to",
        "index out of",
        "range ",
        "slice ",
        "mid >",
        "copy_from",
        "source slice",
        "called `",
        "unreachable",
    ];
    assert!(!own.iter().any(|start| said.starts_with(start)) && !said.contains("chunk size"), "not a refusal: {said}");
    None
}

/// Product of extents, without overflow.
fn size(extents: &[usize]) -> u128 {
    if extents.contains(&0) { 0 } else { extents.iter().fold(1, |n, &e| n.saturating_mul(e as u128)) }
}

/// True for a size small enough to test, or impossible to allocate.
fn tried(elements: u128) -> bool {
    elements <= MOST || elements > isize::MAX as u128
}

/// An extent or stride: usually small, sometimes overflowing sums or products.
fn extent() -> BoxedStrategy<usize> {
    prop_oneof![
        12 => 0usize..7,
        1 => prop::sample::select(vec![
            usize::MAX, usize::MAX - 3, 1 << 63, (1 << 63) | (1 << 60), 3 << 60, 1 << 62, 1 << 61, 1 << 40, 1 << 33, 1 << 32,
            0xaaaa_aaaa_aaaa_aaab, isize::MAX as usize,
        ]),
    ]
    .boxed()
}

/// An extent, preferably 1.
fn one() -> BoxedStrategy<usize> {
    prop_oneof![3 => Just(1), 1 => extent()].boxed()
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 31) % 97) as f32 / 48.0 - 1.0).collect()
}

/// As many values as the extents require, or a few.
fn values_of(extents: &[usize], few: usize) -> Vec<f32> {
    let n = size(extents);
    values(if n <= MOST { n as usize } else { few })
}

fn windows() -> impl Strategy<Value = Windows> {
    let three = || [one(), one(), extent()];
    (three(), three(), three(), three(), [extent(), extent(), extent()], three()).prop_map(
        |(input, kernel, strides, dilations, before, out)| Windows { input, kernel, strides, dilations, before, out },
    )
}

/// Reference: taps of a window inside the image, and their positions.
fn read_by(w: &Windows, window: [usize; 3]) -> Vec<(usize, usize)> {
    let along = |d: usize| -> Vec<(usize, usize)> {
        let at = |tap: usize| {
            let at =
                window[d] as i128 * w.strides[d] as i128 + tap as i128 * w.dilations[d] as i128 - w.before[d] as i128;
            usize::try_from(at).ok().filter(|&at| at < w.input[d])
        };
        // For more taps than this, those inside are derived from their positions.
        if w.kernel[d] <= 1 << 10 {
            return (0..w.kernel[d]).filter_map(|tap| Some((tap, at(tap)?))).collect();
        }
        let origin = window[d] as i128 * w.strides[d] as i128 - w.before[d] as i128;
        let tap = |position: usize| {
            let skipped = position as i128 - origin;
            let tap = usize::try_from(skipped / w.dilations[d] as i128).ok()?;
            (skipped >= 0 && skipped % w.dilations[d] as i128 == 0 && tap < w.kernel[d]).then_some((tap, position))
        };
        (0..w.input[d]).filter_map(tap).collect()
    };
    let [a, b, c] = [along(0), along(1), along(2)];
    let mut read = Vec::new();
    for &(i, y) in &a {
        for &(j, x) in &b {
            for &(k, z) in &c {
                let tap = (i as u128 * w.kernel[1] as u128 + j as u128) * w.kernel[2] as u128 + k as u128;
                read.push((tap as usize, (y * w.input[1] + x) * w.input[2] + z));
            }
        }
    }
    read
}

/// All windows of an image, in order.
fn all_windows(w: &Windows) -> impl Iterator<Item = [usize; 3]> {
    let [a, b, c] = w.out;
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| [i, j, k])))
}

#[test]
fn strides_beyond_the_elements_are_refused() {
    let x = [7u8; 16];
    assert!(answer(|| contiguous(&[16, 5], Strided { data: &x, strides: &[1, 1 << 62] })).is_none());
    assert!(answer(|| contiguous(&[1 << 32, 1 << 32], Strided { data: &x, strides: &[0, 0] })).is_none());
    let y = [0f32; 4];
    let operand = |strides| Strided { data: &y, strides };
    assert!(answer(|| zip(&[2, 5], operand(&[1, 1 << 62]), operand(&[0, 0]), |x, y| x + y)).is_none());
    assert!(answer(|| zip(&[1 << 32, 1 << 32], operand(&[0, 0]), operand(&[0, 0]), |x, y| x + y)).is_none());
    let far = AxisIndices::Run(0..5);
    assert!(answer(|| index_select(&x, &[Axis { stride: 1 << 62, places: &far }], 0)).is_none());
}

#[test]
fn windows_whose_steps_wrap_are_refused_unless_nothing_steps() {
    let w = |kernel, stride, dilation| Windows {
        input: [1, 1, 8],
        kernel: [1, 1, kernel],
        strides: [1, 1, stride],
        dilations: [1, 1, dilation],
        before: [0; 3],
        out: [1, 1, 4],
    };
    let x = values(8);
    assert!(answer(|| depthwise(&w(1, 3 << 60, 1), &x, 1, &[1.0], &Epilogue::default())).is_none());
    assert!(answer(|| max_pool(&w(2, 1, (1 << 63) | (1 << 60)), &x, 1, 1)).is_none());
    assert!(answer(|| max_pool(&Windows { input: [1, 1 << 63, 2], ..w(1, 1, 1) }, &[], 1, 1)).is_none());
    assert!(answer(|| max_pool(&w(1, 0, 1), &x, 1, 1)).is_none());
    // A single window or tap has no stride.
    let single = Windows { out: [1, 1, 1], ..w(1, 3 << 60, usize::MAX) };
    assert_eq!(answer(|| depthwise(&single, &x, 1, &[2.0], &Epilogue::default())), Some(vec![2.0 * x[0]]));
    // Taps outside cost nothing.
    let wide = Windows { before: [0, 0, 1 << 40], ..w(1 << 41, 1, 1) };
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(answer(|| max_pool(&wide, &x, 1, 1)), Some(vec![largest; 4]));
}

#[test]
fn padding_far_wider_than_the_image_takes_no_memory() {
    // Five windows, of which the middle one reads the image; several on each side.
    let w = Windows {
        input: [1, 1, 4],
        kernel: [1, 1, 3],
        strides: [1, 1, 1 << 39],
        dilations: [1; 3],
        before: [0, 0, 1 << 40],
        out: [1, 1, 5],
    };
    let weights = Packed::new(1, 1, 3, |_, out| out.copy_from_slice(&[1.0, 10.0, 100.0]));
    assert_eq!(conv_packed(&w, &[1.0, 2.0, 3.0, 4.0], 1, &weights, &Epilogue::default()), [0.0, 0.0, 321.0, 0.0, 0.0]);
}

#[test]
fn heads_whose_results_wrap_are_refused() {
    let h = Heads { data: &[], starts: &[0], row: 0 };
    // 3 · 0xaaaa_aaaa_aaaa_aaab = 1 in 64 bits.
    let sizes = Sizes { queries: 3, keys: 0, dim: 0, width: 0xaaaa_aaaa_aaaa_aaab, together: 1 };
    assert!(answer(|| sdpa(sizes, h, h, h, None, 1.0)).is_none());
}

#[test]
fn results_of_several_products_must_have_all_rows() {
    let weights = vec![0u8; 8 * 128 * 4];
    for form in [Storage::F32(&weights), Storage::F16(&weights[..8 * 128 * 2])] {
        for precision in [Precision::Half, Precision::Single] {
            let weight = WeightMatrix::new(8, 128, form).expect("sizes match");
            for m in [1, 2, 3, 40] {
                let x = vec![1.0; m * 128];
                for len in [m * 8 - 1, m * 8 + 1, 0] {
                    let mut out = vec![0f32; len];
                    let products = &mut [Product { weight, bias: None, out: &mut out }];
                    assert!(answer(|| matmul_t_many(products, &x, m, precision)).is_none(), "{m} rows, {len} results");
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn a_kernel_that_panics_leaves_the_threads_to_the_next() {
    let rows = 1 << 12;
    let x = values(rows * 64);
    let want = softmax(&x, [rows, 64, 1]);
    for round in 0..20 {
        let refused = answer(|| {
            sample(&x, 4, rows * 4, 0.0, |i| {
                assert!(i != round * 200, "on purpose");
                Taps { at: [i; 4], weights: [0.25; 4] }
            })
        });
        assert!(refused.is_none());
        assert_eq!(softmax(&x, [rows, 64, 1]), want);
    }
    if parallel::threads() > 1 {
        // Other threads still take part, unless another test is in a region.
        let threads = std::sync::Mutex::new(std::collections::HashSet::new());
        let joined = || threads.lock().expect("not poisoned").len();
        for _ in 0..200 {
            threads.lock().expect("not poisoned").clear();
            parallel::for_each(2, |_| {
                threads.lock().expect("not poisoned").insert(std::thread::current().id());
                for _ in 0..10_000 {
                    if joined() == 2 {
                        return;
                    }
                    std::thread::yield_now();
                }
            });
            if joined() == 2 {
                break;
            }
        }
        assert!(joined() == 2, "a region has one thread");
    }
}

#[test]
fn variants_run_only_where_the_cpu_has_them() {
    let weight = WeightMatrix::new(1, 2, Storage::Strided(&[1.0, 2.0], 2, 1)).expect("sizes match");
    for variant in matvec::VARIANTS {
        let mut y = [0.0];
        let done = answer(|| matvec::matvec_with(variant, weight, &[3.0, 4.0], None, &mut y));
        assert_eq!(done.is_some(), variant.available(), "{}", variant.name());
        assert!(done.is_none() || y == [11.0], "{}", variant.name());
    }
    for variant in matmul::VARIANTS {
        let mut y = [0.0];
        let done = answer(|| matmul::matmul_t_with(variant, weight, &[3.0, 4.0], None, &mut y));
        assert_eq!(done.is_some(), variant.available(), "{}", variant.name());
        assert!(done.is_none() || y == [11.0], "{}", variant.name());
    }
}

/// Fewer cases under an interpreter.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: if cfg!(miri) { 8 } else { 2000 }, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn strided_operands(dims in prop::collection::vec((extent(), extent(), extent()), 0..4), len in 0usize..40) {
        let shape: Vec<usize> = dims.iter().map(|d| d.0).collect();
        let (xs, ys): (Vec<usize>, Vec<usize>) = dims.iter().map(|d| (d.1, d.2)).unzip();
        prop_assume!(tried(size(&shape)));
        let data = values(len);
        let at = |strides: &[usize], mut index: usize| {
            let mut offset = 0u128;
            for (&n, &s) in shape.iter().zip(strides).rev() {
                offset += (index % n) as u128 * s as u128;
                index /= n;
            }
            usize::try_from(offset).ok().and_then(|offset| data.get(offset)).copied()
        };
        let (x, y) = (Strided { data: &data, strides: &xs }, Strided { data: &data, strides: &ys });
        let inside = |strides: &[usize]| size(&shape) <= MOST && (0..size(&shape) as usize).all(|i| at(strides, i).is_some());
        let copy = answer(|| contiguous(&shape, x));
        prop_assert_eq!(copy.is_some(), inside(&xs));
        for (i, v) in copy.into_iter().flatten().enumerate() {
            prop_assert_eq!(Some(v), at(&xs, i));
        }
        let sums = answer(|| zip(&shape, x, y, |x, y| x + y));
        prop_assert_eq!(sums.is_some(), inside(&xs) && inside(&ys));
        for (i, v) in sums.into_iter().flatten().enumerate() {
            prop_assert_eq!(Some(v), at(&xs, i).zip(at(&ys, i)).map(|(x, y)| x + y));
        }
        prop_assert!(shape.is_empty() || size(&shape) == 0 || answer(|| contiguous(&shape[1..], x)).is_none());
    }

    #[test]
    fn positions(
        dims in prop::collection::vec((extent(), any::<bool>(), prop::collection::vec(one(), 0..5), extent()), 0..4),
        len in 0usize..40,
    ) {
        let places: Vec<AxisIndices> = dims.iter().map(|(start, run, at, _)| match run {
            true => AxisIndices::Run(*start..at.iter().fold(*start, |end, n| end.wrapping_add(*n))),
            false => AxisIndices::At(at.iter().map(|&n| if n == 6 { FILL } else { n }).collect()),
        }).collect();
        let extents: Vec<usize> = places.iter().map(AxisIndices::len).collect();
        prop_assume!(tried(size(&extents)));
        let along: Vec<Axis<'_>> = places.iter().zip(&dims).map(|(places, d)| Axis { stride: d.3, places }).collect();
        let x: Vec<u32> = (1..=len as u32).collect();
        let at = |mut index: usize| {
            let (mut offset, mut inside) = (0u128, true);
            for d in along.iter().rev() {
                let place = d.places.get(index % d.places.len());
                inside &= place != FILL;
                offset += if place == FILL { 0 } else { place as u128 * d.stride as u128 };
                index /= d.places.len();
            }
            if inside { usize::try_from(offset).ok().and_then(|at| x.get(at)).copied() } else { Some(0) }
        };
        let fits = size(&extents) <= MOST && (0..size(&extents) as usize).all(|i| at(i).is_some());
        let y = answer(|| index_select(&x, &along, 0));
        prop_assert_eq!(y.is_some(), fits);
        for (i, v) in y.into_iter().flatten().enumerate() {
            prop_assert_eq!(Some(v), at(i));
        }
    }

    #[test]
    fn indices_and_parts(
        n in extent(), m in extent(), inner in extent(), outer in extent(), odd in any::<bool>(),
        at in prop::collection::vec(extent(), 6), blocks in prop::collection::vec(extent(), 0..4),
    ) {
        let x = values_of(&[outer, n, inner], 12);
        let count = if size(&[outer, m, inner]) <= MOST { size(&[outer, m, inner]) as usize } else { 6 };
        let at: Vec<i64> = (0..count).map(|i| (if odd { at[i % at.len()] } else { i % n.max(1) }) as i64).collect();
        let indices = Indices { at: &at, n, outside: Outside::Refuse };
        match answer(|| index_select_along(&x, indices, m, inner)) {
            // Indices are checked on use.
            Some(Err(index)) => prop_assert!(index as u128 >= n as u128),
            Some(Ok(y)) => {
                for (i, v) in y.into_iter().enumerate() {
                    prop_assert_eq!(v, x[(i / (m * inner) * n + at[i] as usize) * inner + i % inner]);
                }
            }
            None => {}
        }
        let parts: Vec<Vec<f32>> = blocks.iter().map(|&b| values_of(&[b, outer], 5)).collect();
        let parts: Vec<(&[f32], usize)> = parts.iter().map(Vec::as_slice).zip(blocks.iter().copied()).collect();
        if let Some(y) = answer(|| concat(&parts, outer)) {
            prop_assert_eq!(y.len(), parts.iter().map(|p| p.0.len()).sum::<usize>());
        }
        let _ = answer(|| sort::top_k(&x, n, m, odd));
    }

    #[test]
    fn windows_of_images(w in windows(), images in one(), channels in extent(), odd in 0usize..8) {
        let [a, b, c] = w.input;
        let results = size(&[images, w.out[0], w.out[1], w.out[2], channels]);
        let taps = size(&w.kernel);
        prop_assume!(tried(results) && tried(size(&[images, w.out[0], w.out[1], w.out[2]])));
        prop_assume!(results == 0 || (0..3).all(|d| w.input[d] <= 1 << 10));
        let x = if odd == 0 { values(9) } else { values_of(&[images, a, b, c, channels], 9) };
        let positions = || (0..images).flat_map(|image| all_windows(&w).map(move |at| (image, at)));
        let plane = size(&w.input) as usize;
        if let Some(y) = answer(|| max_pool(&w, &x, images, channels)) {
            prop_assert_eq!(y.len() as u128, results);
            for (y, (image, at)) in y.chunks(channels.max(1)).zip(positions()) {
                let read = read_by(&w, at);
                for (ch, &y) in y.iter().enumerate() {
                    let all = read.iter().map(|&(_, at)| x[(image * plane + at) * channels + ch]);
                    prop_assert_eq!(y, all.fold(f32::NEG_INFINITY, f32::max));
                }
            }
        }
        prop_assume!(tried(taps.saturating_mul(channels as u128)) && tried(taps));
        // Each channel separately, and one output of all channels with both kernels.
        let weights = if odd == 1 { values(5) } else { values_of(&[w.kernel[0], w.kernel[1], w.kernel[2], channels], 5) };
        let close = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-4;
        if let Some(y) = answer(|| depthwise(&w, &x, images, &weights, &Epilogue::default())) {
            for (y, (image, at)) in y.chunks(channels.max(1)).zip(positions()) {
                for (ch, &y) in y.iter().enumerate() {
                    let term = |(tap, at): (usize, usize)| {
                        f64::from(x[(image * plane + at) * channels + ch]) * f64::from(weights[tap * channels + ch])
                    };
                    prop_assert!(close(y, read_by(&w, at).into_iter().map(term).sum()), "{w:?} {at:?} {ch}");
                }
            }
        }
        let dense = |image: usize, at| -> f64 {
            let sum = |(tap, at): (usize, usize)| -> f64 {
                let of = |ch: usize| f64::from(x[(image * plane + at) * channels + ch]) * f64::from(weights[tap * channels + ch]);
                (0..channels).map(of).sum()
            };
            read_by(&w, at).into_iter().map(sum).sum()
        };
        let packed = Packed::new(1, 1, weights.len(), |_, out| out.copy_from_slice(&weights));
        if let Some(y) = answer(|| conv_packed(&w, &x, images, &packed, &Epilogue::default())) {
            for (y, (image, at)) in y.into_iter().zip(positions()) {
                prop_assert!(close(y, dense(image, at)), "{w:?} {at:?}");
            }
        }
        let stored: Vec<f32> = (0..channels.min(weights.len()))
            .flat_map(|ch| weights.iter().skip(ch).step_by(channels.max(1)).copied())
            .collect();
        let weight = WeightMatrix::new(1, stored.len(), Storage::Strided(&stored, stored.len(), 1)).expect("sizes match");
        let mut y = vec![0f32; size(&[images, w.out[0], w.out[1], w.out[2]]).min(MOST) as usize];
        if answer(|| conv::conv(&w, &x, images, Product { weight, bias: None, out: &mut y })).is_some() {
            for (y, (image, at)) in y.into_iter().zip(positions()) {
                prop_assert!(close(y, dense(image, at)), "{w:?} {at:?}");
            }
        }
    }

    #[test]
    fn transforms_and_phases(
        w in windows(), images in one(), channels in extent(), outputs in extent(), groups in one(), pays in any::<bool>(),
    ) {
        let weights = size(&[outputs, 16, channels]);
        prop_assume!(tried(weights) && (channels > 0 || outputs as u128 <= MOST));
        let [a, b, c] = w.input;
        let w3 = Windows { kernel: [1, 3, 3], strides: [1; 3], dilations: [1; 3], before: [0, w.before[1], w.before[2]], out: [a, w.out[1], w.out[2]], ..w };
        let results = size(&[images, w3.out[0], w3.out[1], w3.out[2], outputs]);
        let x = values_of(&[images, a, b, c, channels], 9);
        if let Some(winograd) = answer(|| Winograd::new(outputs, channels, |_, out| out.fill(1.0)))
            && tried(results)
            && let Some(y) = answer(|| winograd.conv(if pays { &w3 } else { &w }, &x, images, &Epilogue::default()))
        {
            prop_assert!(y.len() as u128 == results || !pays);
        }
        Winograd::is_worthwhile(a, [b, c], channels, outputs);
        let shape = TransposedShape {
            groups, channels: [channels, outputs], kernel: w.kernel, strides: w.strides, dilations: w.dilations, before: w.before,
        };
        let weights = size(&[groups, channels, outputs, w.kernel[0], w.kernel[1], w.kernel[2]]);
        prop_assume!(tried(weights) && (size(&w.strides) <= 1 << 9 || size(&w.strides) > 1 << 12));
        let results = size(&[images, w.out[0], w.out[1], w.out[2], groups, outputs]);
        let x = values_of(&[images, a, b, c, groups, channels], 9);
        if let Some(transposed) = answer(|| Transposed::new(shape, |_, _, tap| tap as f32))
            && tried(results)
            && let Some(y) = answer(|| transposed.run(&x, images, w.input, w.out, None))
        {
            prop_assert_eq!(y.len() as u128, results);
        }
    }

    #[test]
    fn matrices_in_every_form(
        rows in extent(), cols in extent(), bits in prop::sample::select(vec![1u32, 2, 3, 4, 6, 8, 0, 7, 64]),
        by in (extent(), extent()), len in 0usize..400, m in one(), kind in 0usize..6, wrong in 0usize..6,
    ) {
        let (bytes, floats) = (vec![0x3cu8; len], values(len));
        let form = match kind {
            0 => Storage::F32(&bytes),
            1 => Storage::F16(&bytes),
            2 => Storage::Strided(&floats, by.0, by.1),
            3 => Storage::Lut(Lut { bits, indices: &bytes, tables: &bytes, group_rows: by.0 }),
            4 => Storage::Blocks(Blocks {
                bits, signed: true, data: &bytes, scale: &floats, offset: None, block_rows: by.0, block_cols: by.1,
            }),
            _ => Storage::Blocks(Blocks {
                bits, signed: false, data: &bytes, scale: &floats, offset: Some(&floats), block_rows: by.0, block_cols: by.1,
            }),
        };
        let Some(Ok(weight)) = answer(|| WeightMatrix::new(rows, cols, form)) else { return Ok(()) };
        prop_assume!(size(&[m, rows]) <= MOST && size(&[m, cols]) <= MOST && size(&[rows, cols]) <= MOST);
        prop_assume!(rows.max(cols) as u128 <= MOST);
        let (mut row, x) = (vec![0f32; cols], values(m * cols));
        for r in 0..rows.min(50) {
            prop_assert!(answer(|| weight.expand_row(r, &mut row)).is_some());
            prop_assert!(answer(|| expand::expand_row(&weight, r, &mut row)).is_some());
        }
        prop_assert!(answer(|| weight.expand_row(rows, &mut row)).is_none());
        let mut y = vec![0f32; if wrong == 0 { 3 } else { m * rows }];
        let (fits, bias) = (y.len() == m * rows, values(if wrong == 1 { 2 } else { rows }));
        for precision in [Precision::Half, Precision::Single] {
            let done = answer(|| matmul_t(weight, &x, Some(&bias), precision, &mut y));
            prop_assert!(done.is_some() || !fits || bias.len() != rows || m * rows == 0);
            let done = answer(|| matmul_t_many(&mut [Product { weight, bias: None, out: &mut y }], &x, m, precision));
            prop_assert_eq!(done.is_some(), fits);
            let done = answer(|| matvec(weight, &x, None, precision, &mut y));
            prop_assert_eq!(done.is_some(), y.len() == rows && x.len() == cols);
            let two = &mut [Product { weight, bias: None, out: &mut y }, Product { weight, bias: None, out: &mut [] }];
            prop_assert_eq!(answer(|| matvec_many(two, &x, precision)).is_some(), rows == 0 && fits && x.len() == cols);
        }
        let fill = |_: usize, out: &mut [f32]| out.fill(1.0);
        let done = answer(|| matmul_rows(&mut [Product { weight, bias: None, out: &mut y }], m, cols, &fill));
        prop_assert_eq!(done.is_some(), fits);
        let other = answer(|| matmul_rows(&mut [Product { weight, bias: None, out: &mut y }], m, cols.wrapping_add(1), &fill));
        prop_assert!(other.is_none() || rows == 0);
    }

    #[test]
    fn packed_weights(groups in one(), outputs in extent(), cols in extent(), m in extent(), wrong in 0usize..6) {
        let panels = size(&[groups, outputs.saturating_add(31) / 32, cols, 32]);
        prop_assume!(tried(panels) && (cols > 0 || size(&[groups, outputs]) <= MOST));
        let Some(packed) = answer(|| Packed::new(groups, outputs, cols, |_, out| out.fill(1.0))) else { return Ok(()) };
        prop_assume!(tried(size(&[m, outputs])));
        let x = if wrong == 0 { values(7) } else { values_of(&[m, cols], 7) };
        let bias = values(if wrong == 1 { 3 } else { outputs.min(99) });
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::Gelu, ..Epilogue::default() };
        if let Some(y) = answer(|| product(&x, m, &packed, &epilogue)) {
            prop_assert_eq!(y.len() as u128, size(&[m, outputs]));
        }
    }

    #[test]
    fn computed_matrices(
        sizes in [extent(), extent(), extent()], xs in prop::collection::vec(extent(), 0..3), ys in prop::collection::vec(extent(), 3),
        steps in [extent(), one(), extent(), extent()], len in 0usize..60,
    ) {
        let [m, k, n] = sizes;
        let data = values(len);
        let x = Matrices { data: &data, starts: &xs, strides: [steps[0], steps[1]] };
        let y = Matrices { data: &data, starts: &ys[..xs.len()], strides: [steps[2], steps[3]] };
        let results = size(&[xs.len(), m, n]);
        prop_assume!(tried(results) && tried(size(&[xs.len(), n.saturating_add(31) / 32, k, 32])) && tried(size(&[k, 32])));
        if let Some(out) = answer(|| multiply(sizes, x, y)) {
            prop_assert_eq!(out.len() as u128, results);
            for (i, v) in out.into_iter().enumerate() {
                let (b, i, j) = (i / (m * n), i / n % m, i % n);
                let at = |start: usize, row: usize, col: usize, steps: &[usize]| f64::from(data[start + row * steps[0] + col * steps[1]]);
                let term = |c: usize| at(xs[b], i, c, &steps[..2]) * at(ys[b], c, j, &steps[2..]);
                prop_assert!((f64::from(v) - (0..k).map(term).sum::<f64>()).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn heads(
        sizes in [extent(), extent(), extent(), extent()], together in one(), starts in prop::collection::vec(extent(), 0..3),
        rows in [extent(), extent(), extent(), extent()], len in 0usize..60, masked in any::<bool>(),
    ) {
        let [queries, keys, dim, width] = sizes;
        let data = values(len);
        let heads = |row: usize| Heads { data: &data, starts: &starts, row };
        let results = size(&[starts.len(), queries, width]);
        let scratch = size(&[keys.saturating_add(31), dim.max(width).saturating_add(31)]);
        prop_assume!(tried(results) && (tried(scratch) || results == 0));
        let sizes = Sizes { queries, keys, dim, width, together };
        let mask = masked.then(|| heads(rows[3]));
        if let Some(y) = answer(|| sdpa(sizes, heads(rows[0]), heads(rows[1]), heads(rows[2]), mask, 0.5)) {
            prop_assert_eq!(y.len() as u128, results);
            if mask.is_none() && keys > 0 && width > 0 {
                // Weighted means lie between the smallest and the largest value.
                for (i, v) in y.into_iter().enumerate() {
                    let (group, head, c) = (i / (queries * together * width), i / width % together, i % width);
                    let all = (0..keys).map(|r| data[starts[group * together + head] + r * rows[2] + c]);
                    let (low, high) = all.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
                    prop_assert!(v >= low - 1e-5 && v <= high + 1e-5);
                }
            }
        }
    }

    #[test]
    fn caches(
        heads in extent(), kv_heads in one(), queries in extent(), len in extent(), dim in extent(),
        steps in [extent(), extent()], elements in 0usize..60, masked in 0usize..3, cut in 0usize..4,
    ) {
        prop_assume!(tried(size(&[heads, queries, dim])) && (tried(size(&[len, dim])) && tried(size(&[len, 2])) || dim == 0));
        let q = values_of(&[heads, queries, dim], 5);
        let mut out = vec![0f32; if cut == 0 { q.len() / 2 } else { q.len() }];
        let mask = if size(&[queries, len]) <= MOST { vec![0f32; size(&[queries, len]) as usize] } else { vec![0.0; 3] };
        let data: Vec<f16> = values(elements).into_iter().map(f16::from_f32).collect();
        let cache = Cache { data: &data, head_stride: steps[0], row_stride: steps[1] };
        let shape = Shape { heads, kv_heads, queries, len, dim };
        let mask = (masked > 0).then_some(&mask[..if masked == 1 { mask.len() } else { mask.len() / 2 }]);
        let done = answer(|| cached_attention(shape, &q, cache, cache, mask, 0.5, &mut out));
        prop_assert!(done.is_none() || out.len() as u128 == size(&[heads, queries, dim]));
        prop_assert!(cached_attention::open_positions(mask.unwrap_or(&[]), queries, len) <= len);
    }

    #[test]
    fn extents_of_rows(extents in [extent(), extent(), extent()], wrong in 0usize..4, reverse in any::<bool>()) {
        let [outer, n, inner] = extents;
        let x = if wrong == 0 { values(4) } else { values_of(&extents, 4) };
        let fits = x.len() as u128 == size(&extents);
        prop_assert_eq!(answer(|| softmax(&x, extents)).is_some(), fits);
        let running = Running { exclusive: wrong == 1, reverse };
        prop_assert_eq!(answer(|| running_sum(&x, extents, running)).is_some(), fits);
        if tried(size(&[outer, inner])) {
            let sums = answer(|| sum(&x, extents, |v| v, |v, _| v));
            prop_assert_eq!(sums.map(|s| s.len() as u128), Some(size(&[outer, inner])).filter(|&n| fits && n <= MOST));
        }
        let channel = values(if n <= 9 { n } else { 3 });
        let scaled = answer(|| norm::affine(&x, extents, &channel, &channel));
        prop_assert_eq!(scaled.is_some(), fits && channel.len() == n);
        let mut y = vec![0f32; x.len()];
        let whole = x.len().is_multiple_of(n.max(1));
        prop_assert_eq!(answer(|| norm::rms_norm(&x, n, 1e-5, None, &mut y)).is_some(), whole);
        prop_assert_eq!(answer(|| norm::layer_norm(&x, n, 1e-5, Some(&channel), None, &mut y)).is_some(), whole && channel.len() == n.max(1));
        let _ = answer(|| rotary(&x, &channel, &channel, n, &mut y));
        let mut narrow = vec![f16::ZERO; inner.min(9)];
        prop_assert_eq!(answer(|| fp16::narrow(&x, &mut narrow)).is_some(), x.len() == narrow.len());
        for size in [outer, n, inner] {
            let seen = std::sync::atomic::AtomicUsize::new(0);
            let work = |_: usize, part: &mut [f32]| {
                seen.fetch_add(part.len(), std::sync::atomic::Ordering::Relaxed);
            };
            prop_assert_eq!(answer(|| parallel::chunks_mut(&mut y, size, work)).is_some(), size > 0);
            prop_assert_eq!(answer(|| parallel::rows_mut(&mut y, size, work)).is_some(), size > 0);
            prop_assert_eq!(seen.into_inner(), if size > 0 { 2 * y.len() } else { 0 });
        }
    }

    #[test]
    fn images_between_their_elements(
        planes in one(), h in extent(), w in extent(), inner in extent(), at in prop::collection::vec(extent(), 0..9), odd in any::<bool>(),
        count in extent(),
    ) {
        let x = if odd { values(6) } else { values_of(&[planes, h, w, inner], 6) };
        let between: Vec<Between> =
            at.windows(2).map(|at| Between { low: at[0], high: at[1], part: 0.25 }).collect();
        let (rows, columns) = between.split_at(between.len() / 2);
        if tried(size(&[planes, rows.len(), columns.len(), inner])) && tried(size(&[columns.len(), inner]))
            && let Some(y) = answer(|| bilinear(&x, (h, w), inner, rows, columns))
            && inner > 0 && !x.is_empty()
        {
            prop_assert_eq!(y.len(), x.len() / h.wrapping_mul(w).max(1) * rows.len() * columns.len());
        }
        prop_assume!(tried(size(&[count, inner])));
        let taps = |i: usize| {
            let at = std::array::from_fn(|k| at.get(i % 3 + k).map_or(OUTSIDE, |&at| if at == 5 { OUTSIDE } else { at }));
            Taps { at, weights: [0.25, 0.5, 0.0, 1.0] }
        };
        // Positions are checked on use.
        let inside = |i: usize| {
            let Taps { at, weights } = taps(i);
            (0..4).all(|k| at[k] == OUTSIDE || weights[k] == 0.0 || (at[k] as u128 + 1) * inner as u128 <= x.len() as u128)
        };
        let few = size(&[count, inner]) <= MOST;
        if few && (inner == 0 || (0..count).all(inside)) {
            prop_assert_eq!(sample(&x, inner, count, 2.0, taps).len(), count * inner);
        } else {
            prop_assert!(catch_unwind(|| sample(&x, inner, count, 2.0, taps)).is_err());
        }
    }
}
