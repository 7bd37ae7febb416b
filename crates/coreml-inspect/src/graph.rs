//! The graph of a function: one node per operation that runs, with constants as annotations.

use std::collections::HashMap;

use coreml_format::program::{Argument, Binding, Block, Function, Operation, ValueType};
use indexmap::IndexSet;

use crate::constants::{Constants, Weight, text};

/// Default parameter values, which are not shown.
const USUAL: &[(&str, &str)] = &[
    ("batch_dims", "0"),
    ("validate_indices", ""),
    ("interleave", "false"),
    ("pad_type", "valid"),
    ("groups", "1"),
    ("keep_dims", "true"),
    ("transpose_x", "false"),
    ("transpose_y", "false"),
];
/// Slice parameters, shown together.
const SLICE: [&str; 6] = ["begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask"];

/// Kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// An input of the function.
    Input,
    /// A state of the function.
    State,
    /// An operation.
    Operation,
}

/// A node of the graph.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) role: Role,
    /// Type of the operation; empty for inputs and states.
    pub(crate) kind: String,
    /// Name of the first result.
    pub(crate) name: String,
    /// Type of the first result.
    pub(crate) ty: String,
    /// Literal parameters, `name value`.
    pub(crate) parameters: Vec<String>,
    pub(crate) weights: Vec<Weight>,
    /// Nodes whose results it uses, deduplicated, in order.
    pub(crate) inputs: Vec<usize>,
    /// Previous operation on the same state, which must run first.
    pub(crate) after: Option<usize>,
    /// Index of its block; 0 is the function's own.
    pub(crate) block: usize,
    /// Function results that it produces.
    pub(crate) outputs: Vec<String>,
}

/// A function as a graph. Nodes are in execution order, inputs and states first.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// Titles of nested blocks; the first, of the function itself, is empty.
    pub(crate) blocks: Vec<String>,
}

impl Graph {
    /// Builds the graph of a function.
    pub(crate) fn new(function: &Function) -> Self {
        let mut constants = Constants::default();
        constants.collect(&function.block);
        let mut builder =
            Builder { constants, graph: Self::default(), by_name: HashMap::new(), states: HashMap::new() };
        builder.graph.blocks.push(String::new());
        for input in &function.inputs {
            let role = if matches!(input.ty, ValueType::State(_)) { Role::State } else { Role::Input };
            let at = builder.graph.nodes.len();
            builder.by_name.insert(&input.name, at);
            builder.graph.nodes.push(Node::leaf(role, &input.name, describe(&input.ty)));
        }
        builder.block(&function.block, 0);
        for output in &function.block.outputs {
            if let Some(&at) = builder.by_name.get(output.as_str()) {
                builder.graph.nodes[at].outputs.push(output.clone());
            }
        }
        builder.graph
    }

    /// Consumers of each node.
    pub(crate) fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                consumers[input].push(at);
            }
        }
        consumers
    }
}

impl Node {
    fn leaf(role: Role, name: &str, ty: String) -> Self {
        Self {
            role,
            kind: String::new(),
            name: name.to_owned(),
            ty,
            parameters: Vec::new(),
            weights: Vec::new(),
            inputs: Vec::new(),
            after: None,
            block: 0,
            outputs: Vec::new(),
        }
    }

    /// Returns true for operations.
    pub(crate) fn is_operation(&self) -> bool {
        self.role == Role::Operation
    }

    /// Equal for nodes that do the same with different weights. Excludes parameters, which vary between layers, such as
    /// the row of a cache.
    pub(crate) fn signature(&self) -> String {
        let weights: Vec<String> =
            self.weights.iter().map(|w| format!("{}:{}:{:?}", w.parameter, w.form, w.shape)).collect();
        format!("{}|{}|{}", self.kind, self.ty, weights.join(","))
    }
}

/// A type in readable form.
pub(crate) fn describe(ty: &ValueType) -> String {
    match ty {
        ValueType::Tensor(t) if t.shape.is_empty() => t.dtype.to_string(),
        ValueType::Tensor(t) => {
            let shape: Vec<String> = t.shape.iter().map(ToString::to_string).collect();
            format!("{} [{}]", t.dtype, shape.join(", "))
        }
        ValueType::State(inner) => describe(inner),
        ValueType::List(inner, length) => format!("list of {length} × {}", describe(inner)),
        ValueType::Tuple(items) => format!("tuple of {}", items.len()),
        ValueType::Dictionary(..) => "dictionary".to_owned(),
    }
}

struct Builder<'a> {
    constants: Constants<'a>,
    graph: Graph,
    by_name: HashMap<&'a str, usize>,
    /// Last operation on each state.
    states: HashMap<usize, usize>,
}

impl<'a> Builder<'a> {
    fn block(&mut self, block: &'a Block, id: usize) {
        for op in &block.operations {
            if op.kind == "const" || op.kind.starts_with("constexpr_") {
                continue;
            }
            let at = self.operation(op, id);
            for (i, nested) in op.blocks.iter().enumerate() {
                let title = format!("block {} of {} `{}`", i + 1, op.kind, op.name);
                self.graph.blocks.push(title);
                for input in &nested.inputs {
                    self.by_name.insert(&input.name, at);
                }
                self.block(nested, self.graph.blocks.len() - 1);
            }
        }
    }

    fn operation(&mut self, op: &'a Operation, block: usize) -> usize {
        let at = self.graph.nodes.len();
        let first = op.outputs.first();
        let name = first.map_or(op.name.as_str(), |o| o.name.as_str());
        let mut node = Node::leaf(Role::Operation, name, first.map_or_else(String::new, |o| describe(&o.ty)));
        node.kind.clone_from(&op.kind);
        node.block = block;
        let mut sources = IndexSet::new();
        for (parameter, argument) in &op.inputs {
            for binding in argument.bindings() {
                self.bind(&mut node, &mut sources, at, (parameter, argument), binding);
            }
        }
        node.inputs = sources.into_iter().collect();
        for (parameter, value) in &op.attributes {
            node.parameter(parameter, text(value));
        }
        if op.kind.starts_with("slice_") && op.inputs.contains_key("begin") && !op.inputs.contains_key("size") {
            node.parameters.retain(|p| !SLICE.iter().any(|s| p.starts_with(&format!("{s} = "))));
            node.parameters.extend(self.slice(op));
        }
        if op.outputs.len() > 1 {
            node.parameters.push(format!("{} results", op.outputs.len()));
        }
        for output in &op.outputs {
            self.by_name.insert(&output.name, at);
        }
        self.graph.nodes.push(node);
        at
    }

    /// A slice in Python notation; `…` for computed bounds.
    fn slice(&self, op: &'a Operation) -> Option<String> {
        let items = |name: &str| -> Option<Vec<String>> {
            let text = text(self.constants.parameter(op, name)?)?;
            Some(text.trim_matches(['[', ']']).split(", ").map(str::to_owned).collect())
        };
        let [begin, end, stride, begin_mask, end_mask, squeeze] = SLICE.map(items);
        let rank = [&begin, &end, &begin_mask, &end_mask].into_iter().flatten().map(Vec::len).max()?;
        let at = |list: &Option<Vec<String>>, i: usize| list.as_ref().and_then(|l| l.get(i).cloned());
        let set = |list: &Option<Vec<String>>, i: usize| at(list, i).is_some_and(|v| v == "true");
        let parts = (0..rank).map(|i| {
            let first = if set(&begin_mask, i) { Some(String::new()) } else { at(&begin, i) };
            let last = if set(&end_mask, i) { Some(String::new()) } else { at(&end, i) };
            let (first, last) = (first.unwrap_or_else(|| "…".to_owned()), last.unwrap_or_else(|| "…".to_owned()));
            let first = if first == "0" { String::new() } else { first };
            match at(&stride, i).filter(|s| s != "1") {
                _ if set(&squeeze, i) => {
                    if first.is_empty() {
                        "0".to_owned()
                    } else {
                        first
                    }
                }
                Some(step) => format!("{first}:{last}:{step}"),
                None => format!("{first}:{last}"),
            }
        });
        Some(format!("[{}]", parts.collect::<Vec<_>>().join(", ")))
    }

    /// Records a parameter's binding: another node's result, a weight, or a value.
    fn bind(
        &mut self,
        node: &mut Node,
        sources: &mut IndexSet<usize>,
        at: usize,
        (parameter, argument): (&str, &'a Argument),
        binding: &'a Binding,
    ) {
        if let Binding::Name(n) = binding
            && let Some(&from) = self.by_name.get(n.as_str())
        {
            if self.graph.nodes.get(from).is_some_and(|f| f.role == Role::State) {
                node.after = self.states.insert(from, at);
            }
            sources.insert(from);
            return;
        }
        if let Some(weight) = self.constants.weight(parameter, binding) {
            node.weights.push(weight);
        } else if matches!(argument, Argument::One(_)) {
            node.parameter(parameter, self.constants.literal(binding).and_then(text));
        }
    }
}

impl Node {
    /// Records a parameter unless it has its default value.
    fn parameter(&mut self, name: &str, value: Option<String>) {
        let Some(value) = value else { return };
        let usual = USUAL.iter().any(|(n, v)| *n == name && (v.is_empty() || *v == value));
        let trivial = match name {
            "strides" | "dilations" | "stride" => value.trim_matches(['[', ']']).split(", ").all(|v| v == "1"),
            "pad" => value.trim_matches(['[', ']']).split(", ").all(|v| v == "0"),
            _ => false,
        };
        if !usual && !trivial {
            self.parameters.push(format!("{name} = {value}"));
        }
    }
}
