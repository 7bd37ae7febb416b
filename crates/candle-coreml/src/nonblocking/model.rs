//! [`AsyncModel`]: models whose calls compute once and return.

use std::sync::Arc;

use candle_core::Tensor;
use indexmap::IndexMap;

use super::Capacity;
use super::admission::Admission;
use crate::error::{Error, Result};
use crate::generation::Sampling;
use crate::logits_model::CoreMLModelWrapper;
use crate::model::{CoreMLModel, FeatureValue};
use crate::state::CoreMLState;

/// A model that several callers use without blocking a tokio runtime. Clones share it.
///
/// A call that has begun runs to its end, also when nobody waits for it any more; one that still waits does not begin
/// then.
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
    /// Takes a model over; [`Capacity::buffer`] means nothing here.
    pub fn new(model: impl Into<Arc<M>>, capacity: Capacity) -> Self {
        Self { model: model.into(), admission: Arc::new(Admission::new(capacity)) }
    }

    /// The model itself.
    pub fn get(&self) -> &M {
        &self.model
    }

    /// Calls that wait for their turn.
    pub fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// Calls that are computed at the moment.
    pub fn running(&self) -> usize {
        self.admission.running()
    }

    /// Calls the model where blocking is allowed.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait; what the call returns.
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
    /// As there, and [`Error::Busy`].
    pub async fn forward(&self, inputs: Vec<Tensor>) -> Result<Tensor> {
        self.run(move |model| model.forward(&inputs)).await
    }

    /// [`CoreMLModel::forward_all`].
    ///
    /// # Errors
    /// As there, and [`Error::Busy`].
    pub async fn forward_all(&self, inputs: Vec<Tensor>) -> Result<IndexMap<String, Tensor>> {
        self.run(move |model| model.forward_all(&inputs)).await
    }

    /// [`CoreMLModel::predict`] without a state.
    ///
    /// # Errors
    /// As there, and [`Error::Busy`].
    pub async fn predict(&self, inputs: Vec<(String, Tensor)>) -> Result<IndexMap<String, FeatureValue>> {
        self.run(move |model| {
            let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            model.predict(&inputs, None)
        })
        .await
    }

    /// [`CoreMLModel::predict_with_state`]. The state goes to the thread that computes and comes back with the
    /// result; whoever drops the future or gets an error has lost it.
    ///
    /// # Errors
    /// As there, and [`Error::Busy`].
    pub async fn predict_with_state(
        &self,
        inputs: Vec<Tensor>,
        mut state: CoreMLState,
    ) -> Result<(Tensor, CoreMLState)> {
        self.run(move |model| Ok((model.predict_with_state(&inputs, &mut state)?, state))).await
    }
}

impl AsyncModel<CoreMLModelWrapper> {
    /// [`CoreMLModelWrapper::forward`].
    ///
    /// # Errors
    /// As there, and [`Error::Busy`].
    pub async fn forward(&self, input_ids: Tensor) -> Result<Tensor> {
        self.run(move |model| model.forward(&input_ids)).await
    }

    /// [`CoreMLModelWrapper::generate`].
    ///
    /// # Errors
    /// As there, and [`Error::Busy`].
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
