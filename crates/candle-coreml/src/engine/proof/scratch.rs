//! The child's side: loads a model on Core ML and runs it once, on inputs and a state that are thrown away.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use coreml_format::description::{FeatureDescription, FeatureType};

use super::child::{Ended, HELLO};
use super::{ComputeUnits, is_refusal};
#[cfg(feature = "language")]
use crate::anemll::{Pipeline, discovery};
#[cfg(feature = "language")]
use crate::engine::native_system;
use crate::engine::{EngineChoice, EngineOptions};
use crate::error::{Error, Result};
use crate::model::{CoreMLModel, FeatureValue};

/// Most elements of an input that is made up.
const LARGEST: usize = 1 << 26;

/// A line of the protocol; the reader may be gone.
fn say(output: &mut dyn Write, line: &str) {
    let line = line.replace(['\n', '\r'], " ");
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// Tries a model on Core ML and says how it went, for a parent that reads `output`: the work of the command's verb
/// `prove-native`. `path` is a model or the folder of a language model; `expect` the key of the files that the parent
/// means. Returns true if the model ran.
pub fn answer(
    path: &Path,
    function: Option<&str>,
    units: ComputeUnits,
    compiled_models: Option<PathBuf>,
    expect: Option<&str>,
    output: &mut dyn Write,
) -> bool {
    let options = EngineOptions {
        choice: EngineChoice::Native,
        compute_units: units,
        cache: compiled_models,
        ..Default::default()
    };
    say(output, HELLO);
    let ended = match run(path, function, &options, expect, output) {
        Ok(ended) => ended,
        Err(error) if is_refusal(&error) => Ended::Refused(error.to_string()),
        Err(error) => Ended::NotStarted(error.to_string()),
    };
    let line = match &ended {
        Ended::Proved => "proved".to_owned(),
        Ended::Refused(reason) => format!("refused {reason}"),
        Ended::Unclear(reason) | Ended::NotStarted(reason) => format!("cannot {reason}"),
    };
    say(output, &line);
    ended == Ended::Proved
}

fn run(
    path: &Path,
    function: Option<&str>,
    options: &EngineOptions,
    expect: Option<&str>,
    output: &mut dyn Write,
) -> Result<Ended> {
    #[cfg(feature = "language")]
    if path.is_dir() && !coreml_framework::cache::is_compiled(path) && !path.join("Data").is_dir() {
        let components = discovery::discover(path)?;
        let place = components.place(options, native_system());
        if let (Some(expect), Some(found)) = (expect, place.digits())
            && expect != found
        {
            return Ok(Ended::NotStarted("the folder has several models".to_owned()));
        }
        say(output, "stage loading");
        let pipeline = Pipeline::from_components_with(&components, options)?;
        say(output, "stage predicting");
        pipeline.trial()?;
        return Ok(Ended::Proved);
    }
    let mut builder = CoreMLModel::builder(path).engine(options.choice).compute_units(options.compute_units);
    if let Some(function) = function {
        builder = builder.function(function);
    }
    if let Some(folder) = &options.cache {
        builder = builder.compiled_models(folder);
    }
    say(output, "stage loading");
    let model = builder.load()?;
    say(output, "stage predicting");
    // Only the end of the process counts here: an error may be due to the inputs.
    if let Err(error) = predict_once(&model) {
        tracing::info!(%error, "the trial's inputs do not suit the model");
    }
    Ok(Ended::Proved)
}

/// Predicts with zeros.
///
/// # Errors
/// If an input can't be made up, or the prediction fails.
pub(super) fn predict_once(model: &CoreMLModel) -> Result<()> {
    let mut inputs = Vec::new();
    for feature in model.function_description().inputs.iter().filter(|f| !f.optional) {
        inputs.push((feature.name.as_str(), zeros(feature)?));
    }
    let mut state = if model.is_stateful() { Some(model.make_state()?) } else { None };
    model.predict_values(&inputs, state.as_mut()).map(drop)
}

/// Zeros in the form of an input.
fn zeros(feature: &FeatureDescription) -> Result<FeatureValue> {
    let tensor = |shape: &[usize]| {
        let count = shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent));
        if count.is_none_or(|n| n == 0 || n > LARGEST) {
            let expected = format!("a shape of 1 to {LARGEST} elements");
            return Err(Error::Input { name: feature.name.clone(), expected, found: format!("{shape:?}") });
        }
        Ok(FeatureValue::Tensor(Tensor::zeros(shape, DType::F32, &Device::Cpu)?))
    };
    match &feature.ty {
        FeatureType::MultiArray { shape, .. } => tensor(shape),
        FeatureType::Image { layout, width, height, .. } => {
            tensor(&[1, coreml_framework::pixels::channels(*layout), *height, *width])
        }
        FeatureType::Int64 => Ok(FeatureValue::Int64(0)),
        FeatureType::Double => Ok(FeatureValue::Double(0.0)),
        FeatureType::String => Ok(FeatureValue::String(String::new())),
        other => Err(Error::Input {
            name: feature.name.clone(),
            expected: "an array, an image, a number or a string".to_owned(),
            found: other.in_words().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
    }

    #[test]
    fn zeros_run_through_a_model() {
        for (path, function) in [
            ("tiny-qwen3/qwen_embeddings.mlpackage", None),
            ("tiny-qwen3/qwen_FFN_PF_lut6_chunk_01of02.mlpackage", Some("prefill")),
        ] {
            let mut builder = CoreMLModel::builder(models().join(path)).engine(EngineChoice::Portable);
            if let Some(function) = function {
                builder = builder.function(function);
            }
            predict_once(&builder.load().expect("it loads")).expect("it runs");
        }
        let feature = |ty| FeatureDescription { name: "x".to_owned(), description: String::new(), ty, optional: false };
        let error = zeros(&feature(FeatureType::Dictionary { int_keys: true })).expect_err("no dictionaries");
        assert!(matches!(error, Error::Input { name, .. } if name == "x"));
        assert!(matches!(zeros(&feature(FeatureType::Int64)), Ok(FeatureValue::Int64(0))));
    }

    #[cfg(not(target_vendor = "apple"))]
    #[test]
    fn a_child_without_core_ml_says_that_it_cannot() {
        for path in [models().join("tiny-qwen3"), models().join("tiny-qwen3/qwen_embeddings.mlpackage"), "none".into()]
        {
            let mut output = Vec::new();
            let cache = tempfile::tempdir().expect("a folder");
            let ran = answer(&path, None, ComputeUnits::All, Some(cache.path().to_owned()), None, &mut output);
            let text = String::from_utf8(output).expect("text");
            let lines: Vec<&str> = text.lines().collect();
            assert!(!ran && lines[0] == HELLO && lines[lines.len() - 1].starts_with("cannot "), "{text}");
        }
    }
}
