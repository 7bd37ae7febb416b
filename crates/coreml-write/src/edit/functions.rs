//! Functions and parts of pipelines: taken apart and put together.

use std::path::{Path, PathBuf};

use coreml_format::description::{FeatureDescription, FunctionDescription, ModelDescription};
use coreml_format::model::Model;
use coreml_format::program::Program;
use coreml_format::spec;

use super::error::{EditError, Result};
use super::model::{save, specification};
use super::raw;
use super::repack::Repack;
use super::weights::program;

/// Specification version with several functions (iOS 18).
const FUNCTIONS: i32 = 9;

/// Writes every function of an ML Program, or every part of a pipeline, as a model of its own into a folder, named
/// `stem_function` or `stem_number_type`. Returns the paths.
///
/// # Errors
/// [`EditError::Invalid`] if the model is neither, or has one function only.
pub fn split(model: &Model, folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    if let Some(pipeline) = model.body.pipeline() {
        let parts = pipeline.models.iter().zip(&model.parts).enumerate();
        return parts
            .map(|(i, (bytes, part))| {
                let name = format!("{stem}_{}_{}", i + 1, part.body.name());
                match part.body.program() {
                    Some(program) => {
                        let to = folder.join(format!("{name}.mlpackage"));
                        let mut program = program.clone();
                        let mut repack = Repack::create(&to)?;
                        repack.adopt(&mut program, &model.weights)?;
                        repack.finish(&part.description, &program)?;
                        Ok(to)
                    }
                    None => {
                        let to = folder.join(format!("{name}.mlmodel"));
                        save(&to, bytes)?;
                        Ok(to)
                    }
                }
            })
            .collect();
    }
    let source = program(model)?;
    if source.functions.len() < 2 {
        return Err(EditError::invalid(&model.path, "the model", "several functions, or a pipeline", "one function"));
    }
    source
        .functions
        .iter()
        .map(|(name, function)| {
            let to = folder.join(format!("{stem}_{name}.mlpackage"));
            let mut program = Program { attributes: source.attributes.clone(), ..Default::default() };
            program.functions.insert("main".to_owned(), function.clone());
            let described = model.description.functions.get(name).cloned().unwrap_or_default();
            let description = ModelDescription {
                functions: [("main".to_owned(), described)].into_iter().collect(),
                default_function: "main".to_owned(),
                ..model.description.clone()
            };
            let mut repack = Repack::create(&to)?;
            repack.adopt(&mut program, &model.weights)?;
            repack.finish(&description, &program)?;
            Ok(to)
        })
        .collect()
}

/// A function of a model, and its name in the merged one.
#[derive(Debug)]
pub struct Source<'m> {
    /// Name in the merged model.
    pub name: String,
    /// The model.
    pub model: &'m Model,
    /// Its function; the default one if omitted.
    pub function: Option<String>,
}

/// Writes functions of several models as one ML Program; equal weights are stored once. Metadata are those of the first
/// model. Returns the bytes of weights before and after.
///
/// # Errors
/// [`EditError::Invalid`] for names that occur twice, unknown functions, and models that are no ML Programs.
pub fn merge(sources: &[Source<'_>], default: &str, to: &Path) -> Result<(u64, u64)> {
    let first = sources.first().ok_or_else(|| EditError::invalid(to, "the functions", "at least one", "none"))?;
    let mut merged = Program::default();
    let mut description = ModelDescription {
        specification_version: FUNCTIONS,
        functions: Default::default(),
        default_function: default.to_owned(),
        metadata: first.model.description.metadata.clone(),
    };
    let mut repack = Repack::create(to)?;
    for source in sources {
        let model = source.model;
        let name = source.function.as_deref().unwrap_or(&model.description.default_function);
        let found = program(model)?.functions.get(name);
        let function = found.ok_or_else(|| {
            let known: Vec<&str> = model.description.functions.keys().map(String::as_str).collect();
            EditError::invalid(
                &model.path,
                "its functions",
                format!("one of {}", known.join(", ")),
                format!("`{name}`"),
            )
        })?;
        let mut alone = Program::default();
        alone.functions.insert(source.name.clone(), function.clone());
        repack.adopt(&mut alone, &model.weights)?;
        description.specification_version =
            description.specification_version.max(model.description.specification_version);
        let described = model.description.functions.get(name).cloned().unwrap_or_default();
        if description.functions.insert(source.name.clone(), described).is_some() {
            return Err(EditError::invalid(to, "the functions", "each name once", format!("`{}` twice", source.name)));
        }
        merged.functions.extend(alone.functions);
    }
    if !merged.functions.contains_key(default) {
        return Err(EditError::invalid(to, "the default function", "the name of a function", format!("`{default}`")));
    }
    let bytes = repack.bytes();
    repack.finish(&description, &merged)?;
    Ok(bytes)
}

/// Writes models as a pipeline: outputs of a model are inputs of later ones by name. Inputs of the pipeline are those
/// that no earlier model makes; outputs those that no later one takes.
///
/// # Errors
/// [`EditError::Invalid`] if an output has the type of another feature than the input of its name, or there are fewer
/// than two models.
pub fn pipeline(models: &[&Model], to: &Path) -> Result<()> {
    if models.len() < 2 {
        return Err(EditError::invalid(to, "the pipeline", "at least two models", models.len().to_string()));
    }
    let mut description = FunctionDescription::default();
    let mut made: Vec<(&FeatureDescription, bool)> = Vec::new();
    let mut version = 1;
    for model in models {
        version = version.max(model.description.specification_version);
        let function = model.description.function(None);
        let function =
            function.ok_or_else(|| EditError::invalid(&model.path, "the model", "a default function", "none"))?;
        if !function.states.is_empty() {
            return Err(EditError::invalid(
                &model.path,
                "the model",
                "no states in a pipeline",
                function.states[0].name.clone(),
            ));
        }
        for input in &function.inputs {
            match made.iter_mut().rev().find(|(m, _)| m.name == input.name) {
                Some((_, taken)) => *taken = true,
                None if description.input(&input.name).is_none() => description.inputs.push(input.clone()),
                None => {}
            }
        }
        made.extend(function.outputs.iter().map(|o| (o, false)));
        description.predicted_feature.clone_from(&function.predicted_feature);
        description.predicted_probabilities.clone_from(&function.predicted_probabilities);
    }
    for (output, _) in made.into_iter().filter(|(_, taken)| !taken) {
        if description.output(&output.name).is_some() {
            return Err(EditError::invalid(to, "the outputs", "each name once", format!("`{}` twice", output.name)));
        }
        description.outputs.push(output.clone());
    }
    let whole = ModelDescription {
        specification_version: version,
        functions: [("main".to_owned(), description)].into_iter().collect(),
        default_function: "main".to_owned(),
        metadata: models[0].description.metadata.clone(),
    };
    let encoded = raw::description(&spec::encode(&whole, &Program::default())).unwrap_or_default();
    let mut repack = Repack::create(to)?;
    let mut parts = Vec::new();
    let mut names = Vec::new();
    for (i, model) in models.iter().enumerate() {
        parts.push(match model.body.program() {
            Some(program) => {
                let mut program = program.clone();
                repack.adopt(&mut program, &model.weights)?;
                spec::encode(&model.description, &program)
            }
            None => specification(&model.path)?,
        });
        let stem = model.path.file_stem().and_then(|s| s.to_str());
        names.push(stem.map_or_else(|| format!("model{i}"), str::to_owned));
    }
    repack.finish_encoded(&raw::pipeline(version, &encoded, &parts, &names))
}
