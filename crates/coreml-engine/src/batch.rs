//! Batch rules: how each operation propagates an open batch dimension from its operands to its results.
//!
//! A row of the operation table names its [`BatchRule`]; an operation without one keeps the batch of its function fixed
//! (`passes/dynamic_batch.rs`).

use std::collections::HashMap;

use coreml_format::program::{Argument, Binding, Operation, Value, ValueType};

use crate::graph::{Graph, used_values};

/// Propagates the dimension through an operation that has it in one of its operands.
///
/// # Errors
/// A message saying why the operation needs the fixed extent.
pub(crate) type BatchRule = for<'b> fn(&BatchDim<'b>, &'b Operation) -> Result<Followed, String>;

/// Axis of the dimension in the results, and replacements for parameters that state its extent.
pub(crate) type Followed = (Option<usize>, Vec<(String, Argument)>);

/// The batch dimension while it is propagated through a function.
pub(crate) struct BatchDim<'b> {
    pub(crate) graph: Graph<'b>,
    /// Declared types of the function's inputs.
    pub(crate) types: HashMap<&'b str, &'b ValueType>,
    pub(crate) extent: usize,
    /// Axis of the dimension in each value that has it.
    pub(crate) axes: HashMap<&'b str, usize>,
}

/// A value that has the dimension.
pub(crate) struct Source {
    pub(crate) axis: usize,
    pub(crate) shape: Vec<usize>,
}

impl Source {
    /// The axis, if it is not among the axes the operation works along.
    pub(crate) fn beside(&self, others: &[usize]) -> Result<usize, String> {
        if others.contains(&self.axis) { Err("works along the dimension".to_owned()) } else { Ok(self.axis) }
    }
}

pub(crate) fn literal(value: Value) -> Argument {
    Argument::One(Binding::Value(value))
}

impl<'b> BatchDim<'b> {
    pub(crate) fn shape(&self, binding: &Binding) -> Option<Vec<usize>> {
        match binding {
            Binding::Value(value) => value.ty.tensor()?.fixed_shape(),
            Binding::Name(name) => match self.types.get(name.as_str()) {
                Some(ty) => ty.tensor()?.fixed_shape(),
                None => {
                    let (_, op) = self.graph.producer(name)?;
                    op.outputs.iter().find(|o| o.name == *name)?.ty.tensor()?.fixed_shape()
                }
            },
        }
    }

    pub(crate) fn axis(&self, binding: &Binding) -> Option<usize> {
        match binding {
            Binding::Name(name) => self.axes.get(name.as_str()).copied(),
            Binding::Value(_) => None,
        }
    }

    /// The operand bound to a parameter, which must have the dimension.
    pub(crate) fn source(&self, op: &Operation, parameter: &str) -> Result<Source, String> {
        let found = op.inputs.get(parameter).and_then(|argument| match argument {
            Argument::One(binding) => Some(Source { axis: self.axis(binding)?, shape: self.shape(binding)? }),
            Argument::Many(_) => None,
        });
        found.ok_or_else(|| format!("the dimension is not one of `{parameter}`"))
    }

    /// Integers of a constant parameter.
    pub(crate) fn ints(&self, op: &'b Operation, parameter: &str) -> Result<Vec<i64>, String> {
        let values = self.graph.numbers(op, parameter).ok_or_else(|| format!("`{parameter}` is not constant"))?;
        Ok(values.into_iter().map(|v| v as i64).collect())
    }

    /// Same as [`ints`](Self::ints); empty if the parameter is omitted.
    pub(crate) fn ints_or_none(&self, op: &'b Operation, parameter: &str) -> Result<Vec<i64>, String> {
        if op.inputs.contains_key(parameter) { self.ints(op, parameter) } else { Ok(Vec::new()) }
    }

    /// Axes named by a parameter.
    pub(crate) fn dims(&self, op: &'b Operation, parameter: &str, rank: usize) -> Result<Vec<usize>, String> {
        let one = |v: i64| usize::try_from(if v < 0 { v + rank as i64 } else { v }).ok().filter(|&d| d < rank);
        let dims = self.ints(op, parameter)?.into_iter().map(one).collect::<Option<Vec<usize>>>();
        dims.ok_or_else(|| format!("`{parameter}` names no dimension"))
    }

    /// Checks that only these parameters have the dimension.
    pub(crate) fn only(&self, op: &Operation, parameters: &[&str]) -> Result<(), String> {
        let mut others = op.inputs.iter().filter(|(name, _)| !parameters.contains(&name.as_str()));
        match others.find(|(_, argument)| argument.bindings().iter().any(|b| self.axis(b).is_some())) {
            Some((name, _)) => Err(format!("the dimension is one of `{name}`")),
            None => Ok(()),
        }
    }

    /// The operand `x`, which must be the only one with the dimension.
    pub(crate) fn only_x(&self, op: &Operation) -> Result<Source, String> {
        self.only(op, &["x"])?;
        self.source(op, "x")
    }

    /// Propagates the dimension through an operation by its rule.
    ///
    /// # Errors
    /// Same as [`BatchRule`].
    pub(crate) fn follow(&self, op: &'b Operation, rule: Option<BatchRule>) -> Result<Followed, String> {
        if !used_values(op).into_iter().any(|name| self.axes.contains_key(name)) {
            return Ok((None, Vec::new()));
        }
        if !op.blocks.is_empty() {
            return Err("holds blocks".to_owned());
        }
        rule.ok_or("is not known to repeat what it does along a dimension")?(self, op)
    }
}

/// The results have the dimension at this axis.
pub(crate) fn stays(axis: usize) -> Result<Followed, String> {
    Ok((Some(axis), Vec::new()))
}

/// Row i of the result depends on row i of each operand that has the dimension.
pub(crate) fn elementwise(dim: &BatchDim<'_>, op: &Operation) -> Result<Followed, String> {
    stays(place(dim, op)?)
}

/// Axis of the dimension after broadcasting. Shapes align at the last dimension; operands without the dimension may
/// have extent one there.
pub(crate) fn place(dim: &BatchDim<'_>, op: &Operation) -> Result<usize, String> {
    let mut operands = Vec::new();
    for (name, argument) in &op.inputs {
        let Argument::One(binding) = argument else { return Err(format!("`{name}` are several values")) };
        let shape = dim.shape(binding).ok_or_else(|| format!("the shape of `{name}` is not known"))?;
        operands.push((shape, dim.axis(binding)));
    }
    let rank = operands.iter().map(|(shape, _)| shape.len()).max().unwrap_or(0);
    let mut places = operands.iter().filter_map(|(shape, axis)| Some((*axis)? + rank - shape.len()));
    let place = places.next().ok_or("no operand has the dimension")?;
    if places.any(|other| other != place) {
        return Err("the dimension has several places".to_owned());
    }
    let repeated = |shape: &[usize]| (place + shape.len()).checked_sub(rank).is_none_or(|d| shape[d] == 1);
    let fits = operands.iter().all(|(shape, axis)| axis.is_some() || repeated(shape));
    if fits { Ok(place) } else { Err("an operand has an extent of its own in its place".to_owned()) }
}

/// An operation along the axes named by a parameter.
pub(crate) fn along<'b>(dim: &BatchDim<'b>, op: &'b Operation, parameter: &str) -> Result<Followed, String> {
    let x = dim.only_x(op)?;
    stays(x.beside(&dim.dims(op, parameter, x.shape.len())?)?)
}

/// Same as [`along`], defaulting to the last axis.
pub(crate) fn along_or_last<'b>(dim: &BatchDim<'b>, op: &'b Operation, parameter: &str) -> Result<Followed, String> {
    if op.inputs.contains_key(parameter) {
        return along(dim, op, parameter);
    }
    let x = dim.only_x(op)?;
    stays(x.beside(&[x.shape.len() - 1])?)
}

pub(crate) fn transpose<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    let x = dim.only_x(op)?;
    let perm = dim.dims(op, "perm", x.shape.len())?;
    stays(perm.iter().position(|&d| d == x.axis).ok_or("`perm` leaves it out")?)
}

pub(crate) fn expand_dims<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    let x = dim.only_x(op)?;
    let result = x.shape.len() + dim.ints(op, "axes")?.len();
    let axes = dim.dims(op, "axes", result)?;
    let mut places = (0..result).filter(|d| !axes.contains(d));
    stays(places.nth(x.axis).ok_or("`axes` repeat")?)
}

pub(crate) fn squeeze<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    let x = dim.only_x(op)?;
    let axes = dim.dims(op, "axes", x.shape.len())?;
    let axis = x.beside(&axes)?;
    stays(axis - axes.iter().filter(|&&d| d < axis).count())
}

pub(crate) fn concat<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    dim.only(op, &["values"])?;
    let values = op.inputs.get("values").map_or(&[][..], Argument::bindings);
    let rank = values.first().and_then(|v| dim.shape(v)).ok_or("a shape is not known")?.len();
    let axes = values.iter().map(|v| dim.axis(v)).collect::<Option<Vec<usize>>>();
    let axes = axes.ok_or("a value lacks the dimension")?;
    let along = if op.inputs.contains_key("axis") { dim.dims(op, "axis", rank)? } else { vec![0] };
    let axis = axes[0];
    if axes.iter().any(|&a| a != axis) || along.contains(&axis) {
        return Err("joins along the dimension".to_owned());
    }
    stays(axis)
}

/// A product along the last dimension, with a residual that has the dimension at the same axis.
pub(crate) fn linear(dim: &BatchDim<'_>, op: &Operation) -> Result<Followed, String> {
    let x = factor(dim, op)?;
    stays(x.beside(&[x.shape.len() - 1])?)
}

/// A convolution with a single-point kernel.
pub(crate) fn conv<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    let x = factor(dim, op)?;
    let weight = op.inputs.get("weight").and_then(|w| dim.shape(w.bindings().first()?));
    let weight = weight.ok_or("the shape of `weight` is not known")?;
    let point = weight.get(x.axis) == Some(&1);
    let steps = dim.ints_or_none(op, "strides")?.iter().all(|&s| s == 1);
    if !point || !steps || dim.ints_or_none(op, "pad")?.iter().any(|&p| p != 0) {
        return Err("works along the dimension".to_owned());
    }
    stays(x.beside(&[1])?)
}

/// The input of a product, checked against the residual if there is one.
pub(crate) fn factor(dim: &BatchDim<'_>, op: &Operation) -> Result<Source, String> {
    dim.only(op, &["x", "residual"])?;
    let x = dim.source(op, "x")?;
    if op.inputs.contains_key("residual") && dim.source(op, "residual")?.axis != x.axis {
        return Err("a residual has the dimension elsewhere".to_owned());
    }
    Ok(x)
}

pub(crate) fn gather<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    dim.only(op, &["indices"])?;
    let indices = dim.source(op, "indices")?;
    let table = op.inputs.get("x").and_then(|x| dim.shape(x.bindings().first()?));
    let rank = table.ok_or("the shape of `x` is not known")?.len();
    if dim.ints_or_none(op, "batch_dims")?.iter().any(|&n| n != 0) {
        return Err("has batches".to_owned());
    }
    let axis = if op.inputs.contains_key("axis") { dim.dims(op, "axis", rank)? } else { vec![0] };
    stays(axis.first().ok_or("`axis` is empty")? + indices.axis)
}

pub(crate) fn reshape<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    let x = dim.only_x(op)?;
    let result = op.outputs.first().and_then(|o| o.ty.tensor()?.fixed_shape()).ok_or("its shape is not known")?;
    // The target shape matters, not the declared shape.
    let asked = dim.ints(op, "shape")?;
    if result.contains(&0) {
        return Err("nothing tells an extent of a value without elements".to_owned());
    }
    let same = |(&n, &declared): (&i64, &usize)| n == -1 || usize::try_from(n) == Ok(declared);
    if asked.len() != result.len() || !asked.iter().zip(&result).all(same) {
        return Err("`shape` and the declared result differ".to_owned());
    }
    // The dimension survives where the extent and the number of elements before it are unchanged.
    let before: usize = x.shape[..x.axis].iter().product();
    let fits = |&d: &usize| result[d] == dim.extent && result[..d].iter().product::<usize>() == before;
    let axis = (0..result.len()).find(fits).ok_or("the dimension is joined with others or split")?;
    let shape: Vec<i32> = (0..result.len()).map(|d| if d == axis { -1 } else { result[d] as i32 }).collect();
    Ok((Some(axis), vec![("shape".to_owned(), literal(Value::ints(&shape)))]))
}

/// Takes all rows or the first one.
pub(crate) fn slice<'b>(dim: &BatchDim<'b>, op: &'b Operation) -> Result<Followed, String> {
    let x = dim.only_x(op)?;
    let (begin, end) = (dim.ints(op, "begin")?, dim.ints(op, "end")?);
    let rank = x.shape.len();
    let flags = |name: &str| -> Result<Vec<bool>, String> {
        let mut flags: Vec<bool> = dim.ints_or_none(op, name)?.into_iter().map(|v| v != 0).collect();
        flags.resize(rank, false);
        Ok(flags)
    };
    let (begins, mut ends, squeezed) = (flags("begin_mask")?, flags("end_mask")?, flags("squeeze_mask")?);
    if begin.len() != rank || end.len() != rank {
        return Err("`begin` or `end` is of another rank".to_owned());
    }
    let step = dim.ints_or_none(op, "stride")?.get(x.axis).copied().unwrap_or(1);
    let first = begins[x.axis] || begin[x.axis] == 0;
    if !first || step != 1 {
        return Err("takes some of the rows".to_owned());
    }
    if squeezed[x.axis] || (!ends[x.axis] && end[x.axis] == 1) {
        return Ok((None, Vec::new()));
    }
    if !ends[x.axis] && usize::try_from(end[x.axis]) != Ok(dim.extent) {
        return Err("takes some of the rows".to_owned());
    }
    ends[x.axis] = true;
    let axis = x.axis - squeezed[..x.axis].iter().filter(|&&s| s).count();
    Ok((Some(axis), vec![("end_mask".to_owned(), literal(Value::bools(&ends)))]))
}
