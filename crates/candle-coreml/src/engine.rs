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
use coreml_format::model::{LoadError, Model};
use coreml_format::model_types::Body;
use coreml_format::program::Program;
use coreml_format::weights::Weights;
pub use coreml_framework::options::{ComputeUnits, UnknownUnits};
pub use coreml_framework::options::{ReshapeFrequency, Specialization};
pub use coreml_framework::progress::{CancelLoad, LoadStage, Watch};
pub use coreml_framework::report::{BackingUse, DeviceKind, OperationReport, by_device};
pub use coreml_framework::stdout::keep_clean as keep_stdout_clean;

use crate::error::{Error, Result};

mod interface;
#[cfg_attr(not(target_vendor = "apple"), path = "engine/absent.rs")]
mod native;
mod options;
mod portable;
pub mod proof;
#[cfg(any(test, target_vendor = "apple"))]
mod to_name;

#[cfg(any(test, target_vendor = "apple"))]
pub(crate) use interface::EngineArray;
pub(crate) use interface::{Engine, EngineState, Handed};
pub use interface::{InnerValue, OperationCost};
pub use options::{EngineChoice, EngineOptions, NativeOptions};
use proof::{Choice, Place};

/// Returns true if this build includes the native engine.
pub const fn native_is_available() -> bool {
    native::AVAILABLE
}

/// Version and build of a system with Core ML.
pub(crate) fn native_system() -> String {
    native::system()
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

/// An open model.
pub(crate) struct Opened {
    pub(crate) package: Arc<Model>,
    /// Why only Core ML may read it.
    unread: Option<LoadError>,
}

impl Opened {
    /// Adds to Core ML's error why this library does not read the model.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        match self.unread.take() {
            Some(ours) => Error::Unread { native: Box::new(error), ours: Box::new(ours) },
            None => error,
        }
    }
}

/// Opens a model. What this library can't read, Core ML may: it then supplies the description.
pub(crate) fn open(path: &std::path::Path, options: &EngineOptions) -> Result<Opened> {
    let native = native::AVAILABLE && options.choice != EngineChoice::Portable;
    opened(path, Model::open(path).and_then(Model::follow_links), native)
}

fn opened(path: &std::path::Path, opened: std::result::Result<Model, LoadError>, native: bool) -> Result<Opened> {
    match opened {
        Ok(package) => Ok(Opened { package: Arc::new(package), unread: None }),
        Err(error) if native && coreml_format::file::exists(path) => {
            tracing::debug!(%error, "left to Core ML");
            let package = Model {
                path: path.to_owned(),
                description: ModelDescription::default(),
                body: Body::Program(Program::default()),
                parts: Vec::new(),
                weights: Weights::default(),
            };
            Ok(Opened { package: Arc::new(package), unread: Some(error) })
        }
        Err(error) => Err(error.into()),
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
        EngineChoice::Auto if !options.custom.is_empty() => {
            portable("it has layers or models of the program".to_owned())
        }
        EngineChoice::Auto if program(package).is_none_or(|p| p.functions.is_empty()) => {
            // There is no other engine for a model that only Core ML can read or run.
            let engine = native::load(package, function, options)?;
            Ok(Loaded { engine, reason: "only Core ML can run it".to_owned() })
        }
        EngineChoice::Auto => {
            let place = Place::of_model(package, function, options, native::system());
            let load = || native::load(package, function, options);
            match proof::choose(&place, || place.in_child(options), load, None) {
                Choice::Native(engine, reason) => Ok(Loaded { engine, reason }),
                Choice::Portable(reason, error) => {
                    tracing::warn!(path = %package.path.display(), reason, "not on Core ML");
                    // Core ML's word on what no engine has, such as a function of another name.
                    portable(reason).map_err(|e| match error {
                        Some(native @ Error::NotFound { .. }) => native,
                        _ => e,
                    })
                }
            }
        }
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
    fn what_this_library_can_not_read_is_left_to_core_ml() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.mlmodel");
        std::fs::write(&file, b"\xff\xff\xff\xff").expect("a file");
        assert!(matches!(opened(&file, Model::open(&file), false), Err(Error::Load(_))));
        let mut left = opened(&file, Model::open(&file), true).expect("left to Core ML");
        assert!(left.package.path == file && left.package.description.functions.is_empty());
        assert!(program(&left.package).is_none_or(|p| p.functions.is_empty()), "nothing to fall back to");
        let both = left.explain(Error::Unavailable("Core ML: code 110".to_owned()));
        let text = both.to_string();
        assert!(text.contains("code 110") && text.contains("a.mlmodel"), "{text}");
        assert_eq!(both.kind(), crate::ErrorKind::Unavailable);
        // What does not exist is nobody's.
        let none = folder.path().join("none.mlpackage");
        assert!(matches!(opened(&none, Model::open(&none), true), Err(Error::Load(_))));
    }
}
