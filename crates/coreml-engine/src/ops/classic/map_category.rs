//! `engine.map_category`: categories as other categories.

use super::{constant_keys, one_key, positions};
use crate::border;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.map_category", &[], build);

/// `engine.map_category(x, from, to, default)` → what stands in `to` where x stands in `from`; else the default, or an error
/// where there is none.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let x = b.slot("x")?;
    let (from, to) = (constant_keys(b, "from")?, constant_keys(b, "to")?);
    if from.len() != to.len() {
        return Err(OpError::shape(format!("{} categories for {}", to.len(), from.len())));
    }
    let positions = positions(&from)?;
    let default = if b.has("default") { constant_keys(b, "default")?.pop() } else { None };
    b.run(move |f| {
        let key = one_key(f.value(x)?)?;
        let found = positions.get(&key).map(|&i| &to[i]).or(default.as_ref());
        let found = found.ok_or_else(|| OpError::data(format!("{key:?} is not in the table and has no default")))?;
        one(border::key_value(found.clone())?)
    })
}
