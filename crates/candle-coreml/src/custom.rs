//! Layers and models that a program supplies for classes that a file only names.
//!
//! Core ML lets an application implement layers of a neural network (`MLCustomLayer`) and whole models (`MLCustomModel`); the
//! file holds the name of the class, parameters and, for layers, weights. Here a type in Rust takes its place:
//! [`CoreMLModelBuilder::custom_layer`](crate::CoreMLModelBuilder::custom_layer),
//! [`custom_model`](crate::CoreMLModelBuilder::custom_model).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use coreml_engine::custom::Custom;
pub use coreml_engine::custom::{CustomFailure, CustomLayer, CustomModel, Extents};
use coreml_format::model_types::custom::{CustomModel as ModelInFile, CustomModelValue};
use coreml_format::model_types::neural_network::custom::{CustomLayer as LayerInFile, CustomLayerValue};
use coreml_format::model_types::neural_network::weights::{WeightParams, floats};
use coreml_lower::custom::CustomClasses;

/// What a file says about a layer or a model of a class.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CustomSource {
    /// Name of the class.
    pub class_name: String,
    /// The author's description.
    pub description: String,
    /// Parameters by name.
    pub parameters: BTreeMap<String, CustomParameter>,
    /// Weights of a layer in their order, rank 1, as stored: `F32`, `F16`, or `U8` for raw bytes. Models have none.
    pub weights: Vec<Tensor>,
}

/// A parameter of a layer or a model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CustomParameter {
    /// A double.
    Double(f64),
    /// A string.
    String(String),
    /// An integer of 32 or 64 bits.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// Bytes; models only.
    Bytes(Vec<u8>),
}

impl CustomSource {
    fn parameter(&self, name: &str, kind: &str) -> Result<&CustomParameter, CustomFailure> {
        self.parameters.get(name).ok_or_else(|| format!("expected {kind} as parameter `{name}`, found none").into())
    }

    /// A number among the parameters.
    ///
    /// # Errors
    /// If there is none of this name, or it is of another type.
    pub fn number(&self, name: &str) -> Result<f64, CustomFailure> {
        match self.parameter(name, "a number")? {
            CustomParameter::Double(x) => Ok(*x),
            CustomParameter::Int(n) => Ok(*n as f64),
            other => Err(format!("expected a number as parameter `{name}`, found {other:?}").into()),
        }
    }

    /// A string among the parameters.
    ///
    /// # Errors
    /// If there is none of this name, or it is of another type.
    pub fn text(&self, name: &str) -> Result<&str, CustomFailure> {
        match self.parameter(name, "a string")? {
            CustomParameter::String(text) => Ok(text),
            other => Err(format!("expected a string as parameter `{name}`, found {other:?}").into()),
        }
    }

    /// Weights in a shape, as `F32`.
    ///
    /// # Errors
    /// If there are fewer weights than `index`, of another number of elements, or raw bytes.
    pub fn weights_as(&self, index: usize, shape: &[usize]) -> Result<Tensor, CustomFailure> {
        let all = self.weights.get(index);
        let all = all.ok_or_else(|| format!("expected weights {index}, found {} weights", self.weights.len()))?;
        if !all.dtype().is_float() {
            return Err(format!("expected floats as weights {index}, found bytes").into());
        }
        Ok(all.reshape(shape)?.to_dtype(DType::F32)?)
    }
}

type Make<T> = Arc<dyn Fn(&CustomSource) -> Result<Arc<T>, CustomFailure> + Send + Sync>;

/// Classes by name.
#[derive(Clone, Default)]
pub struct CustomRegistry {
    layers: HashMap<String, Make<dyn CustomLayer>>,
    models: HashMap<String, Make<dyn CustomModel>>,
}

impl std::fmt::Debug for CustomRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.layers.keys()).entries(self.models.keys()).finish()
    }
}

impl CustomRegistry {
    /// Adds a class of layers; `make` is called once for each layer.
    pub fn add_layer<L: CustomLayer + 'static>(
        &mut self,
        class: &str,
        make: impl Fn(&CustomSource) -> Result<L, CustomFailure> + Send + Sync + 'static,
    ) {
        self.layers.insert(class.to_owned(), Arc::new(move |source| Ok(Arc::new(make(source)?))));
    }

    /// Adds a class of models.
    pub fn add_model<M: CustomModel + 'static>(
        &mut self,
        class: &str,
        make: impl Fn(&CustomSource) -> Result<M, CustomFailure> + Send + Sync + 'static,
    ) {
        self.models.insert(class.to_owned(), Arc::new(move |source| Ok(Arc::new(make(source)?))));
    }

    /// True if there are no classes.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.models.is_empty()
    }
}

/// The layers and models of one program.
pub(crate) struct Instances<'r> {
    registry: &'r CustomRegistry,
    made: RefCell<Vec<Custom>>,
}

impl<'r> Instances<'r> {
    pub(crate) fn new(registry: &'r CustomRegistry) -> Self {
        Self { registry, made: RefCell::default() }
    }

    /// All of them, by index.
    pub(crate) fn made(&self) -> Vec<Custom> {
        self.made.borrow().clone()
    }

    fn add(&self, custom: Custom) -> usize {
        let mut made = self.made.borrow_mut();
        made.push(custom);
        made.len() - 1
    }

    fn make_layer(
        &self,
        make: &Make<dyn CustomLayer>,
        layer: &LayerInFile,
        inputs: &[Extents],
    ) -> Result<(usize, Vec<Extents>), CustomFailure> {
        let parameter = |value: &CustomLayerValue| match value {
            CustomLayerValue::Double(x) => CustomParameter::Double(*x),
            CustomLayerValue::String(text) => CustomParameter::String(text.clone()),
            CustomLayerValue::Int32(n) => CustomParameter::Int((*n).into()),
            CustomLayerValue::Int64(n) => CustomParameter::Int(*n),
            CustomLayerValue::Bool(b) => CustomParameter::Bool(*b),
        };
        let source = CustomSource {
            class_name: layer.class_name.clone(),
            description: layer.description.clone(),
            parameters: parameters(layer.parameters.iter().map(|(k, p)| (k, p.value.as_ref().map(parameter))))?,
            weights: layer.weights.iter().enumerate().map(|(i, w)| weights(i, w)).collect::<Result<_, _>>()?,
        };
        let layer = make(&source)?;
        let shapes = layer.output_shapes(inputs)?;
        Ok((self.add(Custom::Layer(layer)), shapes))
    }

    fn make_model(&self, make: &Make<dyn CustomModel>, model: &ModelInFile) -> Result<usize, CustomFailure> {
        let parameter = |value: &CustomModelValue| match value {
            CustomModelValue::Double(x) => CustomParameter::Double(*x),
            CustomModelValue::String(text) => CustomParameter::String(text.clone()),
            CustomModelValue::Int32(n) => CustomParameter::Int((*n).into()),
            CustomModelValue::Int64(n) => CustomParameter::Int(*n),
            CustomModelValue::Bool(b) => CustomParameter::Bool(*b),
            CustomModelValue::Bytes(bytes) => CustomParameter::Bytes(bytes.to_vec()),
        };
        let source = CustomSource {
            class_name: model.class_name.clone(),
            description: model.description.clone(),
            parameters: parameters(model.parameters.iter().map(|(k, p)| (k, p.value.as_ref().map(parameter))))?,
            weights: Vec::new(),
        };
        Ok(self.add(Custom::Model(make(&source)?)))
    }
}

impl CustomClasses for Instances<'_> {
    fn layer(&self, layer: &LayerInFile, inputs: &[Extents]) -> Option<Result<(usize, Vec<Extents>), String>> {
        let make = self.registry.layers.get(&layer.class_name)?;
        Some(self.make_layer(make, layer, inputs).map_err(|e| e.to_string()))
    }

    fn model(&self, model: &ModelInFile) -> Option<Result<usize, String>> {
        let make = self.registry.models.get(&model.class_name)?;
        Some(self.make_model(make, model).map_err(|e| e.to_string()))
    }
}

fn parameters<'p>(
    all: impl Iterator<Item = (&'p String, Option<CustomParameter>)>,
) -> Result<BTreeMap<String, CustomParameter>, CustomFailure> {
    let one = |(name, value): (&String, Option<CustomParameter>)| match value {
        Some(value) => Ok((name.clone(), value)),
        None => Err(format!("the parameter `{name}` has no value").into()),
    };
    all.map(one).collect()
}

/// Weights as they are stored.
fn weights(index: usize, w: &WeightParams) -> Result<Tensor, CustomFailure> {
    if w.quantization.is_some() || !w.int8_raw_value.is_empty() {
        return Err(format!("weights {index} are quantized").into());
    }
    let plain = floats(&w.float_value)?;
    let forms = [!plain.is_empty(), !w.float16_value.is_empty(), !w.raw_value.is_empty()];
    if forms.iter().filter(|&&given| given).count() > 1 {
        return Err(format!("weights {index} are given in several forms").into());
    }
    let (bytes, dtype): (&[u8], DType) = match forms {
        [_, true, _] => (&w.float16_value, DType::F16),
        [_, _, true] => (&w.raw_value, DType::U8),
        _ => (&plain, DType::F32),
    };
    let size = dtype.size_in_bytes();
    if !bytes.len().is_multiple_of(size) {
        return Err(format!("weights {index} have {} bytes", bytes.len()).into());
    }
    Ok(Tensor::from_raw_buffer(bytes, dtype, &[bytes.len() / size], &Device::Cpu)?)
}
