//! Predictions: inputs as JSON, random ones, images; outputs as JSON and typed arrays.

use std::cell::Cell;
use std::io::Cursor;
use std::path::Path;

use candle_coreml::description::{ColorLayout, FeatureType};
use candle_coreml::images::{self, Limits};
use candle_coreml::json::value_of;
use candle_coreml::made_up::{self, Fill};
use candle_coreml::pixels::{self, Pixels};
use candle_coreml::{CoreMLModel, CoreMLState, FeatureValue, RowOutputs};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use crate::failure::Failure;
use crate::outputs;

/// A loaded function with the inputs and outputs of its next and last prediction.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Predictor {
    model: CoreMLModel,
    state: Option<CoreMLState>,
    inputs: Vec<(String, FeatureValue)>,
    outputs: RowOutputs,
}

#[wasm_bindgen]
impl Predictor {
    /// Forgets all inputs.
    pub fn clear(&mut self) {
        self.inputs.clear();
    }

    /// Sets all required inputs that have none to random values, the same for the same seed.
    ///
    /// # Errors
    /// If the model does not say a shape.
    pub fn random(&mut self, seed: u32) -> Result<(), JsError> {
        Ok(self.fill(seed)?)
    }

    /// Sets an input from JSON: a number, nested lists of numbers, a text, a list of texts, a dictionary of numbers.
    ///
    /// # Errors
    /// If it is no such value.
    pub fn json(&mut self, name: &str, text: &str) -> Result<(), JsError> {
        Ok(self.put_json(name, text)?)
    }

    /// Sets an image input from a PNG, JPEG or TIFF file of a size that the model takes.
    ///
    /// # Errors
    /// If it is none, or of another size.
    pub fn image(&mut self, name: &str, bytes: &[u8]) -> Result<(), JsError> {
        Ok(self.put_image(name, bytes)?)
    }

    /// Sets an image input from pixels of red, green, blue and alpha, which is left out.
    ///
    /// # Errors
    /// If the input is no image, or there are not `width * height` pixels.
    pub fn pixels(&mut self, name: &str, width: usize, height: usize, rgba: &[u8]) -> Result<(), JsError> {
        Ok(self.put_pixels(name, width, height, rgba)?)
    }

    /// Predicts; `watch` is called with the number of operations so far, and answers false to stop. Returns the outputs as
    /// JSON.
    ///
    /// # Errors
    /// If inputs do not match the model, or the engine fails.
    pub fn predict(&mut self, watch: &js_sys::Function) -> Result<String, JsError> {
        let go_on = |count: u32| watch.call1(&JsValue::NULL, &count.into()).is_ok_and(|answer| !answer.is_falsy());
        Ok(self.run(&go_on)?.to_string())
    }

    /// Numbers of a tensor of the last outputs, in order.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>, JsError> {
        Ok(outputs::numbers(self.tensor(name)?)?)
    }

    /// Pixels of an image of the last outputs: red, green, blue, alpha.
    ///
    /// # Errors
    /// If there is no such image.
    pub fn rgba(&self, name: &str) -> Result<Vec<u8>, JsError> {
        Ok(outputs::rgba(&self.model, name, self.tensor(name)?)?)
    }

    /// Sets all states to zeros.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn reset(&mut self) -> Result<(), JsError> {
        self.state = fresh(&self.model)?;
        Ok(())
    }
}

/// Zeroed states of a model that has some.
fn fresh(model: &CoreMLModel) -> Result<Option<CoreMLState>, Failure> {
    Ok(if model.is_stateful() { Some(model.make_state()?) } else { None })
}

impl Predictor {
    /// Loads a function of a model.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn load(path: &Path, function: Option<&str>) -> Result<Self, Failure> {
        let builder = CoreMLModel::builder(path);
        let builder = if let Some(function) = function { builder.function(function) } else { builder };
        let model = builder.load()?;
        let state = fresh(&model)?;
        Ok(Self { model, state, inputs: Vec::new(), outputs: RowOutputs::default() })
    }

    fn put(&mut self, name: &str, value: FeatureValue) {
        self.inputs.retain(|(other, _)| other != name);
        self.inputs.push((name.to_owned(), value));
    }

    /// [`random`](Self::random).
    ///
    /// # Errors
    /// If the model does not say a shape.
    pub fn fill(&mut self, seed: u32) -> Result<(), Failure> {
        let missing = |name: &str| !self.inputs.iter().any(|(given, _)| given == name);
        let values = made_up::Inputs::of(&self.model, missing)?.values(Fill::Random(u64::from(seed)))?;
        self.inputs.extend(values);
        Ok(())
    }

    /// [`json`](Self::json).
    ///
    /// # Errors
    /// If it is no such value.
    pub fn put_json(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let described = self.model.function_description().input(name).map(|f| &f.ty);
        // Texts need no quotes.
        let value = match described {
            Some(FeatureType::String) => Value::String(text.to_owned()),
            _ => serde_json::from_str(text).map_err(|e| Failure::new(format!("`{name}`: expected JSON: {e}")))?,
        };
        let value = value_of(&self.model, name, &value).map_err(Failure::new)?;
        self.put(name, value);
        Ok(())
    }

    /// [`image`](Self::image).
    ///
    /// # Errors
    /// If it is none, or of another size.
    pub fn put_image(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let feature = self.model.function_description().input(name);
        let feature = feature.ok_or_else(|| Failure::new(format!("the model has no input `{name}`")))?;
        let read = images::read_from(&mut Cursor::new(bytes), feature, &Limits::default());
        let tensor = read.map_err(|e| Failure::new(format!("`{name}`: {e}")))?;
        self.put(name, FeatureValue::Tensor(tensor));
        Ok(())
    }

    /// [`pixels`](Self::pixels).
    ///
    /// # Errors
    /// If the input is no image, or there are not `width * height` pixels.
    pub fn put_pixels(&mut self, name: &str, width: usize, height: usize, rgba: &[u8]) -> Result<(), Failure> {
        let Some(FeatureType::Image { layout, .. }) = self.model.function_description().input(name).map(|f| &f.ty)
        else {
            return Err(Failure::new(format!("input `{name}` is not an image")));
        };
        // Luminance of ITU-R BT.709, as for image files.
        let gray = |p: &[u8]| (2126 * u32::from(p[0]) + 7152 * u32::from(p[1]) + 722 * u32::from(p[2])) / 10_000;
        let pixels = rgba.chunks_exact(4);
        let pixels = match layout {
            ColorLayout::Rgb | ColorLayout::Bgr => Pixels::Rgb(pixels.flat_map(|p| [p[0], p[1], p[2]]).collect()),
            ColorLayout::Grayscale => Pixels::Gray(pixels.map(|p| gray(p) as u8).collect()),
            ColorLayout::GrayscaleFloat16 => Pixels::GrayFloat(pixels.map(|p| gray(p) as f32).collect()),
        };
        let tensor = pixels::to_tensor(name, *layout, width, height, &pixels)?;
        self.put(name, FeatureValue::Tensor(tensor));
        Ok(())
    }

    /// [`predict`](Self::predict).
    ///
    /// # Errors
    /// If inputs do not match the model, or the engine fails.
    pub fn run(&mut self, go_on: &dyn Fn(u32) -> bool) -> Result<Value, Failure> {
        let named: Vec<(&str, FeatureValue)> = self.inputs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let count = Cell::new(0u32);
        let next = || {
            count.set(count.get() + 1);
            go_on(count.get())
        };
        self.outputs = self.model.predict_values_while(&named, self.state.as_mut(), &next)?;
        let all = self.outputs.iter().map(|(name, value)| outputs::summary(&self.model, name, value));
        let described = self.model.function_description();
        Ok(json!({
            "outputs": all.collect::<Result<Vec<_>, Failure>>()?,
            "predicted": described.predicted_feature,
            "operations": count.get(),
        }))
    }

    fn tensor(&self, name: &str) -> Result<&candle_core::Tensor, Failure> {
        let tensor = self.outputs.get(name).and_then(FeatureValue::tensor);
        tensor.ok_or_else(|| Failure::new(format!("there is no tensor `{name}` among the outputs")))
    }

    /// [`numbers`](Self::numbers).
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn all_numbers(&self, name: &str) -> Result<Vec<f64>, Failure> {
        outputs::numbers(self.tensor(name)?)
    }
}
