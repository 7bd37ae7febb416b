//! [`AsyncModel`]: asynchronous calls with a single result.

use std::sync::Arc;

use candle_core::Tensor;
use indexmap::IndexMap;

use super::Capacity;
use super::admission::Admission;
use crate::error::{Error, Result};
#[cfg(feature = "language")]
use crate::generation::Sampling;
#[cfg(feature = "language")]
use crate::logits_model::CoreMLModelWrapper;
use crate::model::{CoreMLModel, FeatureValue};
use crate::state::CoreMLState;

/// A model for several concurrent callers that does not block a tokio runtime. Clones share the model.
///
/// A running call completes even if its future is dropped; a waiting call is cancelled.
#[derive(Debug)]
pub struct AsyncModel<M> {
    model: Arc<M>,
    admission: Arc<Admission>,
}

impl<M> Clone for AsyncModel<M> {
    fn clone(&self) -> Self {
        Self { model: self.model.clone(), admission: self.admission.clone() }
    }
}

impl<M: Send + Sync + 'static> AsyncModel<M> {
    /// Takes ownership of a model; [`Capacity::buffer`] is unused.
    pub fn new(model: impl Into<Arc<M>>, capacity: Capacity) -> Self {
        Self { model: model.into(), admission: Arc::new(Admission::new(capacity)) }
    }

    /// The underlying model.
    pub fn get(&self) -> &M {
        &self.model
    }

    /// Number of waiting calls.
    pub fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// Number of running calls.
    pub fn running(&self) -> usize {
        self.admission.running()
    }

    /// Calls the model on a blocking thread.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full; errors of the call.
    pub async fn run<R: Send + 'static>(&self, call: impl FnOnce(&M) -> Result<R> + Send + 'static) -> Result<R> {
        let permit = self.admission.enter().await?;
        let model = self.model.clone();
        let job = move || {
            let _permit = permit;
            call(&model)
        };
        tokio::task::spawn_blocking(job).await.map_err(|e| Error::Aborted(e.to_string()))?
    }
}

impl AsyncModel<CoreMLModel> {
    /// [`CoreMLModel::forward`].
    ///
    /// # Errors
    /// Same as that method; [`Error::Busy`].
    pub async fn forward(&self, inputs: Vec<Tensor>) -> Result<Tensor> {
        self.run(move |model| model.forward(&inputs)).await
    }

    /// [`CoreMLModel::forward_all`].
    ///
    /// # Errors
    /// Same as that method; [`Error::Busy`].
    pub async fn forward_all(&self, inputs: Vec<Tensor>) -> Result<IndexMap<String, Tensor>> {
        self.run(move |model| model.forward_all(&inputs)).await
    }

    /// [`CoreMLModel::predict`] without a state.
    ///
    /// # Errors
    /// Same as that method; [`Error::Busy`].
    pub async fn predict(&self, inputs: Vec<(String, Tensor)>) -> Result<IndexMap<String, FeatureValue>> {
        self.run(move |model| {
            let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            model.predict(&inputs, None)
        })
        .await
    }

    /// [`CoreMLModel::predict_with_state`]. The state moves to the computing thread and is returned with the result;
    /// dropping the future or an error loses it.
    ///
    /// # Errors
    /// Same as that method; [`Error::Busy`].
    pub async fn predict_with_state(
        &self,
        inputs: Vec<Tensor>,
        mut state: CoreMLState,
    ) -> Result<(Tensor, CoreMLState)> {
        self.run(move |model| Ok((model.predict_with_state(&inputs, &mut state)?, state))).await
    }
}

#[cfg(feature = "language")]
impl AsyncModel<CoreMLModelWrapper> {
    /// [`CoreMLModelWrapper::forward`].
    ///
    /// # Errors
    /// Same as that method; [`Error::Busy`].
    pub async fn forward(&self, input_ids: Tensor) -> Result<Tensor> {
        self.run(move |model| model.forward(&input_ids)).await
    }

    /// [`CoreMLModelWrapper::generate`].
    ///
    /// # Errors
    /// Same as that method; [`Error::Busy`].
    pub async fn generate(
        &self,
        prompt: Vec<u32>,
        max_tokens: usize,
        sampling: Sampling,
        end: Vec<u32>,
    ) -> Result<Vec<u32>> {
        self.run(move |model| model.generate(&prompt, max_tokens, sampling, &end)).await
    }
}
