//! Folds parallel branches that differ only in weights (parts of a split LM head, experts, split heads).

use std::collections::HashMap;

use crate::graph::{Graph, Role};

/// Minimum number of branches to fold.
const FOLD: usize = 4;

/// Representative of each of `nodes` (in execution order): itself, unless it is one of several equivalent nodes.
///
/// Two operations are equivalent if they have the same type, parameters, result and weight form, and take the same or
/// equivalent inputs.
pub(crate) fn representatives(graph: &Graph, nodes: &[usize]) -> HashMap<usize, usize> {
    let mut depth: HashMap<usize, usize> = HashMap::new();
    for &at in nodes {
        let inputs = graph.nodes[at].inputs.iter();
        depth.insert(at, inputs.filter_map(|i| depth.get(i)).max().map_or(0, |d| d + 1));
    }
    let mut by_depth = nodes.to_vec();
    by_depth.sort_by_key(|n| (depth[n], *n));
    let mut stands: HashMap<usize, usize> = HashMap::new();
    // Equivalent nodes have equal depth, and their inputs were resolved one depth earlier.
    for level in by_depth.chunk_by(|a, b| depth[a] == depth[b]) {
        let mut alike: HashMap<(String, Vec<usize>), Vec<usize>> = HashMap::new();
        for &at in level {
            let node = &graph.nodes[at];
            if node.inputs.iter().any(|i| graph.nodes[*i].role == Role::State) {
                // Reads of a state depend on their position.
                stands.insert(at, at);
                continue;
            }
            let inputs = node.inputs.iter().map(|i| stands.get(i).copied().unwrap_or(*i)).collect();
            alike.entry((format!("{}|{}", node.signature(), node.parameters.join(",")), inputs)).or_default().push(at);
        }
        for members in alike.into_values() {
            let fold = members.len() >= FOLD;
            for &at in &members {
                stands.insert(at, if fold { members[0] } else { at });
            }
        }
    }
    stands
}
