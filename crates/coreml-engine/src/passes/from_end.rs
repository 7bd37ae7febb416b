//! Indices that count from the end where they are negative, `select(x ≥ 0, x, x + n)`: what coremltools writes before look-ups
//! (`guard_negative_gather_indices`), in one operation.

mod op;

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, Operation};

use crate::graph::{Graph, name_of, replace};
use crate::pass::Pass;
use op::FROM_END;

pub(super) const PASS: Pass = Pass { name: "from_end", after: &[], ops: &[FROM_END], run };

fn try_match(graph: &Graph<'_>, i: usize) -> Option<Operation> {
    let op = graph.op(i);
    if op.kind != "select" {
        return None;
    }
    let x = name_of(op, "a")?;
    let (_, fine) = graph.producer_of_kind(name_of(op, "cond")?, "greater_equal")?;
    let (_, moved) = graph.producer_of_kind(name_of(op, "b")?, "add")?;
    let ty = graph.declared(x)?;
    let same = [fine, moved].iter().all(|op| name_of(op, "x") == Some(x)) && graph.number(fine, "y")? == 0.0;
    // The number of rows may not broadcast what it is added to.
    let shaped = op.outputs.first()?.ty.tensor().is_some_and(|to| to.shape == ty.shape);
    if !same || !shaped || ty.dtype != DataType::I32 || graph.number(moved, "y")? < 0.0 {
        return None;
    }
    let rows = graph.literal(moved, "y")?.clone();
    let mut new = op.clone();
    new.kind = FROM_END.name.to_owned();
    new.inputs.clear();
    new.inputs.insert("x".to_owned(), Argument::One(Binding::Name(x.to_owned())));
    new.inputs.insert("rows".to_owned(), Argument::One(Binding::Value(rows)));
    Some(new)
}

fn run(function: &mut Function) -> usize {
    replace(function, try_match)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::of;
    use coreml_format::mil_text;

    fn text(least: &str, rows: &str, to: &str) -> String {
        format!(
            "program(1.3) {{ func main<ios18>(tensor<int32, [4]> i) {{
                tensor<bool, {to}> c = greater_equal(x = i, y = {least});
                tensor<int32, {to}> b = add(x = i, y = {rows});
                tensor<int32, {to}> y = select(cond = c, a = i, b = b);
             }} -> (y); }}"
        )
    }

    #[test]
    fn only_the_exact_idiom_is_replaced() {
        let recognised = |least: &str, rows: &str, to: &str| {
            let mut program = mil_text::parse(&text(least, rows, to)).expect("it parses");
            run(program.functions.get_mut("main").expect("main"))
        };
        assert_eq!(recognised("int32(0)", "int32(7)", "[4]"), 1);
        assert_eq!(recognised("int32(1)", "int32(7)", "[4]"), 0);
        assert_eq!(recognised("int32(0)", "int32(-7)", "[4]"), 0);
        assert_eq!(recognised("int32(0)", "tensor<int32, [1, 1]>([[7]])", "[1, 4]"), 0);
        // A number for each element.
        assert_eq!(recognised("int32(0)", "tensor<int32, [4]>([7, 7, 7, 8])", "[4]"), 0);
        assert_eq!(recognised("tensor<int32, [4]>([0, 1, 0, 0])", "int32(7)", "[4]"), 0);
    }

    #[test]
    fn negative_indices_count_from_the_end() {
        let body = "tensor<int32, [4]> i = cast(x = x, dtype = string(\"int32\"));
            tensor<bool, [4]> c = greater_equal(x = i, y = int32(0));
            tensor<int32, [4]> b = add(x = i, y = int32(7));
            tensor<int32, [4]> n = select(cond = c, a = i, b = b);
            tensor<fp32, [4]> y = cast(x = n, dtype = string(\"fp32\"));";
        assert_eq!(of(body, &[4], &[-7.0, -1.0, 0.0, 6.0]), [0.0, 6.0, 0.0, 6.0]);
    }
}
