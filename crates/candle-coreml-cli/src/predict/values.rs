//! Values of inputs in JSON: numbers, strings, lists of them, dictionaries of numbers.

use std::path::Path;

use candle_coreml::format::file;
use candle_coreml::format::foreign::recognise;
pub(super) use candle_coreml::json::{number, value_of};
use candle_coreml::{CoreMLModel, FeatureRow};
use serde_json::{Map, Value};

/// Maximum size of a values file: parsed JSON numbers take many times their text size.
const LARGEST: u64 = 64 << 20;

/// The inputs in a JSON file: one object with a value for each name, or a list of such objects, a row each.
pub(super) enum Inputs {
    One(FeatureRow),
    Rows(Vec<FeatureRow>),
}

/// What a text is that is often taken for another file.
pub(super) fn foreign(text: &str) -> Option<&'static str> {
    recognise(text.as_bytes()).filter(|_| !text.is_empty() && !text.starts_with('{'))
}

/// Reads [`Inputs`].
pub(super) fn read(path: &Path, model: &CoreMLModel) -> Result<Inputs, String> {
    let fail = |e: String| format!("{}: {e}", path.display());
    let text = file::read_text(path, LARGEST).map_err(|e| e.to_string())?;
    foreign(&text).map_or(Ok(()), |found| Err(fail(format!("expected JSON, found {found}"))))?;
    match serde_json::from_str(&text).map_err(|e| fail(e.to_string()))? {
        Value::Object(values) => row(values, model).map(Inputs::One).map_err(fail),
        Value::Array(rows) => {
            let one = |(i, value): (usize, Value)| match value {
                Value::Object(values) => row(values, model).map_err(|e| fail(format!("row {i}: {e}"))),
                _ => Err(fail(format!("row {i}: expected an object with the names of inputs"))),
            };
            rows.into_iter().enumerate().map(one).collect::<Result<_, _>>().map(Inputs::Rows)
        }
        _ => Err(fail("expected an object with the names of inputs, or a list of such objects".to_owned())),
    }
}

/// The values of one object in a file.
pub(super) fn one(path: &Path, model: &CoreMLModel) -> Result<FeatureRow, String> {
    match read(path, model)? {
        Inputs::One(row) => Ok(row),
        Inputs::Rows(_) => Err(format!("{}: expected one object; a list of rows is for --inputs", path.display())),
    }
}

/// The values of an object.
pub(super) fn row(values: Map<String, Value>, model: &CoreMLModel) -> Result<FeatureRow, String> {
    values.into_iter().map(|(name, value)| value_of(model, &name, &value).map(|v| (name, v))).collect()
}
