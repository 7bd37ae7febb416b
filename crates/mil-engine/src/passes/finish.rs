//! What follows a product or convolution as part of it: a residual that is added, then an activation. Sums are finished
//! while they are in registers, instead of written, read and written again.

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation, TensorData, Value, ValueData};

use super::dead_code;
use super::graph::{Graph, float, name_of, replace, shape_of};

/// Whether the engine packs the dense weights of an operation, so that its kernel finishes sums.
fn is_packed(graph: &Graph<'_>, op: &Operation) -> Option<bool> {
    let weight = match name_of(op, "weight") {
        Some(name) => graph.maker_of_kind(name, "const")?.1.attributes.get("val")?,
        None => graph.literal(op, "weight")?,
    };
    Some(match weight.ty.tensor()?.dtype {
        DataType::F32 => true,
        // Matrices of language models stay in fp16.
        DataType::F16 => op.kind.ends_with("conv") && shape_of(op)?.iter().skip(2).filter(|&&n| n > 1).count() > 1,
        _ => false,
    })
}

/// The product that makes a value which only operation `i` uses.
fn product<'b>(graph: &Graph<'b>, name: &str, i: usize) -> Option<&'b Operation> {
    let (_, op) = graph.maker(name)?;
    let fits = matches!(op.kind.as_str(), "conv" | "linear" | "engine.conv" | "engine.linear");
    let open = !op.inputs.contains_key("activation") && op.outputs.len() == 1;
    let floats = graph.declared(name)?.dtype.is_float();
    (fits && open && floats && graph.only_user(name)?.0 == i && is_packed(graph, op)?).then_some(op)
}

fn text<'b>(graph: &Graph<'b>, op: &'b Operation, parameter: &str) -> Option<&'b str> {
    match &graph.literal(op, parameter)?.data {
        ValueData::Tensor(TensorData::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    }
}

/// The name of an activation and its parameters.
fn activation<'b>(graph: &Graph<'b>, op: &'b Operation) -> Option<(&'static str, Vec<(&'static str, f64)>)> {
    let number = |name: &str| graph.numbers(op, name)?.first().copied();
    Some(match op.kind.as_str() {
        "relu" => ("clip", vec![("low", 0.0)]),
        "relu6" => ("clip", vec![("low", 0.0), ("high", 6.0)]),
        "clip" => ("clip", vec![("low", number("alpha")?), ("high", number("beta")?)]),
        "gelu" if !op.inputs.contains_key("mode") || text(graph, op, "mode")? == "EXACT" => ("gelu", Vec::new()),
        "silu" => ("silu", Vec::new()),
        "sigmoid" => ("sigmoid", Vec::new()),
        "sigmoid_hard" => {
            let (slope, offset) = (graph.number_or(op, "alpha", 0.2)?, graph.number_or(op, "beta", 0.5)?);
            ("hard_sigmoid", vec![("slope", slope), ("offset", offset)])
        }
        "engine.hard_swish" => {
            let mut parameters = vec![("slope", number("slope")?), ("offset", number("offset")?)];
            parameters.extend(number("threshold").map(|threshold| ("threshold", threshold)));
            ("hard_swish", parameters)
        }
        _ => return None,
    })
}

/// The product with another input, as an operation that makes what `op` makes.
fn extended(product: &Operation, op: &Operation) -> Operation {
    let kind = product.kind.strip_prefix("engine.").unwrap_or(&product.kind);
    Operation { kind: format!("engine.{kind}"), outputs: op.outputs.clone(), ..product.clone() }
}

fn matched(graph: &Graph<'_>, i: usize) -> Option<Operation> {
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

pub(super) fn run(function: &mut Function) -> usize {
    let mut count = 0;
    // An activation after a residual is found when the residual belongs to the product.
    loop {
        let changed = replace(function, matched);
        if changed == 0 {
            return count;
        }
        count += changed;
        // The products that were extended, lest they count as users of their inputs.
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
