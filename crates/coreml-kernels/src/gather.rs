//! Index selection along each dimension: padding, reversal, strided slices, tiling, nearest neighbours.
//!
//! An index along a result dimension reads one source position, or the fill value. The innermost dimensions form a row
//! of contiguous segments and scattered elements, whose layout is computed once for all rows.

mod along;
mod contiguous;
mod indices;

pub use along::{index_select_along, slices};
pub use contiguous::contiguous;
pub use indices::{Indices, Outside};

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::buffer_pool::{Element, alloc_with};
use crate::parallel::{SPLIT, TASK, threads};
use crate::sizes::{checked, size};

/// Marks a position filled with the fill value.
pub const FILL: usize = usize::MAX;

/// Source positions read along a dimension of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AxisIndices {
    /// A contiguous range.
    Run(Range<usize>),
    /// One per index, possibly [`FILL`].
    At(Vec<usize>),
}

impl AxisIndices {
    /// Extent of the result.
    pub fn len(&self) -> usize {
        match self {
            AxisIndices::Run(run) => run.len(),
            AxisIndices::At(at) => at.len(),
        }
    }

    /// True if the result is empty along this dimension.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Largest position read; `None` if all are filled.
    pub fn last(&self) -> Option<usize> {
        match self {
            AxisIndices::Run(run) => run.end.checked_sub(1).filter(|_| !run.is_empty()),
            AxisIndices::At(at) => at.iter().copied().filter(|&p| p != FILL).max(),
        }
    }

    /// The position read by an index.
    ///
    /// # Panics
    /// If the index is out of range.
    pub fn get(&self, i: usize) -> usize {
        match self {
            AxisIndices::Run(run) => run.start + i,
            AxisIndices::At(at) => at[i],
        }
    }
}

/// One dimension: source stride and positions read.
#[derive(Debug, Clone)]
pub struct Axis<'a> {
    /// Source stride in elements; 0 repeats one.
    pub stride: usize,
    /// Positions read.
    pub places: &'a AxisIndices,
}

/// Upper bound in bytes of the segment table of [`index_select`] for results of these extents, outermost first:
/// segments within a row, made of the innermost dimensions while rows are short, plus one more.
pub fn table_bytes(extents: impl DoubleEndedIterator<Item = usize>) -> usize {
    let mut row = 1usize;
    for n in extents.rev() {
        row = row.saturating_mul(n);
        if row >= WIDE[1] {
            break;
        }
    }
    let segments = if row > NARROW.1 { PIECES } else { row.max(PIECES) };
    segments.saturating_mul(2 * size_of::<[usize; 6]>())
}

/// Gathers the elements of `x` at `dims`, row-major in the order of `dims`; `fill` at [`FILL`] positions.
///
/// # Panics
/// If a position is out of range or the size of the result overflows.
pub fn index_select<T: Element>(x: &[T], dims: &[Axis<'_>], fill: T) -> Vec<T> {
    if dims.iter().any(|d| d.places.is_empty()) {
        return Vec::new();
    }
    let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(d.places.len())).expect("size of the result");
    // The sum over dimensions of the last position is the largest offset read, and it is read by some index.
    let mut last = Some(0usize);
    for d in dims {
        // A dimension of fills only: the source may be empty.
        let Some(at) = d.places.last() else { return vec![fill; len] };
        last = last.zip(at.checked_mul(d.stride)).and_then(|(last, at)| last.checked_add(at));
    }
    assert!(last.is_some_and(|last| last < x.len()), "positions lie in the source");
    let (row, outer) = Row::new(dims);
    let chunk = if len < SPLIT { len } else { TASK.max(len.div_ceil(threads() * 8)) };
    // SAFETY: the row parts below cover the chunk without gaps.
    unsafe {
        alloc_with(len, chunk, |task, out: &mut [MaybeUninit<T>]| {
            let (mut done, mut before, mut from) = (0, None, task * chunk % row.width);
            let mut rows = Rows::from(outer, task * chunk / row.width);
            while done < out.len() {
                let n = (row.width - from).min(out.len() - done);
                let source = rows.next();
                // A repeated row is already in cache.
                if n == row.width && done >= n && before == Some(source) {
                    out.copy_within(done - n..done, done);
                } else if let Some(source) = source.filter(|_| row.reach > 0) {
                    row.write(&x[source..], from, fill, &mut out[done..done + n]);
                } else {
                    out[done..done + n].fill(MaybeUninit::new(fill));
                }
                before = (from == 0).then_some(source);
                (done, from) = (done + n, 0);
            }
        })
    }
}

/// Concatenates parts within each of `outer` rows; a part has its elements and the number per row.
///
/// # Panics
/// If a part's length is not `outer` times its row length.
pub fn concat<T: Element>(parts: &[(&[T], usize)], outer: usize) -> Vec<T> {
    assert!(parts.iter().all(|&(x, block)| checked([block, outer]) == Some(x.len())), "sizes of the parts");
    let width = parts.iter().try_fold(0usize, |width, part| width.checked_add(part.1)).expect("width of a row");
    let len = size([width, outer]);
    if len == 0 {
        return Vec::new();
    }
    let ends: Vec<usize> = parts
        .iter()
        .scan(0, |end, part| {
            *end += part.1;
            Some(*end)
        })
        .collect();
    let chunk = if len < SPLIT { len } else { TASK.max(len.div_ceil(threads() * 8)) };
    // SAFETY: the segments below cover the chunk without gaps.
    unsafe {
        alloc_with(len, chunk, |task, out: &mut [MaybeUninit<T>]| {
            let mut done = 0;
            while done < out.len() {
                let (row, from) = ((task * chunk + done) / width, (task * chunk + done) % width);
                let mut part = ends.partition_point(|&end| end <= from);
                let mut at = from;
                while part < parts.len() && done < out.len() {
                    let (x, block) = parts[part];
                    let n = (ends[part] - at).min(out.len() - done);
                    let start = row * block + at + block - ends[part];
                    out[done..done + n].write_copy_of_slice(&x[start..start + n]);
                    (part, at, done) = (part + 1, at + n, done + n);
                }
            }
        })
    }
}

/// Iterator over the source offsets of rows.
struct Rows<'d, 'p> {
    dims: &'d [Axis<'p>],
    index: Vec<usize>,
}

impl<'d, 'p> Rows<'d, 'p> {
    fn from(dims: &'d [Axis<'p>], mut row: usize) -> Self {
        let mut index = vec![0; dims.len()];
        for (i, d) in index.iter_mut().zip(dims).rev() {
            (*i, row) = (row % d.places.len(), row / d.places.len());
        }
        Self { dims, index }
    }

    /// Offset of the next row; `None` if it is only filled.
    fn next(&mut self) -> Option<usize> {
        let mut start = Some(0);
        for (&i, d) in self.index.iter().zip(self.dims) {
            let at = d.places.get(i);
            start = start.filter(|_| at != FILL).map(|start| start + at * d.stride);
        }
        for (i, d) in self.index.iter_mut().zip(self.dims).rev() {
            *i += 1;
            if *i < d.places.len() {
                break;
            }
            *i = 0;
        }
        start
    }
}

/// Row width from which outer dimensions are left to the loop over rows: for one segment, and for more.
const WIDE: [usize; 2] = [256, 64];
/// Width below which rows are extended further, and the maximum number of their segments.
const NARROW: (usize, usize) = (16, 1 << 22);
/// Maximum number of segments of wider rows.
const PIECES: usize = 1 << 12;
/// Minimum length copied as a segment rather than by element.
const MIN_SEGMENT: usize = 8;

/// Part of a row up to the next piece.
#[derive(Debug, Clone, Copy)]
struct Piece {
    begin: usize,
    source: Source,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// Contiguous from this offset.
    Forward(usize),
    /// Reversed from this offset.
    Backward(usize),
    /// Elements at the offsets from this index of the table.
    Scattered(usize),
    Filled,
}

/// Layout of a result row relative to its source offset.
#[derive(Debug, Default)]
struct Row {
    width: usize,
    pieces: Vec<Piece>,
    offsets: Vec<usize>,
    /// Extent of the source spanned by a row; 0 if it is only filled.
    reach: usize,
}

/// Start and length of contiguous source elements, or of fill.
type Segment = (usize, usize);

impl Row {
    /// The row formed by the innermost dimensions, and the remaining dimensions.
    fn new<'d, 'p>(dims: &'d [Axis<'p>]) -> (Self, &'d [Axis<'p>]) {
        let (mut segments, mut width, mut left) = (vec![(0, 1)], 1, dims);
        while let Some((dim, outer)) = left.split_last() {
            let n = dim.places.len();
            match (dim.places, segments.as_mut_slice()) {
                (AxisIndices::Run(run), [(start, len)]) if *start != FILL && (*len == dim.stride || n == 1) => {
                    *start += run.start * dim.stride;
                    *len *= n;
                }
                (_, inner) => {
                    let wide = width >= WIDE[usize::from(inner.len() > 1)];
                    let most = if width < NARROW.0 { NARROW.1 } else { PIECES };
                    if wide || inner.len() * n > most {
                        break;
                    }
                    segments = repeated(dim, inner);
                }
            }
            (width, left) = (width * n, outer);
        }
        (Self::of(width, &segments), left)
    }

    fn of(width: usize, segments: &[Segment]) -> Self {
        let mut row = Self { width, ..Self::default() };
        let (mut i, mut begin, mut scattered) = (0, 0, false);
        while let Some(&(start, len)) = segments.get(i) {
            if start != FILL {
                row.reach = row.reach.max(start + len);
            }
            let back = backward(&segments[i..]);
            let (source, count) = match start {
                FILL => (Source::Filled, 1),
                _ if len >= MIN_SEGMENT => (Source::Forward(start), 1),
                _ if back >= MIN_SEGMENT => (Source::Backward(start), back),
                _ => (Source::Scattered(row.offsets.len()), 1),
            };
            let scatters = matches!(source, Source::Scattered(_));
            if !(scatters && scattered) {
                row.pieces.push(Piece { begin, source });
            }
            if scatters {
                row.offsets.extend(start..start + len);
            }
            scattered = scatters;
            begin += segments[i..i + count].iter().map(|s| s.1).sum::<usize>();
            i += count;
        }
        row
    }

    /// Writes the elements of the row from `from` on; `x` begins at the row's source offset.
    fn write<T: Copy>(&self, x: &[T], from: usize, fill: T, out: &mut [MaybeUninit<T>]) {
        let end = from + out.len();
        let (mut next, mut at) = (self.pieces.partition_point(|p| p.begin <= from), from);
        while at < end {
            let piece = self.pieces[next - 1];
            let stop = self.pieces.get(next).map_or(self.width, |p| p.begin).min(end);
            let (skip, out) = (at - piece.begin, &mut out[at - from..stop - from]);
            match piece.source {
                Source::Forward(start) => {
                    out.write_copy_of_slice(&x[start + skip..][..stop - at]);
                }
                Source::Backward(start) => {
                    let x = &x[..=start - skip];
                    out.iter_mut().zip(x.iter().rev()).for_each(|(o, &x)| {
                        o.write(x);
                    });
                }
                Source::Scattered(first) => {
                    let x = &x[..self.reach];
                    for (o, &at) in out.iter_mut().zip(&self.offsets[first + skip..]) {
                        // SAFETY: a row's reach exceeds all of its offsets, whose sums `index_select` has checked.
                        o.write(unsafe { *x.get_unchecked(at) });
                    }
                }
                Source::Filled => out.fill(MaybeUninit::new(fill)),
            }
            (next, at) = (next + 1, stop);
        }
    }
}

/// Number of leading single elements in descending order.
fn backward(segments: &[Segment]) -> usize {
    let before = |pair: &[Segment]| pair[0].1 == 1 && pair[1] == (pair[0].0.wrapping_sub(1), 1) && pair[0].0 != FILL;
    1 + segments.windows(2).take_while(|pair| before(pair)).count()
}

/// Segments of a row repeated for each position of a dimension, merged where adjacent.
fn repeated(dim: &Axis<'_>, inner: &[Segment]) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::with_capacity(inner.len() * dim.places.len());
    for i in 0..dim.places.len() {
        let at = dim.places.get(i);
        for &(start, len) in inner {
            let start = if at == FILL || start == FILL { FILL } else { start + at * dim.stride };
            match out.last_mut() {
                Some(last) if last.0 == FILL && start == FILL => last.1 += len,
                Some(last) if last.0 != FILL && last.0 + last.1 == start => last.1 += len,
                _ => out.push((start, len)),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Definition: gathers index by index.
    fn definition(x: &[u32], dims: &[Axis<'_>], fill: u32) -> Vec<u32> {
        let len: usize = dims.iter().map(|d| d.places.len()).product();
        let element = |mut index: usize| {
            let (mut at, mut inside) = (0, true);
            for d in dims.iter().rev() {
                let place = d.places.get(index % d.places.len());
                inside &= place != FILL;
                at += if place == FILL { 0 } else { place * d.stride };
                index /= d.places.len();
            }
            if inside { x[at] } else { fill }
        };
        (0..len).map(element).collect()
    }

    #[test]
    fn what_reads_nothing_is_filled_without_a_source() {
        let (nothing, all) = (AxisIndices::At(vec![FILL; 2]), AxisIndices::Run(0..3));
        for dims in [[(&nothing, 3), (&all, 1)], [(&all, 0), (&nothing, 1)]] {
            let dims = dims.map(|(places, stride)| Axis { stride, places });
            assert_eq!(index_select(&[], &dims, 7i64), [7; 6]);
        }
    }

    /// An extent with positions of each kind used by operations.
    fn places() -> impl Strategy<Value = (usize, AxisIndices)> {
        (1usize..24, 0usize..6, 0usize..30, any::<bool>()).prop_map(|(n, kind, by, at_end)| {
            let places = match kind {
                0 => AxisIndices::Run(by % n..n),
                1 => AxisIndices::At((0..n).rev().collect()),
                2 => AxisIndices::At((0..n).step_by(1 + by % 3).collect()),
                3 => AxisIndices::At((0..n * 2).map(|i| i / 2).collect()),
                4 => AxisIndices::At((0..n + by % 5).map(|i| (i + by) % n).collect()),
                _ => {
                    let edge = std::iter::repeat_n(FILL, by % 4);
                    let inside = edge.clone().chain(0..n);
                    AxisIndices::At(if at_end { inside.chain(edge).collect() } else { inside.collect() })
                }
            };
            (n, places)
        })
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many elements")]
        fn any_choice_gives_what_the_definition_gives(
            dims in prop::collection::vec((places(), any::<u8>()), 0..5),
        ) {
            let mut order: Vec<usize> = (0..dims.len()).collect();
            order.sort_by_key(|&d| dims[d].1);
            let (mut strides, mut size) = (vec![0; dims.len()], 1);
            for d in order {
                strides[d] = size;
                size *= dims[d].0.0;
            }
            let along: Vec<Axis<'_>> =
                dims.iter().zip(&strides).map(|(d, &stride)| Axis { stride, places: &d.0.1 }).collect();
            prop_assume!(along.iter().map(|d| d.places.len()).product::<usize>() < 1 << 19);
            let x: Vec<u32> = (1..=size as u32).collect();
            prop_assert_eq!(index_select(&x, &along, 0), definition(&x, &along, 0));
        }
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many elements")]
        fn indices_along_a_dimension_and_joined_parts_are_where_they_belong(
            outer in 1usize..40, n in 1usize..20, m in 1usize..30, inner in prop_oneof![Just(1usize), 1usize..40],
        ) {
            let x: Vec<u32> = (0..(outer * n * inner) as u32).collect();
            let at: Vec<i64> = (0..outer * m * inner).map(|i| (i * 7 % n) as i64).collect();
            let y = index_select_along(&x, Indices { at: &at, n, outside: Outside::Refuse }, m, inner).expect("inside");
            for (i, &y) in y.iter().enumerate() {
                let source = (i / (m * inner) * n + at[i] as usize) * inner + i % inner;
                prop_assert_eq!(y, x[source]);
            }
            let parts = [(x.as_slice(), n * inner), (&[], 0), (y.as_slice(), m * inner)];
            let joined = concat(&parts, outer);
            let width = (n + m) * inner;
            for (i, &v) in joined.iter().enumerate() {
                let (row, at) = (i / width, i % width);
                let want = if at < n * inner { x[row * n * inner + at] } else { y[row * m * inner + at - n * inner] };
                prop_assert_eq!(v, want);
            }
        }
    }

    #[test]
    #[cfg_attr(panic = "abort", ignore = "a panic ends the process")]
    fn nothing_is_read_where_all_is_filled_and_positions_outside_are_refused() {
        let (alloc_with, one, none) =
            (AxisIndices::At(vec![FILL; 3]), AxisIndices::Run(4..5), AxisIndices::At(Vec::new()));
        let dims = [&alloc_with, &one].map(|places| Axis { stride: 1, places });
        assert_eq!(index_select(&[1u8; 5], &dims, 7), [7; 3]);
        assert_eq!(index_select::<u8>(&[], &[Axis { stride: 1, places: &none }], 7), [0u8; 0]);
        let outside = std::panic::catch_unwind(|| index_select(&[1u8; 4], &[Axis { stride: 1, places: &one }], 7));
        assert!(outside.is_err());
    }
}
