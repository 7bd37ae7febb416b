//! Benchmarks of any model file, on generated inputs.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_coreml::description::{FeatureDescription, FeatureType};
use candle_coreml::engine::EngineOptions;
use candle_coreml::format::dtype::DataType;
use candle_coreml::{CoreMLModel, FeatureRow, FeatureValue};

use super::Arguments;
use super::measure::Measured;
use super::profile::Phase;

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
    let inputs = inputs(&model)?;
    let named: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let mut state = if model.is_stateful() { Some(model.make_state()?) } else { None };
    let rows =
        arguments.rows.map(|count| (0..count).map(|i| row(&model, &inputs, i)).collect::<Result<Vec<FeatureRow>>>());
    let rows = rows.transpose()?;
    let mut predict = || -> Result<f64> {
        let started = Instant::now();
        match &rows {
            Some(rows) => drop(model.predict_batch(rows)?),
            None => drop(model.predict(&named, state.as_mut())?),
        }
        Ok(started.elapsed().as_secs_f64())
    };
    let first_seconds = predict()?;
    let count = arguments.runs.saturating_mul(arguments.tokens);
    let seconds = (0..count).map(|_| predict()).collect::<Result<Vec<f64>>>()?;
    let mut profiles = Vec::new();
    if profiled && model.set_profiling(true) {
        (0..arguments.tokens).try_for_each(|_| predict().map(drop))?;
        profiles.push(Phase::new("predict", "prediction", arguments.tokens, model.costs()));
        model.set_profiling(false);
    }
    Ok(Measured {
        engine: model.engine().to_owned(),
        load_seconds,
        first_seconds,
        seconds,
        inputs: inputs.iter().map(|(n, t)| (n.clone(), t.dims().to_vec())).collect(),
        rows: arguments.rows,
        language: None,
        profiles,
    })
}

/// A row of made-up inputs: numbers where the model is described so.
fn row(model: &CoreMLModel, inputs: &[(String, Tensor)], i: usize) -> Result<FeatureRow> {
    let described = model.function_description();
    let value = |(n, (name, like)): (usize, &(String, Tensor))| {
        let seed = (i as u32).wrapping_mul(977).wrapping_add(n as u32);
        let t = match like.dtype() {
            d if d.is_float() => {
                Tensor::from_vec(floats(like.elem_count(), seed), like.dims(), &Device::Cpu)?.to_dtype(d)?
            }
            _ => like.clone(),
        };
        Ok(match described.input(name).map(|f| &f.ty) {
            Some(FeatureType::Double) => (name.clone(), FeatureValue::Double(t.to_dtype(DType::F64)?.to_scalar()?)),
            _ => (name.clone(), t.into()),
        })
    };
    inputs.iter().enumerate().map(value).collect()
}

/// Values in −1..1, the same in every run, others for each seed.
fn floats(count: usize, seed: u32) -> Vec<f32> {
    let mut state = (0x9E37_79B9_u32 ^ seed.wrapping_mul(0x85EB_CA6B)) | 1;
    let mut next = || {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// One input per required feature: random floats; integers alternate 0 and 1, which are valid indices into any table
/// and valid mask values.
fn inputs(model: &CoreMLModel) -> Result<Vec<(String, Tensor)>> {
    let described = model.function_description();
    let program = candle_coreml::lower::lower(model.package()).ok();
    let program = program.as_ref().and_then(|p| p.functions.get(model.function()));
    let mut inputs = Vec::new();
    for name in model.input_names() {
        let feature = described.input(&name);
        if feature.is_some_and(|f| f.optional) {
            continue;
        }
        let declared = program.and_then(|f| f.inputs.iter().find(|i| i.name == name)).and_then(|i| i.ty.tensor());
        let shape = feature.and_then(shape).or_else(|| declared?.fixed_shape());
        let shape = shape.ok_or_else(|| format!("input `{name}`: the model does not say a shape to measure with"))?;
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|n| *n <= 1 << 30);
        let count = count.ok_or_else(|| format!("input `{name}`: {shape:?} is too large to measure with"))?;
        let dtype = declared.map_or(DataType::F32, |t| t.dtype);
        let tensor = if dtype.is_float() {
            Tensor::from_vec(floats(count, 0), shape, &Device::Cpu)?
        } else {
            let ones: Vec<i64> = (0..count as i64).map(|i| (i + 1) % 2).collect();
            let tensor = Tensor::from_vec(ones, shape, &Device::Cpu)?;
            if dtype == DataType::Bool { tensor.to_dtype(DType::U8)? } else { tensor }
        };
        inputs.push((name, tensor));
    }
    Ok(inputs)
}

/// The default shape of a feature.
fn shape(feature: &FeatureDescription) -> Option<Vec<usize>> {
    match &feature.ty {
        FeatureType::MultiArray { shape, .. } if !shape.is_empty() => Some(shape.clone()),
        _ => None,
    }
}
