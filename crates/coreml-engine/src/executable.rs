//! One function of a model, ready to run.

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use coreml_format::dtype::DataType;
use coreml_format::program::{Dim, Program, ValueType};
use coreml_format::weights::Weights;
use coreml_kernels::buffer_pool::Memory;
use coreml_values::FeatureValue;
use indexmap::IndexMap;

use crate::admit;
use crate::array::Array;
use crate::backend::Backend;
use crate::border::{self, shape_fits};
use crate::budget::{self, Scope};
use crate::convert::{self, Unfit};
use crate::custom::Custom;
use crate::error::{EngineError, OpError, OpLocation};
use crate::frame::{Context, States};
use crate::limits::Limits;
use crate::passes::{PassSet, open_batch};
use crate::plan;
use crate::planned::{FunctionPlan, PlanInput};
pub use crate::run::Watch;
use crate::run::{self, Row};
use crate::state::{State, StateSpec};
use crate::value::Value;

/// Options for loading a function.
#[derive(Debug, Clone)]
pub struct Options {
    /// Device and operation tables.
    pub backend: Backend,
    /// Rewrites to apply.
    pub passes: PassSet,
    /// Limits of a prediction.
    pub limits: Limits,
    /// Inputs with their batch dimension. If the rows of the function are independent, predictions may pass any number
    /// of rows; see [`Executable::open_rows`].
    pub rows: Vec<(String, usize)>,
    /// Accepts internal operations and those of later opsets, for tests that write them as text.
    #[doc(hidden)]
    pub internal_ops: bool,
    /// Takes operations that lowering makes ([`ops::LOWERED`](crate::ops::LOWERED)): for programs that were made of models
    /// of other types.
    pub lowered: bool,
    /// Layers and models of the caller, which lowered programs name by index.
    pub custom: Vec<Custom>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: Backend::cpu(),
            passes: PassSet::all(),
            limits: Limits::default(),
            rows: Vec::new(),
            internal_ops: false,
            lowered: false,
            custom: Vec::new(),
        }
    }
}

/// A function of a model, planned for a device.
pub struct Executable {
    function: String,
    plan: FunctionPlan,
    context: Context,
    open_rows: Vec<(String, usize)>,
    /// Result buffers, one pool per concurrent prediction.
    memory: Mutex<Vec<Memory>>,
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Executable({:?}, {} steps)", self.function, self.plan.places.len())
    }
}

impl Executable {
    /// Prepares a function of a verified program with constants in `weights`.
    ///
    /// # Errors
    /// If the function is unknown, the engine or the function's opset lacks operations (lists all), or an operation is
    /// malformed.
    pub fn load(program: &Program, weights: &Weights, function: &str, options: &Options) -> Result<Self, EngineError> {
        let source = program.functions.get(function).ok_or_else(|| EngineError::UnknownFunction {
            asked: function.to_owned(),
            available: program.functions.keys().cloned().collect(),
        })?;
        // Memory of constants is counted separately during loading.
        let _scope = Scope::open(options.limits);
        if !options.internal_ops {
            admit::function(function, source, &options.backend, options.lowered)?;
        }
        let mut rewritten = source.clone();
        options.passes.run(&mut rewritten);
        let mut open = options.rows.clone();
        if let Err(why) = open_batch(&mut rewritten, &open, |kind| options.backend.batch(kind)) {
            tracing::debug!(function, why, "takes a fixed number of rows");
            open.clear();
        }
        let context = Context::new(options.backend.device.clone(), options.limits);
        let plan = plan::plan(function, &rewritten, weights, &options.backend, &context, &options.custom)?;
        Ok(Self { function: function.to_owned(), plan, context, open_rows: open, memory: Mutex::default() })
    }

    /// Inputs with their dimension in which predictions may choose the number of rows: [`Options::rows`] or empty.
    pub fn open_rows(&self) -> &[(String, usize)] {
        &self.open_rows
    }

    /// Name of the function.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// Inputs in order with their declared types, excluding states.
    pub fn inputs(&self) -> &[PlanInput] {
        &self.plan.inputs
    }

    /// States required by a prediction.
    pub fn states(&self) -> &[StateSpec] {
        &self.plan.states
    }

    /// Location of each step in the program, for profiles.
    pub fn places(&self) -> &[OpLocation] {
        &self.plan.places
    }

    /// Stored weight bytes read by each step, in the order of [`places`](Self::places).
    pub fn weight_bytes(&self) -> &[u64] {
        &self.plan.weight_bytes
    }

    /// Flag that, when set, stops running predictions at their next operation.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.context.cancel.clone()
    }

    /// Allocates states filled with zeros.
    ///
    /// # Errors
    /// If allocation fails or they exceed [`Limits::memory`] in total.
    pub fn new_state(&self) -> Result<State, EngineError> {
        State::within(&self.plan.states, self.context.limits.memory, &self.context.device).map_err(|source| {
            EngineError::Op {
                place: OpLocation {
                    function: self.function.clone(),
                    kind: "state".to_owned(),
                    name: "states".to_owned(),
                },
                source,
            }
        })
    }

    /// Runs the function. Tensors and numbers are converted to the declared types (see [`convert`]); strings and
    /// dictionaries are accepted where declared. Tensors are returned in the declared element type (`I32` for int32, `F16`
    /// for fp16 …).
    ///
    /// # Errors
    /// If an input is missing, misshapen or outside its declared type, the state does not fit, or an operation fails.
    pub fn predict<V: Clone + Into<FeatureValue>>(
        &self,
        inputs: &[(&str, V)],
        state: Option<&mut State>,
    ) -> Result<IndexMap<String, FeatureValue>, EngineError> {
        self.predict_watched(inputs, state, Watch::default())
    }

    /// Same as [`predict`](Self::predict), watched: profiled, and asked at every step if it is to go on.
    ///
    /// # Errors
    /// Same as `predict`; [`OpError::Cancelled`] at the step before which it was not to go on. States keep what earlier
    /// steps wrote.
    pub fn predict_watched<V: Clone + Into<FeatureValue>>(
        &self,
        inputs: &[(&str, V)],
        state: Option<&mut State>,
        watch: Watch<'_>,
    ) -> Result<IndexMap<String, FeatureValue>, EngineError> {
        let inputs: Vec<(&str, FeatureValue)> = inputs.iter().map(|(name, v)| (*name, v.clone().into())).collect();
        self.run(&inputs, state, watch)
    }

    /// True if several predictions at once are faster than one by one: [`predict_rows`](Self::predict_rows).
    pub fn takes_rows(&self) -> bool {
        self.plan.takes_rows
    }

    /// Results for several sets of inputs, in order; the same as those of [`predict`](Self::predict) one by one. A set has a value
    /// for each of [`inputs`](Self::inputs), in their order.
    ///
    /// # Errors
    /// The error of one of them, not always the first, or memory that each of them alone would have; a function with states.
    pub fn predict_rows(
        &self,
        rows: &[Vec<Cow<'_, FeatureValue>>],
    ) -> Result<Vec<IndexMap<String, FeatureValue>>, EngineError> {
        let _scope = Scope::open(self.context.limits);
        let values = |row: &Vec<Cow<'_, FeatureValue>>| {
            self.plan.inputs.iter().zip(row).map(|(input, value)| self.value_of(input, value)).collect()
        };
        let values: Vec<Vec<Value>> = rows.iter().map(values).collect::<Result<_, _>>()?;
        if let Some(short) = values.iter().find(|v| v.len() != self.plan.inputs.len()) {
            let input = &self.plan.inputs[short.len()];
            return Err(EngineError::MissingInput { name: input.name.clone(), expected: Vec::new() });
        }
        if let Some(spec) = self.plan.states.first() {
            return Err(missing_state(spec));
        }
        let rows = values.into_iter().map(|inputs| Row { inputs, state: 0 }).collect();
        self.outputs_of(run::run_rows(&self.plan, rows, Vec::new(), &self.context)?)
    }

    /// Results of predictions that run together, each reading and writing the state at its index; the same as those of
    /// [`predict`](Self::predict) in order, to the bit, except that a state is written by all rows before any reads it: rows
    /// of one state must not read what later ones write, as tokens behind a causal mask don't. Weights are read once for all
    /// rows where kernels allow. A function without states takes none.
    ///
    /// # Errors
    /// Same as [`predict`](Self::predict); the error of one of them, not always the first, or memory that each of them alone
    /// would have. States then hold what earlier steps wrote.
    pub fn predict_together(
        &self,
        rows: &[(Vec<(&str, FeatureValue)>, usize)],
        states: &mut [&mut State],
    ) -> Result<Vec<IndexMap<String, FeatureValue>>, EngineError> {
        let _scope = Scope::open(self.context.limits);
        let row = |(inputs, state): &(Vec<(&str, FeatureValue)>, usize)| {
            if let Some(spec) = self.plan.states.first().filter(|_| *state >= states.len()) {
                return Err(missing_state(spec));
            }
            let inputs = self.plan.inputs.iter().map(|i| self.input(i, inputs)).collect::<Result<Vec<_>, _>>()?;
            Ok(Row { inputs, state: *state })
        };
        let rows = rows.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let mut lent = Vec::new();
        for state in states.iter_mut().filter(|_| !self.plan.states.is_empty()) {
            let order = state.order(&self.plan.states)?;
            lent.push(States { state, order });
        }
        self.outputs_of(run::run_rows(&self.plan, rows, lent, &self.context)?)
    }

    /// True if rows of one state may run together: states are written in parts, not by writing back what was read.
    pub fn rows_share_states(&self) -> bool {
        !self.plan.has_blocks
            && !self.plan.places.iter().any(|p| matches!(p.kind.as_str(), "write_state" | "coreml_update_state"))
    }

    fn outputs_of(&self, rows: Vec<Vec<Value>>) -> Result<Vec<IndexMap<String, FeatureValue>>, EngineError> {
        let output = |((name, ty), value): (&(String, Option<ValueType>), Value)| {
            Ok((name.clone(), self.output(name, ty.as_ref(), &value)?))
        };
        rows.into_iter().map(|row| self.plan.outputs.iter().zip(row).map(output).collect()).collect()
    }

    fn run(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut State>,
        watch: Watch<'_>,
    ) -> Result<IndexMap<String, FeatureValue>, EngineError> {
        let _scope = Scope::open(self.context.limits);
        let values = self.plan.inputs.iter().map(|i| self.input(i, inputs)).collect::<Result<Vec<_>, _>>()?;
        let states = match state {
            Some(state) if !self.plan.states.is_empty() => {
                let order = state.order(&self.plan.states)?;
                Some(States { state, order })
            }
            _ => match self.plan.states.first() {
                Some(spec) => return Err(missing_state(spec)),
                None => None,
            },
        };
        let idle = || self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = idle().pop().unwrap_or_default();
        let reuses = watch.each.is_none() && run::reuses(&self.plan, &values);
        let predict = || {
            let (results, mut owners) = run::run(&self.plan, values, states, &self.context, watch, reuses)?;
            let output = |((name, ty), value): (&(String, Option<ValueType>), Value)| {
                let made = self.output(name, ty.as_ref(), &value)?;
                owners.release_output(&value, made.tensor());
                Ok((name.clone(), made))
            };
            self.plan.outputs.iter().zip(results).map(output).collect()
        };
        let outputs = if reuses { memory.lend(predict) } else { predict() };
        idle().push(memory);
        outputs
    }

    /// A result as callers get it.
    fn output(&self, name: &str, ty: Option<&ValueType>, value: &Value) -> Result<FeatureValue, EngineError> {
        border::output(value, ty, &self.context.device)
            .map_err(|e| EngineError::BadOutput { name: name.to_owned(), message: e.to_string() })
    }

    fn input(&self, input: &PlanInput, given: &[(&str, FeatureValue)]) -> Result<Value, EngineError> {
        let found = given.iter().find(|(name, _)| *name == input.name);
        let (_, value) = found.ok_or_else(|| EngineError::MissingInput {
            name: input.name.clone(),
            expected: self.plan.inputs.iter().map(|i| i.name.clone()).collect(),
        })?;
        self.value_of(input, value)
    }

    /// A value of an input as the program takes it.
    fn value_of(&self, input: &PlanInput, value: &FeatureValue) -> Result<Value, EngineError> {
        let other =
            |found: String| EngineError::BadInput { name: input.name.clone(), expected: in_words(&input.ty), found };
        if let Some(value) = border::given(value, &input.ty).map_err(|e| self.refused(input, e))? {
            return Ok(value);
        }
        let tensor = value.numbers_as_tensor().map_err(|e| other(e.to_string()))?;
        let tensor = &tensor.ok_or_else(|| other(value.kind().to_owned()))?;
        let bad = |expected: String| EngineError::BadInput {
            name: input.name.clone(),
            expected,
            found: format!("{:?} {:?}", tensor.dtype(), tensor.dims()),
        };
        let ValueType::Tensor(ty) = &input.ty else {
            return Err(bad(format!("{:?}", input.ty)));
        };
        if !shape_fits(tensor.dims(), ty) {
            let shape: Vec<_> = ty.shape.iter().map(Dim::to_string).collect();
            return Err(bad(format!("{} [{}]", ty.dtype, shape.join(", "))));
        }
        let unfit = |e: Unfit| EngineError::BadInput { name: input.name.clone(), expected: e.expected, found: e.found };
        let refused = |source: OpError| match source {
            OpError::TooMuchMemory { .. } | OpError::OutOfMemory { .. } => self.refused(input, source),
            _ => bad(ty.dtype.to_string()),
        };
        if ty.dtype == DataType::F64 {
            return border::doubles(tensor).map_err(refused);
        }
        budget::claim(convert::cost(tensor, ty.dtype)).map_err(refused)?;
        let tensor = convert::to_declared(tensor, ty.dtype).map_err(unfit)?;
        let tensor = tensor.to_device(&self.context.device).map_err(|_| bad(ty.dtype.to_string()))?;
        let array = Array::new(tensor, ty.dtype).map_err(refused)?;
        Ok(Value::Array(array))
    }

    /// An input that memory does not suffice for.
    fn refused(&self, input: &PlanInput, source: OpError) -> EngineError {
        let place = OpLocation { function: self.function.clone(), kind: "input".to_owned(), name: input.name.clone() };
        EngineError::Op { place, source }
    }
}

fn missing_state(spec: &StateSpec) -> EngineError {
    EngineError::BadState {
        name: spec.name.clone(),
        expected: format!("{} {:?}", spec.dtype, spec.shape),
        found: "a prediction without state".to_owned(),
    }
}

/// What an input of a type takes, for errors.
fn in_words(ty: &ValueType) -> String {
    let string = |ty: &ValueType| ty.tensor().is_some_and(|t| t.dtype == DataType::String);
    match ty {
        ValueType::Dictionary(key, _) if string(key) => "a dictionary with strings as keys",
        ValueType::Dictionary(..) => "a dictionary with integers as keys",
        ValueType::Tensor(t) if string(ty) && t.shape.is_empty() => "a string",
        ty if string(ty) => "a sequence of strings",
        _ => "a tensor",
    }
    .to_owned()
}
