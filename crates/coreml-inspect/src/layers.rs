//! Assigns operations to network layers, and finds identical layers.
//!
//! Converters keep weight names (`model_layers_0_self_attn_q_proj_weight`): such a name puts the operation that uses
//! the weight or value into that layer. Operations without one follow their consumers and producers. If no name refers
//! to a layer, a repeating sequence of operations is taken for the layers.

use std::collections::{HashMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

use crate::graph::Graph;

mod repetition;

/// Words that precede a layer number.
const WORDS: [&str; 8] = ["layers", "layer", "blocks", "block", "stages", "stage", "h", "resblocks"];
/// Minimum number of consecutive layers to fold.
const FOLD: usize = 3;

/// Operations drawn in one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Title, such as `layers 3`; empty for operations outside layers.
    pub(crate) title: String,
    /// The operations, in order.
    pub(crate) nodes: Vec<usize>,
    /// Number of layers it represents, and the title of the last one.
    pub(crate) repeats: usize,
    pub(crate) last: String,
}

/// Layer reference parsed from a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Prefix up to the last number that follows a layer word.
    pub(crate) key: String,
    /// Title, such as `layers 3`.
    pub(crate) title: String,
    /// Rest of the name.
    pub(crate) rest: String,
}

/// Parses a layer reference from a name.
pub(crate) fn layer_of(name: &str) -> Option<Layer> {
    let parts: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()).collect();
    let number = |s: &str| !s.is_empty() && s.len() < 6 && s.bytes().all(|b| b.is_ascii_digit());
    let mut found: Option<(usize, String)> = None;
    let mut at = 0;
    while at < parts.len() {
        let word = parts[at].trim_end_matches(|c: char| c.is_ascii_digit());
        let glued = &parts[at][word.len()..];
        let title = match parts.get(at + 1) {
            _ if !WORDS.contains(&word) || (word == "h" && at == 0) => None,
            Some(n) if glued.is_empty() && number(n) => Some((at + 2, format!("{word} {n}"))),
            // `layer2_0`: stage 2, block 0.
            Some(n) if number(glued) && number(n) => Some((at + 2, format!("{word} {glued}.{n}"))),
            _ if number(glued) => Some((at + 1, format!("{word} {glued}"))),
            _ => None,
        };
        match title {
            Some((end, title)) => {
                found = Some((end, found.map_or(title.clone(), |(_, before)| format!("{before}, {title}"))));
                at = end;
            }
            None => at += 1,
        }
    }
    let (end, title) = found?;
    Some(Layer { key: parts[..end].join("_"), title, rest: parts[end..].join("_") })
}

/// Groups the operations of one block, in order of first execution.
pub(crate) fn groups(graph: &Graph, block: usize) -> Vec<Group> {
    let (labels, titles) = labels(graph);
    if titles.is_empty()
        && let Some(groups) = repeated(graph, block)
    {
        return groups;
    }
    let assigned = assign(graph, &labels);
    let mut groups: Vec<Group> = Vec::new();
    let mut by_key: HashMap<(Option<usize>, bool), usize> = HashMap::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        if !node.is_operation() || node.block != block {
            continue;
        }
        // Operations outside layers: those before and those after.
        let label = if block == 0 { assigned[at].layer } else { None };
        let key = (label, label.is_none() && assigned[at].follows);
        let index = *by_key.entry(key).or_insert_with(|| {
            let title = label.map_or_else(String::new, |l| titles[l].clone());
            groups.push(Group { last: title.clone(), title, nodes: Vec::new(), repeats: 1 });
            groups.len() - 1
        });
        groups[index].nodes.push(at);
    }
    // Draw operations before the layers first, those after them last.
    groups.sort_by_key(|g| match (g.title.is_empty(), g.nodes.first().is_some_and(|&n| assigned[n].follows)) {
        (true, false) => 0,
        (false, _) => 1,
        (true, true) => 2,
    });
    groups
}

/// Groups by repetition, if names give no layers.
fn repeated(graph: &Graph, block: usize) -> Option<Vec<Group>> {
    let own: Vec<usize> =
        (0..graph.nodes.len()).filter(|&n| graph.nodes[n].is_operation() && graph.nodes[n].block == block).collect();
    let signatures: Vec<u64> = own
        .iter()
        .map(|&n| {
            let mut hasher = DefaultHasher::new();
            graph.nodes[n].signature().hash(&mut hasher);
            hasher.finish()
        })
        .collect();
    let found = repetition::find(&signatures)?;
    let end = found.start + found.period * found.times;
    let group =
        |title: String, nodes: &[usize]| Group { last: title.clone(), title, nodes: nodes.to_vec(), repeats: 1 };
    let layers =
        own[found.start..end].chunks(found.period).enumerate().map(|(i, c)| group(format!("repetition {i}"), c));
    let parts = std::iter::once(group(String::new(), &own[..found.start]));
    let parts = parts.chain(layers).chain([group(String::new(), &own[end..])]);
    Some(parts.filter(|g| !g.nodes.is_empty()).collect())
}

/// Merges consecutive layers that consist of the same operations.
pub(crate) fn fold(graph: &Graph, groups: Vec<Group>) -> Vec<Group> {
    let signature = |g: &Group| {
        let mut parts: Vec<String> = g.nodes.iter().map(|&n| graph.nodes[n].signature()).collect();
        parts.sort_unstable();
        parts
    };
    let mut folded: Vec<Group> = Vec::new();
    let mut rest = groups.into_iter().peekable();
    while let Some(first) = rest.next() {
        let mut run = vec![first];
        let wanted = signature(&run[0]);
        while !run[0].title.is_empty() && rest.peek().is_some_and(|g| !g.title.is_empty() && signature(g) == wanted) {
            run.extend(rest.next());
        }
        if run.len() < FOLD {
            folded.extend(run);
        } else {
            let (repeats, last) = (run.len(), run[run.len() - 1].title.clone());
            folded.extend(run.into_iter().next().map(|g| Group { repeats, last, ..g }));
        }
    }
    folded
}

/// Layer of each node according to its own names, as an index into the titles.
fn labels(graph: &Graph) -> (Vec<Option<usize>>, Vec<String>) {
    let (mut keys, mut titles): (HashMap<String, usize>, Vec<String>) = (HashMap::new(), Vec::new());
    let labels = graph.nodes.iter().map(|node| {
        let names = node.weights.iter().map(|w| w.name.as_str()).chain([node.name.as_str()]);
        let Layer { key, title, .. } = names.filter(|_| node.is_operation()).find_map(layer_of)?;
        Some(*keys.entry(key).or_insert_with(|| {
            titles.push(title);
            titles.len() - 1
        }))
    });
    (labels.collect(), titles)
}

#[derive(Debug, Clone, Copy, Default)]
struct Assigned {
    layer: Option<usize>,
    /// True if an operation of a layer precedes it.
    follows: bool,
}

fn assign(graph: &Graph, labels: &[Option<usize>]) -> Vec<Assigned> {
    let count = graph.nodes.len();
    let consumers = graph.consumers();
    let mut before: Vec<Option<usize>> = vec![None; count];
    let mut weighty = vec![false; count];
    for (at, node) in graph.nodes.iter().enumerate() {
        let inputs = node.inputs.iter().copied().chain(node.after);
        before[at] = labels[at].or_else(|| inputs.clone().filter_map(|i| before[i]).max());
        weighty[at] = labels[at].is_none() && (!node.weights.is_empty() || inputs.clone().any(|i| weighty[i]));
    }
    let mut after: Vec<Option<usize>> = labels.to_vec();
    // True if a residual sum of the same layer is reached through unnamed operations.
    let mut joins = vec![false; count];
    for at in (0..count).rev() {
        let next = consumers[at].iter().copied();
        let least = next.clone().filter_map(|c| after[c]).min();
        let own = labels[at].or_else(|| least.into_iter().chain(after[at]).min());
        after[at] = own;
        if let Some(previous) = graph.nodes[at].after {
            after[previous] = after[previous].into_iter().chain(own).min();
        }
        let sums = graph.nodes[at].kind == "add" && graph.nodes[at].inputs.len() == 2;
        joins[at] = sums || next.clone().any(|c| labels[c].is_none() && joins[c] && before[c] == before[at]);
    }
    let mut assigned = vec![Assigned::default(); count];
    for at in (0..count).rev() {
        let node = &graph.nodes[at];
        let layer = match (labels[at], before[at], after[at]) {
            (Some(own), ..) => Some(own),
            (None, Some(b), Some(a)) if a == b => Some(a),
            (None, Some(b), _) if joins[at] => Some(b),
            (None, Some(b), _) if is_activation(&node.kind) && node.inputs.iter().any(|&i| labels[i] == Some(b)) => {
                Some(b)
            }
            (None, Some(_), a) => a,
            // No layer operation before it: it belongs to a layer only if it has no weights and no other layer uses it.
            (None, None, _) if weighty[at] => None,
            (None, None, _) => {
                let mut layers = consumers[at].iter().map(|&c| assigned[c].layer);
                let first = layers.next().flatten();
                first.filter(|f| layers.all(|l| l == Some(*f)))
            }
        };
        assigned[at] = Assigned { layer, follows: before[at].is_some() };
    }
    assigned
}

/// Operations that end a layer rather than start one.
fn is_activation(kind: &str) -> bool {
    ["relu", "relu6", "gelu", "silu", "tanh", "leaky_relu", "prelu", "elu", "clip"].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_layers() {
        let title = |name: &str| layer_of(name).map(|l| l.title);
        assert_eq!(title("model_model_layers_12_q_weight_to_fp16").as_deref(), Some("layers 12"));
        assert_eq!(title("bert.encoder.layer.3.output.dense.weight").as_deref(), Some("layer 3"));
        assert_eq!(title("layer2_0_conv1_weight").as_deref(), Some("layer 2.0"));
        assert_eq!(title("block7_expand").as_deref(), Some("block 7"));
        assert_eq!(title("stages_1_blocks_4_fc").as_deref(), Some("stages 1, blocks 4"));
        assert_eq!(title("transformer_h_0_mlp").as_deref(), Some("h 0"));
        for none in ["", "x_1", "layers", "var_12_cast_fp16", "layer_norm_3", "layers_norm_2", "blocks_1234567", "h_0"]
        {
            assert_eq!(title(none), None, "{none}");
        }
        // The path before the number distinguishes encoder and decoder layers.
        let key = |name: &str| layer_of(name).map(|l| (l.key, l.rest));
        assert_eq!(key("encoder_layers_0_q_weight"), Some(("encoder_layers_0".to_owned(), "q_weight".to_owned())));
        assert_ne!(key("encoder_layers_0_w"), key("decoder_layers_0_w"));
    }
}
