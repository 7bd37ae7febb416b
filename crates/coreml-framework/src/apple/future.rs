//! Asynchronous loading and prediction: completion handlers as runtime-agnostic futures.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use block2::RcBlock;
use coreml_values::FeatureValue;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_core_ml::{MLFeatureProvider, MLModel, MLPredictionOptions};
use objc2_foundation::NSError;

use super::available::{Api, require};
use super::compile::compiled;
use super::configuration::configuration;
use super::exception::guarded;
use super::features::{Named, check_names, copied, named};
use super::foundation::{for_any_thread, handler_failure, url};
use super::model::{Model, NativeModel, Outputs};
use super::results::outputs;
use super::state::NativeState;
use crate::completion::{Abandoned, Completer, Completion, pair};
use crate::error::NativeError;
use crate::options::Options;
use crate::progress::LoadStage;
use crate::report::BackingUse;

fn abandoned(doing: &str, source: Abandoned) -> NativeError {
    NativeError::Abandoned { doing: doing.to_owned(), source }
}

/// A loaded model in transit to the waiting task.
pub(super) struct Loaded(pub(super) Retained<MLModel>);

// SAFETY: as for the handle of a model: nothing else refers to it until it arrives.
unsafe impl Send for Loaded {}

impl NativeModel {
    /// [`NativeModel::load`] without blocking: compiles on a new thread, loads on a Core ML thread.
    ///
    /// # Errors
    /// Same as `load`.
    pub async fn load_async(source: PathBuf, options: Options) -> Result<Self, NativeError> {
        require(Api::Engine)?;
        let place = compile_elsewhere(source.clone(), options.clone())?;
        let place = place.await.map_err(|e| abandoned("compiling", e))??;
        options.watch.begin(LoadStage::Loading)?;
        let loaded = start_loading(&place, &options)?;
        let Loaded(model) = loaded.await.map_err(|e| abandoned("loading", e))??;
        autoreleasepool(|_| Self::finish(model, &source, place, &options))
    }

    /// Starts a prediction and returns a future. Inputs are copied, so the tensors are free at once. Several
    /// predictions may run concurrently on one model, as Core ML documents for these requests.
    ///
    /// # Errors
    /// Before the start: same as [`NativeModel::predict`]; also if the function has states (use
    /// [`NativeModel::predict_async_with_state`]). Framework errors come from the future.
    pub fn predict_async<I: Clone + Into<FeatureValue>>(
        &self,
        inputs: &[(&str, I)],
    ) -> Result<Prediction, NativeError> {
        require(Api::AsyncPrediction)?;
        self.model.check_state(None)?;
        let (completer, completion) = pair();
        self.start(&named(inputs)?, None, move |result, _| completer.complete(result))?;
        Ok(Prediction { completion, function: self.function().to_owned() })
    }

    /// [`NativeModel::predict_async`] with a state, which moves into the prediction and is returned with the result:
    /// nothing else can use it meanwhile, even if the future is dropped.
    ///
    /// # Errors
    /// Same as `predict_async`, and if the state does not match. After a failure the state is dropped, as its content
    /// is undefined.
    pub fn predict_async_with_state<I: Clone + Into<FeatureValue>>(
        &self,
        inputs: &[(&str, I)],
        state: NativeState,
    ) -> Result<StatefulPrediction, NativeError> {
        require(Api::State)?;
        self.model.check_state(Some(&state))?;
        let (completer, completion) = pair();
        self.start(&named(inputs)?, Some(state), move |result, state| {
            let state = state.ok_or_else(|| NativeError::feature("state", "a state that comes back", "none"));
            completer.complete(result.and_then(|outputs| Ok((outputs, state?))));
        })?;
        Ok(StatefulPrediction { completion, function: self.function().to_owned() })
    }

    /// Starts a prediction; calls `done` with its result on a Core ML thread.
    fn start(
        &self,
        inputs: &Named<'_>,
        state: Option<NativeState>,
        done: impl Fn(Result<Outputs, NativeError>, Option<NativeState>) + Send + 'static,
    ) -> Result<(), NativeError> {
        let span = tracing::debug_span!("coreml.start_prediction", function = self.function(), inputs = inputs.len());
        let _entered = span.enter();
        let model = self.model.clone();
        check_names(&model.described, inputs, None)?;
        autoreleasepool(|_| {
            let provider = copied(&model.described, inputs)?;
            let object = state.as_ref().map(|state| state.object().clone());
            let handler = prediction_handler(model.clone(), state, done);
            let handle = model.handle();
            // No backings: several predictions may run concurrently.
            // SAFETY: plain options.
            let options = unsafe { MLPredictionOptions::new() };
            let start = || match &object {
                // SAFETY: rules 1 and 3; the state was moved into the handler, so no other prediction has it; the
                // framework copies the handler, which may run on any thread because its captures are `Send`.
                Some(object) => unsafe {
                    handle.model.predictionFromFeatures_usingState_options_completionHandler(
                        &provider, object, &options, &handler,
                    );
                },
                // SAFETY: as above, without state.
                None => unsafe {
                    handle.model.predictionFromFeatures_options_completionHandler(&provider, &options, &handler);
                },
            };
            guarded(|| format!("predicting with function `{}`", self.function()), start)
        })
    }
}

/// Completion handler block of a prediction.
type Handler = RcBlock<dyn Fn(*mut ProtocolObject<dyn MLFeatureProvider>, *mut NSError)>;

/// Creates a handler that reads the outputs in the callback, so that only Rust values cross threads. Keeps the model
/// alive until then.
fn prediction_handler(
    model: Arc<Model>,
    state: Option<NativeState>,
    done: impl Fn(Result<Outputs, NativeError>, Option<NativeState>) + Send + 'static,
) -> Handler {
    let state = Mutex::new(state);
    RcBlock::new(for_any_thread(move |features: *mut ProtocolObject<dyn MLFeatureProvider>, error: *mut NSError| {
        let result = autoreleasepool(|_| {
            // SAFETY: the handler is called with nil or with features that live as long as the call.
            match unsafe { features.as_ref() } {
                Some(features) => outputs(&model.described, features, None, &mut BackingUse::default()),
                None => {
                    let function = &model.description.default_function;
                    Err(handler_failure(format!("predicting with function `{function}`"), error))
                }
            }
        });
        done(result, state.lock().unwrap_or_else(PoisonError::into_inner).take());
    }))
}

/// Compiles on a new thread.
fn compile_elsewhere(
    source: PathBuf,
    options: Options,
) -> Result<Completion<Result<PathBuf, NativeError>>, NativeError> {
    let (completer, completion) = pair();
    let work = move || completer.complete(compiled(&source, &options));
    let thread = std::thread::Builder::new().name("coreml-compile".to_owned()).spawn(work);
    thread.map_err(|e| NativeError::feature("coreml-compile", "a thread", e.to_string()))?;
    Ok(completion)
}

/// Starts loading a compiled model.
fn start_loading(place: &Path, options: &Options) -> Result<Completion<Result<Loaded, NativeError>>, NativeError> {
    autoreleasepool(|_| {
        let configuration = configuration(options)?;
        let url = url(place)?;
        let (completer, completion) = pair();
        let handler = load_handler(format!("loading {}", place.display()), completer);
        // SAFETY: rule 1; the framework copies the handler, which may run on any thread because its captures are
        // `Send`.
        let load =
            || unsafe { MLModel::loadContentsOfURL_configuration_completionHandler(&url, &configuration, &handler) };
        guarded(|| format!("loading {}", place.display()), load)?;
        Ok(completion)
    })
}

pub(super) fn load_handler(
    doing: String,
    completer: Completer<Result<Loaded, NativeError>>,
) -> RcBlock<dyn Fn(*mut MLModel, *mut NSError)> {
    RcBlock::new(for_any_thread(move |model: *mut MLModel, error: *mut NSError| {
        // SAFETY: the handler is called with nil or with a model that lives as long as the call.
        let model = unsafe { Retained::retain(model) };
        completer.complete(model.map(Loaded).ok_or_else(|| handler_failure(doing.as_str(), error)));
    }))
}

/// A running prediction. Dropping it discards the result but does not cancel it.
#[derive(Debug)]
#[must_use = "a prediction's result is lost otherwise"]
pub struct Prediction {
    completion: Completion<Result<Outputs, NativeError>>,
    function: String,
}

/// A running prediction with its state.
#[derive(Debug)]
#[must_use = "a prediction's result and its state are lost otherwise"]
pub struct StatefulPrediction {
    completion: Completion<Result<(Outputs, NativeState), NativeError>>,
    function: String,
}

fn arrive<T>(
    completion: &mut Completion<Result<T, NativeError>>,
    function: &str,
    context: &mut Context<'_>,
) -> Poll<Result<T, NativeError>> {
    let doing = || format!("predicting with function `{function}`");
    Pin::new(completion).poll(context).map(|answer| answer.unwrap_or_else(|e| Err(abandoned(&doing(), e))))
}

impl Future for Prediction {
    type Output = Result<Outputs, NativeError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        arrive(&mut this.completion, &this.function, context)
    }
}

impl Future for StatefulPrediction {
    type Output = Result<(Outputs, NativeState), NativeError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        arrive(&mut this.completion, &this.function, context)
    }
}

// Compile-time check of the module's thread-safety guarantees.
const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    const fn send<T: Send>() {}
    send_and_sync::<NativeModel>();
    send_and_sync::<NativeState>();
    send::<Prediction>();
    send::<StatefulPrediction>();
};

#[expect(dead_code, reason = "compiled for its types: the future of loading may move between threads")]
fn loading_is_send(source: PathBuf, options: Options) -> impl Future<Output = Result<NativeModel, NativeError>> + Send {
    NativeModel::load_async(source, options)
}
