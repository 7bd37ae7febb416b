//! Outputs of one prediction: to a file in the format of its ending, or printed.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;

use candle_core::{DType, Tensor};
use candle_coreml::description::FeatureType;
use candle_coreml::{CoreMLModel, FeatureValue};
use serde_json::{Map, Value, json};

use super::{Failure, results, values};
use crate::{CommandResult, write};

/// Arrays with more elements are printed as a summary.
const MOST_PRINTED: usize = 1000;

/// Format of a file of outputs, by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Tensors by name; files without an ending too.
    Safetensors,
    /// Tensors by name, for NumPy.
    Npz,
    /// One tensor, for NumPy.
    Npy,
    /// One object, or a list of them.
    Json,
    /// An object in each line.
    Lines,
    /// A column for each element.
    Csv,
}

impl Format {
    /// The format of a file.
    pub(super) fn of(path: &Path) -> Result<Self, String> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            None | Some("safetensors") => Ok(Self::Safetensors),
            Some("npz") => Ok(Self::Npz),
            Some("npy") => Ok(Self::Npy),
            Some("json") => Ok(Self::Json),
            Some("jsonl" | "ndjson") => Ok(Self::Lines),
            Some("csv") => Ok(Self::Csv),
            Some(other) => Err(format!(
                "{}: outputs as .{other}: expected .safetensors, .npz, .npy, .json, .jsonl or .csv",
                path.display()
            )),
        }
    }

    /// True if only tensors can be written.
    pub(super) fn holds_tensors_only(self) -> bool {
        matches!(self, Self::Safetensors | Self::Npz | Self::Npy)
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "json" => Ok(Self::Json),
            "jsonl" => Ok(Self::Lines),
            "csv" => Ok(Self::Csv),
            _ => Err("expected json, jsonl or csv".to_owned()),
        }
    }
}

/// Where outputs go: a file or standard output, in a format.
#[derive(Debug, Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) path: Option<&'a Path>,
    /// None where nothing names one: JSON, for each row on a line.
    pub(super) format: Option<Format>,
}

impl To<'_> {
    /// True if only tensors can be written.
    pub(super) fn holds_tensors_only(self) -> bool {
        self.format.is_some_and(Format::holds_tensors_only)
    }

    /// True for lines on standard output, which need not wait for others.
    pub(super) fn is_printed_lines(self) -> bool {
        self.path.is_none() && matches!(self.format, None | Some(Format::Lines))
    }
}

/// Outputs of a prediction, in the model's order.
#[derive(Default)]
pub(super) struct Outputs {
    pub(super) tensors: Vec<(String, Tensor)>,
    /// Numbers, strings, lists, dictionaries.
    pub(super) values: Map<String, Value>,
    order: Vec<String>,
    /// Of classes and rows of numbers, only this many of the largest.
    top: Option<usize>,
}

impl Outputs {
    /// Sorts outputs into tensors and values; described scalars are values.
    pub(super) fn new(
        model: &CoreMLModel,
        outputs: impl IntoIterator<Item = (String, FeatureValue)>,
    ) -> Result<Self, Failure> {
        let mut all = Self::default();
        for (name, output) in outputs {
            all.order.push(name.clone());
            let described = model.function_description().output(&name).map(|f| &f.ty);
            let value = match (output, described) {
                (FeatureValue::Tensor(t), Some(FeatureType::Int64)) => {
                    json!(t.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?.first())
                }
                (FeatureValue::Tensor(t), Some(FeatureType::Double)) => {
                    let first = t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                    first.first().map_or(Value::Null, |x| values::number(*x))
                }
                (FeatureValue::Tensor(t), _) => {
                    all.tensors.push((name, t));
                    continue;
                }
                (FeatureValue::Int64(n), _) => json!(n),
                (FeatureValue::Double(x), _) => values::number(x),
                (FeatureValue::String(text), _) => json!(text),
                (FeatureValue::Int64s(list), _) => json!(list),
                (FeatureValue::Strings(list), _) => json!(list),
                (FeatureValue::Dictionary(entries), _) => {
                    let entries = entries.into_iter().map(|(k, v)| (k.into(), values::number(v)));
                    Value::Object(entries.collect())
                }
            };
            all.values.insert(name, value);
        }
        Ok(all)
    }

    /// Keeps the largest of classes and rows of numbers only.
    pub(super) fn top(self, top: Option<usize>) -> Self {
        Self { top, ..self }
    }

    /// The tensor with this name.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// Everything as one object; each tensor as `array` turns it.
    pub(super) fn object(
        &self,
        array: impl Fn(&Tensor) -> Result<Value, Failure>,
    ) -> Result<Map<String, Value>, Failure> {
        let mut object = Map::new();
        for name in &self.order {
            let value = match (self.tensor(name), self.values.get(name), self.top) {
                (Some(tensor), _, Some(top)) if is_row(tensor) => largest_elements(tensor, top)?,
                (Some(tensor), ..) => array(tensor)?,
                (_, Some(Value::Object(classes)), Some(top)) => largest_classes(classes, top),
                (_, value, _) => value.cloned().unwrap_or_default(),
            };
            object.insert(name.clone(), value);
        }
        Ok(object)
    }

    /// Leaves outputs out that were written elsewhere.
    pub(super) fn without(mut self, names: &[String]) -> Self {
        self.order.retain(|n| !names.contains(n));
        self
    }

    /// Only what is not a tensor.
    pub(super) fn values_only(mut self) -> Self {
        self.order.retain(|n| self.values.contains_key(n));
        self.tensors.clear();
        self
    }

    /// Writes the outputs that the format holds.
    pub(super) fn write(&self, path: &Path, format: Format) -> CommandResult {
        match format {
            Format::Json => {
                let text = pretty(&self.object(array)?)?;
                write::bytes(path, text.as_bytes())
            }
            Format::Lines => write::bytes(path, format!("{}\n", Value::Object(self.object(array)?)).as_bytes()),
            Format::Csv => write::bytes(path, results::csv(&[self.object(array)?]).as_bytes()),
            _ => tensors(path, format, &self.tensors),
        }
    }

    /// Prints everything; large arrays as a summary where no format asks for all of them.
    pub(super) fn print(&self, format: Option<Format>) -> CommandResult {
        match format {
            _ if self.order.is_empty() => return Ok(()),
            Some(Format::Csv) => return write::text(&results::csv(&[self.object(array)?])),
            Some(Format::Lines) => return write::text(&format!("{}\n", Value::Object(self.object(array)?))),
            Some(Format::Json) => return write::text(&pretty(&self.object(array)?)?),
            _ => {}
        }
        let text = pretty(&self.object(|t| if t.elem_count() > MOST_PRINTED { summary(t) } else { array(t) })?)?;
        write::text(&text)
    }
}

/// Writes tensors in a format that holds nothing else.
pub(super) fn tensors(path: &Path, format: Format, all: &[(String, Tensor)]) -> CommandResult {
    match (format, all) {
        (Format::Npy, [(_, one)]) => write::npy(path, one),
        (Format::Npy, _) => {
            // As `x.npy` is the input x.
            let named = all.iter().find(|(name, _)| path.file_stem().is_some_and(|stem| stem == name.as_str()));
            if let Some((_, one)) = named {
                return write::npy(path, one);
            }
            let names: Vec<&str> = all.iter().map(|(n, _)| n.as_str()).collect();
            let (count, path, names) = (names.len(), path.display(), names.join(", "));
            Err(format!(
                "{path}: a .npy file holds one array, the model returns {count} ({names}): name the file after one, or \
                 write .npz"
            )
            .into())
        }
        (Format::Npz, all) => write::npz(path, all),
        (_, all) => write::tensors(path, &all.iter().cloned().collect::<HashMap<_, _>>()),
    }
}

/// A number in JSON with as many digits as its type has.
fn digits(x: f32) -> Value {
    if x.is_finite() { x.to_string().parse().map_or(Value::Null, values::number) } else { values::number(f64::from(x)) }
}

/// Numbers of a tensor as nested lists.
pub(super) fn array(tensor: &Tensor) -> Result<Value, Failure> {
    let flat = tensor.flatten_all()?;
    let numbers: Vec<Value> = match tensor.dtype() {
        DType::F64 => flat.to_vec1::<f64>()?.into_iter().map(values::number).collect(),
        d if d.is_float() => flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.into_iter().map(digits).collect(),
        _ => flat.to_dtype(DType::I64)?.to_vec1::<i64>()?.into_iter().map(Value::from).collect(),
    };
    let mut numbers = numbers.into_iter();
    Ok(nested(tensor.dims(), &mut numbers))
}

fn nested(dims: &[usize], numbers: &mut impl Iterator<Item = Value>) -> Value {
    match dims {
        [] => numbers.next().unwrap_or_default(),
        [n, rest @ ..] => (0..*n).map(|_| nested(rest, numbers)).collect(),
    }
}

/// True for one row of several numbers, whatever its rank.
fn is_row(tensor: &Tensor) -> bool {
    tensor.elem_count() > 1 && tensor.dims().iter().filter(|n| **n > 1).count() == 1
}

/// Places and values of the largest elements of a row.
fn largest_elements(tensor: &Tensor, top: usize) -> Result<Value, Failure> {
    let numbers: Vec<f64> = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
    let mut all: Vec<(usize, f64)> = numbers.into_iter().enumerate().collect();
    all.sort_by(|a, b| descending(a.1, b.1));
    Ok(all.into_iter().take(top).map(|(i, x)| json!({"index": i, "value": values::number(x)})).collect())
}

/// Labels and values of the largest classes.
fn largest_classes(classes: &Map<String, Value>, top: usize) -> Value {
    let mut all: Vec<(&String, f64)> = classes.iter().map(|(k, v)| (k, v.as_f64().unwrap_or(f64::NAN))).collect();
    all.sort_by(|a, b| descending(a.1, b.1));
    all.into_iter().take(top).map(|(label, x)| json!({"label": label, "value": values::number(x)})).collect()
}

/// Largest first, what is no number last.
fn descending(a: f64, b: f64) -> std::cmp::Ordering {
    a.is_nan().cmp(&b.is_nan()).then(b.total_cmp(&a))
}

/// Shape, type, range, mean and what is no number, of a large array.
fn summary(tensor: &Tensor) -> Result<Value, Failure> {
    let numbers: Vec<f64> = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
    let finite = || numbers.iter().copied().filter(|x| x.is_finite());
    let nan = numbers.iter().filter(|x| x.is_nan()).count();
    let count = finite().count();
    let mean = finite().sum::<f64>() / count as f64;
    let or_none = |x: f64| if count == 0 { Value::Null } else { values::number(x) };
    Ok(json!({
        "shape": tensor.dims(),
        "type": format!("{:?}", tensor.dtype()).to_lowercase(),
        "min": or_none(finite().fold(f64::INFINITY, f64::min)),
        "max": or_none(finite().fold(f64::NEG_INFINITY, f64::max)),
        "mean": or_none(mean),
        "nan": nan,
        "infinite": numbers.len() - nan - count,
    }))
}

/// An object with a line for each name.
fn pretty(object: &Map<String, Value>) -> Result<String, Failure> {
    let mut text = String::from("{");
    for (i, (name, value)) in object.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(text, "{comma}\n  {}: {}", serde_json::to_string(name)?, serde_json::to_string(value)?)?;
    }
    text.push_str("\n}\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn numbers_are_written_with_the_digits_of_their_type() {
        let t = Tensor::new(&[[0.1f32, -2.0], [f32::NAN, f32::INFINITY]], &Device::Cpu).expect("a tensor");
        assert_eq!(array(&t).expect("JSON").to_string(), r#"[[0.1,-2.0],["NaN","Infinity"]]"#);
        let t = Tensor::new(&[0.1f64, 1e300], &Device::Cpu).expect("a tensor");
        assert_eq!(array(&t).expect("JSON").to_string(), "[0.1,1e+300]");
        let t = Tensor::new(7u8, &Device::Cpu).expect("a scalar");
        assert_eq!(array(&t).expect("JSON").to_string(), "7");
        let t = Tensor::zeros((2, 0), DType::F32, &Device::Cpu).expect("nothing");
        assert_eq!(array(&t).expect("JSON").to_string(), "[[],[]]");
    }

    #[test]
    fn the_largest_come_first_and_what_is_no_number_last() {
        let t = Tensor::new(&[[[1.0f32], [f32::NAN], [3.0], [-1.0]]], &Device::Cpu).expect("a tensor");
        assert!(is_row(&t));
        let top = |n| largest_elements(&t, n).expect("JSON").to_string();
        assert_eq!(top(2), r#"[{"index":2,"value":3.0},{"index":0,"value":1.0}]"#);
        assert!(top(9).ends_with(r#"{"index":1,"value":"NaN"}]"#), "{}", top(9));
        let classes = Map::from_iter([("cat".to_owned(), json!(0.25)), ("dog".to_owned(), json!(0.75))]);
        assert_eq!(largest_classes(&classes, 1).to_string(), r#"[{"label":"dog","value":0.75}]"#);
    }

    #[test]
    fn summaries_tell_what_is_no_number() {
        let t = Tensor::new(&[1.0f32, 3.0, f32::NAN, f32::NEG_INFINITY], &Device::Cpu).expect("a tensor");
        let summary = summary(&t).expect("a summary");
        assert_eq!(
            summary,
            json!({"shape": [4], "type": "f32", "min": 1.0, "max": 3.0, "mean": 2.0, "nan": 1, "infinite": 1})
        );
    }
}
