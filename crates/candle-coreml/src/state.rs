//! State of a model between predictions, such as a KV cache.

use candle_core::Tensor;
use coreml_engine::state::StateSpec;

use crate::engine::{self, EngineState};
use crate::error::{Error, Result};
use crate::model::CoreMLModel;

/// Buffers that a stateful model reads and updates in place.
///
/// Its memory is O(cache length), independent of the number of predictions. A prediction borrows it mutably, so two
/// predictions can't use it at once; it may move between threads. Components of one language model (chunks, functions)
/// share one state. It is in the memory of the engine that created it, and only models on that engine accept it.
#[derive(Debug)]
pub struct CoreMLState {
    pub(crate) inner: Box<dyn EngineState>,
}

impl CoreMLState {
    /// Name of the engine that created it.
    pub fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    /// Names of the states.
    pub fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    /// Copies one state.
    ///
    /// # Errors
    /// If there is no state of this name.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        self.check(name)?;
        self.inner.get(name)
    }

    /// Overwrites one state.
    ///
    /// # Errors
    /// If there is no state of this name or the shape differs.
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        self.check(name)?;
        self.inner.set(name, value)
    }

    /// Zeroes all states.
    ///
    /// # Errors
    /// If allocation fails.
    pub fn reset(&mut self) -> Result<()> {
        self.inner.reset()
    }

    fn check(&self, name: &str) -> Result<()> {
        if self.names().contains(&name) {
            return Ok(());
        }
        Err(Error::NotFound {
            what: "state",
            name: name.to_owned(),
            path: "the model".into(),
            available: self.names().join(", "),
        })
    }

    /// States declared by any of several models, shared by all of them.
    ///
    /// # Errors
    /// If two models declare one state differently or run on different engines, or allocation fails.
    pub fn shared_by(models: &[&CoreMLModel]) -> Result<Self> {
        let mut specs: Vec<StateSpec> = Vec::new();
        let mut first: Option<&CoreMLModel> = None;
        for model in models.iter().filter(|m| m.is_stateful()) {
            let maker = *first.get_or_insert(model);
            if maker.engine() != model.engine() {
                return Err(Error::StateEngine { expected: model.engine(), found: maker.engine() });
            }
            for spec in model.backend().states() {
                match specs.iter().find(|s| s.name == spec.name) {
                    Some(known) if known != spec => return Err(differ(model, spec, known)),
                    Some(_) => {}
                    None => specs.push(spec.clone()),
                }
            }
        }
        let inner = match first {
            Some(maker) => maker.backend().new_state(&specs)?,
            None => engine::empty_state()?,
        };
        Ok(Self { inner })
    }
}

fn differ(model: &CoreMLModel, spec: &StateSpec, known: &StateSpec) -> Error {
    Error::Components {
        path: model.path().to_owned(),
        message: format!(
            "state `{}` is {} {:?} here, but {} {:?} in another component",
            spec.name, spec.dtype, spec.shape, known.dtype, known.shape
        ),
    }
}
