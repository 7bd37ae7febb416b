//! Rows of fp16 elements times a few vectors of floats.

use half::f16;

use crate::simd::Vector;

/// A row of fp16 elements times `M` vectors, in four registers of sums each.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn dot_f16<V: Vector, const M: usize>(row: &[u8], x: &[f32]) -> [f32; M] {
    let (step, cols) = (4 * V::LANES, row.len() / 2);
    assert!(x.len() >= M * cols, "vectors");
    let whole = cols / step * step;
    let mut out = [0f32; M];
    // SAFETY: the caller's contract; both have the elements that are read.
    unsafe {
        let mut sums = [[V::splat(0.0); 4]; M];
        for k in (0..whole).step_by(step) {
            for i in 0..4 {
                let at = k + i * V::LANES;
                let w = V::load_f16(row.as_ptr().add(2 * at));
                for (v, sums) in sums.iter_mut().enumerate() {
                    sums[i] = sums[i].add_product(w, V::load(x.as_ptr().add(v * cols + at)));
                }
            }
        }
        for (out, [a, b, c, d]) in out.iter_mut().zip(sums) {
            let mut lanes = [0f32; 16];
            a.plus(b).plus(c.plus(d)).store(lanes.as_mut_ptr());
            *out = lanes[..V::LANES].iter().sum::<f32>();
        }
    }
    for (v, out) in out.iter_mut().enumerate() {
        let rest = row[2 * whole..].as_chunks::<2>().0.iter().zip(&x[v * cols + whole..(v + 1) * cols]);
        *out += rest.map(|(&w, x)| f16::from_le_bytes(w).to_f32() * x).sum::<f32>();
    }
    out
}
