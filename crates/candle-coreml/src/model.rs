//! One Core ML model file, loaded and ready to predict.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
pub use coreml_engine::passes::PassSet;
use coreml_format::description::{
    DimRange, FeatureDescription, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint,
};
use coreml_format::model::Model;
use coreml_framework::shape;
use coreml_lower::neural_network;
pub use coreml_values::{DictionaryKey, FeatureValue};
use indexmap::IndexMap;

use crate::config::Config;
pub use crate::engine::EngineChoice;
use crate::engine::{self, Engine, EngineOptions, Loaded, OperationCost, OperationReport};
use crate::error::{Error, Result};
use crate::image;
use crate::state::CoreMLState;

pub use batch::{FeatureRow, RowOutputs};
pub use builder::CoreMLModelBuilder;
pub use inputs::ModelInputs;
pub use trace::ValueStats;

mod batch;
mod builder;
mod handing;
mod inputs;
mod together;
mod trace;

/// One loaded function of a model.
///
/// `Send` and `Sync`: several threads may predict with one model at once; a state is borrowed mutably, so only one
/// prediction uses it at a time.
#[derive(Debug)]
pub struct CoreMLModel {
    package: Arc<Model>,
    engine: Box<dyn Engine>,
    reason: String,
    config: Config,
    /// The function's description, if it differs from the file's.
    described: Option<FunctionDescription>,
}

impl CoreMLModel {
    /// Options for loading the model at this path:
    ///
    /// ```
    /// # std::env::set_current_dir("../..")?;
    /// use candle_coreml::{CoreMLModel, EngineChoice};
    ///
    /// let model = CoreMLModel::builder("models/tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage")
    ///     .function("prefill")
    ///     .engine(EngineChoice::Portable)
    ///     .load()?;
    /// assert!(model.is_stateful());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(path: impl AsRef<Path>) -> CoreMLModelBuilder {
        CoreMLModelBuilder::new(path, Config::default())
    }

    /// [`builder`](Self::builder) with defaults: the default function, on the best engine.
    ///
    /// # Errors
    /// Same as [`CoreMLModelBuilder::load`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).load()
    }

    /// [`builder`](Self::builder) with a configuration.
    ///
    /// # Errors
    /// Same as [`CoreMLModelBuilder::load`].
    pub fn load_from_file(path: impl AsRef<Path>, config: &Config) -> Result<Self> {
        Self::builder(path).config(config.clone()).load()
    }

    /// [`builder`](Self::builder) with a configuration and a function of a multi-function model.
    ///
    /// # Errors
    /// Same as [`CoreMLModelBuilder::load`].
    pub fn load_with_function(path: impl AsRef<Path>, config: &Config, function: &str) -> Result<Self> {
        Self::builder(path).config(config.clone()).function(function).load()
    }

    /// Loads a function of an open package on the portable engine; weights are shared.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::load_with_function`].
    pub fn from_package(package: Arc<Model>, function: Option<&str>, config: Config, passes: &PassSet) -> Result<Self> {
        let options =
            EngineOptions { choice: EngineChoice::Portable, passes: passes.clone(), ..EngineOptions::default() };
        Self::from_package_with(package, function, config, &options)
    }

    /// Loads a function of an open package on a given engine.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::load_with_function`], or if the native engine is requested but unavailable.
    pub fn from_package_with(
        package: Arc<Model>,
        function: Option<&str>,
        config: Config,
        options: &EngineOptions,
    ) -> Result<Self> {
        let loaded = engine::load(&package, function, options, &[])?;
        Self::loaded(package, loaded, config)
    }

    /// Loads a function with dynamic `rows` dimensions, if the engine supports it; the model then accepts up to `most`
    /// rows in them.
    pub(crate) fn with_rows(
        package: Arc<Model>,
        function: Option<&str>,
        options: &EngineOptions,
        rows: &[(String, usize)],
        most: usize,
    ) -> Result<Self> {
        let loaded = engine::load(&package, function, options, rows)?;
        let mut model = Self::loaded(package, loaded, Config::default())?;
        let open = model.engine.open_rows().to_vec();
        if !open.is_empty() {
            let mut described = model.function_description().clone();
            for feature in &mut described.inputs {
                let Some((_, axis)) = open.iter().find(|(name, _)| *name == feature.name) else { continue };
                if let FeatureType::MultiArray { shape, constraint, .. } = &mut feature.ty {
                    let range = |(d, &n)| if d == *axis { (1, most) } else { (n, n) };
                    let ranges = shape.iter().enumerate().map(range);
                    *constraint =
                        ShapeConstraint::Ranges(ranges.map(|(min, max)| DimRange { min, max: Some(max) }).collect());
                }
            }
            model.described = Some(described);
        }
        Ok(model)
    }

    /// Returns true if the number of rows is dynamic.
    pub(crate) fn rows_are_open(&self) -> bool {
        !self.engine.open_rows().is_empty()
    }

    fn loaded(package: Arc<Model>, loaded: Loaded, config: Config) -> Result<Self> {
        let Loaded { engine, reason } = loaded;
        let package = match engine.description() {
            // Only the engine can read this model.
            Some(description) if package.description.functions.is_empty() => {
                Arc::new(Model { description: description.clone(), ..Model::clone(&package) })
            }
            _ => package,
        };
        let model = Self { package, engine, reason, config, described: None };
        for name in &model.config.input_names {
            if !model.engine.inputs().contains(&name.as_str()) {
                return Err(model.not_found("input", name, model.input_names()));
            }
        }
        let output = &model.config.output_name;
        if !output.is_empty() && model.function_description().output(output).is_none() {
            return Err(model.not_found("output", output, model.output_names()));
        }
        Ok(model)
    }

    fn not_found(&self, what: &'static str, name: &str, available: Vec<String>) -> Error {
        Error::NotFound {
            what,
            name: name.to_owned(),
            path: self.package.path.clone(),
            available: available.join(", "),
        }
    }

    /// Name of the engine that runs the model: `native` or `portable`.
    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// Reason for the choice of engine, such as Core ML's error when it did not load the model.
    pub fn engine_reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn set_engine_reason(&mut self, reason: String) {
        self.reason = reason;
    }

    /// Placement of each operation: Core ML's compute plan on the native engine (macOS 14.4, iOS 17.4), all on the CPU
    /// on the portable one.
    ///
    /// # Errors
    /// If Core ML fails, or the system has no compute plans.
    pub fn placement(&self) -> Result<Vec<OperationReport>> {
        self.engine.placement()
    }

    /// Starts profiling from zero, or stops it. Returns true if the engine supports it: the portable one does, Core ML
    /// reports no costs.
    pub fn set_profiling(&self, on: bool) -> bool {
        self.engine.set_profiling(on)
    }

    /// Costs of the operations since [`set_profiling`](Self::set_profiling), in execution order.
    pub fn costs(&self) -> Vec<OperationCost> {
        self.engine.costs()
    }

    /// The path it was loaded from.
    pub fn path(&self) -> &Path {
        &self.package.path
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The open package, for loading another of its functions.
    pub fn package(&self) -> &Arc<Model> {
        &self.package
    }

    /// The description of the whole model: functions, metadata.
    pub fn description(&self) -> &ModelDescription {
        &self.package.description
    }

    /// Name of the loaded function.
    pub fn function(&self) -> &str {
        self.engine.function()
    }

    /// Names of all functions of the file.
    pub fn functions(&self) -> Vec<&str> {
        match self.package.body.program() {
            Some(program) if !program.functions.is_empty() => program.functions.keys().map(String::as_str).collect(),
            _ => self.package.description.functions.keys().map(String::as_str).collect(),
        }
    }

    /// The description of the loaded function; empty if the file describes only other functions.
    pub fn function_description(&self) -> &FunctionDescription {
        static NONE: std::sync::LazyLock<FunctionDescription> = std::sync::LazyLock::new(FunctionDescription::default);
        let of_file = || self.package.description.functions.get(self.engine.function());
        self.described.as_ref().or_else(of_file).unwrap_or(&NONE)
    }

    /// Names of the inputs, in model order.
    pub fn input_names(&self) -> Vec<String> {
        self.engine.inputs().into_iter().map(str::to_owned).collect()
    }

    /// Names of the outputs, in model order.
    pub fn output_names(&self) -> Vec<String> {
        self.function_description().outputs.iter().map(|o| o.name.clone()).collect()
    }

    /// Returns true if the model has states.
    pub fn is_stateful(&self) -> bool {
        !self.engine.states().is_empty()
    }

    pub(crate) fn backend(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Creates zeroed states.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn make_state(&self) -> Result<CoreMLState> {
        CoreMLState::shared_by(&[self])
    }

    /// Predicts and returns one output: the one named in the configuration, else the first tensor.
    ///
    /// The result is on the device of the first input.
    ///
    /// # Errors
    /// If inputs do not match the model, or the engine fails.
    pub fn forward<I: ModelInputs + ?Sized>(&self, inputs: &I) -> Result<Tensor> {
        let outputs = self.forward_all(inputs)?;
        self.choose(outputs)
    }

    /// Predicts and returns all tensor outputs by name.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::forward`].
    pub fn forward_all<I: ModelInputs + ?Sized>(&self, inputs: &I) -> Result<IndexMap<String, Tensor>> {
        let mut state = if self.is_stateful() { Some(self.make_state()?) } else { None };
        self.by_position(&inputs.tensors(), state.as_mut())
    }

    /// Predicts, updating a state in place, and returns one output as [`CoreMLModel::forward`] does.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::forward`], or if the state belongs to another model.
    pub fn predict_with_state<I: ModelInputs + ?Sized>(&self, inputs: &I, state: &mut CoreMLState) -> Result<Tensor> {
        let outputs = self.by_position(&inputs.tensors(), Some(state))?;
        self.choose(outputs)
    }

    fn choose(&self, mut outputs: IndexMap<String, Tensor>) -> Result<Tensor> {
        let name = match self.config.output_name.as_str() {
            "" => outputs.keys().next().cloned().unwrap_or_default(),
            name => name.to_owned(),
        };
        outputs.swap_remove(&name).ok_or_else(|| self.not_found("tensor output", &name, self.output_names()))
    }

    fn by_position(&self, tensors: &[&Tensor], state: Option<&mut CoreMLState>) -> Result<IndexMap<String, Tensor>> {
        let names =
            if self.config.input_names.is_empty() { self.input_names() } else { self.config.input_names.clone() };
        if tensors.len() > names.len() {
            return Err(Error::Input {
                name: format!("number {}", names.len() + 1),
                expected: format!("{} inputs ({})", names.len(), names.join(", ")),
                found: format!("{} tensors", tensors.len()),
            });
        }
        let named: Vec<(&str, Tensor)> = names.iter().zip(tensors).map(|(n, t)| (n.as_str(), (*t).clone())).collect();
        let mut out = IndexMap::new();
        for (name, output) in self.predict(&named, state)? {
            if let FeatureValue::Tensor(t) = output {
                out.insert(name, t);
            }
        }
        Ok(out)
    }

    /// Predicts with inputs by name; returns all outputs: tensors, labels, dictionaries.
    ///
    /// Optional inputs may be omitted; unknown names are errors. Tensors are returned on the device of the first input.
    ///
    /// Images are tensors `[1, channels, height, width]` with channels in the described order. Inputs hold pixel
    /// values, 0 to 255; outputs are `U8`, rounded and saturated at 0 and 255, or `F16` for 16-bit grayscale.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::forward`]; [`Error::Output`] if an image has another shape.
    pub fn predict(
        &self,
        inputs: &[(&str, Tensor)],
        state: Option<&mut CoreMLState>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        let values: Vec<(&str, FeatureValue)> =
            inputs.iter().map(|(name, t)| (*name, FeatureValue::Tensor(t.clone()))).collect();
        self.predict_values(&values, state)
    }

    /// [`predict`](Self::predict) with inputs of any type; outputs of one prediction can be inputs of the next.
    ///
    /// | feature | value |
    /// |---|---|
    /// | array | tensor of its shape |
    /// | image | tensor `[1, channels, height, width]`, samples from 0 to 255, channels in layout order |
    /// | number | [`FeatureValue::Int64`], [`FeatureValue::Double`], or a one-element tensor |
    /// | sequence of integers | [`FeatureValue::Int64s`], or a rank-1 tensor |
    /// | string, sequence of strings | [`FeatureValue::String`], [`FeatureValue::Strings`] |
    /// | dictionary | [`FeatureValue::Dictionary`] |
    ///
    /// ML Programs, and so the portable engine, accept only arrays and images. On the native engine images consist of
    /// bytes: samples round to the nearest integer, and samples outside 0 to 255 are errors. Half-precision images keep
    /// their samples.
    ///
    /// # Errors
    /// Same as [`CoreMLModel::forward`].
    pub fn predict_values(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut CoreMLState>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        self.check_inputs(inputs)?;
        let mut outputs = self.engine.predict(inputs, state.map(|s| &mut *s.inner))?;
        self.finish_outputs(&mut outputs, inputs)?;
        Ok(outputs)
    }

    fn check_inputs(&self, inputs: &[(&str, FeatureValue)]) -> Result<()> {
        self.check_names(inputs.iter().map(|(name, _)| *name))?;
        inputs.iter().try_for_each(|(name, value)| self.check_tensor(name, value))
    }

    /// Names must be those of inputs, each given once.
    fn check_names<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Result<()> {
        let known = self.engine.inputs();
        if let Some(name) = names.clone().find(|name| !known.contains(name)) {
            return Err(self.not_found("input", name, self.input_names()));
        }
        match names.clone().enumerate().find(|(at, name)| names.clone().take(*at).any(|other| other == *name)) {
            Some((_, name)) => {
                let (name, expected, found) = (name.to_owned(), "one value".to_owned(), "two".to_owned());
                Err(Error::Input { name, expected, found })
            }
            None => Ok(()),
        }
    }

    /// A tensor must have a shape that the model takes.
    fn check_tensor(&self, name: &str, value: &FeatureValue) -> Result<()> {
        match value {
            FeatureValue::Tensor(t) => self.check_shape(name, t.dims(), || format!("{:?} {:?}", t.dtype(), t.dims())),
            _ => Ok(()),
        }
    }

    fn check_shape(&self, name: &str, dims: &[usize], found: impl FnOnce() -> String) -> Result<()> {
        match self.function_description().input(name).filter(|feature| !self.is_several_of(feature, dims)) {
            Some(feature) => shape::check(feature, dims).map_err(|e| Error::Input {
                name: e.feature,
                expected: e.expected,
                found: found(),
            }),
            None => Ok(()),
        }
    }

    /// Declared types, images as pixels, on the device of the first input.
    fn finish_outputs<N>(
        &self,
        outputs: &mut IndexMap<String, FeatureValue>,
        inputs: &[(N, FeatureValue)],
    ) -> Result<()> {
        for (name, output) in outputs {
            if let FeatureValue::Tensor(tensor) = output {
                *tensor = self.finished(name, tensor.clone(), inputs)?;
            }
        }
        Ok(())
    }

    /// An output as callers get it.
    fn finished<N>(&self, name: &str, tensor: Tensor, inputs: &[(N, FeatureValue)]) -> Result<Tensor> {
        let first = inputs.first().and_then(|(_, value)| value.tensor());
        let tensor = match self.function_description().output(name).map(|f| &f.ty) {
            Some(FeatureType::MultiArray { dtype, .. }) => {
                let tensor = tensor.to_dtype(coreml_engine::border::public_dtype(*dtype))?;
                // Core ML arrays have at least one dimension: a scalar of the program is one element.
                if tensor.rank() == 0 { tensor.reshape(1)? } else { tensor }
            }
            Some(FeatureType::Image { layout, .. }) => image::pixels(name, *layout, &tensor)?,
            _ => tensor,
        };
        Ok(tensor.to_device(first.map_or(&Device::Cpu, Tensor::device))?)
    }

    /// What became of the arrays into which Core ML is to write outputs; `None` on the portable engine.
    pub fn backings_in_use(&self) -> Option<engine::BackingUse> {
        self.engine.backings_in_use()
    }

    /// The framework's own model, for its futures and compute plan; `None` on the portable engine.
    #[cfg(target_vendor = "apple")]
    pub fn native(&self) -> Option<&coreml_framework::NativeModel> {
        self.engine.native()
    }

    /// True if a shape is a sequence or a batch of the arrays that a neural network takes.
    fn is_several_of(&self, feature: &FeatureDescription, found: &[usize]) -> bool {
        let FeatureType::MultiArray { shape, .. } = &feature.ty else { return false };
        neural_network::takes_sequences(&self.package().body) && neural_network::ranked_shape(shape, found).is_some()
    }
}
