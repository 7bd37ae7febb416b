//! Control flow: operations with blocks of their own. Values of enclosing blocks are visible in them, theirs are not
//! outside.

use std::collections::HashSet;

use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Block, Dim, NamedType, Operation, TensorType, ValueType};
use indexmap::IndexMap;

use super::arg::{self, Var};
use super::error::BuildError;
use super::function::{FunctionBuilder, show};

type Built = Result<Vec<Var>, BuildError>;

fn wrong(kind: &str, name: &str, what: impl Into<String>) -> BuildError {
    BuildError::Op { kind: kind.to_owned(), name: name.to_owned(), what: what.into() }
}

/// A boolean scalar.
fn truth() -> ValueType {
    ValueType::Tensor(TensorType::fixed(DataType::Bool, &[]))
}

impl FunctionBuilder {
    /// Adds `cond`: the results of `yes` if `pred`, a boolean scalar, holds, else those of `no`.
    ///
    /// ```
    /// use coreml_format::{dtype::DataType, program::Opset};
    /// use coreml_write::builder::FunctionBuilder;
    ///
    /// let mut f = FunctionBuilder::new(Opset::Ios17);
    /// let x = f.input("x", DataType::F32, [4])?;
    /// let sum = f.op("reduce_sum").arg("x", &x).arg("keep_dims", false).done()?;
    /// let positive = f.op("greater").arg("x", &sum).arg("y", 0.0).done()?;
    /// let y = f.cond(
    ///     &positive,
    ///     |f| Ok(vec![f.op("sqrt").arg("x", &x).done()?]),
    ///     |f| Ok(vec![f.op("abs").arg("x", &x).done()?]),
    /// )?;
    /// f.output("y", &y[0])?;
    /// # Ok::<(), coreml_write::builder::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// [`BuildError::Op`] if `pred` is no boolean scalar or the branches return other numbers or types of results; errors of
    /// the branches.
    pub fn cond(
        &mut self,
        pred: &Var,
        yes: impl FnOnce(&mut Self) -> Built,
        no: impl FnOnce(&mut Self) -> Built,
    ) -> Built {
        let kind = "cond";
        self.visible(pred).map_err(|what| wrong(kind, &pred.name, what))?;
        if pred.ty != truth() {
            let what = format!("parameter `pred`: expected {}, found {}", show(&truth()), show(&pred.ty));
            return Err(wrong(kind, &pred.name, what));
        }
        let (first, types) = self.nested(kind, Vec::new(), |f, _| yes(f))?;
        let (second, others) = self.nested(kind, Vec::new(), |f, _| no(f))?;
        let name = self.fresh(kind);
        let types = join(&types, &others).map_err(|what| wrong(kind, &name, what))?;
        let inputs = [("pred".to_owned(), arg::argument(std::slice::from_ref(pred), false))];
        self.add_control(kind, name, inputs.into_iter().collect(), vec![first, second], types)
    }

    /// Adds `while_loop`: `body` makes new values of `vars` as long as `go_on` of them, a boolean scalar, holds. Returns
    /// the last ones.
    ///
    /// # Errors
    /// [`BuildError::Op`] if `go_on` returns another type, or `body` other numbers or types than `vars` have; errors of
    /// both.
    pub fn while_loop(
        &mut self,
        vars: &[&Var],
        go_on: impl FnOnce(&mut Self, &[Var]) -> Result<Var, BuildError>,
        body: impl FnOnce(&mut Self, &[Var]) -> Built,
    ) -> Built {
        let kind = "while_loop";
        if vars.is_empty() {
            return Err(wrong(kind, "", "parameter `loop_vars`: expected at least one value, found none"));
        }
        for var in vars {
            self.visible(var).map_err(|what| wrong(kind, &var.name, what))?;
            if var.ty.tensor().is_none() || matches!(var.ty, ValueType::State(_)) {
                let what = format!("parameter `loop_vars`: expected tensors, found {}", show(&var.ty));
                return Err(wrong(kind, &var.name, what));
            }
        }
        let types: Vec<ValueType> = vars.iter().map(|v| v.ty.clone()).collect();
        let (test, found) = self.nested(kind, types.clone(), |f, v| Ok(vec![go_on(f, v)?]))?;
        let (work, made) = self.nested(kind, types.clone(), body)?;
        let name = self.fresh(kind);
        if found != [truth()] {
            let what = format!("expected {} to go on, found {}", show(&truth()), show(&found[0]));
            return Err(wrong(kind, &name, what));
        }
        if made != types {
            let list = |all: &[ValueType]| all.iter().map(show).collect::<Vec<_>>().join("; ");
            let what = format!("expected a body that returns {}, found {}", list(&types), list(&made));
            return Err(wrong(kind, &name, what));
        }
        let all: Vec<Var> = vars.iter().map(|&v| v.clone()).collect();
        let inputs = [("loop_vars".to_owned(), arg::argument(&all, true))].into_iter().collect();
        self.add_control(kind, name, inputs, vec![test, work], types)
    }

    /// Builds a block with parameters of these types; returns it with the types of its results.
    fn nested(
        &mut self,
        kind: &str,
        types: Vec<ValueType>,
        build: impl FnOnce(&mut Self, &[Var]) -> Built,
    ) -> Result<(Block, Vec<ValueType>), BuildError> {
        let outside: HashSet<String> = self.names.clone();
        let inputs: Vec<NamedType> = types
            .into_iter()
            .map(|ty| {
                let name = self.fresh(&format!("{kind}_var"));
                self.names.insert(name.clone());
                NamedType { name, ty }
            })
            .collect();
        let vars: Vec<Var> = inputs.iter().map(|i| self.var(&i.name, i.ty.clone())).collect();
        let around = std::mem::take(&mut self.operations);
        let literals = self.literals.clone();
        let results = build(self, &vars).and_then(|made| self.results(kind, made));
        // Whatever came of it, the block ends here.
        let operations = std::mem::replace(&mut self.operations, around);
        self.literals = literals;
        self.hidden.extend(self.names.difference(&outside).cloned());
        let results = results?;
        let outputs = results.iter().map(|v| v.name.clone()).collect();
        Ok((Block { inputs, operations, outputs }, results.into_iter().map(|v| v.ty).collect()))
    }

    /// Results of a block: operations of its own, as constants and values from outside are copied.
    fn results(&mut self, kind: &str, made: Vec<Var>) -> Built {
        if made.is_empty() {
            return Err(wrong(kind, "", "expected a block that returns at least one value"));
        }
        let mut taken = HashSet::new();
        made.into_iter()
            .map(|var| {
                self.visible(&var).map_err(|what| wrong(kind, &var.name, what))?;
                let own = self.operations.iter().filter(|o| o.kind != "const").flat_map(|o| &o.outputs);
                let own = own.clone().any(|o| o.name == var.name);
                if own && taken.insert(var.name.clone()) {
                    return Ok(var);
                }
                self.op("identity").arg("x", &var).done()
            })
            .collect()
    }

    fn add_control(
        &mut self,
        kind: &str,
        name: String,
        inputs: IndexMap<String, Argument>,
        blocks: Vec<Block>,
        types: Vec<ValueType>,
    ) -> Built {
        let names = (0..types.len()).map(|i| if i == 0 { name.clone() } else { format!("{name}_{i}") });
        let outputs: Vec<NamedType> = names.zip(types).map(|(name, ty)| NamedType { name, ty }).collect();
        for output in &outputs {
            self.claim("operation", &output.name)?;
        }
        let vars = outputs.iter().map(|o| self.var(&o.name, o.ty.clone())).collect();
        let attributes = IndexMap::new();
        self.operations.push(Operation { kind: kind.to_owned(), name, inputs, outputs, blocks, attributes });
        Ok(vars)
    }
}

/// Types of both branches; extents that differ are unknown.
fn join(a: &[ValueType], b: &[ValueType]) -> Result<Vec<ValueType>, String> {
    if a.len() != b.len() {
        return Err(format!("expected branches with the same results, found {} and {}", a.len(), b.len()));
    }
    let one = |(a, b): (&ValueType, &ValueType)| match (a, b) {
        (ValueType::Tensor(x), ValueType::Tensor(y)) if x.dtype == y.dtype && x.shape.len() == y.shape.len() => {
            let dim = |(p, q): (&Dim, &Dim)| if p == q { *p } else { Dim::Unknown };
            let shape = x.shape.iter().zip(&y.shape).map(dim).collect();
            Ok(ValueType::Tensor(TensorType { dtype: x.dtype, shape }))
        }
        _ if a == b => Ok(a.clone()),
        _ => Err(format!("expected branches with the same results, found {} and {}", show(a), show(b))),
    };
    a.iter().zip(b).map(one).collect()
}

/// What is wrong with the blocks of an operation of a program that exists; `None` if it is no control flow.
pub(super) fn check<'t>(op: &Operation, ty: impl Fn(&str) -> Option<&'t ValueType>) -> Option<Result<(), BuildError>> {
    let results = |block: &Block| block.outputs.iter().map(|n| ty(n).cloned()).collect::<Option<Vec<_>>>();
    let declared: Vec<ValueType> = op.outputs.iter().map(|o| o.ty.clone()).collect();
    let agree = |found: Vec<ValueType>| super::call::agree(found, declared.clone()).map(drop);
    let unknown = || "expected results that are defined before".to_owned();
    let of = |block: &Block| results(block).ok_or_else(unknown);
    let checked = match (op.kind.as_str(), op.blocks.as_slice()) {
        ("cond", [yes, no]) => of(yes).and_then(&agree).and_then(|()| of(no)).and_then(&agree),
        ("while_loop", [test, body]) => of(test).and_then(|found| {
            if found != [truth()] {
                return Err(format!("expected {} to go on", show(&truth())));
            }
            let vars = op.inputs.get("loop_vars").map_or(&[][..], Argument::bindings);
            let given: Option<Vec<ValueType>> = vars
                .iter()
                .map(|b| match b {
                    Binding::Name(name) => ty(name).cloned(),
                    Binding::Value(value) => Some(value.ty.clone()),
                })
                .collect();
            given.ok_or_else(unknown).and_then(&agree).and_then(|()| of(body)).and_then(&agree)
        }),
        ("cond" | "while_loop", blocks) => Err(format!("expected two blocks, found {}", blocks.len())),
        _ => return None,
    };
    Some(checked.map_err(|what| wrong(&op.kind, &op.name, what)))
}
