//! The engine that a caller asks for, and its configuration.

use std::path::PathBuf;

use coreml_engine::Limits;
use coreml_engine::passes::PassSet;
use coreml_framework::options::{ComputeUnits, ReshapeFrequency, Specialization};
use coreml_framework::progress::Watch;

use crate::custom::CustomRegistry;
use crate::error::{Error, Result};

/// Choice of engine for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EngineChoice {
    /// Apple's Core ML if it can load and run the model ([`proof`](super::proof)), else the portable engine.
    #[default]
    Auto,
    /// Apple's Core ML framework.
    Native,
    /// The portable engine.
    Portable,
}

impl EngineChoice {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Native, Self::Portable];

    /// Name for command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Portable => "portable",
        }
    }
}

impl std::fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for EngineChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let choice = Self::ALL.into_iter().find(|c| c.name() == name);
        let expected = || "auto, native, portable".to_owned();
        choice.ok_or_else(|| Error::UnknownName { what: "engine", name: name.to_owned(), expected: expected() })
    }
}

/// Choice and configuration of the engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The engine.
    pub choice: EngineChoice,
    /// Processors that the native engine may use; the portable engine uses the CPU.
    pub compute_units: ComputeUnits,
    /// Passes of the portable engine.
    pub passes: PassSet,
    /// Memory and work limits of a prediction on the portable engine.
    pub limits: Limits,
    /// Folder for models compiled by the native engine; `None`: the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Further options of the native engine.
    pub native: NativeOptions,
    /// Layers and models for classes that files name; portable engine only.
    pub custom: CustomRegistry,
}

/// Options that only Core ML has; the portable engine ignores them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NativeOptions {
    /// Expected frequency of shape changes (macOS 15, iOS 18); `None`: the system's default.
    pub reshape_frequency: Option<ReshapeFrequency>,
    /// Optimization target (macOS 15, iOS 18); `None`: the system's default.
    pub specialization: Option<Specialization>,
    /// Allow the GPU to accumulate in fp16.
    pub low_precision_accumulation: bool,
    /// Name of the GPU to prefer, as Metal reports it (macOS, feature `metal`); `None`: the system's choice.
    pub gpu: Option<String>,
    /// Observer and switch of the load, which takes minutes the first time.
    pub watch: Watch,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            choice: EngineChoice::default(),
            compute_units: ComputeUnits::default(),
            passes: PassSet::all(),
            limits: Limits::default(),
            cache: None,
            native: NativeOptions::default(),
            custom: CustomRegistry::default(),
        }
    }
}

impl EngineOptions {
    /// These options with another engine.
    #[must_use]
    pub fn with_choice(&self, choice: EngineChoice) -> Self {
        Self { choice, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_have_names_that_read_back() {
        for choice in EngineChoice::ALL {
            assert_eq!(choice.to_string().parse::<EngineChoice>().ok(), Some(choice));
        }
        assert!("coreml".parse::<EngineChoice>().expect_err("no such engine").to_string().contains("native"));
    }
}
