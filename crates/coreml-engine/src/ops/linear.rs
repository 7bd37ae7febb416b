//! Matrix products: `linear`, `matmul`, `einsum`.
//!
//! Semantics follow the reference documentation of coremltools' `linear` chapter. A constant right-hand side keeps its
//! stored form; kernels read it compressed.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use coreml_kernels::buffer_pool::zeros;
use coreml_kernels::matmul::matmul_rows;
use coreml_kernels::matvec::Product;
use coreml_kernels::packed::{Matrices, PANEL, is_packed, multiply};
use coreml_kernels::parallel;
use coreml_kernels::weight_matrix::{Storage, WeightMatrix};

use constant_right::{ConstantRight, Matrix};

use super::epilogue::EpilogueSpec;
use super::packed_weight::PackedWeight;
use crate::array::Array;
use crate::batch;
use crate::budget::{Counted, claim_of, collect, filled, lent, products, zeros as zeros_of};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::layout;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::value::Value;
use crate::weight::Weight;

mod constant_right;
mod einsum;
pub(crate) mod together;

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("einsum", IOS15, einsum::einsum),
    OpSpec::new("linear", IOS15_17, linear).batch(batch::linear).kernel("product on stored weights"),
    OpSpec::new("matmul", IOS15_17, matmul).kernel("product on stored weights"),
];

/// `x[…, I] · Wᵀ + bias` → `[…, O]`, on the CPU from the weight's stored form.
pub(crate) fn product(x: &Array, weight: &Weight, bias: Option<&[f32]>, device: &Device) -> Result<Tensor, OpError> {
    let (precision, x) = (x.precision(), x.tensor());
    let out = weight.shape().first().copied().unwrap_or(0);
    let inner: usize = weight.shape().iter().skip(1).product();
    let mut shape = x.dims().to_vec();
    let found = shape.pop();
    if found != Some(inner) {
        return Err(OpError::shape(format!("{:?} times a weight of shape {:?}", x.dims(), weight.shape())));
    }
    let m: usize = shape.iter().product();
    shape.push(out);
    let count = crate::shape::check_size(&shape)?;
    products(&[m, inner, out])?;
    if let (Some(matrix), true) = (weight.matrix(), device.is_cpu()) {
        claim_of::<f32>(count)?;
        let _rows = lent(copies(m, inner))?;
        let mut y = zeros(count);
        if m > 0 && out > 0 {
            layout::with_rows(x, |x| coreml_kernels::matmul::matmul_t(matrix, x, bias, precision, &mut y))?
                .ok_or_else(|| OpError::data("the input of a product is not f32"))?;
        }
        return Ok(Tensor::from_vec(y, shape, device)?);
    }
    let dense = weight.expand(device)?;
    let w = dense.tensor().reshape((out, inner))?;
    claim_of::<f32>(count.saturating_mul(2))?;
    let y = x.reshape((m, inner))?.matmul(&w.t()?)?.reshape(shape)?;
    Ok(match bias {
        Some(b) => y.broadcast_add(&Tensor::new(b, device)?)?,
        None => y,
    })
}

/// Upper bound in bytes of input rows copied into the kernel's order, in f32 or narrower; a few rows are read in place.
pub(crate) fn copies(rows: usize, inner: usize) -> usize {
    rows.saturating_mul(inner.saturating_add(64)).saturating_mul(size_of::<f32>())
}

/// The optional bias, expanded to this length.
pub(super) fn bias_of(f: &Frame<'_>, slot: Option<Slot>, length: usize) -> Result<Option<Vec<f32>>, OpError> {
    let Some(slot) = slot else { return Ok(None) };
    spread(f.array(slot)?.to_f32s()?, length).map(Some)
}

/// Expands a bias to this many outputs: one per output, or one for all.
pub(crate) fn spread(values: Vec<f32>, length: usize) -> Result<Vec<f32>, OpError> {
    match values.len() {
        n if n == length => Ok(values),
        1 => filled(values[0], length),
        n => Err(OpError::shape(format!("a bias of {n} for {length} outputs"))),
    }
}

/// A bias, constant if known at load time.
pub(super) enum Bias {
    Const(Vec<f32>),
    Slot(Option<Slot>),
}

impl Bias {
    /// The parameter `bias`.
    pub(super) fn new(b: &OpBuilder<'_>) -> Result<Self, OpError> {
        let slot = b.slot_opt("bias")?;
        match slot.and_then(|slot| b.constant(slot)) {
            Some(value) => Ok(Self::Const(value.array("bias", b.device())?.to_f32s()?)),
            None => Ok(Self::Slot(slot)),
        }
    }

    /// Values for this many outputs.
    pub(super) fn get(&self, f: &Frame<'_>, length: usize) -> Result<Option<Cow<'_, [f32]>>, OpError> {
        match self {
            Self::Const(values) if values.len() == length => Ok(Some(Cow::Borrowed(values))),
            Self::Const(values) => spread(collect(values.iter().copied())?, length).map(|b| Some(Cow::Owned(b))),
            Self::Slot(slot) => Ok(bias_of(f, *slot, length)?.map(Cow::Owned)),
        }
    }
}

/// Product with a weight `[O, I]`: with its panels if there are some and they take `x`, else as it is stored.
fn on_weight(
    f: &Frame<'_>,
    x: &Array,
    weight: &Weight,
    panels: Option<&PackedWeight>,
    bias: Option<&[f32]>,
    epilogue: &EpilogueSpec,
) -> Result<Array, OpError> {
    if let Some(panels) = panels
        && let Some(y) = panels.product(f, x.tensor(), bias, epilogue)?
    {
        return Ok(x.with(y));
    }
    epilogue.apply(f, x.with(product(x, weight, bias, f.device())?))
}

/// `linear(x, weight, bias = 0)` with weight `[O, I]`; `engine.linear` also accepts the parameters of [`EpilogueSpec`].
pub(crate) fn linear(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, weight, bias) = (b.slot("x")?, b.slot("weight")?, b.slot_opt("bias")?);
    let constants = Arc::new((Bias::new(b)?, EpilogueSpec::new(b)?));
    let panels = match b.constant(weight) {
        Some(Value::Weight(w)) => PackedWeight::new(w, 1, b.device()),
        _ => None,
    };
    let shared = constants.clone();
    b.rows(move |frames| {
        let (bias, epilogue) = &*shared;
        let xs = frames.iter().map(|f| f.array(x)).collect::<Result<Vec<_>, _>>()?;
        let Some(f) = frames.first() else { return Ok(None) };
        let Value::Weight(w) = f.value(weight)? else { return Ok(None) };
        let bias = bias.get(f, w.shape().first().copied().unwrap_or(0))?;
        let Some(results) = together::products(&xs, &[(w, bias.as_deref())])? else { return Ok(None) };
        let one = |((f, x), mut y): ((&Frame<'_>, &Array), Vec<Tensor>)| {
            let y = y.pop().ok_or_else(|| OpError::data("a product without a result"))?;
            one(epilogue.apply(f, x.with(y))?)
        };
        frames.iter().zip(&xs).zip(results).map(one).collect::<Result<_, _>>().map(Some)
    });
    b.run(move |f| {
        let (constant_bias, epilogue) = &*constants;
        let x = f.array(x)?;
        if let Value::Weight(w) = f.value(weight)? {
            let bias = constant_bias.get(f, w.shape().first().copied().unwrap_or(0))?;
            return one(on_weight(f, &x, w, panels.as_ref(), bias.as_deref(), epilogue)?);
        }
        let w = f.array(weight)?;
        // From opset iOS17 on, weight and bias may have another type than the input.
        let y = batched(x.tensor(), &alike(w.tensor(), x.tensor())?.t()?)?;
        let y = match bias {
            Some(bias) => y.counted_broadcast(&alike(f.array(bias)?.tensor(), x.tensor())?, Tensor::broadcast_add)?,
            None => y,
        };
        one(epilogue.apply(f, x.with(y))?)
    })
}

/// Matrix product that broadcasts leading dimensions and treats vectors like NumPy; both operands of one type.
pub(crate) fn batched(x: &Tensor, y: &Tensor) -> Result<Tensor, OpError> {
    let (x_vector, y_vector) = (x.rank() == 1, y.rank() == 1);
    let x = if x_vector { x.unsqueeze(0)? } else { x.clone() };
    let y = if y_vector { y.unsqueeze(1)? } else { y.clone() };
    if x.rank() < 2 || y.rank() < 2 || x.dims()[x.rank() - 1] != y.dims()[y.rank() - 2] {
        return Err(OpError::shape(format!("matrix product of {:?} and {:?}", x.dims(), y.dims())));
    }
    let (m, n) = (x.dims()[x.rank() - 2], y.dims()[y.rank() - 1]);
    let mut shape = super::elementwise_binary::broadcast_shape(&x.dims()[..x.rank() - 2], &y.dims()[..y.rank() - 2])?;
    shape.extend([m, n]);
    let t = if shape.contains(&0) || x.elem_count() == 0 {
        crate::shape::check_size(&shape)?;
        zeros_of(shape, x.dtype(), x.device())?
    } else {
        let count = crate::shape::check_size(&shape)?;
        products(&[count, x.dims()[x.rank() - 1]])?;
        if let Some(product) = on_cpu(&x, &y, &shape)? {
            return Ok(without_vectors(product, x_vector, y_vector)?);
        }
        let float = x.dtype() == DType::F32;
        // Integers: exact in f64 up to 2⁵³.
        let (x, y) = if float { (x, y) } else { (x.counted_to_dtype(DType::F64)?, y.counted_to_dtype(DType::F64)?) };
        let outer: usize = shape[..shape.len() - 2].iter().product();
        // Merge the leading dimensions; a shared matrix stays single.
        let side = |t: &Tensor| -> Result<Tensor, OpError> {
            let (r, c) = (t.dims()[t.rank() - 2], t.dims()[t.rank() - 1]);
            let mut wide = shape[..shape.len() - 2].to_vec();
            wide.extend([r, c]);
            Ok(layout::contiguous(&t.broadcast_as(wide)?)?.reshape((outer, r, c))?)
        };
        let (x, y) = (side(&x)?, side(&y)?);
        claim_of::<f64>(count.saturating_mul(2))?;
        let product = x.matmul(&y)?.reshape(shape)?;
        if float { product } else { product.counted_to_dtype(DType::I64)? }
    };
    Ok(without_vectors(t, x_vector, y_vector)?)
}

/// Removes the extents of one that were inserted for vectors.
fn without_vectors(mut t: Tensor, x_vector: bool, y_vector: bool) -> candle_core::Result<Tensor> {
    if y_vector {
        t = t.squeeze(t.rank() - 1)?;
    }
    if x_vector {
        let d = t.rank() - if y_vector { 1 } else { 2 };
        t = t.squeeze(d)?;
    }
    Ok(t)
}

/// Minimum number of rows for packing the right-hand side.
const ROWS: usize = 16;

/// `x[…, m, k] · y[…, k, n]` with this result shape, for f32 CPU tensors in any memory order.
fn on_cpu(x: &Tensor, y: &Tensor, shape: &[usize]) -> Result<Option<Tensor>, OpError> {
    let (outer, &[m, n]) = shape.split_at(shape.len() - 2) else { return Ok(None) };
    let k = x.dims()[x.rank() - 1];
    if !outer.is_empty() && y.dims()[..y.rank() - 2].iter().all(|&n| n == 1) && x.rank() == shape.len() {
        // One matrix shared by all rows.
        let rows = layout::contiguous(x)?.reshape((shape[..shape.len() - 1].iter().product::<usize>(), k))?;
        let product = on_cpu(&rows, &y.reshape((k, n))?, &[rows.dims()[0], n])?;
        return Ok(product.map(|p| p.reshape(shape)).transpose()?);
    }
    let spread = |t: &Tensor| {
        let mut wide = outer.to_vec();
        wide.extend(&t.dims()[t.rank() - 2..]);
        t.broadcast_as(wide)
    };
    let (x, y) = (spread(x)?, spread(y)?);
    let start = |strides: &[usize], mut index: usize| {
        let mut at = 0;
        for (&n, &s) in outer.iter().zip(strides).rev() {
            at += index % n * s;
            index /= n;
        }
        at
    };
    if m >= ROWS || !is_packed([m, k, n]) {
        let x = if x.stride()[outer.len() + 1] == 1 { x } else { layout::contiguous(&x)? };
        claim_of::<f32>(crate::shape::check_size(shape)?)?;
        let matrices = outer.iter().product::<usize>();
        // Matrices on the right in panels, and the offsets of both sides.
        let packed = if is_packed([m, k, n]) { matrices } else { parallel::threads() };
        let panels = packed.saturating_mul(k).saturating_mul(n.next_multiple_of(PANEL)).saturating_mul(4);
        let _panels = lent(panels.saturating_add(matrices.saturating_mul(16)).saturating_add(m.saturating_mul(32)))?;
        let run = |x_data: &[f32], y_data: &[f32]| {
            let starts = |t: &Tensor| (0..outer.iter().product()).map(|i| start(t.stride(), i)).collect::<Vec<_>>();
            let strides = |t: &Tensor| [t.stride()[outer.len()], t.stride()[outer.len() + 1]];
            multiply(
                [m, k, n],
                Matrices { data: x_data, starts: &starts(&x), strides: strides(&x) },
                Matrices { data: y_data, starts: &starts(&y), strides: strides(&y) },
            )
        };
        return match layout::with_elements(&x, |x| layout::with_elements(&y, |y| run(x, y))).flatten() {
            Some(out) => Ok(Some(Tensor::from_vec(out, shape, x.device())?)),
            None => Ok(None),
        };
    }
    let (xs, ys, r) = (x.stride(), y.stride(), outer.len());
    let run = |x: &[f32], y: &[f32]| -> Result<Vec<f32>, OpError> {
        let count = crate::shape::check_size(shape)?;
        claim_of::<f32>(count)?;
        let mut out = zeros(count);
        let matrices = outer.iter().product::<usize>();
        let _matrices = lent(matrices.saturating_mul(size_of::<WeightMatrix<'_>>() * 2))?;
        let _rows = lent(copies(m, k).saturating_mul(parallel::threads()))?;
        let fits = |index: usize| WeightMatrix::new(n, k, Storage::Strided(&y[start(ys, index)..], ys[r + 1], ys[r]));
        let all: Result<Vec<WeightMatrix<'_>>, _> = (0..outer.iter().product()).map(fits).collect();
        let all = all.map_err(|e| OpError::shape(e.to_string()))?;
        let each = |index: usize, out: &mut [f32]| {
            let x = &x[start(xs, index)..];
            let fill = |row: usize, out: &mut [f32]| match xs[r + 1] {
                1 => out.copy_from_slice(&x[row * xs[r]..][..k]),
                step => out.iter_mut().enumerate().for_each(|(i, o)| *o = x[row * xs[r] + i * step]),
            };
            matmul_rows(&mut [Product { weight: all[index], bias: None, out }], m, k, &fill);
        };
        if all.len() >= parallel::threads() {
            parallel::chunks_mut(&mut out, m * n, each);
        } else {
            out.chunks_exact_mut(m * n).enumerate().for_each(|(i, out)| each(i, out));
        }
        Ok(out)
    };
    match layout::with_elements(&x, |x| layout::with_elements(&y, |y| run(x, y))).flatten() {
        Some(out) => Ok(Some(Tensor::from_vec(out?, shape, x.device())?)),
        None => Ok(None),
    }
}

/// A constant of a product as the element type of what it is multiplied by, which is also that of the result.
///
/// # Errors
/// If that is an integer type and a number of the constant is not whole: what Core ML makes of it is not known.
fn alike(constant: &Tensor, other: &Tensor) -> Result<Tensor, OpError> {
    let made = constant.counted_to_dtype(other.dtype())?;
    if constant.dtype().is_float() && !other.dtype().is_float() {
        let back = made.counted_to_dtype(constant.dtype())?;
        let same = back.counted_broadcast(constant, Tensor::broadcast_eq)?.counted_to_dtype(DType::I64)?.min_all()?;
        if constant.elem_count() > 0 && same.to_scalar::<i64>()? == 0 {
            return Err(OpError::data("a constant with a fraction beside integers"));
        }
    }
    Ok(made)
}

/// `matmul(x, y, transpose_x = false, transpose_y = false)`. From opset iOS17 on, one operand may be a constant of another
/// element type; the result has that of the other one.
fn matmul(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, y) = (b.slot("x")?, b.slot("y")?);
    let constants = (b.constant(x).is_some(), b.constant(y).is_some());
    let (tx, ty) = (b.attr_or("transpose_x", false)?, b.attr_or("transpose_y", false)?);
    let right = ConstantRight::new(b, y, ty);
    let epilogue = EpilogueSpec::new(b)?;
    b.run(move |f| {
        let xs = f.array(x)?;
        let flip = |t: &Tensor, on: bool| {
            if on && t.rank() >= 2 { t.transpose(t.rank() - 2, t.rank() - 1) } else { Ok(t.clone()) }
        };
        let left = flip(xs.tensor(), tx)?;
        if let Some(right) = right.as_ref().filter(|_| left.dtype() == DType::F32 && left.rank() > 0)
            && let Some(Matrix { weight, packed }) = right.matrix(f)?
        {
            return one(on_weight(f, &xs.with(left), weight, packed.as_ref(), None, &epilogue)?);
        }
        let ys = f.array(y)?;
        let right = flip(ys.tensor(), ty)?;
        let (left, right, result) = match constants {
            (true, false) => (alike(&left, &right)?, right, &ys),
            (false, true) => {
                let right = alike(&right, &left)?;
                (left, right, &xs)
            }
            _ if left.dtype() == right.dtype() => (left, right, &xs),
            _ => {
                let result = if xs.dtype().is_float() { &xs } else { &ys };
                (left.counted_to_dtype(DType::F32)?, right.counted_to_dtype(DType::F32)?, result)
            }
        };
        one(Array::new(batched(&left, &right)?, result.dtype())?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn matmul_transposes_broadcasts_and_refuses() {
        let y = of(
            "tensor<fp32, [2, 2]> y = matmul(x = x, y = x, transpose_x = bool(false), transpose_y = bool(true));",
            &[2, 1],
            &[2.0, 3.0],
        );
        near(&y, &[4.0, 6.0, 6.0, 9.0]);
        let y =
            of("tensor<fp32, [2, 1, 1]> y = matmul(x = x, y = tensor<fp32, [1, 1]>([[10]]));", &[2, 1, 1], &[2.0, 3.0]);
        near(&y, &[20.0, 30.0]);
        refused(
            "tensor<fp32, [1, 1]> y = matmul(x = x, y = tensor<fp32, [1, 1]>([[1]]));",
            &[1, 2],
            &[1.0, 2.0],
            "matmul",
        );
    }

    #[test]
    fn matmul_of_a_constant_matrix_is_that_of_a_computed_one() {
        // [3, 2], and its transpose.
        let (w, wt) = ([[1.0, -2.0], [0.5, 4.0], [3.0, 0.25f32]], "[[1, 0.5, 3], [-2, 4, 0.25]]");
        for rows in [1, 2, 3, 8, 19] {
            let x: Vec<f32> = (0..rows * 3).map(|i| i as f32 * 0.5 - 4.0).collect();
            let product = |row: &[f32]| [0, 1].map(|o| (0..3).map(|i| row[i] * w[i][o]).sum::<f32>());
            let expected: Vec<f32> = x.chunks(3).flat_map(product).collect();
            for (transposed, literal) in [
                ("false", "tensor<fp32, [3, 2]>([[1, -2], [0.5, 4], [3, 0.25]])".to_owned()),
                ("true", format!("tensor<fp32, [2, 3]>({wt})")),
            ] {
                let body = format!(
                    "tensor<fp32, [{rows}, 2]> y = matmul(x = x, y = {literal}, transpose_x = bool(false), \
                     transpose_y = bool({transposed}));"
                );
                near(&of(&body, &[rows, 3], &x), &expected);
            }
        }
        let body = "tensor<fp32, [2]> y = matmul(x = x, y = tensor<fp32, [3, 2]>([[1, -2], [0.5, 4], [3, 0.25]]));";
        near(&of(body, &[3], &[1.0, 2.0, -1.0]), &[-1.0, 5.75]);
    }

    #[test]
    fn a_product_over_no_elements_is_zero() {
        let body =
            "tensor<fp32, [2, 2]> y = matmul(x = x, y = x, transpose_x = bool(false), transpose_y = bool(true));";
        near(&of(body, &[2, 0], &[]), &[0.0; 4]);
    }

    #[test]
    fn a_constant_of_another_type_takes_that_of_the_computed_operand() {
        let x = [1.0, 2.0, 3.0, -4.0];
        let half = "tensor<fp16, [2, 2]>([[1, 0.5], [2, -1]])";
        let ints = "tensor<int32, [2, 2]>([[1, 5], [2, -1]])";
        // By hand: x · c and c · x.
        let cases = [
            ("x = x", format!("y = {half}"), [5.0, -1.5, -5.0, 5.5]),
            ("y = x", format!("x = {half}"), [2.5, 0.0, -1.0, 8.0]),
            ("x = x", format!("y = {ints}"), [5.0, 3.0, -5.0, 19.0]),
            ("y = x", format!("x = {ints}"), [16.0, -18.0, -1.0, 8.0]),
        ];
        for (computed, constant, expected) in cases {
            near(&of(&format!("tensor<fp32, [2, 2]> y = matmul({computed}, {constant});"), &[2, 2], &x), &expected);
        }
        // Integers beside floats that are whole, on either side; a fraction is not.
        let body = |product: &str| {
            format!(
                "tensor<int32, [2, 2]> i = cast(x = x, dtype = string(\"int32\")); \
                 tensor<int32, [2, 2]> p = matmul({product}); \
                 tensor<fp32, [2, 2]> y = cast(x = p, dtype = string(\"fp32\"));"
            )
        };
        let whole = "tensor<fp32, [2, 2]>([[1, 5], [2, -1]])";
        near(&of(&body(&format!("x = i, y = {whole}")), &[2, 2], &x), &[5.0, 3.0, -5.0, 19.0]);
        near(&of(&body(&format!("x = {whole}, y = i")), &[2, 2], &x), &[16.0, -18.0, -1.0, 8.0]);
        refused(&body(&format!("x = i, y = {half}")), &[2, 2], &x, "matmul");
    }

    #[test]
    fn linear_refuses_a_weight_of_other_inputs() {
        let body = "tensor<fp32, [1, 1]> y = linear(x = x, weight = tensor<fp32, [1, 2]>([[1, 2]]), bias = tensor<fp32, [1]>([3]));";
        near(&of(body, &[1, 2], &[10.0, 1.0]), &[15.0]);
        refused(&body.replace("[1, 2]>([[1, 2]])", "[1, 3]>([[1, 2, 3]])"), &[1, 2], &[10.0, 1.0], "linear");
    }
}
