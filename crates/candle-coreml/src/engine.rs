//! The engines: the choice of one for a model, and loading on it.
//!
//! | engine | implementation | platforms |
//! |---|---|---|
//! | `portable` | this project's own, on Candle tensors | all |
//! | `native` | Apple's Core ML | Apple |
//!
//! A model stays with the engine that loaded it, and so do its states. Platform-specific code is in `native` (with a
//! stub elsewhere).

use std::borrow::Cow;
use std::sync::Arc;

pub use coreml_engine::Limits;
use coreml_format::description::ModelDescription;
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::program::Program;
use coreml_format::weights::Weights;
pub use coreml_framework::options::{ComputeUnits, UnknownUnits};
pub use coreml_framework::report::{DeviceKind, OperationReport, by_device};

use crate::error::Result;

mod interface;
#[cfg_attr(not(target_vendor = "apple"), path = "engine/absent.rs")]
mod native;
mod options;
mod portable;

pub use interface::OperationCost;
pub(crate) use interface::{Engine, EngineState};
pub use options::{EngineChoice, EngineOptions};

/// Returns true if this build includes the native engine.
pub const fn native_is_available() -> bool {
    native::AVAILABLE
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
