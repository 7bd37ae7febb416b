//! Fuses the residual and activation that follow a product or convolution into its epilogue, applied while sums are in
//! registers instead of in separate passes over memory.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation, Value};

use super::dead_code;
use super::hard_swish::HARD_SWISH;
use crate::batch;
use crate::graph::{Graph, float, name_of, replace, shape_of};
use crate::op::{OpSpec, since::*};
use crate::ops;
use crate::pass::Pass;

pub(super) const PASS: Pass =
    Pass { name: "fuse_epilogue", after: &["silu_mul", "hard_swish"], ops: &[CONV, LINEAR], run };

/// `conv` and `linear` with a residual and an activation ([`EpilogueSpec`](crate::ops::epilogue::EpilogueSpec)).
const CONV: OpSpec = OpSpec::new("engine.conv", IOS15, ops::conv::conv).batch(batch::conv);
const LINEAR: OpSpec = OpSpec::new("engine.linear", IOS15, ops::linear::linear).batch(batch::linear);

/// True if the engine packs the operation's dense weights, so that its kernel has an epilogue.
fn is_packed(graph: &Graph<'_>, op: &Operation) -> Option<bool> {
    let weight = match name_of(op, "weight") {
        Some(name) => graph.producer_of_kind(name, "const")?.1.attributes.get("val")?,
        None => graph.literal(op, "weight")?,
    };
    Some(match weight.ty.tensor()?.dtype {
        DataType::F32 => true,
        // Matrices of language models stay in fp16, unpacked.
        DataType::F16 => op.kind.ends_with("conv") && shape_of(op)?.iter().skip(2).filter(|&&n| n > 1).count() > 1,
        _ => false,
    })
}

/// The product that produces a value, if operation `i` is its only user.
fn product<'b>(graph: &Graph<'b>, name: &str, i: usize) -> Option<&'b Operation> {
    let (_, op) = graph.producer(name)?;
    let fits = ["conv", "linear", CONV.name, LINEAR.name].contains(&op.kind.as_str());
    let open = !op.inputs.contains_key("activation") && op.outputs.len() == 1;
    let floats = graph.declared(name)?.dtype.is_float();
    (fits && open && floats && graph.only_user(name)?.0 == i && is_packed(graph, op)?).then_some(op)
}

/// Epilogue name and parameters of an activation.
fn activation<'b>(graph: &Graph<'b>, op: &'b Operation) -> Option<(&'static str, Vec<(&'static str, f64)>)> {
    let row = ops::find(&op.kind).or((op.kind == HARD_SWISH.name).then_some(&HARD_SWISH))?;
    row.fuse?(graph, op)
}

/// The product as an extended operation with the outputs of `op`.
fn extended(product: &Operation, op: &Operation) -> Operation {
    let kind = if product.kind.ends_with("conv") { CONV.name } else { LINEAR.name };
    Operation { kind: kind.to_owned(), outputs: op.outputs.clone(), ..product.clone() }
}

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    let dtype = |op: &Operation| Some(op.outputs.first()?.ty.tensor()?.dtype);
    if op.kind == "add" {
        let with = |own: &str, other: &str| {
            let product = product(graph, name_of(op, own)?, i)?;
            let other = name_of(op, other)?;
            let residual = graph.declared(other)?;
            let fits = residual.fixed_shape() == shape_of(op) && shape_of(op)? == shape_of(product)?;
            let free = !product.inputs.contains_key("residual") && other != name_of(op, own)?;
            (fits && free && Some(residual.dtype) == dtype(product)).then_some((product, other))
        };
        let (product, other) = with("x", "y").or_else(|| with("y", "x"))?;
        let mut new = extended(product, op);
        new.inputs.insert("residual".to_owned(), Argument::One(Binding::Name(other.to_owned())));
        return Some(new);
    }
    let (name, parameters) = activation(graph, op)?;
    let product = product(graph, name_of(op, "x")?, i)?;
    if dtype(product) != dtype(op) {
        return None;
    }
    let mut new = extended(product, op);
    new.inputs.insert("activation".to_owned(), Argument::One(Binding::Value(Value::string(name))));
    new.inputs.extend(parameters.into_iter().map(|(name, value)| (name.to_owned(), float(value))));
    Some(new)
}

fn run(function: &mut Function) -> usize {
    let mut count = 0;
    // Repeat: an activation after a residual matches only once the residual is fused.
    loop {
        let changed = replace(function, try_match);
        if changed == 0 {
            return count;
        }
        count += changed;
        // Remove replaced products, which would count as users of their inputs.
        dead_code::run(function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::mil_text;

    fn rewritten(body: &str, result: &str) -> Vec<Operation> {
        let text = format!(
            "program(1.3) {{ func main<ios18>(tensor<fp32, [3, 2]> x, tensor<fp32, [3, 1]> q) {{
                tensor<fp32, [3, 1]> r = sigmoid(x = q);
                {body}
            }} -> ({result}); }}"
        );
        let mut function = mil_text::parse(&text).expect("it parses").functions.swap_remove("main").expect("main");
        run(&mut function);
        function.block.operations
    }

    const WEIGHT: &str = "tensor<fp32, [1, 2]>([[1, 2]])";

    #[test]
    fn a_residual_and_then_an_activation_join_their_product() {
        let found = rewritten(
            &format!(
                "tensor<fp32, [3, 1]> a = linear(x = x, weight = {WEIGHT});
                 tensor<fp32, [3, 1]> b = add(x = r, y = a);
                 tensor<fp32, [3, 1]> c = relu(x = b);"
            ),
            "c",
        );
        let [_, product] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((product.kind.as_str(), product.outputs[0].name.as_str()), ("engine.linear", "c"));
        assert_eq!(name_of(product, "residual"), Some("r"));
        assert!(product.inputs.contains_key("activation") && product.inputs.contains_key("low"));
    }

    #[test]
    fn what_others_use_or_comes_after_an_activation_stays() {
        let used =
            format!("tensor<fp32, [3, 1]> a = linear(x = x, weight = {WEIGHT}); tensor<fp32, [3, 1]> b = relu(x = a);");
        let kinds = |body: &str, result| rewritten(body, result).into_iter().map(|op| op.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&used, "a, b, r")[1..], ["linear", "relu"]);
        let late = format!("{used} tensor<fp32, [3, 1]> c = add(x = b, y = r);");
        assert_eq!(kinds(&late, "c"), ["sigmoid", "engine.linear", "add"]);
        let twice = format!(
            "tensor<fp32, [3, 1]> a = linear(x = x, weight = {WEIGHT}); tensor<fp32, [3, 1]> b = add(x = a, y = a);"
        );
        assert_eq!(kinds(&twice, "b, r")[1..], ["linear", "add"]);
        let wide = format!(
            "tensor<fp32, [3, 1]> a = linear(x = x, weight = {WEIGHT});
             tensor<fp32, [3, 2]> b = add(x = a, y = x);"
        );
        assert_eq!(kinds(&wide, "b, r")[1..], ["linear", "add"]);
    }
}
