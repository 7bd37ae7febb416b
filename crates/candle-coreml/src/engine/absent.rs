//! Stub of the native engine for other platforms; requesting it is an error.

use std::sync::Arc;

use coreml_format::model::Model;

use super::{Engine, EngineOptions};
use crate::error::{Error, Result};

/// True if this build includes the native engine.
pub(super) const AVAILABLE: bool = false;

/// There is no system with Core ML.
pub(super) fn system() -> String {
    String::new()
}

/// Always returns an error.
pub(super) fn load(package: &Arc<Model>, _: Option<&str>, _: &EngineOptions) -> Result<Box<dyn Engine>> {
    Err(Error::Unavailable(format!(
        "{}: the native engine is Apple's Core ML, which {} does not have; use EngineChoice::Portable or Auto",
        package.path.display(),
        std::env::consts::OS
    )))
}
