//! fp16 in place of fp32, as coremltools' `FP16ComputePrecision` and `cast_optimization` make it: operations take fp16 where
//! the table allows it, with casts where fp32 and fp16 meet. Casts themselves, control flow, states and lists stay as they
//! are, and so do operations with constants beyond fp16's range.

use std::collections::{HashMap, HashSet};

use coreml_format::description::FunctionDescription;
use coreml_format::dtype::DataType;
use coreml_format::program::{
    Argument, Binding, Block, Function, NamedType, Operation, Opset, TensorType, Value, ValueType,
};
use coreml_format::weights::Weights;
use half::f16;
use indexmap::IndexMap;

use super::pool::Pool;
use super::{Known, constant_op};
use crate::edit::Constants;

mod choose;
mod convert;

/// How fp16 is brought in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Half {
    /// Inputs and outputs in fp16, too; otherwise they keep their types.
    pub features: bool,
    /// Types of operations, and names of operations or of what they make, that keep fp32.
    pub keep: Vec<String>,
}

/// An operation that keeps fp32 though the table allows fp16.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Function.
    pub function: String,
    /// Type of the operation.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Largest number of fp16, and the number from which on fp32 counts as infinite (coremltools' `fp16_overflow`).
const RANGE: std::ops::Range<f32> = 65504.0..1e38;

/// Most elements of a constant whose smallest ones are kept from becoming zero.
const TINY: usize = 400;

fn is_single(ty: &ValueType) -> bool {
    matches!(ty, ValueType::Tensor(t) if t.dtype == DataType::F32)
}

fn halved(ty: &ValueType) -> ValueType {
    match ty {
        ValueType::Tensor(t) => ValueType::Tensor(TensorType { dtype: DataType::F16, shape: t.shape.clone() }),
        other => other.clone(),
    }
}

/// Brings fp16 into a function. Returns the number of operations that compute in it, and those that keep fp32.
///
/// # Errors
/// A name in `keep` that nothing has, inputs or outputs in fp16 before iOS 16, or what is wrong with a constant.
pub fn halve(
    function: &mut Function,
    description: &mut FunctionDescription,
    half: &Half,
    pool: &mut Pool<'_>,
) -> Result<(usize, Vec<Kept>), String> {
    if half.features && function.opset < Opset::Ios16 {
        let found = function.opset.text_name();
        return Err(format!("expected ios16 or later for inputs and outputs in fp16, found {found}"));
    }
    let wide = wide(&function.block, pool)?;
    let mut work = Work {
        opset: function.opset,
        keep: &half.keep,
        wide,
        known: Known::of(function),
        pool,
        types: function.inputs.iter().map(|i| (i.name.clone(), i.ty.clone())).collect(),
        literals: HashMap::new(),
        single_names: HashMap::new(),
        half_names: HashMap::new(),
        scopes: vec![Scope::default()],
        operations: Vec::new(),
        returned: Vec::new(),
        aliases: HashMap::new(),
        count: 0,
        kept: Vec::new(),
    };
    if half.features {
        work.features(function, description);
    }
    function.block = work.block(std::mem::take(&mut function.block))?;
    let (count, kept) = (work.count, work.kept);
    crate::builder::sweep(&mut function.block);
    super::drop_identities(function);
    Ok((count, kept))
}

/// Constants, compressed ones included, with numbers beyond fp16's range.
fn wide(block: &Block, pool: &Pool<'_>) -> Result<HashSet<String>, String> {
    fn visit(
        block: &Block,
        constants: &Constants<'_>,
        pool: &Pool<'_>,
        found: &mut HashSet<String>,
    ) -> Result<(), String> {
        for op in &block.operations {
            if let Some(output) = op.outputs.first().filter(|o| is_single(&o.ty)) {
                let data = match (op.attributes.get("val"), op.kind.as_str()) {
                    (Some(value), "const") => {
                        pool.numbers(value).map_err(|e| format!("constant `{}`: {e}", op.name))?
                    }
                    (_, kind) if kind.starts_with("constexpr_") && op.outputs.len() == 1 => {
                        constants.decode(&output.name)?.data
                    }
                    _ => Vec::new(),
                };
                // Not in the range of fp16, and not as good as infinite.
                if data.iter().any(|v| v.abs() > RANGE.start && v.abs() < RANGE.end) {
                    found.insert(output.name.clone());
                }
            }
            for nested in &op.blocks {
                visit(nested, constants, pool, found)?;
            }
        }
        Ok(())
    }
    let none = Weights::default();
    let mut found = HashSet::new();
    visit(block, &Constants::of(block, pool.weights().unwrap_or(&none)), pool, &mut found)?;
    Ok(found)
}

/// Values of a block.
#[derive(Default)]
struct Scope {
    /// Values in fp16, by the names of those in fp32.
    half: HashMap<String, String>,
    /// Values that exist in fp16 only, so far.
    only: HashSet<String>,
    /// Values in fp32 that are casts of integers and booleans, and of what.
    whole: HashMap<String, String>,
}

struct Work<'a, 'w> {
    opset: Opset,
    keep: &'a [String],
    wide: HashSet<String>,
    known: Known,
    pool: &'a mut Pool<'w>,
    /// Types of all values that there are.
    types: HashMap<String, ValueType>,
    /// Values of constants, and true for results of `constexpr_*`.
    literals: HashMap<String, Option<Value>>,
    /// Names of values in fp32, where they are not those of before.
    single_names: HashMap<String, String>,
    /// Names of values in fp16 that are fixed: those of inputs and outputs in fp16.
    half_names: HashMap<String, String>,
    scopes: Vec<Scope>,
    /// Operations of the block at hand.
    operations: Vec<Operation>,
    /// Results of the blocks at hand, the innermost last.
    returned: Vec<HashSet<String>>,
    /// Casts that are gone, and what takes their place.
    aliases: HashMap<String, String>,
    count: usize,
    kept: Vec<Kept>,
}

impl Work<'_, '_> {
    fn block(&mut self, block: Block) -> Result<Block, String> {
        for input in &block.inputs {
            self.types.insert(input.name.clone(), input.ty.clone());
        }
        let outside = std::mem::take(&mut self.operations);
        self.returned.push(block.outputs.iter().cloned().collect());
        for op in block.operations {
            self.operation(op)?;
        }
        self.returned.pop();
        for name in &block.outputs {
            // Outputs in fp16 have their names by now, or get them from a cast.
            if self.half_names.get(name) == Some(name) {
                self.half(name)?;
            } else {
                self.single(name);
            }
        }
        let operations = std::mem::replace(&mut self.operations, outside);
        Ok(Block { inputs: block.inputs, operations, outputs: block.outputs })
    }

    fn push(&mut self, op: Operation) {
        self.types.extend(op.outputs.iter().map(|o| (o.name.clone(), o.ty.clone())));
        if op.kind == "const" || op.kind.starts_with("constexpr_") {
            let value = op.attributes.get("val").filter(|_| op.kind == "const");
            self.literals.extend(op.outputs.iter().map(|o| (o.name.clone(), value.cloned())));
        }
        self.operations.push(op);
    }

    fn find<T>(&self, get: impl Fn(&Scope) -> Option<T>) -> Option<T> {
        self.scopes.iter().rev().find_map(get)
    }

    fn scope(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    /// Name of a value in fp32.
    fn name(&self, of: &str) -> String {
        self.single_names.get(of).cloned().unwrap_or_else(|| of.to_owned())
    }

    /// Adds a cast.
    fn cast(&mut self, from: &str, to: String, dtype: DataType) {
        let Some(ValueType::Tensor(ty)) = self.types.get(from).cloned() else { return };
        let parameter = self.known.fresh(&format!("{to}_dtype"));
        self.push(constant_op(parameter.clone(), Value::string(dtype.name())));
        let bind = |name: &str| Argument::One(Binding::Name(name.to_owned()));
        self.push(Operation {
            kind: "cast".to_owned(),
            name: to.clone(),
            inputs: [("x".to_owned(), bind(from)), ("dtype".to_owned(), bind(&parameter))].into_iter().collect(),
            outputs: vec![NamedType { name: to, ty: ValueType::Tensor(TensorType { dtype, shape: ty.shape }) }],
            blocks: Vec::new(),
            attributes: IndexMap::new(),
        });
    }

    /// The value in its type of before; returns its name.
    fn single(&mut self, of: &str) -> String {
        let name = self.name(of);
        if self.find(|s| s.only.contains(of).then_some(())).is_some()
            && let Some(half) = self.find(|s| s.half.get(of).cloned())
        {
            self.cast(&half, name.clone(), DataType::F32);
            for scope in &mut self.scopes {
                scope.only.remove(of);
            }
        }
        name
    }

    /// The value in fp16; returns its name.
    fn half(&mut self, of: &str) -> Result<String, String> {
        if let Some(name) = self.find(|s| s.half.get(of).cloned()) {
            return Ok(name);
        }
        let single = self.name(of);
        let name = match self.half_names.get(of) {
            Some(name) => name.clone(),
            None => self.known.fresh(&format!("{of}_to_fp16")),
        };
        match (self.literals.get(&single).cloned().flatten(), self.find(|s| s.whole.get(of).cloned())) {
            (Some(value), _) if !self.wide.contains(of) => {
                let value = self.constant(&value).map_err(|e| format!("constant `{of}`: {e}"))?;
                self.push(constant_op(name.clone(), value));
            }
            (_, Some(whole)) => self.cast(&whole, name.clone(), DataType::F16),
            _ => self.cast(&single, name.clone(), DataType::F16),
        }
        self.scope().half.insert(of.to_owned(), name.clone());
        Ok(name)
    }

    /// A constant in fp16: infinite from 1e38 on; in small ones, what is not zero does not become zero.
    fn constant(&mut self, value: &Value) -> Result<Value, String> {
        let stored = self.pool.read(value)?;
        let numbers = stored.numbers()?;
        let small = numbers.len() < TINY;
        let one = |&v: &f32| {
            let h = f16::from_f32(v);
            if small && v != 0.0 && h.to_f32().abs() <= f16::from_bits(1).to_f32() {
                f16::from_bits(1 | (u16::from(v < 0.0) << 15))
            } else {
                h
            }
        };
        self.pool.write(DataType::F16, &stored.shape, numbers.iter().flat_map(|v| one(v).to_le_bytes()).collect())
    }
}

fn bindings(argument: &mut Argument) -> &mut [Binding] {
    match argument {
        Argument::One(b) => std::slice::from_mut(b),
        Argument::Many(all) => all,
    }
}
