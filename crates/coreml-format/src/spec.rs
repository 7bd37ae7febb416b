//! The protobuf specification (`model.mlmodel`): bytes to [`Program`] and [`ModelDescription`].
//!
//! `proto` declares the messages, `program` and `describe` convert them, `encode` goes back. Field numbers are those
//! of coremltools' `Model.proto`, `FeatureTypes.proto` and `MIL.proto`.

use prost::Message;

use crate::description::ModelDescription;
use crate::model_types;
use crate::program::Program;

mod describe;
mod encode;
mod pipeline;
mod program;
pub(crate) mod proto;

/// Why a specification can't be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The bytes are not a protobuf message of the expected form.
    #[error("not a Core ML specification: {0}")]
    Decode(String),
    /// A model type other than ML Program, alone or as a part of a pipeline.
    #[error("the model is a {0}; only ML Programs (mlProgram) and pipelines of them can be read")]
    ModelType(String),
    /// The message lacks something, or contradicts itself.
    #[error("{place}: expected {expected}, found {found}")]
    Invalid {
        /// Where in the specification.
        place: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl SpecError {
    pub(crate) fn invalid(
        place: impl Into<String>,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Invalid { place: place.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// The model types among the top-level fields of a message that has no `mlProgram`.
fn other_model_type(mut bytes: &[u8]) -> String {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    while !bytes.is_empty() {
        let Ok((tag, wire)) = decode_key(&mut bytes) else { break };
        if let Some(row) = model_types::find(tag) {
            return row.name.to_owned();
        }
        if skip_field(wire, tag, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
    }
    "specification without a model".to_owned()
}

/// Most pipelines inside of each other.
const DEPTH: usize = 8;

/// Reads a specification; a pipeline of ML Programs becomes one program.
///
/// # Errors
/// [`SpecError`] when the bytes are not one, hold another type of model or contradict themselves.
pub fn decode(bytes: &[u8]) -> Result<(ModelDescription, Program), SpecError> {
    decode_at(bytes, 0)
}

/// A model that is so deep inside of pipelines.
fn decode_at(bytes: &[u8], depth: usize) -> Result<(ModelDescription, Program), SpecError> {
    let model = proto::Model::decode(bytes).map_err(|e| SpecError::Decode(e.to_string()))?;
    let pipeline = [model.pipeline_classifier, model.pipeline_regressor].into_iter().flatten();
    let pipeline = pipeline.filter_map(|p| p.pipeline).next().or(model.pipeline);
    let description = |message: Option<proto::ModelDescription>| {
        describe::description(model.specification_version, message.unwrap_or_default())
    };
    if let Some(pipeline) = pipeline {
        if depth == DEPTH {
            return Err(SpecError::invalid("the pipeline", format!("at most {DEPTH} inside of each other"), "more"));
        }
        let parts = pipeline.models.iter().map(|part| decode_at(part, depth + 1)).collect::<Result<_, _>>()?;
        let description = description(model.description)?;
        let program = pipeline::join(&description, parts)?;
        return Ok((description, program));
    }
    let Some(program) = model.ml_program else {
        return Err(SpecError::ModelType(other_model_type(bytes)));
    };
    let description = description(model.description)?;
    let mut program = program::program(program)?;
    // A model without named functions calls its only one `main`.
    let alone = program.functions.len() == 1 && !program.functions.contains_key(&description.default_function);
    if alone {
        let only = program.functions.pop().map(|(_, f)| (description.default_function.clone(), f));
        program.functions.extend(only);
    }
    Ok((description, program))
}

pub use encode::encode;

/// Decodes the message of an ML Program.
pub(crate) fn decode_program(bytes: prost::bytes::Bytes) -> Result<Program, SpecError> {
    program::program(proto::Program::decode(bytes).map_err(|e| SpecError::Decode(e.to_string()))?)
}

/// Reads a bare `ModelDescription` message, as `coremldata.bin` of a compiled model holds it.
///
/// # Errors
/// [`SpecError`] as [`decode`].
pub(crate) fn decode_description(specification_version: i32, bytes: &[u8]) -> Result<ModelDescription, SpecError> {
    let message = proto::ModelDescription::decode(bytes).map_err(|e| SpecError::Decode(e.to_string()))?;
    describe::description(specification_version, message)
}
