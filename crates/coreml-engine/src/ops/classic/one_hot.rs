//! `engine.categories`: a category as a vector, or a dictionary, with a single 1.

use coreml_values::DictionaryKey;

use super::{Declared, constant_keys, one_key, positions};
use crate::border;
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.categories", &[], build);

/// `engine.categories(x, keys, sparse, unknown)` → a vector with 1 at the position of x among the keys; sparse: a dictionary
/// from the position to 1. A value that is no key is an error, or gives zeros.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, sparse) = (b.slot("x")?, b.attr::<bool>("sparse")?);
    let ignore = b.required_choice("unknown", &[("error", false), ("ignore", true)])?;
    let keys = constant_keys(b, "keys")?;
    let (length, positions) = (keys.len(), positions(&keys)?);
    let declared = if sparse { None } else { Some(Declared::of(b, 0)?) };
    b.run(move |f| {
        let key = one_key(f.value(x)?)?;
        let at = positions.get(&key).copied();
        if at.is_none() && !ignore {
            return Err(OpError::data(format!("{key:?} is none of the {length} categories")));
        }
        let Some(declared) = &declared else {
            let entry = at.map(|i| (DictionaryKey::Int(i as i64), 1.0));
            return one(border::dictionary(entry.into_iter().collect::<Vec<_>>())?);
        };
        let mut data = budget::filled(0.0, length)?;
        if let Some(i) = at {
            data[i] = 1.0;
        }
        one(declared.value(data, &[length])?)
    })
}
