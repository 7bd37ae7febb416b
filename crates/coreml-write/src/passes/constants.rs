//! Constants in place of operations whose arguments are constants (coremltools' `const_elimination`): views of one constant
//! without reading it, all others by running them.

use std::collections::{HashMap, HashSet};

use coreml_format::dtype::DataType;
use coreml_format::program::{
    Binding, Block, Function, NamedType, Operation, Program, TensorData, TensorType, Value, ValueData, ValueType,
};
use indexmap::IndexMap;

use super::pool::Pool;
use super::{Known, bound, constant_op, size};
use crate::builder::sweep;

/// Runs the only function of a program without inputs; returns its results as constants of their declared types.
pub type Evaluate<'e> = dyn FnMut(&Program) -> Result<IndexMap<String, Value>, String> + 'e;

/// Replaces `shape` of a value of known extents, and `reshape`, `expand_dims`, `squeeze` and `identity` of a constant, by
/// constants; results of the function stay as they are.
pub fn fold_constants(function: &mut Function) -> usize {
    let Known { constants: known, mut types, .. } = Known::of(function);
    types.extend(function.inputs.iter().map(|i| (i.name.clone(), i.ty.clone())));
    let returned: HashSet<String> = function.block.outputs.iter().cloned().collect();
    let mut changed = 0;
    for op in &mut function.block.operations {
        let [output] = op.outputs.as_slice() else { continue };
        if returned.contains(&output.name) {
            continue;
        }
        let Some(x) = bound(op, "x") else { continue };
        let value = match op.kind.as_str() {
            "shape" => types.get(x).and_then(ValueType::tensor).and_then(TensorType::fixed_shape).and_then(|shape| {
                let extents: Option<Vec<i32>> = shape.iter().map(|&n| i32::try_from(n).ok()).collect();
                Some(Value::ints(&extents?))
            }),
            // The elements stay where they are.
            "reshape" | "expand_dims" | "squeeze" | "identity" => known.get(x).and_then(|value| {
                let (from, to) = (value.ty.tensor()?, output.ty.tensor()?);
                let same = from.dtype == to.dtype && size(from)? == size(to)?;
                same.then(|| Value { ty: output.ty.clone(), data: value.data.clone() })
            }),
            _ => None,
        };
        if let Some(value) = value.filter(|v| v.ty == output.ty) {
            *op = constant_op(output.name.clone(), value);
            changed += 1;
        }
    }
    changed
}

/// Operations that are no function of their arguments, or have no result that a constant could be.
fn is_pure(op: &Operation) -> bool {
    let kind = op.kind.as_str();
    let other = ["const", "read_state", "write_state", "coreml_update_state", "classify", "make_list"];
    let prefixes = ["random_", "constexpr_", "list_"];
    op.blocks.is_empty() && !other.contains(&kind) && !prefixes.iter().any(|p| kind.starts_with(p))
}

/// Element types of constants that are computed.
const COMPUTED: [DataType; 8] = [
    DataType::F16,
    DataType::F32,
    DataType::Bool,
    DataType::I8,
    DataType::U8,
    DataType::I16,
    DataType::U16,
    DataType::I32,
];

/// Bytes of a tensor of known extents.
fn bytes(ty: &ValueType) -> Option<usize> {
    let ValueType::Tensor(ty) = ty else { return None };
    ty.dtype.packed_len(size(ty)?)
}

fn computed(op: &Operation) -> bool {
    op.outputs.iter().all(|o| o.ty.tensor().is_some_and(|t| COMPUTED.contains(&t.dtype)))
}

/// Operations of a function whose results are to be constants, in order.
#[derive(Default)]
struct Chosen {
    operations: Vec<Operation>,
    /// Bytes of constants and of chosen results.
    sizes: HashMap<String, usize>,
    /// Values that other operations use.
    wanted: Vec<String>,
}

impl Chosen {
    fn choose(&mut self, block: &Block, growth: usize) {
        for op in &block.operations {
            let sizes: Option<Vec<usize>> = op.outputs.iter().map(|o| bytes(&o.ty)).collect();
            let given = op.inputs.values().flat_map(|a| a.bindings()).map(|b| match b {
                Binding::Name(name) => self.sizes.get(name).copied(),
                Binding::Value(value) => bytes(&value.ty).or(Some(0)),
            });
            let given: Option<usize> = given.sum();
            let fits = |sizes: &Vec<usize>, given: usize| sizes.iter().sum::<usize>() <= given.max(growth);
            let returned = op.outputs.iter().any(|o| block.outputs.contains(&o.name));
            match (sizes, given) {
                (Some(sizes), _) if op.kind == "const" => {
                    self.sizes.extend(op.outputs.iter().map(|o| o.name.clone()).zip(sizes));
                }
                // Strings are no tensors in this sense.
                (None, _) if op.kind == "const" => {
                    self.sizes.extend(op.outputs.iter().map(|o| (o.name.clone(), 0)));
                }
                (Some(sizes), Some(given))
                    if is_pure(op) && computed(op) && !op.outputs.is_empty() && !returned && fits(&sizes, given) =>
                {
                    self.sizes.extend(op.outputs.iter().map(|o| o.name.clone()).zip(sizes));
                    self.operations.push(op.clone());
                }
                _ => {}
            }
            op.blocks.iter().for_each(|b| self.choose(b, growth));
        }
    }

    /// Finds the chosen values that operations use which are not chosen.
    fn want(&mut self, block: &Block) {
        let chosen: HashSet<&str> =
            self.operations.iter().flat_map(|op| &op.outputs).map(|o| o.name.as_str()).collect();
        let mut wanted = Vec::new();
        used_by_others(block, &chosen, &mut wanted);
        self.wanted = wanted;
    }
}

fn used_by_others(block: &Block, chosen: &HashSet<&str>, wanted: &mut Vec<String>) {
    let mut want = |name: &String| {
        if chosen.contains(name.as_str()) && !wanted.contains(name) {
            wanted.push(name.clone());
        }
    };
    block.outputs.iter().for_each(&mut want);
    for op in block.operations.iter().filter(|op| !op.outputs.iter().any(|o| chosen.contains(o.name.as_str()))) {
        for binding in op.inputs.values().flat_map(|a| a.bindings()) {
            if let Binding::Name(name) = binding {
                want(name);
            }
        }
    }
    for nested in block.operations.iter().flat_map(|op| &op.blocks) {
        used_by_others(nested, chosen, wanted);
    }
}

/// Replaces operations of constants alone by their results, which `evaluate` computes; those of more than `growth` bytes
/// only if they are not larger than the constants that they are made of. Results of the function, random numbers,
/// compressed weights, states, lists and control flow stay as they are. Returns the number of operations that are gone.
///
/// # Errors
/// What is wrong with a constant or an operation.
pub fn fold_computed(
    function: &mut Function,
    growth: usize,
    pool: &mut Pool<'_>,
    evaluate: &mut Evaluate<'_>,
) -> Result<usize, String> {
    let mut chosen = Chosen::default();
    chosen.choose(&function.block, growth);
    if chosen.operations.is_empty() {
        return Ok(0);
    }
    chosen.want(&function.block);
    if chosen.wanted.is_empty() {
        return Ok(0);
    }
    let results = evaluate(&program(function, &chosen, pool)?)?;
    let mut new: HashMap<String, Value> = HashMap::new();
    for name in &chosen.wanted {
        let value = results.get(name).ok_or_else(|| format!("`{name}` was not computed"))?;
        let ty = value.ty.tensor().ok_or_else(|| format!("`{name}`: expected a tensor"))?;
        let shape = ty.fixed_shape().ok_or_else(|| format!("`{name}`: expected a known shape"))?;
        let stored = pool.read(value).map_err(|e| format!("`{name}`: {e}"))?;
        new.insert(name.clone(), pool.write(ty.dtype, &shape, stored.bytes)?);
    }
    let folded: HashSet<&str> = chosen.operations.iter().flat_map(|op| &op.outputs).map(|o| o.name.as_str()).collect();
    put(&mut function.block, &folded, &mut new);
    sweep(&mut function.block);
    Ok(chosen.operations.len())
}

/// A program of the chosen operations, with the constants that they use.
fn program(function: &Function, chosen: &Chosen, pool: &Pool<'_>) -> Result<Program, String> {
    let constants = Known::of(function).constants;
    let made: HashSet<&str> = chosen.operations.iter().flat_map(|op| &op.outputs).map(|o| o.name.as_str()).collect();
    let mut block = Block { outputs: chosen.wanted.clone(), ..Block::default() };
    let mut there = HashSet::new();
    for op in &chosen.operations {
        for binding in op.inputs.values().flat_map(|a| a.bindings()) {
            let Binding::Name(name) = binding else { continue };
            if made.contains(name.as_str()) || !there.insert(name.clone()) {
                continue;
            }
            let value = constants.get(name).ok_or_else(|| format!("`{name}` is no constant"))?;
            let value = match &value.data {
                ValueData::Tensor(TensorData::Blob(_)) => {
                    let stored = pool.read(value).map_err(|e| format!("constant `{name}`: {e}"))?;
                    Value::tensor(stored.dtype, &stored.shape, stored.bytes)
                }
                _ => value.clone(),
            };
            block.operations.push(constant_op(name.clone(), value));
        }
        block.operations.push(op.clone());
    }
    let function = Function { opset: function.opset, inputs: Vec::new(), block, attributes: Default::default() };
    Ok(Program { functions: [("main".to_owned(), function)].into_iter().collect(), attributes: Default::default() })
}

/// Puts constants in the place of the operations that made them.
fn put(block: &mut Block, folded: &HashSet<&str>, new: &mut HashMap<String, Value>) {
    let mut operations = Vec::with_capacity(block.operations.len());
    for mut op in std::mem::take(&mut block.operations) {
        if op.outputs.iter().any(|o| folded.contains(o.name.as_str())) {
            let constant = |o: &NamedType| Some(constant_op(o.name.clone(), new.remove(&o.name)?));
            operations.extend(op.outputs.iter().filter_map(constant));
            continue;
        }
        op.blocks.iter_mut().for_each(|b| put(b, folded, new));
        operations.push(op);
    }
    block.operations = operations;
}
