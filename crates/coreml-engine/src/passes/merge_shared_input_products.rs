//! Merges products with constant weights that share an input (queries, keys and values; gate and up; parts of an LM
//! head) into one operation: the input is packed once, and all products run in one parallel region.

mod op;

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation, TensorType, Value};
use indexmap::IndexMap;

use crate::graph::{Graph, name_of, rank_of, used_values};
use crate::pass::Pass;
use op::PRODUCTS;

pub(super) const PASS: Pass =
    Pass { name: "merge_shared_input_products", after: &["fuse_epilogue"], ops: &[PRODUCTS], run };

/// Marks operations whose values are constant: constants and operations on constants only.
fn constants(graph: &Graph<'_>, operations: &[Operation]) -> Vec<bool> {
    let mut found: Vec<bool> = Vec::with_capacity(operations.len());
    for op in operations {
        let known = |name: &str| graph.producer(name).is_some_and(|(i, _)| found.get(i) == Some(&true));
        found.push(op.kind == "const" || (op.kind.starts_with("constexpr_") && used_values(op).into_iter().all(known)));
    }
    found
}

/// Type of a constant parameter.
fn constant<'b>(graph: &Graph<'b>, found: &[bool], op: &'b Operation, parameter: &str) -> Option<&'b TensorType> {
    let known = match op.inputs.get(parameter)? {
        Argument::One(Binding::Value(_)) => true,
        Argument::One(Binding::Name(n)) => graph.producer(n).is_some_and(|(i, _)| found[i]),
        Argument::Many(_) => false,
    };
    graph.type_of(op, parameter).filter(|_| known)
}

/// Input of a product that can be merged: a linear layer or a pointwise convolution.
fn input_of<'b>(graph: &Graph<'b>, found: &[bool], op: &'b Operation) -> Option<&'b str> {
    if !matches!(op.kind.as_str(), "conv" | "linear") || op.outputs.len() != 1 {
        return None;
    }
    let weight = constant(graph, found, op, "weight")?.fixed_shape()?;
    if op.inputs.contains_key("bias") {
        // One per output, or one for all.
        let bias: usize = constant(graph, found, op, "bias")?.fixed_shape()?.iter().product();
        if bias != 1 && Some(&bias) != weight.first() {
            return None;
        }
    }
    let x = graph.float_of(op, "x")?;
    if op.kind == "conv" {
        let all = |name: &str, wanted: f64| {
            !op.inputs.contains_key(name) || graph.numbers(op, name).is_some_and(|n| n.iter().all(|&v| v == wanted))
        };
        let point = weight.len() > 2 && weight[2..].iter().all(|&n| n == 1);
        if !(point && all("strides", 1.0) && all("pad", 0.0) && all("groups", 1.0)) {
            return None;
        }
    } else if weight.len() != 2 {
        return None;
    }
    // A product has the outer dimensions of its input.
    rank_of(x).filter(|&rank| rank > 0 && (op.kind == "linear" || rank == weight.len()))?;
    name_of(op, "x")
}

fn joined(ops: &[&Operation]) -> Operation {
    let first = ops[0];
    let mut inputs = IndexMap::new();
    inputs.insert("x".to_owned(), first.inputs["x"].clone());
    for (i, op) in ops.iter().enumerate() {
        for name in ["weight", "bias"] {
            if let Some(argument) = op.inputs.get(name) {
                inputs.insert(format!("{name}_{i}"), argument.clone());
            }
        }
    }
    let count = Value::tensor(DataType::I32, &[], (ops.len() as i32).to_le_bytes().to_vec());
    inputs.insert("count".to_owned(), Argument::One(Binding::Value(count)));
    inputs.insert("channels_first".to_owned(), Argument::One(Binding::Value(Value::bool(first.kind == "conv"))));
    Operation {
        kind: PRODUCTS.name.to_owned(),
        name: first.name.clone(),
        inputs,
        outputs: ops.iter().flat_map(|op| op.outputs.clone()).collect(),
        blocks: Vec::new(),
        attributes: IndexMap::new(),
    }
}

fn run(function: &mut Function) -> usize {
    let graph = Graph::new(function);
    let known = constants(&graph, &function.block.operations);
    let mut groups: IndexMap<(&str, &str), Vec<usize>> = IndexMap::new();
    for (i, op) in function.block.operations.iter().enumerate() {
        if let Some(x) = input_of(&graph, &known, op) {
            groups.entry((x, op.kind.as_str())).or_default().push(i);
        }
    }
    groups.retain(|_, members| members.len() > 1);
    let count = groups.len();
    if count == 0 {
        return 0;
    }
    let mut replaced: IndexMap<usize, Option<Operation>> = IndexMap::new();
    for members in groups.values() {
        let ops: Vec<&Operation> = members.iter().map(|&i| graph.op(i)).collect();
        replaced.extend(members.iter().map(|&i| (i, None)));
        replaced.insert(members[0], Some(joined(&ops)));
    }
    // Constants first: the weights of all members must precede the first of them.
    let (mut constants, mut others) = (Vec::new(), Vec::new());
    for (i, op) in std::mem::take(&mut function.block.operations).into_iter().enumerate() {
        match replaced.swap_remove(&i) {
            Some(new) => others.extend(new),
            None if known[i] => constants.push(op),
            None => others.push(op),
        }
    }
    constants.extend(others);
    function.block.operations = constants;
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::mil_text;

    #[test]
    fn only_products_of_one_input_with_constant_weights_are_joined() {
        let weight = "tensor<fp32, [1, 2]>([[1, 2]])";
        let text = format!(
            "program(1.3) {{ func main<ios18>(tensor<fp32, [3, 2]> x, tensor<fp32, [1, 2]> w) {{
                tensor<fp32, [3, 1]> a = linear(x = x, weight = {weight});
                tensor<fp32, [3, 1]> b = linear(x = x, weight = w);
                tensor<fp32, [1, 2]> k = const()[val = {weight}];
                tensor<fp32, [3, 1]> c = linear(x = x, weight = k, bias = tensor<fp32, [1]>([5]));
                tensor<fp32, [3, 1]> d = relu(x = a);
             }} -> (a, b, c, d); }}"
        );
        let mut function = mil_text::parse(&text).expect("it parses").functions.swap_remove("main").expect("main");
        assert_eq!(run(&mut function), 1);
        let kinds: Vec<&str> = function.block.operations.iter().map(|o| o.kind.as_str()).collect();
        assert_eq!(kinds, ["const", "engine.products", "linear", "relu"]);
        assert_eq!(run(&mut function), 0);
        assert_eq!(function.block.operations[1].outputs[1].name, "c");
    }
}
