//! Models: open, describe, predict.

use std::ffi::{CString, c_char};
use std::sync::PoisonError;

use candle_coreml::{CoreMLModel, Error, lent};
use serde_json::json;

use crate::error::{CcmlError, border, c_text, free, object, optional_text, text};
use crate::outputs::CcmlOutputs;
use crate::state::CcmlState;
use crate::values::{self, CcmlFeature};

/// A loaded function of a model; freed by `ccml_model_free`.
#[derive(Debug)]
pub struct CcmlModel(pub(crate) CoreMLModel);

/// Options for opening models; null members are the defaults.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CcmlOptions {
    /// Function of a model with several; null: the default one. Not for language models.
    pub function: *const c_char,
    /// `auto`, `native` or `portable`; null: `auto`.
    pub engine: *const c_char,
    /// `cpu`, `cpu-and-gpu`, `cpu-and-ne` or `all`, for Core ML; null: `cpu-and-ne`.
    pub compute_units: *const c_char,
}

/// Version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn ccml_version() -> *const c_char {
    const VERSION: &std::ffi::CStr =
        match std::ffi::CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// Opens a `.mlpackage`, `.mlmodel` or `.mlmodelc`. Null and an error if it can't be opened or run.
///
/// # Safety
/// `path` is a text; `options` is null or its members are null or texts; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_model_open(
    path: *const c_char,
    options: *const CcmlOptions,
    error: *mut *mut CcmlError,
) -> *mut CcmlModel {
    // SAFETY: the caller's promise.
    let model = unsafe {
        border(error, || {
            let mut builder = CoreMLModel::builder(text("path", path)?);
            if let Some(options) = options.as_ref() {
                if let Some(function) = optional_text("function", options.function)? {
                    builder = builder.function(function);
                }
                if let Some(engine) = optional_text("engine", options.engine)? {
                    builder = builder.engine(engine.parse()?);
                }
                if let Some(name) = optional_text("compute_units", options.compute_units)? {
                    builder = builder.compute_units(units(name)?);
                }
            }
            builder.load().map(CcmlModel)
        })
    };
    model.map_or(std::ptr::null_mut(), |m| Box::into_raw(Box::new(m)))
}

pub(crate) fn units(name: &str) -> Result<candle_coreml::ComputeUnits, Error> {
    name.parse().map_err(|_| Error::UnknownName {
        what: "compute units",
        name: name.to_owned(),
        expected: "cpu, cpu-and-gpu, cpu-and-ne, all".to_owned(),
    })
}

/// Describes a model as JSON: `function` that is loaded, `engine`, and `model` with its functions (inputs, outputs, states),
/// specification version and metadata. Freed by `ccml_string_free`.
///
/// # Safety
/// `model` is a model that is not freed; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_model_describe(model: *const CcmlModel, error: *mut *mut CcmlError) -> *mut c_char {
    // SAFETY: the caller's promise.
    let described = unsafe {
        border(error, || {
            let model = &object("model", model)?.0;
            let text = json!({
                "function": model.function(),
                "engine": model.engine(),
                "model": model.description(),
            });
            Ok(c_text(text.to_string()))
        })
    };
    described.map_or(std::ptr::null_mut(), CString::into_raw)
}

/// Predicts. Inputs are read in place; nobody may write to them until this returns. A model with states needs `state`, which
/// it changes; others take null.
///
/// # Safety
/// `model` is a model that is not freed; `inputs` points to `count` features whose members are what their kinds say;
/// `state` is null or a state that is not freed; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_model_predict(
    model: *const CcmlModel,
    inputs: *const CcmlFeature,
    count: usize,
    state: *mut CcmlState,
    error: *mut *mut CcmlError,
) -> *mut CcmlOutputs {
    // SAFETY: the caller's promise.
    let outputs = unsafe {
        border(error, || {
            let model = &object("model", model)?.0;
            lent::scope(|lender| {
                let inputs = values::named(inputs, count, lender)?;
                let outputs = match state.as_ref() {
                    None => model.predict_values(&inputs, None)?,
                    Some(state) => {
                        let mut state = state.0.lock().unwrap_or_else(PoisonError::into_inner);
                        model.predict_values(&inputs, Some(&mut state))?
                    }
                };
                CcmlOutputs::of(outputs.iter().map(|(name, value)| (name.as_str(), value.clone())))
            })
        })
    };
    outputs.map_or(std::ptr::null_mut(), |o| Box::into_raw(Box::new(o)))
}

/// Frees a model; null is allowed.
///
/// # Safety
/// `model` is null or a model that is not freed and not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_model_free(model: *mut CcmlModel) {
    // SAFETY: models are given out from a box.
    unsafe { free(model) };
}

/// Frees a text that the library gave out for freeing; null is allowed.
///
/// # Safety
/// `text` is null, or came from a function that names this one, and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: such texts come from `CString::into_raw`.
        drop(unsafe { CString::from_raw(text) });
    }
}
