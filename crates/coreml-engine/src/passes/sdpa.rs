//! Fuses attention over whole sequences, `softmax(q · kᵀ · scale + mask) · v`, so scores are never written to memory.
//! Attention over a cache is left to `cached_attention`, which runs before.

mod op;

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation, Value};

use super::dead_code;
use crate::graph::{Graph, declared_shape, name_of, rank_of, replace, shape_of};
use crate::pass::Pass;
use op::SDPA;

pub(super) const PASS: Pass = Pass { name: "sdpa", after: &["softmax", "cached_attention"], ops: &[SDPA], run };

/// The operation that produces a value, if operation `i` is its only user.
fn single_use_producer<'b>(graph: &Graph<'b>, name: &str, i: usize) -> Option<(usize, &'b Operation)> {
    (graph.only_user(name)?.0 == i).then(|| graph.producer(name))?
}

/// The constant factor of an operation, and the value it multiplies.
fn scaled<'b>(graph: &Graph<'b>, op: &'b Operation) -> Option<(f64, &'b str)> {
    let single = |parameter: &str| match graph.numbers(op, parameter)?.as_slice() {
        &[v] => Some(v),
        _ => None,
    };
    match op.kind.as_str() {
        "mul" => single("y").zip(name_of(op, "x")).or_else(|| single("x").zip(name_of(op, "y"))),
        "real_div" => Some((1.0 / single("y")?, name_of(op, "x")?)),
        _ => None,
    }
}

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    let plain = |op, parameter| graph.flag(op, parameter, false).map(|set| !set);
    if op.kind != "matmul" || !plain(op, "transpose_x")? || !plain(op, "transpose_y")? {
        return None;
    }
    let (softmax_at, softmax) = single_use_producer(graph, name_of(op, "x")?, i)?;
    let shape = shape_of(softmax)?;
    let last = graph.number_or(softmax, "axis", -1.0)?;
    if softmax.kind != "softmax" || shape.len() < 3 || (last != -1.0 && last != shape.len() as f64 - 1.0) {
        return None;
    }
    let (mut at, mut inner) = single_use_producer(graph, name_of(softmax, "x")?, softmax_at)?;
    let mut mask = None;
    if inner.kind == "add" {
        let is_scores = |name: &str| {
            let (_, op) = single_use_producer(graph, name, at)?;
            let scores = op.kind == "matmul" || scaled(graph, op).is_some();
            (scores && declared_shape(graph, name)? == shape).then_some(())
        };
        let (x, y) = (name_of(inner, "x")?, name_of(inner, "y")?);
        let (scores, other) = if is_scores(x).is_some() { (x, "y") } else { (y, "x") };
        is_scores(scores)?;
        graph.float_of(inner, other)?;
        mask = Some(inner.inputs.get(other)?);
        (at, inner) = single_use_producer(graph, scores, at)?;
    }
    let mut scale = 1.0;
    while let Some((factor, scores)) = scaled(graph, inner) {
        scale *= factor;
        (at, inner) = single_use_producer(graph, scores, at)?;
    }
    if inner.kind != "matmul" || !plain(inner, "transpose_x")? || shape_of(inner)? != shape {
        return None;
    }
    // Float matrices only; vectors are handled elsewhere, and integers are multiplied exactly.
    for (op, parameter) in [(inner, "x"), (inner, "y"), (op, "y")] {
        rank_of(graph.float_of(op, parameter)?).filter(|&rank| rank > 1)?;
    }
    let mut new = op.clone();
    new.kind = SDPA.name.to_owned();
    new.inputs.clear();
    let columns = plain(inner, "transpose_y")?;
    let scale = Value::tensor(DataType::F32, &[], (scale as f32).to_le_bytes().to_vec());
    let literal = |value| Argument::One(Binding::Value(value));
    let mut bind = |name: &str, argument: Argument| new.inputs.insert(name.to_owned(), argument);
    bind("query", inner.inputs.get("x")?.clone());
    bind("key", inner.inputs.get("y")?.clone());
    bind("value", op.inputs.get("y")?.clone());
    bind("scale", literal(scale));
    bind("key_columns", literal(Value::bool(columns)));
    if let Some(mask) = mask {
        bind("mask", mask.clone());
    }
    Some(new)
}

fn run(function: &mut Function) -> usize {
    let count = replace(function, try_match);
    if count > 0 {
        dead_code::run(function);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::mil_text;

    #[test]
    fn scores_that_nobody_else_sees_become_one_operation() {
        let program = |result: &str| {
            let text = format!(
                "program(1.3) {{ func main<ios18>(tensor<fp32, [2, 3, 4]> q, tensor<fp32, [2, 4, 5]> k,
                        tensor<fp32, [2, 5, 6]> v, tensor<fp32, [1, 3, 5]> m) {{
                    tensor<fp32, [2, 3, 5]> s = matmul(x = q, y = k);
                    tensor<fp32, [2, 3, 5]> t = real_div(x = s, y = tensor<fp32, []>(2));
                    tensor<fp32, [2, 3, 5]> u = add(x = m, y = t);
                    tensor<fp32, [2, 3, 5]> w = softmax(x = u, axis = tensor<int32, []>(-1));
                    tensor<fp32, [2, 3, 6]> y = matmul(x = w, y = v);
                }} -> ({result}); }}"
            );
            mil_text::parse(&text).expect("it parses").functions.swap_remove("main").expect("main")
        };
        let mut function = program("y");
        assert_eq!(run(&mut function), 1);
        let [op] = function.block.operations.as_slice() else { panic!("{function:?}") };
        assert_eq!((op.kind.as_str(), name_of(op, "mask"), name_of(op, "key")), ("engine.sdpa", Some("m"), Some("k")));
        assert_eq!(run(&mut program("y, w")), 0);
    }
}
