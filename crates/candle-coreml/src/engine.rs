//! The engines: what both can do, and which of them runs a model.
//!
//! | engine | what | where |
//! |---|---|---|
//! | `portable` | our own, on Candle tensors | everywhere |
//! | `native` | Apple's Core ML | Apple's platforms |
//!
//! A model is loaded by one engine and stays with it, and so do its states. Everything that platforms have
//! different lies in `native` (with a stand-in elsewhere).

use std::any::Any;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
pub use coreml_apple::options::{ComputeUnits, UnknownUnits};
pub use coreml_apple::report::{DeviceKind, OperationReport, by_device};
use coreml_format::description::ModelDescription;
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::program::Program;
use coreml_format::weights::Weights;
use coreml_values::FeatureValue;
use indexmap::IndexMap;
pub use mil_engine::Limits;
use mil_engine::passes::PassSet;
use mil_engine::state::StateSpec;

use crate::error::{Error, Result};

#[cfg_attr(not(target_vendor = "apple"), path = "engine/absent.rs")]
mod native;
mod portable;

/// Which engine runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EngineChoice {
    /// Apple's Core ML where it loads the model, else the portable engine.
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

    /// Name on command lines.
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

/// Whether this build has the native engine.
pub const fn native_is_available() -> bool {
    native::AVAILABLE
}

/// How an engine is chosen and set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Which engine.
    pub choice: EngineChoice,
    /// Processors that the native engine may use; the portable engine uses the CPU.
    pub compute_units: ComputeUnits,
    /// Rewrites that the portable engine makes.
    pub passes: PassSet,
    /// What a prediction of the portable engine may use up: memory, and work.
    pub limits: Limits,
    /// Folder of the models that the native engine has compiled; `None`: the user's cache folder.
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
    /// These options for one engine.
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

    /// What the engine itself says about the model, if it does.
    fn description(&self) -> Option<&ModelDescription>;

    /// Names of the inputs without states, in the engine's order.
    fn inputs(&self) -> Vec<&str>;

    /// States that predictions need.
    fn states(&self) -> &[StateSpec];

    /// A state of zeros with these buffers, which hold at least the engine's own.
    fn new_state(&self, specs: &[StateSpec]) -> Result<Box<dyn EngineState>>;

    /// Predicts with inputs whose names and shapes are those of the description. Tensors lie anywhere: what the engine
    /// can't read where it is, it copies or refuses.
    fn predict(
        &self,
        inputs: &[(&str, FeatureValue)],
        state: Option<&mut (dyn EngineState + 'static)>,
    ) -> Result<IndexMap<String, FeatureValue>>;

    /// Inputs, and their dimensions, in which a prediction may bring fewer or more rows than the model declares.
    fn open_rows(&self) -> &[(String, usize)] {
        &[]
    }

    /// Where each operation runs.
    fn placement(&self) -> Result<Vec<OperationReport>>;

    /// Begins to measure the operations of predictions, from zero, or stops; whether the engine can.
    fn set_profiling(&self, _on: bool) -> bool {
        false
    }

    /// What the operations cost since profiling began.
    fn costs(&self) -> Vec<OperationCost> {
        Vec::new()
    }
}

/// What one operation cost, summed over predictions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OperationCost {
    /// Function of the model.
    pub function: String,
    /// Type of the operation; the engine's own ones join several of the program.
    pub operator: String,
    /// Its name.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// Time spent, nested blocks included, in nanoseconds.
    pub nanoseconds: u64,
    /// Bytes of weights that it takes in one call, as stored.
    pub weight_bytes: u64,
    /// Bytes of all results.
    pub output_bytes: u64,
}

/// The states of one conversation, in the memory of one engine.
pub(crate) trait EngineState: std::fmt::Debug + Send + Sync + Any {
    /// Name of the engine.
    fn engine(&self) -> &'static str;

    /// Names of the states.
    fn names(&self) -> Vec<&str>;

    /// A copy of a state that exists.
    fn get(&self, name: &str) -> Result<Tensor>;

    /// Replaces the content of a state that exists.
    fn set(&mut self, name: &str, value: &Tensor) -> Result<()>;

    /// Sets all to zeros.
    fn reset(&mut self) -> Result<()>;
}

/// The state as that of one engine.
///
/// # Errors
/// [`Error::StateEngine`] for a state of another engine.
fn downcast<'a, T: EngineState>(state: &'a mut (dyn EngineState + 'static), engine: &'static str) -> Result<&'a mut T> {
    let found = state.engine();
    let any: &mut dyn Any = state;
    any.downcast_mut().ok_or(Error::StateEngine { expected: engine, found })
}

/// A state without buffers, for models that have none.
pub(crate) fn empty_state() -> Result<Box<dyn EngineState>> {
    portable::new_state(&[])
}

/// A loaded function and why this engine runs it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) reason: String,
}

/// Opens a model. Where only Core ML can read a compiled model, what it says replaces the description.
pub(crate) fn open(path: &std::path::Path, options: &EngineOptions) -> Result<Model> {
    let native = native::AVAILABLE && options.choice != EngineChoice::Portable;
    match Model::open(path) {
        Err(error) if native && coreml_apple::cache::is_compiled(path) => {
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

/// The program of a model that can become one.
pub(crate) fn program(package: &Model) -> Option<Cow<'_, Program>> {
    coreml_lower::lower(package).ok()
}

/// Loads a function with the engine that is asked for, or with the best that takes it. `rows` names inputs, and their
/// dimensions, that are to stay open where the engine can do so.
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
            // A model that only Core ML can read or run has nothing to fall back on.
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

/// Why `Auto` takes the portable engine off Apple's platforms.
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

    /// A state as the other engine would have it.
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
