//! `engine.double`: a value as doubles, integers included. Between the parts of a pipeline.

use super::{Declared, numbers, shape_of};
use crate::budget;
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::OpSpec;
use crate::planned::Run;

pub(super) const OP: OpSpec = OpSpec::new("engine.double", &[], build);

/// `engine.double(x, shape?)` → x in the declared type; with a shape, the number x in every element.
fn build(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (x, declared) = (b.slot("x")?, Declared::of(b, 0)?);
    let extent = |n: i64| usize::try_from(n).map_err(|_| OpError::shape(format!("an extent of {n}")));
    let shape = b.attr_opt::<Vec<i64>>("shape")?;
    let shape = shape.map(|s| s.into_iter().map(extent).collect::<Result<Vec<_>, _>>()).transpose()?;
    b.run(move |f| {
        let data = numbers(f, &[x])?;
        match (&shape, data.as_slice()) {
            (None, _) => one(declared.value(data, &shape_of(f.value(x)?))?),
            (Some(shape), &[number]) => {
                let count = crate::shape::check_size(shape)?;
                one(declared.value(budget::filled(number, count)?, shape)?)
            }
            (Some(_), other) => Err(OpError::shape(format!("{} numbers for every element", other.len()))),
        }
    })
}
