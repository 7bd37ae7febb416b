//! `engine.impute`: missing values replaced.

use std::sync::Arc;

use super::{Declared, constant_keys, numbers, shape_of};
use crate::border;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::{FromValue, Strings, Value};

pub(super) const OP: OpSpec = OpSpec::new("engine.impute", &[], build);

/// `engine.impute(x, missing, value, keys)` → x with every value that equals `missing` (NaN equals NaN) replaced. Numbers: by
/// one value or by one for each element. Strings: by one string. Dictionaries: by the value of their key.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let slot = b.slot("value")?;
    if let Some(Value::Strings(_)) = b.constant(slot) {
        let (missing, with): (String, String) = (b.attr("missing")?, b.attr("value")?);
        return b.run(move |f| match f.value(x)? {
            Value::Strings(s) => {
                let data = s.data.iter().map(|t| if *t == missing { with.clone() } else { t.clone() }).collect();
                one(Value::Strings(Arc::new(Strings { data, shape: s.shape.clone() })))
            }
            other => Err(OpError::Kind { name: "x".to_owned(), expected: "strings", found: other.kind() }),
        });
    }
    let missing: f64 = b.attr("missing")?;
    let is_missing = move |x: f64| x == missing || (x.is_nan() && missing.is_nan());
    let with: Vec<f64> = b.attr("value")?;
    if b.has("keys") {
        let keys = constant_keys(b, "keys")?;
        if keys.len() != with.len() {
            return Err(OpError::shape(format!("{} values for {} keys", with.len(), keys.len())));
        }
        return b.run(move |f| {
            let Value::Dictionary(entries) = f.value(x)? else {
                let found = f.value(x)?.kind();
                return Err(OpError::Kind { name: "x".to_owned(), expected: "a dictionary", found });
            };
            let mut made = Vec::with_capacity(entries.len());
            for (key, value) in entries.iter() {
                let (key, mut x) = (border::key(key)?, f64::from_value("value", value)?);
                if is_missing(x) {
                    let at = keys.iter().position(|k| *k == key);
                    x = at.map(|i| with[i]).ok_or_else(|| OpError::data(format!("{key:?} has no value to impute")))?;
                }
                made.push((key, x));
            }
            one(border::dictionary(made)?)
        });
    }
    let declared = Declared::of(b, 0)?;
    b.run(move |f| {
        let mut data = numbers(f, &[x])?;
        if with.len() != 1 && with.len() != data.len() {
            return Err(OpError::shape(format!("{} values to impute for {} elements", with.len(), data.len())));
        }
        for (i, x) in data.iter_mut().enumerate().filter(|(_, x)| is_missing(**x)) {
            *x = if with.len() == 1 { with[0] } else { with[i] };
        }
        one(declared.value(data, &shape_of(f.value(x)?))?)
    })
}
