//! Checks `docs/model-types.md` against the table of model types; `UPDATE_DOCS=1` regenerates it.

use std::fmt::Write;
use std::path::Path;

use coreml_format::model_types::{Bytes, TYPES, decode};
use coreml_lower::model_types::ROWS;
use coreml_lower::refusals;

const CLASSIC: &str = "`conformance/classic` (scikit-learn, NumPy), public models";
const VALUES: &str = "`conformance/values` (scikit-learn, NumPy)";
const NETWORKS: &str = "`conformance/neural_networks` (PyTorch, NumPy), public models";
const PROGRAMS: &str = "`conformance/operations` (PyTorch, NumPy), `conformance/models` (transformers)";
const PARTS: &str = "`conformance/pipelines` (NumPy), public models";
const CUSTOM: &str = "`conformance/custom` (NumPy)";
const REFUSED: &str = "the message, `coreml-lower/src/model_types.rs`";

/// Each type with the least specification version that has it (coremltools' `Model.proto`), and its tests.
const FACTS: &[(&str, u32, &str)] = &[
    ("pipelineClassifier", 1, PARTS),
    ("pipelineRegressor", 1, PARTS),
    ("pipeline", 3, PARTS),
    ("glmRegressor", 1, CLASSIC),
    ("supportVectorRegressor", 1, CLASSIC),
    ("treeEnsembleRegressor", 1, CLASSIC),
    ("neuralNetworkRegressor", 1, NETWORKS),
    ("bayesianProbitRegressor", 1, VALUES),
    ("glmClassifier", 1, CLASSIC),
    ("supportVectorClassifier", 1, CLASSIC),
    ("treeEnsembleClassifier", 1, CLASSIC),
    ("neuralNetworkClassifier", 1, NETWORKS),
    ("kNearestNeighborsClassifier", 4, VALUES),
    ("neuralNetwork", 1, NETWORKS),
    ("itemSimilarityRecommender", 4, VALUES),
    ("mlProgram", 6, PROGRAMS),
    ("customModel", 3, CUSTOM),
    ("linkedModel", 4, VALUES),
    ("classConfidenceThresholding", 8, VALUES),
    ("oneHotEncoder", 1, CLASSIC),
    ("imputer", 1, CLASSIC),
    ("featureVectorizer", 1, CLASSIC),
    ("dictVectorizer", 1, CLASSIC),
    ("scaler", 1, CLASSIC),
    ("categoricalMapping", 1, CLASSIC),
    ("normalizer", 1, CLASSIC),
    ("arrayFeatureExtractor", 1, CLASSIC),
    ("nonMaximumSuppression", 3, VALUES),
    ("identity", 1, VALUES),
    ("textClassifier", 3, REFUSED),
    ("wordTagger", 3, REFUSED),
    ("visionFeaturePrint", 3, REFUSED),
    ("soundAnalysisPreprocessing", 4, REFUSED),
    ("gazetteer", 4, REFUSED),
    ("wordEmbedding", 4, REFUSED),
    ("audioFeaturePrint", 6, REFUSED),
    ("serializedModel", 1, REFUSED),
];

/// The first system of a specification version.
const fn system(version: u32) -> &'static str {
    match version {
        1 => "iOS 11",
        3 => "iOS 12",
        4 => "iOS 13",
        6 => "iOS 15",
        8 => "iOS 17",
        _ => "?",
    }
}

/// What a model of a type that runs may ask for and is refused, by name, when it is loaded.
const LIMITS: &[(&str, &str)] = &[
    (
        "bayesianProbitRegressor",
        "outputs other than mean and variance: the format does not say how optimism and sampling enter them",
    ),
    ("featureVectorizer", "dictionaries among the inputs: the format does not say their order"),
    ("glmClassifier", "probit with more than two classes"),
    ("supportVectorClassifier", "probabilities without the coefficients of their sigmoids (`probA`, `probB`)"),
    ("kNearestNeighborsClassifier", "an index or a weighting that is not set"),
    ("treeEnsemble…", "circles, missing children, several roots of a tree, leaves beyond the dimensions"),
    ("nonMaximumSuppression", "several enumerated numbers of boxes"),
    ("identity and the other classic types", "images"),
    ("linkedModel", "search paths in bundles of applications"),
    ("pipeline…", "an input of a part that no feature of this name gives; parts nested more than eight deep"),
    ("neuralNetwork…", "see [neural-networks.md](neural-networks.md)"),
];

fn table() -> String {
    let mut text = String::from(
        "# Model types\n\nEvery type of model that the format defines opens, and `inspect` shows what is in the file. This table \
         says which of them the portable engine runs; the native engine runs what Core ML runs. Models of the other types \
         are refused with the reason and what to do.\n\nGenerated from `crates/coreml-lower/src/model_types.rs` \
         (`UPDATE_DOCS=1 cargo test --release -p coreml-lower --test model_types`). *Field* is the number in the `Model` \
         message, *since* the least specification version. Layers of networks: [neural-networks.md](neural-networks.md); \
         operations of ML Programs: [operations.md](operations.md).\n\nOf compiled models (`.mlmodelc`), ML Programs run. Of \
         other types only the description can be read, since their compiled form is not public.\n\n| field | type | runs | since | tests |\n|---|---|---|---|---|\n",
    );
    for (row, ty) in ROWS.iter().zip(TYPES) {
        let (_, since, tests) = FACTS.iter().find(|(name, ..)| *name == row.model_type).expect("facts of the type");
        // An empty program does not decode.
        let body = decode(ty.field, Bytes::new()).ok();
        let refused = body.is_some_and(|body| refusals::reason(&body).is_some());
        let runs = match row.model_type {
            "linkedModel" => "yes, what it links to; not in bundles of applications",
            "bayesianProbitRegressor" => "yes: mean and variance",
            "customModel" => "with a class in Rust (`CoreMLModelBuilder::custom_model`); its code is not in the file",
            _ if row.lower.is_some() => "yes",
            "serializedModel" => "no: its content is of an unknown type",
            "textClassifier" | "wordTagger" | "gazetteer" | "wordEmbedding" => "no: a private form of Apple's",
            _ => "no: computed by Apple's systems, not in the file",
        };
        assert_eq!(
            runs.starts_with("no"),
            refused && !["linkedModel", "customModel"].contains(&row.model_type),
            "{}",
            row.model_type
        );
        let _ = writeln!(text, "| {} | {} | {runs} | {since} ({}) | {tests} |", ty.field, ty.name, system(*since));
    }
    text += "\n## Limits\n\nFields of types that run, with values that are refused:\n\n| type | refused |\n|---|---|\n";
    for (model_type, refused) in LIMITS {
        let _ = writeln!(text, "| {model_type} | {refused} |");
    }
    text
}

#[test]
fn the_documentation_is_that_of_the_table() {
    assert_eq!(FACTS.len(), ROWS.len());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/model-types.md");
    let made = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, made, "run this test with UPDATE_DOCS=1");
}
