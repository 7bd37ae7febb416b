//! Every variant against the definition, and several vectors against each alone.

use super::*;
use crate::weight_matrix::Lut;

/// A small linear congruential generator, sufficient for tests.
fn noise(n: usize, seed: u32) -> Vec<u32> {
    let mut s = seed;
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            s >> 8
        })
        .collect()
}

fn bytes(n: usize, seed: u32) -> Vec<u8> {
    noise(n, seed).into_iter().map(|v| (v >> 5) as u8).collect()
}

fn halves(n: usize, seed: u32) -> Vec<u8> {
    noise(n, seed)
        .into_iter()
        .flat_map(|v| half::f16::from_f32((v % 2001) as f32 / 1000.0 - 1.0).to_le_bytes())
        .collect()
}

fn check(weight: WeightMatrix<'_>) {
    let x: Vec<f32> = noise(weight.cols(), 7).into_iter().map(|v| (v % 1999) as f32 / 1000.0 - 1.0).collect();
    let bias: Vec<f32> = (0..weight.rows()).map(|r| r as f32 / 8.0).collect();
    let mut row = vec![0f32; weight.cols()];
    // Reference in f64.
    let want: Vec<f64> = (0..weight.rows())
        .map(|r| {
            weight.expand_row(r, &mut row);
            f64::from(bias[r]) + row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>()
        })
        .collect();
    // Terms of the error bound, for entries and elements of magnitude one.
    let sum = |v: &[f32]| v.iter().map(|v| f64::from(v.abs())).sum::<f64>();
    let of_x = sum(&x) * 2f64.powi(-13);
    for variant in VARIANTS.iter().filter(|v| v.isa.enabled()) {
        let mut got = vec![f32::NAN; weight.rows()];
        matvec_with(variant, weight, &x, Some(&bias), &mut got);
        for (r, (g, w)) in got.iter().zip(&want).enumerate() {
            // f32 sums of `cols` terms of magnitude one.
            let mut tolerance = 1e-6 * (weight.cols() as f64 + 8.0);
            if variant.precision == Precision::Half {
                weight.expand_row(r, &mut row);
                tolerance += of_x + sum(&row) * 2f64.powi(-16);
            }
            assert!((f64::from(*g) - w).abs() <= tolerance, "{} row {r}: {g} != {w}", variant.name());
        }
    }
}

/// Several vectors give the bits of each alone; the fourth vector is not finite where `odd`.
fn check_few(weight: WeightMatrix<'_>, odd: bool) {
    let (rows, cols) = (weight.rows(), weight.cols());
    let bias: Vec<f32> = (0..rows).map(|r| r as f32 / 8.0).collect();
    for variant in VARIANTS.iter().filter(|v| v.isa.enabled()) {
        for m in [2usize, 3, 5, 7, 8, 9, 16, 31] {
            let mut x: Vec<f32> = noise(m * cols, 7).into_iter().map(|v| (v % 1999) as f32 / 1e3 - 1.0).collect();
            if odd && m > 3 {
                x[3 * cols + cols / 2] = f32::INFINITY;
            }
            let mut y = vec![f32::NAN; m * rows];
            let products = &mut [Product { weight, bias: Some(&bias), out: &mut y }];
            if !few_with(variant, products, &x, m, ANY) {
                continue;
            }
            for (i, (x, y)) in x.chunks_exact(cols).zip(y.chunks_exact(rows)).enumerate() {
                let mut alone = vec![f32::NAN; rows];
                matvec_with(variant, weight, x, Some(&bias), &mut alone);
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(y), bits(&alone), "{}, vector {i} of {m}, {rows} × {cols}", variant.name());
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn several_vectors_give_the_bits_of_each_alone() {
    for bits in [1u32, 2, 3, 4, 6, 8] {
        for (rows, cols, group_rows) in [(8, 64, 8), (3, 200, 3), (24, 1096, 4), (90, 2176, 90), (160, 1032, 8)] {
            let indices = bytes((rows * cols * bits as usize).div_ceil(8), bits + cols as u32);
            let mut tables = halves((rows / group_rows) << bits, 3 + bits);
            for odd in [false, true] {
                if odd {
                    tables[..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
                }
                let lut = Lut { bits, indices: &indices, tables: &tables, group_rows };
                check_few(WeightMatrix::new(rows, cols, Storage::Lut(lut)).expect("sizes match"), odd);
            }
        }
    }
    for (bits, signed, cols, block_cols) in
        [(4, false, 256, 32), (4, true, 1280, 128), (8, false, 2176, 32), (8, true, 384, 384)]
    {
        let (data, count) = (bytes(80 * cols, 11), 80 / 4 * (cols / block_cols));
        let scale: Vec<f32> = (1..=count).map(|i| i as f32 / 1000.0 / count as f32).collect();
        let offset: Vec<f32> = (1..=count).map(|i| (i % 5) as f32).collect();
        for offset in [None, Some(&offset[..])] {
            let form = Blocks { bits, signed, data: &data, scale: &scale, offset, block_rows: 4, block_cols };
            check_few(WeightMatrix::new(80, cols, Storage::Blocks(form)).expect("sizes match"), false);
        }
    }
    for cols in [1usize, 31, 200, 1024] {
        let data = halves(70 * cols, 5);
        check_few(WeightMatrix::new(70, cols, Storage::F16(&data)).expect("sizes match"), false);
    }
}

#[test]
#[cfg_attr(miri, ignore = "many elements")]
fn every_variant_agrees_with_the_definition_for_every_width_and_tail() {
    for bits in [1u32, 2, 3, 4, 6, 8] {
        for cols in [1usize, 7, 8, 63, 64, 65, 96, 128, 192, 200, 256, 320, 1024] {
            for (rows, group_rows) in [(8, 8), (16, 8), (3, 3), (24, 4), (80, 80)] {
                let indices = bytes((rows * cols * bits as usize).div_ceil(8), bits + cols as u32);
                let tables = halves((rows / group_rows) << bits, 3 + bits);
                let lut = Lut { bits, indices: &indices, tables: &tables, group_rows };
                check(WeightMatrix::new(rows, cols, Storage::Lut(lut)).expect("sizes match"));
            }
        }
    }
}

#[test]
fn dense_and_block_forms_agree() {
    for cols in [1usize, 15, 16, 17, 32, 64, 200] {
        let data = halves(9 * cols, 5);
        check(WeightMatrix::new(9, cols, Storage::F16(&data)).expect("sizes match"));
        let data: Vec<u8> = noise(9 * cols, 6).iter().flat_map(|v| (*v as f32 / 2e7).to_le_bytes()).collect();
        check(WeightMatrix::new(9, cols, Storage::F32(&data)).expect("sizes match"));
    }
    for (bits, signed) in [(4, false), (4, true), (8, false), (8, true)] {
        for (cols, block_rows, block_cols) in [
            (64, 4, 16),
            (9, 1, 3),
            (15, 2, 15),
            (256, 1, 32),
            (384, 4, 128),
            (512, 8, 256),
            (160, 1, 32),
            (256, 2, 64),
        ] {
            let data = bytes(8 * cols, 11);
            let count = 8 / block_rows * (cols / block_cols);
            let scale: Vec<f32> = (1..=count).map(|i| i as f32 / 1000.0 / count as f32).collect();
            let offset: Vec<f32> = (1..=count).map(|i| (i % 5) as f32).collect();
            for offset in [None, Some(&offset[..])] {
                let form = Blocks { bits, signed, data: &data, scale: &scale, offset, block_rows, block_cols };
                check(WeightMatrix::new(8, cols, Storage::Blocks(form)).expect("sizes match"));
            }
        }
    }
}

#[test]
fn parts_that_are_too_small_are_rejected() {
    let lut = Lut { bits: 6, indices: &[0; 47], tables: &[0; 128], group_rows: 1 };
    assert!(WeightMatrix::new(1, 64, Storage::Lut(lut)).is_err());
    assert!(WeightMatrix::new(1, 64, Storage::F16(&[0; 127])).is_err());
    assert!(WeightMatrix::new(usize::MAX, 64, Storage::F32(&[])).is_err());
}
