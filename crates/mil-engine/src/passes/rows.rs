//! One dimension of a function's inputs, such as the tokens of a batch, left open until a prediction.
//!
//! A converter fixes how many rows a function takes, although no row needs another one. Here the dimension is followed
//! through the function: where every operation treats it as one that is merely repeated, the extents that the program states
//! for it are taken back, and the function computes as many rows as it is given. A state keeps the extents that it
//! has; an update writes the rows that there are.

use std::collections::HashMap;

use coreml_format::program::{Argument, Binding, Dim, Function, Operation, Value, ValueType};

use super::graph::{Graph, name_of, names};
use crate::ops::family;

/// Leaves a dimension open, named by the inputs that have it and its place in their shapes.
///
/// # Errors
/// In words, why the function can't do without the extent; it is unchanged then.
pub(crate) fn open(function: &mut Function, inputs: &[(String, usize)]) -> Result<(), String> {
    if inputs.is_empty() {
        return Ok(());
    }
    let mut types = HashMap::new();
    for input in &function.inputs {
        types.insert(input.name.as_str(), &input.ty);
    }
    let mut follow = Follow { graph: Graph::new(function), types, extent: 0, axes: HashMap::new() };
    for (name, axis) in inputs {
        let ty = follow.types.get_key_value(name.as_str()).ok_or_else(|| format!("there is no input `{name}`"))?;
        let extent = ty.1.tensor().and_then(|t| t.shape.get(*axis)).and_then(|d| d.fixed());
        // An extent of one can't be told from a dimension that is there for its own sake.
        let extent = extent.filter(|&n| n > 1 && (n == follow.extent || follow.extent == 0));
        follow.extent = extent.ok_or_else(|| format!("dimension {axis} of `{name}` is not that of several rows"))?;
        follow.axes.insert(*ty.0, *axis);
    }
    let mut changed = Vec::new();
    for (i, op) in function.block.operations.iter().enumerate() {
        let (axis, parameters) = follow.operation(op).map_err(|why| format!("`{}` ({}): {why}", op.name, op.kind))?;
        if let Some(axis) = axis {
            for output in &op.outputs {
                let declared = output.ty.tensor().and_then(|t| t.shape.get(axis)?.fixed());
                if declared != Some(follow.extent) {
                    return Err(format!("`{}` ({}): its result is not declared so", op.name, op.kind));
                }
                follow.axes.insert(&output.name, axis);
            }
        }
        if axis.is_some() || !parameters.is_empty() {
            changed.push((i, axis, parameters));
        }
    }
    let opened: Vec<(usize, usize)> = function
        .inputs
        .iter()
        .enumerate()
        .filter_map(|(i, input)| Some((i, *follow.axes.get(&*input.name)?)))
        .collect();
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

/// Where the dimension is in an operation's results, and parameters that no longer state its extent.
type Followed = (Option<usize>, Vec<(String, Argument)>);

/// The dimension on its way through a function.
struct Follow<'b> {
    graph: Graph<'b>,
    /// Of the function's inputs.
    types: HashMap<&'b str, &'b ValueType>,
    extent: usize,
    /// Its place in the shapes of the values that have it.
    axes: HashMap<&'b str, usize>,
}

/// A value that has the dimension.
struct Source {
    axis: usize,
    shape: Vec<usize>,
}

impl Source {
    /// Its axis, which an operation that works along others leaves where it is.
    fn beside(&self, others: &[usize]) -> Result<usize, String> {
        if others.contains(&self.axis) { Err("works along the dimension".to_owned()) } else { Ok(self.axis) }
    }
}

fn literal(value: Value) -> Argument {
    Argument::One(Binding::Value(value))
}

impl<'b> Follow<'b> {
    fn shape(&self, binding: &Binding) -> Option<Vec<usize>> {
        match binding {
            Binding::Value(value) => value.ty.tensor()?.fixed_shape(),
            Binding::Name(name) => match self.types.get(name.as_str()) {
                Some(ty) => ty.tensor()?.fixed_shape(),
                None => {
                    let (_, op) = self.graph.maker(name)?;
                    op.outputs.iter().find(|o| o.name == *name)?.ty.tensor()?.fixed_shape()
                }
            },
        }
    }

    fn axis(&self, binding: &Binding) -> Option<usize> {
        match binding {
            Binding::Name(name) => self.axes.get(name.as_str()).copied(),
            Binding::Value(_) => None,
        }
    }

    /// A parameter that has the dimension.
    fn source(&self, op: &Operation, parameter: &str) -> Result<Source, String> {
        let found = op.inputs.get(parameter).and_then(|argument| match argument {
            Argument::One(binding) => Some(Source { axis: self.axis(binding)?, shape: self.shape(binding)? }),
            Argument::Many(_) => None,
        });
        found.ok_or_else(|| format!("the dimension is not one of `{parameter}`"))
    }

    /// Integers of a parameter that is constant.
    fn ints(&self, op: &'b Operation, parameter: &str) -> Result<Vec<i64>, String> {
        let values = self.graph.numbers(op, parameter).ok_or_else(|| format!("`{parameter}` is not constant"))?;
        Ok(values.into_iter().map(|v| v as i64).collect())
    }

    /// The same; empty when it is left out.
    fn ints_or_none(&self, op: &'b Operation, parameter: &str) -> Result<Vec<i64>, String> {
        if op.inputs.contains_key(parameter) { self.ints(op, parameter) } else { Ok(Vec::new()) }
    }

    /// Dimensions that a parameter names.
    fn dims(&self, op: &'b Operation, parameter: &str, rank: usize) -> Result<Vec<usize>, String> {
        let one = |v: i64| usize::try_from(if v < 0 { v + rank as i64 } else { v }).ok().filter(|&d| d < rank);
        let dims = self.ints(op, parameter)?.into_iter().map(one).collect::<Option<Vec<usize>>>();
        dims.ok_or_else(|| format!("`{parameter}` names no dimension"))
    }

    /// Whether only these parameters have the dimension.
    fn only(&self, op: &Operation, parameters: &[&str]) -> Result<(), String> {
        let mut others = op.inputs.iter().filter(|(name, _)| !parameters.contains(&name.as_str()));
        match others.find(|(_, argument)| argument.bindings().iter().any(|b| self.axis(b).is_some())) {
            Some((name, _)) => Err(format!("the dimension is one of `{name}`")),
            None => Ok(()),
        }
    }

    fn operation(&self, op: &'b Operation) -> Result<Followed, String> {
        if !names(op).into_iter().any(|name| self.axes.contains_key(name)) {
            return Ok((None, Vec::new()));
        }
        if !op.blocks.is_empty() {
            return Err("holds blocks".to_owned());
        }
        let stays = |axis: Result<usize, String>| Ok((Some(axis?), Vec::new()));
        let kind = op.kind.as_str();
        match kind {
            "identity" | "select" | "engine.hard_swish" | "engine.silu_mul" => return stays(self.elementwise(op)),
            "softmax" | "prelu" | "softplus_parametric" => {}
            _ if matches!(family(kind), Some("activation" | "elementwise_unary" | "elementwise_binary")) => {
                return stays(self.elementwise(op));
            }
            _ => {}
        }
        match kind {
            "engine.rotary" => {
                let axis = self.elementwise(op)?;
                let last = self.source(op, "x")?.shape.len() - 1;
                if axis == last { Err("works along the dimension".to_owned()) } else { stays(Ok(axis)) }
            }
            "concat" => stays(self.concat(op)),
            "engine.attention" => self.attention(op),
            "engine.state_update" => self.state_update(op),
            "gather" => stays(self.gather(op)),
            "linear" | "engine.linear" | "conv" | "engine.conv" | "engine.products" => stays(self.product(op)),
            _ => {
                self.only(op, &["x"])?;
                let x = self.source(op, "x")?;
                let rank = x.shape.len();
                match kind {
                    "engine.rms_norm" => stays(x.beside(&[rank - 1])),
                    "layer_norm" => stays(x.beside(&self.dims(op, "axes", rank)?)),
                    "softmax" if !op.inputs.contains_key("axis") => stays(x.beside(&[rank - 1])),
                    "softmax" => stays(x.beside(&self.dims(op, "axis", rank)?)),
                    "transpose" => {
                        let perm = self.dims(op, "perm", rank)?;
                        stays(perm.iter().position(|&d| d == x.axis).ok_or_else(|| "`perm` leaves it out".to_owned()))
                    }
                    "expand_dims" => {
                        let result = rank + self.ints(op, "axes")?.len();
                        let axes = self.dims(op, "axes", result)?;
                        let mut places = (0..result).filter(|d| !axes.contains(d));
                        stays(places.nth(x.axis).ok_or_else(|| "`axes` repeat".to_owned()))
                    }
                    "squeeze" => {
                        let axes = self.dims(op, "axes", rank)?;
                        let axis = x.beside(&axes)?;
                        stays(Ok(axis - axes.iter().filter(|&&d| d < axis).count()))
                    }
                    "reshape" => self.reshape(op, &x),
                    "slice_by_index" => self.slice(op, &x),
                    _ => Err("is not known to repeat what it does along a dimension".to_owned()),
                }
            }
        }
    }

    /// Shapes are aligned at their last dimensions; what lacks the dimension may have an extent of one in its place.
    fn elementwise(&self, op: &Operation) -> Result<usize, String> {
        let mut operands = Vec::new();
        for (name, argument) in &op.inputs {
            let Argument::One(binding) = argument else { return Err(format!("`{name}` are several values")) };
            let shape = self.shape(binding).ok_or_else(|| format!("the shape of `{name}` is not known"))?;
            operands.push((shape, self.axis(binding)));
        }
        let rank = operands.iter().map(|(shape, _)| shape.len()).max().unwrap_or(0);
        let mut places = operands.iter().filter_map(|(shape, axis)| Some((*axis)? + rank - shape.len()));
        let place = places.next().ok_or("no operand has the dimension")?;
        if places.any(|other| other != place) {
            return Err("the dimension has several places".to_owned());
        }
        let repeated = |shape: &[usize]| (place + shape.len()).checked_sub(rank).is_none_or(|d| shape[d] == 1);
        let fits = operands.iter().all(|(shape, axis)| axis.is_some() || repeated(shape));
        if fits { Ok(place) } else { Err("an operand has an extent of its own in its place".to_owned()) }
    }

    fn concat(&self, op: &'b Operation) -> Result<usize, String> {
        self.only(op, &["values"])?;
        let values = op.inputs.get("values").map_or(&[][..], Argument::bindings);
        let rank = values.first().and_then(|v| self.shape(v)).ok_or("a shape is not known")?.len();
        let axes = values.iter().map(|v| self.axis(v)).collect::<Option<Vec<usize>>>();
        let axes = axes.ok_or("a value lacks the dimension")?;
        let along = if op.inputs.contains_key("axis") { self.dims(op, "axis", rank)? } else { vec![0] };
        let axis = axes[0];
        if axes.iter().any(|&a| a != axis) || along.contains(&axis) {
            return Err("joins along the dimension".to_owned());
        }
        Ok(axis)
    }

    /// A linear layer, or convolutions over single positions.
    fn product(&self, op: &'b Operation) -> Result<usize, String> {
        self.only(op, &["x", "residual"])?;
        let x = self.source(op, "x")?;
        let rank = x.shape.len();
        if op.inputs.contains_key("residual") && self.source(op, "residual")?.axis != x.axis {
            return Err("a residual has the dimension elsewhere".to_owned());
        }
        let channels = if op.kind.ends_with("products") { self.graph.flag(op, "channels_first", false) } else { None };
        if !op.kind.ends_with("conv") && channels != Some(true) {
            return x.beside(&[rank - 1]);
        }
        // Joined convolutions are of single positions.
        if op.kind.ends_with("conv") {
            let weight = op.inputs.get("weight").and_then(|w| self.shape(w.bindings().first()?));
            let weight = weight.ok_or("the shape of `weight` is not known")?;
            let point = weight.get(x.axis) == Some(&1);
            let steps = self.ints_or_none(op, "strides")?.iter().all(|&s| s == 1);
            if !point || !steps || self.ints_or_none(op, "pad")?.iter().any(|&p| p != 0) {
                return Err("works along the dimension".to_owned());
            }
        }
        x.beside(&[1])
    }

    fn gather(&self, op: &'b Operation) -> Result<usize, String> {
        self.only(op, &["indices"])?;
        let indices = self.source(op, "indices")?;
        let table = op.inputs.get("x").and_then(|x| self.shape(x.bindings().first()?));
        let rank = table.ok_or("the shape of `x` is not known")?.len();
        if self.ints_or_none(op, "batch_dims")?.iter().any(|&n| n != 0) {
            return Err("has batches".to_owned());
        }
        let axis = if op.inputs.contains_key("axis") { self.dims(op, "axis", rank)? } else { vec![0] };
        Ok(axis.first().ok_or("`axis` is empty")? + indices.axis)
    }

    fn reshape(&self, op: &'b Operation, x: &Source) -> Result<Followed, String> {
        let result = op.outputs.first().and_then(|o| o.ty.tensor()?.fixed_shape()).ok_or("its shape is not known")?;
        // What the operation asks for counts, not what the file declares.
        let asked = self.ints(op, "shape")?;
        if result.contains(&0) {
            return Err("nothing tells an extent of a value without elements".to_owned());
        }
        let same = |(&n, &declared): (&i64, &usize)| n == -1 || usize::try_from(n) == Ok(declared);
        if asked.len() != result.len() || !asked.iter().zip(&result).all(same) {
            return Err("`shape` and the declared result differ".to_owned());
        }
        // The dimension is whole in the result where as many elements lie before it and the extent is the same.
        let before: usize = x.shape[..x.axis].iter().product();
        let fits = |&d: &usize| result[d] == self.extent && result[..d].iter().product::<usize>() == before;
        let axis = (0..result.len()).find(fits).ok_or("the dimension is joined with others or split")?;
        let shape: Vec<i32> = (0..result.len()).map(|d| if d == axis { -1 } else { result[d] as i32 }).collect();
        Ok((Some(axis), vec![("shape".to_owned(), literal(Value::ints(&shape)))]))
    }

    /// All rows, or the first one.
    fn slice(&self, op: &'b Operation, x: &Source) -> Result<Followed, String> {
        let (begin, end) = (self.ints(op, "begin")?, self.ints(op, "end")?);
        let rank = x.shape.len();
        let flags = |name: &str| -> Result<Vec<bool>, String> {
            let mut flags: Vec<bool> = self.ints_or_none(op, name)?.into_iter().map(|v| v != 0).collect();
            flags.resize(rank, false);
            Ok(flags)
        };
        let (begins, mut ends, squeezed) = (flags("begin_mask")?, flags("end_mask")?, flags("squeeze_mask")?);
        if begin.len() != rank || end.len() != rank {
            return Err("`begin` or `end` is of another rank".to_owned());
        }
        let step = self.ints_or_none(op, "stride")?.get(x.axis).copied().unwrap_or(1);
        let first = begins[x.axis] || begin[x.axis] == 0;
        if !first || step != 1 {
            return Err("takes some of the rows".to_owned());
        }
        if squeezed[x.axis] || (!ends[x.axis] && end[x.axis] == 1) {
            return Ok((None, Vec::new()));
        }
        if !ends[x.axis] && usize::try_from(end[x.axis]) != Ok(self.extent) {
            return Err("takes some of the rows".to_owned());
        }
        ends[x.axis] = true;
        let axis = x.axis - squeezed[..x.axis].iter().filter(|&&s| s).count();
        Ok((Some(axis), vec![("end_mask".to_owned(), literal(Value::bools(&ends)))]))
    }

    /// Queries and rows of the mask; keys and values are in the state.
    fn attention(&self, op: &'b Operation) -> Result<Followed, String> {
        self.only(op, &["query", "mask"])?;
        let (query, mask) = (self.source(op, "query")?, self.source(op, "mask")?);
        let rank = op.outputs.first().and_then(|o| o.ty.tensor()).map_or(0, |t| t.shape.len());
        if (query.axis, query.shape.len(), mask.axis, mask.shape.len()) != (2, 4, 2, 4) || rank < 3 {
            return Err("its queries are not the rows".to_owned());
        }
        Ok((Some(rank - 2), Vec::new()))
    }

    /// The update says how many rows it has.
    fn state_update(&self, op: &'b Operation) -> Result<Followed, String> {
        self.only(op, &["update"])?;
        let update = self.source(op, "update")?;
        let state = name_of(op, "input").and_then(|name| self.types.get(name)?.tensor()?.fixed_shape());
        let rank = state.ok_or("the shape of the state is not known")?.len();
        let axis = (update.axis + rank).checked_sub(update.shape.len()).ok_or("the update has more dimensions")?;
        // Dimensions are counted from the last one: those that the update lacks come before the rows.
        let after = self.ints_or_none(op, "squeeze_mask")?.into_iter().skip(axis).any(|v| v != 0);
        if after && update.shape.len() < rank {
            return Err("the update lacks a dimension after the rows".to_owned());
        }
        for name in ["begin_mask", "end_mask", "squeeze_mask"] {
            if self.ints_or_none(op, name)?.get(axis).is_some_and(|&v| v != 0) {
                return Err(format!("`{name}` is set for the rows"));
            }
        }
        Ok((None, vec![("rows".to_owned(), literal(Value::int(axis as i32)))]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::mil_text;

    /// A function of four rows of `x`, and of `p`, with this body.
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

    /// Where the results have the dimension.
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
        // Two extents are not one dimension.
        assert!(open(&mut function, &[("x".to_owned(), 1), ("x".to_owned(), 2)]).is_err());
    }
}
