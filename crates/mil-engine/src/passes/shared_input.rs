//! Products with constant weights that share an input (queries, keys and values; gate and up; the parts of an LM
//! head) become one operation: the input is arranged once, and all of them run in one parallel region.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation, Value};
use indexmap::IndexMap;

use super::graph::{Graph, declared_shape, name_of};

/// Whether a value is there before anything runs.
fn constant(op: &Operation) -> bool {
    op.kind == "const" || op.kind.starts_with("constexpr_")
}

fn constant_argument(graph: &Graph<'_>, op: &Operation, parameter: &str) -> bool {
    match op.inputs.get(parameter) {
        Some(Argument::One(Binding::Value(_))) | None => true,
        Some(Argument::One(Binding::Name(n))) => graph.maker(n).is_some_and(|(_, op)| constant(op)),
        Some(Argument::Many(_)) => false,
    }
}

/// The input of a product that can be joined: a linear layer, or a convolution with a kernel of one point.
fn input_of<'b>(graph: &Graph<'b>, op: &'b Operation) -> Option<&'b str> {
    let simple = op.outputs.len() == 1
        && constant_argument(graph, op, "weight")
        && constant_argument(graph, op, "bias")
        && op.inputs.contains_key("weight");
    if !simple {
        return None;
    }
    if op.kind == "conv" {
        let all = |name: &str, wanted: f64| {
            !op.inputs.contains_key(name) || graph.numbers(op, name).is_some_and(|n| n.iter().all(|&v| v == wanted))
        };
        let weight = match name_of(op, "weight") {
            Some(name) => declared_shape(graph, name)?,
            None => graph.literal(op, "weight")?.ty.tensor()?.fixed_shape()?,
        };
        let point = weight.len() > 2 && weight[2..].iter().all(|&n| n == 1);
        if !(point && all("strides", 1.0) && all("pad", 0.0) && all("groups", 1.0)) {
            return None;
        }
    } else if op.kind != "linear" {
        return None;
    }
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
        kind: "engine.products".to_owned(),
        name: first.name.clone(),
        inputs,
        outputs: ops.iter().flat_map(|op| op.outputs.clone()).collect(),
        blocks: Vec::new(),
        attributes: IndexMap::new(),
    }
}

pub(super) fn run(function: &mut Function) -> usize {
    let graph = Graph::new(function);
    let mut groups: IndexMap<(&str, &str), Vec<usize>> = IndexMap::new();
    for (i, op) in function.block.operations.iter().enumerate() {
        if let Some(x) = input_of(&graph, op) {
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
    // Constants first: the weights of all members stand before the first of them.
    let (mut constants, mut others) = (Vec::new(), Vec::new());
    for (i, op) in std::mem::take(&mut function.block.operations).into_iter().enumerate() {
        match replaced.swap_remove(&i) {
            Some(new) => others.extend(new),
            None if constant(&op) => constants.push(op),
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
