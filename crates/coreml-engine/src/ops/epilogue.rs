//! Epilogue of a product or convolution, added by rewrites: a residual, then an activation.

use candle_core::Tensor;
use coreml_kernels::activation::Activation;
use coreml_kernels::elementwise::{Gelu, HardSigmoid, HardSwish, Sigmoid, Silu};
use coreml_kernels::packed;

use super::elementwise_unary::map;
use crate::array::Array;
use crate::budget::Counted;
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::layout;
use crate::memory_order::with_f32s;

/// Parameters `slope` and `offset` of a hard sigmoid.
fn hard_sigmoid(b: &OpBuilder<'_>) -> Result<HardSigmoid, OpError> {
    Ok(HardSigmoid { slope: b.attr("slope")?, offset: b.attr("offset")? })
}

/// Parameters `slope`, `offset` and `threshold?` of a hard swish.
pub(crate) fn hard_swish(b: &OpBuilder<'_>) -> Result<HardSwish, OpError> {
    Ok(HardSwish { gate: hard_sigmoid(b)?, threshold: b.attr_opt("threshold")? })
}

/// Parameters `residual?` and `activation?` of an operation: `"clip"` with `low?` and `high?`, `"gelu"`, `"silu"`,
/// `"sigmoid"`, `"hard_sigmoid"` with `slope` and `offset`, `"hard_swish"` with these and `threshold?`.
pub(crate) struct EpilogueSpec {
    residual: Option<Slot>,
    activation: Activation,
}

impl EpilogueSpec {
    /// Reads the epilogue of an internal operation; empty for operations of the specification.
    pub(crate) fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        // The specification has no such parameters: in a file they are rejected as unread.
        if !b.op().kind.starts_with("engine.") {
            return Ok(Self { residual: None, activation: Activation::default() });
        }
        let bound = |name: &str, default: f32| b.attr_or(name, default);
        let activation = match b.attr_opt::<String>("activation")?.as_deref() {
            None => Activation::default(),
            Some("clip") => {
                Activation::Clamp { low: bound("low", f32::NEG_INFINITY)?, high: bound("high", f32::INFINITY)? }
            }
            Some("gelu") => Activation::Gelu,
            Some("silu") => Activation::Silu,
            Some("sigmoid") => Activation::Sigmoid,
            Some("hard_sigmoid") => Activation::HardSigmoid(hard_sigmoid(b)?),
            Some("hard_swish") => Activation::HardSwish(hard_swish(b)?),
            Some(other) => return Err(OpError::data(format!("unknown activation `{other}`"))),
        };
        Ok(Self { residual: b.slot_opt("residual")?, activation })
    }

    /// The residual without gaps, for a result of this shape and dimension order.
    pub(crate) fn residual(&self, f: &Frame<'_>, shape: &[usize], order: &[usize]) -> Result<Option<Tensor>, OpError> {
        let Some(slot) = self.residual else { return Ok(None) };
        let residual = f.array(slot)?;
        if residual.shape() != shape {
            return Err(OpError::shape(format!("a residual {:?} for a result {shape:?}", residual.shape())));
        }
        Ok(Some(layout::contiguous(&residual.floats()?.permute(order)?)?))
    }

    /// Calls `f` with the kernel's epilogue; `None` if the residual is not on the CPU.
    pub(crate) fn with<R>(
        &self,
        bias: Option<&[f32]>,
        residual: Option<&Tensor>,
        f: impl FnOnce(&packed::Epilogue<'_>) -> R,
    ) -> Option<R> {
        let epilogue = packed::Epilogue { bias, residual: None, activation: self.activation };
        match residual {
            None => Some(f(&epilogue)),
            Some(t) => with_f32s(t, |r| f(&packed::Epilogue { residual: Some(r), ..epilogue })),
        }
    }

    /// Applies the epilogue as separate operations, for results not computed by a kernel.
    pub(crate) fn apply(&self, f: &Frame<'_>, y: Array) -> Result<Array, OpError> {
        let mut y = y;
        if let Some(slot) = self.residual {
            let residual = f.array(slot)?;
            let sum = layout::binary(y.floats()?, residual.floats()?, y.shape(), |a: f32, b: f32| a + b)?;
            y = match sum {
                Some(sum) => y.with(sum),
                None => y.with(y.tensor().counted_broadcast(residual.tensor(), Tensor::broadcast_add)?),
            };
        }
        let activation = self.activation;
        match activation {
            activation if activation == Activation::default() => Ok(y),
            Activation::Clamp { .. } => map(&y, move |v| activation.at(v)),
            Activation::Gelu => map(&y, Gelu),
            Activation::Silu => map(&y, Silu),
            Activation::Sigmoid => map(&y, Sigmoid),
            Activation::HardSigmoid(gate) => map(&y, gate),
            Activation::HardSwish(f) => map(&y, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn a_product_ends_with_its_residual_and_then_its_activation() {
        let body = |activation: &str| {
            format!(
                "tensor<fp32, [2, 1]> r = mul(x = x, y = fp32(2)); tensor<fp32, [2, 1]> y = engine.linear(x = x, \
                 weight = tensor<fp32, [1, 1]>([[-3]]), residual = r, activation = string(\"{activation}\"), low = fp32(0));"
            )
        };
        near(&of(&body("clip"), &[2, 1], &[1.0, -1.0]), &[0.0, 1.0]);
        refused(&body("cosine"), &[2, 1], &[1.0, -1.0], "cosine");
    }
}
