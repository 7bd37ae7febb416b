//! Fuses `w · sigmoid_hard(w)`, with the `thresholded_relu` that converters put before it: PyTorch's hard swish.

use coreml_format::program::{Argument, Binding, Function, Operation};

use crate::graph::{Graph, float, name_of, replace};
use crate::op::{OpSpec, since::*};
use crate::ops::elementwise_unary::float as map_floats;
use crate::ops::epilogue;
use crate::pass::Pass;

pub(super) const PASS: Pass = Pass { name: "hard_swish", after: &[], ops: &[HARD_SWISH], run };

/// `engine.hard_swish(x, slope, offset, threshold?)`: `w · min(max(slope · w + offset, 0), 1)`, where `w` is `x`, and 0 below
/// the threshold.
pub(super) const HARD_SWISH: OpSpec =
    OpSpec::elementwise("engine.hard_swish", IOS15, |b| map_floats(b, epilogue::hard_swish(b)?)).fuse(|graph, op| {
        let mut parameters = vec![("slope", graph.number(op, "slope")?), ("offset", graph.number(op, "offset")?)];
        parameters.extend(graph.number(op, "threshold").map(|threshold| ("threshold", threshold)));
        Some(("hard_swish", parameters))
    });

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "mul" {
        return None;
    }
    let gate = |gate: &str, own: &str| {
        let (gate, own) = (name_of(op, gate)?, name_of(op, own)?);
        let (at, sigmoid) = graph.producer_of_kind(gate, "sigmoid_hard")?;
        (graph.only_user(gate)?.0 == i && name_of(sigmoid, "x")? == own).then_some((own, at, sigmoid))
    };
    let (own, at, sigmoid) = gate("y", "x").or_else(|| gate("x", "y"))?;
    let mut new = op.clone();
    new.kind = HARD_SWISH.name.to_owned();
    new.inputs.clear();
    for (name, parameter, default) in [("slope", "alpha", 0.2), ("offset", "beta", 0.5)] {
        new.inputs.insert(name.to_owned(), float(graph.number_or(sigmoid, parameter, default)?));
    }
    // Only these two may use the thresholded value.
    let cut = graph.producer_of_kind(own, "thresholded_relu").and_then(|(_, cut)| {
        let alone = !graph.returned(own) && graph.users(own).iter().all(|user| [i, at].contains(user));
        Some((name_of(cut, "x")?, graph.number_or(cut, "alpha", 1.0)?)).filter(|_| alone)
    });
    if let Some((_, threshold)) = cut {
        new.inputs.insert("threshold".to_owned(), float(threshold));
    }
    let x = cut.map_or(own, |(x, _)| x);
    new.inputs.insert("x".to_owned(), Argument::One(Binding::Name(x.to_owned())));
    Some(new)
}

fn run(function: &mut Function) -> usize {
    replace(function, try_match)
}

#[cfg(test)]
mod tests {
    use super::super::dead_code;
    use super::*;
    use coreml_format::mil_text;

    fn rewritten(body: &str, result: &str) -> Vec<Operation> {
        let text = format!("program(1.3) {{ func main<ios18>(tensor<fp32, [3]> x) {{ {body} }} -> ({result}); }}");
        let mut function = mil_text::parse(&text).expect("it parses").functions.swap_remove("main").expect("main");
        run(&mut function);
        dead_code::run(&mut function);
        function.block.operations
    }

    fn kinds(body: &str, result: &str) -> Vec<String> {
        rewritten(body, result).into_iter().map(|op| op.kind).collect()
    }

    const CUT: &str = "tensor<fp32, [3]> w = thresholded_relu(x = x, alpha = fp32(-3));";
    const GATE: &str = "tensor<fp32, [3]> s = sigmoid_hard(x = w, alpha = fp32(0.25));";

    #[test]
    fn a_product_with_its_own_gate_is_one_operation() {
        let found = rewritten(&format!("{CUT} {GATE} tensor<fp32, [3]> y = mul(x = w, y = s);"), "y");
        let [swish] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((swish.kind.as_str(), name_of(swish, "x")), ("engine.hard_swish", Some("x")));
        let parameters = [("slope", 0.25), ("offset", 0.5), ("threshold", -3.0)];
        assert!(parameters.iter().all(|&(name, value)| swish.inputs[name] == float(value)), "{swish:?}");
        let plain = "tensor<fp32, [3]> s = sigmoid_hard(x = x); tensor<fp32, [3]> y = mul(x = s, y = x);";
        let found = rewritten(plain, "y");
        let [swish] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((swish.inputs["slope"].clone(), swish.inputs.get("threshold")), (float(0.2), None));
    }

    #[test]
    fn what_others_use_stays() {
        let swish = format!("{CUT} {GATE} tensor<fp32, [3]> y = mul(x = w, y = s);");
        assert_eq!(kinds(&swish, "y, w"), ["thresholded_relu", "engine.hard_swish"]);
        let used = format!("{swish} tensor<fp32, [3]> z = add(x = w, y = y);");
        assert_eq!(kinds(&used, "z"), ["thresholded_relu", "engine.hard_swish", "add"]);
        assert_eq!(kinds(&swish, "y, s"), ["thresholded_relu", "sigmoid_hard", "mul"]);
        let other = format!("{CUT} {GATE} tensor<fp32, [3]> y = mul(x = x, y = s);");
        assert_eq!(kinds(&other, "y"), ["thresholded_relu", "sigmoid_hard", "mul"]);
    }
}
