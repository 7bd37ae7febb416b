//! What the components declare, and the tensors that they are fed.

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

/// Shape of an input by the description.
pub(super) fn declared_shape(model: &CoreMLModel, name: &str) -> Option<Vec<usize>> {
    feature_shape(&model.function_description().input(name)?.ty)
}

/// Shape of an output by the description, else by the type of the value that the program returns.
pub(super) fn output_shape(model: &CoreMLModel, name: &str) -> Option<Vec<usize>> {
    let described = model.function_description().output(name).and_then(|f| feature_shape(&f.ty));
    described.or_else(|| {
        let program = crate::engine::program(model.package())?;
        let function = program.functions.get(model.function())?;
        let outputs = function.block.operations.iter().flat_map(|op| &op.outputs);
        outputs.filter(|o| o.name == name).find_map(|o| o.ty.tensor()?.fixed_shape())
    })
}

/// The only length that an embeddings model takes, when it is not `count`.
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
            // The shortest that holds them all, else the longest.
            lengths.iter().copied().filter(|&n| n >= count).min().or(lengths.into_iter().max())
        }
        _ => None,
    }
}

/// The dimension of each of these inputs that a batch has its tokens in: those of a function that takes no others.
pub(super) fn token_dimensions(inputs: &[String]) -> Vec<(String, usize)> {
    let dimension = |name: &String| match name.as_str() {
        "hidden_states" => Some((name.clone(), 1)),
        "position_ids" => Some((name.clone(), 0)),
        "causal_mask" => Some((name.clone(), 2)),
        _ => None,
    };
    inputs.iter().filter_map(dimension).collect()
}

/// The inputs of an FFN chunk for `count` tokens at positions `start..`; only what it declares.
pub(super) fn for_chunk(
    model: &CoreMLModel,
    hidden: Tensor,
    start: usize,
    count: usize,
    context: usize,
) -> Result<Vec<(String, Tensor)>> {
    let mut hidden = Some(hidden);
    let mut fed = Vec::new();
    for name in model.input_names() {
        let tensor = match name.as_str() {
            "hidden_states" => hidden.take(),
            "position_ids" => {
                let positions: Vec<i64> = (start..start + count).map(|p| p as i64).collect();
                Some(Tensor::from_vec(positions, count, &Device::Cpu)?)
            }
            "causal_mask" => Some(super::causal_mask(start, count, context)?),
            "current_pos" => Some(Tensor::from_vec(vec![start as i64], 1, &Device::Cpu)?),
            "update_mask" => Some(update_mask(model, start, count, context)?),
            _ => None,
        };
        let tensor = tensor.ok_or_else(|| Error::Components {
            path: model.path().to_owned(),
            message: format!("function `{}` wants the input `{name}`, which is not known", model.function()),
        })?;
        fed.push((name, tensor));
    }
    Ok(fed)
}

/// One where the cache is written, in the declared shape `[1, 1, context, 1]`.
fn update_mask(model: &CoreMLModel, start: usize, count: usize, context: usize) -> Result<Tensor> {
    let shape = declared_shape(model, "update_mask").unwrap_or_else(|| vec![1, 1, context, 1]);
    let mut data = vec![f16::ZERO; shape.iter().product()];
    data.iter_mut().skip(start).take(count).for_each(|v| *v = f16::ONE);
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}
