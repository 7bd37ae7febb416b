//! Rewrites of a finished function before it is written, as coremltools runs them (`noop_elimination`,
//! `const_elimination`, `fuse_linear_bias`, `fuse_conv_bias`). What a function returns stays the same.

use std::collections::{HashMap, HashSet};

use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, NamedType, Operation, TensorData, TensorType, Value, ValueData, ValueType,
};

use crate::names;

/// Runs all of them; returns the number of places that changed.
pub fn optimize(function: &mut Function) -> usize {
    let mut changed = 0;
    loop {
        let found = fold_constants(function) + fuse_biases(function);
        if found == 0 {
            break;
        }
        changed += found;
        crate::builder::sweep(&mut function.block);
    }
    changed + drop_identities(function)
}

/// The only name that a parameter is bound to.
fn bound<'o>(op: &'o Operation, parameter: &str) -> Option<&'o str> {
    match op.inputs.get(parameter)? {
        Argument::One(Binding::Name(name)) => Some(name),
        _ => None,
    }
}

/// Drops `identity` where it only gives a result of the function its name: what makes the value takes the name.
pub fn drop_identities(function: &mut Function) -> usize {
    let block = &mut function.block;
    let mut changed = 0;
    while let Some((at, from, to)) = renaming(block) {
        block.operations.remove(at);
        names::rename(block, &from, &to);
        changed += 1;
    }
    changed
}

/// An `identity` that names a result: its place, the name of its value, and its own.
fn renaming(block: &Block) -> Option<(usize, String, String)> {
    let made: HashMap<&str, usize> = block
        .operations
        .iter()
        .enumerate()
        .filter(|(_, op)| op.kind != "const")
        .flat_map(|(i, op)| op.outputs.iter().map(move |o| (o.name.as_str(), i)))
        .collect();
    block.operations.iter().enumerate().find_map(|(at, op)| {
        let [output] = op.outputs.as_slice() else { return None };
        let from = bound(op, "x").filter(|_| op.kind == "identity")?;
        let returned = |name: &str| block.outputs.iter().any(|o| o == name);
        // Inputs and constants keep their names, and so do values that are returned themselves.
        let fits = made.contains_key(from) && returned(&output.name) && !returned(from);
        fits.then(|| (at, from.to_owned(), output.name.clone()))
    })
}

/// The value of a constant.
fn constant_of(op: &Operation) -> Option<&Value> {
    op.attributes.get("val").filter(|_| op.kind == "const")
}

fn constants(block: &Block) -> HashMap<String, Value> {
    let of = |op: &Operation| Some((op.outputs.first()?.name.clone(), constant_of(op)?.clone()));
    block.operations.iter().filter_map(of).collect()
}

/// Replaces `shape` of a value of known extents, and `reshape`, `expand_dims`, `squeeze` and `identity` of a constant, by
/// constants; results of the function stay as they are.
pub fn fold_constants(function: &mut Function) -> usize {
    let known = constants(&function.block);
    let mut types: HashMap<String, ValueType> =
        function.inputs.iter().map(|i| (i.name.clone(), i.ty.clone())).collect();
    let returned: HashSet<String> = function.block.outputs.iter().cloned().collect();
    let mut changed = 0;
    for op in &mut function.block.operations {
        types.extend(op.outputs.iter().map(|o| (o.name.clone(), o.ty.clone())));
        let [output] = op.outputs.as_slice() else { continue };
        if returned.contains(&output.name) {
            continue;
        }
        let Some(x) = bound(op, "x") else { continue };
        let value = match op.kind.as_str() {
            "shape" => types.get(x).and_then(ValueType::tensor).and_then(TensorType::fixed_shape).and_then(|shape| {
                let extents: Option<Vec<i32>> = shape.iter().map(|&n| i32::try_from(n).ok()).collect();
                Some(Value::ints(&extents?))
            }),
            // The elements stay where they are.
            "reshape" | "expand_dims" | "squeeze" | "identity" => known.get(x).and_then(|value| {
                let (from, to) = (value.ty.tensor()?, output.ty.tensor()?);
                let same = from.dtype == to.dtype && size(from)? == size(to)?;
                same.then(|| Value { ty: output.ty.clone(), data: value.data.clone() })
            }),
            _ => None,
        };
        if let Some(value) = value.filter(|v| v.ty == output.ty) {
            op.kind = "const".to_owned();
            op.inputs.clear();
            op.attributes = [("val".to_owned(), value)].into_iter().collect();
            changed += 1;
        }
    }
    changed
}

fn size(ty: &TensorType) -> Option<usize> {
    ty.fixed_shape()?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Makes `add` of a constant for each channel the bias of the `linear`, `conv` or `conv_transpose` before it.
pub fn fuse_biases(function: &mut Function) -> usize {
    let mut changed = 0;
    while let Some((product, sum, bias)) = biased(&function.block) {
        let block = &mut function.block;
        let output = block.operations[sum].outputs[0].clone();
        let name = {
            let mut taken = Vec::new();
            names::defined(block, &mut taken);
            taken.extend(function.inputs.iter().map(|i| i.name.as_str()));
            (0..)
                .map(|i| format!("{}_bias_{i}", output.name))
                .find(|n| !taken.contains(&n.as_str()))
                .unwrap_or_default()
        };
        block.operations[product].inputs.insert("bias".to_owned(), Argument::One(Binding::Name(name.clone())));
        // The product takes the place of the sum.
        block.operations[product].outputs = vec![output];
        let op = Operation {
            kind: "const".to_owned(),
            name: name.clone(),
            inputs: Default::default(),
            outputs: vec![NamedType { name, ty: bias.ty.clone() }],
            blocks: Vec::new(),
            attributes: [("val".to_owned(), bias)].into_iter().collect(),
        };
        block.operations.remove(sum);
        block.operations.insert(product, op);
        changed += 1;
    }
    changed
}

/// A product without bias, the sum after it that alone uses it, and the constant of the sum as a vector.
fn biased(block: &Block) -> Option<(usize, usize, Value)> {
    let mut used = HashMap::new();
    names::uses(block, &mut used);
    let made: HashMap<&str, usize> = block
        .operations
        .iter()
        .enumerate()
        .filter_map(|(i, op)| Some((op.outputs.first()?.name.as_str(), i)))
        .collect();
    block.operations.iter().enumerate().find_map(|(sum, op)| {
        if op.kind != "add" {
            return None;
        }
        let (x, y) = (bound(op, "x")?, bound(op, "y")?);
        [(x, y), (y, x)].into_iter().find_map(|(from, constant)| {
            let (&product, value) = (made.get(from)?, constant_of(&block.operations[*made.get(constant)?])?);
            let source = &block.operations[product];
            let axis = match source.kind.as_str() {
                "linear" => source.outputs[0].ty.tensor()?.shape.len() - 1,
                "conv" | "conv_transpose" => 1,
                _ => return None,
            };
            // The sum has the type of the product: the constant is not broadcast over it.
            let alone = used.get(from) == Some(&1) && !source.inputs.contains_key("bias");
            let same = source.outputs[0].ty == op.outputs[0].ty;
            let bias = channel(value, source.outputs[0].ty.tensor()?, axis).filter(|_| alone && same)?;
            let weight = match source.inputs.get("weight")? {
                Argument::One(Binding::Name(name)) => {
                    let at = made.get(name.as_str())?;
                    block.operations[*at].outputs[0].ty.tensor()?.dtype
                }
                Argument::One(Binding::Value(value)) => value.ty.tensor()?.dtype,
                Argument::Many(_) => return None,
            };
            (bias.ty.tensor()?.dtype == weight).then_some((product, sum, bias))
        })
    })
}

/// A constant that has one number for each extent of an axis and is the same along the others, as a vector.
fn channel(value: &Value, of: &TensorType, axis: usize) -> Option<Value> {
    let ty = value.ty.tensor()?;
    let (shape, rank) = (ty.fixed_shape()?, of.shape.len());
    let Dim::Fixed(channels) = of.shape[axis] else { return None };
    let lead = rank.checked_sub(shape.len())?;
    let at = axis.checked_sub(lead)?;
    let fits = shape.iter().enumerate().all(|(i, &n)| n == if i == at { channels } else { 1 });
    let elements = matches!(value.data, ValueData::Tensor(TensorData::Bytes(_) | TensorData::Blob(_)));
    let vector = ValueType::Tensor(TensorType::fixed(ty.dtype, &[channels]));
    (fits && elements).then(|| Value { ty: vector, data: value.data.clone() })
}
