//! Resolves the model argument: a folder, `demo`, a model on the Hub, `auto`, or the default.

#[cfg(feature = "hub")]
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_coreml::Error;
use candle_coreml::backend::{BackendDevice, FallbackGenerator, backends};
use candle_coreml::catalog::{AUTO_MODEL, Memory, recommended_model};
#[cfg(feature = "hub")]
use candle_coreml::hub::HubError;
use candle_coreml::settings::Settings;
use secrecy::SecretString;
use sysinfo::System;

use crate::progress_monitor::Pause;
use crate::{demo, format, hint};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What may be downloaded without a question.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Consent {
    /// Download the model without asking, however large it is.
    #[arg(long)]
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub(crate) yes: bool,
}

/// Largest download that needs no consent, in bytes.
#[cfg(feature = "hub")]
const SMALL: u64 = 100_000_000;

#[cfg(feature = "hub")]
impl Consent {
    /// Asks before a large download; without a terminal nobody answers, and it is refused.
    fn gives(self, id: &str, bytes: u64) -> bool {
        if self.yes || bytes <= SMALL {
            return true;
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return false;
        }
        let _ =
            write!(std::io::stderr(), "{id} is a download of {}. Download it now? [y]es, [N]o: ", format::bytes(bytes));
        let mut answer = String::new();
        let read = std::io::stdin().lock().take(1024).read_line(&mut answer);
        read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
    }
}

/// Folder of a model: a path, `demo`, or a name on the Hub, which is downloaded if not cached.
pub(crate) fn folder(model: &Path, consent: Consent) -> Outcome<PathBuf> {
    folder_with(model, None, consent)
}

/// [`folder`] with a Hub token that takes precedence over the environment's.
pub(crate) fn folder_with(model: &Path, token: Option<&SecretString>, consent: Consent) -> Outcome<PathBuf> {
    if model == Path::new(demo::NAME) && !model.exists() {
        return Ok(demo::folder()?);
    }
    #[cfg(feature = "hub")]
    if !model.exists()
        && let Some(id) = model.to_str()
        && candle_coreml::hub::ModelId::parse(id).is_ok()
    {
        let name = id.to_owned();
        let hub = crate::progress::hub_with(token)?.consent(move |bytes| consent.gives(&name, bytes));
        return hub.ensure(id).map_err(|e| match e {
            HubError::Declined { bytes, .. } => {
                let size = format::bytes(bytes);
                format!("{id} is a download of {size}, which needs --yes, or `candle-coreml pull {id}` before").into()
            }
            e => format!("there is no folder `{id}`, and from the hub: {e}").into(),
        });
    }
    #[cfg(not(feature = "hub"))]
    let _ = (token, consent);
    if !model.exists() && model.extension().is_none() && model.components().count() == 1 {
        let meant = hint::path(model).map(|h| format!("; {h}")).unwrap_or_default();
        return Err(
            format!("there is no folder `{}`, and names on the Hub are org/name{meant}", model.display()).into()
        );
    }
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

/// The recommended model for a device.
fn recommended(device: BackendDevice, token: Option<&SecretString>, consent: Consent) -> Outcome<PathBuf> {
    let memory = memory();
    let model = recommended_model(device, memory);
    note!(
        "{} for {device}, by the {} of memory that are free; it is {} to download unless the cache has it",
        model.repository,
        format::bytes(memory.available),
        format::bytes(model.download)
    );
    folder_with(Path::new(model.repository), token, consent)
}

/// Default model folder for a device: Core ML uses the demo model unless `auto` requests a larger one; other devices
/// cannot run it and use the largest known model that fits.
fn for_device(device: BackendDevice, auto: bool, token: Option<&SecretString>, consent: Consent) -> Outcome<PathBuf> {
    if !auto && device == BackendDevice::CoreML {
        demo::announce();
        return Ok(demo::folder()?);
    }
    recommended(device, token, consent)
}

/// The model folder if it is the same on every device; `None` if each device has its own.
pub(crate) fn one_folder(settings: &Settings, consent: Consent) -> Outcome<Option<PathBuf>> {
    match named(settings) {
        Some(name) if !is_auto(&name) => folder_with(&name, settings.hf_token.as_ref(), consent).map(Some),
        _ => Ok(None),
    }
}

/// Model folder for Core ML.
pub(crate) fn coreml_folder(settings: &Settings, consent: Consent) -> Outcome<PathBuf> {
    match one_folder(settings, consent)? {
        Some(folder) => Ok(folder),
        None => for_device(BackendDevice::CoreML, named(settings).is_some(), settings.hf_token.as_ref(), consent),
    }
}

/// Loads the configured model on the first working device. `pause` suspends the monitor while download bars are shown.
pub(crate) fn open(settings: &Settings, pause: Arc<Pause>, consent: Consent) -> Outcome<FallbackGenerator> {
    let folder = {
        let _downloading = pause.hold();
        one_folder(settings, consent)?
    };
    let (auto, token) = (named(settings).is_some(), settings.hf_token.clone());
    let mut backend = settings.backend.clone();
    if !auto && backend.device == BackendDevice::Auto {
        // Without a named model the demo model answers. Others are downloads, for devices that were asked for.
        backend.device = BackendDevice::CoreML;
    }
    let locate = move |device| match &folder {
        Some(folder) => Ok(folder.clone()),
        None => {
            let _downloading = pause.hold();
            for_device(device, auto, token.as_ref(), consent).map_err(|e| Error::Unavailable(e.to_string()))
        }
    };
    Ok(FallbackGenerator::new(backends(&backend, locate))?)
}
