//! Result types of operations, from the types and constants of their arguments.
//!
//! Rules: the docstrings and `type_inference` functions of coremltools' operations. Unknown extents stay unknown. An
//! operation without a rule needs declared types.

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, Opset, TensorType, ValueType};
use indexmap::IndexMap;

use crate::builder::arg::{self, Var};

mod indexing;
mod products;
mod shapes;
mod weights;

/// An operation whose arguments fit the table.
pub(crate) struct Call<'a> {
    pub(crate) kind: &'a str,
    pub(crate) args: &'a IndexMap<String, Vec<Var>>,
    pub(crate) opset: Opset,
}

/// Result types, or what is wrong.
type Rule = fn(&Call<'_>) -> Result<Vec<ValueType>, String>;

impl Call<'_> {
    fn var(&self, name: &str) -> Option<&Var> {
        self.args.get(name)?.first()
    }

    /// Type of a tensor parameter.
    fn ty(&self, name: &str) -> Result<&TensorType, String> {
        match self.var(name).map(|v| &v.ty) {
            Some(ValueType::Tensor(t)) => Ok(t),
            Some(other) => Err(format!("parameter `{name}`: expected a tensor, found {}", crate::builder_show(other))),
            None => Err(format!("parameter `{name}` is missing")),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.args.contains_key(name)
    }

    /// Integers of a constant; `None` if it is omitted or not known.
    fn ints(&self, name: &str) -> Option<Vec<i64>> {
        arg::numbers(self.var(name)?.literal.as_ref()?)
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.ints(name).and_then(|v| v.first().copied()).unwrap_or(default)
    }

    fn flag(&self, name: &str) -> bool {
        self.int(name, 0) != 0
    }

    fn text(&self, name: &str) -> Option<&str> {
        arg::text(self.var(name)?.literal.as_ref()?)
    }

    /// An axis of a tensor of this rank.
    fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize, String> {
        axis(self.int(name, default), rank).map_err(|e| format!("parameter `{name}`: {e}"))
    }

    /// Axes; all if omitted.
    fn axes(&self, name: &str, rank: usize) -> Result<Vec<usize>, String> {
        let Some(all) = self.ints(name) else { return Ok((0..rank).collect()) };
        let place = |e| format!("parameter `{name}`: {e}");
        let mut axes = all.iter().map(|&a| axis(a, rank).map_err(place)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        if axes.windows(2).any(|w| w[0] == w[1]) {
            return Err(format!("parameter `{name}`: expected each axis once, found {all:?}"));
        }
        Ok(axes)
    }
}

fn axis(a: i64, rank: usize) -> Result<usize, String> {
    let n = rank as i64;
    if (-n..n).contains(&a) {
        Ok((a.rem_euclid(n.max(1))) as usize)
    } else {
        Err(format!("expected an axis of {rank}, found {a}"))
    }
}

fn one(dtype: DataType, shape: Vec<Dim>) -> Result<Vec<ValueType>, String> {
    Ok(vec![arg::tensor(dtype, shape)])
}

/// A known number as an extent; negative ones are unknown.
fn extent(n: i64) -> Dim {
    usize::try_from(n).map_or(Dim::Unknown, Dim::Fixed)
}

/// Shape of NumPy's broadcast.
fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, String> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| if i + s.len() < rank { Dim::Fixed(1) } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (Dim::Fixed(1), d) | (d, Dim::Fixed(1)) => Ok(d),
            (Dim::Fixed(m), Dim::Fixed(n)) if m == n => Ok(Dim::Fixed(m)),
            (Dim::Fixed(_), Dim::Fixed(_)) => Err(format!("shapes {} and {} don't broadcast", dims(a), dims(b))),
            (Dim::Fixed(n), _) | (_, Dim::Fixed(n)) => Ok(Dim::Fixed(n)),
            (d, _) => Ok(d),
        })
        .collect()
}

fn dims(shape: &[Dim]) -> String {
    format!("[{}]", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn same(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    if c.has("axis") {
        c.axis("axis", -1, x.shape.len())?;
    }
    one(x.dtype, x.shape.clone())
}

fn binary(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (x, y) = (c.ty("x")?, c.ty("y")?);
    if x.dtype != y.dtype {
        return Err(format!("expected x and y of one element type, found {} and {}", x.dtype, y.dtype));
    }
    one(x.dtype, broadcast(&x.shape, &y.shape)?)
}

fn comparison(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let mut types = binary(c)?;
    if let Some(ValueType::Tensor(t)) = types.first_mut() {
        t.dtype = DataType::Bool;
    }
    Ok(types)
}

fn select(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let (cond, a, b) = (c.ty("cond")?, c.ty("a")?, c.ty("b")?);
    if a.dtype != b.dtype {
        return Err(format!("expected a and b of one element type, found {} and {}", a.dtype, b.dtype));
    }
    one(a.dtype, broadcast(&cond.shape, &broadcast(&a.shape, &b.shape)?)?)
}

fn cast(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let name = c.text("dtype").ok_or("parameter `dtype` is missing")?;
    let dtype = DataType::from_name(name)
        .ok_or_else(|| format!("parameter `dtype`: expected an element type, found `{name}`"))?;
    one(dtype, c.ty("x")?.shape.clone())
}

/// A norm over the last axes: γ and β have their extents.
fn layer_norm(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let axes = c.axes("axes", x.shape.len())?;
    let wanted: Vec<Dim> = axes.iter().map(|&a| x.shape[a]).collect();
    for name in ["gamma", "beta"] {
        if c.has(name) {
            fits(name, &c.ty(name)?.shape, &wanted)?;
        }
    }
    one(x.dtype, x.shape.clone())
}

/// A norm with one number per channel.
fn per_channel(c: &Call<'_>) -> Result<Vec<ValueType>, String> {
    let x = c.ty("x")?;
    let channels =
        x.shape.get(1).copied().ok_or_else(|| format!("expected x with channels, found {}", dims(&x.shape)))?;
    for name in ["mean", "variance", "gamma", "beta", "alpha"] {
        if c.has(name) {
            fits(name, &c.ty(name)?.shape, &[channels])?;
        }
    }
    one(x.dtype, x.shape.clone())
}

fn fits(name: &str, found: &[Dim], wanted: &[Dim]) -> Result<(), String> {
    let open = |d: &Dim| d.fixed().is_none();
    let equal = found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| a == b || open(a) || open(b));
    if equal {
        Ok(())
    } else {
        Err(format!("parameter `{name}`: expected shape {}, found {}", dims(wanted), dims(found)))
    }
}

/// Operations on every element of `x` by itself; results of the type of `x`.
pub(crate) const POINTWISE: [&str; 41] = [
    "abs",
    "acos",
    "asin",
    "atan",
    "atanh",
    "ceil",
    "clip",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp2",
    "floor",
    "inverse",
    "log",
    "logical_not",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "threshold",
    "clamped_relu",
    "elu",
    "gelu",
    "leaky_relu",
    "linear_activation",
    "relu",
    "relu6",
    "scaled_tanh",
    "sigmoid",
    "sigmoid_hard",
    "silu",
    "softplus",
    "softsign",
    "thresholded_relu",
    "identity",
];

/// The rule of an operation.
fn rule(kind: &str) -> Option<Rule> {
    if POINTWISE.contains(&kind) {
        return Some(same);
    }
    Some(match kind {
        "add" | "sub" | "mul" | "real_div" | "floor_div" | "mod" | "pow" | "maximum" | "minimum" => binary,
        "logical_and" | "logical_or" | "logical_xor" => binary,
        "equal" | "not_equal" | "less" | "less_equal" | "greater" | "greater_equal" => comparison,
        "select" => select,
        "softmax" | "cumsum" | "reverse" | "reverse_sequence" | "l2_norm" | "local_response_norm" | "band_part" => same,
        "cast" => cast,
        "layer_norm" => layer_norm,
        "batch_norm" | "instance_norm" | "prelu" | "softplus_parametric" => per_channel,
        "read_state" => indexing::read_state,
        _ => {
            return shapes::rule(kind)
                .or_else(|| products::rule(kind))
                .or_else(|| indexing::rule(kind))
                .or_else(|| weights::rule(kind));
        }
    })
}

/// Result types of an operation; `None` if they have to be declared.
pub(crate) fn infer(call: &Call<'_>) -> Result<Option<Vec<ValueType>>, String> {
    rule(call.kind).map(|rule| rule(call)).transpose()
}

/// True if there is a rule for this operation.
pub(crate) fn has_rule(kind: &str) -> bool {
    rule(kind).is_some()
}
