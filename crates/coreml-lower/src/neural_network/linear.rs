//! Matrix products and embeddings.

use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::model_types::neural_network::linear::{BatchedMatMul, Embedding, EmbeddingNd, InnerProduct};
use coreml_format::model_types::neural_network::weights::WeightParams;

use super::build::{Blob, Extent, Network, flag, of, product};
use crate::error::LowerError;

type Lowered<T> = Result<T, LowerError>;
type Params = Option<Box<WeightParams>>;

pub(super) fn inner_product(n: &mut Network, layer: &NeuralNetworkLayer, p: &InnerProduct) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = if p.int8_dynamic_quantize { rounded(n, &x)? } else { x };
    let (inner, out) = (n.count(&[p.input_channels])?, n.count(&[p.output_channels])?);
    let weight = match p.int8_dynamic_quantize {
        true => n.int8_matrix("weights", &p.weights, p.output_channels, p.input_channels)?,
        false => n.matrix("weights", &p.weights, p.output_channels, p.input_channels)?,
    };
    let bias = match p.has_bias {
        true => Some(n.vector("bias", &p.bias, p.output_channels)?),
        false => None,
    };
    // Ranks above 3 are flattened over the last three axes.
    let flattened = x.rank() > 3;
    let taken = if flattened { 3 } else { 1 };
    let lead = x.shape[..x.shape.len().saturating_sub(taken)].to_vec();
    if product(&x.shape[lead.len()..]).is_some_and(|d| d != inner) {
        return n.refuse(format!("{inner} input channels for a blob of {}", super::build::shown(&x.shape)));
    }
    let with = |tail: &[usize], lead: &[Extent]| -> Vec<Extent> {
        lead.iter().copied().chain(tail.iter().map(|&d| Some(d))).collect()
    };
    let scalar = lead.is_empty();
    let rows = if scalar { vec![Some(1)] } else { lead.clone() };
    let ready = n.reshape(&x, with(&[inner], &rows))?;
    let mut inputs = vec![("x", of(&ready)), ("weight", of(&weight))];
    inputs.extend(bias.as_ref().map(|b| ("bias", of(b))));
    let y = n.op("linear", inputs, with(&[out], &rows));
    let y = match (flattened, scalar) {
        (true, _) => n.reshape(&y, with(&[out, 1, 1], &lead))?,
        (false, true) => n.reshape(&y, vec![Some(out)])?,
        (false, false) => y,
    };
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

/// The input of a product with int8 weights: rounded to 255 steps between ± its largest absolute value.
fn rounded(n: &mut Network, x: &Blob) -> Lowered<Blob> {
    let size = n.map("abs", x, Vec::new());
    let axes: Vec<usize> = (1..=x.shape.len()).collect();
    let largest = n.reduced("reduce_max", &size, &axes)?;
    // An input of zeros has a step, too.
    let largest = n.with("maximum", &largest, f32::MIN_POSITIVE * 256.0);
    let step = n.with("mul", &largest, 1.0 / 127.0);
    let steps = n.binary("real_div", x, &step)?;
    let steps = n.map("round", &steps, Vec::new());
    n.binary("mul", &steps, &step)
}

/// Rows of a table `[embedding, ids]`, turned, plus a bias.
fn rows(
    n: &mut Network,
    ids: &Blob,
    (vocabulary, size): (u64, u64),
    (weights, bias): (&Params, Option<&Params>),
) -> Lowered<Blob> {
    let wide = n.count(&[size])?;
    let table = n.matrix("weights", weights, size, vocabulary)?;
    let shape = ids.shape.iter().copied().chain([Some(wide)]).collect();
    let y = n.op("engine.embedding", vec![("table", of(&table)), ("indices", of(ids))], shape);
    match bias {
        Some(bias) => {
            let bias = n.vector("bias", bias, size)?;
            n.binary("add", &y, &bias)
        }
        None => Ok(y),
    }
}

pub(super) fn embedding(n: &mut Network, layer: &NeuralNetworkLayer, p: &Embedding) -> Lowered<()> {
    let x = n.only(layer)?;
    if x.rank() < 4 || (1..=3).any(|a| x.nth_last(a) != Some(1)) {
        return n.refuse("its input has more than one id in the last three axes, or no four axes");
    }
    let lead = x.shape[..x.shape.len() - 3].to_vec();
    let ids = dropped(n, &x, 3);
    let y = rows(n, &ids, (p.input_dim, p.output_channels), (&p.weights, p.has_bias.then_some(&p.bias)))?;
    let shape = lead.into_iter().chain([y.nth_last(1), Some(1), Some(1)]).collect();
    let axes = super::build::ints(&[-2, -1]);
    let y = n.op("expand_dims", vec![("x", of(&y)), ("axes", axes)], shape);
    n.write(layer, vec![Blob { short: x.short, ..y }])
}

/// A blob without its last axes, which have an extent of 1.
fn dropped(n: &mut Network, x: &Blob, axes: usize) -> Blob {
    let shape = x.shape[..x.shape.len() - axes].to_vec();
    let which: Vec<i32> = (1..=axes as i32).map(|a| -a).collect();
    n.op("squeeze", vec![("x", of(x)), ("axes", super::build::ints(&which))], shape)
}

pub(super) fn embedding_nd(n: &mut Network, layer: &NeuralNetworkLayer, p: &EmbeddingNd) -> Lowered<()> {
    let x = n.only(layer)?;
    let x = n.full(&x);
    if x.nth_last(1) != Some(1) || x.shape.len() < 2 {
        return n.refuse("the last axis of its input is not 1, or its only one");
    }
    let ids = dropped(n, &x, 1);
    let y = rows(n, &ids, (p.vocab_size, p.embedding_size), (&p.weights, p.has_bias.then_some(&p.bias)))?;
    n.write(layer, vec![y])
}

pub(super) fn batched_matmul(n: &mut Network, layer: &NeuralNetworkLayer, p: &BatchedMatMul) -> Lowered<()> {
    let x = n.input(layer, 0)?;
    let x = n.full(&x);
    if p.int8_dynamic_quantize && layer.input.len() != 1 {
        return n.refuse("it quantizes a product of two inputs");
    }
    let x = if p.int8_dynamic_quantize { rounded(n, &x)? } else { x };
    if layer.input.len() == 1 {
        // Transposes are those of two inputs: coremltools sets them beside an input and weights that it has transposed itself
        // (its test of `matmul`).
        let (inner, out) = (p.weight_matrix_first_dimension, p.weight_matrix_second_dimension);
        // Column-major: what the file has is the transpose.
        let weight = match p.int8_dynamic_quantize {
            true => n.int8_matrix("weights", &p.weights, out, inner)?,
            false => n.matrix("weights", &p.weights, out, inner)?,
        };
        if x.nth_last(1).is_some_and(|d| Some(d) != weight.shape[1]) {
            return n.refuse(format!("{inner} rows of weights for another extent of its input"));
        }
        let bias = match p.has_bias {
            true => Some(n.vector("bias", &p.bias, out)?),
            false => None,
        };
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = weight.shape[0];
        }
        let mut inputs = vec![("x", of(&x)), ("weight", of(&weight))];
        inputs.extend(bias.as_ref().map(|b| ("bias", of(b))));
        let y = n.op("linear", inputs, shape);
        return n.write(layer, vec![y]);
    }
    if p.has_bias || layer.input.len() > 2 {
        return n.refuse("it has a bias, or more than two inputs");
    }
    let y = n.input(layer, 1)?;
    let y = n.full(&y);
    if x.shape.is_empty() || y.shape.is_empty() {
        return n.refuse("an input is a scalar");
    }
    // A vector is a row on the left and a column on the right. The result keeps its axis of 1, unlike NumPy's (coremltools'
    // `test_batched_mat_mul_cpu`).
    let (row, column) = (x.shape.len() == 1, y.shape.len() == 1);
    if (row && p.transpose_a) || (column && p.transpose_b) {
        return n.refuse("it transposes a vector");
    }
    let x = if row { n.reshape(&x, vec![Some(1), x.shape[0]])? } else { x };
    let y = if column { n.reshape(&y, vec![y.shape[0], Some(1)])? } else { y };
    let split = |b: &Blob, turned: bool| {
        let (lead, last) = b.shape.split_at(b.shape.len() - 2);
        (lead.to_vec(), if turned { [last[1], last[0]] } else { [last[0], last[1]] })
    };
    let ((a, [rows, _]), (b, [_, columns])) = (split(&x, p.transpose_a), split(&y, p.transpose_b));
    let mut shape = n.broadcast(&a, &b)?;
    shape.extend([rows, columns]);
    let turned = [("transpose_x", flag(p.transpose_a)), ("transpose_y", flag(p.transpose_b))];
    let inputs = [("x", of(&x)), ("y", of(&y))].into_iter().chain(turned).collect();
    let made = n.op("matmul", inputs, shape);
    n.write(layer, vec![made])
}
