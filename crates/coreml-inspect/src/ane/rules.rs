//! The rules, named as in `docs/neural-engine.md`.

use coreml_format::dtype::DataType;
use coreml_format::program::{Binding, Operation, TensorType, ValueType};

use super::{Flexibility, Judge, Reason, Verdict, fixed, is_open};
use crate::constants::{Constant, text};

/// Operations of one chapter with the same published evidence.
struct Published {
    /// Evidence against them: rule, verdict and reason, with `{}` for the operation; `None` if published compute plans
    /// show them on the Neural Engine, or measurements found them there on every chip.
    against: Option<(&'static str, Verdict, &'static str)>,
    operations: &'static [&'static str],
}

const fn runs(operations: &'static [&'static str]) -> Published {
    Published { against: None, operations }
}

const fn refuses(rule: &'static str, why: &'static str, operations: &'static [&'static str]) -> Published {
    Published { against: Some((rule, Verdict::Refused, why)), operations }
}

const fn depends(why: &'static str, operations: &'static [&'static str]) -> Published {
    Published { against: Some(("chip", Verdict::Unsure, why)), operations }
}

const NO_PATH: &str = "no path for `{}` is known";

/// All operations with published evidence.
#[rustfmt::skip]
const PUBLISHED: &[Published] = &[
    // activation
    runs(&[
        "relu", "relu6", "gelu", "silu", "sigmoid", "sigmoid_hard", "elu", "prelu", "leaky_relu", "softmax", "softplus",
        "softplus_parametric", "softsign", "scaled_tanh", "clamped_relu", "thresholded_relu", "linear_activation",
    ]),
    // control_flow, classify: integer arithmetic, or control flow decided at run time
    refuses("control_flow", "`{}` runs on the CPU", &[
        "cond", "while_loop", "make_list", "list_read", "list_write", "list_gather", "list_scatter", "list_length", "classify",
    ]),
    runs(&["select"]),
    // conv, linear, transformers
    runs(&["conv", "conv_transpose", "linear", "matmul", "einsum", "scaled_dot_product_attention"]),
    // elementwise_binary
    runs(&[
        "add", "sub", "mul", "real_div", "maximum", "minimum", "pow", "equal", "not_equal", "greater", "greater_equal", "less",
        "less_equal",
    ]),
    // elementwise_unary
    runs(&[
        "abs", "ceil", "floor", "round", "sign", "exp", "exp2", "log", "sqrt", "rsqrt", "square", "inverse", "erf", "clip",
        "tanh", "threshold", "cast",
    ]),
    depends("`{}` needs an A15 or M2", &["sin", "cos"]),
    // image_resizing
    runs(&["upsample_nearest_neighbor", "upsample_bilinear"]),
    depends("`{}` needs a texture unit, from A14 or M1 on", &["crop_resize", "resample", "resize", "resize_bilinear", "affine"]),
    // normalization, pool
    runs(&["layer_norm", "batch_norm", "instance_norm", "l2_norm", "avg_pool", "max_pool", "l2_pool"]),
    // quantization_ops
    depends("8-bit activations are for the A17 Pro, the M4 and newer", &["quantize", "dequantize"]),
    // random
    refuses("no_path", NO_PATH, &["random_normal", "random_uniform", "random_bernoulli", "random_categorical"]),
    // recurrent
    refuses("no_path", NO_PATH, &["lstm", "gru", "rnn"]),
    // reduction
    runs(&[
        "reduce_max", "reduce_min", "reduce_mean", "reduce_sum", "reduce_sum_square", "reduce_l1_norm", "reduce_l2_norm",
    ]),
    refuses("no_path", NO_PATH, &["reduce_prod"]),
    // scatter_gather
    refuses("gather", "published compute plans have `{}` on the CPU alone", &["gather", "gather_nd", "gather_along_axis"]),
    refuses("no_path", NO_PATH, &["scatter", "scatter_nd", "scatter_along_axis"]),
    // states
    runs(&["read_state", "write_state"]),
    // tensor_operation
    runs(&["concat", "split", "stack", "tile", "identity"]),
    depends("`{}` depends on the chip and on its size", &["topk", "argsort"]),
    refuses("no_path", NO_PATH, &["non_maximum_suppression", "non_zero"]),
    // tensor_transformation
    runs(&[
        "reshape", "transpose", "squeeze", "expand_dims", "slice_by_index", "slice_by_size", "slice_update", "depth_to_space",
        "space_to_depth", "pixel_shuffle", "pixel_unshuffle",
    ]),
];

/// Maximum width and height on every chip, and maximum extent of any axis.
const PLANE: usize = 16_384;
const AXIS: usize = 65_536;
/// Maximum kernel width.
const KERNEL: usize = 13;
/// Required divisor of the last extent of a state.
const STATE: usize = 32;

fn refused(rule: &'static str, message: String) -> Reason {
    Reason { rule, verdict: Verdict::Refused, message }
}

fn unsure(rule: &'static str, message: String) -> Reason {
    Reason { rule, verdict: Verdict::Unsure, message }
}

/// Reasons against an operation.
pub(super) fn reasons<'a>(judge: &Judge<'a>, op: &'a Operation) -> Vec<Reason> {
    let mut reasons = Vec::new();
    kind(op, &mut reasons);
    types(judge, op, &mut reasons);
    shapes(judge, op, &mut reasons);
    convolution(judge, op, &mut reasons);
    states(judge, op, &mut reasons);
    computed(judge, op, &mut reasons);
    weights(judge, op, &mut reasons);
    reasons
}

fn kind(op: &Operation, reasons: &mut Vec<Reason>) {
    let kind = op.kind.as_str();
    match PUBLISHED.iter().find(|known| known.operations.contains(&kind)) {
        None => reasons.push(unsure("unpublished", format!("nothing is published about `{kind}`"))),
        Some(Published { against: Some((rule, verdict, why)), .. }) => {
            reasons.push(Reason { rule, verdict: *verdict, message: why.replace("{}", kind) });
        }
        Some(Published { against: None, .. }) => {}
    }
}

/// Names and types of an operation's non-constant inputs and of its outputs.
fn values<'a>(judge: &Judge<'a>, op: &'a Operation) -> Vec<(&'a str, &'a TensorType)> {
    let taken = op.inputs.values().flat_map(|a| a.bindings()).filter_map(|b| match b {
        Binding::Name(n) if judge.constants.get(n).is_none() => Some((n.as_str(), judge.tensor(n)?)),
        _ => None,
    });
    let given = op.outputs.iter().filter_map(|o| match &o.ty {
        ValueType::Tensor(t) => Some((o.name.as_str(), t)),
        _ => None,
    });
    taken.chain(given).collect()
}

fn types<'a>(judge: &Judge<'a>, op: &'a Operation, reasons: &mut Vec<Reason>) {
    use DataType::{BF16, Bool, F16, F32, F64, String};
    let values = values(judge, op);
    let find = |test: &dyn Fn(DataType) -> bool| values.iter().find(|(_, t)| test(t.dtype));
    // Casts between fp32 and fp16 at the boundary run there.
    let border = op.kind == "cast" && values.iter().all(|(_, t)| matches!(t.dtype, F16 | F32));
    if let Some((name, t)) = find(&|d| matches!(d, F32 | F64 | BF16)).filter(|_| !border) {
        reasons.push(refused("precision", format!("`{name}` is {}; the engine computes in fp16", t.dtype)));
    }
    // Slices and similar take integer positions, checked in `computed`.
    let data = values.iter().any(|(_, t)| t.dtype == F16);
    if let Some((name, t)) = find(&|d| d.is_int())
        && !(data && op.outputs.iter().all(|o| o.ty.tensor().is_none_or(|t| t.dtype == F16)) && op.kind != "cast")
    {
        reasons.push(refused("integers", format!("`{name}` is {}", t.dtype)));
    } else if !data && find(&|d| matches!(d, Bool | String)).is_some() && op.kind != "read_state" {
        reasons.push(refused("integers", "it works on booleans or strings alone".to_owned()));
    }
}

fn shapes<'a>(judge: &Judge<'a>, op: &'a Operation, reasons: &mut Vec<Reason>) {
    let values = values(judge, op);
    if let Some((name, t)) = values.iter().find(|(_, t)| t.shape.len() > 5) {
        reasons.push(refused("rank", format!("`{name}` has rank {}, at most 5 is possible", t.shape.len())));
    }
    for (name, t) in &values {
        let rank = t.shape.len();
        let Some((axis, extent)) = fixed(t).max_by_key(|(_, n)| *n) else { continue };
        if extent > AXIS {
            reasons.push(refused("extent", format!("axis {axis} of `{name}` has {extent}, over {AXIS}")));
            break;
        }
        // The last two axes are height and width; channels may be larger.
        if let Some((axis, extent)) = fixed(t).find(|&(axis, n)| n > PLANE && axis + 2 >= rank) {
            let message = format!("axis {axis} of `{name}` has {extent}; over {PLANE} only the A16, M4 and newer take");
            reasons.push(unsure("extent", message));
            break;
        }
    }
    if let Some((name, _)) = values.iter().find(|(_, t)| is_open(t)) {
        match judge.flexible {
            Flexibility::Ranges => reasons.push(unsure(
                "flexible_shape",
                format!("the shape of `{name}` is open; with ranges only the default shape runs there"),
            )),
            Flexibility::Enumerated if op.kind == "layer_norm" => {
                reasons.push(unsure(
                    "flexible_shape",
                    "`layer_norm` with enumerated shapes was seen to be refused".to_owned(),
                ));
            }
            Flexibility::Enumerated => {}
            Flexibility::Fixed => {
                reasons.push(unsure("flexible_shape", format!("the shape of `{name}` is known only when it runs")));
            }
        }
    }
}

fn integers(judge: &Judge<'_>, op: &Operation, name: &str) -> Option<Vec<i64>> {
    let value = match op.inputs.get(name)?.bindings() {
        [Binding::Value(v)] => v,
        [Binding::Name(n)] => match judge.constants.get(n)? {
            Constant::Literal(v) => v,
            Constant::Made(_) => return None,
        },
        _ => return None,
    };
    text(value)?.trim_matches(['[', ']']).split(", ").map(|v| v.parse().ok()).collect()
}

/// Shape of an operation's `weight`, constant or not.
fn weight(judge: &Judge<'_>, op: &Operation) -> Option<Vec<usize>> {
    match op.inputs.get("weight")?.bindings() {
        [Binding::Value(v)] => v.ty.tensor()?.fixed_shape(),
        [Binding::Name(n)] => judge.tensor(n)?.fixed_shape(),
        _ => None,
    }
}

fn convolution(judge: &Judge<'_>, op: &Operation, reasons: &mut Vec<Reason>) {
    if !op.kind.starts_with("conv") {
        return;
    }
    if let Some(shape) = weight(judge, op) {
        if shape.len() == 5 {
            reasons.push(refused("conv3d", "convolutions over three axes fail to compile".to_owned()));
        } else if let Some(&width) = shape.get(2..).and_then(|k| k.last()).filter(|w| **w > KERNEL) {
            reasons.push(refused("kernel", format!("the kernel is {width} wide, at most {KERNEL} is possible")));
        }
    }
    if integers(judge, op, "dilations").is_some_and(|d| d.iter().any(|v| *v > 1)) {
        reasons.push(unsure("dilation", "sources disagree on dilated convolutions".to_owned()));
    }
    if let Some([Binding::Name(n)]) = op.inputs.get("weight").map(|a| a.bindings())
        && judge.constants.get(n).is_none()
    {
        reasons.push(unsure("computed", format!("the weight `{n}` is computed")));
    }
}

fn states(judge: &Judge<'_>, op: &Operation, reasons: &mut Vec<Reason>) {
    if !["read_state", "write_state", "coreml_update_state"].contains(&op.kind.as_str()) {
        return;
    }
    let names = op.inputs.values().flat_map(|a| a.bindings());
    for name in names.filter_map(|b| if let Binding::Name(n) = b { Some(n) } else { None }) {
        if let Some(ValueType::State(_)) = judge.types.get(name.as_str())
            && let Some(last) = judge.tensor(name).and_then(|t| t.shape.last()?.fixed())
            && last % STATE != 0
        {
            let message = format!("the last extent of state `{name}` is {last}, not a multiple of {STATE}");
            reasons.push(refused("state_width", message));
        }
    }
}

/// Checks for computed values of parameters that are usually constant.
fn computed(judge: &Judge<'_>, op: &Operation, reasons: &mut Vec<Reason>) {
    for name in ["begin", "end", "shape", "axes", "perm", "reps", "pad", "size"] {
        if let Some([Binding::Name(n)]) = op.inputs.get(name).map(|a| a.bindings())
            && judge.constants.get(n).is_none()
        {
            reasons.push(unsure("computed", format!("`{name}` is computed (`{n}`)")));
            return;
        }
    }
}

fn weights<'a>(judge: &Judge<'a>, op: &'a Operation, reasons: &mut Vec<Reason>) {
    for (parameter, argument) in &op.inputs {
        for weight in argument.bindings().iter().filter_map(|b| judge.constants.weight(parameter, b)) {
            if weight.form.contains("block of") {
                let message = format!("weight `{}`: {}; nothing is published about it", weight.name, weight.form);
                reasons.push(unsure("unpublished", message));
                return;
            }
            if weight.dtype == DataType::F32 {
                reasons.push(refused("precision", format!("weight `{}` is fp32", weight.name)));
                return;
            }
        }
    }
}

/// Multiply count of a product or convolution; 0 for other operations, `None` if a shape is unknown.
pub(super) fn multiplications(judge: &Judge<'_>, op: &Operation) -> Option<u64> {
    let named = |name: &str| match op.inputs.get(name)?.bindings() {
        [Binding::Name(n)] => judge.tensor(n)?.fixed_shape(),
        [Binding::Value(v)] => v.ty.tensor()?.fixed_shape(),
        _ => None,
    };
    let output = || op.outputs.first().and_then(|o| o.ty.tensor()?.fixed_shape());
    let product = |s: &[usize]| s.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
    match op.kind.as_str() {
        // Each output element uses one row of the weight.
        "conv" | "linear" => Some(product(&output()?).saturating_mul(product(weight(judge, op)?.get(1..)?))),
        "conv_transpose" => Some(product(&named("x")?).saturating_mul(product(weight(judge, op)?.get(1..)?))),
        "matmul" => {
            let x = named("x")?;
            let transposed = op.inputs.get("transpose_x").and_then(|a| match a.bindings() {
                [b] => text(judge.constants.literal(b)?),
                _ => None,
            });
            let from_end = if transposed.as_deref() == Some("true") { 2 } else { 1 };
            Some(product(&output()?).saturating_mul(*x.get(x.len().checked_sub(from_end)?)? as u64))
        }
        "scaled_dot_product_attention" => {
            let (q, k) = (named("query")?, named("key")?);
            Some(product(&q).saturating_mul(*k.get(k.len().checked_sub(2)?)? as u64).saturating_mul(2))
        }
        _ => Some(0),
    }
}
