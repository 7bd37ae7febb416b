//! The operation table, one family per file, named after the chapters of coremltools' op set.
//!
//! A family file declares its rows in a constant `OPS`. All properties of an operation are in its row, from which
//! rewrites and the documentation of supported operations are derived. Operations produced by a rewrite are defined
//! next to it in `passes`; a [`Backend`](crate::backend::Backend) combines both.

use crate::op::OpSpec;

pub(crate) mod activation;
mod classic;
mod classify;
mod constexpr_ops;
mod control_flow;
pub(crate) mod conv;
mod custom;
pub(crate) mod elementwise_binary;
pub(crate) mod elementwise_unary;
pub(crate) mod epilogue;
mod image_resizing;
pub(crate) mod linear;
mod network;
pub(crate) mod normalization;
pub(crate) mod packed_weight;
mod pool;
mod quantization_ops;
mod random;
mod recurrent;
mod reduction;
mod scatter_gather;
pub(crate) mod sdpa;
pub(crate) mod slice;
pub(crate) mod states;
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

/// Operations of classic models and of layers of networks, which lowering makes and no file has.
pub const LOWERED: &[&[OpSpec]] = &[classic::OPS, custom::OPS, network::OPS, recurrent::LAYERS];

/// True if lowering makes an operation.
pub(crate) fn is_lowered(name: &str) -> bool {
    LOWERED.iter().any(|ops| ops.iter().any(|op| op.name == name))
}

/// Finds the row of an operation of the specification.
pub fn find(name: &str) -> Option<&'static OpSpec> {
    FAMILIES.iter().flat_map(|(_, ops)| ops.iter()).find(|op| op.name == name)
}
