//! `engine.trees`: decision trees, forests, boosted trees.

use super::{Declared, logistic, numbers, softmax};
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.trees", &[], build);

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
    b.run(move |f| {
        let x = numbers(f, &x)?;
        if x.len() < features {
            return Err(OpError::shape(format!("{} features for trees that compare {features}", x.len())));
        }
        budget::claim_of::<f64>(base.len() + 1)?;
        let mut sums = vec![0.0; base.len()];
        for &root in &roots {
            let mut at = root as usize;
            let mut node = nodes[at];
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
                node = nodes[at];
            }
            for i in leaf_start[at] as usize..leaf_start[at + 1] as usize {
                sums[leaf_index[i] as usize] += leaf_value[i];
            }
        }
        sums.iter_mut().zip(&base).for_each(|(sum, base)| *sum += base);
        match transform {
            Transform::None => {}
            Transform::Softmax => softmax(&mut sums),
            Transform::Logistic => sums.iter_mut().for_each(|x| *x = logistic(*x)),
            Transform::SoftmaxWithZero => {
                sums.insert(0, 0.0);
                softmax(&mut sums);
            }
        }
        if binary {
            sums.insert(0, 1.0 - sums[0]);
        }
        let length = sums.len();
        one(declared.value(sums, &[length])?)
    })
}
