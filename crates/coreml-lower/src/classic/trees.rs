//! `treeEnsembleRegressor`, `treeEnsembleClassifier`: nodes as tables, every node behind its parent.

use std::borrow::Cow;
use std::collections::HashMap;

use coreml_format::model_types::Body;
use coreml_format::model_types::data_structures::ClassLabels;
use coreml_format::model_types::tree_ensemble::{
    NodeBehavior, TreeEnsembleParameters, TreeEnsembleTransform, TreeNode,
};
use coreml_format::program::{Program, Value};

use super::{Maker, Parameters, constant, doubles, ints, text};
use crate::error::LowerError;
use crate::model_types::Source;

/// Values of a prediction that no leaf needs to give.
const FEW: usize = 1 << 12;

const LEAF: i32 = NodeBehavior::LeafNode as i32;

/// Nodes of one tree by number.
struct Tree<'m> {
    id: u64,
    by_id: HashMap<u64, &'m TreeNode>,
}

/// The trees, in the order of their first nodes.
fn trees<'m>(maker: &Maker<'_>, nodes: &'m [TreeNode]) -> Result<Vec<Tree<'m>>, LowerError> {
    let mut places: HashMap<u64, usize> = HashMap::new();
    let mut all: Vec<Tree<'m>> = Vec::new();
    for node in nodes {
        let place = *places.entry(node.tree_id).or_insert(all.len());
        if place == all.len() {
            all.push(Tree { id: node.tree_id, by_id: HashMap::new() });
        }
        if all[place].by_id.insert(node.node_id, node).is_some() {
            return Err(maker.invalid(format!("one node {} in tree {}", node.node_id, node.tree_id), "two"));
        }
    }
    Ok(all)
}

/// The nodes of a tree, each behind its parent; the root first.
fn ordered<'m>(maker: &Maker<'_>, tree: &Tree<'m>) -> Result<Vec<&'m TreeNode>, LowerError> {
    let mut parents: HashMap<u64, usize> = HashMap::new();
    let children = |node: &TreeNode| {
        let leaf = node.node_behavior == LEAF;
        (!leaf).then_some([node.true_child_node_id, node.false_child_node_id]).into_iter().flatten()
    };
    for node in tree.by_id.values() {
        for child in children(node) {
            if !tree.by_id.contains_key(&child) {
                let found = format!("node {} of tree {}, which is not there", child, tree.id);
                return Err(maker.invalid(format!("a child of node {}", node.node_id), found));
            }
            *parents.entry(child).or_insert(0) += 1;
        }
    }
    let mut roots = tree.by_id.values().filter(|n| !parents.contains_key(&n.node_id));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Err(maker.invalid(format!("one root in tree {}", tree.id), "none or several"));
    };
    // A node is laid down when all its parents are.
    let (mut open, mut found) = (vec![*root], Vec::with_capacity(tree.by_id.len()));
    while let Some(node) = open.pop() {
        found.push(node);
        let mut ready: Vec<&TreeNode> = Vec::with_capacity(2);
        for child in children(node) {
            let left = parents.entry(child).or_insert(0);
            *left = left.saturating_sub(1);
            if *left == 0 {
                ready.extend(tree.by_id.get(&child));
            }
        }
        // The first child is laid down next.
        open.extend(ready.into_iter().rev());
    }
    if found.len() != tree.by_id.len() {
        return Err(maker.invalid(format!("no circle in tree {}", tree.id), "nodes that lead back to themselves"));
    }
    Ok(found)
}

fn parameters(
    maker: &Maker<'_>,
    model: Option<&TreeEnsembleParameters>,
    transform: i32,
) -> Result<Parameters, LowerError> {
    let model = model.filter(|m| !m.nodes.is_empty()).ok_or_else(|| maker.invalid("trees", "none"))?;
    let dimensions = model.num_prediction_dimensions;
    // A file of a few bytes does not ask for more values than leaves could give.
    let leaves: usize = model.nodes.iter().map(|n| n.evaluation_info.len()).sum();
    let most = leaves.max(model.base_prediction_value.len()).max(FEW);
    let width = usize::try_from(dimensions).ok().filter(|&n| n > 0 && n <= most);
    let width = width.ok_or_else(|| maker.invalid("a number of values of a prediction", dimensions))?;
    let base = match model.base_prediction_value.as_slice() {
        [] => vec![0.0; width],
        all if all.len() == width => all.to_vec(),
        all => return Err(maker.invalid(format!("{width} base values"), all.len())),
    };
    let transform = match TreeEnsembleTransform::try_from(transform) {
        Ok(TreeEnsembleTransform::NoTransform) => "none",
        Ok(TreeEnsembleTransform::ClassificationSoftMax) => "softmax",
        Ok(TreeEnsembleTransform::RegressionLogistic) => "logistic",
        Ok(TreeEnsembleTransform::ClassificationSoftMaxWithZeroClassReference) => "softmax_with_zero",
        Err(_) => return Err(maker.invalid("a known transform", transform)),
    };
    let (mut roots, mut behavior, mut feature, mut threshold) = (vec![], vec![], vec![], vec![]);
    let (mut yes, mut no, mut missing) = (vec![], vec![], vec![]);
    let (mut leaf_start, mut leaf_index, mut leaf_value) = (vec![0], vec![], vec![]);
    for tree in trees(maker, &model.nodes)? {
        let nodes = ordered(maker, &tree)?;
        let first = behavior.len() as i64;
        let place: HashMap<u64, i64> = nodes.iter().zip(first..).map(|(n, i)| (n.node_id, i)).collect();
        roots.push(first);
        for node in nodes {
            if NodeBehavior::try_from(node.node_behavior).is_err() {
                return Err(maker.invalid("a known behaviour of a node", node.node_behavior));
            }
            let leaf = node.node_behavior == LEAF;
            let at = |child| if leaf { 0 } else { place.get(&child).copied().unwrap_or(0) };
            behavior.push(i64::from(node.node_behavior));
            yes.push(at(node.true_child_node_id));
            no.push(at(node.false_child_node_id));
            missing.push(node.missing_value_tracks_true_child);
            threshold.push(node.branch_feature_value);
            let index = u32::try_from(node.branch_feature_index);
            let index = index.map_err(|_| maker.invalid("an element of the input", node.branch_feature_index))?;
            feature.push(if leaf { 0 } else { i64::from(index) });
            for value in if leaf { node.evaluation_info.as_slice() } else { &[] } {
                if value.evaluation_index >= dimensions {
                    return Err(maker.invalid(format!("a leaf of {dimensions} values"), value.evaluation_index));
                }
                leaf_index.push(value.evaluation_index as i64);
                leaf_value.push(value.evaluation_value);
            }
            leaf_start.push(leaf_value.len() as i64);
        }
    }
    Ok(vec![
        ("x", maker.numbers()?),
        ("roots", ints(&roots)),
        ("behavior", ints(&behavior)),
        ("feature", ints(&feature)),
        ("threshold", doubles(&threshold)),
        ("yes", ints(&yes)),
        ("no", ints(&no)),
        ("missing", constant(Value::bools(&missing))),
        ("leaf_start", ints(&leaf_start)),
        ("leaf_index", ints(&leaf_index)),
        ("leaf_value", doubles(&leaf_value)),
        ("base", doubles(&base)),
        ("transform", text(transform)),
    ])
}

/// Both types.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    match source.body {
        Body::TreeEnsembleRegressor(model) => {
            let mut all = parameters(&maker, model.tree_ensemble.as_ref(), model.post_evaluation_transform)?;
            all.push(("binary", constant(Value::bool(false))));
            let result = maker.result(maker.output()?)?;
            maker.add("engine.trees", all, vec![result]);
        }
        Body::TreeEnsembleClassifier(model) => {
            let mut all = parameters(&maker, model.tree_ensemble.as_ref(), model.post_evaluation_transform)?;
            let values = model.tree_ensemble.as_ref().map_or(0, |m| m.num_prediction_dimensions);
            let zero = TreeEnsembleTransform::ClassificationSoftMaxWithZeroClassReference as i32;
            let with_zero = model.post_evaluation_transform == zero;
            let binary = values == 1 && !with_zero;
            let classes = model.class_labels.as_ref().map_or(0, ClassLabels::count);
            let scores = values + u64::from(binary || with_zero);
            if scores != classes as u64 || classes < 2 {
                return Err(maker.invalid(format!("values for {classes} classes"), values));
            }
            all.push(("binary", constant(Value::bool(binary))));
            let scores = maker.intermediate("scores");
            let name = scores.name.clone();
            maker.add("engine.trees", all, vec![scores]);
            maker.classify(&name, &model.class_labels, None)?;
        }
        other => return Err(maker.invalid("trees", other.name())),
    }
    maker.finish()
}

#[cfg(test)]
mod tests {
    use coreml_format::description::{FunctionDescription, ModelDescription};
    use coreml_format::model_types::tree_ensemble::{EvaluationInfo, TreeEnsembleRegressor};

    use super::*;

    fn branch(node_id: u64, yes: u64, no: u64) -> TreeNode {
        TreeNode { node_id, true_child_node_id: yes, false_child_node_id: no, ..TreeNode::default() }
    }

    fn leaf(node_id: u64, evaluation_index: u64) -> TreeNode {
        let evaluation_info = vec![EvaluationInfo { evaluation_index, evaluation_value: 1.0 }];
        TreeNode { node_id, node_behavior: LEAF, evaluation_info, ..TreeNode::default() }
    }

    /// What lowering says about a tree.
    fn refusal(nodes: Vec<TreeNode>, num_prediction_dimensions: u64) -> String {
        let trees = TreeEnsembleParameters { nodes, num_prediction_dimensions, base_prediction_value: Vec::new() };
        let model = TreeEnsembleRegressor { tree_ensemble: Some(trees), post_evaluation_transform: 0 };
        let mut description = ModelDescription::default();
        description.functions.insert(String::new(), FunctionDescription::default());
        let body = Body::TreeEnsembleRegressor(model);
        let source = Source { description: &description, body: &body, parts: &[], classes: None };
        lower(source, "the model").expect_err("refused").to_string()
    }

    #[test]
    fn trees_that_do_not_end_or_lead_nowhere_are_refused() {
        for (nodes, part) in [
            (vec![], "expected trees, found none"),
            (vec![branch(0, 1, 2), leaf(1, 0)], "node 2 of tree 0, which is not there"),
            (vec![branch(0, 0, 0)], "one root in tree 0"),
            (vec![branch(0, 1, 2), leaf(2, 0), branch(1, 3, 2), branch(3, 1, 2)], "no circle in tree 0"),
            (vec![leaf(0, 0), leaf(1, 0)], "one root in tree 0"),
            (vec![leaf(4, 0), leaf(4, 0)], "one node 4 in tree 0"),
            (vec![leaf(0, 1)], "a leaf of 1 values, found 1"),
            (vec![TreeNode { node_behavior: 7, ..branch(0, 1, 1) }, leaf(1, 0)], "a known behaviour"),
            (
                vec![TreeNode { branch_feature_index: 1 << 40, ..branch(0, 1, 1) }, leaf(1, 0)],
                "an element of the input",
            ),
            (vec![leaf(0, 0)], "one output, found 0"),
            (vec![branch(u64::MAX, 1 << 31, 1 << 63), leaf(1 << 31, 0)], "of tree 0, which is not there"),
            (vec![branch(1 << 31, u64::MAX, 1 << 31), leaf(u64::MAX, 0)], "one root in tree 0"),
            (vec![branch(u64::MAX, 1 << 31, 0), leaf(1 << 31, 0), leaf(0, 0)], "one output, found 0"),
        ] {
            let message = refusal(nodes, 1);
            assert!(message.contains(part), "{part}: {message}");
        }
        for dimensions in [0, 1 << 13, 1 << 31, u64::MAX] {
            assert!(refusal(vec![leaf(0, 0)], dimensions).contains("a number of values"));
        }
    }

    #[test]
    fn long_trees_need_no_stack() {
        let mut nodes: Vec<TreeNode> = (0..100_000).map(|i| branch(i, i + 1, 100_000)).collect();
        nodes.push(leaf(100_000, 0));
        assert!(refusal(nodes, 1).contains("one output"));
    }
}
