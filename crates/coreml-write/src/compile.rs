//! Compiled models: `.mlpackage` → `.mlmodelc` and back, on any platform.
//!
//! A compiled ML Program is a folder: `model.mil` (the program as text), `weights/` (the files of the package, byte for
//! byte), `coremldata.bin` (the description), `metadata.json` (the same for readers), `analytics/coremldata.bin`. The
//! form is that of models which Apple's compiler wrote; docs/writing.md says which bytes are not understood. Other model
//! types have a compiled form that is not public, and are refused by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coreml_format::mil_text::{self, Dialect};
use coreml_format::model::Model;
use coreml_format::model_types::Body;
use coreml_format::program::{Argument, Binding, Block, Program, TensorData, Value, ValueData};
use coreml_format::spec;
use coreml_format::task;
use coreml_format::write::PackageWriter;
use sha2::{Digest, Sha256};

use crate::edit::specification;
use crate::edit::{EditError, Result, raw};

mod flexible;
mod header;
mod metadata;
mod partial;

use partial::Partial;

/// First specification version whose text has bare scalars (iOS 18).
const BARE_SCALARS: i32 = 9;
/// Entry of `buildInfo` that names this compiler.
const COMPILER: &str = "candle-coreml-version";
/// Attribute of a program with the tools that made it.
const BUILD_INFO: &str = "buildInfo";

/// Writes the compiled form of an ML Program. The folder appears under its name when it is complete and its text reads
/// back.
///
/// # Errors
/// [`EditError::Invalid`] for other model types, models that are compiled, names that MIL text can't spell, and if the
/// path exists; [`EditError::Blob`] if a weight is missing or cut; [`EditError::Io`] if writing fails.
pub fn compile(model: &Model, to: &Path) -> Result<()> {
    let source = program(model)?;
    if is_compiled(&model.path) {
        return Err(EditError::invalid(&model.path, "the model", "a package or specification", "a compiled model"));
    }
    let files = weight_files(model, source)?;
    let specification = specification(&model.path)?;
    let unread = || EditError::invalid(&model.path, "the specification", "a description", "none");
    let description = raw::description_with_metadata(&specification).ok_or_else(unread)?;
    let program = normal(model, source)?;

    let version = model.description.specification_version;
    let dialect = if version >= BARE_SCALARS { Dialect::V1_3 } else { Dialect::V1_0 };
    let text = mil_text::print_as(&program, dialect);
    let again = mil_text::parse(&text).map(|read| mil_text::print_as(&read, dialect));
    if again.as_ref() != Ok(&text) {
        let found = again.map_or_else(|e| e.to_string(), |_| "another program".to_owned());
        return Err(EditError::invalid(&model.path, "the text of the program", "text that reads back", found));
    }
    let hash: [u8; 32] = Sha256::digest(&specification).into();

    let folder = Partial::create(to)?;
    folder.write("model.mil", text.as_bytes())?;
    folder.write("coremldata.bin", &header::description(version, &description))?;
    folder.write("analytics/coremldata.bin", &header::analytics(&hash))?;
    folder.write("metadata.json", &metadata::write(model, source)?)?;
    for (i, (relative, file)) in files.iter().enumerate() {
        task::report(relative, i as u64, files.len() as u64);
        folder.copy(relative, file)?;
    }
    folder.finish()
}

/// Writes the package of a compiled ML Program; weight files are copied byte for byte.
///
/// # Errors
/// [`EditError::Invalid`] for other model types, models that are not compiled, and if the path exists;
/// [`EditError::Blob`] if a weight is missing or cut; [`EditError::Io`] if writing fails.
pub fn decompile(model: &Model, to: &Path) -> Result<()> {
    let mut program = program(model)?.clone();
    if !is_compiled(&model.path) {
        return Err(EditError::invalid(&model.path, "the model", "a compiled model", "one that is not"));
    }
    let files = weight_files(model, &program)?;
    if let Some(info) = program.attributes.get_mut(BUILD_INFO)
        && let ValueData::Dictionary(entries) = &mut info.data
    {
        entries.retain(|(key, _)| !text(key).is_some_and(|k| k.starts_with("coremlc-") || k == COMPILER));
    }
    for (name, function) in &mut program.functions {
        function.attributes.shift_remove(flexible::ATTRIBUTE);
        // The text sorts parameters; the description has their order.
        if let Some(described) = model.description.functions.get(name) {
            let place = |n: &str| described.inputs.iter().chain(&described.states).position(|f| f.name == n);
            function.inputs.sort_by_key(|input| place(&input.name).unwrap_or(usize::MAX));
        }
    }
    let writer = PackageWriter::create(to).map_err(EditError::io(to))?;
    let encoded = spec::encode(&model.description, &program);
    writer.finish_with(&encoded, &files).map_err(EditError::io(to))
}

/// True if the model is a compiled one.
pub fn is_compiled(path: &Path) -> bool {
    path.is_dir() && path.join("model.mil").exists()
}

fn program(model: &Model) -> Result<&Program> {
    model.body.program().ok_or_else(|| {
        let found = match &model.body {
            Body::Compiled(content) => format!("a compiled {} in {}", content.model_type, content.form),
            other => format!("a model of type {}, whose compiled form is not public", other.name()),
        };
        EditError::invalid(&model.path, "the model", "an ML Program", found)
    })
}

fn text(value: &Value) -> Option<&str> {
    match &value.data {
        ValueData::Tensor(TensorData::Strings(all)) => all.first().map(String::as_str),
        _ => None,
    }
}

/// The program as the text shows it: parameters, arguments and attributes sorted, the compiler named, flexible shapes
/// as an attribute.
fn normal(model: &Model, source: &Program) -> Result<Program> {
    let mut program = source.clone();
    for (name, function) in &mut program.functions {
        let place = format!("function `{name}`");
        spelled(model, &place, "its name", name)?;
        for input in &function.inputs {
            spelled(model, &place, "an input", &input.name)?;
        }
        sorted(model, &place, &mut function.block)?;
        function.inputs.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(described) = model.description.functions.get(name)
            && let Some(shapes) = flexible::information(described)
        {
            function.attributes.insert(flexible::ATTRIBUTE.to_owned(), shapes);
        }
    }
    let mut entries = vec![(COMPILER.to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    if let Some(Value { data: ValueData::Dictionary(all), .. }) = source.attributes.get(BUILD_INFO) {
        let known = |(k, v): &(Value, Value)| Some((text(k)?.to_owned(), text(v)?.to_owned()));
        entries.extend(all.iter().filter_map(known).filter(|(k, _)| k != COMPILER));
    }
    entries.sort();
    let data = entries.iter().map(|(k, v)| (Value::string(k), Value::string(v))).collect();
    let string = || Box::new(Value::string("").ty);
    let ty = coreml_format::program::ValueType::Dictionary(string(), string());
    program.attributes.insert(BUILD_INFO.to_owned(), Value { ty, data: ValueData::Dictionary(data) });
    Ok(program)
}

fn sorted(model: &Model, place: &str, block: &mut Block) -> Result<()> {
    for op in &mut block.operations {
        spelled(model, place, "an operation", &op.kind)?;
        for output in &op.outputs {
            spelled(model, place, "a value", &output.name)?;
        }
        op.inputs.sort_keys();
        op.attributes.sort_keys();
        for nested in &mut op.blocks {
            sorted(model, place, nested)?;
        }
    }
    Ok(())
}

/// Refuses names that are no identifiers of MIL text.
fn spelled(model: &Model, place: &str, what: &str, name: &str) -> Result<()> {
    let mut all = name.chars();
    let first = all.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if first && all.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '@') {
        return Ok(());
    }
    let expected = "a name of letters, digits and `_`, which MIL text can spell";
    Err(EditError::invalid(&model.path, place, format!("{what} with {expected}"), format!("`{name}`")))
}

/// Weight files that a program refers to: path in the model, file. Every weight in them is read once.
fn weight_files(model: &Model, program: &Program) -> Result<Vec<(String, PathBuf)>> {
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    for function in program.functions.values() {
        for value in function.attributes.values() {
            blob_files(model, value, &mut names)?;
        }
        files_of(model, &function.block, &mut names)?;
    }
    names
        .into_iter()
        .map(|name| {
            let relative = name.strip_prefix("@model_path").unwrap_or(&name).trim_start_matches('/').to_owned();
            Ok((relative, model.weights.file_path(&name)?))
        })
        .collect()
}

fn files_of(model: &Model, block: &Block, names: &mut BTreeSet<Arc<str>>) -> Result<()> {
    for op in &block.operations {
        for value in op.attributes.values() {
            blob_files(model, value, names)?;
        }
        for binding in op.inputs.values().flat_map(Argument::bindings) {
            if let Binding::Value(value) = binding {
                blob_files(model, value, names)?;
            }
        }
        for nested in &op.blocks {
            files_of(model, nested, names)?;
        }
    }
    Ok(())
}

fn blob_files(model: &Model, value: &Value, names: &mut BTreeSet<Arc<str>>) -> Result<()> {
    match &value.data {
        ValueData::Tensor(TensorData::Blob(at)) => {
            model.weights.resolve(at)?;
            names.insert(at.file.clone());
            Ok(())
        }
        ValueData::Tensor(_) => Ok(()),
        ValueData::Tuple(all) | ValueData::List(all) => all.iter().try_for_each(|v| blob_files(model, v, names)),
        ValueData::Dictionary(all) => all.iter().try_for_each(|(k, v)| {
            blob_files(model, k, names)?;
            blob_files(model, v, names)
        }),
    }
}
