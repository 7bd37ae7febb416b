//! Loading options of a model: function, engine, compute units, limits.

use std::path::{Path, PathBuf};

use super::{CoreMLModel, PassSet};
use crate::config::Config;
use crate::custom::{CustomFailure, CustomLayer, CustomModel, CustomSource};
use crate::engine::{self, ComputeUnits, EngineChoice, EngineOptions, Limits, NativeOptions};
use crate::error::Result;

/// Options for loading a model, from [`CoreMLModel::builder`].
///
/// | option | default |
/// |---|---|
/// | [`function`](Self::function) | the file's default function |
/// | [`engine`](Self::engine) | Core ML if it can load the model, else the portable engine |
/// | [`compute_units`](Self::compute_units) | CPU and Neural Engine; native engine only |
/// | [`config`](Self::config) | the model's own input and output names |
/// | [`limits`](Self::limits), [`passes`](Self::passes) | most of the memory, all passes; portable engine only |
/// | [`compiled_models`](Self::compiled_models) | the user's cache folder; native engine only |
/// | [`custom_layer`](Self::custom_layer), [`custom_model`](Self::custom_model) | none; portable engine only |
/// | [`native_options`](Self::native_options) | no hints, no observer; native engine only |
#[derive(Debug, Clone)]
#[must_use = "nothing is loaded before `load`"]
pub struct CoreMLModelBuilder {
    path: PathBuf,
    config: Config,
    function: Option<String>,
    options: EngineOptions,
}

impl CoreMLModelBuilder {
    /// [`CoreMLModel::builder`] with a configuration.
    pub fn new(path: impl AsRef<Path>, config: Config) -> Self {
        Self { path: path.as_ref().to_owned(), config, function: None, options: EngineOptions::default() }
    }

    /// One component of a model on the hub: `org/name[@revision]` and its path there, such as `head.mlpackage`. If it
    /// is not cached, downloads it without the rest of the model.
    ///
    /// # Errors
    /// [`Error::Hub`](crate::Error::Hub).
    #[cfg(feature = "hub")]
    pub fn load_from_hub(id: &str, file: &str, config: Config) -> Result<Self> {
        let path = crate::hub::Hub::from_environment()?.ensure_file(id, file)?;
        Ok(Self::new(path, config))
    }

    /// Sets input and output names for callers that pass tensors by position.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Loads this function, such as `infer` or `prefill`, instead of the default one.
    pub fn function(mut self, name: &str) -> Self {
        self.function = Some(name.to_owned());
        self
    }

    /// Chooses the engine.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.options.choice = engine;
        self
    }

    /// Chooses the processors that the native engine may use; the portable engine uses the CPU. With the GPU among them
    /// Core ML may end the process: see [`ComputeUnits::All`].
    pub fn compute_units(mut self, units: ComputeUnits) -> Self {
        self.options.compute_units = units;
        self
    }

    /// Stores models compiled by the native engine in this folder instead of the user's cache folder.
    pub fn compiled_models(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.cache = Some(folder.into());
        self
    }

    /// Sets further options of the native engine: hints, the GPU, observer and switch of the load.
    pub fn native_options(mut self, native: NativeOptions) -> Self {
        self.options.native = native;
        self
    }

    /// Loads the model and lets go of it, so that later loads find it compiled and prepared: on Core ML the first load
    /// of a large model takes minutes.
    ///
    /// # Errors
    /// Same as [`load`](Self::load).
    pub fn prewarm(self) -> Result<()> {
        self.load().map(drop)
    }

    /// Sets the passes of the portable engine; a diagnostic, results stay within tolerance with any set.
    pub fn passes(mut self, passes: PassSet) -> Self {
        self.options.passes = passes;
        self
    }

    /// Supplies the layers of a class that a neural network names, on the portable engine. `make` is called once for each layer,
    /// with the parameters and weights of the file.
    ///
    /// ```
    /// use candle_core::Tensor;
    /// use candle_coreml::custom::{CustomFailure, CustomLayer, Extents};
    /// use candle_coreml::CoreMLModel;
    ///
    /// /// scale · x.
    /// struct Scale(f64);
    ///
    /// impl CustomLayer for Scale {
    ///     fn output_shapes(&self, inputs: &[Extents]) -> Result<Vec<Extents>, CustomFailure> {
    ///         Ok(inputs.to_vec())
    ///     }
    ///
    ///     fn evaluate(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, CustomFailure> {
    ///         inputs.iter().map(|x| Ok(x.affine(self.0, 0.0)?)).collect()
    ///     }
    /// }
    ///
    /// let builder = CoreMLModel::builder("model.mlmodel").custom_layer("Scale", |file| Ok(Scale(file.number("scale")?)));
    /// ```
    pub fn custom_layer<L: CustomLayer + 'static>(
        mut self,
        class: &str,
        make: impl Fn(&CustomSource) -> std::result::Result<L, CustomFailure> + Send + Sync + 'static,
    ) -> Self {
        self.options.custom.add_layer(class, make);
        self
    }

    /// Supplies the models of a class that a file of type `customModel`, or a part of a pipeline, names; on the portable
    /// engine.
    pub fn custom_model<M: CustomModel + 'static>(
        mut self,
        class: &str,
        make: impl Fn(&CustomSource) -> std::result::Result<M, CustomFailure> + Send + Sync + 'static,
    ) -> Self {
        self.options.custom.add_model(class, make);
        self
    }

    /// Sets memory and work limits of a prediction on the portable engine.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// [`Error`](crate::Error) naming the file and what was expected; an unknown function; unknown names in the
    /// configuration; the native engine requested but unavailable.
    pub fn load(self) -> Result<CoreMLModel> {
        let mut opened = engine::open(&self.path, &self.options)?;
        let package = opened.package.clone();
        CoreMLModel::from_package_with(package, self.function.as_deref(), self.config, &self.options)
            .map_err(|e| opened.explain(e))
    }

    /// Same as [`load`](Self::load).
    ///
    /// # Errors
    /// Same as [`load`](Self::load).
    pub fn build_model(self) -> Result<CoreMLModel> {
        self.load()
    }
}
