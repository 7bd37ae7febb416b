//! Every model type of the specification, decoded but not interpreted.
//!
//! Each type has a row in [`TYPES`], a case of [`Body`] and a file in `model_types/`; types that share parameters share
//! a file. Field numbers are those of coremltools' `mlmodel/format`. `conformance/model_types.json` lists every message
//! and field of the format; a test checks that each is declared.
//!
//! Enumerations keep the number in the file; `TryFrom<i32>` converts it, so that an unknown value is never mistaken for
//! the default. Weights are ranges of the decoded buffer, not copies.
#![allow(missing_docs, reason = "fields without a comment mean what their name says")]

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

pub use prost::bytes::Bytes;

use crate::program::Program;
use crate::spec::{self, SpecError};
use data_structures::ClassLabels;

pub mod array_feature_extractor;
pub mod audio_feature_print;
pub mod bayesian_probit;
pub mod categorical_mapping;
pub mod class_confidence_thresholding;
pub mod custom;
pub mod data_structures;
pub mod dict_vectorizer;
pub mod feature_vectorizer;
pub mod gazetteer;
pub mod glm;
pub mod imputer;
pub mod item_similarity;
pub mod linked;
pub mod nearest_neighbors;
pub mod neural_network;
pub mod non_maximum_suppression;
pub mod normalizer;
pub mod one_hot_encoder;
pub mod pipeline;
pub mod scaler;
pub mod serialized;
pub mod sound_analysis;
pub mod svm;
pub mod text_classifier;
pub mod tree_ensemble;
pub mod vision_feature_print;
pub mod word_embedding;
pub mod word_tagger;

/// The type-specific part of a `Model` message.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Body {
    PipelineClassifier(pipeline::PipelineClassifier),
    PipelineRegressor(pipeline::PipelineRegressor),
    Pipeline(pipeline::Pipeline),
    GlmRegressor(glm::GlmRegressor),
    SupportVectorRegressor(Box<svm::SupportVectorRegressor>),
    TreeEnsembleRegressor(tree_ensemble::TreeEnsembleRegressor),
    NeuralNetworkRegressor(neural_network::NeuralNetworkRegressor),
    BayesianProbitRegressor(Box<bayesian_probit::BayesianProbitRegressor>),
    GlmClassifier(glm::GlmClassifier),
    SupportVectorClassifier(Box<svm::SupportVectorClassifier>),
    TreeEnsembleClassifier(tree_ensemble::TreeEnsembleClassifier),
    NeuralNetworkClassifier(neural_network::NeuralNetworkClassifier),
    KNearestNeighborsClassifier(Box<nearest_neighbors::KNearestNeighborsClassifier>),
    NeuralNetwork(neural_network::NeuralNetwork),
    ItemSimilarityRecommender(Box<item_similarity::ItemSimilarityRecommender>),
    /// An ML Program as IR.
    Program(Program),
    CustomModel(custom::CustomModel),
    LinkedModel(linked::LinkedModel),
    ClassConfidenceThresholding(class_confidence_thresholding::ClassConfidenceThresholding),
    OneHotEncoder(one_hot_encoder::OneHotEncoder),
    Imputer(imputer::Imputer),
    FeatureVectorizer(feature_vectorizer::FeatureVectorizer),
    DictVectorizer(dict_vectorizer::DictVectorizer),
    Scaler(scaler::Scaler),
    CategoricalMapping(categorical_mapping::CategoricalMapping),
    Normalizer(normalizer::Normalizer),
    ArrayFeatureExtractor(array_feature_extractor::ArrayFeatureExtractor),
    NonMaximumSuppression(Box<non_maximum_suppression::NonMaximumSuppression>),
    /// Returns its inputs.
    Identity(data_structures::Empty),
    TextClassifier(text_classifier::TextClassifier),
    WordTagger(Box<word_tagger::WordTagger>),
    VisionFeaturePrint(vision_feature_print::VisionFeaturePrint),
    SoundAnalysisPreprocessing(sound_analysis::SoundAnalysisPreprocessing),
    Gazetteer(gazetteer::Gazetteer),
    WordEmbedding(word_embedding::WordEmbedding),
    AudioFeaturePrint(audio_feature_print::AudioFeaturePrint),
    SerializedModel(serialized::SerializedModel),
    /// The content of a compiled model in a form that is not public.
    Compiled(CompiledContent),
}

/// The content of a compiled model that only Core ML reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompiledContent {
    /// Name of the type, as in [`TYPES`]; `unknown` if the folder does not say it.
    pub model_type: &'static str,
    /// Its form, in words.
    pub form: &'static str,
}

/// A row of [`TYPES`].
#[derive(Debug, Clone, Copy)]
pub struct ModelType {
    /// Field number in the `Model` message.
    pub field: u32,
    /// Field name.
    pub name: &'static str,
    decode: fn(Bytes) -> Result<Body, SpecError>,
}

/// Every model type, by field.
#[rustfmt::skip]
pub const TYPES: &[ModelType] = &[
    ModelType { field: 200, name: "pipelineClassifier", decode: |b| Ok(Body::PipelineClassifier(message(b)?)) },
    ModelType { field: 201, name: "pipelineRegressor", decode: |b| Ok(Body::PipelineRegressor(message(b)?)) },
    ModelType { field: 202, name: "pipeline", decode: |b| Ok(Body::Pipeline(message(b)?)) },
    ModelType { field: 300, name: "glmRegressor", decode: |b| Ok(Body::GlmRegressor(message(b)?)) },
    ModelType { field: 301, name: "supportVectorRegressor", decode: |b| Ok(Body::SupportVectorRegressor(boxed(b)?)) },
    ModelType { field: 302, name: "treeEnsembleRegressor", decode: |b| Ok(Body::TreeEnsembleRegressor(message(b)?)) },
    ModelType { field: 303, name: "neuralNetworkRegressor", decode: |b| Ok(Body::NeuralNetworkRegressor(message(b)?)) },
    ModelType { field: 304, name: "bayesianProbitRegressor", decode: |b| Ok(Body::BayesianProbitRegressor(boxed(b)?)) },
    ModelType { field: 400, name: "glmClassifier", decode: |b| Ok(Body::GlmClassifier(message(b)?)) },
    ModelType { field: 401, name: "supportVectorClassifier", decode: |b| Ok(Body::SupportVectorClassifier(boxed(b)?)) },
    ModelType { field: 402, name: "treeEnsembleClassifier", decode: |b| Ok(Body::TreeEnsembleClassifier(message(b)?)) },
    ModelType { field: 403, name: "neuralNetworkClassifier", decode: |b| Ok(Body::NeuralNetworkClassifier(message(b)?)) },
    ModelType { field: 404, name: "kNearestNeighborsClassifier", decode: |b| Ok(Body::KNearestNeighborsClassifier(boxed(b)?)) },
    ModelType { field: 500, name: "neuralNetwork", decode: |b| Ok(Body::NeuralNetwork(message(b)?)) },
    ModelType { field: 501, name: "itemSimilarityRecommender", decode: |b| Ok(Body::ItemSimilarityRecommender(boxed(b)?)) },
    ModelType { field: 502, name: "mlProgram", decode: |b| Ok(Body::Program(spec::decode_program(b)?)) },
    ModelType { field: 555, name: "customModel", decode: |b| Ok(Body::CustomModel(message(b)?)) },
    ModelType { field: 556, name: "linkedModel", decode: |b| Ok(Body::LinkedModel(message(b)?)) },
    ModelType { field: 560, name: "classConfidenceThresholding", decode: |b| Ok(Body::ClassConfidenceThresholding(message(b)?)) },
    ModelType { field: 600, name: "oneHotEncoder", decode: |b| Ok(Body::OneHotEncoder(message(b)?)) },
    ModelType { field: 601, name: "imputer", decode: |b| Ok(Body::Imputer(message(b)?)) },
    ModelType { field: 602, name: "featureVectorizer", decode: |b| Ok(Body::FeatureVectorizer(message(b)?)) },
    ModelType { field: 603, name: "dictVectorizer", decode: |b| Ok(Body::DictVectorizer(message(b)?)) },
    ModelType { field: 604, name: "scaler", decode: |b| Ok(Body::Scaler(message(b)?)) },
    ModelType { field: 606, name: "categoricalMapping", decode: |b| Ok(Body::CategoricalMapping(message(b)?)) },
    ModelType { field: 607, name: "normalizer", decode: |b| Ok(Body::Normalizer(message(b)?)) },
    ModelType { field: 609, name: "arrayFeatureExtractor", decode: |b| Ok(Body::ArrayFeatureExtractor(message(b)?)) },
    ModelType { field: 610, name: "nonMaximumSuppression", decode: |b| Ok(Body::NonMaximumSuppression(boxed(b)?)) },
    ModelType { field: 900, name: "identity", decode: |b| Ok(Body::Identity(message(b)?)) },
    ModelType { field: 2000, name: "textClassifier", decode: |b| Ok(Body::TextClassifier(message(b)?)) },
    ModelType { field: 2001, name: "wordTagger", decode: |b| Ok(Body::WordTagger(boxed(b)?)) },
    ModelType { field: 2002, name: "visionFeaturePrint", decode: |b| Ok(Body::VisionFeaturePrint(message(b)?)) },
    ModelType { field: 2003, name: "soundAnalysisPreprocessing", decode: |b| Ok(Body::SoundAnalysisPreprocessing(message(b)?)) },
    ModelType { field: 2004, name: "gazetteer", decode: |b| Ok(Body::Gazetteer(message(b)?)) },
    ModelType { field: 2005, name: "wordEmbedding", decode: |b| Ok(Body::WordEmbedding(message(b)?)) },
    ModelType { field: 2006, name: "audioFeaturePrint", decode: |b| Ok(Body::AudioFeaturePrint(message(b)?)) },
    ModelType { field: 3000, name: "serializedModel", decode: |b| Ok(Body::SerializedModel(message(b)?)) },
];

fn message<M: Message + Default>(bytes: Bytes) -> Result<M, SpecError> {
    M::decode(bytes).map_err(undecodable)
}

fn boxed<M: Message + Default>(bytes: Bytes) -> Result<Box<M>, SpecError> {
    message(bytes).map(Box::new)
}

fn undecodable(error: prost::DecodeError) -> SpecError {
    SpecError::Decode(error.to_string())
}

/// Returns the model type with this field number in the `Model` message.
pub fn find(field: u32) -> Option<&'static ModelType> {
    TYPES.binary_search_by_key(&field, |row| row.field).ok().map(|at| &TYPES[at])
}

/// Decodes the message in this field of a `Model`; weights and nested models are ranges of `bytes`.
///
/// # Errors
/// [`SpecError`] if the field is not a model type, or the bytes are not its message.
pub fn decode(field: u32, bytes: Bytes) -> Result<Body, SpecError> {
    let row =
        find(field).ok_or_else(|| SpecError::invalid("the model", "a known model type", format!("field {field}")))?;
    (row.decode)(bytes)
}

/// Finds the model type of a serialized `Model` and the bytes of its message, without decoding it.
///
/// Follows protobuf: of several types the last one wins, and a message in several parts is their concatenation.
///
/// # Errors
/// [`SpecError::Decode`] if the bytes are not a protobuf message.
pub fn locate(model: &Bytes) -> Result<Option<(&'static ModelType, Bytes)>, SpecError> {
    let mut found: Option<(&ModelType, Vec<Bytes>)> = None;
    let mut rest = model.clone();
    while rest.has_remaining() {
        let (field, wire) = decode_key(&mut rest).map_err(undecodable)?;
        let Some(row) = find(field).filter(|_| wire == WireType::LengthDelimited) else {
            skip_field(wire, field, &mut rest, DecodeContext::default()).map_err(undecodable)?;
            continue;
        };
        let length = decode_varint(&mut rest).map_err(undecodable)?;
        let length = usize::try_from(length).ok().filter(|&n| n <= rest.len()).ok_or_else(|| {
            SpecError::Decode(format!("`{}` has {length} bytes, but {} are left", row.name, rest.len()))
        })?;
        let part = rest.split_to(length);
        match &mut found {
            Some((known, parts)) if known.field == field => parts.push(part),
            _ => found = Some((row, vec![part])),
        }
    }
    Ok(found.map(|(row, mut parts)| {
        let whole = if parts.len() == 1 { parts.remove(0) } else { parts.concat().into() };
        (row, whole)
    }))
}

impl ModelType {
    /// Decodes a message of this type; weights and nested models are ranges of `bytes`.
    ///
    /// # Errors
    /// [`SpecError::Decode`] if the bytes are not such a message.
    pub fn decode(&self, bytes: Bytes) -> Result<Body, SpecError> {
        (self.decode)(bytes)
    }
}

impl Body {
    /// Returns true for networks, their classifiers and regressors.
    pub fn is_network(&self) -> bool {
        matches!(self, Self::NeuralNetwork(_) | Self::NeuralNetworkClassifier(_) | Self::NeuralNetworkRegressor(_))
    }

    /// Returns the name of the type, as in [`TYPES`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::PipelineClassifier(_) => "pipelineClassifier",
            Self::PipelineRegressor(_) => "pipelineRegressor",
            Self::Pipeline(_) => "pipeline",
            Self::GlmRegressor(_) => "glmRegressor",
            Self::SupportVectorRegressor(_) => "supportVectorRegressor",
            Self::TreeEnsembleRegressor(_) => "treeEnsembleRegressor",
            Self::NeuralNetworkRegressor(_) => "neuralNetworkRegressor",
            Self::BayesianProbitRegressor(_) => "bayesianProbitRegressor",
            Self::GlmClassifier(_) => "glmClassifier",
            Self::SupportVectorClassifier(_) => "supportVectorClassifier",
            Self::TreeEnsembleClassifier(_) => "treeEnsembleClassifier",
            Self::NeuralNetworkClassifier(_) => "neuralNetworkClassifier",
            Self::KNearestNeighborsClassifier(_) => "kNearestNeighborsClassifier",
            Self::NeuralNetwork(_) => "neuralNetwork",
            Self::ItemSimilarityRecommender(_) => "itemSimilarityRecommender",
            Self::Program(_) => "mlProgram",
            Self::CustomModel(_) => "customModel",
            Self::LinkedModel(_) => "linkedModel",
            Self::ClassConfidenceThresholding(_) => "classConfidenceThresholding",
            Self::OneHotEncoder(_) => "oneHotEncoder",
            Self::Imputer(_) => "imputer",
            Self::FeatureVectorizer(_) => "featureVectorizer",
            Self::DictVectorizer(_) => "dictVectorizer",
            Self::Scaler(_) => "scaler",
            Self::CategoricalMapping(_) => "categoricalMapping",
            Self::Normalizer(_) => "normalizer",
            Self::ArrayFeatureExtractor(_) => "arrayFeatureExtractor",
            Self::NonMaximumSuppression(_) => "nonMaximumSuppression",
            Self::Identity(_) => "identity",
            Self::TextClassifier(_) => "textClassifier",
            Self::WordTagger(_) => "wordTagger",
            Self::VisionFeaturePrint(_) => "visionFeaturePrint",
            Self::SoundAnalysisPreprocessing(_) => "soundAnalysisPreprocessing",
            Self::Gazetteer(_) => "gazetteer",
            Self::WordEmbedding(_) => "wordEmbedding",
            Self::AudioFeaturePrint(_) => "audioFeaturePrint",
            Self::SerializedModel(_) => "serializedModel",
            Self::Compiled(content) => content.model_type,
        }
    }

    /// Returns the program, if this is an ML Program.
    pub fn program(&self) -> Option<&Program> {
        match self {
            Self::Program(program) => Some(program),
            _ => None,
        }
    }

    /// Returns the pipeline, if this is a pipeline of any type.
    pub fn pipeline(&self) -> Option<&pipeline::Pipeline> {
        match self {
            Self::PipelineClassifier(m) => m.pipeline.as_ref(),
            Self::PipelineRegressor(m) => m.pipeline.as_ref(),
            Self::Pipeline(m) => Some(m),
            _ => None,
        }
    }

    /// Returns the labels of a classifier, in the order of its scores.
    ///
    /// `None` for pipelines, whose last model has them, and for nearest neighbors, which label their samples.
    pub fn class_labels(&self) -> Option<ClassLabels> {
        let strings = |v: &Option<data_structures::StringVector>| v.clone().map(ClassLabels::Strings);
        match self {
            Self::GlmClassifier(m) => m.class_labels.clone(),
            Self::SupportVectorClassifier(m) => m.class_labels.clone(),
            Self::TreeEnsembleClassifier(m) => m.class_labels.clone(),
            Self::NeuralNetworkClassifier(m) => m.class_labels.clone(),
            Self::NonMaximumSuppression(m) => m.class_labels.clone(),
            Self::TextClassifier(m) => strings(&m.string_class_labels),
            Self::Gazetteer(m) => strings(&m.string_class_labels),
            Self::WordTagger(m) => strings(&m.string_tags),
            _ => None,
        }
    }
}
