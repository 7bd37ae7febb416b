//! Resolves the model argument: a folder, a model on the Hub, `auto`, or the default.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_coreml::Error;
use candle_coreml::backend::{BackendDevice, FallbackGenerator, backends};
use candle_coreml::catalog::{AUTO_MODEL, Memory, recommended_model};
use candle_coreml::settings::Settings;
use secrecy::SecretString;
use sysinfo::System;

use crate::format;
use crate::progress_monitor::Pause;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Path of the shipped model: beside the executable, or in the source tree.
pub(crate) fn shipped() -> Result<PathBuf, String> {
    let name = "tiny-qwen3";
    let mut places = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().and_then(|e| e.parent().map(|p| p.to_owned())) {
        places.push(folder.join("models").join(name));
        places.push(folder.join("../share/candle-coreml/models").join(name));
    }
    places.push(PathBuf::from("models").join(name));
    places.push(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models")).join(name));
    places.into_iter().find(|p| p.is_dir()).ok_or_else(|| {
        format!("the model {name} that comes with the project was not found; name a model with --model DIR")
    })
}

/// Folder of a model; models on the Hub are downloaded if not cached.
pub(crate) fn folder(model: &Path) -> Outcome<PathBuf> {
    folder_with(model, None)
}

/// [`folder`] with a Hub token that takes precedence over the environment's.
pub(crate) fn folder_with(model: &Path, token: Option<&SecretString>) -> Outcome<PathBuf> {
    #[cfg(feature = "hub")]
    if !model.exists()
        && let Some(id) = model.to_str()
        && candle_coreml::hub::ModelId::parse(id).is_ok()
    {
        let hub = crate::progress::hub_with(token)?;
        return hub.ensure(id).map_err(|e| format!("there is no folder `{id}`, and from the hub: {e}").into());
    }
    #[cfg(not(feature = "hub"))]
    let _ = token;
    Ok(model.to_owned())
}

/// Memory of this machine or container; `None` where the system does not report it.
pub(crate) fn memory() -> Memory {
    let Ok(mut system) = System::new() else { return Memory { total: 0, available: 0 } };
    system.refresh_memory();
    let machine = Memory { total: system.total_memory(), available: system.available_memory() };
    match system.cgroup_limits() {
        Some(limits) => Memory {
            total: machine.total.min(limits.total_memory),
            available: machine.available.min(limits.free_memory),
        },
        None => machine,
    }
}

/// The model named by the settings.
fn named(settings: &Settings) -> Option<PathBuf> {
    let backend = &settings.backend;
    backend.model_path.clone().or_else(|| backend.model_repo.as_ref().map(PathBuf::from))
}

/// Returns true for `auto`, unless a folder has that name.
fn is_auto(name: &Path) -> bool {
    name == Path::new(AUTO_MODEL) && !name.exists()
}

/// Default model folder for a device: Core ML uses the shipped model unless `auto` requests a larger one; other devices
/// cannot run it and use the largest known model that fits.
fn for_device(device: BackendDevice, auto: bool, token: Option<&SecretString>) -> Outcome<PathBuf> {
    if !auto && device == BackendDevice::CoreML {
        return Ok(shipped()?);
    }
    let memory = memory();
    let model = recommended_model(device, memory);
    eprintln!(
        "{} for {device}, by the {} of memory that are free; it is {} to download unless the cache has it",
        model.repository,
        format::bytes(memory.available),
        format::bytes(model.download)
    );
    folder_with(Path::new(model.repository), token)
}

/// The model folder if it is the same on every device; `None` if each device has its own.
pub(crate) fn one_folder(settings: &Settings) -> Outcome<Option<PathBuf>> {
    match named(settings) {
        Some(name) if !is_auto(&name) => folder_with(&name, settings.hf_token.as_ref()).map(Some),
        _ => Ok(None),
    }
}

/// Model folder for Core ML.
pub(crate) fn coreml_folder(settings: &Settings) -> Outcome<PathBuf> {
    match one_folder(settings)? {
        Some(folder) => Ok(folder),
        None => for_device(BackendDevice::CoreML, named(settings).is_some(), settings.hf_token.as_ref()),
    }
}

/// Loads the configured model on the first working device. `pause` suspends the monitor while download bars are shown.
pub(crate) fn open(settings: &Settings, pause: Arc<Pause>) -> Outcome<FallbackGenerator> {
    let folder = {
        let _downloading = pause.hold();
        one_folder(settings)?
    };
    let (auto, token) = (named(settings).is_some(), settings.hf_token.clone());
    let locate = move |device| match &folder {
        Some(folder) => Ok(folder.clone()),
        None => {
            let _downloading = pause.hold();
            for_device(device, auto, token.as_ref()).map_err(|e| Error::Unavailable(e.to_string()))
        }
    };
    Ok(FallbackGenerator::new(backends(&settings.backend, locate))?)
}
