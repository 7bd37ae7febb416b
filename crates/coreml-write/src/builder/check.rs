//! Programs that exist, checked against the table of operations.

use std::collections::HashMap;

use coreml_format::program::{Argument, Binding, Block, Function, Operation, Program, Value, ValueType};
use indexmap::IndexMap;

use super::arg::Var;
use super::call::agree;
use super::error::BuildError;
use super::table;
use crate::infer;

/// Checks every operation of a program as the builder does: parameters, element types, and that the declared results
/// are those inferred, where they are.
///
/// Returns everything that is wrong.
pub fn check(program: &Program) -> Vec<BuildError> {
    let mut wrong = Vec::new();
    for function in program.functions.values() {
        let mut scope = Scope { function, known: HashMap::new(), wrong: &mut wrong };
        for input in &function.inputs {
            scope.known.insert(&input.name, (&input.ty, None, false));
        }
        scope.block(&function.block);
    }
    wrong
}

struct Scope<'p, 'w> {
    function: &'p Function,
    /// Type, literal, and whether it is constant.
    known: HashMap<&'p str, (&'p ValueType, Option<&'p Value>, bool)>,
    wrong: &'w mut Vec<BuildError>,
}

impl<'p> Scope<'p, '_> {
    fn block(&mut self, block: &'p Block) {
        for input in &block.inputs {
            self.known.insert(&input.name, (&input.ty, None, false));
        }
        for op in &block.operations {
            op.blocks.iter().for_each(|b| self.block(b));
            if !matches!(op.kind.as_str(), "const" | "write_state" | "coreml_update_state")
                && let Err(e) = self.operation(op)
            {
                self.wrong.push(e);
            }
            let constant = op.kind == "const" || op.kind.starts_with("constexpr_");
            for output in &op.outputs {
                self.known.insert(&output.name, (&output.ty, op.attributes.get("val").filter(|_| constant), constant));
            }
        }
    }

    fn var(&self, binding: &Binding) -> Option<Var> {
        let (name, ty, literal, constant) = match binding {
            Binding::Value(v) => (String::new(), v.ty.clone(), Some(v.clone()), true),
            Binding::Name(name) => {
                let &(ty, literal, constant) = self.known.get(name.as_str())?;
                // Values in weight files are large and never needed.
                let literal = literal.filter(|v| matches!(&v.data, coreml_format::program::ValueData::Tensor(_)));
                (name.clone(), ty.clone(), literal.cloned(), constant)
            }
        };
        Some(Var { name, ty, owner: 0, literal, constant })
    }

    fn operation(&self, op: &Operation) -> Result<(), BuildError> {
        if let Some(checked) = super::control::check(op, |name| self.known.get(name).map(|known| known.0)) {
            return checked;
        }
        let wrong = |what: String| BuildError::Op { kind: op.kind.clone(), name: op.name.clone(), what };
        let definition = super::call::find(&op.kind, &op.name, self.function.opset)?;
        let mut args: IndexMap<String, Vec<Var>> = IndexMap::new();
        let attributes = op.attributes.iter().map(|(n, v)| (n, Argument::One(Binding::Value(v.clone()))));
        for (name, argument) in op.inputs.iter().map(|(n, a)| (n, a.clone())).chain(attributes) {
            let Some(row) = definition.parameters.get(name) else {
                return Err(wrong(format!("found parameter `{name}`, which it does not have")));
            };
            let vars: Option<Vec<Var>> = argument.bindings().iter().map(|b| self.var(b)).collect();
            let vars = vars.ok_or_else(|| wrong(format!("parameter `{name}`: expected a value defined before")))?;
            if let Some(var) = vars.iter().find(|v| v.dtype().is_some_and(|t| !row.takes(t))) {
                let found = var.dtype().map_or("none", |t| t.name());
                return Err(wrong(format!("parameter `{name}`: expected another element type, found {found}")));
            }
            args.insert(name.clone(), vars);
        }
        if let Some((missing, _)) =
            definition.parameters.iter().find(|(p, row)| !row.optional && !args.contains_key(*p))
        {
            return Err(wrong(format!("parameter `{missing}` is missing")));
        }
        let call = infer::Call { kind: &op.kind, args: &args, opset: self.function.opset };
        if let Some(found) = infer::infer(&call).map_err(&wrong)? {
            agree(found, op.outputs.iter().map(|o| o.ty.clone()).collect()).map_err(&wrong)?;
        }
        Ok(())
    }
}

/// True if the types of an operation's results are inferred.
pub fn is_inferred(kind: &str) -> bool {
    infer::has_rule(kind) && !table::definitions(kind).is_empty()
}
