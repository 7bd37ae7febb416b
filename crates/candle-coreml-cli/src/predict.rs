//! `candle-coreml predict`: one prediction on tensors, images and values.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candle_coreml::description::FeatureType;
use candle_coreml::format::file;
use candle_coreml::tensors::{self, Limits};
use candle_coreml::{CoreMLModel, DictionaryKey, FeatureRow, FeatureValue};
use serde_json::{Map, Value, json};

use crate::engine::EngineArguments;
use crate::{CommandResult, format, write};

mod images;
mod results;
mod rows;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: .mlpackage, .mlmodelc or .mlmodel.
    model: PathBuf,
    /// Read input tensors from this file: safetensors or NumPy's .npz by name; x.npy is the input x. Rows to predict one
    /// after the other: .csv with the names of the inputs in its first line, or .jsonl with an object in each line.
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// Write output tensors to this file (safetensors). Results of many rows: .csv, .jsonl or .safetensors; without a file,
    /// JSON lines on standard output.
    #[arg(long)]
    outputs: Option<PathBuf>,
    /// Predict each row of the tensors in --inputs: their first dimension counts rows.
    #[arg(long, requires = "inputs")]
    rows: bool,
    /// Run this function of a multi-function model.
    #[arg(long)]
    function: Option<String>,
    #[command(flatten)]
    engine: EngineArguments,
    /// Read at most this many bytes of tensors from a file, such as 8GiB.
    #[arg(long, value_name = "SIZE", value_parser = format::parse_bytes, default_value = "4GiB")]
    input_limit: u64,
    /// Read the state from this file if it exists, and write it back (safetensors).
    #[arg(long)]
    state: Option<PathBuf>,
    /// Read an image input from a file (repeatable); an input given several times is a row each.
    #[arg(long, value_name = "NAME=FILE")]
    image: Vec<String>,
    /// Write an image output to a file (repeatable): .png, .jpg or .tiff; 16-bit grayscale as .tiff of floats.
    #[arg(long, value_name = "NAME=FILE")]
    image_out: Vec<String>,
    /// Read other inputs by name from this JSON file: numbers, strings, lists of them, dictionaries of numbers.
    #[arg(long)]
    values: Option<PathBuf>,
    /// Write outputs that are not tensors to this JSON file instead of standard output.
    #[arg(long)]
    values_out: Option<PathBuf>,
}

/// Maximum size of a values file: parsed JSON numbers take many times their text size.
const LARGEST_VALUES: u64 = 64 << 20;

/// Converts a string, list of strings or dictionary; `None` for anything else.
fn other(model: &CoreMLModel, name: &str, value: &Value) -> Option<FeatureValue> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        Value::String(text) => Some(FeatureValue::String(text.clone())),
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(text).collect::<Option<Vec<_>>>().map(FeatureValue::Strings)
        }
        Value::Object(entries) => {
            let described = model.function_description().input(name).map(|f| &f.ty);
            let int_keys = matches!(described, Some(FeatureType::Dictionary { int_keys: true }));
            // JSON keys are always strings.
            let key = |key: &String| match key.parse() {
                Ok(n) if int_keys => DictionaryKey::Int(n),
                _ => DictionaryKey::String(key.clone()),
            };
            let entries = entries.iter().map(|(k, number)| Some((key(k), number.as_f64()?)));
            entries.collect::<Option<Vec<_>>>().map(FeatureValue::Dictionary)
        }
        _ => None,
    }
}

/// Reads values by name: numbers, (nested) lists of numbers, strings, lists of strings, dictionaries.
fn values(path: &Path, model: &CoreMLModel, inputs: &mut HashMap<String, FeatureValue>) -> CommandResult {
    let text = file::read_text(path, LARGEST_VALUES)?;
    let values: Map<String, Value> = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    for (name, value) in values {
        let value = value_of(model, &name, &value).map_err(|e| format!("{}: {e}", path.display()))?;
        inputs.insert(name, value);
    }
    Ok(())
}

/// The value of an input in JSON.
fn value_of(model: &CoreMLModel, name: &str, value: &Value) -> Result<FeatureValue, String> {
    let bad = |found: String| {
        format!(
            "`{name}`: expected a number, nested lists of numbers, of equal lengths, a string, a list of strings or a \
             dictionary of numbers; found {found}"
        )
    };
    let described = model.function_description().input(name).map(|f| &f.ty);
    if matches!(described, Some(FeatureType::Sequence { ints: false })) && value.as_array().is_some_and(Vec::is_empty) {
        return Ok(FeatureValue::Strings(Vec::new()));
    }
    if let Some(value) = other(model, name, value) {
        return Ok(value);
    }
    let (mut shape, mut numbers) = (Vec::new(), Vec::new());
    flatten(value, 0, &mut shape, &mut numbers).map_err(|found| bad(found.to_string()))?;
    let whole: Option<Vec<i64>> = numbers.iter().map(serde_json::Number::as_i64).collect();
    let tensor = match whole {
        Some(whole) => Tensor::from_vec(whole, shape, &Device::Cpu),
        None => {
            // Integers mixed with fractions become floats: reject those that a float cannot represent.
            let rounded = |n: &&serde_json::Number| n.as_i128().is_some_and(|i| i as f64 as i128 != i);
            if let Some(n) = numbers.iter().find(rounded) {
                return Err(bad(format!("the integer {n}, which no float of 64 bits equals")));
            }
            let floats: Vec<f64> = numbers.iter().map(|n| n.as_f64().unwrap_or(f64::NAN)).collect();
            Tensor::from_vec(floats, shape, &Device::Cpu)
        }
    };
    tensor.map(FeatureValue::Tensor).map_err(|e| bad(e.to_string()))
}

/// Flattens numbers and infers or checks the shape; the error is the offending value.
fn flatten<'v>(
    value: &'v Value,
    depth: usize,
    shape: &mut Vec<usize>,
    numbers: &mut Vec<serde_json::Number>,
) -> Result<(), &'v Value> {
    match value {
        Value::Array(items) => {
            match shape.get(depth) {
                None if numbers.is_empty() => shape.push(items.len()),
                Some(&n) if n == items.len() => {}
                _ => return Err(value),
            }
            items.iter().try_for_each(|item| flatten(item, depth + 1, shape, numbers))
        }
        _ if depth != shape.len() => Err(value),
        Value::Number(n) => {
            numbers.push(n.clone());
            Ok(())
        }
        Value::Bool(b) => {
            numbers.push(u8::from(*b).into());
            Ok(())
        }
        other => Err(other),
    }
}

/// Parses `NAME=FILE` arguments.
fn pairs<'a>(option: &str, given: &'a [String]) -> Result<Vec<(&'a str, &'a Path)>, String> {
    let pair = |text: &'a String| text.split_once('=').map(|(name, file)| (name, Path::new(file)));
    given.iter().map(|text| pair(text).ok_or_else(|| format!("{option} {text}: expected NAME=FILE"))).collect()
}

type Failure = Box<dyn std::error::Error>;

/// The rows that the arguments ask for; `None` for one prediction.
fn many(model: &CoreMLModel, arguments: &Arguments, limits: &Limits) -> Result<Option<Vec<FeatureRow>>, Failure> {
    let images = pairs("--image", &arguments.image)?;
    let repeated = images.iter().any(|(name, _)| images.iter().filter(|(other, _)| other == name).count() > 1);
    let mut rows = match &arguments.inputs {
        Some(path) if arguments.rows => rows::of_tensors(tensors::read(path, limits)?, model)?,
        Some(path) => match rows::read(path, model)? {
            Some(rows) => rows,
            None if repeated => return Err("several images and tensors: expected --rows, or one image".into()),
            None => return Ok(None),
        },
        None if repeated => Vec::new(),
        None => return Ok(None),
    };
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (name, file) in images {
        let row = counts.entry(name).or_insert(0);
        if *row == rows.len() {
            rows.push(FeatureRow::new());
        }
        rows[*row].push((name.to_owned(), FeatureValue::Tensor(images::load(model, name, file)?)));
        *row += 1;
    }
    if let Some((name, count)) = counts.into_iter().find(|(_, count)| *count != rows.len()) {
        return Err(format!("`{name}`: expected {} images, found {count}", rows.len()).into());
    }
    if let Some(path) = &arguments.values {
        let mut shared = HashMap::new();
        values(path, model, &mut shared)?;
        for row in &mut rows {
            row.extend(shared.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    Ok(Some(rows))
}

/// Predicts rows and writes their results.
fn batch(model: &CoreMLModel, rows: Vec<FeatureRow>, arguments: &Arguments) -> CommandResult {
    for (given, option) in [
        (!arguments.image_out.is_empty(), "--image-out"),
        (arguments.values_out.is_some(), "--values-out"),
        (arguments.state.is_some(), "--state"),
    ] {
        if given {
            return Err(format!("{option} is for one prediction; results of many rows go to --outputs").into());
        }
    }
    let (total, shown) = (rows.len(), std::io::stderr().is_terminal());
    let outputs = model.predict_batch_with(&rows, &|done| {
        if shown {
            eprint!("\r{done} of {total} rows");
        }
    });
    if shown {
        eprintln!();
    }
    results::write(model, outputs?, arguments.outputs.as_deref())
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let EngineArguments { engine, compute_units } = arguments.engine;
    let mut builder = CoreMLModel::builder(&arguments.model);
    builder = builder.engine(engine).compute_units(compute_units);
    if let Some(name) = &arguments.function {
        builder = builder.function(name);
    }
    let model = builder.load()?;
    let limits = Limits { bytes: arguments.input_limit, ..Limits::default() };
    let load = |path: &Path| tensors::read(path, &limits);
    if let Some(rows) = many(&model, &arguments, &limits)? {
        return batch(&model, rows, &arguments);
    }
    let given = arguments.inputs.as_deref().map(load).transpose()?.unwrap_or_default();
    let mut inputs: HashMap<String, FeatureValue> =
        given.into_iter().map(|(n, t)| (n, FeatureValue::Tensor(t))).collect();
    if let Some(path) = &arguments.values {
        values(path, &model, &mut inputs)?;
    }
    for (name, file) in pairs("--image", &arguments.image)? {
        inputs.insert(name.to_owned(), FeatureValue::Tensor(images::load(&model, name, file)?));
    }
    let image_outputs = pairs("--image-out", &arguments.image_out)?;
    for (name, file) in &image_outputs {
        images::check_output(&model, name, file)?;
    }
    let mut state = if model.is_stateful() { Some(model.make_state()?) } else { None };
    if let (Some(state), Some(path)) = (&mut state, &arguments.state)
        && path.exists()
    {
        for (name, value) in load(path)? {
            state.set(&name, &value)?;
        }
    }
    let named: Vec<(&str, FeatureValue)> = inputs.iter().map(|(n, value)| (n.as_str(), value.clone())).collect();
    let outputs = model.predict_values(&named, state.as_mut())?;
    let (mut tensors, mut values) = (HashMap::new(), Map::new());
    for (name, output) in outputs {
        collect(&model, name, output, &mut tensors, &mut values)?;
    }
    if let Some(path) = &arguments.outputs {
        write::tensors(path, &tensors)?;
    }
    for (name, file) in image_outputs {
        let tensor = tensors.get(name).ok_or_else(|| format!("output `{name}` is not a tensor"))?;
        images::save(&model, name, tensor, file)?;
    }
    if let (Some(state), Some(path)) = (&state, &arguments.state) {
        let all = state.names().into_iter().map(|n| Ok((n.to_owned(), state.get(n)?)));
        write::tensors(path, &all.collect::<Result<_, candle_coreml::Error>>()?)?;
    }
    if !values.is_empty() {
        let text = serde_json::to_string_pretty(&Value::Object(values))?;
        match &arguments.values_out {
            Some(path) => write::bytes(path, text.as_bytes())?,
            None => println!("{text}"),
        }
    }
    Ok(())
}

/// Collects an output as a tensor or a value; described scalars are values.
fn collect(
    model: &CoreMLModel,
    name: String,
    output: FeatureValue,
    tensors: &mut HashMap<String, Tensor>,
    values: &mut Map<String, Value>,
) -> CommandResult {
    let described = model.function_description().output(&name).map(|f| &f.ty);
    match output {
        FeatureValue::Tensor(t) => match described {
            Some(FeatureType::Int64) => {
                let v = t.to_dtype(candle_core::DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
                values.insert(name, json!(v.first()));
            }
            Some(FeatureType::Double) => {
                let v = t.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                values.insert(name, json!(v.first()));
            }
            _ => {
                tensors.insert(name, t);
            }
        },
        FeatureValue::Int64(n) => {
            values.insert(name, json!(n));
        }
        FeatureValue::Double(x) => {
            values.insert(name, json!(x));
        }
        FeatureValue::String(text) => {
            values.insert(name, json!(text));
        }
        FeatureValue::Int64s(all) => {
            values.insert(name, json!(all));
        }
        FeatureValue::Strings(all) => {
            values.insert(name, json!(all));
        }
        FeatureValue::Dictionary(entries) => {
            let entries = entries.into_iter().map(|(k, v)| match k {
                DictionaryKey::String(s) => (s, json!(v)),
                DictionaryKey::Int(i) => (i.to_string(), json!(v)),
            });
            values.insert(name, Value::Object(entries.collect()));
        }
    }
    Ok(())
}
