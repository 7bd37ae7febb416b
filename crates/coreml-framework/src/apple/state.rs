//! State between predictions.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block2::RcBlock;
use candle_core::Tensor;
use coreml_format::description::{FeatureDescription, FeatureType};
use objc2::rc::{Retained, autoreleasepool};
use objc2_core_ml::{MLMultiArray, MLState};
use objc2_foundation::NSString;

use super::array;
use super::exception::guarded;
use super::model::Model;
use crate::array::{ArrayType, Buffer};
use crate::error::NativeError;
use crate::inputs::{Declared, prepare_owned};

/// Buffers that a stateful model reads and updates in place, in Core ML's own memory.
///
/// `Send` and `Sync`: predictions take it by `&mut` or by value, so two cannot use it at once; reads are serialised.
pub struct NativeState {
    /// The bindings declare `MLState` `Send` and `Sync`, following the Swift interface (`Sendable`). The mutex protects
    /// its memory.
    state: Mutex<Retained<MLState>>,
    /// The model that created it, whose memory the state may use: Core ML's headers don't say.
    model: Arc<Model>,
}

impl std::fmt::Debug for NativeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeState").field("states", &self.names()).finish_non_exhaustive()
    }
}

impl NativeState {
    pub(super) fn new(state: Retained<MLState>, model: Arc<Model>) -> Self {
        Self { state: Mutex::new(state), model }
    }

    /// Locks the object for one prediction.
    pub(super) fn object(&self) -> MutexGuard<'_, Retained<MLState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declared type and shape of each state.
    pub fn described(&self) -> &[FeatureDescription] {
        &self.model.described.states
    }

    /// Names of the states.
    pub fn names(&self) -> Vec<&str> {
        self.described().iter().map(|f| f.name.as_str()).collect()
    }

    /// Checks that a function with these states can use this one: the same names, types and shapes.
    ///
    /// # Errors
    /// [`NativeError::Feature`] for the first mismatch.
    pub fn check(&self, states: &[FeatureDescription]) -> Result<(), NativeError> {
        for wanted in states {
            let expected = format!("{:?}", wanted.ty);
            match self.described().iter().find(|f| f.name == wanted.name) {
                Some(kept) if kept.ty == wanted.ty => {}
                Some(kept) => return Err(NativeError::feature(&wanted.name, expected, format!("{:?}", kept.ty))),
                None => return Err(NativeError::feature(&wanted.name, expected, "no state of this name")),
            }
        }
        Ok(())
    }

    fn declared(&self, name: &str) -> Result<(ArrayType, &[usize]), NativeError> {
        let feature = self.described().iter().find(|f| f.name == name).ok_or_else(|| NativeError::Unknown {
            what: "state",
            name: name.to_owned(),
            available: self.names().into_iter().map(str::to_owned).collect(),
        })?;
        match &feature.ty {
            FeatureType::State { dtype, shape } => {
                let ty = ArrayType::from_data_type(*dtype);
                let ty = ty.ok_or_else(|| NativeError::feature(name, "an array type", dtype.name()))?;
                Ok((ty, shape))
            }
            other => Err(NativeError::feature(name, "a state", format!("{other:?}"))),
        }
    }

    /// Copies one state to a tensor.
    ///
    /// # Errors
    /// If the name is unknown, or the memory cannot be read.
    pub fn get(&self, name: &str) -> Result<Tensor, NativeError> {
        self.declared(name)?;
        let (shape, buffer) = self.with(name, |array| array::read(name, array))?;
        Ok(buffer.into_tensor(shape)?)
    }

    /// Replaces the content of one state.
    ///
    /// # Errors
    /// If the name is unknown, the shape differs, or a value does not fit the declared type.
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<(), NativeError> {
        let (ty, shape) = self.declared(name)?;
        if value.dims() != shape {
            return Err(NativeError::feature(name, format!("shape {shape:?}"), format!("shape {:?}", value.dims())));
        }
        let (_, buffer) = prepare_owned(Declared { name, ty, shape: Some(shape) }, value)?;
        self.with(name, |array| array::write(name, array, &buffer))
    }

    /// Zeroes all states.
    ///
    /// # Errors
    /// If the memory cannot be written.
    pub fn reset(&mut self) -> Result<(), NativeError> {
        let names: Vec<String> = self.names().into_iter().map(str::to_owned).collect();
        for name in names {
            let (ty, shape) = self.declared(&name)?;
            let count = shape.iter().product();
            let zeros = match ty {
                ArrayType::F16 => Buffer::F16(vec![half::f16::ZERO; count]),
                ArrayType::F32 => Buffer::F32(vec![0.0; count]),
                ArrayType::F64 => Buffer::F64(vec![0.0; count]),
                ArrayType::I8 => Buffer::I8(vec![0; count]),
                ArrayType::I32 => Buffer::I32(vec![0; count]),
            };
            self.with(&name, |array| array::write(&name, array, &zeros))?;
        }
        Ok(())
    }

    /// Runs `use_array` on the memory of a state, whose name must exist.
    fn with<R>(
        &self,
        name: &str,
        use_array: impl Fn(&MLMultiArray) -> Result<R, NativeError>,
    ) -> Result<R, NativeError> {
        let state = self.object();
        let result = Cell::new(None);
        autoreleasepool(|_| {
            let handler = RcBlock::new(|array: NonNull<MLMultiArray>| {
                // SAFETY: the framework passes an array that lives as long as the call.
                result.set(Some(use_array(unsafe { array.as_ref() })));
            });
            // SAFETY: rule 1, the name of a state; the mutex is held, so no prediction uses the memory; the handler is
            // called before the method returns, if at all.
            let call = || unsafe { state.getMultiArrayForStateNamed_handler(&NSString::from_str(name), &handler) };
            guarded(|| format!("reading state `{name}`"), call)
        })?;
        result.take().unwrap_or_else(|| Err(NativeError::feature(name, "memory of the state", "none")))
    }
}
