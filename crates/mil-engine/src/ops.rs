//! The table of operations, one family per file, named after the chapters of coremltools' op set.
//!
//! A family file declares its rows in a constant `OPS`; [`find`] looks up all of them. From this table
//! are made the error for an unknown operation and the documentation of what is supported.

use crate::op::OpSpec;

mod activation;
mod attend;
mod classify;
mod constexpr_ops;
mod control_flow;
mod conv;
mod elementwise_binary;
mod elementwise_unary;
mod finish;
mod fused;
mod image_resizing;
mod linear;
mod normalization;
mod panels;
mod pool;
mod quantization_ops;
mod random;
mod recurrent;
mod reduction;
mod scatter_gather;
mod slice;
mod states;
mod tensor_operation;
mod tensor_transformation;
mod transformers;

/// All families: file name and rows.
pub const FAMILIES: &[(&str, &[OpSpec])] = &[
    ("activation", activation::OPS),
    ("classify", classify::OPS),
    ("constexpr_ops", constexpr_ops::OPS),
    ("control_flow", control_flow::OPS),
    ("conv", conv::OPS),
    ("elementwise_binary", elementwise_binary::OPS),
    ("elementwise_unary", elementwise_unary::OPS),
    ("fused", fused::OPS),
    ("image_resizing", image_resizing::OPS),
    ("linear", linear::OPS),
    ("normalization", normalization::OPS),
    ("pool", pool::OPS),
    ("quantization_ops", quantization_ops::OPS),
    ("random", random::OPS),
    ("recurrent", recurrent::OPS),
    ("reduction", reduction::OPS),
    ("scatter_gather", scatter_gather::OPS),
    ("states", states::OPS),
    ("tensor_operation", tensor_operation::OPS),
    ("tensor_transformation", tensor_transformation::OPS),
    ("transformers", transformers::OPS),
];

/// CPU kernels of operations, for the documentation; the others have none of their own. The operations of the family `fused`,
/// which rewrites make, have kernels of their own.
#[rustfmt::skip]
pub const KERNELS: &[(&str, &[&str])] = &[
    ("product on stored weights", &["conv", "gru", "linear", "lstm", "matmul", "rnn"]),
    ("one convolution per phase", &["conv_transpose"]),
    ("elementwise, vectorised", &[
        "clamped_relu", "elu", "gelu", "leaky_relu", "linear_activation", "prelu", "relu", "relu6", "scaled_tanh",
        "sigmoid", "sigmoid_hard", "silu", "softplus", "softplus_parametric", "softsign", "thresholded_relu", "add",
        "equal", "floor_div", "greater", "greater_equal", "less", "less_equal", "maximum", "minimum", "mod", "mul",
        "not_equal", "pow", "real_div", "sub", "abs", "ceil", "clip", "cos", "erf", "exp", "exp2", "floor", "inverse",
        "log", "round", "rsqrt", "sign", "sin", "sqrt", "square", "tan", "tanh", "threshold", "batch_norm",
    ]),
    ("reduction, vectorised", &[
        "cumsum", "reduce_l1_norm", "reduce_l2_norm", "reduce_log_sum", "reduce_max", "reduce_mean", "reduce_min",
        "reduce_prod", "reduce_sum", "reduce_sum_square", "softmax",
    ]),
    ("row norm, vectorised", &["layer_norm", "instance_norm"]),
    ("rows of stored weights", &["gather"]),
    (
        "gather",
        &[
            "concat",
            "gather_along_axis",
            "gather_nd",
            "pad",
            "resize_nearest_neighbor",
            "reverse",
            "reverse_sequence",
            "slice_by_index",
            "sliding_windows",
            "space_to_batch",
            "stack",
            "tile",
            "upsample_nearest_neighbor",
        ],
    ),
    ("pooling along lines", &["avg_pool", "max_pool"]),
    ("sampling", &["affine", "crop_resize", "resample"]),
    ("separable interpolation", &["resize", "resize_bilinear", "upsample_bilinear"]),
    ("packed-key sort", &["argsort", "topk"]),
];

/// The operation of this name.
pub fn find(name: &str) -> Option<&'static OpSpec> {
    static INDEX: std::sync::LazyLock<std::collections::HashMap<&'static str, &'static OpSpec>> =
        std::sync::LazyLock::new(|| FAMILIES.iter().flat_map(|(_, ops)| ops.iter()).map(|op| (op.name, op)).collect());
    INDEX.get(name).copied()
}

/// The family of the operation of this name.
pub(crate) fn family(name: &str) -> Option<&'static str> {
    FAMILIES.iter().find(|(_, ops)| ops.iter().any(|op| op.name == name)).map(|(family, _)| *family)
}
