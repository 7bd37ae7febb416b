//! `imputer`: missing values replaced.

use std::borrow::Cow;

use coreml_format::description::FeatureType;
use coreml_format::model_types::Body;
use coreml_format::model_types::imputer::{ImputedValue, ReplaceValue};
use coreml_format::program::Program;

use super::{Maker, Parameters, doubles, ints, is_numeric, named, strings, text};
use crate::error::LowerError;
use crate::model_types::Source;

pub(crate) fn lower<'m>(source: Source<'m>, place: &str) -> Result<Cow<'m, Program>, LowerError> {
    let mut maker = Maker::new(source, place)?;
    let Body::Imputer(model) = source.body else {
        return Err(maker.invalid("an imputer", source.body.name()));
    };
    let (input, output) = (maker.input()?, maker.output()?);
    let imputed = model.imputed_value.as_ref().ok_or_else(|| maker.invalid("a value to impute", "none"))?;
    let missing = match (&model.replace_value, imputed) {
        (Some(ReplaceValue::Double(x)), _) => doubles(&[*x]),
        (Some(ReplaceValue::Int64(n)), _) => doubles(&[*n as f64]),
        (Some(ReplaceValue::String(t)), ImputedValue::String(_)) => text(t),
        (None, ImputedValue::String(_)) => text(""),
        (Some(ReplaceValue::String(_)), _) => return Err(maker.invalid("a number that is replaced", "a string")),
        (None, _) => doubles(&[f64::NAN]),
    };
    let texts = matches!(imputed, ImputedValue::String(_));
    if texts && matches!(model.replace_value, Some(ReplaceValue::Double(_) | ReplaceValue::Int64(_))) {
        return Err(maker.invalid("a string that is replaced", "a number"));
    }
    let (value, takes): (Parameters, bool) = match imputed {
        ImputedValue::Double(x) => (vec![("value", doubles(&[*x]))], is_numeric(&input.ty)),
        ImputedValue::Int64(n) => (vec![("value", doubles(&[*n as f64]))], is_numeric(&input.ty)),
        ImputedValue::Doubles(all) => (vec![("value", doubles(&all.vector))], is_numeric(&input.ty)),
        ImputedValue::Int64s(all) => {
            let all: Vec<f64> = all.vector.iter().map(|&n| n as f64).collect();
            (vec![("value", doubles(&all))], is_numeric(&input.ty))
        }
        ImputedValue::String(t) => (vec![("value", text(t))], input.ty == FeatureType::String),
        ImputedValue::ByString(map) => {
            let keys: Vec<String> = map.map.keys().cloned().collect();
            let all: Vec<f64> = map.map.values().copied().collect();
            let value = vec![("value", doubles(&all)), ("keys", strings(&keys))];
            (value, input.ty == FeatureType::Dictionary { int_keys: false })
        }
        ImputedValue::ByInt64(map) => {
            let keys: Vec<i64> = map.map.keys().copied().collect();
            let all: Vec<f64> = map.map.values().copied().collect();
            let value = vec![("value", doubles(&all)), ("keys", ints(&keys))];
            (value, input.ty == FeatureType::Dictionary { int_keys: true })
        }
    };
    if !takes {
        return Err(maker.invalid("an input of the kind that is imputed", input.ty.in_words()));
    }
    let mut parameters = vec![("x", named(&input.name)), ("missing", missing)];
    parameters.extend(value);
    let result = maker.result(output)?;
    maker.add("engine.impute", parameters, vec![result]);
    maker.finish()
}
