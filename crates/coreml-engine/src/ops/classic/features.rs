//! `engine.features`: numbers, arrays and sparse vectors as one vector.

use coreml_values::DictionaryKey;

use super::{Declared, append, numbers};
use crate::border;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::OpSpec;
use crate::planned::Run;
use crate::value::{FromValue, Value};

pub(super) const OP: OpSpec = OpSpec::new("engine.features", &[], build);

/// `engine.features(x…, lengths)` → the elements of every x, in order. A dictionary is a sparse vector: values by position,
/// 0 where there is none.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slots("x")?, Declared::of(b, 0)?);
    let lengths: Vec<i64> = b.attr("lengths")?;
    if lengths.len() != x.len() {
        return Err(OpError::shape(format!("{} lengths for {} features", lengths.len(), x.len())));
    }
    b.run(move |f| {
        let mut all = Vec::new();
        for (i, (&slot, &wanted)) in x.iter().zip(&lengths).enumerate() {
            let wanted = usize::try_from(wanted).map_err(|_| OpError::shape(format!("feature {i} of {wanted}")))?;
            let part = part(f, slot, wanted)?;
            if part.len() != wanted {
                return Err(OpError::shape(format!("feature {i} has {} elements, not {wanted}", part.len())));
            }
            append(&mut all, part)?;
        }
        let length = all.len();
        one(declared.value(all, &[length])?)
    })
}

/// The elements of a feature.
fn part(f: &Frame<'_>, slot: Slot, length: usize) -> Result<Vec<f64>, OpError> {
    let Value::Dictionary(entries) = f.value(slot)? else { return numbers(f, &[slot]) };
    let mut data = budget::filled(0.0, length)?;
    for (key, value) in entries.iter() {
        let key = border::key(key)?;
        let at = match &key {
            DictionaryKey::Int(n) => usize::try_from(*n).ok(),
            DictionaryKey::String(_) => None,
        };
        let Some(element) = at.and_then(|at| data.get_mut(at)) else {
            return Err(OpError::data(format!("{key:?} is no position in a vector of {length} elements")));
        };
        *element = f64::from_value("x", value)?;
    }
    Ok(data)
}
