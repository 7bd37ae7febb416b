//! The vectors of a product in 16-bit fixed point, in the orders in which weights are decoded.

use super::super::{Orders, WIDTH, places};
use super::BLOCK;
use crate::dispatch::{SimdOp, dispatch};
use crate::parallel;

/// A block of the vector, from the start of a line of the cache on.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Words(pub(super) [i16; BLOCK]);

/// Vectors in 16-bit fixed point, in the orders that weights come out of their stored form.
pub(in crate::matvec) struct Rounded {
    pub(super) groups: Vec<Group>,
}

/// Vectors that are multiplied by the same weights at once.
pub(super) struct Group {
    /// Vectors before it, and in it.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Places: 1, 2, 4 or 8; those without a vector are zero.
    pub(super) width: usize,
    /// One for each block and place: an element is its integer times this.
    pub(super) scales: Vec<f32>,
    /// For four-bit weights.
    pub(super) by_nibble: Vec<Words>,
    /// For indices and integers of bytes.
    pub(super) by_lane: Vec<Words>,
    /// As they are.
    pub(super) plain: Vec<Words>,
}

impl Rounded {
    /// `count` vectors, for registers of so many 128-bit lanes; none when there is no element or one is not finite.
    pub(in crate::matvec) fn new(x: &[f32], count: usize, orders: Orders, lanes: usize) -> Option<Self> {
        if x.is_empty() {
            return None;
        }
        let cols = x.len() / count;
        let mut groups: Vec<Option<Group>> = (0..count.div_ceil(WIDTH)).map(|_| None).collect();
        let group = |i: usize, group: &mut Option<Group>| {
            let first = i * WIDTH;
            let count = WIDTH.min(count - first);
            *group = Group::new(&x[first * cols..][..count * cols], first, count, orders, lanes);
        };
        if x.len() < MANY {
            groups.iter_mut().enumerate().for_each(|(i, g)| group(i, g));
        } else {
            parallel::chunks_mut(&mut groups, 1, |i, groups| groups.iter_mut().for_each(|g| group(i, g)));
        }
        Some(Self { groups: groups.into_iter().collect::<Option<_>>()? })
    }
}

/// Elements from which on a second thread pays.
const MANY: usize = 1 << 15;

impl Group {
    fn new(x: &[f32], first: usize, count: usize, orders: Orders, lanes: usize) -> Option<Self> {
        let (cols, width) = (x.len() / count, places(count));
        let blocks = cols.div_ceil(BLOCK);
        let mut plain = vec![Words([0; BLOCK]); blocks * width];
        let mut scales = vec![0f32; blocks * width];
        for (i, x) in x.chunks_exact(cols).enumerate() {
            let (scales, blocks) = (&mut scales[i..], &mut plain[i..]);
            if !dispatch(Round { x, scales, blocks, width }) {
                return None;
            }
        }
        let ordered = |wanted: bool, column: fn(usize, usize) -> usize| {
            if !wanted {
                return Vec::new();
            }
            let columns: [usize; BLOCK] = std::array::from_fn(|at| column(at, lanes));
            let block = |words: &Words| Words(columns.map(|column| words.0[column]));
            plain.iter().map(block).collect()
        };
        // With one lane bytes are widened in their order.
        let by_lane = ordered(orders.lane || orders.plain, lane_column);
        let by_nibble = ordered(orders.nibble, nibble_column);
        Some(Self { first, count, width, scales, by_nibble, by_lane, plain })
    }
}

/// The column of a block that lies at a place of [`Group::by_nibble`].
fn nibble_column(at: usize, lanes: usize) -> usize {
    let (step, vector, lane, i) = place(at, lanes);
    let byte = 16 * lane + vector % 2 * 8 + i;
    step * 32 * lanes + 2 * byte + vector / 2
}

/// The column of a block that lies at a place of [`Group::by_lane`].
fn lane_column(at: usize, lanes: usize) -> usize {
    let (step, vector, lane, i) = place(at, lanes);
    step * 32 * lanes + vector / 2 * 16 * lanes + 16 * lane + vector % 2 * 8 + i
}

/// Of the registers of 16-bit integers at a place: the step of four, which of them, the lane, the integer in it.
fn place(at: usize, lanes: usize) -> (usize, usize, usize, usize) {
    let width = 8 * lanes;
    (at / (4 * width), at / width % 4, at / 8 % lanes, at % 8)
}

/// 1.5 · 2²³: a sum with it is rounded to a whole number, which its lowest bits hold in two's complement.
pub(super) const WHOLE: f32 = 12_582_912.0;

/// Rounds a vector in blocks, which lie `width` apart; false when an element is not finite.
struct Round<'a> {
    x: &'a [f32],
    scales: &'a mut [f32],
    blocks: &'a mut [Words],
    width: usize,
}

impl SimdOp for Round<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> bool {
        let mut finite = true;
        let scales = self.scales.iter_mut().step_by(self.width);
        let blocks = self.blocks.iter_mut().step_by(self.width);
        for ((x, scale), words) in self.x.chunks(BLOCK).zip(scales).zip(blocks) {
            // Finite magnitudes are ordered as their bits are; infinity and NaN are above them.
            let mut top = 0;
            for v in x {
                top = top.max(v.to_bits() & 0x7fff_ffff);
            }
            let top = f32::from_bits(top);
            finite &= top.is_finite();
            *scale = top / 32767.0;
            // A block of zeros, or of what is next to nothing, has integers of zero.
            let inverse = if *scale > f32::MIN_POSITIVE { 1.0 / *scale } else { 0.0 };
            for (word, v) in words.0.iter_mut().zip(x) {
                *word = (v * inverse + WHOLE).to_bits() as i16;
            }
        }
        finite
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations() {
        for lanes in [1, 2, 4] {
            for column in [nibble_column, lane_column] {
                let mut columns: Vec<usize> = (0..BLOCK).map(|at| column(at, lanes)).collect();
                columns.sort_unstable();
                assert!(columns.iter().enumerate().all(|(i, &c)| i == c), "{lanes} lanes");
            }
        }
        assert_eq!((0..BLOCK).map(|at| lane_column(at, 1)).collect::<Vec<_>>(), (0..BLOCK).collect::<Vec<_>>());
    }
}
