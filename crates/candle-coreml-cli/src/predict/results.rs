//! Results of many rows as JSON, CSV or tensors.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;

use candle_core::Tensor;
use candle_coreml::{CoreMLModel, RowOutputs};
use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::Failure;
use super::outputs::{self, Format, Outputs, To};
use crate::{CommandResult, write};

/// Columns of a value: `name`, or `name[key]` for each element.
fn columns(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Array(all) => {
            all.iter().enumerate().for_each(|(i, v)| columns(&format!("{name}[{i}]"), v, into));
        }
        Value::Object(all) => all.iter().for_each(|(k, v)| columns(&format!("{name}[{k}]"), v, into)),
        Value::String(text) => into.push((name.to_owned(), text.clone())),
        other => into.push((name.to_owned(), other.to_string())),
    }
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

pub(super) fn csv(rows: &[Map<String, Value>]) -> String {
    let flat = |row: &Map<String, Value>| {
        let mut all = Vec::new();
        row.iter().for_each(|(name, value)| columns(name, value, &mut all));
        all
    };
    let flat: Vec<Vec<(String, String)>> = rows.iter().map(flat).collect();
    // Rows may have other keys than the first.
    let (mut names, mut known): (Vec<&String>, HashSet<&String>) = Default::default();
    names.extend(flat.iter().flatten().map(|(name, _)| name).filter(|name| known.insert(name)));
    let mut text = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(",");
    text.push('\n');
    for row in &flat {
        let row: HashMap<&String, &String> = row.iter().map(|(name, field)| (name, field)).collect();
        let fields: Vec<String> = names.iter().map(|n| row.get(n).map_or_else(String::new, |f| quoted(f))).collect();
        let _ = writeln!(text, "{}", fields.join(","));
    }
    text
}

/// Tensors by output with a row for each prediction.
fn stacked(rows: Vec<RowOutputs>) -> Result<Vec<(String, Tensor)>, Failure> {
    let mut all: IndexMap<String, Vec<Tensor>> = IndexMap::new();
    for row in rows {
        for (name, output) in row {
            let tensor = output.numbers_as_tensor()?.ok_or_else(|| {
                format!("output `{name}` is {}, which no file of tensors holds: write .csv or .jsonl", output.kind())
            })?;
            all.entry(name).or_default().push(tensor);
        }
    }
    all.into_iter().map(|(name, rows)| Ok((name, Tensor::stack(&rows, 0)?))).collect()
}

/// Writes a row of tensors for each prediction.
pub(super) fn write_tensors(path: &Path, to: To<'_>, rows: Vec<RowOutputs>) -> CommandResult {
    outputs::tensors(path, to.format.unwrap_or(Format::Safetensors), &stacked(rows)?)
}

/// Objects as text in a format: CSV, a list, else a line each.
pub(super) fn text(rows: Vec<Map<String, Value>>, to: To<'_>) -> String {
    match to.format {
        Some(Format::Csv) => csv(&rows),
        Some(Format::Json) => {
            let lines: Vec<String> = rows.into_iter().map(|row| Value::Object(row).to_string()).collect();
            format!("[\n{}\n]\n", lines.join(",\n"))
        }
        _ => rows.into_iter().map(|row| format!("{}\n", Value::Object(row))).collect(),
    }
}

/// Writes the results in a format; without a file, to standard output.
pub(super) fn write(model: &CoreMLModel, rows: Vec<RowOutputs>, to: To<'_>, top: Option<usize>) -> CommandResult {
    if let Some(path) = to.path.filter(|_| to.holds_tensors_only()) {
        return write_tensors(path, to, rows);
    }
    let objects = rows.into_iter().map(|row| Outputs::new(model, row)?.top(top).object(outputs::array));
    let text = text(objects.collect::<Result<Vec<_>, _>>()?, to);
    match to.path {
        Some(path) => write::bytes(path, text.as_bytes()),
        None => write::text(&text),
    }
}
