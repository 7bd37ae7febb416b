//! Decodes and encodes real files without loss.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coreml_format::model_types::{Body, Bytes, locate};

use super::{encode, shared};

/// Specifications under a folder.
fn specifications(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            specifications(&path, found);
        } else if path.extension().is_some_and(|e| e == "mlmodel") {
            found.push(path);
        }
    }
}

/// Bytes of fields that the format no longer defines: labels of a pipeline, duplicated in its last model.
const UNDEFINED: [(&str, usize); 1] = [("pipelineClassifier", 34)];

/// Counts the types in a model, including the models of a pipeline.
fn count(path: &Path, model: &Bytes, types: &mut BTreeMap<&'static str, usize>) {
    let Ok(Some((row, message))) = locate(model) else {
        *types.entry("none").or_default() += 1;
        return;
    };
    *types.entry(row.name).or_default() += 1;
    if row.name == "mlProgram" {
        return;
    }
    let body = row.decode(message.clone()).unwrap_or_else(|e| panic!("{}: {}: {e}", path.display(), row.name));
    let encoded = encode(&body);
    let undefined = UNDEFINED.iter().find(|(name, _)| *name == row.name && path.ends_with("gavi.Iris.01/iris.mlmodel"));
    // Map entries are unordered.
    let expected = message.len() - undefined.map_or(0, |(_, length)| *length);
    assert_eq!(encoded.len(), expected, "{}: {}", path.display(), row.name);
    assert_eq!(row.decode(encoded.into()).as_ref(), Ok(&body), "{}: {}", path.display(), row.name);
    let pipeline = match &body {
        Body::Pipeline(m) => Some(m),
        Body::PipelineClassifier(m) => m.pipeline.as_ref(),
        Body::PipelineRegressor(m) => m.pipeline.as_ref(),
        _ => None,
    };
    pipeline.into_iter().flat_map(|p| &p.models).for_each(|model| count(path, model, types));
}

#[test]
fn real_files_lose_nothing() {
    let Some(zoo) = shared().map(|shared| shared.join("zoo")).filter(|zoo| zoo.is_dir()) else {
        eprintln!("skipped: there are no public models here");
        return;
    };
    let (mut files, mut types) = (Vec::new(), BTreeMap::new());
    specifications(&zoo, &mut files);
    for path in &files {
        count(path, &std::fs::read(path).expect("a file").into(), &mut types);
    }
    eprintln!("{} files: {types:?}", files.len());
    assert!(types.len() > 10, "{types:?}");
}
