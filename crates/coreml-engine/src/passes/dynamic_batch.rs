//! Opens one dimension of a function's inputs, such as the tokens of a batch, until prediction.
//!
//! Converters fix the number of rows of a function even if rows are independent. This pass propagates the dimension
//! through the function: if every operation is independent along it, its declared extents are removed and the function
//! computes as many rows as it is given. States keep their extents; an update writes only the given rows.

use std::collections::HashMap;

use coreml_format::program::{Dim, Function, ValueType};

use crate::batch::{BatchDim, BatchRule};
use crate::graph::Graph;

/// Opens a dimension, given by the inputs that have it and its axis in their shapes. `rule` returns the batch rule of
/// an operation by name.
///
/// # Errors
/// A message saying why the function needs the fixed extent; the function is then unchanged.
pub(crate) fn open(
    function: &mut Function,
    inputs: &[(String, usize)],
    rule: impl Fn(&str) -> Option<BatchRule>,
) -> Result<(), String> {
    if inputs.is_empty() {
        return Ok(());
    }
    let mut types = HashMap::new();
    for input in &function.inputs {
        types.insert(input.name.as_str(), &input.ty);
    }
    let mut batch = BatchDim { graph: Graph::new(function), types, extent: 0, axes: HashMap::new() };
    for (name, axis) in inputs {
        let ty = batch.types.get_key_value(name.as_str()).ok_or_else(|| format!("there is no input `{name}`"))?;
        let extent = ty.1.tensor().and_then(|t| t.shape.get(*axis)).and_then(|d| d.fixed());
        // A dimension of extent one is indistinguishable from a broadcast one.
        let extent = extent.filter(|&n| n > 1 && (n == batch.extent || batch.extent == 0));
        batch.extent = extent.ok_or_else(|| format!("dimension {axis} of `{name}` is not that of several rows"))?;
        batch.axes.insert(*ty.0, *axis);
    }
    let mut changed = Vec::new();
    for (i, op) in function.block.operations.iter().enumerate() {
        let (axis, parameters) =
            batch.follow(op, rule(&op.kind)).map_err(|why| format!("`{}` ({}): {why}", op.name, op.kind))?;
        if let Some(axis) = axis {
            for output in &op.outputs {
                let declared = output.ty.tensor().and_then(|t| t.shape.get(axis)?.fixed());
                if declared != Some(batch.extent) {
                    return Err(format!("`{}` ({}): its result is not declared so", op.name, op.kind));
                }
                batch.axes.insert(&output.name, axis);
            }
        }
        if axis.is_some() || !parameters.is_empty() {
            changed.push((i, axis, parameters));
        }
    }
    let opened: Vec<(usize, usize)> =
        function.inputs.iter().enumerate().filter_map(|(i, input)| Some((i, *batch.axes.get(&*input.name)?))).collect();
    for (i, axis) in opened {
        open_dimension(&mut function.inputs[i].ty, axis);
    }
    for (i, axis, parameters) in changed {
        let op = &mut function.block.operations[i];
        op.inputs.extend(parameters);
        if let Some(axis) = axis {
            op.outputs.iter_mut().for_each(|output| open_dimension(&mut output.ty, axis));
        }
    }
    Ok(())
}

fn open_dimension(ty: &mut ValueType, axis: usize) {
    if let ValueType::Tensor(tensor) = ty
        && let Some(dim) = tensor.shape.get_mut(axis)
    {
        *dim = Dim::Unknown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use coreml_format::mil_text;

    fn open(function: &mut Function, inputs: &[(String, usize)]) -> Result<(), String> {
        super::open(function, inputs, |name| Backend::cpu().batch(name))
    }

    /// A function with four rows of `x` and `p`, and this body.
    fn function(body: &str, result: &str) -> Function {
        let text = format!(
            "program(1.3) {{ func main<ios18>(tensor<fp32, [1, 4, 6]> x, tensor<int32, [4]> p, tensor<fp32, [6]> c) {{
                {body}
             }} -> ({result}); }}"
        );
        mil_text::parse(&text).expect("it parses").functions.swap_remove("main").expect("main")
    }

    fn rows() -> Vec<(String, usize)> {
        vec![("x".to_owned(), 1), ("p".to_owned(), 0)]
    }

    /// Axis of the dimension in each result.
    fn opened(body: &str, result: &str) -> Result<Vec<Option<usize>>, String> {
        let mut function = function(body, result);
        let before = function.clone();
        if let Err(why) = open(&mut function, &rows()) {
            assert_eq!(function, before, "unchanged");
            return Err(why);
        }
        let place = |ty: &ValueType| ty.tensor()?.shape.iter().position(|d| *d == Dim::Unknown);
        assert_eq!(function.inputs.iter().map(|i| place(&i.ty)).collect::<Vec<_>>(), [Some(1), Some(0), None]);
        let ops = function.block.operations.iter().filter(|op| op.kind != "const");
        Ok(ops.flat_map(|op| &op.outputs).map(|o| place(&o.ty)).collect())
    }

    #[test]
    fn the_dimension_is_found_again_after_each_operation() {
        let body = "
            tensor<fp32, [1, 4, 6]> a = add(x = x, y = c);
            tensor<fp32, [1, 6, 4]> b = transpose(x = a, perm = tensor<int32, [3]>([0, -1, 1]));
            tensor<fp32, [2, 3, 4]> d = reshape(x = b, shape = tensor<int32, [3]>([2, 3, 4]));
            tensor<fp32, [2, 1, 3, 4]> e = expand_dims(x = d, axes = tensor<int32, [1]>([1]));
            tensor<fp32, [2, 3, 4]> g = squeeze(x = e, axes = tensor<int32, [1]>([-3]));
            tensor<fp32, [2, 6, 4]> h = concat(values = (g, g), axis = int32(1), interleave = bool(false));
            tensor<fp32, [6, 4]> i = slice_by_index(x = h, begin = tensor<int32, [3]>([1, 0, 0]), end = tensor<int32, [3]>([2, 6, 4]), squeeze_mask = tensor<bool, [3]>([true, false, false]));
            tensor<fp32, [6]> j = slice_by_index(x = i, begin = tensor<int32, [2]>([0, 0]), end = tensor<int32, [2]>([6, 1]), squeeze_mask = tensor<bool, [2]>([false, true]));
            tensor<fp32, [4, 3]> k = gather(x = tensor<fp32, [2, 3]>([[1, 2, 3], [4, 5, 6]]), indices = p, axis = int32(0));
            tensor<fp32, [4, 3]> l = softmax(x = k, axis = int32(-1));";
        let places = [1, 2, 2, 3, 2, 2, 1].map(Some).into_iter().chain([None, Some(0), Some(0)]).collect::<Vec<_>>();
        assert_eq!(opened(body, "j, l"), Ok(places));
    }

    #[test]
    fn what_needs_the_extent_or_joins_rows_is_refused_by_name() {
        let refused = |body: &str, words: &[&str]| {
            let why = opened(body, "y").expect_err("it can't be left open");
            assert!(words.iter().all(|w| why.contains(w)), "{why}");
        };
        refused("tensor<fp32, [1, 4, 6]> y = softmax(x = x, axis = int32(1));", &["y", "softmax", "along"]);
        refused(
            "tensor<fp32, [1, 24]> y = reshape(x = x, shape = tensor<int32, [2]>([1, 24]));",
            &["reshape", "joined"],
        );
        refused("tensor<fp32, [1, 2, 2, 6]> y = reshape(x = x, shape = tensor<int32, [4]>([1, 2, 2, 6]));", &["split"]);
        refused(
            "tensor<fp32, [1, 8, 6]> y = concat(values = (x, x), axis = int32(1), interleave = bool(false));",
            &["joins"],
        );
        refused(
            "tensor<fp32, [1, 1, 6]> y = slice_by_index(x = x, begin = tensor<int32, [3]>([0, 3, 0]), end = tensor<int32, [3]>([1, 4, 6]));",
            &["some of the rows"],
        );
        refused(
            "tensor<fp32, [1, 3, 6]> y = slice_by_index(x = x, begin = tensor<int32, [3]>([0, 0, 0]), end = tensor<int32, [3]>([1, 3, 6]));",
            &["some of the rows"],
        );
        refused(
            "tensor<fp32, [1, 4, 6]> y = cumsum(x = x, axis = int32(1), exclusive = bool(false), reverse = bool(false));",
            &["cumsum", "not known"],
        );
        refused(
            "tensor<fp32, [1, 4, 3, 2]> y = reshape(x = x, shape = tensor<int32, [4]>([1, 4, 2, 3]));",
            &["differ"],
        );
        let constant = "tensor<fp32, [4, 1]>([[1], [2], [3], [4]])";
        refused(&format!("tensor<fp32, [1, 4, 6]> y = mul(x = x, y = {constant});"), &["extent of its own"]);
        refused(
            "tensor<int32, [4, 4]> q = mul(x = p, y = tensor<int32, [4, 1]>([[1], [2], [3], [4]])); tensor<fp32, [1, 4, 4]> z = matmul(x = x, y = x, transpose_x = bool(false), transpose_y = bool(true)); tensor<fp32, [1, 4, 4]> y = relu(x = z);",
            &["matmul"],
        );
    }

    #[test]
    fn an_extent_of_an_empty_value_is_not_inferred() {
        let text = "program(1.3) { func main<ios18>(tensor<fp32, [0, 3]> x) {
                tensor<fp32, [0, 1, 3]> y = reshape(x = x, shape = tensor<int32, [3]>([0, 1, 3]));
             } -> (y); }";
        let mut function = mil_text::parse(text).expect("it parses").functions.swap_remove("main").expect("main");
        let why = open(&mut function, &[("x".to_owned(), 1)]).expect_err("it can't be left open");
        assert!(why.contains("without elements"), "{why}");
    }

    #[test]
    fn rows_of_an_update_are_found_from_the_last_dimension() {
        let opened = |squeezed: &str| {
            let text = format!(
                "program(1.3) {{ func main<ios18>(tensor<fp16, [3, 4, 2]> u, state<tensor<fp16, [3, 4, 5, 2]>> s) {{
                    tensor<fp16, [3, 4, 5, 2]> r = read_state(input = s);
                    tensor<fp16, [3, 4, 5, 2]> c = slice_update(x = r, update = u, begin = tensor<int32, [4]>([0, 0, 0, 0]),
                        end = tensor<int32, [4]>([3, 4, 4, 2]), squeeze_mask = tensor<bool, [4]>([{squeezed}]));
                    write_state(input = s, data = c);
                    tensor<fp16, [3, 4, 5, 2]> y = read_state(input = s);
                 }} -> (y); }}"
            );
            let mut function = mil_text::parse(&text).expect("it parses").functions.swap_remove("main").expect("main");
            super::super::state_access::run(&mut function);
            assert!(function.block.operations.iter().any(|op| op.kind == "engine.state_update"));
            open(&mut function, &[("u".to_owned(), 1)])
        };
        assert_eq!(opened("true, false, false, false"), Ok(()));
        let why = opened("false, false, false, true").expect_err("rows of another dimension");
        assert!(why.contains("after the rows"), "{why}");
    }

    #[test]
    fn rows_are_several_and_of_inputs_that_exist() {
        let mut function = function("tensor<fp32, [1, 4, 6]> y = relu(x = x);", "y");
        for (name, axis, word) in [("z", 0, "no input"), ("x", 0, "dimension 0"), ("x", 7, "dimension 7")] {
            let why = open(&mut function, &[(name.to_owned(), axis)]).expect_err("no rows");
            assert!(why.contains(word), "{why}");
        }
        // Different extents are not the same dimension.
        assert!(open(&mut function, &[("x".to_owned(), 1), ("x".to_owned(), 2)]).is_err());
    }
}
