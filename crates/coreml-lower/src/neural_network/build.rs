//! Operations of the program that a network becomes, and the shapes of the blobs between them. `blobs` reads and writes them.

use std::cell::Cell;
use std::collections::HashMap;

use coreml_format::dtype::DataType;
use coreml_format::model_types::neural_network::NeuralNetworkLayer;
use coreml_format::program::{Argument, Binding, Dim, NamedType, Operation, TensorType, Value, ValueType};

use super::control_flow::Exit;
use crate::custom::CustomClasses;
use crate::emit::{Names, constant, named, operation, text};
use crate::error::LowerError;

/// An extent, if it is known.
pub(super) type Extent = Option<usize>;

/// A blob: the value that holds it and its shape.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    /// Name of the value.
    pub(super) name: String,
    /// Extents of the value.
    pub(super) shape: Vec<Extent>,
    /// The blob has rank 5 and a sequence axis of 1, which the value lacks.
    pub(super) short: bool,
}

impl Blob {
    /// Rank of the blob.
    pub(super) fn rank(&self) -> usize {
        self.shape.len() + usize::from(self.short)
    }

    /// An extent, by the axis from the end: 1 is the width.
    pub(super) fn nth_last(&self, axis: usize) -> Extent {
        self.shape.len().checked_sub(axis).and_then(|i| self.shape[i])
    }

    /// Number of elements.
    pub(super) fn elements(&self) -> Extent {
        product(&self.shape)
    }
}

/// The product of known extents.
pub(super) fn product(shape: &[Extent]) -> Extent {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d?))
}

/// A scalar of `fp32`.
pub(super) fn float(value: f32) -> Argument {
    constant(Value::tensor(DataType::F32, &[], value.to_le_bytes().to_vec()))
}

/// A scalar of `int32`.
pub(super) fn int(value: i32) -> Argument {
    constant(Value::int(value))
}

/// A vector of `fp32`.
pub(super) fn floats(values: &[f32]) -> Argument {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    constant(Value::tensor(DataType::F32, &[values.len()], bytes))
}

/// A vector of `int32`.
pub(super) fn ints(values: &[i32]) -> Argument {
    constant(Value::ints(values))
}

/// A scalar of `bool`.
pub(super) fn flag(value: bool) -> Argument {
    constant(Value::bool(value))
}

/// A vector of `bool`.
pub(super) fn flags(values: &[bool]) -> Argument {
    constant(Value::bools(values))
}

/// A blob as an argument.
pub(super) fn of(blob: &Blob) -> Argument {
    named(&blob.name)
}

/// Blobs as a variadic argument.
pub(super) fn all(blobs: &[Blob]) -> Argument {
    Argument::Many(blobs.iter().map(|b| Binding::Name(b.name.clone())).collect())
}

/// What a network of rank 4 was made of.
#[derive(Debug, Clone)]
pub(super) enum Lead {
    /// The value itself.
    Kept(bool),
    /// Sequence and batch, joined.
    Joined(Extent, Extent),
    /// Nothing: the batch was added.
    Added,
}

/// A program in the making.
pub(super) struct Network<'m> {
    /// Classes of the caller.
    pub(super) classes: Option<&'m dyn CustomClasses>,
    /// The model, for errors.
    pub(super) model: String,
    /// The layer that is being lowered.
    pub(super) layer: (String, &'static str),
    pub(super) operations: Vec<Operation>,
    /// Blobs that were written last, by name.
    pub(super) blobs: HashMap<String, Blob>,
    names: Names,
    /// What the current block has written over, last first; none outside of branches and loops.
    pub(super) journal: Vec<Vec<(String, Option<Blob>)>>,
    /// What the layers so far do to the turn of the innermost loop.
    pub(super) exit: Exit,
    /// Loops around the current layer.
    pub(super) loops: usize,
    /// How often layers and features read each blob.
    pub(super) reads: HashMap<String, usize>,
    /// Blobs that have no value, with the reason.
    pub(super) lost: HashMap<String, &'static str>,
    /// Values of blobs whose rank is known only in a prediction: features may return them, layers can't read them.
    pub(super) open: HashMap<String, String>,
    /// Small constants by name of the value.
    pub(super) values: HashMap<String, Vec<f32>>,
    /// Layers that may still be lowered: those of loops are more than once.
    pub(super) turns: usize,
    /// Elements that parameters may still ask for beyond what the file holds.
    spare: Cell<usize>,
}

/// Elements that the parameters of all layers together may ask for beyond what the file holds: 64 MB.
const SPARE: usize = 1 << 24;

/// Layers that are lowered at most, counting those of loops each time.
const LAYERS: usize = 1 << 20;

/// Constants of at most this many elements are remembered: shapes and bounds of slices.
pub(super) const REMEMBERED: usize = 64;

type Lowered<T> = Result<T, LowerError>;

impl Network<'_> {
    /// Values take no name of a feature.
    pub(super) fn new(model: &str, features: impl Iterator<Item = String>) -> Self {
        Self {
            classes: None,
            model: model.to_owned(),
            layer: (String::new(), "input"),
            operations: Vec::new(),
            blobs: HashMap::new(),
            names: Names::new(features),
            journal: Vec::new(),
            exit: Exit::Never,
            loops: 0,
            reads: HashMap::new(),
            lost: HashMap::new(),
            open: HashMap::new(),
            values: HashMap::new(),
            turns: LAYERS,
            spare: Cell::new(SPARE),
        }
    }

    /// The layer can't be run, for a reason.
    pub(super) fn refuse<T>(&self, reason: impl Into<String>) -> Lowered<T> {
        let (name, kind) = self.layer.clone();
        Err(LowerError::Layer { place: self.model.clone(), name, kind, reason: reason.into() })
    }

    /// Counts elements that a parameter asks for, not the weights of the file.
    ///
    /// # Errors
    /// If all layers together ask for more than [`SPARE`].
    pub(super) fn claim(&self, what: &str, count: usize) -> Lowered<()> {
        match self.spare.get().checked_sub(count) {
            Some(left) => {
                self.spare.set(left);
                Ok(())
            }
            None => self.refuse(format!("{count} {what}")),
        }
    }

    /// An enumeration's value.
    pub(super) fn choice<T: TryFrom<i32>>(&self, what: &str, value: i32) -> Lowered<T> {
        T::try_from(value).or_else(|_| self.refuse(format!("`{what}` {value} is unknown")))
    }

    /// A number that must fit.
    pub(super) fn size<T: Copy + std::fmt::Display + TryInto<i32>>(&self, what: &str, value: T) -> Lowered<i32> {
        value.try_into().or_else(|_| self.refuse(format!("`{what}` is {value}")))
    }

    /// Numbers that must fit.
    pub(super) fn sizes<T: Copy + std::fmt::Display + TryInto<i32>>(
        &self,
        what: &str,
        values: &[T],
    ) -> Lowered<Vec<i32>> {
        values.iter().map(|&v| self.size(what, v)).collect()
    }

    /// An extent that must be known.
    pub(super) fn known(&self, what: &str, extent: Extent) -> Lowered<usize> {
        extent.map_or_else(|| self.refuse(format!("its {what} is known only in a prediction")), Ok)
    }

    /// An input of a layer.
    pub(super) fn input(&self, layer: &NeuralNetworkLayer, i: usize) -> Lowered<Blob> {
        let Some(name) = layer.input.get(i) else {
            return self.refuse(format!("it has {} inputs", layer.input.len()));
        };
        match (self.blobs.get(name), self.lost.get(name)) {
            (Some(blob), _) => Ok(blob.clone()),
            (None, Some(why)) => self.refuse(format!("its input `{name}` has no value: {why}")),
            (None, None) => self.refuse(format!("nothing writes its input `{name}`")),
        }
    }

    /// All inputs of a layer, at least one.
    pub(super) fn inputs(&self, layer: &NeuralNetworkLayer) -> Lowered<Vec<Blob>> {
        (0..layer.input.len().max(1)).map(|i| self.input(layer, i)).collect()
    }

    /// The only input of a layer.
    pub(super) fn only(&self, layer: &NeuralNetworkLayer) -> Lowered<Blob> {
        if layer.input.len() != 1 {
            return self.refuse(format!("it has {} inputs", layer.input.len()));
        }
        self.input(layer, 0)
    }

    /// Names the results of a layer.
    pub(super) fn write(&mut self, layer: &NeuralNetworkLayer, results: Vec<Blob>) -> Lowered<()> {
        if results.len() != layer.output.len() {
            return self.refuse(format!("it has {} outputs", layer.output.len()));
        }
        for (name, blob) in layer.output.iter().zip(results) {
            self.set(name, Some(blob));
        }
        Ok(())
    }

    /// A name that no other value has.
    pub(super) fn fresh(&mut self, name: &str) -> String {
        self.names.fresh(name)
    }

    /// Adds an operation with results of these types.
    pub(super) fn push(&mut self, kind: &str, inputs: Vec<(&str, Argument)>, types: Vec<ValueType>) -> Vec<String> {
        let base = if self.layer.0.is_empty() { kind.to_owned() } else { self.layer.0.clone() };
        let names: Vec<String> = types.iter().map(|_| self.fresh(&base)).collect();
        let outputs = names.iter().cloned().zip(types).map(|(name, ty)| NamedType { name, ty }).collect();
        self.operations.push(operation(kind, inputs, outputs));
        names
    }

    /// An operation with one result.
    pub(super) fn typed(
        &mut self,
        kind: &str,
        inputs: Vec<(&str, Argument)>,
        dtype: DataType,
        shape: Vec<Extent>,
    ) -> Blob {
        let mut names = self.push(kind, inputs, vec![tensor(dtype, &shape)]);
        Blob { name: names.swap_remove(0), shape, short: false }
    }

    /// An operation with one result of floats.
    pub(super) fn op(&mut self, kind: &str, inputs: Vec<(&str, Argument)>, shape: Vec<Extent>) -> Blob {
        self.typed(kind, inputs, DataType::F32, shape)
    }

    /// A function of the elements of `x`, whose other parameters are given.
    pub(super) fn map(&mut self, kind: &str, x: &Blob, more: Vec<(&str, Argument)>) -> Blob {
        let mut inputs = vec![("x", of(x))];
        inputs.extend(more);
        Blob { short: x.short, ..self.op(kind, inputs, x.shape.clone()) }
    }

    /// A cast to another element type.
    pub(super) fn cast(&mut self, x: &Blob, dtype: DataType) -> Blob {
        let made = self.typed("cast", vec![("x", of(x)), ("dtype", text(dtype.name()))], dtype, x.shape.clone());
        Blob { short: x.short, ..made }
    }

    /// A constant of floats.
    pub(super) fn constant(&mut self, shape: &[usize], values: &[f32]) -> Blob {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let shape: Vec<Extent> = shape.iter().map(|&n| Some(n)).collect();
        let fixed: Vec<usize> = shape.iter().flatten().copied().collect();
        let made = self.op("const", Vec::new(), shape);
        if let Some(op) = self.operations.last_mut() {
            op.attributes.insert("val".to_owned(), Value::tensor(DataType::F32, &fixed, bytes));
        }
        if values.len() <= REMEMBERED {
            self.values.insert(made.name.clone(), values.to_vec());
        }
        made
    }

    /// Two blobs whose values have the ranks of the blobs, or lack the same axis.
    fn aligned(&mut self, x: &Blob, y: &Blob) -> (Blob, Blob, bool) {
        match (x.short, y.short) {
            (true, true) => (x.clone(), y.clone(), true),
            (true, false) if y.shape.len() < 5 => (x.clone(), y.clone(), true),
            (false, true) if x.shape.len() < 5 => (x.clone(), y.clone(), true),
            _ => (self.full(x), self.full(y), false),
        }
    }

    /// A function of two blobs, broadcast.
    pub(super) fn binary_as(&mut self, kind: &str, x: &Blob, y: &Blob, dtype: DataType) -> Lowered<Blob> {
        let (x, y, short) = self.aligned(x, y);
        let shape = self.broadcast(&x.shape, &y.shape)?;
        Ok(Blob { short, ..self.typed(kind, vec![("x", of(&x)), ("y", of(&y))], dtype, shape) })
    }

    /// A function of two blobs of floats, broadcast.
    pub(super) fn binary(&mut self, kind: &str, x: &Blob, y: &Blob) -> Lowered<Blob> {
        self.binary_as(kind, x, y, DataType::F32)
    }

    /// A function of a blob and a number.
    pub(super) fn with(&mut self, kind: &str, x: &Blob, y: f32) -> Blob {
        self.map(kind, x, vec![("y", float(y))])
    }

    /// The shape of two shapes, broadcast.
    pub(super) fn broadcast(&self, x: &[Extent], y: &[Extent]) -> Lowered<Vec<Extent>> {
        let rank = x.len().max(y.len());
        let at = |s: &[Extent], i: usize| (i + s.len()).checked_sub(rank).map_or(Some(1), |i| s[i]);
        let joined = |i: usize| match (at(x, i), at(y, i)) {
            (Some(1), other) | (other, Some(1)) => Ok(other),
            (Some(a), Some(b)) if a == b => Ok(Some(a)),
            (None, other) | (other, None) => Ok(other),
            _ => self.refuse(format!("shapes {} and {} don't fit", shown(x), shown(y))),
        };
        (0..rank).map(joined).collect()
    }

    /// The blob as a value of its own rank.
    pub(super) fn full(&mut self, x: &Blob) -> Blob {
        if !x.short {
            return x.clone();
        }
        let shape: Vec<Extent> = std::iter::once(Some(1)).chain(x.shape.iter().copied()).collect();
        self.op("expand_dims", vec![("x", of(x)), ("axes", ints(&[0]))], shape)
    }

    /// The blob and an axis of its value, from the front, of an axis of the blob.
    pub(super) fn axis(&mut self, x: &Blob, axis: i64) -> Lowered<(Blob, usize)> {
        let rank = x.rank();
        let found = if axis < 0 { axis.saturating_add_unsigned(rank as u64) } else { axis };
        let Some(at) = usize::try_from(found).ok().filter(|&a| a < rank) else {
            return self.refuse(format!("axis {axis} of a blob of rank {rank}"));
        };
        match (x.short, at) {
            (true, 0) => Ok((self.full(x), 0)),
            (true, at) => Ok((x.clone(), at - 1)),
            (false, at) => Ok((x.clone(), at)),
        }
    }

    /// Another shape; one extent may be unknown.
    pub(super) fn reshape(&mut self, x: &Blob, shape: Vec<Extent>) -> Lowered<Blob> {
        if x.shape == shape && shape.iter().filter(|d| d.is_none()).count() < 2 {
            return Ok(Blob { short: false, ..x.clone() });
        }
        let mut shape = shape;
        if let (Some(total), 1) = (x.elements(), shape.iter().filter(|d| d.is_none()).count()) {
            let rest: usize = shape.iter().flatten().product();
            if rest > 0 && total.is_multiple_of(rest) {
                shape.iter_mut().filter(|d| d.is_none()).for_each(|d| *d = Some(total / rest));
            }
        }
        if shape.iter().filter(|d| d.is_none()).count() > 1 {
            let others = |s: &[Extent]| s.iter().copied().filter(|d| *d != Some(1)).collect::<Vec<_>>();
            if others(&x.shape) == others(&shape) {
                return Ok(self.with_ones(x, shape));
            }
            return self.refuse("several extents of its shape are known only in a prediction");
        }
        if let (Some(a), Some(b)) = (x.elements(), product(&shape))
            && a != b
        {
            return self.refuse(format!("{} does not have the elements of {}", shown(&x.shape), shown(&shape)));
        }
        let target: Vec<i32> =
            shape.iter().map(|d| d.map_or(Ok(-1), |n| self.size("shape", n))).collect::<Lowered<_>>()?;
        Ok(self.op("reshape", vec![("x", of(x)), ("shape", ints(&target))], shape))
    }

    /// The axes of the value in another order.
    pub(super) fn transpose(&mut self, x: &Blob, order: &[usize]) -> Blob {
        if order.iter().enumerate().all(|(i, &p)| i == p) {
            return x.clone();
        }
        let shape = order.iter().map(|&i| x.shape[i]).collect();
        let perm: Vec<i32> = order.iter().map(|&i| i as i32).collect();
        Blob { short: x.short, ..self.op("transpose", vec![("x", of(x)), ("perm", ints(&perm))], shape) }
    }

    /// The blob as `[N, C, H, W]`.
    pub(super) fn nchw(&mut self, x: &Blob) -> Lowered<(Blob, Lead)> {
        match x.shape.len() {
            4 => Ok((Blob { short: false, ..x.clone() }, Lead::Kept(x.short))),
            5 => {
                let (s, b) = (x.shape[0], x.shape[1]);
                let n = s.zip(b).and_then(|(s, b)| s.checked_mul(b));
                let shape = [n].into_iter().chain(x.shape[2..].iter().copied()).collect();
                Ok((self.reshape(x, shape)?, Lead::Joined(s, b)))
            }
            3 => {
                let shape = [Some(1)].into_iter().chain(x.shape.iter().copied()).collect();
                let made = self.op("expand_dims", vec![("x", of(x)), ("axes", ints(&[0]))], shape);
                Ok((made, Lead::Added))
            }
            rank => self.refuse(format!("its input has rank {rank}")),
        }
    }

    /// Undoes [`nchw`](Self::nchw).
    pub(super) fn back(&mut self, y: Blob, lead: &Lead) -> Lowered<Blob> {
        match *lead {
            Lead::Kept(short) => Ok(Blob { short, ..y }),
            Lead::Joined(s, b) => {
                let shape = [s, b].into_iter().chain(y.shape[1..].iter().copied()).collect();
                self.reshape(&y, shape)
            }
            Lead::Added => {
                let shape = y.shape[1..].to_vec();
                Ok(self.op("squeeze", vec![("x", of(&y)), ("axes", ints(&[0]))], shape))
            }
        }
    }

    /// A reduction of axes of the value that are counted from the end; they stay with an extent of 1.
    pub(super) fn reduced(&mut self, kind: &str, x: &Blob, from_end: &[usize]) -> Lowered<Blob> {
        let rank = x.shape.len();
        let mut shape = x.shape.clone();
        for &axis in from_end {
            if axis > rank {
                return self.refuse(format!("its input has rank {rank}"));
            }
            shape[rank - axis] = Some(1);
        }
        let axes: Vec<i32> = from_end.iter().map(|&a| -(a as i32)).collect();
        let inputs = vec![("x", of(x)), ("axes", ints(&axes)), ("keep_dims", flag(true))];
        Ok(Blob { short: x.short, ..self.op(kind, inputs, shape) })
    }
}

/// The type of a tensor.
pub(super) fn tensor(dtype: DataType, shape: &[Extent]) -> ValueType {
    let shape = shape.iter().map(|d| d.map_or(Dim::Unknown, Dim::Fixed)).collect();
    ValueType::Tensor(TensorType { dtype, shape })
}

/// A shape in words.
pub(super) fn shown(shape: &[Extent]) -> String {
    let parts: Vec<String> = shape.iter().map(|d| d.map_or_else(|| "?".to_owned(), |n| n.to_string())).collect();
    format!("[{}]", parts.join(", "))
}
