//! Apple's Core ML behind the common interface.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use coreml_engine::state::StateSpec;
use coreml_format::description::{ColorLayout, FeatureDescription, FeatureType, ModelDescription};
use coreml_format::model::Model;
use coreml_framework::{Handing, NativeArray, NativeError, NativeModel, NativeState, Options};
use coreml_values::FeatureValue;
use indexmap::IndexMap;

use super::interface::downcast;
use super::to_name::to_name;
use super::{BackingUse, Engine, EngineArray, EngineOptions, EngineState, Handed, OperationReport};
use crate::error::{Error, Result};

/// True if this build includes the native engine.
pub(super) const AVAILABLE: bool = true;

const NAME: &str = "native";

/// Version and build of the system.
pub(super) fn system() -> String {
    coreml_framework::system()
}

/// A function on Core ML.
#[derive(Debug)]
struct Native {
    path: PathBuf,
    model: NativeModel,
    function: String,
    /// In program order, which the framework's dictionaries do not preserve.
    inputs: Vec<String>,
    outputs: Vec<String>,
    states: Vec<StateSpec>,
}

/// Loads a function, compiling it first unless cached.
pub(super) fn load(package: &Arc<Model>, function: Option<&str>, options: &EngineOptions) -> Result<Box<dyn Engine>> {
    let path = &package.path;
    let settings = Options {
        compute_units: options.compute_units,
        function: to_name(package, function)?,
        cache: options.cache.clone(),
        image_layouts: layouts(package, function),
        reshape_frequency: options.native.reshape_frequency,
        specialization: options.native.specialization,
        low_precision_accumulation: options.native.low_precision_accumulation,
        gpu: options.native.gpu.clone(),
        watch: options.native.watch.clone(),
        // If the Neural Engine is allowed, fixed-shape fp16 outputs are written to surfaces.
        output_backings: options.compute_units.with_neural_engine(),
        ..Options::default()
    };
    let model = NativeModel::load(path, &settings).map_err(|e| failure(path, e))?;
    let described = model.function_description();
    let states = described.states.iter().filter_map(spec).collect();
    let function = match function {
        Some(name) => name.to_owned(),
        None if package.description.default_function.is_empty() => model.function().to_owned(),
        None => package.description.default_function.clone(),
    };
    let program = super::program(package);
    let program = program.as_ref().and_then(|p| p.functions.get(&function));
    let ordered = |features: &[FeatureDescription], order: Vec<&String>| {
        let mut names: Vec<String> = features.iter().map(|f| f.name.clone()).collect();
        names.sort_by_key(|name| order.iter().position(|o| *o == name).unwrap_or(usize::MAX));
        names
    };
    let inputs =
        ordered(&described.inputs, program.map(|f| f.inputs.iter().map(|i| &i.name).collect()).unwrap_or_default());
    let outputs = ordered(&described.outputs, program.map(|f| f.block.outputs.iter().collect()).unwrap_or_default());
    Ok(Box::new(Native { path: path.clone(), model, function, inputs, outputs, states }))
}

/// Channel order of images, from the model's own description.
fn layouts(package: &Model, function: Option<&str>) -> Vec<(String, ColorLayout)> {
    let described = package.description.function(function);
    let features = described.into_iter().flat_map(|d| d.inputs.iter().chain(&d.outputs));
    let layout = |feature: &FeatureDescription| match feature.ty {
        FeatureType::Image { layout, .. } => Some((feature.name.clone(), layout)),
        _ => None,
    };
    features.filter_map(layout).collect()
}

fn spec(feature: &FeatureDescription) -> Option<StateSpec> {
    match &feature.ty {
        FeatureType::State { dtype, shape } => {
            Some(StateSpec { name: feature.name.clone(), dtype: *dtype, shape: shape.clone() })
        }
        _ => None,
    }
}

fn failure(path: &Path, source: NativeError) -> Error {
    Error::Native { path: path.to_owned(), source: Box::new(source) }
}

impl Native {
    /// Errors about inputs are the caller's; worded as in the other engine.
    fn explain(&self, error: NativeError) -> Error {
        let is_input = |name: &String| self.model.function_description().input(name).is_some();
        match error {
            NativeError::Convert(e) if is_input(&e.feature) => Error::Input {
                expected: format!("{} values", e.expected.data_type()),
                found: format!("the value {}", e.value),
                name: e.feature,
            },
            NativeError::Shape(e) if is_input(&e.feature) => {
                Error::Input { found: format!("shape {:?}", e.found), name: e.feature, expected: e.expected }
            }
            NativeError::Feature { feature, expected, found } if is_input(&feature) => {
                Error::Input { name: feature, expected, found }
            }
            other => failure(&self.path, other),
        }
    }
}

impl Native {
    /// The framework's state. A function without states ignores it, whichever engine made it.
    fn own<'s>(&self, state: Option<&'s mut (dyn EngineState + 'static)>) -> Result<Option<&'s mut NativeState>> {
        match state {
            Some(state) if !self.states.is_empty() => Ok(Some(&mut downcast::<Kept>(state, NAME)?.state)),
            _ => Ok(None),
        }
    }

    /// Outputs in program order.
    fn ordered(&self, mut outputs: IndexMap<String, FeatureValue>) -> IndexMap<String, FeatureValue> {
        let take = |name: &String| Some((name.clone(), outputs.swap_remove(name)?));
        self.outputs.iter().filter_map(take).collect()
    }
}

/// An output where Core ML left it.
#[derive(Debug)]
struct Left {
    path: PathBuf,
    array: Arc<NativeArray>,
}

impl EngineArray for Left {
    fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    fn read(&self) -> Result<Tensor> {
        self.array.read().map_err(|e| failure(&self.path, e))
    }
}

/// Inputs, and the array that a model of this engine handed on.
type Taken<'a> = (Option<(&'a str, Arc<NativeArray>)>, Vec<(&'a str, FeatureValue)>);

/// What was handed on, in place if it is an array of this engine, else among the inputs.
fn taken<'a>(inputs: &[(&'a str, FeatureValue)], handed: Option<(&'a str, Handed)>) -> Result<Taken<'a>> {
    let mut all = inputs.to_vec();
    let Some((name, handed)) = handed else { return Ok((None, all)) };
    if let Handed::Array(array) = &handed {
        let any: &dyn Any = &**array;
        if let Some(left) = any.downcast_ref::<Left>() {
            return Ok((Some((name, left.array.clone())), all));
        }
    }
    all.push((name, FeatureValue::Tensor(handed.into_tensor()?)));
    Ok((None, all))
}

impl Engine for Native {
    fn name(&self) -> &'static str {
        NAME
    }

    fn function(&self) -> &str {
        &self.function
    }

    fn description(&self) -> Option<&ModelDescription> {
        Some(self.model.description())
    }

    fn inputs(&self) -> Vec<&str> {
        self.inputs.iter().map(String::as_str).collect()
    }

    fn states(&self) -> &[StateSpec] {
        &self.states
    }

    /// Core ML creates states for one function; other functions that declare the same states share them.
    fn new_state(&self, specs: &[StateSpec]) -> Result<Box<dyn EngineState>> {
        if let Some(missing) = specs.iter().find(|s| !self.states.contains(s)) {
            return Err(Error::Components {
                path: self.path.clone(),
                message: format!(
                    "Core ML shares a state among functions that declare the same one; `{}` {} {:?} is not in \
                     function `{}`",
                    missing.name, missing.dtype, missing.shape, self.function
                ),
            });
        }
        let state = self.model.new_state().map_err(|e| failure(&self.path, e))?;
        Ok(Box::new(Kept { path: self.path.clone(), state }))
    }

    fn predict(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        let outputs = self.model.predict(inputs, self.own(state)?).map_err(|e| self.explain(e))?;
        Ok(self.ordered(outputs))
    }

    fn predict_handing(
        &self,
        inputs: &[(&str, FeatureValue)],
        handed: Option<(&str, Handed)>,
        state: Option<&mut (dyn EngineState + 'static)>,
        output: &str,
    ) -> Result<Handed> {
        let (array, inputs) = taken(inputs, handed)?;
        let input = array.as_ref().map(|(name, array)| (*name, &**array));
        let array = self.model.predict_handing(&inputs, Handing { input, output }, self.own(state)?);
        Ok(Handed::Array(Box::new(Left { path: self.path.clone(), array: array.map_err(|e| self.explain(e))? })))
    }

    fn predict_handed(
        &self,
        inputs: &[(&str, FeatureValue)],
        handed: Option<(&str, Handed)>,
        state: Option<&mut (dyn EngineState + 'static)>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        let (array, inputs) = taken(inputs, handed)?;
        let handed = array.as_ref().map(|(name, array)| (*name, &**array));
        let outputs = self.model.predict_handed(&inputs, handed, self.own(state)?).map_err(|e| self.explain(e))?;
        Ok(self.ordered(outputs))
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn predict_batch(&self, batch: &[Vec<(&str, FeatureValue)>]) -> Result<Vec<IndexMap<String, FeatureValue>>> {
        let all = self.model.predict_batch(batch).map_err(|e| self.explain(e))?;
        Ok(all.into_iter().map(|outputs| self.ordered(outputs)).collect())
    }

    fn backings_in_use(&self) -> Option<BackingUse> {
        Some(self.model.backings_in_use())
    }

    fn native(&self) -> Option<&NativeModel> {
        Some(&self.model)
    }

    fn placement(&self) -> Result<Vec<OperationReport>> {
        self.model.compute_plan().map_err(|e| failure(&self.path, e))
    }
}

/// States in Core ML's memory.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    state: NativeState,
}

impl EngineState for Kept {
    fn engine(&self) -> &'static str {
        NAME
    }

    fn names(&self) -> Vec<&str> {
        self.state.names()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        self.state.get(name).map_err(|e| failure(&self.path, e))
    }

    fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        self.state.set(name, value).map_err(|e| failure(&self.path, e))
    }

    fn reset(&mut self) -> Result<()> {
        self.state.reset().map_err(|e| failure(&self.path, e))
    }
}
