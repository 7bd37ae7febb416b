//! Decision trees over rows of numbers: sums of the leaves that rows reach.
//!
//! Nodes of 16 bytes lie level by level, both children of a branch side by side, and every branch asks `x ≤ threshold`. Several
//! rows walk a tree at once, all for as many steps as it is deep: leaves lead back to themselves. Nothing is predicted but
//! the number of steps, and the walks hide each other's latency. The loop over trees is the outer one, so that a tree stays in
//! the L1 cache for all rows of a block.
//!
//! Each row's leaves are added in the order of the trees, in f64, whatever the number of rows.

/// Rows that walk a tree together.
const LANES: usize = 16;

/// Rows that share the visit of a tree: with 50 columns they fill the L2 cache by a fortieth.
const BLOCK: usize = 128;

/// Steps between two looks whether all rows of a group are at leaves.
const STEPS: u32 = 4;

/// Comparison of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// x ≤ threshold.
    LessEqual,
    /// x < threshold.
    Less,
    /// x ≥ threshold.
    GreaterEqual,
    /// x > threshold.
    Greater,
}

/// A node as a file describes it.
#[derive(Debug, Clone, Copy)]
pub enum TreeNode {
    /// Continues at one of two nodes, by index.
    Branch {
        /// Column that is compared.
        feature: u32,
        /// Comparison with the threshold.
        compare: Compare,
        /// What it is compared with.
        threshold: f64,
        /// Next node if the comparison holds.
        yes: u32,
        /// Next node if it does not.
        no: u32,
        /// NaN continues at `yes`.
        missing_is_yes: bool,
    },
    /// Adds elements of the table of leaves, from the first index up to the second.
    Leaf(u32, u32),
}

/// A branch, or a leaf that leads back to itself.
#[derive(Debug, Clone, Copy)]
struct Node {
    threshold: f64,
    /// Column; the highest bit: NaN goes left.
    feature: u32,
    /// Left child; the right one is the next.
    left: u32,
}

const MISSING_LEFT: u32 = 1 << 31;

/// A tree: its root and the number of steps to its deepest leaf.
#[derive(Debug, Clone, Copy)]
struct Tree {
    root: u32,
    depth: u32,
}

/// Trees that are ready to be walked.
#[derive(Debug)]
pub struct Forest {
    nodes: Vec<Node>,
    trees: Vec<Tree>,
    /// Leaves of each node in the table.
    ranges: Vec<(u32, u32)>,
    table: Vec<(u32, f64)>,
    /// The value of each leaf, if sums have one element and leaves one value.
    single: Option<Vec<f64>>,
    width: usize,
    columns: usize,
}

impl Forest {
    /// Packs trees. `table` has an element of the sums and a value for each entry; sums have `width` elements.
    ///
    /// `None` where the walk would differ from the description: nodes that several branches share, children that do not lie
    /// behind their parent, a threshold of NaN or −∞ (`<` and `≥` have no equal there), indices beyond the tables.
    pub fn pack(nodes: &[TreeNode], roots: &[u32], table: &[(u32, f64)], width: usize) -> Option<Self> {
        u32::try_from(nodes.len()).ok()?;
        let mut parents = vec![0u8; nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            match *node {
                TreeNode::Branch { feature, threshold, yes, no, .. } => {
                    if threshold.is_nan() || threshold == f64::NEG_INFINITY || feature >= MISSING_LEFT {
                        return None;
                    }
                    for child in [yes, no] {
                        let parents = parents.get_mut(child as usize).filter(|p| child as usize > i && **p == 0)?;
                        *parents = 1;
                    }
                }
                TreeNode::Leaf(start, end) => {
                    table.get(start as usize..end as usize)?;
                }
            }
        }
        if width == 0 || table.iter().any(|&(element, _)| element as usize >= width) {
            return None;
        }
        let mut forest = Self {
            nodes: Vec::with_capacity(nodes.len()),
            trees: Vec::with_capacity(roots.len()),
            ranges: Vec::with_capacity(nodes.len()),
            table: table.to_vec(),
            single: None,
            width,
            columns: 0,
        };
        for &root in roots {
            // A root of two trees, or within one, would be laid down twice.
            let parents = parents.get_mut(root as usize).filter(|p| **p == 0)?;
            *parents = 1;
            forest.lay(nodes, root);
        }
        let of_one = |&(start, end): &(u32, u32)| start + 1 == end;
        if width == 1 && (0..forest.nodes.len()).all(|i| !forest.is_leaf(i) || of_one(&forest.ranges[i])) {
            let value = |&(start, _): &(u32, u32)| table.get(start as usize).map_or(0.0, |&(_, value)| value);
            forest.single = Some(forest.ranges.iter().map(value).collect());
        }
        Some(forest)
    }

    /// Lays a tree down, level by level.
    fn lay(&mut self, nodes: &[TreeNode], root: u32) {
        let first = self.nodes.len() as u32;
        let mut level = vec![(root, first)];
        self.reserve(1);
        let mut depth = 0;
        loop {
            let mut next = Vec::new();
            for (from, to) in level {
                let (node, range) = match nodes[from as usize] {
                    TreeNode::Leaf(start, end) => {
                        (Node { threshold: f64::INFINITY, feature: MISSING_LEFT, left: to }, (start, end))
                    }
                    TreeNode::Branch { feature, compare, threshold, yes, no, missing_is_yes } => {
                        let left = self.nodes.len() as u32;
                        self.reserve(2);
                        // x < t is x ≤ the number below t; x ≥ t and x > t are their opposites.
                        let below = matches!(compare, Compare::Less | Compare::GreaterEqual);
                        let threshold = if below { threshold.next_down() } else { threshold };
                        let swapped = matches!(compare, Compare::GreaterEqual | Compare::Greater);
                        let children = if swapped { [no, yes] } else { [yes, no] };
                        next.extend([(children[0], left), (children[1], left + 1)]);
                        self.columns = self.columns.max(feature as usize + 1);
                        let missing = if missing_is_yes != swapped { MISSING_LEFT } else { 0 };
                        (Node { threshold, feature: feature | missing, left }, (0, 0))
                    }
                };
                self.nodes[to as usize] = node;
                self.ranges[to as usize] = range;
            }
            if next.is_empty() {
                break;
            }
            level = next;
            depth += 1;
        }
        self.trees.push(Tree { root: first, depth });
    }

    fn reserve(&mut self, count: usize) {
        let empty = Node { threshold: 0.0, feature: 0, left: 0 };
        self.nodes.resize(self.nodes.len() + count, empty);
        self.ranges.resize(self.nodes.len(), (0, 0));
    }

    fn is_leaf(&self, i: usize) -> bool {
        self.nodes[i].left as usize == i
    }

    /// Columns that rows must have.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Adds the leaves that each row of `x` reaches to its row of `sums`.
    ///
    /// # Panics
    /// If `columns` is less than [`columns`](Self::columns), `sums` has no whole rows, or `x` other rows than `sums`.
    pub fn add_leaves(&self, x: &[f64], columns: usize, sums: &mut [f64]) {
        let rows = sums.len() / self.width;
        assert!(sums.len() == rows * self.width && columns >= self.columns, "whole rows");
        assert!(rows.checked_mul(columns) == Some(x.len()), "a row of x for each row of sums");
        for (b, sums) in sums.chunks_mut(BLOCK * self.width).enumerate() {
            let first = b * BLOCK * columns;
            let x = &x[first..first + sums.len() / self.width * columns];
            if x.iter().any(|v| v.is_nan()) {
                self.block::<true>(x, columns, sums);
            } else {
                self.block::<false>(x, columns, sums);
            }
        }
    }

    fn block<const NAN: bool>(&self, x: &[f64], columns: usize, sums: &mut [f64]) {
        let rows = sums.len() / self.width;
        for tree in &self.trees {
            let mut row = 0;
            while row + LANES <= rows {
                self.group::<NAN, LANES>(*tree, x, columns, row, sums);
                row += LANES;
            }
            while row < rows {
                self.group::<NAN, 1>(*tree, x, columns, row, sums);
                row += 1;
            }
        }
    }

    /// Rows from `row` on through one tree.
    #[inline(always)]
    fn group<const NAN: bool, const N: usize>(
        &self,
        tree: Tree,
        x: &[f64],
        columns: usize,
        row: usize,
        sums: &mut [f64],
    ) {
        assert!(tree.depth == 0 || x.len() >= (row + N) * columns);
        let mut at = [tree.root; N];
        let mut left = tree.depth;
        while left > 0 {
            let steps = left.min(STEPS);
            for _ in 0..steps {
                for (lane, at) in at.iter_mut().enumerate() {
                    // SAFETY: nodes are private. `at` is a root or what `lay` made a child: left and left + 1 were reserved, and
                    // a leaf has itself as left child, where every comparison leads, NaN's too (or there is none).
                    let node = unsafe { self.nodes.get_unchecked(*at as usize) };
                    let column = (node.feature & !MISSING_LEFT) as usize;
                    // SAFETY: a tree with a branch has columns; `columns` is at least that of every branch, by the assertion
                    // of `add_leaves`, and x has the row, by the one above.
                    let value = unsafe { *x.get_unchecked((row + lane) * columns + column) };
                    let missing = NAN && value.is_nan() && node.feature >= MISSING_LEFT;
                    *at = node.left + u32::from(!((value <= node.threshold) | missing));
                }
            }
            left -= steps;
            if left > 0 && at.iter().all(|&i| self.is_leaf(i as usize)) {
                break;
            }
        }
        if let Some(single) = &self.single {
            for (sum, &i) in sums[row..row + N].iter_mut().zip(&at) {
                *sum += single[i as usize];
            }
            return;
        }
        for (sums, &i) in sums[row * self.width..].chunks_exact_mut(self.width).zip(&at) {
            let (start, end) = self.ranges[i as usize];
            for &(element, value) in &self.table[start as usize..end as usize] {
                sums[element as usize] += value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers: xorshift.
    struct Draw(u64);

    impl Draw {
        fn next(&mut self, below: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % below
        }
    }

    const NUMBERS: [f64; 9] =
        [-1.0, -0.0, 0.0, 5e-324, 0.25, 1.0, f64::INFINITY, f64::NEG_INFINITY, -f64::MIN_POSITIVE];

    /// A tree whose nodes lie behind their parents; leaves have 0 to 2 values, or one.
    fn grow(draw: &mut Draw, depth: u64, width: u32, nodes: &mut Vec<TreeNode>, table: &mut Vec<(u32, f64)>) -> u32 {
        let at = nodes.len();
        let start = table.len() as u32;
        nodes.push(TreeNode::Leaf(0, 0));
        if depth == 0 || draw.next(5) == 0 {
            let count = if width == 1 { 1 } else { draw.next(3) };
            for _ in 0..count {
                table.push((draw.next(width.into()) as u32, draw.next(1000) as f64 / 7.0 - 50.0));
            }
            nodes[at] = TreeNode::Leaf(start, table.len() as u32);
            return at as u32;
        }
        let yes = grow(draw, depth - 1, width, nodes, table);
        let no = grow(draw, depth - 1, width, nodes, table);
        let compare = [Compare::LessEqual, Compare::Less, Compare::GreaterEqual, Compare::Greater];
        let threshold = NUMBERS[draw.next(NUMBERS.len() as u64) as usize];
        nodes[at] = TreeNode::Branch {
            feature: draw.next(5) as u32,
            compare: compare[draw.next(4) as usize],
            threshold: if threshold == f64::NEG_INFINITY { -2.0 } else { threshold },
            yes,
            no,
            missing_is_yes: draw.next(2) == 0,
        };
        at as u32
    }

    /// The definition.
    fn walk(nodes: &[TreeNode], mut at: u32, x: &[f64]) -> (u32, u32) {
        loop {
            match nodes[at as usize] {
                TreeNode::Leaf(start, end) => return (start, end),
                TreeNode::Branch { feature, compare, threshold, yes, no, missing_is_yes } => {
                    let value = x[feature as usize];
                    let holds = match compare {
                        _ if value.is_nan() => missing_is_yes,
                        Compare::LessEqual => value <= threshold,
                        Compare::Less => value < threshold,
                        Compare::GreaterEqual => value >= threshold,
                        Compare::Greater => value > threshold,
                    };
                    at = if holds { yes } else { no };
                }
            }
        }
    }

    #[test]
    fn blocks_agree_with_the_walk_of_each_row() {
        let mut draw = Draw(1);
        for case in 0..120 {
            let width = 1 + case % 3;
            let (mut nodes, mut table, mut roots) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..draw.next(6) {
                roots.push(grow(&mut draw, u64::from(case) % 9, width, &mut nodes, &mut table));
            }
            let forest = Forest::pack(&nodes, &roots, &table, width as usize).expect("trees");
            let (rows, columns) = (draw.next(300) as usize, 5 + draw.next(2) as usize);
            let mut number = |_| match draw.next(12) {
                0 if case % 2 == 0 => f64::NAN,
                n => NUMBERS[n as usize % NUMBERS.len()],
            };
            let x: Vec<f64> = (0..rows * columns).map(&mut number).collect();
            let mut sums = vec![0.5; rows * width as usize];
            let mut wanted = sums.clone();
            forest.add_leaves(&x, columns, &mut sums);
            for (row, sums) in x.chunks(columns).zip(wanted.chunks_mut(width as usize)) {
                for &root in &roots {
                    let (start, end) = walk(&nodes, root, row);
                    table[start as usize..end as usize].iter().for_each(|&(i, v)| sums[i as usize] += v);
                }
            }
            // The same to the last bit: the order of the sums is the same.
            assert_eq!(
                sums.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                wanted.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn what_can_not_be_packed_is_left_to_others() {
        let leaf = TreeNode::Leaf(0, 1);
        let branch = |threshold, yes, no| TreeNode::Branch {
            feature: 0,
            compare: Compare::Less,
            threshold,
            yes,
            no,
            missing_is_yes: false,
        };
        let table = [(0, 1.0)];
        let pack = |nodes: &[TreeNode], roots: &[u32]| Forest::pack(nodes, roots, &table, 1);
        assert!(pack(&[branch(0.0, 1, 2), leaf, leaf], &[0]).is_some());
        assert!(pack(&[branch(f64::NAN, 1, 2), leaf, leaf], &[0]).is_none());
        assert!(pack(&[branch(f64::NEG_INFINITY, 1, 2), leaf, leaf], &[0]).is_none());
        assert!(pack(&[branch(0.0, 1, 1), leaf], &[0]).is_none(), "a shared child");
        assert!(pack(&[branch(0.0, 0, 1), leaf], &[0]).is_none(), "a circle");
        assert!(pack(&[branch(0.0, 1, 3), leaf, leaf], &[0]).is_none(), "a missing child");
        assert!(pack(&[leaf], &[1]).is_none() && pack(&[leaf], &[0, 0]).is_none());
        assert!(pack(&[branch(0.0, 1, 2), leaf, leaf], &[0, 1]).is_none(), "a root within a tree");
        assert!(pack(&[TreeNode::Leaf(0, 2)], &[0]).is_none());
        assert!(
            Forest::pack(&[leaf], &[0], &[(1, 1.0)], 1).is_none() && Forest::pack(&[leaf], &[0], &table, 0).is_none()
        );
        // Trees without branches read no columns.
        let mut sums = [0.0; 3];
        pack(&[leaf], &[0]).expect("a tree").add_leaves(&[], 0, &mut sums);
        assert_eq!(sums, [1.0; 3]);
    }
}
