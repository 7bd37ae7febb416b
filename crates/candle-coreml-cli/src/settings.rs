//! Settings arguments shared by several verbs, merged with all other layers.

use std::path::PathBuf;

use candle_coreml::backend::BackendDevice;
use candle_coreml::settings::{self, Layer, Settings};

use crate::model::Consent;

/// Location of the settings.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConfigArgument {
    /// Read settings from this file [default: CANDLE_COREML_CONFIG, else config.toml in the system's configuration
    /// folder].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ConfigArgument {
    /// Path of the file, and true if it was given explicitly.
    pub(crate) fn location(&self) -> Result<(PathBuf, bool), Box<dyn std::error::Error>> {
        settings::location(self.config.as_deref())
            .ok_or_else(|| "this system has no folder for configurations; name a file with --config".into())
    }
}

/// Model and device arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ModelArguments {
    /// Use this model: a folder (Core ML packages, or a checkpoint); a model on the Hub, org/name[@revision],
    /// downloaded if not cached; or `auto`, the largest known one that fits in memory [default: the model in the
    /// settings, else the demo model, which `demo` names].
    #[arg(long, short)]
    pub(crate) model: Option<PathBuf>,
    /// Run on this device: auto, coreml, metal, cuda, cpu.
    #[arg(long)]
    pub(crate) device: Option<BackendDevice>,
    /// Devices to try if the first is unavailable or fails to start.
    #[arg(long, value_delimiter = ',', value_name = "cuda,cpu")]
    pub(crate) fallback: Option<Vec<BackendDevice>>,
    #[command(flatten)]
    pub(crate) config: ConfigArgument,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

impl ModelArguments {
    /// Merges all layers; prints warnings about the file.
    pub(crate) fn settings(&self) -> Result<Settings, Box<dyn std::error::Error>> {
        let flags = Layer {
            device: self.device,
            model_path: self.model.clone(),
            fallback_chain: self.fallback.clone(),
            ..Layer::default()
        };
        let (settings, warnings) = settings::load(self.config.config.as_deref(), flags)?;
        for warning in warnings {
            note!("warning: {warning}");
        }
        Ok(settings)
    }
}
