//! The nearest of many samples, one after the other or in a k-d tree.

use crate::budget;
use crate::error::OpError;

/// Deepest tree that a search descends into; 2⁴⁸ samples have no more levels.
const DEEPEST: usize = 48;

/// Samples, their order in the tree, and its nodes.
pub(super) struct Samples {
    all: Vec<f64>,
    dimensions: usize,
    /// Samples in the order of the leaves; empty without a tree.
    order: Vec<u32>,
    root: Option<Node>,
}

enum Node {
    Leaf { from: usize, to: usize },
    Branch { axis: usize, at: f64, below: Box<Node>, above: Box<Node> },
}

impl Samples {
    /// Rows of `dimensions` numbers, in a tree if `leaf` is above 0.
    ///
    /// # Errors
    /// Memory.
    pub(super) fn new(all: Vec<f64>, dimensions: usize, leaf: usize) -> Result<Self, OpError> {
        let count = all.len() / dimensions.max(1);
        let finite = all.iter().all(|x| x.is_finite());
        let (mut order, mut root) = (Vec::new(), None);
        if leaf > 0
            && finite
            && let Ok(top) = u32::try_from(count)
        {
            budget::claim_of::<(u32, Node)>(count)?;
            order = (0..top).collect();
            root = Some(split(&all, dimensions, &mut order, 0, leaf, DEEPEST));
        }
        Ok(Self { all, dimensions, order, root })
    }

    fn squared(&self, x: &[f64], sample: usize) -> f64 {
        let row = &self.all[sample * self.dimensions..(sample + 1) * self.dimensions];
        row.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum()
    }

    /// The `count` samples with the least squared distance, nearest first; of equal ones the first.
    pub(super) fn nearest(&self, x: &[f64], count: usize) -> Vec<(f64, usize)> {
        let mut best = Vec::with_capacity(count + 1);
        match &self.root {
            Some(root) => self.visit(root, x, count, &mut best),
            None => (0..self.all.len() / self.dimensions.max(1)).for_each(|i| self.offer(x, i, count, &mut best)),
        }
        best
    }

    fn offer(&self, x: &[f64], sample: usize, count: usize, best: &mut Vec<(f64, usize)>) {
        let found = (self.squared(x, sample), sample);
        let behind = |other: &(f64, usize)| other.0.total_cmp(&found.0).then(other.1.cmp(&found.1)).is_lt();
        if best.len() < count || best.last().is_some_and(|last| !behind(last)) {
            best.insert(best.partition_point(behind), found);
            best.truncate(count);
        }
    }

    fn visit(&self, node: &Node, x: &[f64], count: usize, best: &mut Vec<(f64, usize)>) {
        match node {
            Node::Leaf { from, to } => {
                self.order[*from..*to].iter().for_each(|&i| self.offer(x, i as usize, count, best));
            }
            Node::Branch { axis, at, below, above } => {
                let gap = x[*axis] - at;
                let (near, far) = if gap < 0.0 { (below, above) } else { (above, below) };
                self.visit(near, x, count, best);
                // An equal distance may be that of an earlier sample.
                if best.len() < count || best.last().is_none_or(|last| gap * gap <= last.0) {
                    self.visit(far, x, count, best);
                }
            }
        }
    }
}

/// The tree over `order`, whose first sample has position `from`: halved along the axis of the widest range.
fn split(all: &[f64], dimensions: usize, order: &mut [u32], from: usize, leaf: usize, levels: usize) -> Node {
    let ends = Node::Leaf { from, to: from + order.len() };
    if order.len() <= leaf || levels == 0 {
        return ends;
    }
    let value = |i: u32, axis: usize| all[i as usize * dimensions + axis];
    let range = |axis: usize| {
        let (least, most) = order.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &i| {
            (low.min(value(i, axis)), high.max(value(i, axis)))
        });
        most - least
    };
    let Some((axis, width)) = (0..dimensions).map(|a| (a, range(a))).max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return ends;
    };
    if width == 0.0 {
        return ends;
    }
    let middle = order.len() / 2;
    let (_, &mut pivot, _) = order.select_nth_unstable_by(middle, |&a, &b| value(a, axis).total_cmp(&value(b, axis)));
    let at = value(pivot, axis);
    let (low, high) = order.split_at_mut(middle);
    let below = Box::new(split(all, dimensions, low, from, leaf, levels - 1));
    let above = Box::new(split(all, dimensions, high, from + middle, leaf, levels - 1));
    Node::Branch { axis, at, below, above }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_finds_what_looking_at_all_finds_ties_included() {
        // Few different numbers, so that distances are often equal.
        let number = |i: usize| ((i * 7919 + 13) % 11) as f64 / 2.0;
        for (count, dimensions) in [(1, 1), (2, 3), (300, 3), (1000, 1)] {
            let all: Vec<f64> = (0..count * dimensions).map(number).collect();
            let flat = Samples::new(all.clone(), dimensions, 0).expect("samples");
            for leaf in [1, 2, 30, 5000] {
                let tree = Samples::new(all.clone(), dimensions, leaf).expect("samples");
                for q in 0..20 {
                    let x: Vec<f64> = (0..dimensions).map(|d| number(q * 31 + d) - 0.25 * (q % 3) as f64).collect();
                    for k in [1, 5, count] {
                        assert_eq!(flat.nearest(&x, k), tree.nearest(&x, k), "{count} {dimensions} {leaf} {k}");
                    }
                }
            }
        }
        assert!(Samples::new(Vec::new(), 2, 1).expect("none").nearest(&[0.0, 0.0], 1).is_empty());
    }

    #[test]
    fn equal_samples_end_in_one_leaf() {
        let samples = Samples::new(vec![1.0; 100_000], 1, 1).expect("samples");
        assert_eq!(samples.nearest(&[1.0], 2), [(0.0, 0), (0.0, 1)]);
    }
}
