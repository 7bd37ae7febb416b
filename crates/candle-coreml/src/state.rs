//! State of a model between predictions, such as a KV cache.

use candle_core::Tensor;

use crate::error::{Error, Result};

/// Buffers that a stateful model reads and updates in place.
///
/// It takes O(cache length) memory however many predictions are made. A prediction borrows it mutably,
/// so that two predictions can't use it at once; it may move between threads. Components of one
/// language model (chunks, functions) share one state.
#[derive(Debug)]
pub struct CoreMLState {
    pub(crate) inner: mil_engine::state::State,
}

impl CoreMLState {
    /// Names of the states.
    pub fn names(&self) -> Vec<&str> {
        self.inner.buffers().iter().map(|b| b.spec().name.as_str()).collect()
    }

    /// A copy of one state.
    ///
    /// # Errors
    /// When there is no state of this name.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let buffer = self.inner.buffers().iter().find(|b| b.spec().name == name);
        let buffer = buffer.ok_or_else(|| self.unknown(name))?;
        Ok(buffer.tensor().copy()?)
    }

    /// Replaces the content of one state.
    ///
    /// # Errors
    /// When there is no state of this name or the shape differs.
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let unknown = self.unknown(name);
        let buffer = self.inner.get_mut(name).ok_or(unknown)?;
        buffer.write(value).map_err(|e| Error::Request(format!("state `{name}`: {e}")))
    }

    /// Sets all states to zeros.
    ///
    /// # Errors
    /// When memory can't be had.
    pub fn reset(&mut self) -> Result<()> {
        self.inner.reset().map_err(|e| Error::Request(e.to_string()))
    }

    fn unknown(&self, name: &str) -> Error {
        Error::NotFound {
            what: "state",
            name: name.to_owned(),
            path: "the model".into(),
            available: self.names().join(", "),
        }
    }
}

impl CoreMLState {
    /// The states that any of several models declare, shared by all of them.
    ///
    /// # Errors
    /// When two models declare one state differently, or memory can't be had.
    pub fn shared_by(models: &[&crate::model::CoreMLModel]) -> Result<Self> {
        let mut specs: Vec<mil_engine::state::StateSpec> = Vec::new();
        for model in models {
            for spec in model.state_specs() {
                match specs.iter().find(|s| s.name == spec.name) {
                    Some(known) if known != spec => {
                        return Err(Error::Components {
                            path: model.path().to_owned(),
                            message: format!(
                                "state `{}` is {} {:?} here, but {} {:?} in another component",
                                spec.name, spec.dtype, spec.shape, known.dtype, known.shape
                            ),
                        });
                    }
                    Some(_) => {}
                    None => specs.push(spec.clone()),
                }
            }
        }
        let inner = mil_engine::state::State::new(&specs, &candle_core::Device::Cpu)
            .map_err(|e| Error::Request(format!("states can't be allocated: {e}")))?;
        Ok(Self { inner })
    }
}
