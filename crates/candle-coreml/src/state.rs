//! State of a model between predictions, such as a KV cache.

use candle_core::Tensor;
use mil_engine::state::StateSpec;

use crate::engine::{self, EngineState};
use crate::error::{Error, Result};
use crate::model::CoreMLModel;

/// Buffers that a stateful model reads and updates in place.
///
/// It takes O(cache length) memory however many predictions are made. A prediction borrows it mutably,
/// so that two predictions can't use it at once; it may move between threads. Components of one
/// language model (chunks, functions) share one state. It lies in the memory of the engine that made it, and only
/// models of that engine take it.
#[derive(Debug)]
pub struct CoreMLState {
    pub(crate) inner: Box<dyn EngineState>,
}

impl CoreMLState {
    /// Name of the engine that made it.
    pub fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    /// Names of the states.
    pub fn names(&self) -> Vec<&str> {
        self.inner.names()
    }

    /// A copy of one state.
    ///
    /// # Errors
    /// When there is no state of this name.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        self.check(name)?;
        self.inner.get(name)
    }

    /// Replaces the content of one state.
    ///
    /// # Errors
    /// When there is no state of this name or the shape differs.
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        self.check(name)?;
        self.inner.set(name, value)
    }

    /// Sets all states to zeros.
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

    /// The states that any of several models declare, shared by all of them.
    ///
    /// # Errors
    /// When two models declare one state differently or run on different engines, or allocation fails.
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
