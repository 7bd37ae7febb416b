//! One Core ML model file, loaded and ready to predict.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use coreml_format::description::{
    FeatureDescription, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint,
};
use coreml_format::dtype::DataType;
use coreml_format::package::Model;
use indexmap::IndexMap;
pub use mil_engine::executable::{DictionaryKey, Output};
use mil_engine::executable::{Executable, Options};
pub use mil_engine::passes::PassSet;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::state::CoreMLState;

/// Tensors that are given by position: `&tensor`, `&[&a, &b]`, `&vec_of_references`.
pub trait ModelInputs {
    /// The tensors, in order.
    fn tensors(&self) -> Vec<&Tensor>;
}

impl ModelInputs for Tensor {
    fn tensors(&self) -> Vec<&Tensor> {
        vec![self]
    }
}

impl ModelInputs for [&Tensor] {
    fn tensors(&self) -> Vec<&Tensor> {
        self.to_vec()
    }
}

impl<const N: usize> ModelInputs for [&Tensor; N] {
    fn tensors(&self) -> Vec<&Tensor> {
        self.to_vec()
    }
}

impl ModelInputs for Vec<&Tensor> {
    fn tensors(&self) -> Vec<&Tensor> {
        self.clone()
    }
}

impl ModelInputs for [Tensor] {
    fn tensors(&self) -> Vec<&Tensor> {
        self.iter().collect()
    }
}

impl ModelInputs for Vec<Tensor> {
    fn tensors(&self) -> Vec<&Tensor> {
        self.iter().collect()
    }
}

/// Which engine runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The best there is.
    #[default]
    Auto,
    /// Apple's Core ML framework.
    Native,
    /// The portable engine.
    Portable,
}

/// A model (one function of it), loaded.
///
/// `Send` and `Sync`: several threads may predict with one model at once; a state is used by one
/// prediction at a time because it is borrowed mutably.
#[derive(Debug)]
pub struct CoreMLModel {
    package: Arc<Model>,
    executable: Executable,
    config: Config,
}

impl CoreMLModel {
    /// Loads a model with its own names for inputs and output.
    ///
    /// # Errors
    /// [`Error`] naming the file and what was expected there.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_from_file(path, &Config::default())
    }

    /// Loads the default function of a model.
    ///
    /// # Errors
    /// As [`CoreMLModel::load`], and when the configuration names inputs that the model lacks.
    pub fn load_from_file(path: impl AsRef<Path>, config: &Config) -> Result<Self> {
        CoreMLModelBuilder::new(path, config.clone()).build_model()
    }

    /// Loads one function of a multi-function model, such as `infer` or `prefill`.
    ///
    /// # Errors
    /// As [`CoreMLModel::load_from_file`], and for an unknown function.
    pub fn load_with_function(path: impl AsRef<Path>, config: &Config, function: &str) -> Result<Self> {
        CoreMLModelBuilder::new(path, config.clone()).function(function).build_model()
    }

    /// Loads a function of a package that is open already; weights are shared.
    ///
    /// # Errors
    /// As [`CoreMLModel::load_with_function`].
    pub fn from_package(package: Arc<Model>, function: Option<&str>, config: Config, passes: &PassSet) -> Result<Self> {
        let options = Options { device: Device::Cpu, passes: passes.clone() };
        let executable = Executable::load(&package, function, &options)
            .map_err(|source| Error::Engine { path: package.path.clone(), source: Box::new(source) })?;
        let model = Self { package, executable, config };
        for name in &model.config.input_names {
            if model.executable.inputs().iter().all(|i| i.name != *name) {
                return Err(model.not_found("input", name, model.input_names()));
            }
        }
        let output = &model.config.output_name;
        if !output.is_empty() && model.function_description().output(output).is_none() {
            return Err(model.not_found("output", output, model.output_names()));
        }
        tracing::debug!(path = %model.package.path.display(), function = model.executable.function(), "loaded");
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

    /// Name of the engine that runs the model.
    pub fn engine(&self) -> &'static str {
        "portable"
    }

    /// Where the model was loaded from.
    pub fn path(&self) -> &Path {
        &self.package.path
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The open package, for loading another function of it.
    pub fn package(&self) -> &Arc<Model> {
        &self.package
    }

    /// The description of the whole model: functions, metadata.
    pub fn description(&self) -> &ModelDescription {
        &self.package.description
    }

    /// Name of the loaded function.
    pub fn function(&self) -> &str {
        self.executable.function()
    }

    /// Names of all functions of the file.
    pub fn functions(&self) -> Vec<&str> {
        self.package.program.functions.keys().map(String::as_str).collect()
    }

    /// The description of the loaded function; empty if the file describes only others.
    pub fn function_description(&self) -> &FunctionDescription {
        static NONE: std::sync::LazyLock<FunctionDescription> = std::sync::LazyLock::new(FunctionDescription::default);
        self.package.description.functions.get(self.executable.function()).unwrap_or(&NONE)
    }

    /// Names of the inputs, in the model's order.
    pub fn input_names(&self) -> Vec<String> {
        self.executable.inputs().iter().map(|i| i.name.clone()).collect()
    }

    /// Names of the outputs, in the model's order.
    pub fn output_names(&self) -> Vec<String> {
        self.function_description().outputs.iter().map(|o| o.name.clone()).collect()
    }

    /// Whether the model has states.
    pub fn is_stateful(&self) -> bool {
        !self.executable.states().is_empty()
    }

    pub(crate) fn state_specs(&self) -> &[mil_engine::state::StateSpec] {
        self.executable.states()
    }

    /// States of zeros.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn make_state(&self) -> Result<CoreMLState> {
        let inner = self.executable.new_state().map_err(|e| self.engine_error(e))?;
        Ok(CoreMLState { inner })
    }

    fn engine_error(&self, source: mil_engine::error::EngineError) -> Error {
        Error::Engine { path: self.package.path.clone(), source: Box::new(source) }
    }

    /// Predicts and returns one output: the one that the configuration names, else the first tensor.
    ///
    /// The result is on the device of the first input.
    ///
    /// # Errors
    /// When inputs do not fit, or the engine fails.
    pub fn forward<I: ModelInputs + ?Sized>(&self, inputs: &I) -> Result<Tensor> {
        let outputs = self.forward_all(inputs)?;
        self.choose(outputs)
    }

    /// Predicts and returns every tensor output by name.
    ///
    /// # Errors
    /// As [`CoreMLModel::forward`].
    pub fn forward_all<I: ModelInputs + ?Sized>(&self, inputs: &I) -> Result<IndexMap<String, Tensor>> {
        let mut state = if self.is_stateful() { Some(self.make_state()?) } else { None };
        self.by_position(&inputs.tensors(), state.as_mut())
    }

    /// Predicts with a state that is updated in place, and returns one output as [`CoreMLModel::forward`].
    ///
    /// # Errors
    /// As [`CoreMLModel::forward`], and when the state is of another model.
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
        let device = tensors.first().map_or(Device::Cpu, |t| t.device().clone());
        let named: Vec<(&str, Tensor)> = names.iter().zip(tensors).map(|(n, t)| (n.as_str(), (*t).clone())).collect();
        let mut out = IndexMap::new();
        for (name, output) in self.predict(&named, state)? {
            if let Output::Tensor(t) = output {
                out.insert(name, t.to_device(&device)?);
            }
        }
        Ok(out)
    }

    /// Predicts with inputs by name; returns every output: tensors, labels, dictionaries.
    ///
    /// Optional inputs may be left out; names that the model lacks are errors.
    ///
    /// # Errors
    /// As [`CoreMLModel::forward`].
    pub fn predict(
        &self,
        inputs: &[(&str, Tensor)],
        state: Option<&mut CoreMLState>,
    ) -> Result<IndexMap<String, Output>> {
        let described = self.function_description();
        let mut checked = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            let declared = self.executable.inputs().iter().find(|i| i.name == *name);
            let declared = declared.ok_or_else(|| self.not_found("input", name, self.input_names()))?;
            if let Some(feature) = described.input(name) {
                check_shape(feature, tensor)?;
            }
            let ty = declared.ty.tensor();
            let tensor = match ty {
                Some(ty) => convert(name, tensor, ty.dtype)?,
                None => tensor.clone(),
            };
            // A scalar of the program is described as an array of one element.
            let fixed = ty.and_then(|t| t.fixed_shape());
            let tensor = match fixed {
                Some(s) if s != tensor.dims() && s.iter().product::<usize>() == tensor.elem_count() => {
                    tensor.reshape(s)?
                }
                _ => tensor,
            };
            checked.push((*name, tensor));
        }
        for feature in &described.inputs {
            if feature.optional
                && checked.iter().all(|(n, _)| *n != feature.name)
                && let FeatureType::MultiArray { shape, default, .. } = &feature.ty
            {
                let value = Tensor::full(default.unwrap_or(0.0) as f32, shape.as_slice(), &Device::Cpu)?;
                checked.push((feature.name.as_str(), value));
            }
        }
        let mut outputs =
            self.executable.predict(&checked, state.map(|s| &mut s.inner)).map_err(|e| self.engine_error(e))?;
        for (name, output) in &mut outputs {
            if let (Output::Tensor(t), Some(feature)) = (output, described.output(name))
                && let FeatureType::MultiArray { dtype, .. } = &feature.ty
            {
                let wanted = mil_engine::executable::public_dtype(*dtype);
                if t.dtype() != wanted {
                    *t = t.to_dtype(wanted)?;
                }
            }
        }
        Ok(outputs)
    }
}

/// Checks a tensor against the shapes that a description allows.
fn check_shape(feature: &FeatureDescription, tensor: &Tensor) -> Result<()> {
    let bad = |expected: String| Error::Input {
        name: feature.name.clone(),
        expected,
        found: format!("{:?} {:?}", tensor.dtype(), tensor.dims()),
    };
    let FeatureType::MultiArray { shape, constraint, .. } = &feature.ty else { return Ok(()) };
    match constraint {
        ShapeConstraint::Unspecified => Ok(()),
        ShapeConstraint::Fixed if shape == tensor.dims() || (tensor.rank() == 0 && shape == &[1]) => Ok(()),
        ShapeConstraint::Fixed => Err(bad(format!("shape {shape:?}"))),
        ShapeConstraint::Enumerated(all) if all.iter().any(|s| s == tensor.dims()) => Ok(()),
        ShapeConstraint::Enumerated(all) => Err(bad(format!("one of the shapes {all:?}"))),
        ShapeConstraint::Ranges(ranges) => {
            let fits = ranges.len() == tensor.rank()
                && ranges.iter().zip(tensor.dims()).all(|(r, &n)| n >= r.min && r.max.is_none_or(|m| n <= m));
            if fits {
                Ok(())
            } else {
                let text: Vec<String> = ranges
                    .iter()
                    .map(|r| {
                        r.max.map_or(format!("{}..", r.min), |m| {
                            if m == r.min { m.to_string() } else { format!("{}..={m}", r.min) }
                        })
                    })
                    .collect();
                Err(bad(format!("a shape within [{}]", text.join(", "))))
            }
        }
    }
}

/// Brings an input to a type that keeps its meaning: integers must fit the declared integer type.
fn convert(name: &str, tensor: &Tensor, dtype: DataType) -> Result<Tensor> {
    let bad = |found: String| Error::Input { name: name.to_owned(), expected: format!("{dtype} values"), found };
    let tensor = tensor.to_device(&Device::Cpu)?;
    if dtype.is_float() || dtype == DataType::Bool {
        return Ok(tensor);
    }
    let tensor = if tensor.dtype().is_float() {
        let wide = tensor.to_dtype(DType::F64)?;
        let whole = |v: &f64| v.is_finite() && v.fract() == 0.0;
        if !wide.flatten_all()?.to_vec1()?.iter().all(whole) {
            return Err(bad("floats that are not whole numbers".to_owned()));
        }
        // Too large ones saturate, and fail the range below unless the type is as wide.
        wide
    } else {
        tensor
    };
    let range = match dtype {
        DataType::I8 => i64::from(i8::MIN)..=i64::from(i8::MAX),
        DataType::U8 => 0..=i64::from(u8::MAX),
        DataType::I16 => i64::from(i16::MIN)..=i64::from(i16::MAX),
        DataType::U16 => 0..=i64::from(u16::MAX),
        DataType::I32 => i64::from(i32::MIN)..=i64::from(i32::MAX),
        DataType::U32 => 0..=i64::from(u32::MAX),
        _ => i64::MIN..=i64::MAX,
    };
    let tensor = tensor.to_dtype(DType::I64)?;
    let values: Vec<i64> = tensor.flatten_all()?.to_vec1()?;
    match values.iter().find(|v| !range.contains(v)) {
        Some(v) => Err(bad(format!("the value {v}"))),
        None => Ok(tensor),
    }
}

/// Loads a model with options.
#[derive(Debug, Clone)]
pub struct CoreMLModelBuilder {
    path: PathBuf,
    config: Config,
    function: Option<String>,
    engine: EngineChoice,
    passes: PassSet,
}

impl CoreMLModelBuilder {
    /// A model at this path.
    pub fn new(path: impl AsRef<Path>, config: Config) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            config,
            function: None,
            engine: EngineChoice::Auto,
            passes: PassSet::all(),
        }
    }

    /// Loads this function instead of the default one.
    #[must_use]
    pub fn function(mut self, name: &str) -> Self {
        self.function = Some(name.to_owned());
        self
    }

    /// Chooses the engine.
    #[must_use]
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Chooses the rewrites that the portable engine makes.
    #[must_use]
    pub fn passes(mut self, passes: PassSet) -> Self {
        self.passes = passes;
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// As [`CoreMLModel::load_with_function`]; asking for the native engine where there is none.
    pub fn build_model(self) -> Result<CoreMLModel> {
        if self.engine == EngineChoice::Native {
            return Err(Error::Unavailable(
                "this build has no native Core ML engine; use EngineChoice::Portable or Auto".to_owned(),
            ));
        }
        let package = Arc::new(Model::open(&self.path)?);
        CoreMLModel::from_package(package, self.function.as_deref(), self.config, &self.passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_convert_only_where_their_meaning_stays() {
        let convert = |t: Tensor| convert("x", &t, DataType::I32);
        let of = |v: &[f64]| Tensor::new(v, &Device::Cpu).expect("a tensor");
        assert_eq!(convert(of(&[1.0, -2.0])).expect("whole").to_vec1::<i64>().expect("integers"), [1, -2]);
        for bad in [0.5, 3e9, f64::INFINITY, f64::NAN] {
            assert!(convert(of(&[bad])).is_err(), "{bad}");
        }
        assert!(convert(of(&[])).is_ok());
        assert!(convert(Tensor::new(&[1i64 << 31], &Device::Cpu).expect("a tensor")).is_err());
    }

    #[test]
    fn shapes_are_held_to_the_description() {
        let feature = |constraint| FeatureDescription {
            name: "x".to_owned(),
            description: String::new(),
            ty: FeatureType::MultiArray { dtype: DataType::F32, shape: vec![1, 2], constraint, default: None },
            optional: false,
        };
        let fits = |constraint, shape: &[usize]| {
            check_shape(&feature(constraint), &Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("zeros")).is_ok()
        };
        use coreml_format::description::DimRange;
        let range = || ShapeConstraint::Ranges(vec![DimRange { min: 1, max: Some(1) }, DimRange { min: 2, max: None }]);
        assert!(fits(ShapeConstraint::Fixed, &[1, 2]) && !fits(ShapeConstraint::Fixed, &[2, 1]));
        let listed = || ShapeConstraint::Enumerated(vec![vec![1, 2], vec![1, 4]]);
        assert!(fits(listed(), &[1, 4]) && !fits(listed(), &[1, 3]));
        assert!(fits(range(), &[1, 9]) && !fits(range(), &[1, 1]) && !fits(range(), &[2, 2]) && !fits(range(), &[2]));
        assert!(fits(ShapeConstraint::Unspecified, &[7]));
    }
}
