//! Control flow, lists and selection.
//!
//! Semantics follow the reference documentation of coremltools' `control_flow` chapter.

use std::sync::Arc;

use coreml_format::dtype::DataType;

use super::elementwise_binary::broadcast_shape;
use crate::array::Array;
use crate::budget::{self, Counted};
use crate::build::{OpBuilder, one};
use crate::error::OpError;
use crate::frame::{Frame, Slot};
use crate::op::{OpSpec, since::*};
use crate::planned::Run;
use crate::shape::check_size;
use crate::value::{FromValue, Value};

pub(super) const OPS: &[OpSpec] = &[
    OpSpec::new("cond", IOS15, cond),
    OpSpec::new("list_gather", IOS15, list_gather),
    OpSpec::new("list_length", IOS15, list_length),
    OpSpec::new("list_read", IOS15, list_read),
    OpSpec::new("list_scatter", IOS15, list_scatter),
    OpSpec::new("list_write", IOS15, list_write),
    OpSpec::new("make_list", IOS15, make_list),
    OpSpec::elementwise("select", IOS15, select),
    OpSpec::new("while_loop", IOS15, while_loop),
];

/// Maximum length of a list.
const MAX_LIST: usize = 1 << 20;

/// `select(cond, a, b)`: elementwise, with broadcasting.
fn select(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (c, x, y) = (b.slot("cond")?, b.slot("a")?, b.slot("b")?);
    b.run(move |f| {
        let (c, x, y) = (f.array(c)?, f.array(x)?, f.array(y)?);
        let shape = broadcast_shape(&broadcast_shape(c.shape(), x.shape())?, y.shape())?;
        let cond = candle_core::Tensor::from_vec(c.to_bools()?, c.shape(), f.device())?;
        if shape.contains(&0) {
            return one(x.with(candle_core::Tensor::zeros(shape, x.tensor().dtype(), f.device())?));
        }
        let y = y.tensor().counted_to_dtype(x.tensor().dtype())?;
        let s = shape.as_slice();
        budget::claim(shape.iter().product::<usize>().saturating_mul(x.tensor().dtype().size_in_bytes()))?;
        let t = cond.broadcast_as(s)?.where_cond(&x.tensor().broadcast_as(s)?, &y.broadcast_as(s)?)?;
        one(x.with(t))
    })
}

/// `cond(pred)` with two blocks.
fn cond(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let pred = b.param::<bool>("pred")?;
    let [yes, no] = b.blocks() else { return Err(OpError::shape("cond needs two blocks")) };
    let (yes, no) = (yes.clone(), no.clone());
    b.run(move |f| {
        let block = if *pred.get(f)? { &yes } else { &no };
        f.run_block(block, Vec::new())
    })
}

/// `while_loop(loop_vars)` with a condition block and a body block; all loops of a prediction share a limit on rounds.
fn while_loop(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let vars = b.slots("loop_vars")?;
    let [condition, body] = b.blocks() else { return Err(OpError::shape("while_loop needs two blocks")) };
    let (condition, body) = (condition.clone(), body.clone());
    b.run(move |f| {
        let _open = budget::Loop::open();
        let mut values = vars.iter().map(|&s| f.value(s).cloned()).collect::<Result<Vec<_>, _>>()?;
        loop {
            let flag = f.run_block(&condition, values.clone())?;
            let flag = flag.first().ok_or_else(|| OpError::shape("the condition has no result"))?;
            if !bool::from_value("condition", flag)? {
                return Ok(values);
            }
            f.round()?;
            values = f.run_block(&body, values)?;
        }
    })
}

fn list<'f>(f: &'f Frame<'_>, slot: Slot) -> Result<&'f Arc<Vec<Value>>, OpError> {
    match f.value(slot)? {
        Value::List(l) => Ok(l),
        other => Err(OpError::Kind { name: "ls".to_owned(), expected: "a list", found: other.kind() }),
    }
}

/// Copies the elements of a list for modification.
fn copy(list: &[Value]) -> Result<Vec<Value>, OpError> {
    budget::collect(list.iter().cloned())
}

fn at(index: i64, len: usize) -> Result<usize, OpError> {
    let i = if index < 0 { index + len as i64 } else { index };
    usize::try_from(i).ok().filter(|&i| i < len).ok_or_else(|| OpError::shape(format!("element {index} of {len}")))
}

/// `make_list(init_length = 1, dynamic_length = true, elem_shape, dtype)`: elements start as zeros.
fn make_list(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let length = b.param_or("init_length", 1i64)?;
    let shapes = b.slots("elem_shape")?;
    // Lists can always grow here, whether declared dynamic or not.
    b.attr_or("dynamic_length", true)?;
    let name: String = b.attr_or("dtype", "fp32".to_owned())?;
    let dtype = DataType::from_name(&name).ok_or_else(|| OpError::data(format!("unknown type `{name}`")))?;
    b.run(move |f| {
        let length = usize::try_from(*length.get(f)?).ok().filter(|&n| n <= MAX_LIST);
        let length = length.ok_or_else(|| OpError::shape(format!("a list of more than {MAX_LIST} elements")))?;
        let mut shape = Vec::new();
        for &slot in &shapes {
            match f.value(slot)? {
                // A symbolic extent is unknown until the first write.
                Value::Strings(_) => shape.push(0),
                other => {
                    let values = Vec::<i64>::from_value("elem_shape", other)?;
                    shape.extend(values.into_iter().map(|n| usize::try_from(n).unwrap_or(0)));
                }
            }
        }
        check_size(&shape)?;
        let zeros = budget::zeros(shape, candle_core::DType::F32, f.device())?;
        let element = Value::Array(Array::new(zeros, dtype)?);
        Ok(vec![Value::List(Arc::new(budget::filled(element, length)?))])
    })
}

/// `list_length(ls)`.
fn list_length(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let ls = b.slot("ls")?;
    b.run(move |f| {
        let n = list(f, ls)?.len() as i64;
        one(Array::from_i64(vec![n], &[], DataType::I32, f.device())?)
    })
}

/// `list_read(ls, index)`.
fn list_read(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let ls = b.slot("ls")?;
    let index = b.param::<i64>("index")?;
    b.run(move |f| {
        let list = list(f, ls)?;
        let i = at(*index.get(f)?, list.len())?;
        Ok(vec![list[i].clone()])
    })
}

fn grow(list: &mut Vec<Value>, length: usize) -> Result<(), OpError> {
    if length > MAX_LIST {
        return Err(OpError::shape(format!("a list of more than {MAX_LIST} elements")));
    }
    if let (Some(last), true) = (list.last().cloned(), length > list.len()) {
        budget::claim_of::<Value>(length)?;
        list.resize(length, last);
    }
    Ok(())
}

/// `list_write(ls, index, value)`.
fn list_write(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (ls, value) = (b.slot("ls")?, b.slot("value")?);
    let index = b.param::<i64>("index")?;
    b.run(move |f| {
        let value = f.value(value)?.clone();
        let mut items = copy(list(f, ls)?)?;
        let index = *index.get(f)?;
        if index >= 0 {
            grow(&mut items, index as usize + 1)?;
        }
        let i = at(index, items.len())?;
        items[i] = value;
        Ok(vec![Value::List(Arc::new(items))])
    })
}

/// `list_gather(ls, indices)`: the elements, stacked.
fn list_gather(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let ls = b.slot("ls")?;
    let indices = b.param::<Vec<i64>>("indices")?;
    b.run(move |f| {
        let items = list(f, ls)?;
        let indices = indices.get(f)?;
        let pick = |&i: &i64| items[at(i, items.len())?].array("ls", f.device());
        let picked = budget::try_collect(indices.iter().map(pick))?;
        let first = picked.first().ok_or_else(|| OpError::shape("no indices"))?;
        let tensors: Vec<_> = picked.iter().map(Array::tensor).collect();
        let parts = tensors.iter().map(|t| t.unsqueeze(0)).collect::<Result<Vec<_>, _>>()?;
        one(first.with(budget::cat(&parts, 0)?))
    })
}

/// `list_scatter(ls, indices, value)`: writes `value[k]` to element `indices[k]`.
fn list_scatter(b: &OpBuilder<'_>) -> Result<Run, OpError> {
    let (ls, value) = (b.slot("ls")?, b.slot("value")?);
    let indices = b.param::<Vec<i64>>("indices")?;
    b.run(move |f| {
        let value = f.array(value)?;
        let mut items = copy(list(f, ls)?)?;
        for (k, &i) in indices.get(f)?.iter().enumerate() {
            if i >= 0 {
                grow(&mut items, i as usize + 1)?;
            }
            let i = at(i, items.len())?;
            items[i] = Value::Array(value.with(value.tensor().get(k)?));
        }
        Ok(vec![Value::List(Arc::new(items))])
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{near, of, refused};

    #[test]
    fn select_takes_nothing_from_the_other_branch() {
        let body = "tensor<bool, [3]> c = greater(x = x, y = fp32(0)); tensor<fp32, [3]> l = log(x = x); \
            tensor<fp32, [3]> y = select(cond = c, a = l, b = fp32(7));";
        near(&of(body, &[3], &[1.0, -1.0, 0.0]), &[0.0, 7.0, 7.0]);
    }

    #[test]
    fn while_loop_may_have_no_round() {
        let body = |most: i32| {
            format!(
                "tensor<fp32, [1]> y, int32 n = while_loop(loop_vars = (x, int32(0))) \
                 (tensor<fp32, [1]> a, int32 k) {{ bool more = less(x = k, y = int32({most})); }} -> (more) \
                 (tensor<fp32, [1]> d, int32 l) {{ tensor<fp32, [1]> t = add(x = d, y = d); int32 u = add(x = l, y = int32(1)); }} -> (t, u);"
            )
        };
        near(&of(&body(0), &[1], &[3.0]), &[3.0]);
        near(&of(&body(4), &[1], &[3.0]), &[48.0]);
    }

    #[test]
    fn list_read_refuses_positions_outside() {
        let body = |at: i32| {
            format!(
                "list<tensor<fp32, [2]>, 1> e = make_list(init_length = int32(1), elem_shape = (int32(2)), \
                 dtype = string(\"fp32\"), dynamic_length = bool(false)); \
                 list<tensor<fp32, [2]>, 1> f = list_write(ls = e, index = int32(0), value = x); \
                 tensor<fp32, [2]> y = list_read(ls = f, index = int32({at}));"
            )
        };
        near(&of(&body(0), &[2], &[1.0, 2.0]), &[1.0, 2.0]);
        refused(&body(3), &[2], &[1.0, 2.0], "list_read");
    }
}
