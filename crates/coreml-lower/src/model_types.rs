//! The table of model types and their lowerings.

use std::borrow::Cow;

use coreml_format::description::ModelDescription;
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::program::Program;
use coreml_format::spec::Specification;

use crate::classic::{
    glm, imputer, neighbors, one_hot_encoder, probit, recommender, simple, suppression, svm, trees, vectors,
};
use crate::custom::{self, CustomClasses};
use crate::error::LowerError;
use crate::{neural_network, pipeline, refusals};

/// Input of a lowering: a model, or a part of a pipeline.
#[derive(Clone, Copy)]
pub struct Source<'m> {
    /// Inputs and outputs.
    pub description: &'m ModelDescription,
    /// Content, depending on the model type.
    pub body: &'m Body,
    /// Models of a pipeline.
    pub parts: &'m [Specification],
    /// Classes of the caller.
    pub classes: Option<&'m dyn CustomClasses>,
}

impl<'m> From<&'m Model> for Source<'m> {
    fn from(model: &'m Model) -> Self {
        Self { description: &model.description, body: &model.body, parts: &model.parts, classes: None }
    }
}

impl<'m> From<&'m Specification> for Source<'m> {
    fn from(part: &'m Specification) -> Self {
        Self { description: &part.description, body: &part.body, parts: &part.parts, classes: None }
    }
}

/// Lowers a model of one type. `place` names the model in errors: "the model", "part 1 of the pipeline".
pub type Lower = for<'m> fn(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError>;

/// A model type.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Name in the specification.
    pub model_type: &'static str,
    /// Its lowering; `None` if the type is not supported.
    pub lower: Option<Lower>,
}

const fn can(model_type: &'static str, lower: Lower) -> Row {
    Row { model_type, lower: Some(lower) }
}

const fn cannot(model_type: &'static str) -> Row {
    Row { model_type, lower: None }
}

/// All model types, in the order of the specification.
pub const ROWS: &[Row] = &[
    can("pipelineClassifier", pipeline::lower),
    can("pipelineRegressor", pipeline::lower),
    can("pipeline", pipeline::lower),
    can("glmRegressor", glm::lower),
    can("supportVectorRegressor", svm::lower),
    can("treeEnsembleRegressor", trees::lower),
    can("neuralNetworkRegressor", neural_network::lower),
    can("bayesianProbitRegressor", probit::lower),
    can("glmClassifier", glm::lower),
    can("supportVectorClassifier", svm::lower),
    can("treeEnsembleClassifier", trees::lower),
    can("neuralNetworkClassifier", neural_network::lower),
    can("kNearestNeighborsClassifier", neighbors::lower),
    can("neuralNetwork", neural_network::lower),
    can("itemSimilarityRecommender", recommender::lower),
    can("mlProgram", program),
    can("customModel", custom::lower),
    cannot("linkedModel"),
    can("classConfidenceThresholding", simple::lower),
    can("oneHotEncoder", one_hot_encoder::lower),
    can("imputer", imputer::lower),
    can("featureVectorizer", vectors::lower),
    can("dictVectorizer", one_hot_encoder::lower),
    can("scaler", vectors::lower),
    can("categoricalMapping", one_hot_encoder::lower),
    can("normalizer", vectors::lower),
    can("arrayFeatureExtractor", vectors::lower),
    can("nonMaximumSuppression", suppression::lower),
    can("identity", simple::lower),
    cannot("textClassifier"),
    cannot("wordTagger"),
    cannot("visionFeaturePrint"),
    cannot("soundAnalysisPreprocessing"),
    cannot("gazetteer"),
    cannot("wordEmbedding"),
    cannot("audioFeaturePrint"),
    cannot("serializedModel"),
];

/// Lowers a model or a part of a pipeline.
pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let model_type = source.body.name();
    let compiled = matches!(source.body, Body::Compiled(_));
    let lower = ROWS.iter().filter(|_| !compiled).find(|row| row.model_type == model_type).and_then(|row| row.lower);
    let lower = lower.ok_or_else(|| LowerError::Unsupported {
        place: place.to_owned(),
        model_type,
        reason: refusals::reason(source.body).unwrap_or_else(|| format!("models of type {} can", supported())),
    })?;
    lower(source, place)
}

/// An ML Program is lowered already.
fn program<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let body = source.body;
    body.program().map(Cow::Borrowed).ok_or_else(|| LowerError::invalid(place, "an ML Program", body.name()))
}

/// Names of supported types, for errors.
fn supported() -> String {
    let names: Vec<&str> = ROWS.iter().filter(|row| row.lower.is_some()).map(|row| row.model_type).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use coreml_format::model_types::{Bytes, TYPES, decode};

    use super::*;
    use crate::error::LowerErrorKind;

    #[test]
    fn rows_are_the_types_of_the_specification() {
        let rows: Vec<&str> = ROWS.iter().map(|row| row.model_type).collect();
        let types: Vec<&str> = TYPES.iter().map(|row| row.name).collect();
        assert_eq!(rows, types);
    }

    #[test]
    fn types_without_a_lowering_are_refused_by_name() {
        // Field numbers of the types, and what the message says of an empty one.
        for (field, name, part) in [
            (555, "customModel", "computed by the class ``"),
            (556, "linkedModel", "links to ``"),
            (2000, "textClassifier", "NaturalLanguage"),
            (2001, "wordTagger", "NaturalLanguage"),
            (2002, "visionFeaturePrint", "part of Apple's systems, not of the file"),
            (2003, "soundAnalysisPreprocessing", "SoundAnalysis"),
            (2004, "gazetteer", "NaturalLanguage"),
            (2005, "wordEmbedding", "NaturalLanguage"),
            (2006, "audioFeaturePrint", "part of Apple's systems, not of the file"),
            (3000, "serializedModel", "the format does not define"),
        ] {
            let body = decode(field, Bytes::new()).expect("an empty model");
            let source = Source { description: &ModelDescription::default(), body: &body, parts: &[], classes: None };
            let error = lower(source, "the model").expect_err("no lowering");
            assert_eq!(error.kind(), LowerErrorKind::Unsupported);
            let message = error.to_string();
            let begins = format!("the model is a {name}, which can't be run: ");
            assert!(message.starts_with(&begins) && message.contains(part), "{message}");
        }
        // Every other type has a lowering.
        assert_eq!(ROWS.iter().filter(|row| row.lower.is_none()).count(), 9);
    }
}
