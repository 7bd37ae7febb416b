//! `engine.rms_norm`: a root-mean-square norm along the last dimension, with its gain.

use candle_core::Tensor;
use coreml_kernels::buffer_pool::zeros;

use crate::batch;
use crate::budget::claim_of;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;

pub(crate) const RMS_NORM: OpSpec =
    OpSpec::new("engine.rms_norm", IOS15, rms_norm).batch(|dim, op| batch::along_or_last(dim, op, "axis"));

/// `engine.rms_norm(x, epsilon = 1e-5, gain?)`: x / √(mean(x²) + ε) · gain along the last dimension; the gain is a
/// constant of that extent.
fn rms_norm(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let epsilon = b.attr_or("epsilon", 1e-5f32)?;
    let gain = match b.slot_opt("gain")?.map(|slot| b.constant(slot)) {
        None => None,
        Some(Some(value)) => Some(value.array("gain", b.device())?.to_f32s()?),
        Some(None) => return Err(OpError::data("a gain that is not constant")),
    };
    b.run(move |f| {
        let x = f.array(x)?;
        let size = x.shape().last().copied().unwrap_or(1);
        if gain.as_ref().is_some_and(|g| g.len() != size) {
            return Err(OpError::shape(format!("a norm of {:?} with another gain", x.shape())));
        }
        if x.floats()?.elem_count() == 0 {
            return one(x);
        }
        let norm = |data: &[f32]| {
            claim_of::<f32>(data.len())?;
            let mut out = zeros(data.len());
            coreml_kernels::norm::rms_norm(data, size, epsilon, gain.as_deref(), &mut out);
            Ok::<_, OpError>(out)
        };
        let data = x.with_rows(norm)??;
        one(x.with(Tensor::from_vec(data, x.shape(), f.device())?))
    })
}
