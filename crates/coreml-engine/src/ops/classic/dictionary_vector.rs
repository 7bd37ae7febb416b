//! `engine.dictionary_vector`: a dictionary as a vector.

use coreml_values::DictionaryKey;

use super::{Declared, constant_keys, positions};
use crate::border;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::{FromValue, Value};

pub(super) const OP: OpSpec = OpSpec::new("engine.dictionary_vector", &[], build);

/// `engine.dictionary_vector(x, keys, sparse)` → the value of each key, 0 for those that x lacks; sparse: a dictionary from
/// the positions of the keys that x has to their values. Entries with other keys have no element.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, sparse) = (b.slot("x")?, b.attr::<bool>("sparse")?);
    let declared = if sparse { None } else { Some(Declared::of(b, 0)?) };
    let keys = constant_keys(b, "keys")?;
    let (length, positions) = (keys.len(), positions(&keys)?);
    b.run(move |f| {
        let Value::Dictionary(entries) = f.value(x)? else {
            let found = f.value(x)?.kind();
            return Err(OpError::Kind { name: "x".to_owned(), expected: "a dictionary", found });
        };
        let Some(declared) = &declared else {
            budget::claim_of::<(DictionaryKey, f64)>(entries.len())?;
            let mut found = Vec::with_capacity(entries.len());
            for (key, value) in entries.iter() {
                if let Some(&i) = positions.get(&border::key(key)?) {
                    found.push((DictionaryKey::Int(i as i64), f64::from_value("value", value)?));
                }
            }
            return one(border::dictionary(found)?);
        };
        let mut data = budget::filled(0.0, length)?;
        for (key, value) in entries.iter() {
            if let Some(&i) = positions.get(&border::key(key)?) {
                data[i] = f64::from_value("value", value)?;
            }
        }
        one(declared.value(data, &[length])?)
    })
}
