//! Operations one by one: what becomes of each in fp16.

use std::collections::HashMap;

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Operation, ValueType};
use indexmap::IndexMap;

use super::{Kept, Scope, Work, bindings, halved, is_single};
use crate::builder::arg::Var;
use crate::infer;
use crate::passes::{bound, constant_op};

impl Work<'_, '_> {
    pub(super) fn operation(&mut self, mut op: Operation) -> Result<(), String> {
        for binding in op.inputs.values_mut().flat_map(bindings) {
            if let Binding::Name(name) = binding
                && let Some(other) = self.aliases.get(name)
            {
                name.clone_from(other);
            }
        }
        for output in &mut op.outputs {
            if let Some(name) = self.single_names.get(&output.name) {
                // What it makes in fp32 has another name; fp16 takes this one.
                output.name.clone_from(name);
            }
        }
        match op.kind.as_str() {
            "const" => {
                self.push(op);
                Ok(())
            }
            "cast" => self.casted(op),
            _ if !op.blocks.is_empty() => self.control(op),
            "constexpr_cast" => self.expanded(op),
            _ => self.general(op),
        }
    }

    /// The name of before of a result.
    pub(super) fn before(&self, name: &str) -> String {
        let renamed = self.single_names.iter().find(|(_, new)| *new == name);
        renamed.map_or_else(|| name.to_owned(), |(old, _)| old.clone())
    }

    /// An operation that keeps its types.
    fn left(&mut self, mut op: Operation) {
        for binding in op.inputs.values_mut().flat_map(bindings) {
            if let Binding::Name(name) = binding {
                *name = self.single(name);
            }
        }
        self.push(op);
    }

    /// A cast takes fp16 where there is, from which all it makes is the same.
    fn casted(&mut self, mut op: Operation) -> Result<(), String> {
        let (Some(x), [output]) = (bound(&op, "x").map(str::to_owned), op.outputs.as_slice()) else {
            self.left(op);
            return Ok(());
        };
        let (name, to) = (self.before(&output.name), output.ty.tensor().map(|t| t.dtype));
        let half = self.find(|s| s.half.get(&x).cloned());
        let from = self.source(&x).and_then(ValueType::tensor).map(|t| t.dtype);
        let returned = self.returned.last().is_some_and(|all| all.contains(&output.name));
        match (half, from, to) {
            (Some(half), _, Some(DataType::F16)) if !returned => {
                self.aliases.insert(output.name.clone(), half);
                return Ok(());
            }
            (Some(half), _, Some(dtype)) if dtype != DataType::F32 => {
                if dtype == DataType::F16 {
                    op.kind = "identity".to_owned();
                    op.inputs.clear();
                }
                op.inputs.insert("x".to_owned(), Argument::One(Binding::Name(half)));
                self.push(op);
                return Ok(());
            }
            (None, Some(DataType::F32), Some(DataType::F16)) => {
                self.scope().half.insert(x, name);
            }
            (_, Some(DataType::F16), Some(DataType::F32)) => {
                self.scope().half.insert(name, x);
            }
            (half, Some(DataType::F32), Some(DataType::F32)) => {
                op.kind = "identity".to_owned();
                op.inputs.shift_remove("dtype");
                if let Some(half) = half {
                    self.scope().half.insert(name, half);
                }
            }
            (_, Some(_), Some(DataType::F32)) => {
                self.scope().whole.insert(name, x);
            }
            _ => {}
        }
        self.left(op);
        Ok(())
    }

    /// Control flow: what goes in and out of its blocks keeps its type.
    fn control(&mut self, mut op: Operation) -> Result<(), String> {
        for name in outside(&op) {
            self.single(&name);
        }
        let blocks = std::mem::take(&mut op.blocks);
        for block in blocks {
            self.scopes.push(Scope::default());
            let done = self.block(block);
            self.scopes.pop();
            op.blocks.push(done?);
        }
        self.left(op);
        Ok(())
    }

    /// `constexpr_cast` of fp16 is the constant that it expands.
    fn expanded(&mut self, op: Operation) -> Result<(), String> {
        let value = match (op.attributes.get("source_val"), bound(&op, "source_val")) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(name)) => self.literals.get(name).cloned().flatten(),
            (None, None) => None,
        };
        let value = value.filter(|v| v.ty.tensor().is_some_and(|t| t.dtype == DataType::F16));
        if let (Some(value), [output]) = (value, op.outputs.as_slice()) {
            let of = self.before(&output.name);
            let name = self.known.fresh(&format!("{of}_to_fp16"));
            self.push(constant_op(name.clone(), value));
            self.scope().half.insert(of, name);
        }
        self.left(op);
        Ok(())
    }

    fn general(&mut self, op: Operation) -> Result<(), String> {
        let parameters = match self.parameters(&op) {
            Ok(parameters) => parameters,
            Err(reason) => {
                if !reason.is_empty() {
                    let (kind, name) = (op.kind.clone(), op.name.clone());
                    self.kept.push(Kept { function: String::new(), kind, name, reason });
                }
                self.left(op);
                return Ok(());
            }
        };
        let mut new = op.clone();
        for (name, argument) in &mut new.inputs {
            let half = parameters.contains(name);
            for binding in bindings(argument) {
                match binding {
                    Binding::Name(of) if half && self.source(of).is_some_and(is_single) => *of = self.half(of)?,
                    Binding::Name(of) => *of = self.single(of),
                    Binding::Value(value) if half && is_single(&value.ty) => *value = self.constant(value)?,
                    Binding::Value(_) => {}
                }
            }
        }
        for (_, value) in new.attributes.iter_mut().filter(|(name, _)| parameters.contains(name)) {
            *value = self.constant(value)?;
        }
        let types = match self.infer(&new) {
            Ok(types) => types,
            Err(reason) => {
                let (kind, name) = (op.kind.clone(), op.name.clone());
                self.kept.push(Kept { function: String::new(), kind, name, reason });
                self.left(op);
                return Ok(());
            }
        };
        new.name = format!("{}_cast_fp16", op.name);
        for (i, output) in new.outputs.iter_mut().enumerate() {
            let becomes = match &types {
                Some(types) => types.get(i).and_then(|t| t.tensor()).is_some_and(|t| t.dtype == DataType::F16),
                None => true,
            };
            if !is_single(&output.ty) || !becomes {
                continue;
            }
            let of = self.before(&output.name);
            output.ty = halved(&output.ty);
            output.name = match self.half_names.get(&of) {
                Some(name) => name.clone(),
                None => self.known.fresh(&format!("{of}_cast_fp16")),
            };
            self.scope().half.insert(of.clone(), output.name.clone());
            self.scope().only.insert(of);
        }
        self.count += usize::from(!op.kind.starts_with("constexpr_"));
        self.push(new);
        Ok(())
    }

    /// Types of the results, if they are inferred.
    fn infer(&self, op: &Operation) -> Result<Option<Vec<ValueType>>, String> {
        let var = |binding: &Binding| match binding {
            Binding::Value(v) => {
                Some(Var { name: String::new(), ty: v.ty.clone(), owner: 0, literal: Some(v.clone()), constant: true })
            }
            Binding::Name(name) => {
                let (ty, literal) = (self.types.get(name)?.clone(), self.literals.get(name));
                let constant = literal.is_some();
                Some(Var { name: name.clone(), ty, owner: 0, literal: literal.cloned().flatten(), constant })
            }
        };
        let mut args: IndexMap<String, Vec<Var>> = IndexMap::new();
        let attributes = op.attributes.iter().map(|(n, v)| (n, Argument::One(Binding::Value(v.clone()))));
        for (name, argument) in op.inputs.iter().map(|(n, a)| (n, a.clone())).chain(attributes) {
            let vars: Option<Vec<Var>> = argument.bindings().iter().map(var).collect();
            args.insert(name.clone(), vars.ok_or_else(|| format!("parameter `{name}` is not defined before"))?);
        }
        infer::infer(&infer::Call { kind: &op.kind, args: &args, opset: self.opset })
    }
}

/// Names that the blocks of an operation use and don't define.
fn outside(op: &Operation) -> Vec<String> {
    let (mut used, mut defined) = (HashMap::new(), Vec::new());
    for block in &op.blocks {
        crate::names::uses(block, &mut used);
        crate::names::defined(block, &mut defined);
    }
    let mut names: Vec<String> = used.into_keys().filter(|n| !defined.contains(n)).map(str::to_owned).collect();
    names.sort_unstable();
    names
}
