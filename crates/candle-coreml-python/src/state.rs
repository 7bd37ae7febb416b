//! States between predictions.

use std::sync::{Mutex, PoisonError};

use candle_coreml::CoreMLState;
use pyo3::prelude::*;

use crate::{arrays, error, inputs};

/// State of a model between predictions, such as a key-value cache; made by `MLModel.make_state`.
///
/// Predictions change it in place. Two predictions that use it wait for each other.
#[pyclass(module = "candle_coreml", frozen)]
pub(crate) struct MLState(pub(crate) Mutex<CoreMLState>);

impl MLState {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut CoreMLState) -> T + Send) -> T {
        py.detach(|| work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[pymethods]
impl MLState {
    /// Names of the states.
    #[getter]
    fn names(&self, py: Python<'_>) -> Vec<String> {
        self.with(py, |state| state.names().into_iter().map(str::to_owned).collect())
    }

    /// Copies one state into an array (float32 for 16-bit floats).
    fn read_state<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let tensor = self.with(py, |state| state.get(name)).map_err(|e| error::exception(py, &e))?;
        arrays::from_tensor(py, &tensor)
    }

    /// Overwrites one state.
    fn write_state(&self, py: Python<'_>, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let tensor = inputs::owned_tensor(name, value)?;
        self.with(py, |state| state.set(name, &tensor)).map_err(|e| error::exception(py, &e))
    }

    /// Zeroes all states.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, CoreMLState::reset).map_err(|e| error::exception(py, &e))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("MLState({})", self.names(py).join(", "))
    }
}
