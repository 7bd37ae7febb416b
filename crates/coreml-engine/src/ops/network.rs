//! Operations of layers of neural networks that the opsets lack. Lowering makes them; no file has them.
//!
//! Semantics follow coremltools' `NeuralNetwork.proto`. The recurrent ones stand beside those of the opsets (`recurrent`).

use std::sync::Arc;

use coreml_format::dtype::DataType;

use crate::array::Array;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;
use crate::shape::check_size;
use crate::value::Value;
use crate::weight::Weight;

use super::{constexpr_ops, tensor_operation};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("engine.embedding", &[], embedding).kernel("columns of a stored weight"),
    OpSpec::constant("engine.linear_weight", &[], constexpr_ops::blockwise_shift_scale),
    OpSpec::new("engine.suppress_boxes", &[], tensor_operation::nms),
    OpSpec::constant("engine.table_weight", &[], constexpr_ops::table_weight),
];

/// `engine.embedding(table, indices)`: the columns of `table`, `[size, entries]`, at `indices` → `[…, size]`.
///
/// Indices are truncated to integers; those outside of the table are errors.
fn embedding(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (table, indices) = (b.slot("table")?, b.slot("indices")?);
    b.run(move |f| {
        let table = match f.value(table)? {
            Value::Weight(w) => w.clone(),
            _ => Arc::new(Weight::from_array(&f.array(table)?)?),
        };
        let &[size, entries] = table.shape() else {
            return Err(OpError::shape(format!("a table of shape {:?}", table.shape())));
        };
        let ids = f.array(indices)?;
        let mut shape = ids.shape().to_vec();
        shape.push(size);
        let mut y = budget::room(check_size(&shape)?)?;
        for id in ids.to_i64s()? {
            let at = usize::try_from(id).ok().filter(|&at| at < entries);
            let at = at.ok_or_else(|| OpError::shape(format!("entry {id} of {entries}")))?;
            for row in 0..size {
                y.push(table.element(row * entries + at)?);
            }
        }
        one(Array::from_f32(y, &shape, DataType::F32, f.device())?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn embeddings_are_columns() {
        let body = "tensor<fp32, [2, 2]> y = engine.embedding(table = tensor<fp32, [2, 3]>([[1, 2, 3], [4, 5, 6]]), indices = x);";
        near(&of(body, &[2], &[2.0, 0.0]), &[3.0, 6.0, 1.0, 4.0]);
        refused(body, &[2], &[2.0, 3.0], "entry 3 of 3");
    }

    #[test]
    fn tables_and_scales_give_weights() {
        let body = "tensor<fp32, [2, 2]> w = engine.table_weight(indices = tensor<uint2, [2, 2]>([[0, 1], [2, 3]]), \
            table = tensor<fp32, [4]>([5, 6, 7, 8])); tensor<fp32, [2, 2]> y = add(x = x, y = w);";
        near(&of(body, &[1], &[0.0]), &[5.0, 6.0, 7.0, 8.0]);
        let body = "tensor<fp32, [2, 2]> w = engine.linear_weight(data = tensor<uint8, [2, 2]>([[0, 1], [2, 3]]), \
            scale = tensor<fp32, [2, 1]>([[2], [3]]), offset = tensor<fp32, [2, 1]>([[0], [1]])); tensor<fp32, [2, 2]> y = add(x = x, y = w);";
        near(&of(body, &[1], &[0.0]), &[0.0, 2.0, 3.0, 6.0]);
    }
}
