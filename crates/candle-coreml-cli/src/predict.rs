//! `candle-coreml predict`: one prediction on tensors, images and values.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use candle_coreml::images::Resize;
use candle_coreml::made_up::{self, Fill};
use candle_coreml::model::PassSet;
use candle_coreml::tensors::{self, Limits};
use candle_coreml::{CoreMLModel, EngineChoice, FeatureRow, FeatureValue};
use indexmap::IndexMap;

use crate::engine::EngineArguments;
use crate::{CommandResult, format, write};

mod images;
mod many_images;
mod outputs;
mod results;
mod rows;
mod trace;
mod values;

pub(crate) use trace::label;

use outputs::{Format, Outputs, To};
use trace::Trace;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: .mlpackage, .mlmodelc or .mlmodel.
    model: PathBuf,
    /// Read inputs by name from this file: .safetensors, .npz, .json, or x.npy for the input x. Rows to predict one after
    /// the other: .csv with the names of the inputs in its first line, .jsonl with an object in each line, .json with a
    /// list of objects. `random` and `zeros` make inputs up where nothing else gives them.
    #[arg(long, value_name = "FILE|random|zeros")]
    inputs: Option<PathBuf>,
    /// Seed of `--inputs random` [default: 0].
    #[arg(long)]
    seed: Option<u64>,
    /// Write outputs to this file: .safetensors, .npz, .npy, .json, .jsonl or .csv. What no file is named for is printed,
    /// large arrays as a summary.
    #[arg(long, value_name = "FILE")]
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
    /// Predict each of these images: a folder, an image file, or a list of files (.txt with a path in each line, `-` for
    /// standard input). Repeatable. Results are a line of JSON each.
    #[arg(long, value_name = "DIR|FILE", conflicts_with_all = ["inputs", "image", "image_out", "values_out", "state", "trace", "check_nan"])]
    images: Vec<PathBuf>,
    /// Bring images of other sizes to the size of the input: fit (whole, with a black border), crop (the middle) or stretch.
    #[arg(long, value_name = "HOW")]
    resize: Option<Resize>,
    /// Print, or write to --outputs, in this format: json, jsonl or csv [default: by the ending of --outputs].
    #[arg(long)]
    format: Option<Format>,
    /// Of classes and rows of numbers, give only the largest ones, this many.
    #[arg(long, value_name = "COUNT")]
    top: Option<usize>,
    /// Write an image output to a file (repeatable): .png, .jpg or .tiff; 16-bit grayscale as .tiff of floats.
    #[arg(long, value_name = "NAME=FILE")]
    image_out: Vec<String>,
    /// Write what every operation computes to this new or empty folder: .npy files, and index.json with names, types and
    /// ranges. Runs the portable engine without its rewrites.
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
    /// Name the first operation that yields NaN or infinity, with the ranges of its inputs; the command fails then.
    #[arg(long)]
    check_nan: bool,
    /// Read other inputs by name from this JSON file: numbers, strings, lists of them, dictionaries of numbers; "NaN",
    /// "Infinity" and "-Infinity" are numbers too.
    #[arg(long)]
    values: Option<PathBuf>,
    /// Write outputs that are not tensors to this JSON file instead of standard output.
    #[arg(long)]
    values_out: Option<PathBuf>,
}

/// Parses `NAME=FILE` arguments.
fn pairs<'a>(option: &str, given: &'a [String]) -> Result<Vec<(&'a str, &'a Path)>, String> {
    let pair = |text: &'a String| text.split_once('=').map(|(name, file)| (name, Path::new(file)));
    given.iter().map(|text| pair(text).ok_or_else(|| format!("{option} {text}: expected NAME=FILE"))).collect()
}

type Failure = Box<dyn std::error::Error>;

/// What the arguments give.
enum Given {
    /// One prediction.
    One(IndexMap<String, FeatureValue>),
    /// A prediction for each row.
    Rows(Vec<FeatureRow>),
}

/// How `--inputs` fills inputs that nothing else gives; none if it names a file.
fn fill(arguments: &Arguments) -> Result<Option<Fill>, Failure> {
    let fill = match arguments.inputs.as_ref().filter(|p| !p.exists()).and_then(|p| p.to_str()) {
        Some("zeros") => Some(Fill::Zeros),
        Some("random") => Some(Fill::Random(arguments.seed.unwrap_or(0))),
        _ => None,
    };
    if arguments.seed.is_some() && !matches!(fill, Some(Fill::Random(_))) {
        return Err("--seed is for --inputs random".into());
    }
    Ok(fill)
}

/// Inputs from `--inputs`: one prediction, or a row each.
fn from_file(model: &CoreMLModel, path: Option<&Path>, as_rows: bool, limits: &Limits) -> Result<Given, Failure> {
    let Some(path) = path else { return Ok(Given::One(IndexMap::new())) };
    if as_rows {
        return Ok(Given::Rows(rows::of_tensors(tensors::read(path, limits)?, model)?));
    }
    if let Some(rows) = rows::read(path, model)? {
        return Ok(Given::Rows(rows));
    }
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        return Ok(match values::read(path, model)? {
            values::Inputs::One(row) => Given::One(row.into_iter().collect()),
            values::Inputs::Rows(rows) => Given::Rows(rows),
        });
    }
    let tensors = tensors::read(path, limits)?;
    Ok(Given::One(tensors.into_iter().map(|(n, t)| (n, FeatureValue::Tensor(t))).collect()))
}

/// The inputs in a file, for one prediction.
pub(crate) fn inputs_of_file(model: &CoreMLModel, path: &Path) -> Result<FeatureRow, Failure> {
    match from_file(model, Some(path), false, &Limits::default())? {
        Given::One(inputs) => Ok(inputs.into_iter().collect()),
        Given::Rows(rows) => {
            Err(format!("{}: expected one prediction, found {} rows", path.display(), rows.len()).into())
        }
    }
}

/// All inputs that the arguments give.
fn given(model: &CoreMLModel, arguments: &Arguments, limits: &Limits) -> Result<Given, Failure> {
    let fill = fill(arguments)?;
    let mut given = match fill {
        Some(_) => Given::One(IndexMap::new()),
        None => from_file(model, arguments.inputs.as_deref(), arguments.rows, limits)?,
    };
    let images = pairs("--image", &arguments.image)?;
    let repeated = images.iter().any(|(name, _)| images.iter().filter(|(other, _)| other == name).count() > 1);
    given = match given {
        Given::One(inputs) if repeated && !inputs.is_empty() => {
            return Err("several images and tensors: expected --rows, or one image".into());
        }
        Given::One(_) if repeated => Given::Rows(Vec::new()),
        other => other,
    };
    match &mut given {
        Given::One(inputs) => {
            for (name, file) in images {
                inputs.insert(name.to_owned(), images::load(model, name, file, arguments.resize)?.into());
            }
        }
        Given::Rows(rows) => add_images(model, arguments, images, rows)?,
    }
    if let Some(path) = &arguments.values {
        let values = values::one(path, model)?;
        match &mut given {
            Given::One(inputs) => inputs.extend(values),
            Given::Rows(rows) => rows.iter_mut().for_each(|row| row.extend(values.iter().cloned())),
        }
    }
    if let Some(fill) = fill {
        let missing = |name: &str| match &given {
            Given::One(inputs) => !inputs.contains_key(name),
            Given::Rows(rows) => rows.first().is_none_or(|row| row.iter().all(|(n, _)| n != name)),
        };
        let made_up = made_up::Inputs::of(model, missing)?;
        match &mut given {
            Given::One(inputs) => inputs.extend(made_up.values(fill)?),
            Given::Rows(rows) => rows.iter_mut().try_for_each(|row| -> CommandResult {
                row.extend(made_up.values(fill)?);
                Ok(())
            })?,
        }
    }
    Ok(given)
}

/// Adds the images of an input to the rows, one each.
fn add_images(
    model: &CoreMLModel,
    arguments: &Arguments,
    images: Vec<(&str, &Path)>,
    rows: &mut Vec<FeatureRow>,
) -> CommandResult {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (name, file) in images {
        let row = counts.entry(name).or_insert(0);
        if *row == rows.len() {
            rows.push(FeatureRow::new());
        }
        rows[*row].push((name.to_owned(), FeatureValue::Tensor(images::load(model, name, file, arguments.resize)?)));
        *row += 1;
    }
    match counts.into_iter().find(|(_, count)| *count != rows.len()) {
        Some((name, count)) => Err(format!("`{name}`: expected {} images, found {count}", rows.len()).into()),
        None => Ok(()),
    }
}

/// Predicts rows and writes their results.
fn batch(model: &CoreMLModel, rows: Vec<FeatureRow>, arguments: &Arguments, to: To<'_>) -> CommandResult {
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
            let _ = write!(std::io::stderr(), "\r{done} of {total} rows");
        }
    });
    if shown {
        note!("");
    }
    results::write(model, outputs?, to, arguments.top)
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let EngineArguments { engine, compute_units } = arguments.engine;
    let mut builder = CoreMLModel::builder(&arguments.model);
    builder = builder.engine(engine).compute_units(compute_units);
    if let Some(name) = &arguments.function {
        builder = builder.function(name);
    }
    let traced = arguments.trace.is_some() || arguments.check_nan;
    if traced {
        // Names are those of the program without rewrites, and only the portable engine shows inner values.
        let engine = if engine == EngineChoice::Native { engine } else { EngineChoice::Portable };
        builder = builder.engine(engine).passes(PassSet::none());
    }
    // A file that can't be written is refused before the model runs.
    let path = arguments.outputs.as_deref();
    let by_ending = path.filter(|_| arguments.format.is_none()).map(Format::of).transpose()?;
    let to = To { path, format: arguments.format.or(by_ending) };
    let model = builder.load()?;
    if !arguments.images.is_empty() {
        return many_images::run(&model, &arguments, to);
    }
    let limits = Limits { bytes: arguments.input_limit, ..Limits::default() };
    let inputs = match given(&model, &arguments, &limits)? {
        Given::Rows(_) if traced => {
            return Err("--trace and --check-nan are for one prediction, not for many rows".into());
        }
        Given::Rows(rows) => return batch(&model, rows, &arguments, to),
        Given::One(inputs) => inputs,
    };
    let image_outputs = pairs("--image-out", &arguments.image_out)?;
    for (name, file) in &image_outputs {
        images::check_output(&model, name, file)?;
    }
    let mut state = if model.is_stateful() { Some(model.make_state()?) } else { None };
    if let (Some(state), Some(path)) = (&mut state, &arguments.state)
        && path.exists()
    {
        for (name, value) in tensors::read(path, &limits)? {
            state.set(&name, &value)?;
        }
    }
    let named: Vec<(&str, FeatureValue)> = inputs.iter().map(|(n, value)| (n.as_str(), value.clone())).collect();
    let mut trace = if traced { Some(Trace::new(arguments.trace.as_deref(), arguments.check_nan)?) } else { None };
    let outputs = match &mut trace {
        Some(trace) => trace.predict(&model, &named, state.as_mut())?,
        None => model.predict_values(&named, state.as_mut())?,
    };
    let outputs = Outputs::new(&model, outputs)?;
    for (name, file) in &image_outputs {
        let tensor = outputs.tensor(name).ok_or_else(|| format!("output `{name}` is not a tensor"))?;
        images::save(&model, name, tensor, file)?;
    }
    if let (Some(state), Some(path)) = (&state, &arguments.state) {
        let all = state.names().into_iter().map(|n| Ok((n.to_owned(), state.get(n)?)));
        write::tensors(path, &all.collect::<Result<_, candle_coreml::Error>>()?)?;
    }
    if let Some(path) = &arguments.values_out {
        let text = serde_json::to_string_pretty(&outputs.values)?;
        write::bytes(path, text.as_bytes())?;
    }
    let outputs = outputs.top(arguments.top);
    let printed = match (to.path, &arguments.values_out) {
        (Some(path), values_out) => {
            outputs.write(path, to.format.unwrap_or(Format::Safetensors))?;
            if to.holds_tensors_only() && values_out.is_none() { outputs.values_only().print(None) } else { Ok(()) }
        }
        // What no file was named for is printed.
        (None, values_out) => {
            let mut written: Vec<String> = image_outputs.iter().map(|(name, _)| (*name).to_owned()).collect();
            if values_out.is_some() {
                written.extend(outputs.values.keys().cloned());
            }
            outputs.without(&written).print(to.format)
        }
    };
    printed?;
    trace.map_or(Ok(()), |trace| trace.verdict(&model))
}
