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
pub(crate) fn output_shape(model: &CoreMLModel, name: &str) -> Option<Vec<usize>> {
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

/// What a chunk takes its tokens as.
#[derive(Clone, Copy)]
pub(super) enum Fed<'t> {
    /// Hidden states `[1, count, hidden]`, which the component before hands on.
    Hidden,
    /// Token ids: the chunk is the whole model.
    Ids(&'t [u32]),
}

/// The tokens that a chunk runs, at positions `start..start + count`.
struct Tokens<'m> {
    model: &'m CoreMLModel,
    fed: Fed<'m>,
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

/// The input that takes hidden states.
const HIDDEN_STATES: &str = "hidden_states";

/// Every input that chunks may declare.
const CHUNK_INPUTS: [ChunkInput; 6] = [
    ChunkInput { name: HIDDEN_STATES, tokens: Some(1), tensor: |_| Ok(None) },
    ChunkInput {
        name: "input_ids",
        tokens: Some(1),
        tensor: |t| match t.fed {
            Fed::Hidden => Ok(None),
            Fed::Ids(ids) => {
                let ids: Vec<i64> = ids.iter().map(|&i| i64::from(i)).collect();
                Ok(Some(Tensor::from_vec(ids, (1, t.count), &Device::Cpu)?))
            }
        },
    },
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
    ChunkInput { name: "update_mask", tokens: None, tensor: |t| update_mask(t.model, t.start, t.count).map(Some) },
];

/// Entry for an input.
fn chunk_input(name: &str) -> Option<&'static ChunkInput> {
    CHUNK_INPUTS.iter().find(|input| input.name == name)
}

/// Token dimension of each of these inputs.
pub(super) fn token_dimensions(inputs: &[String]) -> Vec<(String, usize)> {
    inputs.iter().filter_map(|name| Some((name.clone(), chunk_input(name)?.tokens?))).collect()
}

/// The input that has the tokens.
pub(super) const fn tokens_input(monolithic: bool) -> &'static str {
    if monolithic { "input_ids" } else { HIDDEN_STATES }
}

/// Refuses a function with an input that is not known, or that says nothing about where it writes.
pub(super) fn check(model: &CoreMLModel, monolithic: bool) -> Result<()> {
    let (tokens, other) = (tokens_input(monolithic), tokens_input(!monolithic));
    match model.input_names().iter().find(|name| *name == other || chunk_input(name).is_none()) {
        Some(name) => Err(unsupported(model, name)),
        None if declared_shape(model, "update_mask").is_some() => {
            let tokens = declared_shape(model, tokens).and_then(|s| s.get(1).copied()).unwrap_or(0);
            update_mask(model, 0, tokens).map(drop)
        }
        None => Ok(()),
    }
}

fn unsupported(model: &CoreMLModel, name: &str) -> Error {
    Error::Components {
        path: model.path().to_owned(),
        message: format!("function `{}` declares the unsupported input `{name}`", model.function()),
    }
}

/// The inputs of a chunk for `count` tokens at positions `start..`, but for hidden states; only what it declares.
pub(super) fn for_chunk(
    model: &CoreMLModel,
    fed: Fed<'_>,
    start: usize,
    count: usize,
    context: usize,
) -> Result<Vec<(String, Tensor)>> {
    let mut tokens = Tokens { model, fed, start, count, context };
    let handed = matches!(fed, Fed::Hidden);
    let mut fed = Vec::new();
    for name in model.input_names().into_iter().filter(|name| !handed || name != HIDDEN_STATES) {
        let tensor = match chunk_input(&name) {
            Some(input) => (input.tensor)(&mut tokens)?,
            None => None,
        };
        let tensor = tensor.ok_or_else(|| unsupported(model, &name))?;
        fed.push((name, tensor));
    }
    Ok(fed)
}

/// One where token `i` of the batch is written, at `[start + i, i]` of `[1, 1, rows, count]`.
fn update_mask(model: &CoreMLModel, start: usize, count: usize) -> Result<Tensor> {
    let shape = declared_shape(model, "update_mask").unwrap_or_default();
    let &[1, 1, rows, columns] = shape.as_slice() else { return Err(misshapen(model, &shape, count)) };
    if columns != count || count == 0 {
        return Err(misshapen(model, &shape, count));
    }
    let mut data = vec![f16::ZERO; rows * columns];
    for i in 0..count.min(rows.saturating_sub(start)) {
        data[(start + i) * columns + i] = f16::ONE;
    }
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

fn misshapen(model: &CoreMLModel, shape: &[usize], count: usize) -> Error {
    Error::Components {
        path: model.path().to_owned(),
        message: format!(
            "`update_mask` of function `{}` has the shape {shape:?}, expected [1, 1, rows, {count}]: a column for each token",
            model.function()
        ),
    }
}
