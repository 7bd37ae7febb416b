//! The engines: their common interface, and the choice of engine for a model.
//!
//! | engine | implementation | platforms |
//! |---|---|---|
//! | `portable` | this project's own, on Candle tensors | all |
//! | `native` | Apple's Core ML | Apple |
//!
//! A model stays with the engine that loaded it, and so do its states. Platform-specific code is in `native` (with a
//! stub elsewhere).

use std::any::Any;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
pub use coreml_engine::Limits;
use coreml_engine::passes::PassSet;
use coreml_engine::state::StateSpec;
use coreml_format::description::ModelDescription;
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::program::Program;
use coreml_format::weights::Weights;
pub use coreml_framework::options::{ComputeUnits, UnknownUnits};
pub use coreml_framework::report::{DeviceKind, OperationReport, by_device};
use coreml_values::FeatureValue;
use indexmap::IndexMap;

use crate::error::{Error, Result};

#[cfg_attr(not(target_vendor = "apple"), path = "engine/absent.rs")]
mod native;
mod portable;

/// Choice of engine for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EngineChoice {
    /// Apple's Core ML if it can load the model, else the portable engine.
    #[default]
    Auto,
    /// Apple's Core ML framework.
    Native,
    /// The portable engine.
    Portable,
}

impl EngineChoice {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Native, Self::Portable];

    /// Name for command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Portable => "portable",
        }
    }
}

impl std::fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for EngineChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let choice = Self::ALL.into_iter().find(|c| c.name() == name);
        let expected = || "auto, native, portable".to_owned();
        choice.ok_or_else(|| Error::UnknownName { what: "engine", name: name.to_owned(), expected: expected() })
    }
}

/// Returns true if this build includes the native engine.
pub const fn native_is_available() -> bool {
    native::AVAILABLE
}

/// Choice and configuration of the engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The engine.
    pub choice: EngineChoice,
    /// Processors that the native engine may use; the portable engine uses the CPU.
    pub compute_units: ComputeUnits,
    /// Passes of the portable engine.
    pub passes: PassSet,
    /// Memory and work limits of a prediction on the portable engine.
    pub limits: Limits,
    /// Folder for models compiled by the native engine; `None`: the user's cache folder.
    pub cache: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            choice: EngineChoice::default(),
            compute_units: ComputeUnits::default(),
            passes: PassSet::all(),
            limits: Limits::default(),
            cache: None,
        }
    }
}

impl EngineOptions {
    /// These options with another engine.
    #[must_use]
    pub fn with_choice(&self, choice: EngineChoice) -> Self {
        Self { choice, ..self.clone() }
    }
}

/// One function of a model, loaded by one engine.
pub(crate) trait Engine: std::fmt::Debug + Send + Sync {
    /// Name of the engine.
    fn name(&self) -> &'static str;

    /// Name of the function.
    fn function(&self) -> &str;

    /// The engine's own description of the model, if any.
    fn description(&self) -> Option<&ModelDescription>;

    /// Names of the inputs without states, in the engine's order.
    fn inputs(&self) -> Vec<&str>;

    /// States required by predictions.
    fn states(&self) -> &[StateSpec];

    /// A zeroed state with these buffers, a superset of the engine's own.
    fn new_state(&self, specs: &[StateSpec]) -> Result<Box<dyn EngineState>>;

    /// Predicts. Names and shapes of `inputs` match the description; tensors may be on any device: the engine copies
    /// what it cannot read in place, or returns an error.
    fn predict(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
    ) -> Result<IndexMap<String, FeatureValue>>;

    /// Inputs, with the dimension, whose number of rows may differ from the declared one.
    fn open_rows(&self) -> &[(String, usize)] {
        &[]
    }

    /// Placement of each operation.
    fn placement(&self) -> Result<Vec<OperationReport>>;

    /// Starts profiling from zero, or stops it. Returns true if the engine supports it.
    fn set_profiling(&self, _on: bool) -> bool {
        false
    }

    /// Costs of the operations since profiling started.
    fn costs(&self) -> Vec<OperationCost> {
        Vec::new()
    }
}

/// Cost of one operation, summed over predictions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OperationCost {
    /// Function of the model.
    pub function: String,
    /// Type of the operation; the engine's fused types cover several operations of the program.
    pub operator: String,
    /// Its name.
    pub name: String,
    /// Number of calls.
    pub calls: u64,
    /// Time in nanoseconds, nested blocks included.
    pub nanoseconds: u64,
    /// Bytes of weights per call, as stored.
    pub weight_bytes: u64,
    /// Bytes of all results.
    pub output_bytes: u64,
}

/// States of one conversation, in the memory of one engine.
pub(crate) trait EngineState: std::fmt::Debug + Send + Sync + Any {
    /// Name of the engine.
    fn engine(&self) -> &'static str;

    /// Names of the states.
    fn names(&self) -> Vec<&str>;

    /// Copies an existing state.
    fn get(&self, name: &str) -> Result<Tensor>;

    /// Overwrites an existing state.
    fn set(&mut self, name: &str, value: &Tensor) -> Result<()>;

    /// Zeroes all states.
    fn reset(&mut self) -> Result<()>;
}

/// Downcasts the state to the type of one engine.
///
/// # Errors
/// [`Error::StateEngine`] if the state belongs to another engine.
fn downcast<'a, T: EngineState>(state: &'a mut (dyn EngineState + 'static), engine: &'static str) -> Result<&'a mut T> {
    let found = state.engine();
    let any: &mut dyn Any = state;
    any.downcast_mut().ok_or(Error::StateEngine { expected: engine, found })
}

/// A state without buffers, for models that have none.
pub(crate) fn empty_state() -> Result<Box<dyn EngineState>> {
    portable::new_state(&[])
}

/// A loaded function and the reason for the choice of engine.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) reason: String,
}

/// Opens a model. If only Core ML can read a compiled model, Core ML supplies the description.
pub(crate) fn open(path: &std::path::Path, options: &EngineOptions) -> Result<Model> {
    let native = native::AVAILABLE && options.choice != EngineChoice::Portable;
    match Model::open(path) {
        Err(error) if native && coreml_framework::cache::is_compiled(path) => {
            tracing::debug!(%error, "left to Core ML");
            Ok(Model {
                path: path.to_owned(),
                description: ModelDescription::default(),
                body: Body::Program(Program::default()),
                parts: Vec::new(),
                weights: Weights::default(),
            })
        }
        opened => Ok(opened?),
    }
}

/// Lowers a model to a program, if possible.
pub(crate) fn program(package: &Model) -> Option<Cow<'_, Program>> {
    coreml_lower::lower(package).ok()
}

/// Loads a function on the requested engine, or on the best one that accepts it. `rows` lists inputs and their
/// dimensions to keep dynamic if the engine supports it.
pub(crate) fn load(
    package: &Arc<Model>,
    function: Option<&str>,
    options: &EngineOptions,
    rows: &[(String, usize)],
) -> Result<Loaded> {
    let portable = |reason: String| {
        let engine = portable::load(package, function, options, rows)?;
        Ok(Loaded { engine: Box::new(engine), reason })
    };
    let loaded = match options.choice {
        EngineChoice::Portable => portable("it was asked for".to_owned()),
        EngineChoice::Native => {
            let engine = native::load(package, function, options)?;
            Ok(Loaded { engine, reason: "it was asked for".to_owned() })
        }
        EngineChoice::Auto if !native::AVAILABLE => portable(NO_CORE_ML.to_owned()),
        EngineChoice::Auto => match native::load(package, function, options) {
            Ok(engine) => Ok(Loaded { engine, reason: "Core ML loads the model".to_owned() }),
            // There is no fallback for a model that only Core ML can read or run.
            Err(error) if program(package).is_none_or(|p| p.functions.is_empty()) => Err(error),
            Err(error) => {
                tracing::warn!(path = %package.path.display(), %error, "Core ML does not load the model");
                portable(format!("Core ML does not load the model: {error}"))
            }
        },
    }?;
    let (engine, function) = (loaded.engine.name(), loaded.engine.function());
    tracing::info!(path = %package.path.display(), function, engine, reason = loaded.reason, "loaded");
    Ok(loaded)
}

/// Reason why `Auto` chooses the portable engine off Apple platforms.
const NO_CORE_ML: &str = "this platform has no Core ML";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_have_names_that_read_back() {
        for choice in EngineChoice::ALL {
            assert_eq!(choice.to_string().parse::<EngineChoice>().ok(), Some(choice));
        }
        assert!("coreml".parse::<EngineChoice>().expect_err("no such engine").to_string().contains("native"));
    }

    /// A state that claims to be the other engine's.
    #[derive(Debug)]
    pub(crate) struct Foreign;

    impl EngineState for Foreign {
        fn engine(&self) -> &'static str {
            "foreign"
        }
        fn names(&self) -> Vec<&str> {
            Vec::new()
        }
        fn get(&self, name: &str) -> Result<Tensor> {
            Err(Error::Request(name.to_owned()))
        }
        fn set(&mut self, name: &str, _: &Tensor) -> Result<()> {
            Err(Error::Request(name.to_owned()))
        }
        fn reset(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn states_of_another_engine_are_refused() {
        let mut own = empty_state().expect("no buffers");
        assert!(downcast::<portable::PortableState>(&mut *own, "portable").is_ok());
        let error = downcast::<portable::PortableState>(&mut Foreign, "portable").expect_err("not its own");
        assert!(matches!(error, Error::StateEngine { expected: "portable", found: "foreign" }));
    }
}
