//! Makes one slice of a slice that drops dimensions: `x[i][a .. b]` becomes `x[i, a .. b]`, so that what reads an element of a
//! state takes no more of it.

use coreml_format::program::{Argument, Binding, Function, Operation, Value};

use crate::graph::{Graph, declared_shape, name_of, replace, shape_of};
use crate::pass::Pass;

pub(super) const PASS: Pass = Pass { name: "slice_of_slice", after: &[], ops: &[], run };

/// What a slice takes of a dimension.
#[derive(Clone, Copy)]
struct Part {
    from: usize,
    to: usize,
    extent: usize,
    squeeze: bool,
}

/// Parts of each dimension of `x` that a slice of constant bounds takes, within its extents.
fn parts(graph: &Graph<'_>, op: &Operation) -> Option<Vec<Part>> {
    let shape = declared_shape(graph, name_of(op, "x")?)?;
    let bounds = graph.slice_bounds(op, shape.len())?;
    let part = |d: usize| {
        let (n, squeeze) = (shape[d] as f64, bounds.squeeze_mask[d]);
        let at = |v: f64| if v < 0.0 { v + n } else { v };
        let from = if bounds.begin_mask[d] { 0.0 } else { at(bounds.begin[d]) };
        let to = match (squeeze, bounds.end_mask[d]) {
            (true, _) => from + 1.0,
            (false, true) => n,
            (false, false) => at(bounds.end[d]),
        };
        let inside = 0.0 <= from && from < to && to <= n;
        inside.then_some(Part { from: from as usize, to: to as usize, extent: shape[d], squeeze })
    };
    (0..shape.len()).map(part).collect()
}

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "slice_by_index" {
        return None;
    }
    let before = name_of(op, "x")?;
    let (_, inner) = graph.producer_of_kind(before, "slice_by_index")?;
    let (mut all, outer) = (parts(graph, inner)?, parts(graph, op)?);
    let kept: Vec<usize> = (0..all.len()).filter(|&d| !all[d].squeeze).collect();
    // Declared shapes have to be those of the slices.
    let left: Vec<usize> = kept.iter().map(|&d| all[d].to - all[d].from).collect();
    let result: Vec<usize> = outer.iter().filter(|p| !p.squeeze).map(|p| p.to - p.from).collect();
    if kept.len() == all.len() || shape_of(inner)? != left || shape_of(op)? != result {
        return None;
    }
    graph.only_user(before)?;
    for (&d, part) in kept.iter().zip(&outer) {
        let whole = all[d];
        all[d] = Part { from: whole.from + part.from, to: whole.from + part.to, squeeze: part.squeeze, ..whole };
    }
    let ints = |of: fn(&Part) -> usize| -> Option<Value> {
        let values: Result<Vec<i32>, _> = all.iter().map(|p| i32::try_from(of(p))).collect();
        Some(Value::ints(&values.ok()?))
    };
    let bools = |of: fn(&Part) -> bool| Value::bools(&all.iter().map(of).collect::<Vec<bool>>());
    let mut new = op.clone();
    new.inputs.clear();
    new.inputs.insert("x".to_owned(), inner.inputs.get("x")?.clone());
    let values = [
        ("begin", ints(|p| p.from)?),
        ("end", ints(|p| p.to)?),
        // What goes to the end goes on to do so where an extent is opened.
        ("end_mask", bools(|p| !p.squeeze && p.to == p.extent)),
        ("squeeze_mask", bools(|p| p.squeeze)),
    ];
    for (name, value) in values {
        new.inputs.insert(name.to_owned(), Argument::One(Binding::Value(value)));
    }
    Some(new)
}

fn run(function: &mut Function) -> usize {
    let mut count = 0;
    // Slices of slices of slices: each round takes the inner ones of those that are left.
    for _ in 0..8 {
        let found = replace(function, try_match);
        count += found;
        if found == 0 {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::of;
    use coreml_format::mil_text;

    /// Element 3 of row 1 of `[2, 4]`, and what the first of two slices does to the first dimension.
    fn text(squeeze: bool) -> String {
        let (rank, begin) = if squeeze { ("[4]", "[1]>([3])") } else { ("[1, 4]", "[2]>([0, 3])") };
        let (end, drop) = if squeeze { ("[1]>([4])", "[1]>([true])") } else { ("[2]>([1, 4])", "[2]>([true, true])") };
        format!(
            "tensor<fp32, {rank}> r = slice_by_index(x = x, begin = tensor<int32, [2]>([1, 0]), end = tensor<int32, [2]>([2, 0]), end_mask = tensor<bool, [2]>([false, true]), squeeze_mask = tensor<bool, [2]>([{squeeze}, false]));
             tensor<fp32, []> e = slice_by_index(x = r, begin = tensor<int32, {begin}, end = tensor<int32, {end}, squeeze_mask = tensor<bool, {drop});
             tensor<fp32, [1]> y = reshape(x = e, shape = tensor<int32, [1]>([1]));"
        )
    }

    #[test]
    fn elements_of_rows_are_elements() {
        for (squeeze, expected) in [(true, 1), (false, 0)] {
            let text =
                format!("program(1.3) {{ func main<ios18>(tensor<fp32, [2, 4]> x) {{ {} }} -> (y); }}", text(squeeze));
            let mut program = mil_text::parse(&text).expect("it parses");
            assert_eq!(run(program.functions.get_mut("main").expect("main")), expected);
        }
        assert_eq!(of(&text(true), &[2, 4], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), [7.0]);
    }
}
