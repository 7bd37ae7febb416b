//! Values of inputs and outputs as JSON, as `candle-coreml predict --values` takes them.

use candle_core::{Device, Tensor};
use coreml_format::description::FeatureType;
use serde_json::{Number, Value};

use crate::model::{CoreMLModel, DictionaryKey, FeatureValue};

/// What JSON has no number for, as it is written and read here.
const SPECIAL: [(&str, f64); 3] = [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

/// A number in JSON; what JSON has no number for is a string.
pub fn number(x: f64) -> Value {
    let name = SPECIAL.iter().find(|(_, s)| s.to_bits() == x.to_bits() || (s.is_nan() && x.is_nan()));
    match name {
        Some((name, _)) => Value::from(*name),
        None => Value::from(x),
    }
}

/// The float in a value.
fn float(value: &Value) -> Option<f64> {
    let special = |text: &str| SPECIAL.iter().find(|(name, _)| *name == text).map(|(_, x)| *x);
    value.as_f64().or_else(|| value.as_str().and_then(special))
}

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
            let entries = entries.iter().map(|(k, number)| Some((key(k), float(number)?)));
            entries.collect::<Option<Vec<_>>>().map(FeatureValue::Dictionary)
        }
        _ => None,
    }
}

/// The value of an input in JSON: a number, nested lists of numbers, of equal lengths, a string, a list of strings or a
/// dictionary of numbers. Strings stand for what JSON has no number for: `NaN`, `Infinity`, `-Infinity`.
///
/// # Errors
/// What was expected and found, with the name of the input.
pub fn value_of(model: &CoreMLModel, name: &str, value: &Value) -> Result<FeatureValue, String> {
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
    let is_array = matches!(described, Some(FeatureType::MultiArray { .. }));
    if let Some(value) = other(model, name, value).filter(|v| !(is_array && matches!(v, FeatureValue::Strings(_)))) {
        return Ok(value);
    }
    let (mut shape, mut numbers) = (Vec::new(), Vec::new());
    flatten(value, 0, &mut shape, &mut numbers).map_err(|found| bad(found.to_string()))?;
    let whole: Option<Vec<i64>> = numbers.iter().map(Element::whole).collect();
    let tensor = match whole {
        Some(whole) => Tensor::from_vec(whole, shape, &Device::Cpu),
        None => {
            // Integers mixed with fractions become floats: reject those that a float cannot represent.
            if let Some(n) = numbers.iter().find_map(Element::rounded) {
                return Err(bad(format!("the integer {n}, which no float of 64 bits equals")));
            }
            let floats: Vec<f64> = numbers.iter().map(Element::float).collect();
            Tensor::from_vec(floats, shape, &Device::Cpu)
        }
    };
    tensor.map(FeatureValue::Tensor).map_err(|e| bad(e.to_string()))
}

/// An element of an array.
enum Element {
    Number(Number),
    Special(f64),
}

impl Element {
    fn whole(&self) -> Option<i64> {
        match self {
            Self::Number(n) => n.as_i64(),
            Self::Special(_) => None,
        }
    }

    /// An integer that a float cannot represent.
    fn rounded(&self) -> Option<i128> {
        match self {
            Self::Number(n) => n.as_i128().filter(|&i| i as f64 as i128 != i),
            Self::Special(_) => None,
        }
    }

    fn float(&self) -> f64 {
        match self {
            Self::Number(n) => n.as_f64().unwrap_or(f64::NAN),
            Self::Special(x) => *x,
        }
    }
}

/// Flattens numbers and infers or checks the shape; the error is the offending value.
fn flatten<'v>(
    value: &'v Value,
    depth: usize,
    shape: &mut Vec<usize>,
    numbers: &mut Vec<Element>,
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
            numbers.push(Element::Number(n.clone()));
            Ok(())
        }
        Value::Bool(b) => {
            numbers.push(Element::Number(u8::from(*b).into()));
            Ok(())
        }
        other => {
            numbers.push(Element::Special(float(other).ok_or(other)?));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_has_no_number_for_goes_both_ways() {
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e300] {
            let (mut shape, mut found) = (Vec::new(), Vec::new());
            let text = serde_json::to_string(&[number(x), number(1.0)]).expect("JSON");
            let value: Value = serde_json::from_str(&text).expect("JSON");
            flatten(&value, 0, &mut shape, &mut found).expect("numbers");
            assert_eq!((shape, found[0].float().to_bits()), (vec![2], x.to_bits()), "{text}");
        }
        assert!(flatten(&Value::from("nan"), 0, &mut Vec::new(), &mut Vec::new()).is_err());
    }
}
