//! Scales, biases and batch norms of each channel become part of the `linear`, `conv` or `conv_transpose` before them, as
//! coremltools does it (`fuse_linear_bias`, `fuse_matmul_weight_bias`, `fuse_conv_bias`, `fuse_conv_scale`,
//! `fuse_conv_batchnorm`).
//!
//! Nothing else may use the product, and, where weights change, nothing else the weights. Weights that are compressed keep
//! their form: nothing but a bias is added to their products.

use std::collections::{HashMap, HashSet};

use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, Operation, TensorData, TensorType, Value, ValueData, ValueType,
};

use super::affine::{Affine, constant};
use super::pool::Pool;
use super::{Known, bound, constant_op};
use crate::builder::sweep;

/// Smallest of the largest weights of a channel in fp16: below, its weights lose digits.
const SMALL: f64 = 1e-3;

/// Fuses what can be; returns the number of operations that are gone.
///
/// # Errors
/// If the scratch file can't be written.
pub fn fuse(function: &mut Function, pool: &mut Pool<'_>) -> Result<usize, String> {
    let mut total = 0;
    loop {
        let known = Known::of(function);
        let found = fuse_block(&mut function.block, &known, pool)?;
        if found == 0 {
            return Ok(total);
        }
        total += found;
        sweep(&mut function.block);
    }
}

/// Changes of a block.
#[derive(Default)]
struct Changes {
    /// Operations that are gone.
    removed: HashSet<usize>,
    /// Operations in the place of others, with constants before them.
    new: HashMap<usize, Vec<Operation>>,
}

fn fuse_block(block: &mut Block, known: &Known, pool: &mut Pool<'_>) -> Result<usize, String> {
    let mut count = 0;
    for op in &mut block.operations {
        for nested in &mut op.blocks {
            count += fuse_block(nested, known, pool)?;
        }
    }
    let made: HashMap<String, usize> =
        block.operations.iter().enumerate().filter_map(|(i, op)| Some((op.outputs.first()?.name.clone(), i))).collect();
    let mut changes = Changes::default();
    for at in 0..block.operations.len() {
        let Some((product, new)) = fused(block, at, &made, &changes, known, pool)? else { continue };
        changes.removed.insert(at);
        changes.new.insert(product, new);
        count += 1;
    }
    let operations = std::mem::take(&mut block.operations);
    for (i, op) in operations.into_iter().enumerate() {
        match changes.new.remove(&i) {
            Some(new) => block.operations.extend(new),
            None if changes.removed.contains(&i) => {}
            None => block.operations.push(op),
        }
    }
    Ok(count)
}

/// A product that takes in what follows: its weight `[…]` and how many channels it makes.
struct Product<'b> {
    op: &'b Operation,
    /// Axis of the channels in the result.
    axis: usize,
    /// Parameter of the weight.
    weight: &'static str,
}

impl<'b> Product<'b> {
    fn of(op: &'b Operation, known: &Known) -> Option<Self> {
        let rank = op.outputs.first()?.ty.tensor()?.shape.len();
        match op.kind.as_str() {
            "linear" if rank > 0 => Some(Self { op, axis: rank - 1, weight: "weight" }),
            "conv" | "conv_transpose" if rank > 1 => Some(Self { op, axis: 1, weight: "weight" }),
            // x · W with a constant matrix W is `linear` with its transpose.
            "matmul" if (2..=4).contains(&rank) => {
                let matrix = constant(op, "y", known)?.ty.tensor()?.shape.len() == 2;
                (matrix && !flag(op, "transpose_x", known)?).then_some(Self { op, axis: rank - 1, weight: "y" })
            }
            _ => None,
        }
    }

    fn ty(&self) -> Option<&'b TensorType> {
        self.op.outputs.first()?.ty.tensor()
    }
}

/// A boolean parameter; false if it is omitted, `None` if it is no constant.
fn flag(op: &Operation, name: &str, known: &Known) -> Option<bool> {
    match op.inputs.contains_key(name) {
        true => Some(*crate::builder::arg::numbers(constant(op, name, known)?)?.first()? != 0),
        false => Some(false),
    }
}

/// What takes the place of a product that takes in operation `at`, and the place.
fn fused(
    block: &Block,
    at: usize,
    made: &HashMap<String, usize>,
    changes: &Changes,
    known: &Known,
    pool: &mut Pool<'_>,
) -> Result<Option<(usize, Vec<Operation>)>, String> {
    let op = &block.operations[at];
    let source = |name: &str| {
        let &index = made.get(name).filter(|i| !changes.new.contains_key(i) && !changes.removed.contains(i))?;
        let product = Product::of(&block.operations[index], known)?;
        // The result is that of the product in type: constants are not broadcast over it. Nothing else uses the product.
        let alone = known.uses.get(name) == Some(&1) && product.op.outputs.len() == 1;
        (alone && op.outputs.len() == 1 && op.outputs[0].ty == product.op.outputs[0].ty).then_some((index, product))
    };
    let found = match moved(op, known, &source) {
        Some((index, bias)) => Some((index, None, Some(bias))),
        None => computed(op, known, pool, &source)?,
    };
    let Some((index, weight, bias)) = found else { return Ok(None) };
    let mut replaced = block.operations[index].clone();
    if replaced.kind == "matmul" {
        replaced.kind = "linear".to_owned();
        ["y", "transpose_x", "transpose_y"].iter().for_each(|p| drop(replaced.inputs.shift_remove(*p)));
    }
    let mut operations = Vec::new();
    for (parameter, value) in [("weight", weight), ("bias", bias)] {
        if let Some(value) = value {
            let name = known.fresh(&format!("{}_{parameter}", op.outputs[0].name));
            replaced.inputs.insert(parameter.to_owned(), Argument::One(Binding::Name(name.clone())));
            operations.push(constant_op(name, value));
        }
    }
    replaced.outputs.clone_from(&op.outputs);
    operations.push(replaced);
    Ok(Some((index, operations)))
}

/// Element type and, if it is a dense constant that nothing else uses, the value of a product's weight.
fn weight<'k>(product: &'k Product<'_>, known: &'k Known) -> Option<(DataType, Option<&'k Value>)> {
    let dense = constant(product.op, product.weight, known);
    match product.op.inputs.get(product.weight)? {
        Argument::One(Binding::Name(name)) => {
            let dtype = known.types.get(name)?.tensor()?.dtype;
            Some((dtype, dense.filter(|_| known.uses.get(name) == Some(&1))))
        }
        Argument::One(Binding::Value(value)) => Some((value.ty.tensor()?.dtype, dense)),
        Argument::Many(_) => None,
    }
}

/// A sum that becomes the bias of a product without one: the elements stay where they are.
fn moved<'b>(
    op: &Operation,
    known: &Known,
    source: &dyn Fn(&str) -> Option<(usize, Product<'b>)>,
) -> Option<(usize, Value)> {
    [("x", "y"), ("y", "x")].into_iter().filter(|_| op.kind == "add").find_map(|(from, other)| {
        let (index, product) = source(bound(op, from)?)?;
        let value = constant(op, other, known)?;
        let fits = product.op.kind != "matmul" && !product.op.inputs.contains_key("bias");
        let vector = vector(value, product.ty()?, product.axis).filter(|_| fits)?;
        (vector.ty.tensor()?.dtype == weight(&product, known)?.0).then_some((index, vector))
    })
}

/// A constant that has one number for each extent of an axis and is the same along the others, as a vector.
fn vector(value: &Value, of: &TensorType, axis: usize) -> Option<Value> {
    let ty = value.ty.tensor()?;
    let (shape, rank) = (ty.fixed_shape()?, of.shape.len());
    let Dim::Fixed(channels) = of.shape[axis] else { return None };
    let at = axis.checked_sub(rank.checked_sub(shape.len())?)?;
    let fits = shape.iter().enumerate().all(|(i, &n)| n == if i == at { channels } else { 1 });
    let elements = matches!(value.data, ValueData::Tensor(TensorData::Bytes(_) | TensorData::Blob(_)));
    let ty = ValueType::Tensor(TensorType::fixed(ty.dtype, &[channels]));
    (fits && elements).then(|| Value { ty, data: value.data.clone() })
}

/// A product, and its weight and bias where they change.
type Taken = (usize, Option<Value>, Option<Value>);

/// Weight and bias of the product before an operation that takes it in.
fn computed<'b>(
    op: &Operation,
    known: &Known,
    pool: &mut Pool<'_>,
    source: &dyn Fn(&str) -> Option<(usize, Product<'b>)>,
) -> Result<Option<Taken>, String> {
    let channels = |name: &str| source(name).and_then(|(_, product)| Some((product.ty()?, product.axis)));
    let Some(affine) = Affine::of(op, known, pool, channels) else { return Ok(None) };
    let Some((index, product)) = source(&affine.from) else { return Ok(None) };
    let Some((dtype, weight, bias)) = numbers(&product, &affine, known, pool) else { return Ok(None) };
    // Of numbers that are too large for the type, nothing is made.
    let mut make = |of: Option<(Vec<usize>, Vec<f32>)>| match of {
        Some((shape, values)) => pool.floats(dtype, &shape, &values).map(|made| made.map(Some)),
        None => Ok(Some(None)),
    };
    let (Some(weight), Some(bias)) = (make(weight)?, make(bias)?) else { return Ok(None) };
    Ok(Some((index, weight, bias)))
}

type Numbers = Option<(Vec<usize>, Vec<f32>)>;

/// Element type of a product's constants, and its weight and bias where they change.
fn numbers(
    product: &Product<'_>,
    affine: &Affine,
    known: &Known,
    pool: &Pool<'_>,
) -> Option<(DataType, Numbers, Numbers)> {
    let op = product.op;
    let (dtype, dense) = weight(product, known)?;
    let old = match op.inputs.contains_key("bias") {
        true => Some(constant(op, "bias", known).filter(|v| v.ty.tensor().is_some_and(|t| t.dtype == dtype))?),
        false => None,
    };
    let old = old.map(|value| pool.numbers(value).ok()).map_or(Some(None), |read| read.map(Some))?;
    let channels = product.ty()?.shape[product.axis].fixed()?;
    let at = |of: &Option<Vec<f64>>, i: usize, default: f64| of.as_ref().map_or(default, |v| v[i]);
    let bias = (old.is_some() || affine.shift.is_some()).then(|| {
        let of = |i: usize| {
            let b = old.as_ref().map_or(0.0, |b| f64::from(b[i]));
            (b * at(&affine.scale, i, 1.0) + at(&affine.shift, i, 0.0)) as f32
        };
        (vec![channels], (0..channels).map(of).collect())
    });
    if old.as_ref().is_some_and(|b| b.len() != channels) {
        return None;
    }
    if affine.scale.is_none() && op.kind != "matmul" {
        return Some((dtype, None, bias));
    }
    let value = dense?;
    let (shape, mut data) = (value.ty.tensor()?.fixed_shape()?, pool.numbers(value).ok()?);
    let flag = |name: &str| flag(op, name, known);
    // Elements in a row that belong to one channel, and the channel of a row.
    let inner = |from: usize| shape[from..].iter().product::<usize>().max(1);
    let (run, channel): (usize, Box<dyn Fn(usize) -> usize>) = match op.kind.as_str() {
        "linear" | "conv" => (inner(1), Box::new(|row| row)),
        "matmul" if flag("transpose_y")? => (inner(1), Box::new(|row| row)),
        "matmul" => (1, Box::new(move |i| i % channels)),
        // [inputs, outputs of a group, …], the inputs of a group in a row.
        _ => {
            let groups = match op.inputs.contains_key("groups") {
                true => *constant(op, "groups", known).and_then(|v| pool.numbers(v).ok())?.first()? as usize,
                false => 1,
            };
            let (inputs, each) = (shape[0], shape[1]);
            let group = inputs.checked_div(groups).filter(|&n| n > 0 && each * groups == channels)?;
            (inner(2), Box::new(move |row| row / each / group * each + row % each))
        }
    };
    let mut largest = vec![0f64; channels];
    for (row, run) in data.chunks_mut(run).enumerate() {
        let c = Some(channel(row)).filter(|&c| c < channels)?;
        for v in run {
            let scaled = f64::from(*v) * at(&affine.scale, c, 1.0);
            largest[c] = largest[c].max(scaled.abs());
            *v = scaled as f32;
        }
    }
    if dtype == DataType::F16 && affine.scale.is_some() && largest.iter().any(|&v| v > 0.0 && v < SMALL) {
        return None;
    }
    if op.kind == "matmul" && !flag("transpose_y")? {
        let (rows, columns) = (shape[0], shape[1]);
        let transposed = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| data[i]).collect();
        return Some((dtype, Some((vec![columns, rows], transposed)), bias));
    }
    Some((dtype, Some((shape.clone(), data)), bias))
}
