//! Matrix × panel on stored weights: `y[i, r] = Σ_c w[r, c] · x[i, c] + bias[r]`.
//!
//! A tile of rows is expanded to f32 while it fits the cache, and multiplied by the whole panel with the
//! `gemm` crate; the expansion is paid once for all rows of `x`.

use rayon::prelude::*;

use crate::mat::WeightMat;
use crate::matvec::matvec;

/// Rows of weights in one tile.
const TILE: usize = 64;

/// One row as `f32`, by the fastest way there is.
///
/// # Panics
/// When `row` is out of range or `out` is shorter than a row.
pub fn expand_row(weight: &WeightMat<'_>, row: usize, out: &mut [f32]) {
    assert!(row < weight.rows && out.len() >= weight.cols, "row {row} of {}", weight.rows);
    #[cfg(target_arch = "x86_64")]
    if crate::matvec::VARIANTS[0].name == "avx512" && (crate::matvec::VARIANTS[0].available)() {
        return crate::matvec::expand_row_avx512(weight, row, out);
    }
    weight.expand_row(row, out);
}

struct Target(*mut f32);
// SAFETY: tasks write disjoint columns of the output.
unsafe impl Sync for Target {}

/// `Y = X · Wᵀ + bias` for `X` of `m` rows; `y` is `[m, rows]`, row-major.
///
/// # Panics
/// When a slice does not have the length that the matrix demands.
pub fn matmul_t(weight: WeightMat<'_>, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (rows, cols) = (weight.rows, weight.cols);
    if rows == 0 {
        return;
    }
    let m = y.len() / rows;
    assert_eq!(m * rows, y.len(), "length of y");
    assert_eq!(m * cols, x.len(), "length of x");
    assert!(bias.is_none_or(|b| b.len() == rows), "length of bias");
    if m <= 2 {
        for i in 0..m {
            matvec(weight, &x[i * cols..(i + 1) * cols], bias, &mut y[i * rows..(i + 1) * rows]);
        }
        return;
    }
    let target = Target(y.as_mut_ptr());
    let tile = |first: usize| {
        let target = &target;
        let n = TILE.min(rows - first);
        let mut panel = vec![0f32; n * cols];
        for (r, out) in panel.chunks_exact_mut(cols.max(1)).enumerate() {
            expand_row(&weight, first + r, out);
        }
        if let Some(bias) = bias {
            for i in 0..m {
                for r in 0..n {
                    // SAFETY: i < m, first + r < rows: inside `y`, in columns of this task alone.
                    unsafe { *target.0.add(i * rows + first + r) = bias[first + r] };
                }
            }
        }
        // SAFETY: dst is the m × n block of `y` at column `first` (row stride `rows`), written by this task
        // alone; lhs is `x` (m × cols), rhs the panel seen transposed (cols × n); all lie inside their slices.
        unsafe {
            gemm::gemm(
                m,
                n,
                cols,
                target.0.add(first),
                1,
                rows as isize,
                bias.is_some(),
                x.as_ptr(),
                1,
                cols as isize,
                panel.as_ptr(),
                cols as isize,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    };
    if rows * cols * m < 1 << 18 {
        (0..rows).step_by(TILE).for_each(tile);
    } else {
        (0..rows.div_ceil(TILE)).into_par_iter().with_max_len(1).for_each(|t| tile(t * TILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mat::{Form, Lut};

    #[test]
    fn panels_agree_with_single_vectors() {
        for bits in [1u32, 2, 3, 4, 6, 8] {
            for (rows, cols, m) in [(8, 64, 3), (72, 100, 5), (136, 192, 17), (64, 8, 3)] {
                let indices: Vec<u8> =
                    (0..(rows * cols * bits as usize).div_ceil(8)).map(|i| (i * 37 + i / 251) as u8).collect();
                let tables: Vec<u8> = (0..(rows / 8) << bits)
                    .flat_map(|i| half::f16::from_f32((i % 97) as f32 / 50.0 - 1.0).to_le_bytes())
                    .collect();
                let lut = Lut { bits, indices: &indices, tables: &tables, group_rows: 8 };
                let weight = WeightMat::new(rows, cols, Form::Lut(lut)).expect("sizes match");
                let x: Vec<f32> = (0..m * cols).map(|i| ((i * 31 % 101) as f32 - 50.0) / 50.0).collect();
                let bias: Vec<f32> = (0..rows).map(|r| r as f32).collect();
                let mut y = vec![f32::NAN; m * rows];
                matmul_t(weight, &x, Some(&bias), &mut y);
                let mut row = vec![0f32; cols];
                for r in 0..rows {
                    weight.expand_row(r, &mut row);
                    for i in 0..m {
                        let want: f64 = f64::from(bias[r])
                            + row.iter().zip(&x[i * cols..]).map(|(&w, &x)| f64::from(w * x)).sum::<f64>();
                        let got = f64::from(y[i * rows + r]);
                        assert!((got - want).abs() < 2e-4, "{bits} bits, row {r}, vector {i}: {got} != {want}");
                    }
                }
            }
        }
    }
}
