//! Recognises the RMS norm that converters for the Neural Engine write as a layer norm: concat(x, −x) has mean zero and
//! variance mean(x²), so the first half of its layer norm is x / √(mean(x²) + ε). With an infinity, the layer norm is
//! NaN in the whole row because its mean is; here only the infinity becomes NaN, and the others zero.

pub(super) mod op;

use coreml_format::program::{Argument, Binding, Function, Operation};

use crate::graph::{Graph, name_of, replace, shape_of};
use crate::pass::Pass;
use op::RMS_NORM;

pub(super) const PASS: Pass = Pass { name: "rms_norm", after: &[], ops: &[RMS_NORM], run };

/// The replacement for `op`, if it is the slice of the first half.
fn try_match(graph: &Graph<'_>, op: &Operation) -> Option<Operation> {
    if op.kind != "slice_by_index" {
        return None;
    }
    let (_, norm) = graph.producer_of_kind(name_of(op, "x")?, "layer_norm")?;
    let (_, concat) = graph.producer_of_kind(name_of(norm, "x")?, "concat")?;
    let shape = shape_of(op)?;
    let (rank, half) = (shape.len(), *shape.last()?);
    let whole = shape_of(concat)?;
    let fits = whole.len() == rank && whole[rank - 1] == 2 * half && whole[..rank - 1] == shape[..rank - 1];
    let starts = graph.numbers(op, "begin")?.iter().all(|&b| b == 0.0);
    let steps = !op.inputs.contains_key("stride") || graph.numbers(op, "stride")?.iter().all(|&s| s == 1.0);
    let squeezes = op.inputs.contains_key("squeeze_mask") && graph.numbers(op, "squeeze_mask")?.contains(&1.0);
    let axes = graph.numbers(norm, "axes")?;
    let last = |a: f64| a == -1.0 || a == (rank - 1) as f64;
    let plain = !norm.inputs.contains_key("gamma") && !norm.inputs.contains_key("beta");
    if !fits || !starts || !steps || squeezes || !plain || axes.len() != 1 || !last(axes[0]) {
        return None;
    }
    if graph.flag(concat, "interleave", false)? || !last(*graph.numbers(concat, "axis")?.first()?) {
        return None;
    }
    let [Binding::Name(x), Binding::Name(negated)] = concat.inputs.get("values")?.bindings() else { return None };
    let (_, mul) = graph.producer_of_kind(negated, "mul")?;
    let minus_one = |p: &str| graph.numbers(mul, p).is_some_and(|v| v == [-1.0]);
    let negates = (name_of(mul, "x") == Some(x) && minus_one("y")) || (name_of(mul, "y") == Some(x) && minus_one("x"));
    let own = graph.declared(x).filter(|ty| ty.dtype.is_float())?.fixed_shape()?;
    if !negates || own != shape {
        return None;
    }
    let mut new = op.clone();
    new.kind = RMS_NORM.name.to_owned();
    new.inputs.clear();
    new.inputs.insert("x".to_owned(), Argument::One(Binding::Name(x.clone())));
    if let Some(epsilon) = norm.inputs.get("epsilon") {
        new.inputs.insert("epsilon".to_owned(), epsilon.clone());
    }
    Some(new)
}

fn run(function: &mut Function) -> usize {
    replace(function, |graph, i| try_match(graph, graph.op(i)))
}
