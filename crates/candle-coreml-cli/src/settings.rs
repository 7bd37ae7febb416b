//! The settings: arguments that several verbs have, and all layers together.

use std::path::PathBuf;

use candle_coreml::backend::BackendDevice;
use candle_coreml::settings::{self, Layer, Settings};

/// Where the settings are.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConfigArgument {
    /// File with settings; without it, the one that CANDLE_COREML_CONFIG names, else config.toml in the folder
    /// that the system has for configurations.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ConfigArgument {
    /// The file and whether it was named.
    pub(crate) fn location(&self) -> Result<(PathBuf, bool), Box<dyn std::error::Error>> {
        settings::location(self.config.as_deref())
            .ok_or_else(|| "this system has no folder for configurations; name a file with --config".into())
    }
}

/// Which model runs where.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ModelArguments {
    /// Folder with the model (Core ML packages, or a checkpoint), or a model of the hub, org/name[@revision], which is
    /// downloaded when it is not in the cache; `auto`: the largest known one that fits the memory; without it and
    /// without one in the settings, the small model that comes with the project.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Where it runs: auto, coreml, metal, cuda, cpu.
    #[arg(long)]
    pub(crate) device: Option<BackendDevice>,
    /// Devices that take over when that one can't be had or fails at its start.
    #[arg(long, value_delimiter = ',', value_name = "cuda,cpu")]
    pub(crate) fallback: Option<Vec<BackendDevice>>,
    #[command(flatten)]
    pub(crate) config: ConfigArgument,
}

impl ModelArguments {
    /// All layers together; what is odd about the file is told.
    pub(crate) fn settings(&self) -> Result<Settings, Box<dyn std::error::Error>> {
        let flags = Layer {
            device: self.device,
            model_path: self.model.clone(),
            fallback_chain: self.fallback.clone(),
            ..Layer::default()
        };
        let (settings, warnings) = settings::load(self.config.config.as_deref(), flags)?;
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        Ok(settings)
    }
}
