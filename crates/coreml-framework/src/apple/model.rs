//! [`NativeModel`]: a model loaded by Core ML.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coreml_format::description::{ColorLayout, FeatureType, FunctionDescription, ModelDescription};
use coreml_values::FeatureValue;
use indexmap::IndexMap;
use objc2::AllocAnyThread;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_core_ml::{MLArrayBatchProvider, MLBatchProvider, MLFeatureProvider, MLModel, MLPredictionOptions};
use objc2_foundation::NSArray;

use super::available::{Api, require};
use super::compile::compiled;
use super::configuration::configuration;
use super::description::describe;
use super::exception::guarded;
use super::features::{self, Borrowing, Lent, check_names};
use super::foundation::{failure, url};
use super::handed::{Handing, NativeArray};
use super::results::{Backings, array_of, outputs};
use super::state::NativeState;
use super::surface::Pool;
use crate::error::NativeError;
use crate::inputs::Locked;
use crate::options::Options;
use crate::progress::LoadStage;
use crate::report::BackingUse;
use crate::stdout;

/// Prediction results by name.
pub(super) type Outputs = IndexMap<String, FeatureValue>;

/// The framework object, passed between threads.
pub(super) struct Handle {
    pub(super) model: Retained<MLModel>,
    /// Preallocated output arrays.
    backings: Option<Backings>,
    /// Input surfaces, if they are useful.
    surfaces: Option<Pool>,
    /// What became of the output arrays.
    used: BackingUse,
}

// SAFETY: reference counts are atomic, `MLModel` is not tied to the thread that loaded it, and Apple's reference only
// requires that one thread or queue use an instance at a time. `Model` keeps the handle, and the arrays that only its
// predictions and the copies around them use, in a mutex.
unsafe impl Send for Handle {}

/// A model and its metadata. `Send` and `Sync` follow from the fields.
pub(super) struct Model {
    handle: Mutex<Handle>,
    pub(super) description: ModelDescription,
    pub(super) described: FunctionDescription,
    pub(super) source: PathBuf,
    pub(super) compiled: PathBuf,
    pub(super) options: Options,
    lent: Mutex<Lent>,
}

/// A model function loaded by Core ML.
///
/// `Send` and `Sync`: blocking predictions on one model are serialised; to run two at once, load it twice or use
/// [`NativeModel::predict_async`].
#[derive(Clone)]
pub struct NativeModel {
    pub(super) model: Arc<Model>,
}

impl std::fmt::Debug for NativeModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeModel")
            .field("source", &self.model.source)
            .field("function", &self.function())
            .finish_non_exhaustive()
    }
}

/// Loads a compiled model. Blocks.
fn load(compiled: &Path, options: &Options) -> Result<Retained<MLModel>, NativeError> {
    let configuration = configuration(options)?;
    let url = url(compiled)?;
    let doing = || format!("loading {}", compiled.display());
    // SAFETY: rule 1, the URL of a compiled model and a configuration.
    let call = || unsafe { MLModel::modelWithContentsOfURL_configuration_error(&url, &configuration) };
    let model = stdout::guarded(|| guarded(doing, call))?;
    model.map_err(|e| failure(doing(), &e))
}

impl NativeModel {
    /// Loads a `.mlpackage`, `.mlmodel` or `.mlmodelc`. Sources are compiled once and cached; a cached model whose
    /// files are missing or cut is compiled again, one that Core ML refuses stays as it is.
    ///
    /// # Errors
    /// If the system is too old, the source cannot be compiled or loaded, the function is unknown, a feature has a
    /// type unknown to this version, or the load is cancelled.
    pub fn load(source: &Path, options: &Options) -> Result<Self, NativeError> {
        let (path, settings) = (source.to_owned(), options.clone());
        options.watch.run(move || Self::load_here(&path, &settings))?
    }

    fn load_here(source: &Path, options: &Options) -> Result<Self, NativeError> {
        let span = tracing::info_span!("coreml.load", source = %source.display(), units = %options.compute_units);
        let _entered = span.enter();
        require(Api::Engine)?;
        let place = compiled(source, options)?;
        options.watch.begin(LoadStage::Loading)?;
        autoreleasepool(|_| Self::finish(load(&place, options)?, source, place, options))
    }

    /// Describes a loaded model.
    pub(super) fn finish(
        model: Retained<MLModel>,
        source: &Path,
        compiled: PathBuf,
        options: &Options,
    ) -> Result<Self, NativeError> {
        let mut description = describe(&model, options.function.as_deref())?;
        description.functions.values_mut().for_each(|function| set_layouts(function, &options.image_layouts));
        let described = description.function(None).cloned().unwrap_or_default();
        let in_surfaces = options.surfaces && options.compute_units.with_neural_engine();
        let backings = if options.output_backings { Backings::new(&described, in_surfaces)? } else { None };
        let surfaces = in_surfaces.then(Pool::default);
        let model = Model {
            handle: Mutex::new(Handle { model, backings, surfaces, used: BackingUse::default() }),
            description,
            described,
            source: source.to_owned(),
            compiled,
            options: options.clone(),
            lent: Mutex::default(),
        };
        Ok(Self { model: Arc::new(model) })
    }

    /// Inputs and outputs of the loaded function; features sorted by name.
    pub fn description(&self) -> &ModelDescription {
        &self.model.description
    }

    /// The loaded function.
    pub fn function_description(&self) -> &FunctionDescription {
        &self.model.described
    }

    /// Name of the loaded function; `main` by default.
    pub fn function(&self) -> &str {
        &self.model.description.default_function
    }

    /// Options it was loaded with.
    pub fn options(&self) -> &Options {
        &self.model.options
    }

    /// The compiled model on disk.
    pub fn compiled_path(&self) -> &Path {
        &self.model.compiled
    }

    /// Number of tensors that Core ML still holds from earlier predictions. It releases them a second or so later;
    /// their memory stays allocated until then.
    pub fn lent(&self) -> usize {
        let mut lent = self.model.lent();
        lent.retain(|receipt| !receipt.is_back());
        lent.len()
    }

    /// What became of the output arrays of [`Options::output_backings`] so far.
    pub fn backings_in_use(&self) -> BackingUse {
        self.model.handle().used.clone()
    }

    /// Creates zeroed states.
    ///
    /// # Errors
    /// If the system does not support states, or the function has none.
    pub fn new_state(&self) -> Result<NativeState, NativeError> {
        require(Api::State)?;
        if self.model.described.states.is_empty() {
            return Err(NativeError::feature(self.function(), "a function with states", "none"));
        }
        let handle = self.model.handle();
        let doing = || format!("creating a state of function `{}`", self.function());
        // SAFETY: rules 2 and 3; the function has states.
        let state = autoreleasepool(|_| guarded(doing, || unsafe { handle.model.newState() }))?;
        drop(handle);
        Ok(NativeState::new(state, self.model.clone()))
    }

    /// Runs a prediction. Tensors may be on the CPU or on Metal. fp16 arrays of suitable shape are copied into surfaces
    /// that the Neural Engine reads in place; other contiguous tensors of the declared type are lent to Core ML, on
    /// Metal if in shared memory. No Candle operation can change a lent tensor meanwhile.
    ///
    /// # Errors
    /// If inputs are unknown, missing or misshapen, values do not fit the declared types, the state is missing,
    /// unexpected or of another model, or the framework fails.
    pub fn predict<I: Clone + Into<FeatureValue>>(
        &self,
        inputs: &[(&str, I)],
        state: Option<&mut NativeState>,
    ) -> Result<Outputs, NativeError> {
        self.predict_handed(inputs, None, state)
    }

    /// [`predict`](Self::predict) as one of a chain of models: takes an array of the previous model in place, and leaves
    /// one output where Core ML wrote it. Other outputs are not read.
    ///
    /// # Errors
    /// Same as [`predict`](Self::predict); if the array does not fit the input, or the output is no array.
    pub fn predict_handing<I: Clone + Into<FeatureValue>>(
        &self,
        inputs: &[(&str, I)],
        handing: Handing<'_>,
        state: Option<&mut NativeState>,
    ) -> Result<Arc<NativeArray>, NativeError> {
        let output = handing.output;
        if self.model.described.output(output).is_none() {
            let available = self.model.described.outputs.iter().map(|f| f.name.clone()).collect();
            return Err(NativeError::Unknown { what: "output", name: output.to_owned(), available });
        }
        self.run(inputs, handing.input, state, |features, backings, used| array_of(output, features, backings, used))
    }

    /// [`predict`](Self::predict) with an array of another model as one of the inputs, if there is one.
    ///
    /// # Errors
    /// Same as [`predict`](Self::predict); if the array does not fit the input.
    pub fn predict_handed<I: Clone + Into<FeatureValue>>(
        &self,
        inputs: &[(&str, I)],
        handed: Option<(&str, &NativeArray)>,
        state: Option<&mut NativeState>,
    ) -> Result<Outputs, NativeError> {
        self.run(inputs, handed, state, |features, backings, used| {
            outputs(&self.model.described, features, backings, used)
        })
    }

    /// Predicts and takes from the result what `read` makes of it.
    fn run<I: Clone + Into<FeatureValue>, R>(
        &self,
        inputs: &[(&str, I)],
        handed: Option<(&str, &NativeArray)>,
        state: Option<&mut NativeState>,
        read: impl FnOnce(
            &ProtocolObject<dyn MLFeatureProvider>,
            Option<&Backings>,
            &mut BackingUse,
        ) -> Result<R, NativeError>,
    ) -> Result<R, NativeError> {
        let model = &*self.model;
        let span = tracing::debug_span!("coreml.predict", function = self.function(), inputs = inputs.len());
        let _entered = span.enter();
        let inputs = features::named(inputs)?;
        check_names(&model.described, &inputs, handed.map(|(name, _)| name))?;
        if let Some((name, array)) = handed {
            array.check(&model.described, name)?;
        }
        model.check_state(state.as_deref())?;
        let inputs = features::reachable(&inputs)?;
        // Lock order: model before tensors, so no thread waits for the model while holding a tensor lock.
        let mut handle = model.handle();
        let Handle { model: object, backings, surfaces, used } = &mut *handle;
        let mut lent = Lent::new();
        let result = autoreleasepool(|_| {
            backings.as_mut().map_or(Ok(()), Backings::renew)?;
            let values = features::plain(&model.described, &inputs)?;
            let locked = Locked::new(&features::arrays(&inputs, &values));
            let (lend, surfaces) = (model.options.lend_inputs, surfaces.as_mut());
            let borrowing = Borrowing { locked: &locked, lend, surfaces, lent: &mut lent };
            let provider = features::borrowed(&model.described, &inputs, values, handed, borrowing)?;
            let doing = || format!("predicting with function `{}`", self.function());
            let state = state.map(|state| state.object());
            let predict = |backings: Option<&Backings>| {
                let options = prediction_options(backings);
                let features = guarded(doing, || match &state {
                    // SAFETY: rules 1 and 2; the state is borrowed mutably, has what the function declares, and the
                    // system supports states, because it created this one.
                    Some(state) => unsafe {
                        object.predictionFromFeatures_usingState_options_error(&provider, state, &options)
                    },
                    // SAFETY: rules 1 and 2.
                    None => unsafe { object.predictionFromFeatures_options_error(&provider, &options) },
                })?;
                features.map_err(|e| failure(doing(), &e))
            };
            let mut features = predict(backings.as_ref());
            // Rejected backings are not offered again. With a state the request is repeated only if nothing can have
            // run: an update made twice is wrong for accumulators.
            if let Err(error) = &features
                && backings.take().is_some()
            {
                tracing::warn!(%error, "Core ML fails with output backings; trying without");
                used.refused = Some(error.to_string());
                if state.is_none() || error.refuses_backings() {
                    features = predict(None);
                }
            }
            read(&*features?, backings.as_ref(), used)
        });
        model.remember(lent);
        result
    }

    /// Predicts for several sets of inputs in one request, which Core ML may parallelise.
    ///
    /// # Errors
    /// Same as [`NativeModel::predict`]; also for models with states, which the framework does not support in batches.
    pub fn predict_batch<I: Clone + Into<FeatureValue>>(
        &self,
        batch: &[Vec<(&str, I)>],
    ) -> Result<Vec<Outputs>, NativeError> {
        let model = &*self.model;
        let span = tracing::debug_span!("coreml.predict_batch", function = self.function(), size = batch.len());
        let _entered = span.enter();
        if !model.described.states.is_empty() {
            return Err(NativeError::feature(self.function(), "a function without states", "states, in a batch"));
        }
        let batch = batch.iter().map(|inputs| features::named(inputs)).collect::<Result<Vec<_>, _>>()?;
        for inputs in &batch {
            check_names(&model.described, inputs, None)?;
        }
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let handle = model.handle();
        autoreleasepool(|_| {
            let one = |inputs: &Vec<_>| features::copied(&model.described, inputs);
            let providers = batch.iter().map(one).collect::<Result<Vec<_>, _>>()?;
            let providers = NSArray::from_retained_slice(&providers);
            // SAFETY: rule 1, an array of feature providers.
            let provider = unsafe {
                MLArrayBatchProvider::initWithFeatureProviderArray(MLArrayBatchProvider::alloc(), &providers)
            };
            let provider: &ProtocolObject<dyn MLBatchProvider> = ProtocolObject::from_ref(&*provider);
            // No backings: results of a batch may not share memory.
            let doing = || format!("predicting a batch of {} with function `{}`", batch.len(), self.function());
            let options = prediction_options(None);
            // SAFETY: rules 1 and 2; plain options.
            let results =
                guarded(doing, || unsafe { handle.model.predictionsFromBatch_options_error(provider, &options) })?;
            let results = results.map_err(|e| failure(doing(), &e))?;
            // SAFETY: a getter of the result.
            let count = unsafe { results.count() };
            if usize::try_from(count).ok() != Some(batch.len()) {
                let (expected, found) = (format!("{} results of a batch", batch.len()), count.to_string());
                return Err(NativeError::feature(self.function(), expected, found));
            }
            let of = |i| {
                // SAFETY: `i` is below the count.
                let result = unsafe { results.featuresAtIndex(i) };
                outputs(&model.described, &result, None, &mut BackingUse::default())
            };
            (0..count).map(of).collect()
        })
    }
}

/// Options of one prediction.
fn prediction_options(backings: Option<&Backings>) -> Retained<MLPredictionOptions> {
    // SAFETY: a plain object; the backings are arrays of the declared types and shapes, and the mutex around the handle
    // restricts them to one prediction at a time.
    unsafe {
        let options = MLPredictionOptions::new();
        if let Some(backings) = backings {
            options.setOutputBackings(&backings.arrays);
        }
        options
    }
}

/// Sets the channel order of image features.
fn set_layouts(function: &mut FunctionDescription, layouts: &[(String, ColorLayout)]) {
    for feature in function.inputs.iter_mut().chain(&mut function.outputs) {
        if let FeatureType::Image { layout, .. } = &mut feature.ty
            && let Some((_, known)) = layouts.iter().find(|(name, _)| *name == feature.name)
        {
            *layout = *known;
        }
    }
}

impl Model {
    /// Exclusive access to the framework object.
    pub(super) fn handle(&self) -> MutexGuard<'_, Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tracks tensors still lent after a prediction.
    fn remember(&self, new: Lent) {
        let mut lent = self.lent();
        lent.extend(new);
        lent.retain(|receipt| !receipt.is_back());
    }

    /// Checks that a state is given if and only if the function has states, and that it has all of them.
    pub(super) fn check_state(&self, state: Option<&NativeState>) -> Result<(), NativeError> {
        let states = &self.described.states;
        match (states.first(), state) {
            (None, None) => Ok(()),
            (Some(first), None) => Err(NativeError::feature(&first.name, "a state", "a prediction without state")),
            (None, Some(_)) => {
                let function = &self.description.default_function;
                Err(NativeError::feature(function, "a prediction without state, as it has none", "a state"))
            }
            (Some(_), Some(state)) => state.check(states),
        }
    }
}
