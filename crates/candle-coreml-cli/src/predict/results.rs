//! Results of many rows as JSON lines, CSV or tensors.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;

use candle_core::{DType, Tensor};
use candle_coreml::{CoreMLModel, RowOutputs};
use serde_json::{Map, Value, json};

use super::Failure;
use crate::{CommandResult, write};

/// Numbers of a tensor as nested lists.
fn nested(tensor: &Tensor) -> Result<Value, Failure> {
    if tensor.rank() == 0 {
        return Ok(match tensor.dtype().is_float() {
            true => json!(tensor.to_dtype(DType::F64)?.to_scalar::<f64>()?),
            false => json!(tensor.to_dtype(DType::I64)?.to_scalar::<i64>()?),
        });
    }
    (0..tensor.dims()[0]).map(|i| nested(&tensor.get(i)?)).collect::<Result<_, _>>().map(Value::Array)
}

/// A row as an object.
fn object(model: &CoreMLModel, row: RowOutputs) -> Result<Map<String, Value>, Failure> {
    let (mut tensors, mut values) = (HashMap::new(), Map::new());
    for (name, output) in row {
        super::collect(model, name, output, &mut tensors, &mut values)?;
    }
    for (name, tensor) in tensors {
        values.insert(name, nested(&tensor)?);
    }
    Ok(values)
}

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

fn csv(rows: &[Map<String, Value>]) -> String {
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
fn stacked(rows: Vec<RowOutputs>) -> Result<HashMap<String, Tensor>, Failure> {
    let mut all: HashMap<String, Vec<Tensor>> = HashMap::new();
    for row in rows {
        for (name, output) in row {
            let tensor = output.numbers_as_tensor()?.ok_or_else(|| {
                format!(
                    "output `{name}` is {}, which a .safetensors file can't hold: write .csv or .jsonl",
                    output.kind()
                )
            })?;
            all.entry(name).or_default().push(tensor);
        }
    }
    all.into_iter().map(|(name, rows)| Ok((name, Tensor::stack(&rows, 0)?))).collect()
}

/// Writes the results by the ending of the file: .csv, .safetensors, else JSON lines; without a file to standard output.
pub(super) fn write(model: &CoreMLModel, rows: Vec<RowOutputs>, path: Option<&Path>) -> CommandResult {
    let ending = path.and_then(Path::extension).map(|e| e.to_string_lossy().to_lowercase());
    match (ending.as_deref(), path) {
        (Some("safetensors"), Some(path)) => return write::tensors(path, &stacked(rows)?),
        (Some("csv" | "jsonl" | "ndjson") | None, _) => {}
        (Some(other), _) => {
            return Err(format!("results of many rows as .{other}: expected .csv, .jsonl or .safetensors").into());
        }
    }
    let rows = rows.into_iter().map(|row| object(model, row)).collect::<Result<Vec<_>, _>>()?;
    let text = if ending.as_deref() == Some("csv") {
        csv(&rows)
    } else {
        let mut text = String::new();
        for row in rows {
            let _ = writeln!(text, "{}", Value::Object(row));
        }
        text
    };
    match path {
        Some(path) => write::bytes(path, text.as_bytes()),
        None => write::text(&text),
    }
}
