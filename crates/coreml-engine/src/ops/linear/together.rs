//! Products of several predictions with the same weights, which are read once for all of them.

use candle_core::Tensor;
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::matvec::{self, Product};

use super::copies;
use crate::array::Array;
use crate::budget::{self, claim_of, lent};
use crate::error::OpError;
use crate::layout;
use crate::shape::check_size;
use crate::weight::Weight;

/// The results `[…, outputs]` of each prediction with each weight, for one vector `x` of inputs, in the last dimension, a
/// prediction. None unless they are, to the bit, those of each prediction alone.
pub(crate) fn products(
    xs: &[Array],
    layers: &[(&Weight, Option<&[f32]>)],
) -> Result<Option<Vec<Vec<Tensor>>>, OpError> {
    let Some((first, count)) = xs.first().map(|x| (x, xs.len())).filter(|&(_, n)| n > 1) else { return Ok(None) };
    let (shape, precision) = (first.shape(), first.precision());
    let inputs = shape.last().copied().unwrap_or(0);
    let alike = |x: &Array| {
        let t = x.tensor();
        x.shape() == shape && x.dtype() == first.dtype() && t.dtype() == candle_core::DType::F32 && t.device().is_cpu()
    };
    if inputs == 0 || first.tensor().elem_count() != inputs || !xs.iter().all(alike) {
        return Ok(None);
    }
    let mut matrices = Vec::with_capacity(layers.len());
    for (weight, _) in layers {
        match weight.matrix().filter(|m| m.cols() == inputs && matvec::are_exact_together(m, precision)) {
            Some(matrix) => matrices.push(matrix),
            None => return Ok(None),
        }
    }
    let _rows = lent(copies(count, inputs).saturating_mul(2))?;
    let mut rows = Vec::with_capacity(count * inputs);
    for x in xs {
        let copied = layout::with_rows(x.tensor(), |x| rows.extend_from_slice(x))?;
        copied.ok_or_else(|| OpError::data("the input of a product is not f32"))?;
    }
    let mut results = Vec::with_capacity(matrices.len());
    for matrix in &matrices {
        let size = check_size(&[count, matrix.rows()])?;
        budget::products(&[count, inputs, matrix.rows()])?;
        claim_of::<f32>(size.saturating_mul(2))?;
        results.push(zeros(size));
    }
    let mut products = Vec::with_capacity(matrices.len());
    for ((weight, (_, bias)), out) in matrices.iter().zip(layers).zip(&mut results) {
        products.push(Product { weight: *weight, bias: *bias, out });
    }
    if !matvec::together(&mut products, &rows, count, precision) {
        return Ok(None);
    }
    let result = |i: usize| {
        let part = |(y, m): (&Vec<f32>, &coreml_kernels::weight_matrix::WeightMatrix<'_>)| {
            let shape = [&shape[..shape.len() - 1], &[m.rows()]].concat();
            Ok(Tensor::from_vec(y[i * m.rows()..(i + 1) * m.rows()].to_vec(), shape, first.tensor().device())?)
        };
        results.iter().zip(&matrices).map(part).collect::<Result<Vec<_>, OpError>>()
    };
    (0..count).map(result).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use coreml_format::dtype::DataType;

    use super::*;
    use crate::ops::linear::product;

    #[test]
    fn products_together_are_those_of_each_alone_to_the_bit() {
        let weights: Vec<f32> = (0..96 * 256).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let weight = Weight::from_f32s(&weights, DataType::F16, vec![96, 256]).expect("a weight");
        let bias: Vec<f32> = (0..96).map(|i| i as f32 / 8.0).collect();
        let x = |i: usize| {
            let row: Vec<f32> = (0..256).map(|c| (c * 29 % (70 + i)) as f32 / 64.0 - 0.5).collect();
            let x = Tensor::from_vec(row, (1, 1, 256), &Device::Cpu).expect("a tensor");
            Array::new(x, DataType::F16).expect("an array")
        };
        for count in [2usize, 5, 8, 19] {
            let xs: Vec<Array> = (0..count).map(x).collect();
            let Some(all) = products(&xs, &[(&weight, Some(&bias)), (&weight, None)]).expect("they run") else {
                // Scalar code has no kernel for several.
                assert!(!matvec::are_exact_together(&weight.matrix().expect("a matrix"), xs[0].precision()));
                return;
            };
            assert_eq!(all.len(), count);
            for (x, ys) in xs.iter().zip(all) {
                for (y, bias) in ys.iter().zip([Some(&bias[..]), None]) {
                    let alone = product(x, &weight, bias, &Device::Cpu).expect("a product");
                    let bits = |t: &Tensor| {
                        let values = t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("floats");
                        values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                    };
                    assert_eq!((y.dims(), bits(y)), (alone.dims(), bits(&alone)), "{count} at once");
                }
            }
        }
        assert!(products(&[x(0)], &[(&weight, None)]).expect("one").is_none(), "one is no batch");
    }
}
