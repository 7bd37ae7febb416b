//! [`LanguageModel`] by the name it had when it ran Qwen only.

use crate::language_model::{LanguageModel, LanguageModelConfig};

/// [`LanguageModel`] by its first name.
pub type QwenModel = LanguageModel;

/// [`LanguageModelConfig`] by its first name.
pub type QwenConfig = LanguageModelConfig;
