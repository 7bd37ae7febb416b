//! Descriptions of models for the page.

use candle_coreml::description::FeatureDescription;
use candle_coreml::format::model::Model;
use candle_coreml::format::program::Program;
use candle_coreml::lower::lower;
use coreml_inspect::ane;
use coreml_inspect::picture::{self, Options};
use coreml_inspect::survey::{Labels, Survey, type_in_words};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::files::Found;

fn feature(feature: &FeatureDescription) -> Value {
    json!({
        "name": feature.name,
        "description": feature.description,
        "optional": feature.optional,
        "type": type_in_words(&feature.ty),
        "details": feature.ty,
    })
}

impl Found {
    /// The model and its program, with linked models in place.
    fn program(&self, path: &str) -> Result<(Model, Program), Failure> {
        let model = self.model(path)?.follow_links()?;
        let program = lower(&model)?.into_owned();
        Ok((model, program))
    }

    /// The description of a model: metadata, functions with their features, operations, weights; `cannot_run` says why
    /// it can't be run.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn described(&self, path: &str) -> Result<Value, Failure> {
        let opened = self.model(path)?;
        // What can't be run is described all the same.
        let (model, refusal) = match opened.clone().follow_links() {
            Ok(model) => (model, None),
            Err(e) => (opened, Some(Failure::of(&e).to_string())),
        };
        let (program, refusal) = match lower(&model) {
            Ok(program) => (Some(program), None),
            Err(e) => (None, refusal.or_else(|| Some(Failure::of(&e).to_string()))),
        };
        let survey = program.as_ref().map(|p| Survey::of(&model, p)).transpose()?.unwrap_or_default();
        let description = &model.description;
        let functions: Vec<Value> = description
            .functions
            .iter()
            .map(|(name, function)| {
                let all = |features: &[FeatureDescription]| features.iter().map(feature).collect::<Vec<_>>();
                let opset = program.as_ref().and_then(|p| p.functions.get(name)).map(|f| f.opset.spec_name());
                json!({
                    "name": name,
                    "opset": opset,
                    "inputs": all(&function.inputs),
                    "outputs": all(&function.outputs),
                    "states": all(&function.states),
                })
            })
            .collect();
        Ok(json!({
            "type": model.body.name(),
            "stages": model.parts.iter().map(|part| part.body.name()).collect::<Vec<_>>(),
            "specification_version": description.specification_version,
            "default_function": description.default_function,
            "metadata": description.metadata,
            "cannot_run": refusal,
            "class_labels": Labels::of(&model).map(|labels| labels.texts()),
            "functions": functions,
            "operations": survey.operations,
            "weights": survey.weights,
        }))
    }

    /// The graph as `inspect --svg` draws it.
    ///
    /// # Errors
    /// If it can't be opened, is no program, or has no such function.
    pub fn drawn(&self, path: &str, function: Option<String>, unfold: bool) -> Result<String, Failure> {
        let (model, program) = self.program(path)?;
        let title = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(picture::draw(&program, &model.description, &Options { title, function, unfold })?)
    }

    /// The estimate as `inspect --ane --json` gives it, with a summary of the reasons.
    ///
    /// # Errors
    /// If it can't be opened or is no program.
    pub fn estimated(&self, path: &str) -> Result<Value, Failure> {
        let (model, program) = self.program(path)?;
        let functions: Vec<Value> = ane::estimate(&program, &model.description)
            .iter()
            .map(|function| {
                let summary = function.summary();
                let reasons = summary.iter().map(|(reason, kinds)| json!({ "reason": reason, "kinds": kinds }));
                json!({ "estimate": ane::Report::of(function), "reasons": reasons.collect::<Vec<_>>() })
            })
            .collect();
        Ok(json!({ "note": ane::DISCLAIMER, "functions": functions }))
    }
}
