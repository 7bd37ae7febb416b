//! [`UnifiedModelLoader`]: loads a model by name, ready to generate.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::anemll::model_config::ModelConfig;
use crate::cache::paths::read_small;
use crate::cache::{CacheEntry, CacheManager};
use crate::error::{Error, Result};
use crate::hub::{Hub, ModelId};
use crate::language_model::{LanguageModel, LanguageModelConfig};

/// File name of the configuration in a local model's folder.
const LOCAL_CONFIG: &str = ".candle-coreml-config.json";

/// Downloads if needed, discovers, configures and loads. The discovered configuration is stored beside the model as
/// JSON, which [`ModelConfig::load`] reads too, and reused while the model's files are unchanged.
///
/// ```no_run
/// let mut model = candle_coreml::UnifiedModelLoader::new()?.load_model("org/name")?;
/// println!("{}", model.generate("2 + 2 =", 8, 0.0)?);
/// # Ok::<(), candle_coreml::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct UnifiedModelLoader {
    hub: Hub,
}

/// A configuration and the files it was generated from.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    config: ModelConfig,
    files: Vec<FileState>,
}

/// State of a file: path, size in bytes, modification time in nanoseconds since 1970.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileState {
    path: String,
    size: u64,
    changed: u64,
}

impl UnifiedModelLoader {
    /// A loader with the hub and cache from the environment.
    ///
    /// # Errors
    /// Same as [`Hub::from_environment`].
    pub fn new() -> Result<Self> {
        Ok(Self::with_hub(Hub::from_environment()?))
    }

    /// A loader with a given hub and cache.
    pub fn with_hub(hub: Hub) -> Self {
        Self { hub }
    }

    /// Loads a model by `org/name[@revision]` or folder.
    ///
    /// # Errors
    /// [`Error::Hub`]; those of [`LanguageModel::load_from_directory`].
    pub fn load_model(&self, id: &str) -> Result<LanguageModel> {
        let found = self.look(id)?;
        if let Some(config) = found.saved {
            return LanguageModel::load_from_directory(
                found.folder,
                Some(LanguageModelConfig::from_model_config(config)),
            );
        }
        let mut model = LanguageModel::load_from_directory(&found.folder, None)?;
        let config = ModelConfig::of(model.pipeline(), id)?;
        model.set_config(LanguageModelConfig::from_model_config(found.keep(config)));
        Ok(model)
    }

    /// The configuration of a model; downloads it if it is not cached.
    ///
    /// # Errors
    /// Same as [`UnifiedModelLoader::load_model`].
    pub fn generate_config(&self, id: &str) -> Result<ModelConfig> {
        let found = self.look(id)?;
        if let Some(config) = found.saved {
            return Ok(config);
        }
        let config = ModelConfig { model_id: id.to_owned(), ..ModelConfig::discover(&found.folder)? };
        Ok(found.keep(config))
    }

    /// The complete models in the cache.
    ///
    /// # Errors
    /// [`Error::Cache`] if the cache can't be read.
    pub fn list_cached_models(&self) -> Result<Vec<CacheEntry>> {
        Ok(CacheManager::new(Some(self.hub.cache_root().to_owned()), Vec::new()).list_models()?)
    }

    /// Locates a model, downloading it if needed, and its saved configuration.
    fn look(&self, id: &str) -> Result<Found> {
        let (folder, notes) = if Path::new(id).is_dir() {
            (PathBuf::from(id), Some(Path::new(id).join(LOCAL_CONFIG)))
        } else {
            let model = ModelId::parse(id)?;
            let folder = self.hub.ensure(id)?;
            // A read-only cache still serves models.
            let notes = self.hub.notes(&model, &folder).inspect_err(|e| tracing::warn!("{e}")).ok();
            (folder, notes)
        };
        let files = file_states(&folder)?;
        let text = notes.as_ref().and_then(|path| read_small(path).ok());
        let saved: Option<Saved> = text.and_then(|text| serde_json::from_slice(&text).ok());
        let saved = saved.filter(|s| s.files == files && s.config.validate().is_ok()).map(|s| s.config);
        Ok(Found { folder, notes, files, saved })
    }
}

/// A model on disk.
struct Found {
    folder: PathBuf,
    /// Path of its saved configuration.
    notes: Option<PathBuf>,
    files: Vec<FileState>,
    /// The saved configuration, if these files are unchanged.
    saved: Option<ModelConfig>,
}

impl Found {
    /// Saves a configuration for the next time; failure is not an error.
    fn keep(self, config: ModelConfig) -> ModelConfig {
        let saved = Saved { config, files: self.files };
        if let Some(path) = self.notes
            && let Err(e) = save(&path, &saved)
        {
            tracing::warn!("{}: the configuration is not kept: {e}", path.display());
        }
        saved.config
    }
}

fn save(path: &Path, saved: &Saved) -> std::io::Result<()> {
    let mut file = path.as_os_str().to_owned();
    file.push(format!(".{}.tmp", std::process::id()));
    let text = serde_json::to_vec_pretty(saved)?;
    let written = fs::write(&file, text).and_then(|()| fs::rename(&file, path));
    if written.is_err() {
        // Report the first error.
        fs::remove_file(&file).ok();
    }
    written
}

/// Files that a configuration depends on: the components and `meta.yaml`.
fn file_states(folder: &Path) -> Result<Vec<FileState>> {
    let mut states = Vec::new();
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        let is_model = path.extension().is_some_and(|e| e == "mlpackage" || e == "mlmodelc" || e == "mlmodel");
        if is_model || path.file_name().is_some_and(|n| n == "meta.yaml") {
            collect(folder, &path, &mut states, 0).map_err(io(&path))?;
        }
    }
    states.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(states)
}

fn collect(root: &Path, path: &Path, states: &mut Vec<FileState>, depth: usize) -> std::io::Result<()> {
    // Foreign caches consist of symbolic links; follow them.
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() && depth < 16 {
        return fs::read_dir(path)?.try_for_each(|e| collect(root, &e?.path(), states, depth + 1));
    }
    let changed = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    states.push(FileState {
        path: path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned(),
        size: metadata.len(),
        changed: changed.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
    });
    Ok(())
}
