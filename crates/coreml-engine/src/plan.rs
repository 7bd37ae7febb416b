//! Planning: lowers a function of the IR to a flat list of steps with resolved slots.
//!
//! Names become slots, literals become constants, every operation is built once (attributes read and validated),
//! operations with only constant inputs are folded, and every variable is freed after its last use.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use candle_core::Device;
use coreml_format::program::{Argument, Binding, Block, Function, Operation, Opset, ValueType};
use coreml_format::task;
use coreml_format::weights::Weights;

use crate::backend::Backend;
use crate::budget;
use crate::build::OpBuilder;
use crate::custom::Custom;
use crate::declared::{self, Declared};
use crate::error::{EngineError, OpError, OpLocation};
use crate::frame::{Context, Frame, Slot};
use crate::literal;
use crate::op::OpKind;
use crate::planned::{BlockPlan, FunctionPlan, PlanInput, Run, Step};
use crate::state::StateSpec;
use crate::value::Value;

/// Maximum size in elements of one folded result; larger ones are computed in each prediction.
const FOLD_LIMIT: usize = 1 << 18;

/// Maximum size in elements of all folded results of a function; the rest are computed in each prediction.
const FOLD_TOTAL: usize = 1 << 24;

/// Plans a function.
///
/// # Errors
/// [`EngineError::UnsupportedOps`] listing all operations missing from the table; otherwise the first operation that
/// cannot be built.
pub(crate) fn plan(
    name: &str,
    function: &Function,
    weights: &Weights,
    backend: &Backend,
    context: &Context,
    custom: &[Custom],
) -> Result<FunctionPlan, EngineError> {
    let missing = unsupported(name, &function.block, backend);
    if !missing.is_empty() {
        return Err(EngineError::UnsupportedOps { ops: missing });
    }
    let mut planner = Planner {
        function: name,
        opset: function.opset,
        weights,
        backend,
        context,
        custom,
        device: &context.device,
        names: HashMap::new(),
        hidden: None,
        types: HashMap::new(),
        consts: Vec::new(),
        vars: 0,
        folded: 0,
        places: Vec::new(),
        weight_bytes: Vec::new(),
    };
    let (mut inputs, mut states) = (Vec::new(), Vec::new());
    for input in &function.inputs {
        if let ValueType::State(_) = input.ty {
            let spec = StateSpec::new(&input.name, &input.ty)?;
            let slot = planner.constant(Value::State(states.len()));
            planner.names.insert(input.name.clone(), slot);
            states.push(spec);
        } else {
            let var = planner.variable(&input.name);
            inputs.push(PlanInput { name: input.name.clone(), ty: input.ty.clone(), var });
        }
        planner.types.insert(input.name.clone(), input.ty.clone());
    }
    let block = planner.block(&function.block)?;
    let outputs = function.block.outputs.iter().map(|o| (o.clone(), planner.types.get(o).cloned())).collect();
    let has_blocks = function.block.operations.iter().any(|op| !op.blocks.is_empty());
    Ok(FunctionPlan {
        takes_rows: states.is_empty() && !has_blocks && block.steps.iter().any(|step| step.rows.is_some()),
        inputs,
        states,
        outputs,
        places: planner.places,
        weight_bytes: planner.weight_bytes,
        block,
        has_blocks,
        consts: planner.consts,
        vars: planner.vars as usize,
    })
}

/// All operations of the block and its nested blocks that are missing from the table.
fn unsupported(function: &str, block: &Block, backend: &Backend) -> Vec<OpLocation> {
    let mut missing = Vec::new();
    for op in &block.operations {
        if op.kind != "const" && backend.find(&op.kind).is_none() {
            missing.push(place(function, op));
        }
        missing.extend(op.blocks.iter().flat_map(|b| unsupported(function, b, backend)));
    }
    missing
}

fn place(function: &str, op: &Operation) -> OpLocation {
    OpLocation { function: function.to_owned(), kind: op.kind.clone(), name: op.name.clone() }
}

struct Planner<'a> {
    function: &'a str,
    opset: Opset,
    weights: &'a Weights,
    backend: &'a Backend,
    /// Context for folding operations with constant inputs.
    context: &'a Context,
    /// Layers and models of the caller.
    custom: &'a [Custom],
    device: &'a Device,
    names: HashMap<String, Slot>,
    /// Bindings shadowed by the open nested blocks, restored when a block ends; `None` at the top level.
    hidden: Option<Vec<(String, Option<Slot>)>>,
    types: HashMap<String, ValueType>,
    consts: Vec<Value>,
    vars: u32,
    /// Number of elements folded so far.
    folded: usize,
    places: Vec<OpLocation>,
    weight_bytes: Vec<u64>,
}

impl Planner<'_> {
    fn constant(&mut self, value: Value) -> Slot {
        self.consts.push(value);
        Slot::Const((self.consts.len() - 1) as u32)
    }

    fn variable(&mut self, name: &str) -> u32 {
        let var = self.vars;
        self.vars += 1;
        self.define(name, Slot::Var(var));
        var
    }

    fn define(&mut self, name: &str, slot: Slot) {
        let before = self.names.insert(name.to_owned(), slot);
        if let Some(hidden) = &mut self.hidden {
            hidden.push((name.to_owned(), before));
        }
    }

    fn block(&mut self, block: &Block) -> Result<BlockPlan, EngineError> {
        let inputs: Vec<u32> = block.inputs.iter().map(|i| self.variable(&i.name)).collect();
        let mut steps: Vec<Step> = Vec::with_capacity(block.operations.len());
        let mut uses: Vec<HashSet<u32>> = Vec::new();
        let mut defined: HashSet<u32> = inputs.iter().copied().collect();
        let total = block.operations.len();
        for (i, op) in block.operations.iter().enumerate() {
            let at = |_| EngineError::Op { place: place(self.function, op), source: OpError::Cancelled };
            task::step(&op.name, i, total).map_err(at)?;
            for output in &op.outputs {
                self.types.insert(output.name.clone(), output.ty.clone());
            }
            if let Some((step, used)) = self.operation(op)? {
                defined.extend(&step.outputs);
                steps.push(step);
                uses.push(used);
            }
        }
        let outputs = block.outputs.iter().map(|o| self.output(o)).collect::<Result<Vec<_>, _>>()?;
        let returned: HashSet<u32> = outputs.iter().filter_map(var_of).collect();
        let mut captures: HashSet<u32> = returned.difference(&defined).copied().collect();
        let mut seen = returned;
        for (step, used) in steps.iter_mut().zip(&uses).rev() {
            for var in used.iter().chain(&step.outputs) {
                if !defined.contains(var) {
                    captures.insert(*var);
                } else if seen.insert(*var) {
                    step.free.push(*var);
                }
            }
        }
        let declared = block.inputs.iter().map(Declared::new).collect();
        Ok(BlockPlan { inputs, declared, steps, outputs, captures })
    }

    fn output(&self, name: &str) -> Result<Slot, EngineError> {
        self.names.get(name).copied().ok_or_else(|| EngineError::Undefined {
            place: OpLocation { function: self.function.to_owned(), kind: "return".to_owned(), name: name.to_owned() },
            value: name.to_owned(),
        })
    }

    /// Plans one operation; `None` if it was folded.
    fn operation(&mut self, op: &Operation) -> Result<Option<(Step, HashSet<u32>)>, EngineError> {
        let at = |source: OpError| EngineError::Op { place: place(self.function, op), source };
        if op.kind == "const" {
            let value = op.attributes.get("val").ok_or_else(|| at(OpError::Missing("val".to_owned())))?;
            let value = literal::value(value, self.weights, self.device).map_err(at)?;
            return self.fold(op, vec![value]).map(|()| None);
        }
        let (literals, mut used) = self.arguments(op)?;
        let (blocks, captured) = self.nested(op)?;
        used.extend(captured);
        let at = |source: OpError| EngineError::Op { place: place(self.function, op), source };
        let spec = self.backend.find(&op.kind).ok_or_else(|| at(OpError::Unsupported(op.kind.clone())))?;
        let has_blocks = !blocks.is_empty();
        let build = OpBuilder {
            op,
            opset: op.opset(self.opset),
            device: self.device,
            names: &self.names,
            literals: &literals,
            consts: &self.consts,
            blocks,
            custom: self.custom,
            read: RefCell::default(),
            rows: RefCell::default(),
        };
        let built = match spec.kind {
            OpKind::Constant(evaluate) => {
                let before = budget::used();
                let value = evaluate(&build).map_err(at)?;
                // Its temporaries are freed.
                let kept = match &value {
                    Value::Array(array) => array.bytes(),
                    Value::Weight(weight) => weight.held_bytes(),
                    Value::Doubles(d) => size_of_val(d.data.as_slice()),
                    _ => 0,
                };
                budget::set_used(before);
                budget::keep(kept).map_err(at)?;
                Built::Constant(value)
            }
            OpKind::Run(build_op) => Built::Run(build_op(&build).map_err(at)?),
        };
        if let Some(name) = build.unread() {
            let (name, opset) = (name.to_owned(), op.opset(self.opset).text_name());
            return Err(at(OpError::UnknownParameter { name, opset }));
        }
        let rows = build.rows.take();
        let run = match built {
            Built::Constant(value) => return self.fold(op, vec![value]).map(|()| None),
            Built::Run(run) => run,
        };
        if spec.pure
            && used.is_empty()
            && !has_blocks
            && !self.touches_state(op)
            && let Some(values) = self.evaluate(op, &run)?
        {
            return self.fold(op, values).map(|()| None);
        }
        let outputs = op.outputs.iter().map(|o| self.variable(&o.name)).collect();
        let declared = op.outputs.iter().map(Declared::new).collect();
        self.places.push(place(self.function, op));
        self.weight_bytes.push(self.weight_bytes_of(op, &literals));
        let place = (self.places.len() - 1) as u32;
        Ok(Some((Step { run, rows, outputs, declared, free: Vec::new(), place }, used)))
    }

    fn weight_bytes_of(&self, op: &Operation, literals: &HashMap<String, Vec<Slot>>) -> u64 {
        let named = op.inputs.values().flat_map(Argument::bindings).filter_map(|b| match b {
            Binding::Name(n) => self.names.get(n),
            Binding::Value(_) => None,
        });
        let slots: HashSet<Slot> = named.chain(literals.values().flatten()).copied().collect();
        let bytes = slots.iter().map(|slot| match slot {
            Slot::Const(i) => match self.consts.get(*i as usize) {
                Some(Value::Weight(w)) => w.stored_bytes() as u64,
                _ => 0,
            },
            Slot::Var(_) => 0,
        });
        bytes.sum()
    }

    fn touches_state(&self, op: &Operation) -> bool {
        op.inputs.values().flat_map(Argument::bindings).any(|b| match b {
            Binding::Name(n) => matches!(self.types.get(n), Some(ValueType::State(_))),
            Binding::Value(_) => false,
        })
    }

    /// Slots of the parameters, including literals, and the variables read by the operation.
    fn arguments(&mut self, op: &Operation) -> Result<(HashMap<String, Vec<Slot>>, HashSet<u32>), EngineError> {
        let mut literals = HashMap::new();
        let mut used = HashSet::new();
        for (name, argument) in &op.inputs {
            let mut slots = Vec::with_capacity(argument.bindings().len());
            let mut literal = false;
            for binding in argument.bindings() {
                slots.push(match binding {
                    Binding::Name(n) => *self
                        .names
                        .get(n)
                        .ok_or_else(|| EngineError::Undefined { place: place(self.function, op), value: n.clone() })?,
                    Binding::Value(v) => {
                        literal = true;
                        let value = literal::value(v, self.weights, self.device)
                            .map_err(|source| EngineError::Op { place: place(self.function, op), source })?;
                        self.constant(value)
                    }
                });
            }
            used.extend(slots.iter().filter_map(var_of));
            if literal {
                literals.insert(name.clone(), slots);
            }
        }
        for (name, value) in &op.attributes {
            let value = literal::value(value, self.weights, self.device)
                .map_err(|source| EngineError::Op { place: place(self.function, op), source })?;
            let slot = self.constant(value);
            literals.insert(name.clone(), vec![slot]);
        }
        Ok((literals, used))
    }

    fn nested(&mut self, op: &Operation) -> Result<(Vec<Arc<BlockPlan>>, HashSet<u32>), EngineError> {
        let (mut blocks, mut captured) = (Vec::new(), HashSet::new());
        for block in &op.blocks {
            let outer = self.hidden.replace(Vec::new());
            let plan = self.block(block)?;
            for (name, before) in std::mem::replace(&mut self.hidden, outer).into_iter().flatten().rev() {
                match before {
                    Some(slot) => self.names.insert(name, slot),
                    None => self.names.remove(&name),
                };
            }
            captured.extend(&plan.captures);
            blocks.push(Arc::new(plan));
        }
        Ok((blocks, captured))
    }

    /// Folds an operation with constant inputs; `None` if its result is too large to keep.
    fn evaluate(&mut self, op: &Operation, run: &Run) -> Result<Option<Vec<Value>>, EngineError> {
        let mut frame = Frame::new(&self.consts, 0, self.context, None);
        let before = budget::used();
        let done = run(&mut frame);
        budget::set_used(before);
        let values = match done {
            Ok(values) => values,
            // Predictions have their own limits.
            Err(OpError::TooMuchMemory { .. } | OpError::OutOfMemory { .. } | OpError::TooMuchWork { .. }) => {
                return Ok(None);
            }
            Err(source) => return Err(EngineError::Op { place: place(self.function, op), source }),
        };
        let elements = |v: &Value| match v {
            Value::Array(a) => a.tensor().elem_count(),
            Value::Doubles(d) => d.data.len(),
            Value::List(items) => items.len(),
            _ => 0,
        };
        let total = values.iter().map(elements).fold(self.folded, usize::saturating_add);
        if total > FOLD_TOTAL || values.iter().any(|v| elements(v) > FOLD_LIMIT) {
            return Ok(None);
        }
        self.folded = total;
        let kept = values.iter().map(elements).fold(0, usize::saturating_add).saturating_mul(size_of::<i64>());
        budget::keep(kept).map_err(|source| EngineError::Op { place: place(self.function, op), source })?;
        Ok(Some(values))
    }

    fn fold(&mut self, op: &Operation, values: Vec<Value>) -> Result<(), EngineError> {
        let declared: Vec<Declared> = op.outputs.iter().map(Declared::new).collect();
        declared::check(&declared, &values)
            .map_err(|source| EngineError::Op { place: place(self.function, op), source })?;
        for (output, value) in op.outputs.iter().zip(values) {
            let slot = self.constant(value);
            self.define(&output.name, slot);
        }
        Ok(())
    }
}

/// Result of building an operation.
enum Built {
    Constant(Value),
    Run(Run),
}

fn var_of(slot: &Slot) -> Option<u32> {
    match slot {
        Slot::Var(v) => Some(*v),
        Slot::Const(_) => None,
    }
}
