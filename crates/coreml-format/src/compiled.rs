//! Compiled models (`.mlmodelc`): a folder with the program as text in `model.mil`. Of networks and classic models, whose
//! compiled form is not public, the description is read.
//!
//! The program alone is enough to run it. The description comes from `coremldata.bin` (a protobuf message behind a
//! header that Apple does not document), else from `metadata.json` (which some tools omit), else from the program's
//! types.

use std::path::Path;

use crate::description::{FunctionDescription, ModelDescription};
use crate::file;
use crate::mil_text;
use crate::model::{LoadError, Model};
use crate::model_types::{Body, CompiledContent};
use crate::program::{Opset, Program};
use crate::spec;
use crate::weights::Weights;

mod metadata;
mod types;

/// Offset of the description in the only known form of `coremldata.bin`: a `u64` length, then the message.
const DESCRIPTION_AT: usize = 0x4b;
/// Maximum size of `model.mil`: names, types and small constants; the others are in weight files.
const LARGEST_TEXT: u64 = 512 << 20;
/// Maximum size of a side file with a description: mostly labels and author metadata.
const LARGEST_DESCRIPTION: u64 = 64 << 20;

/// Opens a folder with a `model.mil`.
///
/// # Errors
/// [`LoadError`] if the text cannot be read, with line and column if it is not MIL text.
pub(crate) fn open(path: &Path) -> Result<Model, LoadError> {
    let file = path.join("model.mil");
    let text = String::from_utf8(file::read(&file, LARGEST_TEXT)?).map_err(|e| LoadError::NotAModel {
        path: file.clone(),
        expected: "UTF-8 text".to_owned(),
        found: e.utf8_error().to_string(),
    })?;
    let program = mil_text::parse(&text).map_err(|source| LoadError::Text { path: file, source })?;
    let description = description(path, &program);
    Ok(Model {
        path: path.to_owned(),
        description,
        body: Body::Program(program),
        parts: Vec::new(),
        weights: Weights::folder(path.to_owned()),
    })
}

/// Opens a compiled model of another type, of which the description can be read and the content can't: `None` if not even that.
///
/// Networks lie in `model.espresso.net`, `.shape` and `.weights`, other types in `coremldata.bin`; Apple documents neither.
pub(crate) fn open_description(path: &Path) -> Option<Model> {
    let metadata = file::read(&path.join("metadata.json"), LARGEST_DESCRIPTION).ok();
    let model_type = metadata.as_deref().and_then(metadata::model_type);
    let metadata = metadata.and_then(|bytes| metadata::read(&bytes));
    let mut description = binary_description(path).or(metadata.clone())?;
    if let Some(metadata) = metadata {
        description.specification_version = metadata.specification_version;
        description.metadata = metadata.metadata;
    }
    if !description.functions.contains_key(&description.default_function) {
        description.default_function = description.functions.keys().next()?.clone();
    }
    let espresso = file::exists(&path.join("model.espresso.net"));
    let form =
        if espresso { "Espresso, the network format of Apple's compiler" } else { "the format of Apple's compiler" };
    let model_type = model_type.unwrap_or(if espresso { "neuralNetwork" } else { "unknown" });
    Some(Model {
        path: path.to_owned(),
        description,
        body: Body::Compiled(CompiledContent { model_type, form }),
        parts: Vec::new(),
        weights: Weights::default(),
    })
}

/// The best description available; side files that cannot be parsed are ignored.
fn description(path: &Path, program: &Program) -> ModelDescription {
    let metadata = file::read(&path.join("metadata.json"), LARGEST_DESCRIPTION).ok().and_then(|b| metadata::read(&b));
    let mut description = binary_description(path).or(metadata.clone()).unwrap_or_default();
    if let Some(metadata) = metadata {
        description.specification_version = metadata.specification_version;
        description.metadata = metadata.metadata;
    }
    if description.specification_version == 0 {
        description.specification_version = version(program);
    }
    // A single function in both: match them even if the description does not name it.
    if let (1, 1) = (description.functions.len(), program.functions.len())
        && let (Some((_, only)), Some(name)) = (description.functions.pop(), program.functions.keys().next())
    {
        description.functions.insert(name.clone(), only);
    }
    description.functions.retain(|name, f| program.functions.get(name).is_some_and(|p| types::agree(p, f)));
    for (name, function) in &program.functions {
        let described = description.functions.entry(name.clone()).or_insert_with(|| types::describe(function));
        complete(described, function);
    }
    if !description.functions.contains_key(&description.default_function) {
        let main = program.functions.keys().find(|n| *n == "main").or(program.functions.keys().next());
        description.default_function = main.cloned().unwrap_or_default();
    }
    description
}

/// Adds what the metadata lacks: the outputs of a classifier.
fn complete(described: &mut FunctionDescription, function: &crate::program::Function) {
    if described.predicted_feature.is_some() {
        return;
    }
    let classify = function.block.operations.iter().find(|o| o.kind == "classify");
    if let Some([label, probabilities]) = classify.map(|o| o.outputs.as_slice()) {
        let returned = |name: &String| Some(name.clone()).filter(|n| function.block.outputs.contains(n));
        described.predicted_feature = returned(&label.name);
        described.predicted_probabilities = returned(&probabilities.name);
    }
}

/// Specification version of the newest opset.
fn version(program: &Program) -> i32 {
    program.functions.values().map(|f| f.opset).max().map_or(0, |opset| match opset {
        Opset::Ios15 => 6,
        Opset::Ios16 => 7,
        Opset::Ios17 => 8,
        Opset::Ios18 => 9,
        Opset::Ios26 => 10,
    })
}

fn binary_description(path: &Path) -> Option<ModelDescription> {
    let bytes = file::read(&path.join("coremldata.bin"), LARGEST_DESCRIPTION).ok()?;
    let length: [u8; 8] = bytes.get(DESCRIPTION_AT..DESCRIPTION_AT + 8)?.try_into().ok()?;
    let start = DESCRIPTION_AT + 8;
    let end = start.checked_add(usize::try_from(u64::from_le_bytes(length)).ok()?)?;
    spec::decode_description(0, bytes.get(start..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"[{"specificationVersion": 4, "shortDescription": "digits",
        "modelType": {"name": "MLModelType_neuralNetworkClassifier"}, "predictedFeatureName": "label",
        "inputSchema": [{"type": "Image", "colorspace": "Grayscale", "width": "28", "height": "28", "name": "picture"}],
        "outputSchema": [{"type": "String", "name": "label"}]}]"#;

    #[test]
    fn of_networks_the_description_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).expect("written");
        write("coremldata.bin", "another form");
        write("model.espresso.net", "{}");
        // Without a description there is nothing to show.
        let error = Model::open(folder.path()).expect_err("no description").to_string();
        assert!(error.contains("Espresso"), "{error}");
        write("metadata.json", METADATA);
        let model = Model::open(folder.path()).expect("a description");
        assert_eq!((model.body.name(), model.description.specification_version), ("neuralNetworkClassifier", 4));
        let main = model.description.function(None).expect("a function");
        assert_eq!((main.inputs[0].name.as_str(), main.outputs[0].name.as_str()), ("picture", "label"));
        let Body::Compiled(content) = model.body else { panic!("{:?}", model.body) };
        assert!(content.form.contains("Espresso"));
        // Of classic models too.
        std::fs::remove_file(folder.path().join("model.espresso.net")).expect("removed");
        write("metadata.json", &METADATA.replace("neuralNetworkClassifier", "treeEnsembleRegressor"));
        assert_eq!(Model::open(folder.path()).expect("a description").body.name(), "treeEnsembleRegressor");
    }
}
