//! Kernels at the sizes of Qwen3-0.6B against memory bandwidth, and convolutions at those of ResNet-18: `cargo bench -p
//! coreml-kernels`.
//!
//! Weights and KV caches exceed the processor's caches and are used in turn, as in decoding.

use std::hint::black_box;
use std::time::Duration;

use coreml_kernels::cached_attention::{Cache, Shape, cached_attention};
use coreml_kernels::conv::{Windows, Winograd, conv_packed};
use coreml_kernels::gather::{Axis, AxisIndices, FILL, contiguous, index_select};
use coreml_kernels::matmul::matmul_t;
use coreml_kernels::matvec::{Precision, matvec};
use coreml_kernels::packed::{Epilogue, Packed};
use coreml_kernels::parallel;
use coreml_kernels::strided::Strided;
use coreml_kernels::weight_matrix::{Blocks, Lut, Storage, WeightMatrix};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;

const ROWS: usize = 3072;
const COLS: usize = 1024;
/// Size in bytes of the pool of weights used in turn.
const POOL: usize = 256 << 20;
/// Rows per palettization table.
const GROUP: usize = 8;

fn settings(
    c: &mut Criterion,
    name: &str,
    run: impl FnOnce(&mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>),
) {
    let mut group = c.benchmark_group(name);
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    run(&mut group);
    group.finish();
}

/// Bytes that are valid in every storage format: small numbers as fp16 and as f32.
fn weights() -> Vec<u8> {
    (0..POOL).map(|i| if i % 2 == 1 { 0x2c } else { (i / 2 * 37) as u8 }).collect()
}

fn tables(bits: u32) -> Vec<u8> {
    (0..(ROWS / GROUP) << bits).flat_map(|i| f16::from_f32((i % 97) as f32 / 50.0 - 1.0).to_le_bytes()).collect()
}

/// Name, bits per weight, and the matrix over some bytes.
type Case<'a> = (String, u32, Box<dyn Fn(&'a [u8]) -> WeightMatrix<'a> + 'a>);

fn forms<'a>(tables: &'a [(u32, Vec<u8>)], scale: &'a [f32]) -> Vec<Case<'a>> {
    let matrix = |form| WeightMatrix::new(ROWS, COLS, form).expect("sizes match");
    let mut all: Vec<Case<'a>> = Vec::new();
    for (bits, tables) in tables {
        let form = move |indices| matrix(Storage::Lut(Lut { bits: *bits, indices, tables, group_rows: GROUP }));
        all.push((format!("tables of {bits} bits"), *bits, Box::new(form)));
    }
    for bits in [4, 8] {
        let blocks =
            move |data| Blocks { bits, signed: true, data, scale, offset: None, block_rows: 1, block_cols: 32 };
        all.push((
            format!("int{bits} in blocks of 32"),
            bits,
            Box::new(move |data| matrix(Storage::Blocks(blocks(data)))),
        ));
    }
    all.push(("fp16".to_owned(), 16, Box::new(move |data| matrix(Storage::F16(data)))));
    all.push(("f32".to_owned(), 32, Box::new(move |data| matrix(Storage::F32(data)))));
    all
}

fn products(c: &mut Criterion) {
    let data = weights();
    let tables: Vec<(u32, Vec<u8>)> = [1, 2, 3, 4, 6, 8].map(|bits| (bits, tables(bits))).into();
    let scale = vec![0.01; ROWS * COLS / 32];
    settings(c, "memory", |group| {
        group.throughput(Throughput::Bytes(POOL as u64));
        group.bench_function("read by all threads", |b| {
            b.iter(|| {
                parallel::for_each(parallel::threads(), |i| {
                    let share = POOL / parallel::threads();
                    let words = data[i * share..(i + 1) * share].as_chunks::<8>().0;
                    black_box(words.iter().fold(0u64, |sum, w| sum.wrapping_add(u64::from_le_bytes(*w))));
                });
            });
        });
    });
    let x: Vec<f32> = (0..64 * COLS).map(|i| ((i * 31 % 101) as f32 - 50.0) / 50.0).collect();
    settings(c, "matrix times vector", |group| {
        for (name, bits, form) in forms(&tables, &scale) {
            let size = ROWS * COLS * bits as usize / 8;
            let (mut parts, mut y) = (data.chunks_exact(size).cycle(), vec![0f32; ROWS]);
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(name, |b| {
                b.iter(|| {
                    let weight = form(parts.next().expect("weights"));
                    matvec(weight, &x[..COLS], None, Precision::Half, &mut y);
                });
            });
        }
    });
    // Throughput in multiply-adds.
    settings(c, "matrix times 64 vectors", |group| {
        for (name, bits, form) in forms(&tables, &scale) {
            let size = ROWS * COLS * bits as usize / 8;
            for precision in [Precision::Half, Precision::Single] {
                let (mut parts, mut y) = (data.chunks_exact(size).cycle(), vec![0f32; 64 * ROWS]);
                group.throughput(Throughput::Elements((64 * ROWS * COLS) as u64));
                group.bench_function(BenchmarkId::new(&name, format!("{precision:?}")), |b| {
                    b.iter(|| matmul_t(form(parts.next().expect("weights")), &x, None, precision, &mut y));
                });
            }
        }
    });
}

fn attentions(c: &mut Criterion) {
    let (layers, kv_heads, len, dim) = (28, 8, 512, 128);
    let layer = kv_heads * len * dim;
    let data: Vec<f16> = (0..2 * layers * layer).map(|i| f16::from_f32((i % 83) as f32 / 83.0 - 0.5)).collect();
    settings(c, "attention", |group| {
        for (queries, open) in [(1, 64), (1, 400), (64, 64), (64, 448)] {
            let shape = Shape { heads: 16, kv_heads, queries, len, dim };
            let q: Vec<f32> = (0..16 * queries * dim).map(|i| (i % 7) as f32 / 7.0).collect();
            let mut mask = vec![0f32; queries * len];
            mask.chunks_exact_mut(len).for_each(|row| row[open..].fill(f32::NEG_INFINITY));
            let (mut out, mut turn) = (vec![0f32; q.len()], (0..layers).cycle());
            // fp16 keys and values.
            group.throughput(Throughput::Bytes((2 * kv_heads * open * dim * 2) as u64));
            group.bench_function(format!("{queries} queries, {open} positions"), |b| {
                b.iter(|| {
                    let first = turn.next().expect("a layer") * 2 * layer;
                    let cache = |data| Cache { data, head_stride: len * dim, row_stride: dim };
                    let (keys, values) = (cache(&data[first..]), cache(&data[first + layer..]));
                    cached_attention(shape, &q, keys, values, Some(&mask), 0.1, &mut out);
                });
            });
        }
    });
}

/// 3 × 3, stride one. Throughput counts the multiply-adds of direct convolution for both methods.
fn convolutions(c: &mut Criterion) {
    settings(c, "convolution", |group| {
        for (extent, channels) in [(56, 64), (28, 128), (14, 256), (7, 512)] {
            let windows = Windows {
                input: [1, extent, extent],
                kernel: [1, 3, 3],
                strides: [1; 3],
                dilations: [1; 3],
                before: [0, 1, 1],
                out: [1, extent, extent],
            };
            let x: Vec<f32> = (0..extent * extent * channels).map(|i| (i % 83) as f32 / 83.0 - 0.5).collect();
            let row = |r: usize, out: &mut [f32]| {
                out.iter_mut().enumerate().for_each(|(i, w)| *w = ((i + r) % 79) as f32 / 79.0 - 0.5);
            };
            let bias = vec![0.1; channels];
            let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
            let packed = Packed::new(1, channels, 9 * channels, row);
            let winograd = Winograd::new(channels, channels, row);
            let size = format!("{extent}×{extent}, {channels} channels");
            group.throughput(Throughput::Elements((extent * extent * channels * channels * 9) as u64));
            group.bench_function(BenchmarkId::new("sums", &size), |b| {
                b.iter(|| conv_packed(&windows, &x, 1, &packed, &epilogue));
            });
            group.bench_function(BenchmarkId::new("winograd", &size), |b| {
                b.iter(|| winograd.conv(&windows, &x, 1, &epilogue));
            });
        }
    });
}

/// Gathers from 64 channels of 56 × 56, compared with a plain copy.
fn copies(c: &mut Criterion) {
    let x: Vec<f32> = (0..64 * 56 * 56).map(|i| i as f32).collect();
    let (all, turned) = (|n: usize| AxisIndices::Run(0..n), AxisIndices::At((0..56).rev().collect()));
    let padded = AxisIndices::At(std::iter::once(FILL).chain(0..56).chain([FILL]).collect());
    let twice = AxisIndices::At((0..112).map(|i| i / 2).collect());
    let cases = [
        ("moved", [all(64), all(56), all(56)]),
        ("padded", [all(64), padded.clone(), padded]),
        ("reversed", [all(64), all(56), turned]),
        ("nearest", [all(64), twice.clone(), twice]),
    ];
    settings(c, "copies", |group| {
        for (name, places) in &cases {
            let strides = [56 * 56, 56, 1];
            let dims: Vec<Axis<'_>> =
                places.iter().zip(strides).map(|(places, stride)| Axis { stride, places }).collect();
            let written: usize = places.iter().map(AxisIndices::len).product();
            group.throughput(Throughput::Bytes(4 * (x.len() + written) as u64));
            group.bench_function(*name, |b| b.iter(|| index_select(&x, &dims, 0.0)));
        }
        group.throughput(Throughput::Bytes(8 * x.len() as u64));
        group.bench_function("channels last", |b| {
            b.iter(|| contiguous(&[56 * 56, 64], Strided { data: &x, strides: &[1, 56 * 56] }));
        });
    });
}

criterion_group!(benches, products, attentions, convolutions, copies);
criterion_main!(benches);
