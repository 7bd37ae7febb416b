//! Opens a generator from a [`BackendConfig`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Backend, BackendConfig, BackendDevice, CoreMLGenerator, FallbackGenerator, TextGeneration, availability};
use crate::error::{Error, Result};

/// Locates the model for a device; may download it.
type Locate = dyn Fn(BackendDevice) -> Result<PathBuf> + Send + Sync;

struct Candidate {
    device: BackendDevice,
    locate: Arc<Locate>,
}

impl Backend for Candidate {
    fn device(&self) -> BackendDevice {
        self.device
    }

    fn absent(&self) -> Option<String> {
        let found = availability(self.device);
        (!found.usable()).then_some(found.detail)
    }

    fn load(&self) -> Result<Box<dyn TextGeneration>> {
        let folder = (self.locate)(self.device)?;
        load(self.device, &folder)
    }
}

/// Loads the model in a folder on a device.
fn load(device: BackendDevice, folder: &Path) -> Result<Box<dyn TextGeneration>> {
    if device == BackendDevice::CoreML {
        return Ok(Box::new(CoreMLGenerator::load(folder)?));
    }
    #[cfg(feature = "candle-models")]
    return Ok(Box::new(super::CandleGenerator::load(folder, device, &super::CandleOptions::default())?));
    #[cfg(not(feature = "candle-models"))]
    return Err(Error::Unavailable(format!("{device}: this build lacks the feature candle-models")));
}

/// Folder of the configured model: its path, else the repository name if that is a folder, else (with the feature
/// `hub`) the repository's model in the cache, downloaded if missing.
fn local(config: &BackendConfig) -> Result<PathBuf> {
    match (&config.model_path, &config.model_repo) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(name)) if Path::new(name).is_dir() => Ok(PathBuf::from(name)),
        #[cfg(feature = "hub")]
        (None, Some(name)) => Ok(crate::hub::ensure_model_downloaded(name)?),
        #[cfg(not(feature = "hub"))]
        (None, Some(name)) => Err(Error::Unavailable(format!(
            "`{name}` is not a folder on this machine; fetch the model and name its folder as the model path"
        ))),
        (None, None) => Err(Error::Request("no model: name its folder or its repository".to_owned())),
    }
}

/// The backends of a configuration, in order. `locate` returns the folder for a device; it is called only when the
/// backend is tried, and may download.
pub fn backends(
    config: &BackendConfig,
    locate: impl Fn(BackendDevice) -> Result<PathBuf> + Send + Sync + 'static,
) -> Vec<Box<dyn Backend>> {
    let locate: Arc<Locate> = Arc::new(locate);
    let candidate = |device| Box::new(Candidate { device, locate: locate.clone() }) as Box<dyn Backend>;
    let chain = config.chain();
    // What `auto` stands for is left out where this build or machine does not have it: nobody asked for it by name.
    let asked = |device: &BackendDevice| config.device == *device || config.fallback_chain.contains(device);
    let usable = |device: &BackendDevice| asked(device) || availability(*device).usable();
    chain.into_iter().filter(usable).map(candidate).collect()
}

/// Opens the configured model on the first device that works. Use [`backends`] to locate models differently.
///
/// # Errors
/// If no model is configured; [`Error::NoBackend`] if no device can load it.
pub fn open(config: &BackendConfig) -> Result<FallbackGenerator> {
    let folder = local(config)?;
    FallbackGenerator::new(backends(config, move |_| Ok(folder.clone())))
}
