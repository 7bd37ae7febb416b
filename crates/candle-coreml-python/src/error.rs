//! Errors of the library as exceptions of `candle_coreml.errors`, with their fields.

use candle_coreml::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception of an error: its class follows the kind; file, feature, operation, expected, found and row are
/// attributes.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    match instance(py, error) {
        Ok(instance) => PyErr::from_value(instance),
        Err(e) => e,
    }
}

fn instance<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let fields = PyDict::new(py);
    fields.set_item("kind", error.kind().name())?;
    fields.set_item("file", error.path().map(|p| p.display().to_string()))?;
    fields.set_item("feature", error.feature())?;
    fields.set_item("operation", error.operation().map(ToString::to_string))?;
    let (expected, found) = error.expected_and_found().unzip();
    fields.set_item("expected", expected)?;
    fields.set_item("found", found.flatten())?;
    fields.set_item("row", error.row())?;
    py.import("candle_coreml.errors")?.getattr("of_kind")?.call((error.to_string(),), Some(&fields))
}

/// [`exception`] for an input that is no such value.
pub(crate) fn input(py: Python<'_>, name: &str, expected: impl Into<String>, found: impl Into<String>) -> PyErr {
    exception(py, &Error::Input { name: name.to_owned(), expected: expected.into(), found: found.into() })
}

/// Name of a value's type, for errors.
pub(crate) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().fully_qualified_name().map_or_else(|_| "a value".to_owned(), |name| name.to_string())
}
