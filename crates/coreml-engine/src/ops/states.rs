//! Reading and writing states (opset iOS18).

use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::op::{OpSpec, since::*};
use crate::planned::Run;

pub(crate) const OPS: &[OpSpec] = &[
    OpSpec::impure("coreml_update_state", IOS18, update).writes("state"),
    OpSpec::impure("read_state", IOS18, read),
    OpSpec::impure("write_state", IOS18, write).writes("input"),
];

/// `read_state(input)`: a copy of the state's current value.
fn read(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let state = b.slot("input")?;
    b.run(move |f| one(f.state(state)?.read()?))
}

/// `write_state(input, data)`: replaces the value; returns nothing.
fn write(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (state, data) = (b.slot("input")?, b.slot("data")?);
    b.run(move |f| {
        let data = f.array(data)?;
        f.state(state)?.write(data.tensor())?;
        Ok(Vec::new())
    })
}

/// `coreml_update_state(state, value)`: writes, then reads.
fn update(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (state, value) = (b.slot("state")?, b.slot("value")?);
    b.run(move |f| {
        let value = f.array(value)?;
        f.state(state)?.write(value.tensor())?;
        one(f.state(state)?.read()?)
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of};

    #[test]
    fn what_is_written_is_read_and_earlier_reads_stay() {
        let body = "tensor<fp16, [4]> before = read_state(input = s); tensor<fp16, [4]> h = cast(x = x, dtype = string(\"fp16\")); \
            write_state(input = s, data = h); tensor<fp16, [4]> after = read_state(input = s); \
            tensor<fp16, [8]> y = concat(values = (before, after), axis = int32(0), interleave = bool(false));";
        near(&of(body, &[4], &[1.0, 2.0, 3.0, 4.0]), &[0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
