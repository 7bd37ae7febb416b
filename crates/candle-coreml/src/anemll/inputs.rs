//! Inputs that the components declare, and the tensors passed to them.

use candle_core::{Device, Tensor};
use coreml_format::description::{FeatureType, ShapeConstraint};
use half::f16;

use crate::error::{Error, Result};
use crate::model::CoreMLModel;

fn feature_shape(ty: &FeatureType) -> Option<Vec<usize>> {
    match ty {
        FeatureType::MultiArray { shape, .. } if !shape.is_empty() => Some(shape.clone()),
        _ => None,
    }
}

/// Shape of an input according to the description.
pub(super) fn declared_shape(model: &CoreMLModel, name: &str) -> Option<Vec<usize>> {
    feature_shape(&model.function_description().input(name)?.ty)
}

/// Shape of an output according to the description, else the type of the value that the program returns.
pub(super) fn output_shape(model: &CoreMLModel, name: &str) -> Option<Vec<usize>> {
    let described = model.function_description().output(name).and_then(|f| feature_shape(&f.ty));
    described.or_else(|| {
        let program = crate::engine::program(model.package())?;
        let function = program.functions.get(model.function())?;
        let outputs = function.block.operations.iter().flat_map(|op| &op.outputs);
        outputs.filter(|o| o.name == name).find_map(|o| o.ty.tensor()?.fixed_shape())
    })
}

/// The fixed length that an embeddings model requires, if it differs from `count`.
pub(crate) fn fixed_length(model: &CoreMLModel, count: usize) -> Option<usize> {
    let input = model.function_description().inputs.first()?;
    let FeatureType::MultiArray { shape, constraint, .. } = &input.ty else { return None };
    match constraint {
        ShapeConstraint::Fixed => shape.last().copied().filter(|&n| n != count),
        ShapeConstraint::Enumerated(all) => {
            let lengths: Vec<usize> = all.iter().filter_map(|s| s.last().copied()).collect();
            if lengths.contains(&count) {
                return None;
            }
            // The shortest length that holds all tokens, else the longest.
            lengths.iter().copied().filter(|&n| n >= count).min().or(lengths.into_iter().max())
        }
        _ => None,
    }
}

/// Tokens for one run of a chunk: `hidden` `[1, count, hidden]` at positions `start..start + count`.
struct Tokens<'m> {
    model: &'m CoreMLModel,
    hidden: Option<Tensor>,
    start: usize,
    count: usize,
    context: usize,
}

/// An input that a chunk may declare.
struct ChunkInput {
    name: &'static str,
    /// Token dimension, if a function may leave it dynamic.
    tokens: Option<usize>,
    tensor: fn(&mut Tokens<'_>) -> Result<Option<Tensor>>,
}

/// Every input that chunks may declare.
const CHUNK_INPUTS: [ChunkInput; 5] = [
    ChunkInput { name: "hidden_states", tokens: Some(1), tensor: |t| Ok(t.hidden.take()) },
    ChunkInput {
        name: "position_ids",
        tokens: Some(0),
        tensor: |t| {
            let positions: Vec<i64> = (t.start..t.start + t.count).map(|p| p as i64).collect();
            Ok(Some(Tensor::from_vec(positions, t.count, &Device::Cpu)?))
        },
    },
    ChunkInput {
        name: "causal_mask",
        tokens: Some(2),
        tensor: |t| super::causal_mask(t.start, t.count, t.context).map(Some),
    },
    ChunkInput {
        name: "current_pos",
        tokens: None,
        tensor: |t| Ok(Some(Tensor::from_vec(vec![t.start as i64], 1, &Device::Cpu)?)),
    },
    ChunkInput {
        name: "update_mask",
        tokens: None,
        tensor: |t| update_mask(t.model, t.start, t.count, t.context).map(Some),
    },
];

/// Entry for an input.
fn chunk_input(name: &str) -> Option<&'static ChunkInput> {
    CHUNK_INPUTS.iter().find(|input| input.name == name)
}

/// Token dimension of each of these inputs.
pub(super) fn token_dimensions(inputs: &[String]) -> Vec<(String, usize)> {
    inputs.iter().filter_map(|name| Some((name.clone(), chunk_input(name)?.tokens?))).collect()
}

/// Inputs of an FFN chunk for `count` tokens at positions `start..`; only those that it declares.
pub(super) fn for_chunk(
    model: &CoreMLModel,
    hidden: Tensor,
    start: usize,
    count: usize,
    context: usize,
) -> Result<Vec<(String, Tensor)>> {
    let mut tokens = Tokens { model, hidden: Some(hidden), start, count, context };
    let mut fed = Vec::new();
    for name in model.input_names() {
        let tensor = match chunk_input(&name) {
            Some(input) => (input.tensor)(&mut tokens)?,
            None => None,
        };
        let tensor = tensor.ok_or_else(|| Error::Components {
            path: model.path().to_owned(),
            message: format!("function `{}` declares the unsupported input `{name}`", model.function()),
        })?;
        fed.push((name, tensor));
    }
    Ok(fed)
}

/// 1 at the position being written, in the declared shape `[1, 1, context, 1]`.
fn update_mask(model: &CoreMLModel, start: usize, count: usize, context: usize) -> Result<Tensor> {
    let shape = declared_shape(model, "update_mask").unwrap_or_else(|| vec![1, 1, context, 1]);
    let mut data = vec![f16::ZERO; shape.iter().product()];
    data.iter_mut().skip(start).take(count).for_each(|v| *v = f16::ONE);
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}
