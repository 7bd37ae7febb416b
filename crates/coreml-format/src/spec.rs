//! The protobuf specification (`model.mlmodel`): decodes bytes to a [`Specification`].
//!
//! `proto` declares the messages, `program` and `describe` convert them, `encode` is the inverse. Field numbers are
//! those of coremltools' `Model.proto`, `FeatureTypes.proto` and `MIL.proto`.

use prost::Message;

use crate::description::ModelDescription;
use crate::model_types::{self, Body, Bytes};
use crate::program::Program;

mod describe;
mod encode;
mod program;
pub(crate) mod proto;

/// Reason why a specification is invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The bytes are not a protobuf message of the expected form.
    #[error("not a Core ML specification: {0}")]
    Decode(String),
    /// The message is incomplete or inconsistent.
    #[error("{place}: expected {expected}, found {found}")]
    Invalid {
        /// Location in the specification.
        place: String,
        /// Expected content.
        expected: String,
        /// Actual content.
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

/// Maximum nesting of pipelines.
const DEPTH: usize = 8;

/// A decoded specification: a model, or a part of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Specification {
    /// Inputs and outputs.
    pub description: ModelDescription,
    /// Content, depending on the model type.
    pub body: Body,
    /// Models of a pipeline, in order; empty for other types.
    pub parts: Vec<Specification>,
}

/// Decodes a specification of any model type, without interpreting it.
///
/// Weights of neural networks are ranges of `bytes`.
///
/// # Errors
/// [`SpecError`] if the bytes are not a specification, contain no model, or are inconsistent.
pub fn decode(bytes: &Bytes) -> Result<Specification, SpecError> {
    decode_at(bytes, 0)
}

/// Decodes a model nested `depth` pipelines deep.
fn decode_at(bytes: &Bytes, depth: usize) -> Result<Specification, SpecError> {
    let header = proto::Header::decode(bytes.clone()).map_err(|e| SpecError::Decode(e.to_string()))?;
    let description = describe::description(header.specification_version, header.description.unwrap_or_default())?;
    let model = model_types::locate(bytes)?;
    let (row, content) = model.ok_or_else(|| SpecError::invalid("the specification", "a model", "none"))?;
    let mut body = row.decode(content)?;
    if let Body::Program(program) = &mut body {
        // A model without named functions calls its only function `main`.
        let alone = program.functions.len() == 1 && !program.functions.contains_key(&description.default_function);
        if alone {
            let only = program.functions.pop().map(|(_, f)| (description.default_function.clone(), f));
            program.functions.extend(only);
        }
    }
    let models = body.pipeline().map_or(&[][..], |pipeline| &pipeline.models);
    if depth == DEPTH && !models.is_empty() {
        return Err(SpecError::invalid("the pipeline", format!("at most {DEPTH} inside of each other"), "more"));
    }
    let parts = models.iter().map(|part| decode_at(part, depth + 1)).collect::<Result<_, _>>()?;
    Ok(Specification { description, body, parts })
}

pub use encode::encode;

/// Decodes the message of an ML Program.
pub(crate) fn decode_program(bytes: Bytes) -> Result<Program, SpecError> {
    program::program(proto::Program::decode(bytes).map_err(|e| SpecError::Decode(e.to_string()))?)
}

/// Decodes a bare `ModelDescription` message, as stored in `coremldata.bin` of a compiled model.
///
/// # Errors
/// [`SpecError`] as for [`decode`].
pub(crate) fn decode_description(specification_version: i32, bytes: &[u8]) -> Result<ModelDescription, SpecError> {
    let message = proto::ModelDescription::decode(bytes).map_err(|e| SpecError::Decode(e.to_string()))?;
    describe::description(specification_version, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of the type in this field.
    fn model(field: u32, content: &[u8]) -> Bytes {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend_from_slice(content);
        bytes.into()
    }

    /// A pipeline of these models.
    fn pipeline(models: Vec<Bytes>) -> Bytes {
        let pipeline = model_types::pipeline::Pipeline { models, ..Default::default() };
        model(202, &pipeline.encode_to_vec())
    }

    #[test]
    fn models_of_every_type_are_decoded() {
        for row in model_types::TYPES {
            match decode(&model(row.field, &[])) {
                Ok(model) => assert_eq!(model.body.name(), row.name),
                // A program needs at least one function.
                Err(e) => assert_eq!((row.name, e.to_string().contains("at least one function")), ("mlProgram", true)),
            }
        }
        assert!(decode(&Bytes::new()).expect_err("nothing").to_string().contains("expected a model, found none"));
    }

    #[test]
    fn parts_of_pipelines_are_decoded() {
        let empty = |field| model(field, &[]);
        let whole = decode(&pipeline(vec![pipeline(vec![empty(604), empty(302)]), empty(900)])).expect("a pipeline");
        let names = |of: &Specification| of.parts.iter().map(|part| part.body.name()).collect::<Vec<_>>();
        assert_eq!(names(&whole), ["pipeline", "identity"]);
        assert_eq!(names(&whole.parts[0]), ["scaler", "treeEnsembleRegressor"]);
        assert!(decode(&pipeline(vec![Bytes::new()])).is_err(), "a part without a model");
        let deep = |n: usize| (0..n).fold(empty(604), |part, _| pipeline(vec![part]));
        assert!(decode(&deep(8)).is_ok());
        assert!(decode(&deep(9)).expect_err("nested pipelines").to_string().contains("at most 8"));
    }
}
