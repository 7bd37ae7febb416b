//! Many images, one prediction each: folders, lists and files, a few in memory at a time.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use candle_coreml::description::FeatureType;
use candle_coreml::format::file;
use candle_coreml::{CoreMLModel, FeatureRow, FeatureValue, RowOutputs, images};
use serde_json::{Map, Value};

use super::outputs::{self, Outputs, To};
use super::{Arguments, Failure, results, values};
use crate::{CommandResult, write};

/// Images that are in memory at once.
const AT_ONCE: usize = 16;
/// Largest list of images.
const LARGEST_LIST: u64 = 64 << 20;

/// Paths in the lines of a list.
fn lines(text: &str) -> impl Iterator<Item = PathBuf> + '_ {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(PathBuf::from)
}

/// The image files that the arguments name: folders have theirs, lists (`.txt`, `-` for standard input) name them.
fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for path in given {
        if path == Path::new("-") {
            let mut read = std::io::stdin().lock();
            let mut line = String::new();
            while read.read_line(&mut line)? > 0 {
                all.extend(lines(&line));
                line.clear();
            }
        } else if path.is_dir() {
            all.extend(images::in_folder(path)?);
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt")) {
            all.extend(lines(&file::read_text(path, LARGEST_LIST)?));
        } else {
            all.push(path.clone());
        }
    }
    if all.is_empty() { Err("--images: no images are named".into()) } else { Ok(all) }
}

/// The only image input of a model.
fn input(model: &CoreMLModel) -> Result<&str, Failure> {
    let inputs = &model.function_description().inputs;
    let mut names = inputs.iter().filter(|f| matches!(f.ty, FeatureType::Image { .. })).map(|f| f.name.as_str());
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => {
            let all: Vec<&str> = inputs.iter().map(|f| f.name.as_str()).collect();
            Err(format!("--images: the model has no image input; its inputs: {}", all.join(", ")).into())
        }
        (Some(a), Some(b)) => {
            Err(format!("--images: the model has several image inputs ({a}, {b}, …): use --image NAME=FILE").into())
        }
    }
}

/// Predicts some images; an image that fails has its own error.
fn predict(model: &CoreMLModel, rows: Vec<FeatureRow>) -> Vec<Result<RowOutputs, Failure>> {
    match model.predict_batch(&rows) {
        Ok(outputs) => outputs.into_iter().map(Ok).collect(),
        Err(_) => {
            let one = |row: &FeatureRow| {
                let named: Vec<(&str, FeatureValue)> = row.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
                Ok(model.predict_values(&named, None)?)
            };
            rows.iter().map(one).collect()
        }
    }
}

/// Predicts the images of `--images` and writes their results.
pub(super) fn run(model: &CoreMLModel, arguments: &Arguments, to: To<'_>) -> CommandResult {
    if model.is_stateful() {
        return Err("--images: the model has states: its predictions depend on each other".into());
    }
    let files = files(&arguments.images)?;
    let name = input(model)?.to_owned();
    let feature = model.function_description().input(&name).ok_or("an input")?;
    let reader = images::Reader { resize: arguments.resize, ..images::Reader::default() };
    let shared = match &arguments.values {
        Some(path) => values::one(path, model)?,
        None => FeatureRow::new(),
    };
    let shown = std::io::stderr().is_terminal();
    let (mut tensors, mut objects, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (done, some) in files.chunks(AT_ONCE).enumerate() {
        let loaded: Vec<_> = some.iter().map(|file| reader.read(file, feature)).collect();
        let rows = loaded.iter().filter_map(|image| image.as_ref().ok()).map(|image| {
            let own = (name.clone(), FeatureValue::Tensor(image.clone()));
            std::iter::once(own).chain(shared.iter().cloned()).collect()
        });
        let mut predicted = predict(model, rows.collect()).into_iter();
        for (file, image) in some.iter().zip(&loaded) {
            let result = match image {
                Ok(_) => predicted.next().ok_or("no result")?.map_err(|e| crate::chain(e.as_ref())),
                Err(e) => Err(e.to_string()),
            };
            let mut object = Map::from_iter([("image".to_owned(), Value::from(file.to_string_lossy()))]);
            match result {
                Ok(outputs) if to.holds_tensors_only() => tensors.push(outputs),
                Ok(outputs) => object.extend(Outputs::new(model, outputs)?.top(arguments.top).object(outputs::array)?),
                Err(e) => {
                    object.insert("error".to_owned(), Value::from(e.as_str()));
                    failed.push(e);
                }
            }
            // Lines are written as they come.
            if to.is_printed_lines() {
                out!("{}", Value::Object(object))?;
            } else if !to.holds_tensors_only() {
                objects.push(object);
            }
        }
        if shown {
            let _ = write!(std::io::stderr(), "\r{} of {} images", done * AT_ONCE + some.len(), files.len());
        }
    }
    if shown {
        note!("");
    }
    match to.path {
        Some(path) if to.holds_tensors_only() && failed.is_empty() => results::write_tensors(path, to, tensors)?,
        _ if to.holds_tensors_only() || to.is_printed_lines() => {}
        Some(path) => write::bytes(path, results::text(objects, to).as_bytes())?,
        None => write::text(&results::text(objects, to))?,
    }
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} of {} images failed; the first: {first}", failed.len(), files.len()).into()),
    }
}
