//! States between predictions.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use candle_coreml::{CoreMLState, lent};

use crate::error::{CcmlError, border, free, object, text};
use crate::model::CcmlModel;
use crate::outputs::CcmlOutputs;
use crate::values::{self, CcmlValue};

/// State of a model between predictions, such as a key-value cache; freed by `ccml_state_free`.
#[derive(Debug)]
pub struct CcmlState(pub(crate) Mutex<CoreMLState>);

/// Zeroed states for a model.
///
/// # Safety
/// `model` is a model that is not freed; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_state_new(model: *const CcmlModel, error: *mut *mut CcmlError) -> *mut CcmlState {
    // SAFETY: the caller's promise.
    let state = unsafe { border(error, || object("model", model)?.0.make_state()) };
    state.map_or(std::ptr::null_mut(), |s| Box::into_raw(Box::new(CcmlState(Mutex::new(s)))))
}

/// Copies one state: outputs of one tensor.
///
/// # Safety
/// `state` is a state that is not freed; `name` is a text; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_state_read(
    state: *const CcmlState,
    name: *const c_char,
    error: *mut *mut CcmlError,
) -> *mut CcmlOutputs {
    // SAFETY: the caller's promise.
    let outputs = unsafe {
        border(error, || {
            let (state, name) = (object("state", state)?, text("name", name)?);
            let tensor = state.0.lock().unwrap_or_else(PoisonError::into_inner).get(name)?;
            CcmlOutputs::of([(name, tensor.into())])
        })
    };
    outputs.map_or(std::ptr::null_mut(), |o| Box::into_raw(Box::new(o)))
}

/// Overwrites one state with a tensor of its shape; returns false and an error if it does not fit.
///
/// # Safety
/// `state` is a state that is not freed; `name` is a text; `value` points to a value whose members are what its kind says;
/// `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_state_write(
    state: *mut CcmlState,
    name: *const c_char,
    value: *const CcmlValue,
    error: *mut *mut CcmlError,
) -> bool {
    // SAFETY: the caller's promise.
    let done = unsafe {
        border(error, || {
            let (state, name, value) = (object("state", state)?, text("name", name)?, object("value", value)?);
            lent::scope(|lender| {
                let value = values::value(name, value, lender)?;
                let tensor = value.tensor().ok_or_else(|| candle_coreml::Error::Input {
                    name: name.to_owned(),
                    expected: "a tensor".to_owned(),
                    found: value.kind().to_owned(),
                })?;
                // The state gets a copy, whatever it does with it.
                state.0.lock().unwrap_or_else(PoisonError::into_inner).set(name, &tensor.copy()?)
            })
        })
    };
    done.is_some()
}

/// Zeroes all states; returns false and an error if memory runs out.
///
/// # Safety
/// `state` is a state that is not freed; `error` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_state_reset(state: *mut CcmlState, error: *mut *mut CcmlError) -> bool {
    // SAFETY: the caller's promise.
    let done =
        unsafe { border(error, || object("state", state)?.0.lock().unwrap_or_else(PoisonError::into_inner).reset()) };
    done.is_some()
}

/// Frees a state; null is allowed.
///
/// # Safety
/// `state` is null or a state that is not freed and not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccml_state_free(state: *mut CcmlState) {
    // SAFETY: states are given out from a box.
    unsafe { free(state) };
}
