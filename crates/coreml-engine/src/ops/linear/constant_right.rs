//! Constant matrices on the right of `matmul`, arranged once.

use std::sync::{Arc, OnceLock};

use crate::budget::{Counted, temporary};
use crate::build::OpBuilder;
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::layout;
use crate::ops::packed_weight::PackedWeight;
use crate::value::Value;
use crate::weight::Weight;

/// A constant matrix on the right of a product, `[outputs, inputs]` as kernels take it.
pub(super) struct Matrix {
    pub(super) weight: Arc<Weight>,
    pub(super) packed: Option<PackedWeight>,
}

/// The constant right-hand side of `matmul`, arranged when it is needed first and kept.
pub(super) struct ConstantRight {
    slot: Slot,
    /// Whether it is `[outputs, inputs]` already.
    transposed: bool,
    /// None where it may not be kept.
    matrix: OnceLock<Option<Matrix>>,
}

impl ConstantRight {
    /// None for what is computed, and for what is no matrix of floats on the CPU.
    pub(super) fn new(b: &OpBuilder<'_>, slot: Slot, transposed: bool) -> Option<Self> {
        let (shape, dtype) = match b.constant(slot)? {
            Value::Weight(weight) => (weight.shape(), weight.dtype()),
            Value::Array(array) => (array.shape(), array.dtype()),
            _ => return None,
        };
        let fits = b.device().is_cpu() && dtype.is_float() && shape.len() == 2 && !shape.contains(&0);
        fits.then(|| Self { slot, transposed, matrix: OnceLock::new() })
    }

    pub(super) fn matrix(&self, f: &Frame<'_>) -> Result<Option<&Matrix>, OpError> {
        if self.matrix.get().is_none() {
            let made = self.arrange(f)?;
            return Ok(self.matrix.get_or_init(|| made).as_ref());
        }
        Ok(self.matrix.get().and_then(Option::as_ref))
    }

    fn arrange(&self, f: &Frame<'_>) -> Result<Option<Matrix>, OpError> {
        let matrix = |weight: Arc<Weight>| {
            let packed = PackedWeight::new(&weight, 1, f.device());
            Some(Matrix { weight, packed })
        };
        if let (Value::Weight(weight), true) = (f.value(self.slot)?, self.transposed) {
            return Ok(matrix(weight.clone()));
        }
        let (bytes, dtype) = match f.value(self.slot)? {
            Value::Weight(weight) => (weight.shape().iter().product::<usize>().saturating_mul(4), weight.dtype()),
            other => {
                let array = other.array("y", f.device())?;
                (array.bytes(), array.dtype())
            }
        };
        // The copy, and its panels.
        if !f.context.kept.take(bytes.saturating_mul(2)) {
            return Ok(None);
        }
        temporary(bytes, || {
            let dense = f.value(self.slot)?.array("y", f.device())?;
            let t = dense.floats()?;
            let t = if self.transposed { t.clone() } else { t.t()? };
            let rows = layout::contiguous(&t)?;
            let values = rows.counted_elements::<f32>()?;
            Ok(matrix(Arc::new(Weight::from_f32s(&values, dtype, rows.dims().to_vec())?)))
        })
    }
}
