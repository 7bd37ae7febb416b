//! Benchmarks of any model file, on generated or given inputs.

use std::path::Path;
use std::time::Instant;

use candle_coreml::engine::EngineOptions;
use candle_coreml::made_up::{self, Fill};
use candle_coreml::{CoreMLModel, FeatureRow, FeatureValue};

use super::Arguments;
use super::measure::Measured;
use super::profile::{Phase, medians};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Returns true if the path is a single model rather than a folder with the components of a language model.
pub(super) fn is_one_model(path: &Path) -> bool {
    ["Manifest.json", "model.mil", "coremldata.bin", "Data"].iter().any(|f| path.join(f).exists()) || path.is_file()
}

pub(super) fn measure(path: &Path, arguments: &Arguments, options: &EngineOptions, profiled: bool) -> Result<Measured> {
    let started = Instant::now();
    let mut builder = CoreMLModel::builder(path);
    builder = builder.engine(options.choice).compute_units(options.compute_units);
    if let Some(function) = &arguments.function {
        builder = builder.function(function);
    }
    let model = builder.load()?;
    let load_seconds = started.elapsed().as_secs_f64();
    let mut inputs = match &arguments.inputs {
        Some(file) => crate::predict::inputs_of_file(&model, file)?,
        None => FeatureRow::new(),
    };
    let made_up = made_up::Inputs::of(&model, |name| !inputs.iter().any(|(given, _)| given == name))?;
    inputs.extend(made_up.values(Fill::Random(0))?);
    let named: Vec<(&str, FeatureValue)> = inputs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    let mut state = if model.is_stateful() { Some(model.make_state()?) } else { None };
    let row = |i: usize| made_up.values(Fill::Random(i as u64));
    let rows = arguments
        .rows
        .map(|count| (0..count).map(row).collect::<candle_coreml::Result<Vec<FeatureRow>>>())
        .transpose()?;
    let mut predict = || -> Result<f64> {
        let started = Instant::now();
        match &rows {
            Some(rows) => drop(model.predict_batch(rows)?),
            None => drop(model.predict_values(&named, state.as_mut())?),
        }
        Ok(started.elapsed().as_secs_f64())
    };
    let first_seconds = predict()?;
    let count = arguments.runs.saturating_mul(arguments.tokens);
    let seconds = (0..count).map(|_| predict()).collect::<Result<Vec<f64>>>()?;
    let mut profiles = Vec::new();
    if profiled && model.set_profiling(true) {
        let mut round = || {
            // From zero again.
            model.set_profiling(true);
            predict()?;
            Ok(model.costs())
        };
        let rounds = (0..arguments.tokens).map(|_| round()).collect::<Result<Vec<_>>>()?;
        profiles.push(Phase::new("predict", "prediction", arguments.tokens, medians(rounds)));
        model.set_profiling(false);
    }
    Ok(Measured {
        engine: model.engine().to_owned(),
        load_seconds,
        first_seconds,
        seconds,
        inputs: inputs
            .iter()
            .map(|(n, v)| (n.clone(), v.tensor().map(|t| t.dims().to_vec()).unwrap_or_default()))
            .collect(),
        rows: arguments.rows,
        language: None,
        profiles,
    })
}
