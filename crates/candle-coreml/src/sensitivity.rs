//! What each weight of a model costs in each form, measured on data: the input of
//! [`compress::choose`](crate::compress::choose).

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use coreml_compress::{Measure, Options, Scheme, Sensitivity, candidates, trial};
use coreml_format::model::Model;
use coreml_format::task;

use crate::config::Config;
use crate::engine::{EngineChoice, EngineOptions};
use crate::error::{Error, Result};
use crate::model::{CoreMLModel, FeatureValue};

/// Inputs of a prediction, by name.
pub type Sample = Vec<(String, Tensor)>;

/// Measures the forms of every weight that `options` compress, each with all other weights as they are, by the outputs of
/// a function for the samples on the portable engine.
///
/// The error of a form is the sum of squared differences of all float outputs over the sum of their squares, on average
/// over the samples. States begin with zeros for each sample. A [task](crate::Task) is told of every weight.
///
/// # Errors
/// [`Error::Request`] without samples, without weights, and for outputs that are not finite; errors of loading and
/// predicting; [`Error::Edit`] if weights can't be read.
pub fn measure(
    path: &Path,
    function: Option<&str>,
    options: &Options,
    forms: &[Scheme],
    samples: &[Sample],
) -> Result<Vec<Sensitivity>> {
    if samples.is_empty() || forms.is_empty() {
        return Err(Error::Request("expected at least one sample and one form, found none".to_owned()));
    }
    for form in forms {
        form.check().map_err(|e| Error::Request(e.to_string()))?;
    }
    let model = Model::open(path)?;
    let weights = candidates(&model, options)?;
    if weights.is_empty() {
        return Err(Error::Request(format!("{}: expected weights to compress, found none", path.display())));
    }
    let wanted = task::quietly(|| outputs(model.clone(), function, samples))?;
    let mut out = Vec::with_capacity(weights.len());
    for (i, weight) in weights.iter().enumerate() {
        task::step(&weight.name, i, weights.len()).map_err(|_| Error::Cancelled)?;
        let mut measures = Vec::new();
        for &scheme in forms {
            let Some((changed, bytes)) = trial(&model, &weight.name, scheme)? else { continue };
            let error = distance(&task::quietly(|| outputs(changed, function, samples))?, &wanted);
            measures.push(Measure { scheme, bytes, error });
        }
        // Weights whose shape no form fits stay as they are.
        if !measures.is_empty() {
            let elements = weight.shape.iter().product();
            out.push(Sensitivity { name: weight.name.clone(), elements, measures });
        }
    }
    Ok(out)
}

/// Float outputs of each sample, one after the other.
fn outputs(model: Model, function: Option<&str>, samples: &[Sample]) -> Result<Vec<Vec<f32>>> {
    let engine = EngineOptions { choice: EngineChoice::Portable, ..EngineOptions::default() };
    let model = CoreMLModel::from_package_with(Arc::new(model), function, Config::default(), &engine)?;
    samples
        .iter()
        .map(|sample| {
            let inputs: Vec<(&str, Tensor)> = sample.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            let mut state = if model.is_stateful() { Some(model.make_state()?) } else { None };
            let found = model.predict(&inputs, state.as_mut())?;
            let mut all = Vec::new();
            for (name, value) in &found {
                if let FeatureValue::Tensor(t) = value
                    && t.dtype().is_float()
                {
                    let t = t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                    if let Some(at) = t.iter().position(|v| !v.is_finite()) {
                        let what = format!("output `{name}`: expected finite numbers, found {} at {at}", t[at]);
                        return Err(Error::Request(what));
                    }
                    all.extend(t);
                }
            }
            if all.is_empty() {
                return Err(Error::Request("expected an output of floats, found none".to_owned()));
            }
            Ok(all)
        })
        .collect()
}

/// Mean over the samples of squared differences over squares.
fn distance(found: &[Vec<f32>], wanted: &[Vec<f32>]) -> f64 {
    let square = |v: f64| v * v;
    let one = |(f, w): (&Vec<f32>, &Vec<f32>)| {
        let off: f64 = f.iter().zip(w).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
        off / w.iter().map(|v| square(f64::from(*v))).sum::<f64>().max(f64::MIN_POSITIVE)
    };
    found.iter().zip(wanted).map(one).sum::<f64>() / wanted.len() as f64
}
