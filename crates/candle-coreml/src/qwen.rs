//! [`LanguageModel`] under its original name, from when it supported only Qwen.

use crate::language_model::{LanguageModel, LanguageModelConfig};

/// Original name of [`LanguageModel`].
pub type QwenModel = LanguageModel;

/// Original name of [`LanguageModelConfig`].
pub type QwenConfig = LanguageModelConfig;
