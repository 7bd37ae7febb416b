//! `engine.trees`: decision trees, forests, boosted trees; several rows at once by the kernel
//! ([`coreml_kernels::forest`]).

use std::sync::Arc;

use coreml_kernels::forest::{Compare, Forest, TreeNode};

use super::{Declared, append_numbers, logistic, numbers, softmax};
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::Value;

pub(super) const OP: OpSpec = OpSpec::new("engine.trees", &[], build).kernel("trees on blocks of rows");

/// A branch, or a leaf (behaviour 6).
#[derive(Clone, Copy)]
struct Node {
    threshold: f64,
    feature: u32,
    yes: u32,
    no: u32,
    behavior: u8,
    missing_is_yes: bool,
}

#[derive(Clone, Copy)]
enum Transform {
    None,
    Softmax,
    Logistic,
    SoftmaxWithZero,
}

fn u32s(b: &OpBuilder<'_>, name: &str) -> Result<Vec<u32>, OpError> {
    let all: Vec<i64> = b.attr(name)?;
    let narrow = |n: i64| u32::try_from(n).map_err(|_| OpError::data(format!("{n} in `{name}`")));
    all.into_iter().map(narrow).collect()
}

/// `engine.trees(x…, roots, behavior, feature, threshold, yes, no, missing, leaf_start, leaf_index, leaf_value, base, transform,
/// binary)` → the sum of the leaves that x reaches in every tree and the base, transformed.
///
/// Node i is a branch, which compares an element with a threshold and continues at node `yes` or `no`, both behind it; or a
/// leaf (behaviour 6), which adds `leaf_value` at `leaf_index`, from `leaf_start[i]` to `leaf_start[i + 1]`. NaN continues at
/// `yes` where `missing` says so. `binary`: the one value is the probability of the second of two classes.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slots("x")?, Declared::of(b, 0)?);
    let (roots, feature, yes, no) = (u32s(b, "roots")?, u32s(b, "feature")?, u32s(b, "yes")?, u32s(b, "no")?);
    let (behavior, leaf_start) = (u32s(b, "behavior")?, u32s(b, "leaf_start")?);
    let (threshold, missing): (Vec<f64>, Vec<bool>) = (b.attr("threshold")?, b.attr("missing")?);
    let (leaf_index, leaf_value): (Vec<u32>, Vec<f64>) = (u32s(b, "leaf_index")?, b.attr("leaf_value")?);
    let (base, binary): (Vec<f64>, bool) = (b.attr("base")?, b.attr("binary")?);
    let transform = b.required_choice(
        "transform",
        &[
            ("none", Transform::None),
            ("softmax", Transform::Softmax),
            ("logistic", Transform::Logistic),
            ("softmax_with_zero", Transform::SoftmaxWithZero),
        ],
    )?;
    let count = behavior.len();
    let lengths =
        [feature.len(), threshold.len(), yes.len(), no.len(), missing.len(), leaf_start.len().wrapping_sub(1)];
    if lengths.iter().any(|&n| n != count) || leaf_index.len() != leaf_value.len() || base.is_empty() {
        return Err(OpError::shape(format!("tables of {lengths:?} elements for {count} nodes")));
    }
    if binary && base.len() != 1 {
        return Err(OpError::shape(format!("{} values for the probability of one class", base.len())));
    }
    budget::claim_of::<Node>(count)?;
    let mut nodes = Vec::with_capacity(count);
    for i in 0..count {
        let behavior = u8::try_from(behavior[i]).ok().filter(|&k| k <= 6);
        let behavior = behavior.ok_or_else(|| OpError::data(format!("node {i} has an unknown behaviour")))?;
        // Both children lie behind their parent, so that every walk ends.
        let behind = |n: u32| n as usize > i && (n as usize) < count;
        if behavior != 6 && !(behind(yes[i]) && behind(no[i])) {
            return Err(OpError::data(format!("node {i} continues at no node behind it")));
        }
        let (threshold, feature, missing_is_yes) = (threshold[i], feature[i], missing[i]);
        nodes.push(Node { threshold, feature, yes: yes[i], no: no[i], behavior, missing_is_yes });
    }
    let ordered = leaf_start.is_sorted() && leaf_start.last().is_some_and(|&n| n as usize == leaf_value.len());
    let inside = leaf_index.iter().all(|&i| (i as usize) < base.len());
    if !ordered || !inside || roots.iter().any(|&r| r as usize >= count) {
        return Err(OpError::data("a tree or a leaf beyond the tables"));
    }
    let features = nodes.iter().filter(|n| n.behavior != 6).map(|n| n.feature as usize + 1).max().unwrap_or(0);
    let leaves = Leaves { nodes, roots, starts: leaf_start, table: leaf_index.into_iter().zip(leaf_value).collect() };
    let packed = leaves.pack(base.len())?;
    let trees = Arc::new(Trees { leaves, packed, features, base, transform, binary });
    let declared = Arc::new(declared);
    let rows = (trees.clone(), declared.clone(), x.clone());
    if trees.packed.is_some() {
        b.rows(move |frames| {
            let (trees, declared, x) = &rows;
            let all = trees.rows(frames, x)?;
            all.into_iter().map(|row| declared.value_of(row)).collect::<Result<_, _>>().map(Some)
        });
    }
    b.run(move |f| {
        let x = numbers(f, &x)?;
        trees.fits(x.len())?;
        budget::claim_of::<f64>(trees.base.len() + 1)?;
        let mut sums = vec![0.0; trees.base.len()];
        match &trees.packed {
            Some(forest) => forest.add_leaves(&x, x.len(), &mut sums),
            None => trees.leaves.add(&x, &mut sums),
        }
        declared.value_of(trees.finish(sums))
    })
}

/// Nodes as tables, and the leaves that they add.
struct Leaves {
    nodes: Vec<Node>,
    roots: Vec<u32>,
    starts: Vec<u32>,
    table: Vec<(u32, f64)>,
}

impl Leaves {
    fn add(&self, x: &[f64], sums: &mut [f64]) {
        for &root in &self.roots {
            let mut at = root as usize;
            let mut node = self.nodes[at];
            while node.behavior != 6 {
                let value = x[node.feature as usize];
                let yes = match node.behavior {
                    _ if value.is_nan() => node.missing_is_yes,
                    0 => value <= node.threshold,
                    1 => value < node.threshold,
                    2 => value >= node.threshold,
                    3 => value > node.threshold,
                    4 => value == node.threshold,
                    _ => value != node.threshold,
                };
                at = if yes { node.yes } else { node.no } as usize;
                node = self.nodes[at];
            }
            for &(element, value) in &self.table[self.starts[at] as usize..self.starts[at + 1] as usize] {
                sums[element as usize] += value;
            }
        }
    }

    /// The same trees for the kernel; none where it does not have their comparisons.
    fn pack(&self, width: usize) -> Result<Option<Forest>, OpError> {
        budget::claim(self.nodes.len().saturating_mul(size_of::<TreeNode>() + 32))?;
        let node = |(i, n): (usize, &Node)| {
            let compare = match n.behavior {
                0 => Compare::LessEqual,
                1 => Compare::Less,
                2 => Compare::GreaterEqual,
                3 => Compare::Greater,
                6 => return Some(TreeNode::Leaf(self.starts[i], self.starts[i + 1])),
                _ => return None,
            };
            let Node { threshold, feature, yes, no, missing_is_yes, .. } = *n;
            Some(TreeNode::Branch { feature, compare, threshold, yes, no, missing_is_yes })
        };
        let nodes: Option<Vec<TreeNode>> = self.nodes.iter().enumerate().map(node).collect();
        Ok(nodes.and_then(|nodes| Forest::pack(&nodes, &self.roots, &self.table, width)))
    }
}

/// Trees and what becomes of their sums.
struct Trees {
    leaves: Leaves,
    packed: Option<Forest>,
    features: usize,
    base: Vec<f64>,
    transform: Transform,
    binary: bool,
}

impl Trees {
    fn fits(&self, found: usize) -> Result<(), OpError> {
        if found < self.features {
            let features = self.features;
            return Err(OpError::shape(format!("{found} features for trees that compare {features}")));
        }
        Ok(())
    }

    /// Results of several predictions, by the kernel.
    fn rows(&self, frames: &[Frame<'_>], x: &[Slot]) -> Result<Vec<Vec<f64>>, OpError> {
        let forest = self.packed.as_ref().ok_or_else(|| OpError::data("trees that are not packed"))?;
        let mut all = Vec::new();
        let mut columns = None;
        for frame in frames {
            let before = all.len();
            append_numbers(frame, x, &mut all)?;
            let count = all.len() - before;
            // As many as the model compares may be far more than there are.
            self.fits(count)?;
            if columns.is_none() {
                let rest = (frames.len() - 1).saturating_mul(count);
                budget::claim_of::<f64>(rest)?;
                all.reserve_exact(rest);
            }
            if *columns.get_or_insert(count) != count {
                return Err(OpError::shape(format!("rows of {count} and other numbers of features")));
            }
        }
        let width = self.base.len();
        budget::claim_of::<f64>(frames.len().saturating_mul(width + 1))?;
        let mut sums = vec![0.0; frames.len() * width];
        forest.add_leaves(&all, columns.unwrap_or(0), &mut sums);
        Ok(sums.chunks_exact(width).map(|row| self.finish(row.to_vec())).collect())
    }

    /// The sums of leaves with the base, transformed.
    fn finish(&self, mut sums: Vec<f64>) -> Vec<f64> {
        sums.iter_mut().zip(&self.base).for_each(|(sum, base)| *sum += base);
        match self.transform {
            Transform::None => {}
            Transform::Softmax => softmax(&mut sums),
            Transform::Logistic => sums.iter_mut().for_each(|x| *x = logistic(*x)),
            Transform::SoftmaxWithZero => {
                sums.insert(0, 0.0);
                softmax(&mut sums);
            }
        }
        if self.binary {
            sums.insert(0, 1.0 - sums[0]);
        }
        sums
    }
}

impl Declared {
    /// Numbers as the only result.
    fn value_of(&self, numbers: Vec<f64>) -> Result<Vec<Value>, OpError> {
        let length = numbers.len();
        one(self.value(numbers, &[length])?)
    }
}
