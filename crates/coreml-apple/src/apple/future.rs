//! Loading and predicting without blocking: completion handlers as futures, for any runtime.

use std::future::Future;
use std::path::PathBuf;
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
use super::compile::{Compiled, compiled};
use super::configuration::configuration;
use super::features::{Named, check_names, copied, named};
use super::foundation::{for_any_thread, handler_failure, url};
use super::model::{Model, NativeModel, Outputs};
use super::results::outputs;
use super::state::NativeState;
use crate::completion::{Abandoned, Completer, Completion, pair};
use crate::error::NativeError;
use crate::options::Options;

fn abandoned(doing: &str, source: Abandoned) -> NativeError {
    NativeError::Abandoned { doing: doing.to_owned(), source }
}

/// A model on its way to the task that waits for it.
struct Loaded(Retained<MLModel>);

// SAFETY: as for the handle of a model: nothing else refers to it until it has arrived.
unsafe impl Send for Loaded {}

impl NativeModel {
    /// [`NativeModel::load`] without blocking: compilation runs on a thread of its own, loading on Core ML's.
    ///
    /// # Errors
    /// As `load`; a damaged model of the cache is an error here, not compiled again.
    pub async fn load_async(source: PathBuf, options: Options) -> Result<Self, NativeError> {
        require(Api::Engine)?;
        let place = compile_elsewhere(source.clone(), options.clone())?;
        let place = place.await.map_err(|e| abandoned("compiling", e))??;
        let loaded = start_loading(&place, &options)?;
        let Loaded(model) = loaded.await.map_err(|e| abandoned("loading", e))??;
        autoreleasepool(|_| Self::finish(model, &source, place, &options))
    }

    /// Starts a prediction and returns what waits for it. Inputs are copied, so that the tensors are free at once.
    /// Several may be under way on one model, which Core ML documents for these requests.
    ///
    /// # Errors
    /// Before it starts: as [`NativeModel::predict`], and a function with states, which
    /// [`NativeModel::predict_async_with_state`] takes. The future gives failures of the framework.
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

    /// [`NativeModel::predict_async`] with a state, which travels with the prediction and comes back with the result:
    /// nobody else can use it meanwhile, also when the future is dropped.
    ///
    /// # Errors
    /// As `predict_async`, and for a state that does not fit. After a failure the state is gone, as what it holds
    /// is not defined.
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

    /// Starts a prediction; `done` is called with its result on a thread of Core ML's.
    fn start(
        &self,
        inputs: &Named<'_>,
        state: Option<NativeState>,
        done: impl Fn(Result<Outputs, NativeError>, Option<NativeState>) + Send + 'static,
    ) -> Result<(), NativeError> {
        let span = tracing::debug_span!("coreml.start_prediction", function = self.function(), inputs = inputs.len());
        let _entered = span.enter();
        let model = self.model.clone();
        check_names(&model.described, inputs)?;
        autoreleasepool(|_| {
            let provider = copied(&model.described, inputs)?;
            let object = state.as_ref().map(|state| state.object().clone());
            let handler = prediction_handler(model.clone(), state, done);
            let handle = model.handle();
            // No backings: several predictions may be under way.
            // SAFETY: plain options.
            let options = unsafe { MLPredictionOptions::new() };
            match object {
                // SAFETY: rules 1 and 3; the state was moved into the handler, so that no other prediction has it;
                // the framework copies the handler, which may run on any thread as what it captures is `Send`.
                Some(object) => unsafe {
                    handle.model.predictionFromFeatures_usingState_options_completionHandler(
                        &provider, &object, &options, &handler,
                    );
                },
                // SAFETY: as above, without state.
                None => unsafe {
                    handle.model.predictionFromFeatures_options_completionHandler(&provider, &options, &handler);
                },
            }
            Ok(())
        })
    }
}

/// A block for a prediction's completion handler.
type Handler = RcBlock<dyn Fn(*mut ProtocolObject<dyn MLFeatureProvider>, *mut NSError)>;

/// A handler that reads the outputs where it is called, so that only Rust's own values change threads. It keeps
/// the model alive until then.
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
                Some(features) => outputs(&model.described, features, None),
                None => {
                    let function = &model.description.default_function;
                    Err(handler_failure(format!("predicting with function `{function}`"), error))
                }
            }
        });
        done(result, state.lock().unwrap_or_else(PoisonError::into_inner).take());
    }))
}

/// Compiles on a thread of its own.
fn compile_elsewhere(
    source: PathBuf,
    options: Options,
) -> Result<Completion<Result<Compiled, NativeError>>, NativeError> {
    let (completer, completion) = pair();
    let work = move || completer.complete(compiled(&source, &options));
    let thread = std::thread::Builder::new().name("coreml-compile".to_owned()).spawn(work);
    thread.map_err(|e| NativeError::feature("coreml-compile", "a thread", e.to_string()))?;
    Ok(completion)
}

/// Asks the framework to load a compiled model.
fn start_loading(place: &Compiled, options: &Options) -> Result<Completion<Result<Loaded, NativeError>>, NativeError> {
    autoreleasepool(|_| {
        let configuration = configuration(options)?;
        let url = url(&place.path)?;
        let (completer, completion) = pair();
        let handler = load_handler(format!("loading {}", place.path.display()), completer);
        // SAFETY: rule 1; the framework copies the handler, which may run on any thread as what it captures is `Send`.
        unsafe { MLModel::loadContentsOfURL_configuration_completionHandler(&url, &configuration, &handler) };
        Ok(completion)
    })
}

fn load_handler(
    doing: String,
    completer: Completer<Result<Loaded, NativeError>>,
) -> RcBlock<dyn Fn(*mut MLModel, *mut NSError)> {
    RcBlock::new(for_any_thread(move |model: *mut MLModel, error: *mut NSError| {
        // SAFETY: the handler is called with nil or with a model that lives as long as the call.
        let model = unsafe { Retained::retain(model) };
        completer.complete(model.map(Loaded).ok_or_else(|| handler_failure(doing.as_str(), error)));
    }))
}

/// A prediction under way. Dropping it lets the prediction run on and discards its result.
#[derive(Debug)]
#[must_use = "a prediction's result is lost otherwise"]
pub struct Prediction {
    completion: Completion<Result<Outputs, NativeError>>,
    function: String,
}

/// A prediction under way, with its state.
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

// What the module promises about threads, checked by the compiler.
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
