//! Rewrites of a program before it is written, as coremltools runs them: constants folded (`const_elimination`), scales,
//! biases and batch norms in the products before them (`fuse_linear_bias`, `fuse_conv_scale`, …), fp16 (`add_fp16_cast`).
//! What a function returns stays the same, to the rounding of its element types.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use coreml_format::description::ModelDescription;
use coreml_format::program::{
    Argument, Binding, Block, Function, NamedType, Operation, Program, TensorType, Value, ValueType,
};

use crate::names;

mod affine;
mod constants;
mod fuse;
mod half;
mod pool;

pub use constants::{Evaluate, fold_computed, fold_constants};
pub use fuse::fuse;
pub use half::{Half, Kept, halve};
pub use pool::Pool;

/// Bytes up to which the result of a computation takes the place of smaller constants.
pub const GROWTH: usize = 1 << 20;

/// Rewrites of a program.
#[derive(Debug, Clone, Default)]
pub struct Passes {
    /// Folds operations of constants alone, with results of at most this many bytes, or no larger than what they are made of.
    pub fold: Option<usize>,
    /// Fuses scales, biases and batch norms into products.
    pub fuse: bool,
    /// Computes in fp16.
    pub half: Option<Half>,
}

impl Passes {
    /// Folds and fuses.
    pub fn usual() -> Self {
        Self { fold: Some(GROWTH), fuse: true, half: None }
    }

    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.fold.is_none() && !self.fuse && self.half.is_none()
    }
}

/// What rewrites did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations that became constants.
    pub folded: usize,
    /// Operations that became part of others.
    pub fused: usize,
    /// Operations that compute in fp16 now.
    pub halved: usize,
    /// Operations that keep fp32 though they could take fp16.
    pub kept: Vec<Kept>,
}

/// Rewrites every function of a program. `evaluate` computes constants; without it, only those are folded that need no
/// computation.
///
/// # Errors
/// The function, and what is wrong with it.
pub fn run(
    program: &mut Program,
    description: &mut ModelDescription,
    passes: &Passes,
    pool: &mut Pool<'_>,
    mut evaluate: Option<&mut Evaluate<'_>>,
) -> Result<Report, (String, String)> {
    let mut report = Report::default();
    let keep = passes.half.iter().flat_map(|half| &half.keep);
    if let Some(unknown) = keep.into_iter().find(|name| !program.functions.values().any(|f| has(&f.block, name))) {
        return Err(("operations that keep fp32".to_owned(), format!("`{unknown}`, which no operation is or makes")));
    }
    for (name, function) in &mut program.functions {
        let place = |e: String| (format!("function `{name}`"), e);
        if let Some(growth) = passes.fold {
            report.folded += fold_constants(function);
            if let Some(evaluate) = evaluate.as_deref_mut() {
                report.folded += fold_computed(function, growth, pool, evaluate).map_err(place)?;
            }
            crate::builder::sweep(&mut function.block);
        }
        if passes.fuse {
            report.fused += fuse(function, pool).map_err(place)?;
        }
        if let Some(half) = &passes.half {
            let described = description.functions.entry(name.clone()).or_default();
            let (count, kept) = halve(function, described, half, pool).map_err(place)?;
            report.halved += count;
            report.kept.extend(kept.into_iter().map(|k| Kept { function: name.clone(), ..k }));
        }
        drop_identities(function);
    }
    Ok(report)
}

/// True if there is an operation of this type or name, or one that makes a value of this name.
fn has(block: &Block, name: &str) -> bool {
    block.operations.iter().any(|op| {
        op.kind == name
            || op.name == name
            || op.outputs.iter().any(|o| o.name == name)
            || op.blocks.iter().any(|b| has(b, name))
    })
}

/// Folds constants that need no computation and fuses what lies in memory; returns the number of places that changed.
pub fn optimize(function: &mut Function) -> usize {
    let mut changed = 0;
    loop {
        // A detached pool writes nothing.
        let found = fold_constants(function) + fuse(function, &mut Pool::detached()).unwrap_or(0);
        if found == 0 {
            break;
        }
        changed += found;
        crate::builder::sweep(&mut function.block);
    }
    changed + drop_identities(function)
}

/// What rewrites know of a function.
pub(crate) struct Known {
    /// Dense constants.
    pub(crate) constants: HashMap<String, Value>,
    /// How often each value is used.
    uses: HashMap<String, usize>,
    /// Types of the values that operations make.
    pub(crate) types: HashMap<String, ValueType>,
    /// Names that are taken.
    names: RefCell<HashSet<String>>,
}

impl Known {
    pub(crate) fn of(function: &Function) -> Self {
        let mut uses = HashMap::new();
        names::uses(&function.block, &mut uses);
        let uses = uses.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        let mut taken = Vec::new();
        names::defined(&function.block, &mut taken);
        taken.extend(function.inputs.iter().map(|i| i.name.as_str()));
        let names = RefCell::new(taken.into_iter().map(str::to_owned).collect());
        let mut known = Self { constants: HashMap::new(), uses, types: HashMap::new(), names };
        known.collect(&function.block);
        known
    }

    fn collect(&mut self, block: &Block) {
        for op in &block.operations {
            self.types.extend(op.outputs.iter().map(|o| (o.name.clone(), o.ty.clone())));
            if let (Some(value), Some(output)) = (constant_of(op), op.outputs.first()) {
                self.constants.insert(output.name.clone(), value.clone());
            }
            op.blocks.iter().for_each(|b| self.collect(b));
        }
    }

    /// Takes an unused name: this one, or this one and a number.
    pub(crate) fn fresh(&self, stem: &str) -> String {
        let mut taken = self.names.borrow_mut();
        let numbered = (1..).map(|i| format!("{stem}_{i}"));
        let name = std::iter::once(stem.to_owned()).chain(numbered).find(|n| !taken.contains(n)).unwrap_or_default();
        taken.insert(name.clone());
        name
    }
}

/// The only name that a parameter is bound to.
fn bound<'o>(op: &'o Operation, parameter: &str) -> Option<&'o str> {
    match op.inputs.get(parameter)? {
        Argument::One(Binding::Name(name)) => Some(name),
        _ => None,
    }
}

/// The value of a constant.
fn constant_of(op: &Operation) -> Option<&Value> {
    op.attributes.get("val").filter(|_| op.kind == "const")
}

/// A constant of this name.
pub(crate) fn constant_op(name: String, value: Value) -> Operation {
    Operation {
        kind: "const".to_owned(),
        name: name.clone(),
        inputs: Default::default(),
        outputs: vec![NamedType { name, ty: value.ty.clone() }],
        blocks: Vec::new(),
        attributes: [("val".to_owned(), value)].into_iter().collect(),
    }
}

fn size(ty: &TensorType) -> Option<usize> {
    ty.fixed_shape()?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Drops `identity` where it only gives a result of the function its name: what makes the value takes the name.
pub fn drop_identities(function: &mut Function) -> usize {
    let block = &mut function.block;
    let mut changed = 0;
    while let Some((at, from, to)) = renaming(block) {
        block.operations.remove(at);
        names::rename(block, &from, &to);
        changed += 1;
    }
    changed
}

/// An `identity` that names a result: its place, the name of its value, and its own.
fn renaming(block: &Block) -> Option<(usize, String, String)> {
    let made: HashMap<&str, usize> = block
        .operations
        .iter()
        .enumerate()
        .filter(|(_, op)| op.kind != "const")
        .flat_map(|(i, op)| op.outputs.iter().map(move |o| (o.name.as_str(), i)))
        .collect();
    block.operations.iter().enumerate().find_map(|(at, op)| {
        let [output] = op.outputs.as_slice() else { return None };
        let from = bound(op, "x").filter(|_| op.kind == "identity")?;
        let returned = |name: &str| block.outputs.iter().any(|o| o == name);
        // Inputs and constants keep their names, and so do values that are returned themselves.
        let fits = made.contains_key(from) && returned(&output.name) && !returned(from);
        fits.then(|| (at, from.to_owned(), output.name.clone()))
    })
}
