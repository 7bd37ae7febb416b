//! Python's `candle_coreml._native`: [`candle_coreml`] with NumPy arrays, PIL images and Python values.
//!
//! A door without logic of its own: values are converted (`inputs`, `outputs`), the library works while the
//! interpreter lock is released (`interrupt`), errors become exceptions with their fields (`error`). Names and values
//! are those of coremltools' `MLModel`. See docs/python.md.

use pyo3::prelude::*;

mod arrays;
mod description;
mod error;
mod inputs;
mod interrupt;
mod language;
mod model;
mod outputs;
mod state;

/// The compiled part of `candle_coreml`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::MLModel>()?;
    module.add_class::<state::MLState>()?;
    module.add_class::<description::FeatureDescription>()?;
    module.add_class::<description::ModelDescription>()?;
    module.add_class::<language::LanguageModel>()?;
    module.add_class::<language::TextStream>()?;
    module.add_class::<language::Summary>()?;
    Ok(())
}
