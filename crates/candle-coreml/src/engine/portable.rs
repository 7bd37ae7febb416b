//! The portable engine behind the common interface.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use coreml_engine::Limits;
use coreml_engine::error::{EngineError, OpError, OpLocation};
use coreml_engine::executable::{Executable, Options, Watch};
use coreml_engine::profile::{Profile, StepCost};
use coreml_engine::state::{State, StateSpec};
use coreml_engine::value::Value;
use coreml_format::description::{FeatureDescription, FeatureType, FunctionDescription, ModelDescription};
use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::program::{Dim, TensorType};
use coreml_lower::{Absent, neural_network};
use coreml_values::FeatureValue;
use indexmap::IndexMap;

use super::interface::{InnerValue, downcast};
use super::{DeviceKind, Engine, EngineOptions, EngineState, OperationCost, OperationReport};
use crate::custom::Instances;
use crate::error::{Error, Result};
use crate::model::{FeatureRow, RowOutputs};

mod sequence;
mod shaped;

use shaped::Shaped;

const NAME: &str = "portable";

/// A function on the portable engine.
#[derive(Debug)]
pub(super) struct Portable {
    path: PathBuf,
    executable: Executable,
    described: FunctionDescription,
    /// For networks of rank 5, which take sequences and batches of their arrays.
    shaped: Option<Shaped>,
    /// Inputs that may be left out.
    optional: Vec<Optional>,
    /// Maximum size of a state in bytes.
    memory: usize,
    /// True while profiling; `profile` sums over predictions.
    profiling: AtomicBool,
    profile: Mutex<Profile>,
}

/// An input that may be left out.
#[derive(Debug)]
struct Optional {
    feature: FeatureDescription,
    /// Input of the program that says whether it is given, if there is one.
    marker: Option<String>,
}

/// States of the portable engine.
#[derive(Debug)]
pub(super) struct PortableState(State);

/// Plans a function.
pub(super) fn load(
    package: &Arc<Model>,
    function: Option<&str>,
    options: &EngineOptions,
    rows: &[(String, usize)],
) -> Result<Portable> {
    let plan = plan(package, &package.description, function, options, rows)?;
    let shaped = neural_network::takes_sequences(&package.body).then(|| Shaped::new(package.clone(), options.clone()));
    Ok(Portable { shaped, ..plan })
}

/// Plans a function of a model with this description.
fn plan(
    package: &Model,
    description: &ModelDescription,
    function: Option<&str>,
    options: &EngineOptions,
    rows: &[(String, usize)],
) -> Result<Portable> {
    let classes = Instances::new(&options.custom);
    let program = coreml_lower::lower_as(package, description, Some(&classes))
        .map_err(|source| Error::Lower { path: package.path.clone(), source })?;
    let settings = Options {
        passes: options.passes.clone(),
        rows: rows.to_vec(),
        limits: options.limits,
        // A program of a file is borrowed.
        lowered: matches!(program, Cow::Owned(_)),
        custom: classes.made(),
        ..Options::default()
    };
    let function = function.unwrap_or(&description.default_function);
    let executable = Executable::load(&program, &package.weights, function, &settings);
    let executable = executable.map_err(|e| failure(&package.path, e))?;
    let described = description.functions.get(executable.function()).cloned().unwrap_or_default();
    let optional = |feature: &FeatureDescription| {
        let marker = coreml_lower::presence(&feature.name);
        let marker = executable.inputs().iter().any(|i| i.name == marker).then_some(marker);
        (feature.optional || marker.is_some()).then(|| Optional { feature: feature.clone(), marker })
    };
    let optional = described.inputs.iter().filter_map(optional).collect();
    let (profiling, profile) = Default::default();
    let (path, memory, shaped) = (package.path.clone(), options.limits.memory, None);
    Ok(Portable { path, executable, described, optional, shaped, memory, profiling, profile })
}

fn failure(path: &std::path::Path, source: EngineError) -> Error {
    Error::Engine { path: path.to_owned(), source: Box::new(source) }
}

/// Zeroed states, within the default memory limit of a prediction.
pub(super) fn new_state(specs: &[StateSpec]) -> Result<Box<dyn EngineState>> {
    state_within(specs, Limits::default().memory)
}

fn state_within(specs: &[StateSpec], memory: usize) -> Result<Box<dyn EngineState>> {
    let state = State::within(specs, memory, &Device::Cpu);
    let state = state.map_err(|e| Error::Allocation { what: "states", source: Box::new(e) })?;
    Ok(Box::new(PortableState(state)))
}

impl Engine for Portable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn function(&self) -> &str {
        self.executable.function()
    }

    fn description(&self) -> Option<&ModelDescription> {
        None
    }

    fn inputs(&self) -> Vec<&str> {
        let marker = |name: &str| self.optional.iter().any(|o| o.marker.as_deref() == Some(name));
        self.executable.inputs().iter().map(|i| i.name.as_str()).filter(|name| !marker(name)).collect()
    }

    fn states(&self) -> &[StateSpec] {
        self.executable.states()
    }

    fn new_state(&self, specs: &[StateSpec]) -> Result<Box<dyn EngineState>> {
        state_within(specs, self.memory)
    }

    fn open_rows(&self) -> &[(String, usize)] {
        self.executable.open_rows()
    }

    fn predict(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        self.run(inputs, state, Watch::default())
    }

    fn predict_while(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<IndexMap<String, FeatureValue>> {
        self.run(inputs, state, Watch { go_on: Some(go_on), ..Watch::default() })
    }

    fn predict_traced(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
        each: &dyn Fn(&InnerValue<'_>),
    ) -> Result<IndexMap<String, FeatureValue>> {
        let show = |place: &OpLocation, values: &[Value]| {
            for (output, value) in values.iter().enumerate() {
                let (tensor, dtype) = match value {
                    Value::Array(array) => (array.tensor().clone(), array.dtype()),
                    Value::Doubles(all) => match Tensor::from_slice(&all.data, all.shape.as_slice(), &Device::Cpu) {
                        Ok(tensor) => (tensor, DataType::F64),
                        Err(_) => continue,
                    },
                    _ => continue,
                };
                each(&InnerValue { operator: &place.kind, name: &place.name, output, tensor, dtype });
            }
        };
        self.run(inputs, state, Watch { each: Some(&show), ..Watch::default() })
    }

    fn takes_rows(&self) -> bool {
        self.executable.takes_rows() && !self.profiling.load(Ordering::Relaxed)
    }

    fn predict_rows(&self, rows: &[FeatureRow]) -> Option<Vec<RowOutputs>> {
        let first = rows.first()?;
        let places = self.executable.inputs().iter().map(|input| self.place(&input.name, first));
        let places: Vec<Place> = places.collect::<Option<_>>()?;
        let same = |row: &FeatureRow| {
            row.len() == first.len() && row.iter().zip(first).all(|((name, _), (other, _))| name == other)
        };
        let mut ready = Vec::with_capacity(rows.len());
        for row in rows {
            let value = |place: &'_ Place| match place {
                Place::Given(i) => match &row[*i] {
                    (_, value @ FeatureValue::Double(_)) => Some(Cow::Borrowed(value)),
                    (name, value) => self.input(name, value).ok().map(Cow::Owned),
                },
                Place::Constant(value) => Some(Cow::Owned(value.clone())),
            };
            if !same(row) {
                return None;
            }
            ready.push(places.iter().map(value).collect::<Option<Vec<_>>>()?);
        }
        self.executable.predict_rows(&ready).ok()
    }

    fn predict_together(
        &self,
        rows: &[(Vec<(&str, FeatureValue)>, usize)],
        states: &mut [&mut (dyn EngineState + 'static)],
    ) -> Option<Result<Vec<IndexMap<String, FeatureValue>>>> {
        if self.shaped.is_some() || !self.optional.is_empty() || self.profiling.load(Ordering::Relaxed) {
            return None;
        }
        let mut used = std::collections::HashSet::new();
        let shared = !self.states().is_empty() && rows.iter().any(|(_, state)| !used.insert(*state));
        (!shared || self.executable.rows_share_states()).then(|| self.together(rows, states))
    }

    fn set_profiling(&self, on: bool) -> bool {
        if on {
            *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = Profile::default();
        }
        self.profiling.store(on, Ordering::Relaxed);
        true
    }

    fn costs(&self) -> Vec<OperationCost> {
        let profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        let places = self.executable.places().iter().zip(self.executable.weight_bytes());
        let cost =
            |((place, &weight_bytes), cost): ((&coreml_engine::error::OpLocation, &u64), &StepCost)| OperationCost {
                function: place.function.clone(),
                operator: place.kind.clone(),
                name: place.name.clone(),
                calls: cost.calls,
                nanoseconds: u64::try_from(cost.time.as_nanos()).unwrap_or(u64::MAX),
                weight_bytes,
                output_bytes: cost.output_bytes,
            };
        places.zip(profile.costs()).map(cost).filter(|c| c.calls > 0).collect()
    }

    /// All operations run on the CPU; profiling a prediction measures their cost.
    fn placement(&self) -> Result<Vec<OperationReport>> {
        let report = |place: &coreml_engine::error::OpLocation| OperationReport {
            function: place.function.clone(),
            operator: place.kind.clone(),
            outputs: vec![place.name.clone()],
            preferred: Some(DeviceKind::Cpu),
            supported: vec![DeviceKind::Cpu],
            cost: None,
        };
        Ok(self.executable.places().iter().map(report).collect())
    }
}

/// What an optional input is that is not given. Arrays are one element, repeated: the engine counts what it makes of them.
fn absent(feature: &FeatureDescription) -> Result<Option<FeatureValue>> {
    Ok(match coreml_lower::absent(feature) {
        None => None,
        Some(Absent::Number(x)) => Some(FeatureValue::Double(x)),
        Some(Absent::Array { dtype, shape, value }) => {
            let one = match dtype {
                DataType::F64 => Tensor::new(value, &Device::Cpu)?,
                _ => Tensor::new(value as f32, &Device::Cpu)?,
            };
            Some(FeatureValue::Tensor(one.broadcast_as(shape)?))
        }
    })
}

/// A value of a type for an input that is not given, where the program knows that it is not.
fn nothing(ty: &FeatureType) -> Option<FeatureValue> {
    Some(match ty {
        FeatureType::Int64 => FeatureValue::Int64(0),
        FeatureType::Double => FeatureValue::Double(0.0),
        FeatureType::String => FeatureValue::String(String::new()),
        FeatureType::Sequence { ints: true } => FeatureValue::Int64s(Vec::new()),
        FeatureType::Sequence { ints: false } => FeatureValue::Strings(Vec::new()),
        FeatureType::Dictionary { .. } => FeatureValue::Dictionary(Vec::new()),
        FeatureType::MultiArray { .. } | FeatureType::Image { .. } | FeatureType::State { .. } => return None,
    })
}

/// Where an input of the program is in a row.
enum Place {
    Given(usize),
    Constant(FeatureValue),
}

impl Portable {
    /// Where an input of the program is in rows with these names; `None` if it is nowhere.
    fn place(&self, name: &str, row: &FeatureRow) -> Option<Place> {
        let given = |name: &str| row.iter().position(|(n, _)| n == name);
        if let Some(Optional { feature, .. }) = self.optional.iter().find(|o| o.marker.as_deref() == Some(name)) {
            let given = given(&feature.name).is_some();
            return Some(Place::Constant(FeatureValue::Double(f64::from(u8::from(given)))));
        }
        if let Some(i) = given(name) {
            return Some(Place::Given(i));
        }
        let Optional { feature, marker } =
            self.optional.iter().find(|o| o.feature.optional && o.feature.name == name)?;
        let value = if marker.is_some() { nothing(&feature.ty) } else { absent(feature).ok()? };
        value.map(Place::Constant)
    }

    fn run(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
        watch: Watch<'_>,
    ) -> Result<IndexMap<String, FeatureValue>> {
        let Watch { go_on, each, .. } = watch;
        let again = || Watch { go_on, each, ..Watch::default() };
        if let (Some(shaped), None) = (&self.shaped, &state) {
            if let Some(steps) = sequence::steps(&self.executable, &self.described, inputs)? {
                let results = steps.iter().map(|step| self.run(step, None, again())).collect::<Result<Vec<_>>>()?;
                return sequence::join(results);
            }
            if let Some((network, inputs)) = shaped.network(self, inputs)? {
                return network.run(&inputs, None, again());
            }
        }
        let mut ready = Vec::with_capacity(inputs.len());
        for (name, value) in inputs {
            ready.push((*name, self.input(name, value)?));
        }
        for Optional { feature, marker } in &self.optional {
            let given = ready.iter().any(|(n, _)| *n == feature.name);
            if let Some(marker) = marker {
                ready.push((marker.as_str(), FeatureValue::Double(f64::from(u8::from(given)))));
            }
            if feature.optional
                && !given
                && let Some(value) = if marker.is_some() { nothing(&feature.ty) } else { absent(feature)? }
            {
                ready.push((feature.name.as_str(), value));
            }
        }
        // A function without states ignores the state, whichever engine made it.
        let state = match state {
            Some(state) if !self.states().is_empty() => Some(&mut downcast::<PortableState>(state, NAME)?.0),
            _ => None,
        };
        // Each prediction has its own profile, so that predictions don't wait for each other.
        let mut profile = self.profiling.load(Ordering::Relaxed).then(Profile::default);
        let watch = Watch { profile: profile.as_mut(), go_on, each };
        let outputs = self.executable.predict_watched(&ready, state, watch);
        if let Some(profile) = profile {
            self.profile.lock().unwrap_or_else(PoisonError::into_inner).merge(&profile);
        }
        outputs.map_err(|e| self.failure(e))
    }

    fn together(
        &self,
        rows: &[(Vec<(&str, FeatureValue)>, usize)],
        states: &mut [&mut (dyn EngineState + 'static)],
    ) -> Result<Vec<IndexMap<String, FeatureValue>>> {
        let mut ready = Vec::with_capacity(rows.len());
        for (inputs, state) in rows {
            let mut own = Vec::with_capacity(inputs.len());
            for (name, value) in inputs {
                own.push((*name, self.input(name, value)?));
            }
            ready.push((own, *state));
        }
        let mut own = Vec::new();
        for state in states.iter_mut().filter(|_| !self.states().is_empty()) {
            own.push(&mut downcast::<PortableState>(&mut **state, NAME)?.0);
        }
        self.executable.predict_together(&ready, &mut own).map_err(|e| self.failure(e))
    }

    fn failure(&self, error: EngineError) -> Error {
        match error {
            EngineError::BadInput { name, expected, found } => Error::Input { name, expected, found },
            EngineError::Op { source: OpError::Cancelled, .. } => Error::Cancelled,
            other => failure(&self.path, other),
        }
    }

    /// Moves an input to the CPU, in the shape that the program declares. The engine converts the dtype.
    fn input(&self, name: &str, value: &FeatureValue) -> Result<FeatureValue> {
        let Some(tensor) = value.numbers_as_tensor()? else { return Ok(value.clone()) };
        let tensor = tensor.to_device(&Device::Cpu)?;
        let declared = self.executable.inputs().iter().find(|i| i.name == name).and_then(|i| i.ty.tensor());
        if let Some(shape) = declared.and_then(|ty| self.sequence(name, tensor.dims(), &ty.shape)) {
            return Ok(FeatureValue::Tensor(tensor.reshape(shape)?));
        }
        // A scalar of the program is described as a one-element array.
        Ok(FeatureValue::Tensor(match declared.and_then(TensorType::fixed_shape) {
            Some(s) if s != tensor.dims() && s.iter().product::<usize>() == tensor.elem_count() => tensor.reshape(s)?,
            _ => tensor,
        }))
    }

    /// The shape `[sequence, 1, C, H, W]` of an array `[C]` or `[C, H, W]` that a network of rank 5 takes alone or as a
    /// sequence `[sequence, 1, …]`.
    fn sequence(&self, name: &str, found: &[usize], declared: &[Dim]) -> Option<Vec<usize>> {
        let [Dim::Unknown, Dim::Fixed(1), element @ ..] = declared else { return None };
        let element: Vec<usize> = element.iter().map(|d| d.fixed()).collect::<Option<_>>()?;
        let FeatureType::MultiArray { shape, .. } = &self.described.input(name)?.ty else { return None };
        let length = match found {
            _ if element.len() != 3 || !element.starts_with(shape) => return None,
            one if one == shape.as_slice() => 1,
            _ => neural_network::sequence_length(shape, found)?,
        };
        Some([&[length, 1], &element[..]].concat())
    }
}

fn no_buffer(name: &str) -> Error {
    Error::State { name: name.to_owned(), message: "it has no buffer".to_owned() }
}

impl EngineState for PortableState {
    fn engine(&self) -> &'static str {
        NAME
    }

    fn names(&self) -> Vec<&str> {
        self.0.buffers().iter().map(|b| b.spec().name.as_str()).collect()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        let buffer = self.0.buffers().iter().find(|b| b.spec().name == name);
        let buffer = buffer.ok_or_else(|| no_buffer(name))?;
        Ok(buffer.tensor().copy()?)
    }

    fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let buffer = self.0.get_mut(name);
        let buffer = buffer.ok_or_else(|| no_buffer(name))?;
        buffer.write(value).map_err(|e| Error::State { name: name.to_owned(), message: e.to_string() })
    }

    fn reset(&mut self) -> Result<()> {
        self.0.reset().map_err(|e| Error::Allocation { what: "states", source: Box::new(e) })
    }
}
