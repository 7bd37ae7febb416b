//! Copies of models in which some weights are made anew.

use std::collections::HashMap;
use std::path::Path;

use coreml_format::description::ModelDescription;
use coreml_format::model::Model;
use coreml_format::program::{Argument, Block, Operation, TensorData, Value, ValueData};
use coreml_format::task;
use indexmap::IndexMap;

use super::constants::Constants;
use super::error::{EditError, Result};
use super::repack::Repack;
use super::weights::{program, visit_weights};
use crate::builder::sweep;

/// What makes a weight: a `const` with `val`, or a `constexpr_*` with literals.
#[derive(Debug, Clone)]
pub struct Made {
    /// Type of the operation.
    pub kind: String,
    /// Parameters.
    pub inputs: IndexMap<String, Argument>,
    /// Attributes.
    pub attributes: IndexMap<String, Value>,
    /// Operations before it that make its parts; their names begin with that of the weight.
    pub before: Vec<Operation>,
}

impl Made {
    /// A constant.
    pub fn constant(value: Value) -> Self {
        let attributes = [("val".to_owned(), value)].into_iter().collect();
        Self { kind: "const".to_owned(), inputs: IndexMap::new(), attributes, before: Vec::new() }
    }
}

/// A weight of a function, for those that choose and make.
#[derive(Clone, Copy)]
pub struct Place<'m> {
    /// The function.
    pub function: &'m str,
    /// The operation that makes the weight.
    pub operation: &'m Operation,
    /// Operations that use it, each as its type and name.
    pub uses: &'m [String],
}

impl<'m> Place<'m> {
    /// Name of the weight.
    pub fn name(&self) -> &'m str {
        self.operation.outputs.first().map_or("", |o| &o.name)
    }

    /// Element type and shape that the program sees; an empty shape if it is not known.
    pub fn ty(&self) -> Option<(coreml_format::dtype::DataType, Vec<usize>)> {
        let ty = self.operation.outputs.first()?.ty.tensor()?;
        Some((ty.dtype, ty.fixed_shape()?))
    }
}

/// Makes a weight anew, in the new package.
pub type Make<'f> = dyn FnMut(&mut Repack, &Constants<'_>, Place<'_>) -> Result<Made> + 'f;

/// Writes a copy of an ML Program in which the chosen weights are made anew. Weights with the same content are made
/// once; all others are copied as stored, equal ones once. Returns the bytes of weights before and after.
///
/// # Errors
/// [`EditError::Invalid`] if the model is no ML Program; errors of `make`; [`EditError::Io`] if writing fails.
pub fn rewrite(
    model: &Model,
    description: &ModelDescription,
    to: &Path,
    wanted: &mut dyn FnMut(Place<'_>) -> bool,
    make: &mut Make<'_>,
) -> Result<(u64, u64)> {
    let source = program(model)?;
    let mut edited = source.clone();
    let mut repack = Repack::create(to)?;
    let mut chosen: Vec<(String, Operation, Vec<String>)> = Vec::new();
    let blank = Made::constant(Value {
        ty: coreml_format::program::ValueType::Tuple(Vec::new()),
        data: ValueData::Tensor(TensorData::Bytes(Vec::new())),
    });
    for (function, f) in &source.functions {
        let constants = Constants::of(&f.block, &model.weights);
        let mut blanks: HashMap<String, Made> = HashMap::new();
        visit_weights(&f.block, &constants, &mut |operation, uses| {
            let place = Place { function, operation, uses };
            if wanted(place) {
                blanks.insert(place.name().to_owned(), blank.clone());
                chosen.push((function.clone(), operation.clone(), uses.to_vec()));
            }
        });
        if let Some(f) = edited.functions.get_mut(function) {
            put(&mut f.block, &blanks);
            sweep(&mut f.block);
        }
    }
    repack.adopt(&mut edited, &model.weights)?;
    let mut made: HashMap<String, Made> = HashMap::new();
    for (function, f) in &source.functions {
        let constants = Constants::of(&f.block, &model.weights);
        let mut new: HashMap<String, Made> = HashMap::new();
        for (i, (_, operation, uses)) in chosen.iter().enumerate().filter(|(_, (of, ..))| of == function) {
            let place = Place { function, operation, uses };
            task::step(place.name(), i, chosen.len()).map_err(|_| EditError::cancelled(to))?;
            let key = content(operation, &constants);
            let known = key.as_ref().and_then(|key| made.get(key)).cloned();
            let result = match known {
                Some(result) => result,
                None => make(&mut repack, &constants, place)?,
            };
            // Operations before it have names of their own.
            if let Some(key) = key.filter(|_| result.before.is_empty()) {
                made.insert(key, result.clone());
            }
            new.insert(place.name().to_owned(), result);
        }
        if let Some(f) = edited.functions.get_mut(function) {
            put(&mut f.block, &new);
        }
    }
    let bytes = repack.bytes();
    repack.finish(description, &edited)?;
    let before = super::weights::total(model)?;
    Ok((before, bytes.1))
}

/// What tells weights with the same content apart from others; `None` if that is unknown.
fn content(op: &Operation, constants: &Constants<'_>) -> Option<String> {
    let names: Vec<&String> = op.inputs.keys().chain(op.attributes.keys()).collect();
    let parts: Option<Vec<String>> =
        names.into_iter().map(|n| Some(format!("{n}={:?}", constants.literal(op, n)?))).collect();
    Some(format!("{} {:?} {}", op.kind, op.outputs.first()?.ty, parts?.join(" ")))
}

/// Replaces what makes these weights.
fn put(block: &mut Block, new: &HashMap<String, Made>) {
    let mut operations = Vec::with_capacity(block.operations.len());
    for mut op in std::mem::take(&mut block.operations) {
        if let [output] = op.outputs.as_slice()
            && let Some(made) = new.get(&output.name)
        {
            op.kind.clone_from(&made.kind);
            op.inputs.clone_from(&made.inputs);
            op.attributes.clone_from(&made.attributes);
            operations.extend(made.before.iter().cloned());
        }
        op.blocks.iter_mut().for_each(|b| put(b, new));
        operations.push(op);
    }
    block.operations = operations;
}

/// [`EditError::Invalid`] at a weight.
pub fn invalid(model: &Model, place: Place<'_>, expected: impl Into<String>, found: impl Into<String>) -> EditError {
    let at = format!("function `{}`, weight `{}`", place.function, place.name());
    EditError::invalid(&model.path, at, expected, found)
}
