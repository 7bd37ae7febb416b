//! Fuses rotary position embeddings with halves: `x · cos + concat(−x[D/2 ..], x[.. D/2]) · sin` along the last
//! dimension, or half by half, `concat(a · cos − b · sin, b · cos + a · sin)` with `a` and `b` the halves of `x`.

mod op;

use coreml_format::program::{Argument, Binding, Function, Operation};

use crate::graph::{Graph, declared_shape, name_of, replace, shape_of};
use crate::pass::Pass;
use op::ROTARY;

pub(super) const PASS: Pass = Pass { name: "rotary", after: &[], ops: &[ROTARY], run };

/// Both orders of a commutative operation's operands.
fn orders(op: &Operation) -> Option<[(&str, &str); 2]> {
    let (x, y) = (name_of(op, "x")?, name_of(op, "y")?);
    Some([(x, y), (y, x)])
}

/// The value sliced by `op` to `from .. to` of the last dimension, complete in all others.
fn last_range<'b>(graph: &Graph<'b>, op: &'b Operation, from: usize, to: usize) -> Option<&'b str> {
    let x = name_of(op, "x")?;
    let shape = declared_shape(graph, x)?;
    let last = shape.len().checked_sub(1)?;
    let bounds = graph.slice_bounds(op, shape.len())?;
    let wanted = |d: usize| if d == last { (from, to) } else { (0, shape[d]) };
    let whole = (0..shape.len()).all(|d| {
        let low = if bounds.begin_mask[d] { 0.0 } else { bounds.begin[d] };
        let high = if bounds.end_mask[d] { shape[d] as f64 } else { bounds.end[d] };
        !bounds.squeeze_mask[d] && low == wanted(d).0 as f64 && high == wanted(d).1 as f64
    });
    (whole && op.kind == "slice_by_index").then_some(x)
}

/// The value whose rotated half, `concat(−x[D/2 ..], x[.. D/2])`, is `name`.
fn rotated<'b>(graph: &Graph<'b>, name: &str) -> Option<&'b str> {
    let (_, concat) = graph.producer_of_kind(name, "concat")?;
    let shape = declared_shape(graph, name)?;
    let (size, axis) = (*shape.last()?, *graph.numbers(concat, "axis")?.first()?);
    let last = axis == -1.0 || axis == shape.len() as f64 - 1.0;
    if !last || size % 2 != 0 || graph.flag(concat, "interleave", false)? {
        return None;
    }
    let Argument::Many(parts) = concat.inputs.get("values")? else { return None };
    let [Binding::Name(first), Binding::Name(second)] = parts.as_slice() else { return None };
    let (_, negated) = graph.producer_of_kind(first, "mul")?;
    let (_, low) = graph.producer(second)?;
    let x = last_range(graph, low, 0, size / 2)?;
    let minus_one = |p: &str| graph.numbers(negated, p).is_some_and(|v| v == [-1.0]);
    let high = if minus_one("y") {
        name_of(negated, "x")?
    } else if minus_one("x") {
        name_of(negated, "y")?
    } else {
        return None;
    };
    let (_, high) = graph.producer(high)?;
    (last_range(graph, high, size / 2, size)? == x).then_some(x)
}

/// The values that two halves are multiplied with, and that of the halves, if `left` and `right` are `a · cos − b · sin` and
/// `b · cos + a · sin`.
fn by_halves<'b>(graph: &Graph<'b>, left: &str, right: &str, size: usize) -> Option<[&'b str; 3]> {
    let product = |name| graph.producer_of_kind(name, "mul").and_then(|(_, op)| orders(op));
    let (_, left) = graph.producer_of_kind(left, "sub")?;
    let (_, right) = graph.producer_of_kind(right, "add")?;
    let half = |name: &str, from, to| last_range(graph, graph.producer(name)?.1, from, to);
    for (a, cos) in product(name_of(left, "x")?)? {
        for (b, sin) in product(name_of(left, "y")?)? {
            let Some(x) = half(a, 0, size / 2) else { continue };
            if half(b, size / 2, size) != Some(x) {
                continue;
            }
            for (plain, turned) in orders(right)? {
                if product(plain)?.contains(&(b, cos)) && product(turned)?.contains(&(a, sin)) {
                    return Some([x, cos, sin]);
                }
            }
        }
    }
    None
}

/// A rotation half by half.
fn halves(graph: &Graph<'_>, op: &Operation) -> Option<Operation> {
    let shape = shape_of(op)?;
    let (size, axis) = (*shape.last()?, *graph.numbers(op, "axis")?.first()?);
    let last = axis == -1.0 || axis == shape.len() as f64 - 1.0;
    let Argument::Many(parts) = op.inputs.get("values")? else { return None };
    let [Binding::Name(left), Binding::Name(right)] = parts.as_slice() else { return None };
    if !last || size % 2 != 0 || graph.flag(op, "interleave", false)? {
        return None;
    }
    let [x, cos, sin] = by_halves(graph, left, right, size)?;
    let table = |name| declared_shape(graph, name).is_some_and(|t| t.last() == Some(&(size / 2)));
    let floats = [x, cos, sin].into_iter().all(|v| graph.declared(v).is_some_and(|ty| ty.dtype.is_float()));
    // A table of one column is that of a head of two, as it is and as a half.
    (floats && size > 2 && declared_shape(graph, x)? == shape && table(cos) && table(sin))
        .then(|| fused(op, x, cos, sin))
}

fn fused(op: &Operation, x: &str, cos: &str, sin: &str) -> Operation {
    let mut new = op.clone();
    new.kind = ROTARY.name.to_owned();
    new.inputs.clear();
    for (name, value) in [("x", x), ("cos", cos), ("sin", sin)] {
        new.inputs.insert(name.to_owned(), Argument::One(Binding::Name(value.to_owned())));
    }
    new
}

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind == "concat" {
        return halves(graph, op);
    }
    if op.kind != "add" {
        return None;
    }
    let shape = shape_of(op)?;
    for (plain, turned) in orders(op)? {
        let product = |name| graph.producer_of_kind(name, "mul").and_then(|(_, op)| orders(op));
        let (Some(plain), Some(turned)) = (product(plain), product(turned)) else { continue };
        for (halves, sin) in turned {
            let Some(x) = rotated(graph, halves) else { continue };
            let Some((_, cos)) = plain.into_iter().find(|(found, _)| *found == x) else { continue };
            // The result has the shape of `x`, so cosines and sines are the broadcast operands.
            let floats = [x, cos, sin].into_iter().all(|v| graph.declared(v).is_some_and(|ty| ty.dtype.is_float()));
            if !floats || declared_shape(graph, x)? != shape {
                continue;
            }
            return Some(fused(op, x, cos, sin));
        }
    }
    None
}

fn run(function: &mut Function) -> usize {
    replace(function, try_match)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreml_format::mil_text;

    /// Number of rewrites of the idiom with these details.
    fn recognised(begin: &str, minus: &str, first: &str) -> usize {
        let text = format!(
            "program(1.3) {{ func main<ios18>(tensor<fp32, [1, 2, 1, 4]> a, tensor<fp32, [1, 1, 1, 4]> c, tensor<fp32, [1, 1, 1, 4]> s) {{
                tensor<fp32, [1, 2, 1, 4]> x = identity(x = a);
                tensor<fp32, [1, 2, 1, 4]> p = mul(x = c, y = x);
                tensor<fp32, [1, 2, 1, 2]> l = slice_by_index(x = x, begin = tensor<int32, [4]>([0, 0, 0, 0]), end = tensor<int32, [4]>([1, 2, 1, 2]));
                tensor<fp32, [1, 2, 1, 2]> h = slice_by_index(x = x, begin = tensor<int32, [4]>([0, 0, 0, {begin}]), end = tensor<int32, [4]>([1, 2, 1, 4]));
                tensor<fp32, [1, 2, 1, 2]> n = mul(x = h, y = fp32({minus}));
                tensor<fp32, [1, 2, 1, 4]> r = concat(values = ({first}), axis = int32(-1), interleave = bool(false));
                tensor<fp32, [1, 2, 1, 4]> q = mul(x = r, y = s);
                tensor<fp32, [1, 2, 1, 4]> y = add(x = q, y = p);
             }} -> (y); }}"
        );
        let mut function = mil_text::parse(&text).expect("it parses").functions.swap_remove("main").expect("main");
        run(&mut function)
    }

    #[test]
    fn only_the_exact_idiom_is_replaced() {
        assert_eq!(recognised("2", "-1", "n, l"), 1);
        assert_eq!(recognised("1", "-1", "n, l"), 0);
        assert_eq!(recognised("2", "-2", "n, l"), 0);
        assert_eq!(recognised("2", "-1", "l, n"), 0);
    }

    /// A rotation half by half with these operands.
    fn halves_of(second: &str, sum: &str) -> String {
        format!(
            "tensor<fp32, [1, 2, 1, 2]> a = slice_by_index(x = x, begin = tensor<int32, [4]>([0, 0, 0, 0]), end = tensor<int32, [4]>([1, 2, 1, 2]));
                tensor<fp32, [1, 2, 1, 2]> b = slice_by_index(x = x, begin = tensor<int32, [4]>([0, 0, 0, 2]), end = tensor<int32, [4]>([1, 2, 1, 4]));
                tensor<fp32, [1, 2, 1, 2]> ac = mul(x = a, y = c);
                tensor<fp32, [1, 2, 1, 2]> bs = mul(x = b, y = t);
                tensor<fp32, [1, 2, 1, 2]> l = sub(x = ac, y = bs);
                tensor<fp32, [1, 2, 1, 2]> bc = mul(x = b, y = {second});
                tensor<fp32, [1, 2, 1, 2]> as = mul(x = t, y = a);
                tensor<fp32, [1, 2, 1, 2]> r = {sum}(x = as, y = bc);
                tensor<fp32, [1, 2, 1, 4]> y = concat(values = (l, r), axis = int32(-1), interleave = bool(false));"
        )
    }

    #[test]
    fn halves_are_replaced_where_they_are_a_rotation() {
        let replaced = |second: &str, sum: &str| {
            let text = format!(
                "program(1.3) {{ func main<ios18>(tensor<fp32, [1, 2, 1, 4]> x, tensor<fp32, [1, 1, 1, 2]> c, tensor<fp32, [1, 1, 1, 2]> t) {{
                {} }} -> (y); }}",
                halves_of(second, sum)
            );
            run(mil_text::parse(&text).expect("it parses").functions.get_mut("main").expect("main"))
        };
        assert_eq!(replaced("c", "add"), 1);
        assert_eq!(replaced("t", "add"), 0);
        assert_eq!(replaced("c", "sub"), 0);
    }

    #[test]
    fn halves_of_tables_are_those_of_both_halves() {
        let x: [f32; 8] = [1.0, 2.0, 3.0, 4.0, 0.0, -2.0, 4.0, 8.0];
        let given =
            [("x", &[1, 2, 1, 4][..], &x[..]), ("c", &[1, 1, 1, 2], &[0.5, 0.25]), ("t", &[1, 1, 1, 2], &[0.1, 0.2])];
        let (_, found) = crate::testing::run(&halves_of("c", "add"), &given).expect("a rotation");
        crate::testing::near(&found, &[0.2, -0.3, 1.6, 1.4, -0.4, -2.1, 2.0, 1.6]);
    }
}
