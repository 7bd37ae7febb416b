//! Row operand of a packed product: offsets of the segments of each row of `x`.

use std::marker::PhantomData;
use std::ops::Range;

use super::part;

/// Rows as lists of segments of equal length.
pub(crate) struct Rows<'a, 'f> {
    /// Number of rows.
    pub(crate) count: usize,
    /// Segments per row, and elements per segment.
    pub(crate) segments: (usize, usize),
    /// Locates the rows of a task (first) and group (second). Omitted segments are zeros.
    pub(crate) fill: &'f (dyn Fn(Range<usize>, usize, &mut Starts<'_, 'a>) + Sync),
}

/// Segment starts of a task's rows, by tile.
pub(crate) struct Starts<'t, 'a> {
    /// `[segments, rows]` of each tile.
    starts: &'t mut [*const f32],
    /// Segments present in some row of each tile.
    some: &'t mut [bool],
    /// First row of each tile, and the end of the last.
    tiles: &'t [usize],
    /// Segments per row, and elements per segment.
    segments: (usize, usize),
    /// Lifetime of the pointees.
    from: PhantomData<fn(&'a [f32])>,
}

impl<'a> Starts<'_, 'a> {
    /// Sets a segment of some rows, counted from the first row of the task: `x[first..]`, at a stride of `step`
    /// elements per row.
    ///
    /// # Panics
    /// If a segment or row is out of range, or its elements do not lie in `x`.
    pub(crate) fn run(&mut self, segment: usize, rows: Range<usize>, x: &'a [f32], first: usize, step: usize) {
        if rows.is_empty() {
            return;
        }
        let (count, length) = self.segments;
        let (m, tiles) = (self.tiles[self.tiles.len() - 1], self.tiles.len() - 1);
        assert!(segment < count && rows.end <= m, "a segment of a row");
        let reach = (rows.len() - 1).checked_mul(step).and_then(|reach| reach.checked_add(length));
        assert!(reach.is_some_and(|reach| x[first..].len() >= reach), "elements of a run");
        let (mut row, mut start) = (rows.start, x[first..].as_ptr());
        // The row's tile or the one before.
        let mut tile = row.saturating_mul(tiles) / m;
        while row < rows.end {
            let (from, to) = (self.tiles[tile], self.tiles[tile + 1]);
            if row < to {
                let own = &mut self.starts[from * count + segment * (to - from)..][..to - from];
                for s in &mut own[row - from..to.min(rows.end) - from] {
                    *s = start;
                    start = start.wrapping_add(step);
                }
                self.some[tile * count + segment] = true;
                row = to;
            }
            tile += 1;
        }
    }
}

/// Zeros read for missing segments, unless segments are longer.
static ZEROS: [f32; 1 << 14] = [0.0; 1 << 14];

/// Segment starts of a task's tiles.
pub(super) struct Sources {
    /// First elements of the segments of each tile's rows, `[segments, rows]`.
    starts: Vec<*const f32>,
    /// Segments of each tile that are nonzero in some row.
    segments: Vec<u32>,
    /// End of each tile in both.
    ends: Vec<[usize; 2]>,
    /// First row of each tile, and the end of the last.
    tiles: Vec<usize>,
    /// Zeros for longer segments.
    _zeros: Vec<f32>,
}

impl Sources {
    /// Locates some rows of a group, in `count` tiles of similar height.
    pub(super) fn new(x: &Rows<'_, '_>, rows: &Range<usize>, group: usize, count: usize) -> Self {
        let (m, all) = (rows.len(), x.segments.0);
        let tiles: Vec<usize> = (0..count).map(|t| part(m, count, t).start).chain([m]).collect();
        let zeros = vec![0f32; if x.segments.1 > ZEROS.len() { x.segments.1 } else { 0 }];
        let zero = if zeros.is_empty() { ZEROS.as_ptr() } else { zeros.as_ptr() };
        let mut starts = vec![zero; all * m];
        let mut some = vec![false; all * count];
        let segments = x.segments;
        (x.fill)(
            rows.clone(),
            group,
            &mut Starts { starts: &mut starts, some: &mut some, tiles: &tiles, segments, from: PhantomData },
        );
        let (mut segments, mut ends) = (Vec::with_capacity(all * count), Vec::with_capacity(count));
        let mut end = 0;
        for t in 0..count {
            let (first, height) = (tiles[t] * all, tiles[t + 1] - tiles[t]);
            // Compact the remaining segments to the end of the previous tile.
            for s in (0..all).filter(|s| some[t * all + s]) {
                let from = first + s * height;
                if from != end {
                    starts.copy_within(from..from + height, end);
                }
                segments.push(s as u32);
                end += height;
            }
            ends.push([end, segments.len()]);
        }
        Self { starts, segments, ends, tiles, _zeros: zeros }
    }

    /// Rows of a tile, counted from the first row of the task.
    pub(super) fn rows(&self, t: usize) -> Range<usize> {
        self.tiles[t]..self.tiles[t + 1]
    }

    /// Starts and segment indices of a tile: each start has the elements of a segment.
    pub(super) fn tile(&self, t: usize) -> (&[*const f32], &[u32]) {
        let [start, segment] = if t == 0 { [0, 0] } else { self.ends[t - 1] };
        let [end, last] = self.ends[t];
        (&self.starts[start..end], &self.segments[segment..last])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First elements read by tiles, with their segment indices.
    fn read(x: &Rows<'_, '_>, rows: Range<usize>, tiles: usize) -> Vec<Vec<(u32, Vec<f32>)>> {
        let sources = Sources::new(x, &rows, 0, tiles);
        let tile = |t: usize| {
            let (starts, segments) = sources.tile(t);
            let heights = starts.chunks(sources.rows(t).len());
            // SAFETY: each start has at least one element.
            let first = |starts: &[*const f32]| starts.iter().map(|&s| unsafe { *s }).collect();
            segments.iter().copied().zip(heights.map(first)).collect()
        };
        (0..tiles).map(tile).collect()
    }

    /// Segment 0 for all rows, segment 1 from the fourth row on, no segment 2.
    fn ragged<'a>(x: &'a [f32]) -> impl Fn(Range<usize>, usize, &mut Starts<'_, 'a>) + Sync {
        |rows, _, out| {
            out.run(0, 0..rows.len(), x, rows.start * 2, 2);
            let first = rows.start.max(4).min(rows.end);
            out.run(1, first - rows.start..rows.len(), x, first, 1);
            out.run(2, 0..0, x, 0, 1);
        }
    }

    /// True if rows before `end` are rejected at `first + i · step`.
    fn refused<'a>(x: &'a [f32], first: usize, step: usize, end: usize) -> bool {
        let fill = |_: Range<usize>, _: usize, out: &mut Starts<'_, 'a>| out.run(0, 0..end, x, first, step);
        let rows = Rows { count: 3, segments: (1, 4), fill: &fill };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Sources::new(&rows, &(0..3), 0, 1).ends)).is_err()
    }

    #[test]
    fn what_all_rows_of_a_tile_lack_is_left_out_and_zeros_where_some_do() {
        let x: Vec<f32> = (1..=20).map(|v| v as f32).collect();
        let rows = Rows { count: 9, segments: (3, 2), fill: &ragged(&x) };
        let want = vec![
            vec![(0, vec![3.0, 5.0])],
            vec![(0, vec![7.0, 9.0, 11.0]), (1, vec![0.0, 5.0, 6.0])],
            vec![(0, vec![13.0, 15.0, 17.0]), (1, vec![7.0, 8.0, 9.0])],
        ];
        assert_eq!(read(&rows, 1..9, 3), want);
    }

    #[test]
    #[cfg_attr(panic = "abort", ignore = "a panic ends the process")]
    fn runs_outside_of_the_elements_are_refused() {
        let x = [0f32; 10];
        for (first, step, end, want) in [
            (0, 3, 3, false),
            (1, 3, 3, true),
            (6, 0, 3, false),
            (7, 0, 3, true),
            (11, 0, 1, true),
            (0, usize::MAX, 3, true),
            (0, usize::MAX - 3, 2, true),
            (0, 1, 4, true),
        ] {
            assert_eq!(refused(&x, first, step, end), want, "{end} rows at {first} + {step} i");
        }
    }
}
