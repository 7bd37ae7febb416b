//! The native engine where there is none: asking for it is an error that says so.

use std::sync::Arc;

use coreml_format::model::Model;

use super::{Engine, EngineOptions};
use crate::error::{Error, Result};

/// Whether this build has the native engine.
pub(super) const AVAILABLE: bool = false;

/// Always an error.
pub(super) fn load(package: &Arc<Model>, _: Option<&str>, _: &EngineOptions) -> Result<Box<dyn Engine>> {
    Err(Error::Unavailable(format!(
        "{}: the native engine is Apple's Core ML, which {} does not have; use EngineChoice::Portable or Auto",
        package.path.display(),
        std::env::consts::OS
    )))
}
