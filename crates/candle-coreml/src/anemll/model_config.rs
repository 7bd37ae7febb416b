//! A model's components, tensors and dimensions as a JSON file, generated from the packages.

use std::collections::BTreeMap;
use std::path::Path;

use coreml_format::description::{FeatureDescription, FeatureType};
use coreml_format::file;
use serde::{Deserialize, Serialize};

use super::{ModelNamingConfig, Pipeline, inputs};
use crate::engine::{EngineChoice, EngineOptions};
use crate::error::{Error, Result};
use crate::files;
use crate::model::CoreMLModel;

/// Description of a multi-component model. [`ModelConfig::discover`] builds it from the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Identifier or folder of the model.
    pub model_id: String,
    /// Dimensions shared by all components.
    pub shapes: ShapeConfig,
    /// `embeddings`, `ffn_infer_1`, `ffn_prefill_1`, …, `lm_head`; of a monolithic model `monolithic_infer_1`,
    /// `monolithic_prefill_1`; beside them `…_infer_rotate_1`; of a model in a layout of other exporters `language_model`.
    pub components: BTreeMap<String, ComponentConfig>,
    /// Names of the files.
    pub naming: ModelNamingConfig,
}

/// Dimensions of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeConfig {
    /// Tokens per prefill call; 1: sequential prefill.
    pub batch_size: usize,
    /// Context length in tokens.
    pub context_length: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Vocabulary size.
    pub vocab_size: usize,
}

/// One function of one package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentConfig {
    /// File name in the model's folder.
    pub file: String,
    /// Function of the package.
    pub function: String,
    /// Inputs by name.
    pub inputs: BTreeMap<String, TensorConfig>,
    /// Outputs by name.
    pub outputs: BTreeMap<String, TensorConfig>,
}

/// Description of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorConfig {
    /// Shape; the default shape if several are allowed.
    pub shape: Vec<usize>,
    /// Name of the dtype.
    pub data_type: String,
}

/// The component of a model in one file, in a layout of other exporters.
const SINGLE_FILE: &str = "language_model";

fn tensor(feature: &FeatureDescription, shape: Option<Vec<usize>>) -> TensorConfig {
    let data_type = match &feature.ty {
        FeatureType::MultiArray { dtype, .. } => dtype.to_string(),
        _ => "not a tensor".to_owned(),
    };
    TensorConfig { shape: shape.unwrap_or_default(), data_type }
}

fn component(model: &CoreMLModel) -> ComponentConfig {
    let described = model.function_description();
    let named = |features: &[FeatureDescription], shape: &dyn Fn(&str) -> Option<Vec<usize>>| {
        features.iter().map(|f| (f.name.clone(), tensor(f, shape(&f.name)))).collect()
    };
    ComponentConfig {
        file: file_name(model.path()),
        function: model.function().to_owned(),
        inputs: named(&described.inputs, &|n| inputs::declared_shape(model, n)),
        outputs: named(&described.outputs, &|n| inputs::output_shape(model, n)),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

impl ModelConfig {
    /// Reads the packages of a folder.
    ///
    /// # Errors
    /// Same as [`Pipeline::load`]: missing or inconsistent components.
    pub fn discover(folder: &Path) -> Result<Self> {
        // Only shapes and names are needed, and the portable engine compiles nothing.
        let options = EngineOptions::default().with_choice(EngineChoice::Portable);
        let pipeline = Pipeline::load_with(folder, &options)?;
        Self::of(&pipeline, &folder.display().to_string())
    }

    /// Describes a loaded model.
    ///
    /// # Errors
    /// [`Error::Components`] if the declared shapes are inconsistent.
    pub fn of(pipeline: &Pipeline, model_id: &str) -> Result<Self> {
        let sizes = pipeline.dimensions();
        let shapes = ShapeConfig {
            batch_size: sizes.batch,
            context_length: sizes.context,
            hidden_size: sizes.hidden,
            vocab_size: sizes.vocab,
        };
        let mut components = BTreeMap::new();
        let Some(pipeline) = pipeline.chunked() else {
            let mut file = String::new();
            for model in pipeline.components() {
                file = file_name(model.path());
                components.insert(SINGLE_FILE.to_owned(), component(model));
            }
            let naming = ModelNamingConfig {
                embeddings_pattern: file.clone(),
                ffn_infer_pattern: file.clone(),
                ffn_prefill_pattern: file.clone(),
                lm_head_pattern: file,
            };
            let config = Self { model_id: model_id.to_owned(), shapes, components, naming };
            config.validate()?;
            return Ok(config);
        };
        if let (Some(embeddings), Some(head)) = (&pipeline.embeddings, &pipeline.head_model) {
            components.insert("embeddings".to_owned(), component(embeddings));
            components.insert("lm_head".to_owned(), component(head));
        }
        let prefix = if pipeline.embeddings.is_some() { "ffn" } else { "monolithic" };
        for (i, chunk) in pipeline.chunks.iter().enumerate() {
            components.insert(format!("{prefix}_infer_{}", i + 1), component(&chunk.infer));
            components.insert(format!("{prefix}_prefill_{}", i + 1), component(&chunk.prefill));
            if let Some(rotate) = &chunk.rotate {
                components.insert(format!("{prefix}_infer_rotate_{}", i + 1), component(rotate));
            }
        }
        let chunk_pattern = |model: &CoreMLModel| {
            let name = file_name(model.path());
            let extension = model.path().extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
            match name.rfind("_chunk_") {
                Some(at) => format!("{}_chunk_*.{extension}", &name[..at]),
                None => name,
            }
        };
        let first = pipeline.chunks.first().ok_or_else(|| Error::Components {
            path: model_id.into(),
            message: "the model has no FFN chunk".to_owned(),
        })?;
        let config = Self {
            model_id: model_id.to_owned(),
            shapes,
            naming: ModelNamingConfig {
                embeddings_pattern: file_name(pipeline.embeddings.as_ref().unwrap_or(&first.infer).path()),
                ffn_infer_pattern: chunk_pattern(&first.infer),
                ffn_prefill_pattern: chunk_pattern(&first.prefill),
                lm_head_pattern: file_name(pipeline.head_model.as_ref().unwrap_or(&first.infer).path()),
            },
            components,
        };
        config.validate()?;
        Ok(config)
    }

    /// Reads and validates a JSON file.
    ///
    /// # Errors
    /// If the file can't be read, is malformed or is inconsistent.
    pub fn load(path: &Path) -> Result<Self> {
        let text = file::read_text(path, files::CONFIGURATION)?;
        let config: Self = serde_json::from_str(&text)
            .map_err(|e| Error::File { path: path.to_owned(), message: format!("not a model configuration: {e}") })?;
        config.validate()?;
        Ok(config)
    }

    /// Writes a JSON file; replaces an existing one atomically.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let text = serde_json::to_string_pretty(self).map_err(|e| io(e.into()))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let written = std::fs::write(&temporary, text + "\n").and_then(|()| std::fs::rename(&temporary, path));
        written.map_err(|e| {
            // The temporary file may not exist; report the first error.
            std::fs::remove_file(&temporary).ok();
            io(e)
        })
    }

    /// Checks the components against the dimensions.
    ///
    /// # Errors
    /// [`Error::Components`] naming the component, the tensor, its declared shape and the expected one.
    pub fn validate(&self) -> Result<()> {
        let ShapeConfig { batch_size, context_length, hidden_size, vocab_size } = self.shapes;
        let fail = |message: String| Err(Error::Components { path: self.model_id.clone().into(), message });
        let single_file = self.components.contains_key(SINGLE_FILE);
        let monolithic = single_file || self.components.keys().any(|name| name.starts_with("monolithic_"));
        if [batch_size, context_length, vocab_size].contains(&0)
            || (hidden_size == 0 && !monolithic)
            || batch_size > context_length
        {
            return fail(format!(
                "batch_size {batch_size}, context_length {context_length}, hidden_size {hidden_size}, vocab_size \
                 {vocab_size}: none may be 0, and the batch must fit the context"
            ));
        }
        let needed: &[&str] = if single_file {
            &[]
        } else if monolithic {
            &["monolithic_infer_1", "monolithic_prefill_1"]
        } else {
            &["embeddings", "ffn_infer_1", "ffn_prefill_1", "lm_head"]
        };
        for &needed in needed {
            if !self.components.contains_key(needed) {
                return fail(format!("the component `{needed}` is missing"));
            }
        }
        for (name, component) in &self.components {
            let expected =
                [("hidden_states", hidden_size, "hidden_size"), ("causal_mask", context_length, "context_length")];
            for (input, size, what) in expected {
                let found = component.inputs.get(input).and_then(|t| t.shape.last());
                if let Some(found) = found.filter(|&&n| n != size) {
                    return fail(format!("`{input}` of `{name}` ends in {found}, but {what} is {size}"));
                }
            }
            if let Some(tokens) = component.inputs.get("hidden_states").and_then(|t| t.shape.get(1)) {
                let size = if name.starts_with("ffn_prefill") { batch_size } else { 1 };
                if *tokens != size {
                    return fail(format!("`hidden_states` of `{name}` has {tokens} tokens, expected {size}"));
                }
            }
        }
        if monolithic {
            return Ok(());
        }
        let logits: usize = self
            .components
            .get("lm_head")
            .into_iter()
            .flat_map(|c| c.outputs.values())
            .filter_map(|t| t.shape.last())
            .sum();
        if logits != vocab_size {
            return fail(format!("the outputs of `lm_head` have {logits} columns, but vocab_size is {vocab_size}"));
        }
        Ok(())
    }
}
