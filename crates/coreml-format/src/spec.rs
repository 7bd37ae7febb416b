//! The protobuf specification (`model.mlmodel`): bytes to [`Specification`].
//!
//! `proto` declares the messages, `program` and `describe` convert them, `encode` goes back. Field numbers are those
//! of coremltools' `Model.proto`, `FeatureTypes.proto` and `MIL.proto`.

use prost::Message;
pub use prost::bytes::Bytes;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use crate::description::ModelDescription;
use crate::model_types::{self, Body, ModelType, Pipeline, Specification};

mod describe;
mod encode;
mod program;
pub(crate) mod proto;

/// Why a specification can't be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// The bytes are not a protobuf message of the expected form.
    #[error("not a Core ML specification: {0}")]
    Decode(String),
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

/// Most pipelines inside of each other.
const DEPTH: usize = 8;

/// Reads a specification of any type; what it holds is decoded, not interpreted.
///
/// # Errors
/// [`SpecError`] when the bytes are not one, hold no model or contradict themselves.
pub fn decode(bytes: &Bytes) -> Result<Specification, SpecError> {
    decode_at(bytes, 0)
}

/// A model that is so deep inside of pipelines.
fn decode_at(bytes: &Bytes, depth: usize) -> Result<Specification, SpecError> {
    let model = proto::Model::decode(bytes.clone()).map_err(|e| SpecError::Decode(e.to_string()))?;
    let description = describe::description(model.specification_version, model.description.unwrap_or_default())?;
    let pipelines = [
        ("pipelineClassifier", model.pipeline_classifier.map(|p| p.pipeline.unwrap_or_default())),
        ("pipelineRegressor", model.pipeline_regressor.map(|p| p.pipeline.unwrap_or_default())),
        ("pipeline", model.pipeline),
    ];
    let body = if let Some((name, pipeline)) = pipelines.into_iter().find_map(|(name, p)| Some((name, p?))) {
        if depth == DEPTH {
            return Err(SpecError::invalid("the pipeline", format!("at most {DEPTH} inside of each other"), "more"));
        }
        let parts = pipeline.models.iter().map(|part| decode_at(part, depth + 1)).collect::<Result<_, _>>()?;
        Body::Pipeline(Pipeline { name, parts })
    } else if let Some(program) = model.ml_program {
        let mut program = program::program(program)?;
        // A model without named functions calls its only one `main`.
        let alone = program.functions.len() == 1 && !program.functions.contains_key(&description.default_function);
        if alone {
            let only = program.functions.pop().map(|(_, f)| (description.default_function.clone(), f));
            program.functions.extend(only);
        }
        Body::Program(program)
    } else {
        Body::Other(*other(bytes).ok_or_else(|| SpecError::invalid("the specification", "a model", "none"))?)
    };
    Ok(Specification { description, body })
}

/// The first model type among the top-level fields of a message.
fn other(bytes: &Bytes) -> Option<&'static ModelType> {
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let (tag, wire) = decode_key(&mut rest).ok()?;
        if let Some(found) = model_types::of_field(tag) {
            return Some(found);
        }
        skip_field(wire, tag, &mut rest, DecodeContext::default()).ok()?;
    }
    None
}

pub use encode::encode;

/// Reads a bare `ModelDescription` message, as `coremldata.bin` of a compiled model holds it.
///
/// # Errors
/// [`SpecError`] as [`decode`].
pub(crate) fn decode_description(specification_version: i32, bytes: &[u8]) -> Result<ModelDescription, SpecError> {
    let message = proto::ModelDescription::decode(bytes).map_err(|e| SpecError::Decode(e.to_string()))?;
    describe::description(specification_version, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipeline of these specifications.
    fn pipeline(models: Vec<Bytes>) -> Bytes {
        proto::Model { pipeline: Some(proto::Pipeline { models }), ..Default::default() }.encode_to_vec().into()
    }

    /// An empty model of the type in this field.
    fn empty(field: u32) -> Bytes {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut bytes);
        bytes.push(0);
        bytes.into()
    }

    #[test]
    fn models_of_every_type_are_decoded() {
        for row in model_types::MODEL_TYPES {
            match decode(&empty(row.field)) {
                Ok(model) => assert_eq!(model.body.name(), row.name),
                // A program has a function at least.
                Err(e) => assert_eq!((row.name, e.to_string().contains("at least one function")), ("mlProgram", true)),
            }
        }
        assert!(decode(&Bytes::new()).expect_err("nothing").to_string().contains("expected a model, found none"));
    }

    #[test]
    fn pipelines_keep_their_parts() {
        let inner = pipeline(vec![empty(604), empty(302)]);
        let Body::Pipeline(whole) = decode(&pipeline(vec![inner, empty(900)])).expect("a pipeline").body else {
            panic!("no pipeline")
        };
        let Body::Pipeline(inner) = &whole.parts[0].body else { panic!("no pipeline") };
        let names = |p: &Pipeline| p.parts.iter().map(|part| part.body.name()).collect::<Vec<_>>();
        assert_eq!(names(&whole), ["pipeline", "identity"]);
        assert_eq!(names(inner), ["scaler", "treeEnsembleRegressor"]);
        assert!(decode(&pipeline(vec![Bytes::new()])).is_err(), "a part without a model");
        let deep = |n: usize| (0..n).fold(empty(604), |part, _| pipeline(vec![part]));
        assert!(decode(&deep(8)).is_ok());
        assert!(decode(&deep(9)).expect_err("nested pipelines").to_string().contains("at most 8"));
    }
}
