//! What rewrites ask about a block: who makes a value, who uses it, what a constant holds.

use std::collections::{HashMap, HashSet};

use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Dim, Function, Operation, TensorData, TensorType, Value, ValueData, ValueType,
};

/// Makers and users of the values of a function's block; users in nested blocks count for the operation that
/// holds them.
pub(super) struct Graph<'b> {
    block: &'b Block,
    inputs: HashMap<&'b str, &'b ValueType>,
    makers: HashMap<&'b str, usize>,
    users: HashMap<&'b str, Vec<usize>>,
    returned: HashSet<&'b str>,
}

/// The values that an operation uses, those of nested blocks included.
pub(super) fn names(op: &Operation) -> Vec<&str> {
    let own = op.inputs.values().flat_map(Argument::bindings).filter_map(|b| match b {
        Binding::Name(n) => Some(n.as_str()),
        Binding::Value(_) => None,
    });
    let nested =
        op.blocks.iter().flat_map(|b| b.operations.iter().flat_map(names).chain(b.outputs.iter().map(String::as_str)));
    own.chain(nested).collect()
}

impl<'b> Graph<'b> {
    pub(super) fn new(function: &'b Function) -> Self {
        let block = &function.block;
        let inputs = function.inputs.iter().map(|input| (input.name.as_str(), &input.ty)).collect();
        let (mut makers, mut users) = (HashMap::new(), HashMap::<_, Vec<usize>>::new());
        for (i, op) in block.operations.iter().enumerate() {
            for output in &op.outputs {
                makers.insert(output.name.as_str(), i);
            }
            for name in names(op) {
                users.entry(name).or_default().push(i);
            }
        }
        Self { block, inputs, makers, users, returned: block.outputs.iter().map(String::as_str).collect() }
    }

    pub(super) fn op(&self, index: usize) -> &'b Operation {
        &self.block.operations[index]
    }

    /// The operation that makes a value.
    pub(super) fn maker(&self, name: &str) -> Option<(usize, &'b Operation)> {
        self.makers.get(name).map(|&i| (i, self.op(i)))
    }

    /// The operation of this kind that makes a value.
    pub(super) fn maker_of_kind(&self, name: &str, kind: &str) -> Option<(usize, &'b Operation)> {
        self.maker(name).filter(|(_, op)| op.kind == kind)
    }

    /// Declared type of a value: of its maker's output, or of the function's input.
    pub(super) fn declared(&self, name: &str) -> Option<&'b TensorType> {
        match self.maker(name) {
            Some((_, op)) => op.outputs.iter().find(|o| o.name == name)?.ty.tensor(),
            None => self.inputs.get(name)?.tensor(),
        }
    }

    /// Declared type of what a parameter is bound to.
    pub(super) fn type_of(&self, op: &'b Operation, parameter: &str) -> Option<&'b TensorType> {
        match op.inputs.get(parameter)? {
            Argument::One(Binding::Name(name)) => self.declared(name),
            Argument::One(Binding::Value(value)) => value.ty.tensor(),
            Argument::Many(_) => None,
        }
    }

    /// The same, of floats: integers and booleans are computed by other operations than rewrites make.
    pub(super) fn float_of(&self, op: &'b Operation, parameter: &str) -> Option<&'b TensorType> {
        self.type_of(op, parameter).filter(|ty| ty.dtype.is_float())
    }

    /// The operations that use a value; the block's own result counts as a use by no operation.
    pub(super) fn users(&self, name: &str) -> &[usize] {
        self.users.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn returned(&self, name: &str) -> bool {
        self.returned.contains(name)
    }

    /// The only user of a value that the block does not return.
    pub(super) fn only_user(&self, name: &str) -> Option<(usize, &'b Operation)> {
        match self.users(name) {
            [i] if !self.returned(name) => Some((*i, self.op(*i))),
            _ => None,
        }
    }

    /// The literal that a parameter is bound to, directly or through `const`.
    pub(super) fn literal(&self, op: &'b Operation, parameter: &str) -> Option<&'b Value> {
        match op.inputs.get(parameter)? {
            Argument::One(Binding::Value(v)) => Some(v),
            Argument::One(Binding::Name(n)) => self.maker_of_kind(n, "const")?.1.attributes.get("val"),
            Argument::Many(_) => None,
        }
    }

    /// A small inline constant as numbers; none when the parameter is missing, computed or in a file.
    pub(super) fn numbers(&self, op: &'b Operation, parameter: &str) -> Option<Vec<f64>> {
        numbers(self.literal(op, parameter)?)
    }

    /// The first of these numbers; `default` when the parameter is missing, none when it is computed.
    pub(super) fn number_or(&self, op: &'b Operation, parameter: &str, default: f64) -> Option<f64> {
        if !op.inputs.contains_key(parameter) {
            return Some(default);
        }
        self.numbers(op, parameter)?.first().copied()
    }

    /// Whether a boolean parameter is true; missing counts as `default`.
    pub(super) fn flag(&self, op: &'b Operation, parameter: &str, default: bool) -> Option<bool> {
        Some(self.number_or(op, parameter, f64::from(u8::from(default)))? != 0.0)
    }
}

/// Replaces operations in place by what `matched` makes of them; returns how many.
pub(super) fn replace(function: &mut Function, matched: impl Fn(&Graph<'_>, usize) -> Option<Operation>) -> usize {
    let graph = Graph::new(function);
    let count = function.block.operations.len();
    let found: Vec<(usize, Operation)> = (0..count).filter_map(|i| Some((i, matched(&graph, i)?))).collect();
    let count = found.len();
    for (i, op) in found {
        function.block.operations[i] = op;
    }
    count
}

/// The value that a parameter is bound to by name.
pub(super) fn name_of<'o>(op: &'o Operation, parameter: &str) -> Option<&'o str> {
    match op.inputs.get(parameter)? {
        Argument::One(Binding::Name(n)) => Some(n),
        _ => None,
    }
}

/// A scalar as the value of a parameter.
pub(super) fn float(value: f64) -> Argument {
    Argument::One(Binding::Value(Value::tensor(DataType::F32, &[], (value as f32).to_le_bytes().to_vec())))
}

/// Declared fixed shape of an operation's first output.
pub(super) fn shape_of(op: &Operation) -> Option<Vec<usize>> {
    op.outputs.first()?.ty.tensor()?.fixed_shape()
}

/// Declared shape of a value, if it is fixed.
pub(super) fn declared_shape(graph: &Graph<'_>, name: &str) -> Option<Vec<usize>> {
    graph.declared(name)?.fixed_shape()
}

/// The rank that a type declares.
pub(super) fn rank_of(ty: &TensorType) -> Option<usize> {
    (!ty.shape.contains(&Dim::Variadic)).then_some(ty.shape.len())
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    let dtype = value.ty.tensor()?.dtype;
    let ValueData::Tensor(TensorData::Bytes(bytes)) = &value.data else { return None };
    if dtype.is_float() {
        return Some(crate::decode::floats(bytes, dtype).into_iter().map(f64::from).collect());
    }
    if dtype == DataType::Bool {
        return Some(bytes.iter().map(|&b| f64::from(b)).collect());
    }
    let count = bytes.len() * 8 / dtype.bits()?;
    Some(crate::decode::ints(bytes, dtype, count).into_iter().map(|v| v as f64).collect())
}
