//! The types of model that a specification can hold.
//!
//! Each is a field of the `oneof` of coremltools' `Model.proto`. What a body holds is decoded and not interpreted:
//! `coreml-lower` makes programs of it.

use crate::description::ModelDescription;
use crate::program::Program;

/// What a specification holds: a model of any type, or a part of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Specification {
    /// What it expects and returns.
    pub description: ModelDescription,
    /// The model itself.
    pub body: Body,
}

/// The content of a model, by its type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Body {
    /// An ML Program (`mlProgram`).
    Program(Program),
    /// Models that run one after the other.
    Pipeline(Pipeline),
    /// A type that is known by name alone.
    Other(ModelType),
}

impl Body {
    /// Name of the type, such as `mlProgram`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Program(_) => "mlProgram",
            Self::Pipeline(pipeline) => pipeline.name,
            Self::Other(other) => other.name,
        }
    }

    /// The program, if that is what it is.
    pub fn program(&self) -> Option<&Program> {
        match self {
            Self::Program(program) => Some(program),
            _ => None,
        }
    }
}

/// Models that run one after the other. A part takes its inputs by name from those of the pipeline or from what earlier
/// parts returned.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// `pipeline`, `pipelineClassifier` or `pipelineRegressor`.
    pub name: &'static str,
    /// The parts, in order.
    pub parts: Vec<Specification>,
}

/// A row of [`MODEL_TYPES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelType {
    /// Field of the `Model` message.
    pub field: u32,
    /// Name of the type.
    pub name: &'static str,
}

const fn row(field: u32, name: &'static str) -> ModelType {
    ModelType { field, name }
}

/// All types, in the order of their fields.
pub const MODEL_TYPES: &[ModelType] = &[
    row(200, "pipelineClassifier"),
    row(201, "pipelineRegressor"),
    row(202, "pipeline"),
    row(300, "glmRegressor"),
    row(301, "supportVectorRegressor"),
    row(302, "treeEnsembleRegressor"),
    row(303, "neuralNetworkRegressor"),
    row(304, "bayesianProbitRegressor"),
    row(400, "glmClassifier"),
    row(401, "supportVectorClassifier"),
    row(402, "treeEnsembleClassifier"),
    row(403, "neuralNetworkClassifier"),
    row(404, "kNearestNeighborsClassifier"),
    row(500, "neuralNetwork"),
    row(501, "itemSimilarityRecommender"),
    row(502, "mlProgram"),
    row(555, "customModel"),
    row(556, "linkedModel"),
    row(560, "classConfidenceThresholding"),
    row(600, "oneHotEncoder"),
    row(601, "imputer"),
    row(602, "featureVectorizer"),
    row(603, "dictVectorizer"),
    row(604, "scaler"),
    row(606, "categoricalMapping"),
    row(607, "normalizer"),
    row(609, "arrayFeatureExtractor"),
    row(610, "nonMaximumSuppression"),
    row(900, "identity"),
    row(2000, "textClassifier"),
    row(2001, "wordTagger"),
    row(2002, "visionFeaturePrint"),
    row(2003, "soundAnalysisPreprocessing"),
    row(2004, "gazetteer"),
    row(2005, "wordEmbedding"),
    row(2006, "audioFeaturePrint"),
    row(3000, "serializedModel"),
];

/// The type that this field of the `Model` message holds.
pub fn of_field(field: u32) -> Option<&'static ModelType> {
    MODEL_TYPES.iter().find(|t| t.field == field)
}
