//! `MLModel`: a model file that predicts.

use std::path::PathBuf;

use candle_coreml::format::model::Model;
use candle_coreml::lent;
use candle_coreml::{ComputeUnits, CoreMLModel, EngineChoice, Error, FeatureRow};
use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::description::ModelDescription;
use crate::inputs::Row;
use crate::state::MLState;
use crate::{error, interrupt, outputs};

/// A Core ML model that predicts.
///
/// Takes and returns what coremltools' `MLModel` does: NumPy arrays, PIL images, numbers, strings, lists, dictionaries.
///
/// Parameters
/// ----------
/// model : str or os.PathLike
///     A `.mlpackage`, `.mlmodel` or `.mlmodelc`.
/// function_name : str, optional
///     Function of a model with several; the default one otherwise.
/// compute_units : ComputeUnit or str, optional
///     Processors that Apple's Core ML may use; elsewhere the CPU computes. `ComputeUnit.ALL` by default.
/// engine : str
///     `auto` (Core ML where it is and can run the model), `native` or `portable`.
#[pyclass(module = "candle_coreml", frozen)]
pub(crate) struct MLModel {
    model: CoreMLModel,
    units: ComputeUnits,
}

/// The units that a member of an enumeration, or a name, means.
pub(crate) fn units(value: Option<&Bound<'_, PyAny>>) -> PyResult<ComputeUnits> {
    let Some(value) = value else { return Ok(ComputeUnits::All) };
    let name: String = match value.getattr("name") {
        Ok(name) => name.extract()?,
        Err(_) => value.extract().map_err(|_| PyTypeError::new_err("compute_units: expected a ComputeUnit"))?,
    };
    match name.as_str() {
        "ALL" => Ok(ComputeUnits::All),
        "CPU_ONLY" => Ok(ComputeUnits::CpuOnly),
        "CPU_AND_GPU" => Ok(ComputeUnits::CpuAndGpu),
        "CPU_AND_NE" => Ok(ComputeUnits::CpuAndNeuralEngine),
        _ => Err(error::exception(
            value.py(),
            &Error::UnknownName {
                what: "compute units",
                name,
                expected: "ALL, CPU_ONLY, CPU_AND_GPU, CPU_AND_NE".to_owned(),
            },
        )),
    }
}

/// The engine that a name means.
pub(crate) fn engine(py: Python<'_>, name: &str) -> PyResult<EngineChoice> {
    name.parse().map_err(|e| error::exception(py, &e))
}

#[pymethods]
impl MLModel {
    #[new]
    #[pyo3(signature = (model, function_name = None, compute_units = None, *, engine = "auto"))]
    fn new(
        py: Python<'_>,
        model: PathBuf,
        function_name: Option<String>,
        compute_units: Option<&Bound<'_, PyAny>>,
        engine: &str,
    ) -> PyResult<Self> {
        let units = units(compute_units)?;
        let mut builder = CoreMLModel::builder(model).compute_units(units).engine(self::engine(py, engine)?);
        if let Some(name) = &function_name {
            builder = builder.function(name);
        }
        let model = py.detach(|| builder.load()).map_err(|e| error::exception(py, &e))?;
        Ok(Self { model, units })
    }

    /// Predicts.
    ///
    /// Parameters
    /// ----------
    /// data : dict or list of dict
    ///     Inputs by name; a list of such dictionaries predicts many rows.
    /// state : MLState, optional
    ///     From `make_state`; changed in place. For one dictionary only.
    ///
    /// Returns
    /// -------
    /// dict or list of dict
    ///     Outputs by name.
    #[pyo3(signature = (data, state = None))]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyAny>,
        state: Option<&MLState>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(row) = data.cast::<PyDict>() {
            return self.predict_row(py, row, state).map(Bound::into_any);
        }
        let rows = data.cast::<PyList>().ok().filter(|rows| rows.iter().all(|row| row.is_instance_of::<PyDict>()));
        match (rows, state) {
            (Some(rows), None) => self.predict_rows(py, rows).map(Bound::into_any),
            (Some(_), Some(_)) => Err(error::exception(
                py,
                &Error::Request("a state is for a prediction of one dictionary, not of a list".to_owned()),
            )),
            (None, _) => Err(PyTypeError::new_err(format!(
                "data: expected a dict or a list of dicts, found {}",
                error::type_name(data)
            ))),
        }
    }

    /// Zeroed states, for `predict`.
    fn make_state(&self, py: Python<'_>) -> PyResult<MLState> {
        let state = self.model.make_state().map_err(|e| error::exception(py, &e))?;
        Ok(MLState(state.into()))
    }

    /// Inputs, outputs, states, functions and metadata.
    #[getter]
    fn description(&self, py: Python<'_>) -> PyResult<ModelDescription> {
        ModelDescription::of(py, &self.model)
    }

    /// The specification, as coremltools' protobuf message `Model`; coremltools must be installed.
    ///
    /// A copy: changes of it do not change the model. `description` needs no coremltools.
    fn get_spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let bytes = py.detach(|| Model::specification(self.model.path()));
        let bytes = bytes.map_err(|e| error::exception(py, &e.into()))?;
        let messages = py.import("coremltools.proto.Model_pb2").map_err(|missing| {
            let text = "get_spec returns coremltools' protobuf message: install coremltools, or read `description`";
            let error = PyImportError::new_err(text);
            error.set_cause(py, Some(missing));
            error
        })?;
        let specification = messages.getattr("Model")?.call0()?;
        specification.call_method1("ParseFromString", (PyBytes::new(py, &bytes),))?;
        Ok(specification)
    }

    /// Descriptions of the inputs by name.
    #[getter]
    fn input_description<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        texts(py, self.model.function_description().inputs.iter().map(|f| (&f.name, &f.description)))
    }

    /// Descriptions of the outputs by name.
    #[getter]
    fn output_description<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        texts(py, self.model.function_description().outputs.iter().map(|f| (&f.name, &f.description)))
    }

    /// User-defined entries of the metadata.
    #[getter]
    fn user_defined_metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        texts(py, self.model.description().metadata.user.iter())
    }

    /// Short description of the model.
    #[getter]
    fn short_description(&self) -> &str {
        &self.model.description().metadata.description
    }

    /// Author of the model.
    #[getter]
    fn author(&self) -> &str {
        &self.model.description().metadata.author
    }

    /// Licence of the model.
    #[getter]
    fn license(&self) -> &str {
        &self.model.description().metadata.license
    }

    /// Version of the model.
    #[getter]
    fn version(&self) -> &str {
        &self.model.description().metadata.version
    }

    /// Name of the loaded function.
    #[getter]
    fn function_name(&self) -> &str {
        self.model.function()
    }

    /// The path that it was loaded from.
    #[getter]
    fn path(&self) -> PathBuf {
        self.model.path().to_owned()
    }

    /// Engine that runs it: `native` or `portable`.
    #[getter]
    fn engine(&self) -> &str {
        self.model.engine()
    }

    /// Why that engine runs it.
    #[getter]
    fn engine_reason(&self) -> &str {
        self.model.engine_reason()
    }

    /// The processors asked for, as a member of `ComputeUnit`.
    #[getter]
    fn compute_unit<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let name = match self.units {
            ComputeUnits::All => "ALL",
            ComputeUnits::CpuOnly => "CPU_ONLY",
            ComputeUnits::CpuAndGpu => "CPU_AND_GPU",
            ComputeUnits::CpuAndNeuralEngine => "CPU_AND_NE",
        };
        py.import("candle_coreml")?.getattr("ComputeUnit")?.getattr(name)
    }

    fn __repr__(&self) -> String {
        let (path, function, engine) = (self.model.path().display(), self.model.function(), self.model.engine());
        format!("MLModel({path}, function {function}, {engine} engine)")
    }
}

impl MLModel {
    fn predict_row<'py>(
        &self,
        py: Python<'py>,
        data: &Bound<'py, PyDict>,
        state: Option<&MLState>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let row = Row::of(&self.model, data)?;
        lent::scope(|lender| {
            let inputs = row.lend(lender).map_err(|e| error::exception(py, &e))?;
            let outputs = interrupt::run(py, |go_on| match state {
                None => self.model.predict_values_while(&inputs, None, go_on),
                Some(state) => {
                    let mut state = state.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    self.model.predict_values_while(&inputs, Some(&mut state), go_on)
                }
            })?;
            // Copies: what shares memory with an input is read before the scope ends.
            outputs::dict(py, self.model.function_description(), &outputs)
        })
    }

    fn predict_rows<'py>(&self, py: Python<'py>, data: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyList>> {
        let rows: Vec<Row<'py>> =
            data.iter().map(|row| Row::of(&self.model, row.cast::<PyDict>()?)).collect::<PyResult<_>>()?;
        lent::scope(|lender| {
            let owned = |(name, value): (&str, _)| (name.to_owned(), value);
            let inputs = rows.iter().map(|row| Ok(row.lend(lender)?.into_iter().map(owned).collect()));
            let inputs: Vec<FeatureRow> = inputs.collect::<Result<_, Error>>().map_err(|e| error::exception(py, &e))?;
            let outputs = interrupt::run(py, |go_on| self.model.predict_batch_while(&inputs, &|_| {}, go_on))?;
            let described = self.model.function_description();
            let rows = outputs.iter().map(|row| outputs::dict(py, described, row)).collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, rows)
        })
    }
}

fn texts<'py, 'a>(
    py: Python<'py>,
    all: impl Iterator<Item = (&'a String, &'a String)>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, text) in all {
        dict.set_item(name, text)?;
    }
    Ok(dict)
}
