//! Def-use queries on a block for rewrites: producers, users and constants.

use std::collections::{HashMap, HashSet};

use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, Operation, TensorData, TensorType, Value, ValueData, ValueType,
};

use crate::decode;

/// Producers and users of the values of a function's block; users in nested blocks are attributed to the operation that
/// holds the block.
pub(crate) struct Graph<'b> {
    block: &'b Block,
    inputs: HashMap<&'b str, &'b ValueType>,
    producers: HashMap<&'b str, usize>,
    users: HashMap<&'b str, Vec<usize>>,
    returned: HashSet<&'b str>,
}

/// Values used by an operation, including its nested blocks.
pub(crate) fn used_values(op: &Operation) -> Vec<&str> {
    let own = op.inputs.values().flat_map(Argument::bindings).filter_map(|b| match b {
        Binding::Name(n) => Some(n.as_str()),
        Binding::Value(_) => None,
    });
    let nested = op
        .blocks
        .iter()
        .flat_map(|b| b.operations.iter().flat_map(used_values).chain(b.outputs.iter().map(String::as_str)));
    own.chain(nested).collect()
}

impl<'b> Graph<'b> {
    pub(crate) fn new(function: &'b Function) -> Self {
        let block = &function.block;
        let inputs = function.inputs.iter().map(|input| (input.name.as_str(), &input.ty)).collect();
        let (mut producers, mut users) = (HashMap::new(), HashMap::<_, Vec<usize>>::new());
        for (i, op) in block.operations.iter().enumerate() {
            for output in &op.outputs {
                producers.insert(output.name.as_str(), i);
            }
            for name in used_values(op) {
                users.entry(name).or_default().push(i);
            }
        }
        Self { block, inputs, producers, users, returned: block.outputs.iter().map(String::as_str).collect() }
    }

    pub(crate) fn op(&self, index: usize) -> &'b Operation {
        &self.block.operations[index]
    }

    /// The operation that produces a value.
    pub(crate) fn producer(&self, name: &str) -> Option<(usize, &'b Operation)> {
        self.producers.get(name).map(|&i| (i, self.op(i)))
    }

    /// The operation that produces a value, if it is of this kind.
    pub(crate) fn producer_of_kind(&self, name: &str, kind: &str) -> Option<(usize, &'b Operation)> {
        self.producer(name).filter(|(_, op)| op.kind == kind)
    }

    /// Declared type of a value: that of its producer's output or of the function input.
    pub(crate) fn declared(&self, name: &str) -> Option<&'b TensorType> {
        match self.producer(name) {
            Some((_, op)) => op.outputs.iter().find(|o| o.name == name)?.ty.tensor(),
            None => self.inputs.get(name)?.tensor(),
        }
    }

    /// Declared type of the value bound to a parameter.
    pub(crate) fn type_of(&self, op: &'b Operation, parameter: &str) -> Option<&'b TensorType> {
        match op.inputs.get(parameter)? {
            Argument::One(Binding::Name(name)) => self.declared(name),
            Argument::One(Binding::Value(value)) => value.ty.tensor(),
            Argument::Many(_) => None,
        }
    }

    /// Same as [`type_of`](Self::type_of), for floats only: rewrites do not cover integers and booleans.
    pub(crate) fn float_of(&self, op: &'b Operation, parameter: &str) -> Option<&'b TensorType> {
        self.type_of(op, parameter).filter(|ty| ty.dtype.is_float())
    }

    /// Operations that use a value; being a result of the block counts as a use by no operation.
    pub(crate) fn users(&self, name: &str) -> &[usize] {
        self.users.get(name).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn returned(&self, name: &str) -> bool {
        self.returned.contains(name)
    }

    /// The only user of a value that the block does not return.
    pub(crate) fn only_user(&self, name: &str) -> Option<(usize, &'b Operation)> {
        match self.users(name) {
            [i] if !self.returned(name) => Some((*i, self.op(*i))),
            _ => None,
        }
    }

    /// The literal bound to a parameter, directly or through `const`.
    pub(crate) fn literal(&self, op: &'b Operation, parameter: &str) -> Option<&'b Value> {
        match op.inputs.get(parameter)? {
            Argument::One(Binding::Value(v)) => Some(v),
            Argument::One(Binding::Name(n)) => self.producer_of_kind(n, "const")?.1.attributes.get("val"),
            Argument::Many(_) => None,
        }
    }

    /// A small inline constant as numbers; `None` if the parameter is missing, computed or stored in a file.
    pub(crate) fn numbers(&self, op: &'b Operation, parameter: &str) -> Option<Vec<f64>> {
        numbers(self.literal(op, parameter)?)
    }

    /// The number of a parameter; `default` if missing, `None` if computed or not exactly one.
    pub(crate) fn number_or(&self, op: &'b Operation, parameter: &str, default: f64) -> Option<f64> {
        if !op.inputs.contains_key(parameter) {
            return Some(default);
        }
        self.number(op, parameter)
    }

    /// The number of a constant parameter that has exactly one.
    pub(crate) fn number(&self, op: &'b Operation, parameter: &str) -> Option<f64> {
        <[f64; 1]>::try_from(self.numbers(op, parameter)?).ok().map(|[number]| number)
    }

    /// The value of a string parameter; `default` if missing, `None` if computed.
    pub(crate) fn word_or(&self, op: &'b Operation, parameter: &str, default: &'b str) -> Option<&'b str> {
        if !op.inputs.contains_key(parameter) {
            return Some(default);
        }
        match &self.literal(op, parameter)?.data {
            ValueData::Tensor(TensorData::Strings(texts)) => texts.first().map(String::as_str),
            _ => None,
        }
    }

    /// Bounds of a `slice_by_index` of so many dimensions, in steps of one; `None` if they are computed.
    pub(crate) fn slice_bounds(&self, op: &'b Operation, rank: usize) -> Option<SliceBounds> {
        let numbers = |name: &str| self.numbers(op, name).filter(|v| v.len() == rank);
        let mask = |name: &str| match op.inputs.contains_key(name) {
            true => Some(numbers(name)?.into_iter().map(|v| v != 0.0).collect()),
            false => Some(vec![false; rank]),
        };
        if op.inputs.contains_key("stride") && !numbers("stride")?.iter().all(|&s| s == 1.0) {
            return None;
        }
        Some(SliceBounds {
            begin: numbers("begin")?,
            end: numbers("end")?,
            begin_mask: mask("begin_mask")?,
            end_mask: mask("end_mask")?,
            squeeze_mask: mask("squeeze_mask")?,
        })
    }

    /// The value of a boolean parameter; `default` if missing, `None` if computed.
    pub(crate) fn flag(&self, op: &'b Operation, parameter: &str, default: bool) -> Option<bool> {
        Some(self.number_or(op, parameter, f64::from(u8::from(default)))? != 0.0)
    }
}

/// Constant bounds of a slice as the operation states them, for each dimension.
pub(crate) struct SliceBounds {
    pub(crate) begin: Vec<f64>,
    pub(crate) end: Vec<f64>,
    pub(crate) begin_mask: Vec<bool>,
    pub(crate) end_mask: Vec<bool>,
    pub(crate) squeeze_mask: Vec<bool>,
}

/// Replaces each operation that `try_match` rewrites, in place; returns the number of replacements.
pub(crate) fn replace(function: &mut Function, try_match: impl Fn(&Graph<'_>, usize) -> Option<Operation>) -> usize {
    let graph = Graph::new(function);
    let count = function.block.operations.len();
    let found: Vec<(usize, Operation)> = (0..count).filter_map(|i| Some((i, try_match(&graph, i)?))).collect();
    let count = found.len();
    for (i, op) in found {
        function.block.operations[i] = op;
    }
    count
}

/// The name of the value bound to a parameter.
pub(crate) fn name_of<'o>(op: &'o Operation, parameter: &str) -> Option<&'o str> {
    match op.inputs.get(parameter)? {
        Argument::One(Binding::Name(n)) => Some(n),
        _ => None,
    }
}

/// A scalar float argument.
pub(crate) fn float(value: f64) -> Argument {
    Argument::One(Binding::Value(Value::tensor(DataType::F32, &[], (value as f32).to_le_bytes().to_vec())))
}

/// Declared shape of an operation's first output, if fixed.
pub(crate) fn shape_of(op: &Operation) -> Option<Vec<usize>> {
    op.outputs.first()?.ty.tensor()?.fixed_shape()
}

/// Declared shape of a value, if fixed.
pub(crate) fn declared_shape(graph: &Graph<'_>, name: &str) -> Option<Vec<usize>> {
    graph.declared(name)?.fixed_shape()
}

/// Declared rank of a type.
pub(crate) fn rank_of(ty: &TensorType) -> Option<usize> {
    (!ty.shape.contains(&Dim::Variadic)).then_some(ty.shape.len())
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    let dtype = value.ty.tensor()?.dtype;
    let ValueData::Tensor(TensorData::Bytes(bytes)) = &value.data else { return None };
    if dtype.is_float() {
        return Some(decode::floats(bytes, dtype).into_iter().map(f64::from).collect());
    }
    if dtype == DataType::Bool {
        return Some(bytes.iter().map(|&b| f64::from(b)).collect());
    }
    let count = bytes.len() * 8 / dtype.bits()?;
    Some(decode::ints(bytes, dtype, count).into_iter().map(|v| v as f64).collect())
}
