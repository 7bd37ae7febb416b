//! Layered top-to-bottom drawing of a directed acyclic graph.
//!
//! Follows Sugiyama, Tagawa and Toda (1981): longest-path ranks, dummy nodes where an edge crosses a rank, barycenter
//! ordering within ranks, then coordinates. Coordinates within a rank are the least-squares solution that preserves
//! order and gaps, computed exactly by pooling adjacent violators.

/// Gap between neighbours in a rank.
const GAP_X: f64 = 22.0;
/// Gap between ranks.
const GAP_Y: f64 = 26.0;
/// Width of an edge crossing a rank.
const PASSING: f64 = 6.0;
/// Sweeps over the ranks, both for ordering and for coordinates.
const SWEEPS: usize = 12;

/// Size of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Size {
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// Result of the layout.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// Centres of the nodes.
    pub(crate) centres: Vec<(f64, f64)>,
    /// Polyline of each edge, ending at the borders of its nodes.
    pub(crate) edges: Vec<Vec<(f64, f64)>>,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// Rank of each node by longest path from the top; nodes with a single consumer are placed just above it.
pub(crate) fn ranks(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let (mut out, mut into, mut missing) = (vec![Vec::new(); count], vec![Vec::new(); count], vec![0usize; count]);
    for &(a, b) in edges {
        out[a].push(b);
        into[b].push(a);
        missing[b] += 1;
    }
    let mut ready: Vec<usize> = (0..count).filter(|&n| missing[n] == 0).collect();
    let mut rank = vec![0usize; count];
    let mut loose = vec![false; count];
    let mut next = 0;
    while let Some(&at) = ready.get(next) {
        next += 1;
        // Its predecessors feed nothing else; sources follow their consumers.
        loose[at] = into[at].iter().all(|&i| into[i].is_empty() || loose[i] && out[i].len() == 1);
        for &to in &out[at] {
            rank[to] = rank[to].max(rank[at] + 1);
            missing[to] -= 1;
            if missing[to] == 0 {
                ready.push(to);
            }
        }
    }
    for &at in ready.iter().rev().filter(|&&n| loose[n]) {
        if let Some(least) = out[at].iter().map(|&to| rank[to]).min() {
            rank[at] = least.saturating_sub(1);
        }
    }
    rank
}

/// The values closest to `wanted`, in the same order, with at least `gap[i]` between `i − 1` and `i`.
fn spread(wanted: &[f64], gap: &[f64]) -> Vec<f64> {
    let offsets: Vec<f64> = gap
        .iter()
        .scan(0.0, |sum, g| {
            *sum += g;
            Some(*sum)
        })
        .collect();
    // Pools of adjacent positions: sum, count.
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (w, offset) in wanted.iter().zip(&offsets) {
        pools.push((w - offset, 1));
        while let [.., a, b] = pools[..]
            && a.0 / a.1 as f64 > b.0 / b.1 as f64
        {
            pools.truncate(pools.len() - 2);
            pools.push((a.0 + b.0, a.1 + b.1));
        }
    }
    let means = pools.iter().flat_map(|&(sum, n)| std::iter::repeat_n(sum / n as f64, n));
    means.zip(&offsets).map(|(mean, offset)| mean + offset).collect()
}

/// The graph with a dummy node for every rank that an edge crosses.
struct Proper {
    width: Vec<f64>,
    rank: Vec<usize>,
    up: Vec<Vec<usize>>,
    down: Vec<Vec<usize>>,
    /// Nodes along each edge.
    paths: Vec<Vec<usize>>,
}

impl Proper {
    fn new(sizes: &[Size], edges: &[(usize, usize)]) -> Self {
        let mut rank = ranks(sizes.len(), edges);
        let mut width: Vec<f64> = sizes.iter().map(|s| s.width).collect();
        let mut paths = Vec::with_capacity(edges.len());
        for &(a, b) in edges {
            let mut path = vec![a];
            for r in rank[a] + 1..rank[b] {
                path.push(rank.len());
                rank.push(r);
                width.push(PASSING);
            }
            path.push(b);
            paths.push(path);
        }
        let (mut up, mut down) = (vec![Vec::new(); rank.len()], vec![Vec::new(); rank.len()]);
        for step in paths.iter().flat_map(|p| p.windows(2)) {
            down[step[0]].push(step[1]);
            up[step[1]].push(step[0]);
        }
        Self { width, rank, up, down, paths }
    }

    /// Nodes by rank, ordered to reduce crossings.
    fn order(&self) -> Vec<Vec<usize>> {
        let mut rows = vec![Vec::new(); self.rank.iter().max().map_or(0, |r| r + 1)];
        for (at, &r) in self.rank.iter().enumerate() {
            rows[r].push(at);
        }
        let mut place = vec![0.0; self.rank.len()];
        let mut best = rows.clone();
        let mut least = usize::MAX;
        for sweep in 0..SWEEPS {
            for row in &rows {
                row.iter().enumerate().for_each(|(i, &at)| place[at] = i as f64);
            }
            let neighbours = if sweep % 2 == 0 { &self.up } else { &self.down };
            let all: Vec<usize> = (0..rows.len()).collect();
            let walk: Vec<usize> = if sweep % 2 == 0 { all } else { all.into_iter().rev().collect() };
            for r in walk {
                let mean = |at: usize| match neighbours[at].as_slice() {
                    [] => place[at],
                    n => n.iter().map(|&m| place[m]).sum::<f64>() / n.len() as f64,
                };
                let mut keyed: Vec<(f64, usize)> = rows[r].iter().map(|&at| (mean(at), at)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                rows[r] = keyed.into_iter().map(|(_, at)| at).collect();
                rows[r].iter().enumerate().for_each(|(i, &at)| place[at] = i as f64);
            }
            let crossings = self.crossings(&rows, &place);
            if crossings < least {
                (least, best) = (crossings, rows.clone());
            }
        }
        best
    }

    /// Number of crossings between adjacent ranks: inversions, counted with a Fenwick tree.
    fn crossings(&self, rows: &[Vec<usize>], place: &[f64]) -> usize {
        let mut total = 0;
        for row in rows {
            let mut ends: Vec<usize> = Vec::new();
            for &at in row {
                let mut targets: Vec<usize> = self.down[at].iter().map(|&d| place[d] as usize).collect();
                targets.sort_unstable();
                ends.extend(targets);
            }
            let size = ends.iter().max().map_or(0, |m| m + 1);
            let mut tree = vec![0usize; size + 1];
            for (seen, &end) in ends.iter().enumerate() {
                let (mut below, mut i) = (0, end + 1);
                while i > 0 {
                    below += tree[i];
                    i &= i - 1;
                }
                total += seen - below;
                i = end + 1;
                while i <= size {
                    tree[i] += 1;
                    i += i & i.wrapping_neg();
                }
            }
        }
        total
    }

    /// Horizontal centres.
    fn places(&self, rows: &[Vec<usize>]) -> Vec<f64> {
        let mut x = vec![0.0; self.rank.len()];
        let gaps: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| {
                let pairs = row.windows(2).map(|p| (self.width[p[0]] + self.width[p[1]]) / 2.0 + GAP_X);
                std::iter::once(0.0).chain(pairs).collect()
            })
            .collect();
        for (row, gaps) in rows.iter().zip(&gaps) {
            let mut at = 0.0;
            for (&n, gap) in row.iter().zip(gaps) {
                at += gap;
                x[n] = at;
            }
            row.iter().for_each(|&n| x[n] -= at / 2.0);
        }
        for sweep in 0..SWEEPS {
            let order: Vec<usize> =
                if sweep % 2 == 0 { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
            for r in order {
                let wanted: Vec<f64> = rows[r]
                    .iter()
                    .map(|&at| {
                        let (main, other) = if sweep % 2 == 0 {
                            (&self.up[at], &self.down[at])
                        } else {
                            (&self.down[at], &self.up[at])
                        };
                        let near = if main.is_empty() { other } else { main };
                        if near.is_empty() {
                            x[at]
                        } else {
                            near.iter().map(|&n| x[n]).sum::<f64>() / near.len() as f64
                        }
                    })
                    .collect();
                for (&at, new) in rows[r].iter().zip(spread(&wanted, &gaps[r])) {
                    x[at] = new;
                }
            }
        }
        x
    }
}

/// Lays out nodes of these sizes; the graph must be acyclic.
pub(crate) fn layered(sizes: &[Size], edges: &[(usize, usize)]) -> Layout {
    if sizes.is_empty() {
        return Layout::default();
    }
    let proper = Proper::new(sizes, edges);
    let rows = proper.order();
    let mut x = proper.places(&rows);
    let left = (0..x.len()).map(|n| x[n] - proper.width[n] / 2.0).fold(f64::INFINITY, f64::min);
    x.iter_mut().for_each(|v| *v -= left);
    let width = (0..x.len()).map(|n| x[n] + proper.width[n] / 2.0).fold(0.0, f64::max);
    // A rank is as high as its tallest node; the others are centred on it.
    let (mut y, mut heights, mut top) = (Vec::new(), Vec::new(), 0.0);
    for row in &rows {
        let height = row.iter().filter_map(|&n| sizes.get(n)).map(|s| s.height).fold(0.0, f64::max);
        y.push(top + height / 2.0);
        heights.push(height);
        top += height + GAP_Y;
    }
    let centres: Vec<(f64, f64)> = (0..sizes.len()).map(|n| (x[n], y[proper.rank[n]])).collect();
    let route = |path: &Vec<usize>| {
        let (first, last) = (path[0], path[path.len() - 1]);
        let mut points = vec![(x[first], centres[first].1 + sizes[first].height / 2.0)];
        for &n in &path[1..path.len() - 1] {
            let half = heights[proper.rank[n]] / 2.0;
            points.push((x[n], y[proper.rank[n]] - half));
            points.push((x[n], y[proper.rank[n]] + half));
        }
        points.push((x[last], centres[last].1 - sizes[last].height / 2.0));
        points
    };
    let edges = proper.paths.iter().map(route).collect();
    Layout { centres, edges, width, height: (top - GAP_Y).max(0.0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apart(a: (f64, f64), b: (f64, f64), s: Size, t: Size) -> bool {
        let e = 1e-6;
        (a.0 - b.0).abs() + e >= (s.width + t.width) / 2.0 || (a.1 - b.1).abs() + e >= (s.height + t.height) / 2.0
    }

    #[test]
    fn sources_stand_just_above_what_takes_them() {
        // 0 → 1 → 2 → 3, and 4 → 5 → 3.
        assert_eq!(ranks(6, &[(0, 1), (1, 2), (2, 3), (4, 5), (5, 3)]), [0, 1, 2, 3, 1, 2]);
        // A consumer of 4 also feeds 1: 4 stays above that.
        assert_eq!(ranks(5, &[(0, 1), (1, 2), (2, 3), (4, 3), (4, 1)]), [0, 1, 2, 3, 0]);
        assert_eq!(ranks(2, &[]), [0, 0]);
    }

    #[test]
    fn places_keep_their_gaps_and_are_nearest() {
        assert_eq!(spread(&[0.0, 10.0], &[0.0, 4.0]), [0.0, 10.0], "nothing to mend");
        assert_eq!(spread(&[5.0, 5.0, 5.0], &[0.0, 4.0, 4.0]), [1.0, 5.0, 9.0]);
        assert_eq!(spread(&[], &[]), [0.0; 0]);
    }

    #[test]
    fn a_straight_chain_is_a_straight_line() {
        let size = Size { width: 100.0, height: 20.0 };
        let layout = layered(&[size; 3], &[(0, 1), (1, 2)]);
        assert!(layout.centres.iter().all(|c| c.0 == 50.0), "{layout:?}");
        assert_eq!((layout.width, layout.height), (100.0, 3.0 * 20.0 + 2.0 * GAP_Y));
        assert_eq!(layout.edges[0], [(50.0, 20.0), (50.0, 20.0 + GAP_Y)]);
    }

    proptest! {
        #[test]
        fn nothing_overlaps_and_edges_go_down(
            sizes in proptest::collection::vec((20.0f64..200.0, 10.0f64..80.0), 1..24),
            pairs in proptest::collection::vec((0usize..24, 0usize..24), 0..40),
        ) {
            let sizes: Vec<Size> = sizes.into_iter().map(|(width, height)| Size { width, height }).collect();
            let edges: Vec<(usize, usize)> =
                pairs.into_iter().filter(|(a, b)| a < b && *b < sizes.len()).collect();
            let layout = layered(&sizes, &edges);
            for (i, &a) in layout.centres.iter().enumerate() {
                prop_assert!(a.0 - sizes[i].width / 2.0 > -1e-6 && a.0 + sizes[i].width / 2.0 < layout.width + 1e-6);
                prop_assert!(a.1 - sizes[i].height / 2.0 > -1e-6 && a.1 + sizes[i].height / 2.0 < layout.height + 1e-6);
                for (j, &b) in layout.centres.iter().enumerate().skip(i + 1) {
                    prop_assert!(apart(a, b, sizes[i], sizes[j]), "{i} and {j}");
                }
            }
            for (points, &(a, b)) in layout.edges.iter().zip(&edges) {
                prop_assert!(points.windows(2).all(|p| p[0].1 <= p[1].1 + 1e-6));
                prop_assert!((points[0].0 - layout.centres[a].0).abs() < 1e-6);
                prop_assert!((points[points.len() - 1].0 - layout.centres[b].0).abs() < 1e-6);
            }
        }
    }
}
