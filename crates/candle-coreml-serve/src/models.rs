//! The models of a server, by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_coreml::backend::{BackendConfig, TextGeneration, open};
use candle_coreml::encoder::TextEncoder;
use candle_coreml::nonblocking::{AsyncGenerator, AsyncModel, Capacity};

use crate::error::{ApiError, ServeError};
use crate::metrics::{Metrics, ModelWatch};
use crate::settings::Settings;

/// Kind of model.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Generates text.
    Language(AsyncGenerator),
    /// Embeds texts.
    Encoder(AsyncModel<TextEncoder>),
}

/// A model and the name used in requests.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// Loaded models, ready to be served.
#[derive(Debug, Default)]
pub struct Models {
    pub(crate) all: Vec<Served>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Most entries of a folder that are looked at.
const ENTRIES: usize = 10_000;

/// True for a Core ML model, and for a folder that holds some.
fn has_packages(folder: &Path) -> bool {
    let is = |path: &Path| {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        ending.is_some_and(|e| ["mlpackage", "mlmodelc", "mlmodel"].contains(&e.as_str())) && path.exists()
    };
    let entries = || std::fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES);
    is(folder) || entries().any(|entry| is(&entry.path()))
}

impl Models {
    /// Loads models from pairs of a name and a folder, each with a language model or an encoder. Blocks.
    ///
    /// # Errors
    /// [`ServeError::NoModel`], [`ServeError::SameName`], [`ServeError::Neither`], or [`ServeError::Model`].
    pub fn load(models: &[(String, PathBuf)], settings: &Settings) -> Result<Self, ServeError> {
        if models.is_empty() {
            return Err(ServeError::NoModel);
        }
        let mut all = Self::default();
        for (name, folder) in models {
            all.add(name, folder, settings)?;
        }
        Ok(all)
    }

    /// Adds the language model or encoder in a folder. Blocks.
    ///
    /// # Errors
    /// Same as [`Models::load`].
    pub fn add(&mut self, name: &str, folder: &Path, settings: &Settings) -> Result<(), ServeError> {
        // Fails fast for language models, which have several packages, or checkpoints.
        let encoder = match TextEncoder::load(folder) {
            Ok(encoder) => {
                let capacity = Capacity { slots: settings.slots, queue: settings.queue, buffer: 1 };
                return self.push(name, Kind::Encoder(AsyncModel::new(encoder, capacity)));
            }
            Err(error) => Box::new(error),
        };
        let config = BackendConfig {
            device: settings.device,
            model_path: Some(folder.to_owned()),
            fallback_chain: settings.fallback.clone(),
            ..BackendConfig::default()
        };
        match open(&config) {
            Ok(model) => self.add_language(name, model, settings),
            Err(error) => {
                let (name, language) = (name.to_owned(), Box::new(error));
                // Without packages it is no encoder for the same reason.
                Err(if has_packages(folder) {
                    ServeError::Neither { name, language, encoder }
                } else {
                    ServeError::Model { name, source: language }
                })
            }
        }
    }

    /// Adds a loaded language model. Blocks.
    ///
    /// # Errors
    /// If the name is taken, or the model fails or cannot hold several conversations.
    pub fn add_language(
        &mut self,
        name: &str,
        model: impl TextGeneration,
        settings: &Settings,
    ) -> Result<(), ServeError> {
        // The buffer fits a whole answer: a slow reader does not occupy a slot.
        let buffer = model.info().context.saturating_add(2);
        let capacity = Capacity { slots: settings.slots, queue: settings.queue, buffer };
        let watch = Arc::new(ModelWatch::new(name, &self.metrics));
        let model = AsyncGenerator::watched(model, capacity, watch)
            .map_err(|source| ServeError::Model { name: name.to_owned(), source: Box::new(source) })?;
        self.push(name, Kind::Language(model))
    }

    fn push(&mut self, name: &str, kind: Kind) -> Result<(), ServeError> {
        if self.all.iter().any(|m| m.name == name) {
            return Err(ServeError::SameName(name.to_owned()));
        }
        self.all.push(Served { name: name.to_owned(), kind });
        Ok(())
    }

    /// One line per model: name and description.
    pub fn lines(&self) -> Vec<String> {
        let line = |served: &Served| match &served.kind {
            Kind::Language(model) => {
                let info = model.info();
                let (device, engine, context) = (info.device, info.engine, info.context);
                format!("{}: language model on {device} ({engine}), context {context}", served.name)
            }
            Kind::Encoder(model) => {
                let (output, pooling) = model.get().output();
                let how = pooling.map_or("as it is".to_owned(), |p| format!("{p:?}").to_lowercase());
                format!("{}: encoder, vectors of {} from `{output}` ({how})", served.name, model.get().width())
            }
        };
        self.all.iter().map(line).collect()
    }

    /// The model of this name. `NAME:latest`, as ollama's programs write it, is `NAME`.
    pub(crate) fn named(&self, name: &str) -> Option<&Served> {
        let plain = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_owned();
        let exact = self.all.iter().find(|m| m.name == name);
        exact.or_else(|| self.all.iter().find(|m| plain(&m.name) == plain(name)))
    }

    /// Finds the requested model. A request without a name selects the only model of the right kind.
    fn find<'m, T>(
        &'m self,
        name: Option<&str>,
        wanted: impl Fn(&'m Kind) -> Option<T>,
    ) -> Result<(&'m str, T), ApiError> {
        let names = || self.all.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        let Some(name) = name else {
            let mut fitting = self.all.iter().filter_map(|m| Some((m.name.as_str(), wanted(&m.kind)?)));
            return match (fitting.next(), fitting.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(ApiError::field("model", format!("name one of: {}", names()))),
            };
        };
        let served = self.named(name).ok_or_else(|| ApiError::no_model(name, &names()))?;
        match wanted(&served.kind) {
            Some(found) => Ok((&served.name, found)),
            None => Err(ApiError::field(
                "model",
                match served.kind {
                    Kind::Language(_) => format!("`{name}` is a language model and has no embeddings; an encoder has"),
                    Kind::Encoder(_) => format!("`{name}` is an encoder; it has embeddings, but generates no text"),
                },
            )),
        }
    }

    /// The requested language model.
    pub(crate) fn language(&self, name: Option<&str>) -> Result<(&str, &AsyncGenerator), ApiError> {
        self.find(name, |kind| if let Kind::Language(model) = kind { Some(model) } else { None })
    }

    /// The requested encoder.
    pub(crate) fn encoder(&self, name: Option<&str>) -> Result<(&str, &AsyncModel<TextEncoder>), ApiError> {
        self.find(name, |kind| if let Kind::Encoder(model) = kind { Some(model) } else { None })
    }
}
