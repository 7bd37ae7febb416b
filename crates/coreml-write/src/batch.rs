//! Another batch for programs whose inputs have a fixed one: the leading extent of the inputs is followed through every
//! operation, types are made anew, constants that hold the old batch are mended. Operations that join the rows of a batch, or
//! whose constants can't be mended without doubt, are refused by name.
//!
//! The batch is the outermost index of its axis, so that an axis of `factor · batch` elements holds the rows one after the
//! other.

use std::collections::HashMap;

use coreml_format::description::{DimRange, FeatureType, FunctionDescription, ModelDescription, ShapeConstraint};
use coreml_format::program::{Argument, Binding, Dim, Function, Operation, Program, Value, ValueType};

use crate::builder::arg;
use crate::passes::{Known, Pool, constant_op};

mod products;
mod rules;
mod shapes;

/// Number of rows of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Always as many.
    Fixed(usize),
    /// From so many to so many.
    Range(usize, usize),
}

impl std::str::FromStr for Extent {
    type Err = String;

    /// `N`, or `N..M`, both included.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |s: &str| s.parse::<usize>().ok().filter(|n| (1..=1 << 20).contains(n));
        let found = match text.split_once("..") {
            Some((from, to)) => number(from).zip(number(to)).filter(|(a, b)| a < b).map(|(a, b)| Self::Range(a, b)),
            None => number(text).map(Self::Fixed),
        };
        found.ok_or_else(|| format!("expected a number of rows from 1, or a range such as 1..8, found `{text}`"))
    }
}

/// A batch to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The new one.
    pub extent: Extent,
    /// Inputs whose first axis is the batch; all if empty.
    pub inputs: Vec<String>,
}

/// Where a value has the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    axis: usize,
    /// Elements of a row along the axis.
    factor: usize,
}

/// Sets the batch of every function of a program that has one of the inputs.
///
/// # Errors
/// The function, and what is in the way: the operation and why it can't follow.
pub fn set_batch(
    program: &mut Program,
    description: &mut ModelDescription,
    batch: &Batch,
    pool: &mut Pool<'_>,
) -> Result<(), (String, String)> {
    let before: Vec<String> = crate::builder::check(program).iter().map(ToString::to_string).collect();
    let mut found = false;
    for (name, function) in &mut program.functions {
        let place = |e: String| (format!("function `{name}`"), e);
        let described = description.functions.entry(name.clone()).or_default();
        let wanted = wanted(function, described, batch).map_err(place)?;
        if wanted.is_empty() {
            continue;
        }
        found = true;
        set(function, described, &wanted, batch.extent, pool).map_err(place)?;
    }
    if !found {
        let names = if batch.inputs.is_empty() { "arrays".to_owned() } else { batch.inputs.join(", ") };
        return Err(("the inputs".to_owned(), format!("no function with inputs {names}")));
    }
    // What the builder infers is what stands there now.
    match crate::builder::check(program).iter().map(ToString::to_string).find(|e| !before.contains(e)) {
        Some(wrong) => Err(("the program with this batch".to_owned(), wrong)),
        None => Ok(()),
    }
}

/// Inputs of a function that have the batch.
fn wanted(function: &Function, described: &FunctionDescription, batch: &Batch) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for input in &described.inputs {
        let named = batch.inputs.contains(&input.name);
        let typed = function.inputs.iter().find(|i| i.name == input.name).and_then(|i| i.ty.tensor());
        let scalar = typed.is_none_or(|t| t.shape.is_empty());
        match &input.ty {
            FeatureType::MultiArray { .. } if named || (batch.inputs.is_empty() && !scalar) => {
                names.push(input.name.clone());
            }
            FeatureType::MultiArray { .. } => {}
            _ if named || batch.inputs.is_empty() => {
                return Err(format!("input `{}` is {}, which has no batch", input.name, input.ty.in_words()));
            }
            _ => {}
        }
    }
    Ok(names)
}

fn set(
    function: &mut Function,
    described: &mut FunctionDescription,
    wanted: &[String],
    extent: Extent,
    pool: &mut Pool<'_>,
) -> Result<(), String> {
    let mut types: HashMap<String, ValueType> = Known::of(function).types;
    types.extend(function.inputs.iter().map(|i| (i.name.clone(), i.ty.clone())));
    let leading = |name: &String| types.get(name).and_then(ValueType::tensor).and_then(|t| t.shape.first().copied());
    let mut old = None;
    for name in wanted {
        let Some(Dim::Fixed(n)) = leading(name) else {
            return Err(format!("input `{name}`: expected a fixed first extent"));
        };
        if n == 0 || old.as_ref().is_some_and(|&(_, m)| m != n) {
            let all: Vec<String> = wanted
                .iter()
                .map(|n| format!("{n} {}", leading(n).map_or("?".to_owned(), |d| d.to_string())))
                .collect();
            return Err(format!(
                "expected inputs of one first extent, found {}: name those of the batch",
                all.join(", ")
            ));
        }
        old = Some((name, n));
    }
    let Some((_, old)) = old else { return Ok(()) };
    let at = wanted.iter().map(|name| (name.clone(), At { axis: 0, factor: 1 })).collect();
    let mut follow = Follow { extent, old, known: Known::of(function), types, at, pool, new: Vec::new() };
    let mut operations = Vec::with_capacity(function.block.operations.len());
    for mut op in std::mem::take(&mut function.block.operations) {
        let places = follow.follow(&mut op).map_err(|e| format!("operation `{}` (`{}`): {e}", op.kind, op.name))?;
        for (i, output) in op.outputs.iter_mut().enumerate() {
            let Some(at) = *places.get(i).or(places.last()).unwrap_or(&None) else { continue };
            follow.retype(&mut output.ty, at).map_err(|e| format!("operation `{}` (`{}`): {e}", op.kind, op.name))?;
            follow.at.insert(output.name.clone(), at);
        }
        operations.append(&mut follow.new);
        operations.push(op);
    }
    for input in &mut function.inputs {
        if let Some(&at) = follow.at.get(&input.name) {
            follow.retype(&mut input.ty, at)?;
        }
    }
    describe(described, &follow)?;
    function.block.operations = operations;
    crate::builder::sweep(&mut function.block);
    Ok(())
}

/// What the description says of inputs and outputs.
fn describe(described: &mut FunctionDescription, follow: &Follow<'_, '_>) -> Result<(), String> {
    let (min, max, usual) = match follow.extent {
        Extent::Fixed(n) => (n, n, n),
        Extent::Range(min, max) => (min, max, follow.old.clamp(min, max)),
    };
    let flexible = min < max;
    for input in &mut described.inputs {
        let FeatureType::MultiArray { shape, constraint, .. } = &mut input.ty else { continue };
        if !follow.at.contains_key(&input.name) {
            continue;
        }
        if shape.is_empty() {
            // Models may leave to the program what shape an input has.
            let typed = follow.types.get(&input.name).and_then(ValueType::tensor).and_then(|t| t.fixed_shape());
            shape.extend(typed.ok_or_else(|| format!("input `{}`: expected known extents", input.name))?);
        }
        shape[0] = usual;
        let range = DimRange { min, max: Some(max) };
        match constraint {
            ShapeConstraint::Ranges(all) if !all.is_empty() => all[0] = range,
            ShapeConstraint::Enumerated(_) if flexible => {
                let found = "a list of shapes".to_owned();
                return Err(format!(
                    "input `{}`: expected a shape or ranges beside a range of rows, found {found}",
                    input.name
                ));
            }
            ShapeConstraint::Enumerated(all) => all.iter_mut().filter(|s| !s.is_empty()).for_each(|s| s[0] = usual),
            _ if flexible => {
                let fixed = |&n: &usize| DimRange { min: n, max: Some(n) };
                let mut all: Vec<DimRange> = shape.iter().map(fixed).collect();
                all[0] = range;
                *constraint = ShapeConstraint::Ranges(all);
            }
            _ => {}
        }
    }
    for output in &mut described.outputs {
        let Some(at) = follow.at.get(&output.name) else { continue };
        let FeatureType::MultiArray { shape, constraint, .. } = &mut output.ty else {
            return Err(format!("output `{}` is {}, which has no batch", output.name, output.ty.in_words()));
        };
        if flexible {
            shape.clear();
            *constraint = ShapeConstraint::Unspecified;
        } else if let Some(n) = shape.get_mut(at.axis) {
            *n = at.factor * usual;
        }
    }
    Ok(())
}

/// The batch while it is followed through a function.
struct Follow<'a, 'w> {
    extent: Extent,
    old: usize,
    known: Known,
    /// Types of before.
    types: HashMap<String, ValueType>,
    /// Values that have the batch.
    at: HashMap<String, At>,
    pool: &'a mut Pool<'w>,
    /// Constants for the operation at hand.
    new: Vec<Operation>,
}

/// Where the results have the batch; the last place holds for the rest.
type Places = Result<Vec<Option<At>>, String>;

fn stays(at: At) -> Places {
    Ok(vec![Some(at)])
}

impl Follow<'_, '_> {
    fn follow(&mut self, op: &mut Operation) -> Places {
        let mut nested = HashMap::new();
        op.blocks.iter().for_each(|b| crate::names::uses(b, &mut nested));
        if nested.keys().any(|name| self.at.contains_key(*name)) {
            return Err("its blocks use rows of the batch".to_owned());
        }
        if !op.inputs.values().flat_map(Argument::bindings).any(|b| self.at(b).is_some()) {
            return Ok(vec![None]);
        }
        match rules::rule(&op.kind) {
            Some(rule) if op.blocks.is_empty() => rule(self, op),
            _ => Err("it is not known to treat the rows of a batch alike".to_owned()),
        }
    }

    /// A type with the new batch.
    fn retype(&self, ty: &mut ValueType, at: At) -> Result<(), String> {
        let ValueType::Tensor(ty) = ty else { return Err("expected tensors as results".to_owned()) };
        let Some(dim) = ty.shape.get_mut(at.axis).filter(|d| **d == Dim::Fixed(at.factor * self.old)) else {
            return Err(format!("expected a result of {} along axis {}", at.factor * self.old, at.axis));
        };
        *dim = match self.extent {
            Extent::Fixed(n) => Dim::Fixed(at.factor * n),
            Extent::Range(..) => Dim::Unknown,
        };
        Ok(())
    }

    /// The extent as a number in constants; −1 if it is a range.
    fn number(&self, at: At) -> i64 {
        match self.extent {
            Extent::Fixed(n) => i64::try_from(at.factor * n).unwrap_or(i64::MAX),
            Extent::Range(..) => -1,
        }
    }

    fn at(&self, binding: &Binding) -> Option<At> {
        match binding {
            Binding::Name(name) => self.at.get(name).copied(),
            Binding::Value(_) => None,
        }
    }

    /// Shape of before.
    fn shape(&self, binding: &Binding) -> Option<Vec<usize>> {
        match binding {
            Binding::Name(name) => self.types.get(name)?.tensor()?.fixed_shape(),
            Binding::Value(value) => value.ty.tensor()?.fixed_shape(),
        }
    }

    /// Axes of a value.
    fn rank(&self, binding: &Binding) -> Result<usize, String> {
        let ty = match binding {
            Binding::Name(name) => self.types.get(name),
            Binding::Value(value) => Some(&value.ty),
        };
        Ok(ty.and_then(ValueType::tensor).ok_or("expected tensors")?.shape.len())
    }

    /// The only binding of a parameter.
    fn bound<'o>(&self, op: &'o Operation, parameter: &str) -> Result<&'o Binding, String> {
        match op.inputs.get(parameter) {
            Some(Argument::One(binding)) => Ok(binding),
            _ => Err(format!("parameter `{parameter}` is missing")),
        }
    }

    /// Place of the batch in a parameter, and its rank.
    fn place(&self, op: &Operation, parameter: &str) -> Result<(At, usize), String> {
        let binding = self.bound(op, parameter)?;
        let at = self.at(binding).ok_or_else(|| format!("the batch is not in `{parameter}`"))?;
        Ok((at, self.rank(binding)?))
    }

    /// Checks that no other parameter has the batch.
    fn only(&self, op: &Operation, parameters: &[&str]) -> Result<(), String> {
        let mut others = op.inputs.iter().filter(|(name, _)| !parameters.contains(&name.as_str()));
        match others.find(|(_, argument)| argument.bindings().iter().any(|b| self.at(b).is_some())) {
            Some((name, _)) => Err(format!("parameter `{name}` depends on the batch")),
            None => Ok(()),
        }
    }

    /// The value of a constant parameter.
    fn constant(&self, op: &Operation, parameter: &str) -> Option<Value> {
        let value = match op.inputs.get(parameter)? {
            Argument::One(Binding::Name(name)) => self.known.constants.get(name)?,
            Argument::One(Binding::Value(value)) => value,
            Argument::Many(_) => return None,
        };
        let stored = self.pool.read(value);
        Some(stored.map_or_else(|_| value.clone(), |s| Value::tensor(s.dtype, &s.shape, s.bytes)))
    }

    /// Integers or booleans of a parameter; `None` if it is omitted.
    fn maybe(&self, op: &Operation, parameter: &str) -> Result<Option<Vec<i64>>, String> {
        if !op.inputs.contains_key(parameter) {
            return Ok(None);
        }
        let value = self.constant(op, parameter).and_then(|v| arg::numbers(&v));
        value.map(Some).ok_or_else(|| format!("parameter `{parameter}` is no constant"))
    }

    fn ints(&self, op: &Operation, parameter: &str) -> Result<Vec<i64>, String> {
        self.maybe(op, parameter)?.ok_or_else(|| format!("parameter `{parameter}` is missing"))
    }

    /// Axes that a parameter names; `default` if it is omitted.
    fn axes(&self, op: &Operation, parameter: &str, rank: usize, default: &[usize]) -> Result<Vec<usize>, String> {
        let Some(all) = self.maybe(op, parameter)? else { return Ok(default.to_vec()) };
        let one = |a: i64| usize::try_from(if a < 0 { a + rank as i64 } else { a }).ok().filter(|&a| a < rank);
        let axes: Option<Vec<usize>> = all.into_iter().map(one).collect();
        axes.ok_or_else(|| format!("parameter `{parameter}` names no axis of {rank}"))
    }

    /// Binds a parameter to a new constant.
    fn bind(&mut self, op: &mut Operation, parameter: &str, value: Value) {
        let name = self.known.fresh(&format!("{}_{parameter}_batch", op.outputs.first().map_or("value", |o| &o.name)));
        op.inputs.insert(parameter.to_owned(), Argument::One(Binding::Name(name.clone())));
        self.new.push(constant_op(name, value));
    }

    /// Binds a parameter to integers or booleans of the type that it had.
    fn bind_ints(&mut self, op: &mut Operation, parameter: &str, all: &[i64]) -> Result<(), String> {
        let old = self.constant(op, parameter).ok_or_else(|| format!("parameter `{parameter}` is no constant"))?;
        let dtype = old.ty.tensor().map(|t| t.dtype).ok_or("expected a tensor")?;
        let bytes =
            arg::integers(dtype, all).ok_or_else(|| format!("parameter `{parameter}`: {all:?} do not fit {dtype}"))?;
        self.bind(op, parameter, Value::tensor(dtype, &[all.len()], bytes));
        Ok(())
    }

    /// A constant that holds the old batch along an axis, with another number of its rows, which must be equal.
    fn rows(&mut self, value: &Value, at: At, count: usize) -> Result<Value, String> {
        let stored = self.pool.read(value)?;
        let bytes = stored.dtype.bits().filter(|b| b.is_multiple_of(8)).ok_or("a constant of less than bytes")? / 8;
        let rest: usize = stored.shape.iter().skip(at.axis + 1).product();
        if stored.shape.get(at.axis) != Some(&(at.factor * self.old)) {
            return Err("it has an extent of its own".to_owned());
        }
        let row = at.factor * rest * bytes;
        let mut made = Vec::new();
        for block in stored.bytes.chunks(row.max(1) * self.old) {
            let mut rows = block.chunks(row.max(1));
            let first = rows.next().unwrap_or_default();
            if rows.any(|r| r != first) {
                return Err("a constant has another row for each of the batch".to_owned());
            }
            (0..count).for_each(|_| made.extend_from_slice(first));
        }
        let mut shape = stored.shape;
        shape[at.axis] = at.factor * count;
        self.pool.write(stored.dtype, &shape, made)
    }
}
