//! Programs at the edge of what rewrites match: whatever the operation of a rewrite can't do stays as it is.

use std::path::PathBuf;

use coreml_format::description::ModelDescription;
use coreml_format::package::Model;
use coreml_format::program::Program;

pub(crate) fn model(program: Program) -> Model {
    let description = ModelDescription { default_function: "main".to_owned(), ..Default::default() };
    Model { path: PathBuf::new(), description, program, weights: Default::default() }
}
