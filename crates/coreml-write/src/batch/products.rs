//! Products, attention, recurrent layers.

use coreml_format::program::{Argument, Operation};

use super::rules::Rule;
use super::{At, Extent, Follow, Places, stays};

pub(super) fn rule(kind: &str) -> Option<Rule> {
    Some(match kind {
        "linear" => linear,
        "matmul" => matmul,
        "conv" => conv,
        "conv_transpose" => conv_transpose,
        "scaled_dot_product_attention" => attention,
        "lstm" | "gru" | "rnn" => recurrent,
        _ => return None,
    })
}

fn linear(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    let (at, rank) = f.place(op, "x")?;
    if at.axis + 1 == rank { Err("it works along the batch".to_owned()) } else { stays(at) }
}

/// Rows of the left factor, columns of the right one, or matrices that are repeated.
fn matmul(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x", "y"])?;
    let flag = |name: &str| Ok::<_, String>(f.maybe(op, name)?.is_some_and(|v| v.first() == Some(&1)));
    let (turned_x, turned_y) = (flag("transpose_x")?, flag("transpose_y")?);
    let (x, y) = (f.bound(op, "x")?.clone(), f.bound(op, "y")?.clone());
    let (rank_x, rank_y) = (f.rank(&x)?, f.rank(&y)?);
    let along = || Err("it works along the batch".to_owned());
    if rank_x < 2 || rank_y < 2 {
        return along();
    }
    let rank = rank_x.max(rank_y);
    let align = |at: At, r: usize| At { axis: at.axis + rank - r, ..at };
    match (f.at(&x).map(|at| align(at, rank_x)), f.at(&y).map(|at| align(at, rank_y))) {
        // Rows of x.
        (Some(at), None) if at.axis == if turned_x { rank - 1 } else { rank - 2 } => stays(At { axis: rank - 2, ..at }),
        // Columns of y.
        (None, Some(at)) if at.axis == if turned_y { rank - 2 } else { rank - 1 } => stays(At { axis: rank - 1, ..at }),
        (Some(at), Some(other)) if at == other && at.axis + 2 < rank => stays(at),
        (Some(at), None) | (None, Some(at)) if at.axis + 2 < rank => {
            let (other, r) = if f.at(&x).is_some() { (&y, rank_y) } else { (&x, rank_x) };
            let shape = f.shape(other).ok_or("a factor has no known shape")?;
            match (at.axis + r).checked_sub(rank).map(|a| shape[a]) {
                None | Some(1) => stays(at),
                Some(_) => Err("a factor has a batch of its own".to_owned()),
            }
        }
        _ => along(),
    }
}

fn conv(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x"])?;
    match f.place(op, "x")? {
        (at, _) if at.axis == 0 => stays(at),
        _ => Err("it works along the batch".to_owned()),
    }
}

/// `output_shape` may hold the batch.
fn conv_transpose(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    let places = conv(f, op)?;
    let Some(mut shape) = f.maybe(op, "output_shape")? else { return Ok(places) };
    let rank = f.rank(f.bound(op, "x")?)?;
    if shape.len() == rank {
        let at = places[0].ok_or("expected the batch")?;
        match f.extent {
            Extent::Fixed(_) => shape[0] = f.number(at),
            Extent::Range(..) => return Err("parameter `output_shape` holds the batch".to_owned()),
        }
        f.bind_ints(op, "output_shape", &shape)?;
    }
    Ok(places)
}

/// Queries, keys and values of a row belong together; a mask is the row's, or that of all.
fn attention(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["query", "key", "value", "attn_mask"])?;
    let (at, rank) = f.place(op, "query")?;
    if at.axis + 2 >= rank {
        return Err("it works along the batch".to_owned());
    }
    for name in ["key", "value"] {
        if f.place(op, name)? != (at, rank) {
            return Err(format!("`{name}` has the batch elsewhere"));
        }
    }
    if let Some(Argument::One(mask)) = op.inputs.get("attn_mask") {
        let r = f.rank(mask)?;
        let place = (at.axis + r).checked_sub(rank);
        let shape = f.shape(mask).ok_or("`attn_mask` has no known shape")?;
        let fits = match f.at(mask) {
            Some(other) => place == Some(other.axis) && other.factor == at.factor,
            None => place.is_none_or(|a| shape[a] == 1),
        };
        if !fits {
            return Err("`attn_mask` has another batch".to_owned());
        }
    }
    stays(at)
}

/// `x` is `[steps, batch, …]`; first states of equal rows get as many as the batch.
fn recurrent(f: &mut Follow<'_, '_>, op: &mut Operation) -> Places {
    f.only(op, &["x", "initial_h", "initial_c"])?;
    let (at, _) = f.place(op, "x")?;
    if at != (At { axis: 1, factor: 1 }) {
        return Err("it works along the batch".to_owned());
    }
    let state = At { axis: 0, factor: 1 };
    for name in ["initial_h", "initial_c"] {
        let Some(Argument::One(binding)) = op.inputs.get(name) else { continue };
        match (f.at(binding), f.extent) {
            (Some(other), _) if other == state => {}
            (None, Extent::Fixed(n)) => {
                let value = f.constant(op, name).ok_or_else(|| format!("parameter `{name}` has a batch of its own"))?;
                let value = f.rows(&value, state, n).map_err(|e| format!("parameter `{name}`: {e}"))?;
                f.bind(op, name, value);
            }
            _ => return Err(format!("parameter `{name}` would need a row for each of the batch")),
        }
    }
    Ok(vec![Some(at), Some(state)])
}
