//! Input tensors of a pipeline's components, for callers that run the components themselves.
//!
//! Shapes come from the model's configuration. "Mode" is prefill (a batch of the prompt) or infer (one token).

use candle_core::{Device, Tensor};
use half::f16;

use super::LanguageModelConfig;
use crate::anemll::model_config::{ModelConfig, ShapeConfig};
use crate::error::{Error, Result};

impl LanguageModelConfig {
    fn known(&self) -> Result<&ModelConfig> {
        self.model.as_ref().ok_or_else(|| {
            Error::Request(
                "the shapes of the model are not known; use `LanguageModelConfig::from_model_config`".to_owned(),
            )
        })
    }

    /// Dimensions of the model.
    ///
    /// # Errors
    /// If the configuration was not generated from a model.
    pub fn shapes(&self) -> Result<ShapeConfig> {
        Ok(self.known()?.shapes)
    }

    fn in_window(&self, position: usize) -> Result<ShapeConfig> {
        let shapes = self.shapes()?;
        if position >= shapes.context_length {
            return Err(Error::Request(format!(
                "position {position} is outside the context of {}",
                shapes.context_length
            )));
        }
        Ok(shapes)
    }

    /// Token ids `[1, batch]` for prefill, I64, right-padded with 0.
    ///
    /// # Errors
    /// If there are no tokens, or more than one batch.
    pub fn create_embeddings_input_tensor(&self, tokens: &[i64]) -> Result<Tensor> {
        padded("tokens", tokens, self.shapes()?.batch_size)
    }

    /// One token id in the shape that the embeddings model takes: `[1, 1]`, or its fixed length, padded with 0 (the
    /// token is in the first row), I64.
    ///
    /// # Errors
    /// If the configuration was not generated from a model.
    pub fn create_single_token_embeddings_input(&self, token: i64) -> Result<Tensor> {
        let embeddings = self.known()?.components.get("embeddings");
        let shape = embeddings.and_then(|c| c.inputs.values().next()).map(|t| t.shape.as_slice());
        padded("tokens", &[token], shape.and_then(|s| s.last()).copied().unwrap_or(1).max(1))
    }

    /// Positions, I64: `[batch]` for prefill, counting on in the padding; `[1]` for infer.
    ///
    /// # Errors
    /// If there are no positions, more than a batch (prefill) or than one (infer), or one is outside the context.
    pub fn create_position_ids_with_mode_detection(&self, positions: &[i64], is_prefill: bool) -> Result<Tensor> {
        let Some(&last) = positions.last() else { return Err(Error::Request("no positions".to_owned())) };
        for &p in positions {
            self.in_window(usize::try_from(p).unwrap_or(usize::MAX))?;
        }
        let length = if is_prefill { self.shapes()?.batch_size } else { 1 };
        if positions.len() > length {
            return Err(too_many("positions", positions.len(), length));
        }
        let mut all = positions.to_vec();
        all.extend((1..).map(|i| last + i).take(length - positions.len()));
        Ok(Tensor::from_vec(all, length, &Device::Cpu)?)
    }

    /// Causal mask rows from `position` on: `[1, 1, batch, context]` for prefill, `[1, 1, 1, context]` for infer, F16;
    /// 0 where column ≤ row, else −∞.
    ///
    /// # Errors
    /// If a position is outside the context, or the context length is not the model's.
    pub fn create_causal_mask_with_mode_detection(
        &self,
        position: usize,
        context_length: usize,
        is_prefill: bool,
    ) -> Result<Tensor> {
        let shapes = self.in_window(position)?;
        if context_length != shapes.context_length {
            return Err(Error::Input {
                name: "causal_mask".to_owned(),
                expected: format!("the model's context length {}", shapes.context_length),
                found: context_length.to_string(),
            });
        }
        crate::anemll::causal_mask(position, if is_prefill { shapes.batch_size } else { 1 }, context_length)
    }

    /// 1 at the position being written, `[1, 1, context, 1]`, F16.
    ///
    /// # Errors
    /// If the position is outside the context.
    pub fn create_update_mask_tensor(&self, position: usize) -> Result<Tensor> {
        let context = self.in_window(position)?.context_length;
        let mut mask = vec![f16::ZERO; context];
        mask[position] = f16::ONE;
        Ok(Tensor::from_vec(mask, (1, 1, context, 1), &Device::Cpu)?)
    }

    /// First position written, `[1]`, I64.
    ///
    /// # Errors
    /// If the position is outside the context.
    pub fn create_current_position_tensor(&self, position: usize) -> Result<Tensor> {
        self.in_window(position)?;
        Ok(Tensor::from_vec(vec![position as i64], 1, &Device::Cpu)?)
    }
}

fn too_many(what: &str, found: usize, limit: usize) -> Error {
    Error::Input { name: what.to_owned(), expected: format!("1 to {limit}"), found: found.to_string() }
}

fn padded(what: &str, values: &[i64], length: usize) -> Result<Tensor> {
    if values.is_empty() || values.len() > length {
        return Err(too_many(what, values.len(), length));
    }
    let mut all = values.to_vec();
    all.resize(length, 0);
    Ok(Tensor::from_vec(all, (1, length), &Device::Cpu)?)
}
