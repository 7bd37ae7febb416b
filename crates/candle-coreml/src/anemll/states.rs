//! What the states of functions are, and which chunks share them.

use std::collections::HashSet;

use coreml_engine::state::StateSpec;
use coreml_format::dtype::DataType;
use coreml_format::program::{Argument, Binding, Function, TensorData, Value, ValueData};

use super::chunked::Chunk;
use crate::error::{Error, Result};
use crate::model::CoreMLModel;

/// Part of the name of a cache that holds the window of local layers alone.
pub(super) const LOCAL: &str = "kv_cache_local";
/// Parts of the names of caches with one row for each token, `[layers, heads, tokens, width]`.
const CACHES: [&str; 3] = ["kv_cache", "kv_key", "kv_val"];
/// Parts of the names of states that sum up all tokens: those of linear attention and of its convolution in Qwen 3.5.
const RECURRENT: [&str; 2] = ["delta_", "conv_"];

/// What a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A row for each of so many tokens.
    Cache(usize),
    /// One value for all tokens.
    Recurrent,
}

fn kind(model: &CoreMLModel, spec: &StateSpec) -> Result<Kind> {
    let named = |parts: &[&str]| parts.iter().any(|part| spec.name.contains(part));
    match spec.shape.as_slice() {
        &[_, _, rows, _] if named(&CACHES) => Ok(Kind::Cache(rows)),
        &[..] if named(&RECURRENT) && !named(&CACHES) => Ok(Kind::Recurrent),
        shape => Err(Error::Components {
            path: model.path().to_owned(),
            message: format!(
                "its state `{}` {shape:?} is neither a cache of keys and values [layers, heads, tokens, width] nor a \
                 recurrent state that is known",
                spec.name
            ),
        }),
    }
}

/// Caches of a function and the tokens that each holds.
///
/// # Errors
/// If a state is not known.
pub(super) fn caches(model: &CoreMLModel) -> Result<Vec<(String, usize)>> {
    let mut all = Vec::new();
    for spec in model.backend().states() {
        if let Kind::Cache(rows) = kind(model, spec)? {
            all.push((spec.name.clone(), rows));
        }
    }
    Ok(all)
}

/// Whether a chunk has states that sum up all tokens.
///
/// # Errors
/// If a state is not known.
pub(super) fn any_recurrent(chunks: &[Chunk]) -> Result<bool> {
    for model in chunks.iter().flat_map(Chunk::functions) {
        for spec in model.backend().states() {
            if kind(model, spec)? == Kind::Recurrent {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether all chunks share their states: they declare the same ones, and none writes what another one writes.
pub(super) fn are_shared(chunks: &[Chunk]) -> bool {
    let of = |chunk: &Chunk| {
        let mut all: Vec<StateSpec> = Vec::new();
        for spec in chunk.functions().flat_map(|model| model.backend().states()) {
            if !all.contains(spec) {
                all.push(spec.clone());
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    };
    let Some(first) = chunks.first().map(of) else { return true };
    if chunks.iter().any(|chunk| of(chunk) != first) {
        return false;
    }
    let mut written: HashSet<(String, i32)> = HashSet::new();
    chunks.iter().all(|chunk| rows_written(&chunk.infer).into_iter().all(|row| written.insert(row)))
}

/// Rows of the first dimension of each state that a function writes, where its program says them.
fn rows_written(model: &CoreMLModel) -> HashSet<(String, i32)> {
    let program = crate::engine::program(model.package());
    let function = program.as_ref().and_then(|p| p.functions.get(model.function()));
    let Some(function) = function else { return HashSet::new() };
    let mut rows = HashSet::new();
    for write in function.block.operations.iter().filter(|o| o.kind == "slice_update") {
        let state = name(write.inputs.get("x")).and_then(|x| read_state(function, x));
        let row = write.inputs.get("begin").and_then(|begin| first_int(function, begin));
        if let (Some(state), Some(row)) = (state, row) {
            rows.insert((state.to_owned(), row));
        }
    }
    rows
}

fn name(argument: Option<&Argument>) -> Option<&str> {
    match argument?.bindings() {
        [Binding::Name(name)] => Some(name),
        _ => None,
    }
}

/// The state that a value was read from, or was made of by writes to other rows.
fn read_state<'f>(function: &'f Function, value: &str) -> Option<&'f str> {
    let mut value = value;
    loop {
        let made = function.block.operations.iter().find(|o| o.outputs.iter().any(|out| out.name == value))?;
        value = match made.kind.as_str() {
            "read_state" => return name(made.inputs.get("input")),
            "slice_update" | "identity" => name(made.inputs.get("x"))?,
            _ => return None,
        };
    }
}

/// The first element of a vector, where it is a constant.
fn first_int(function: &Function, argument: &Argument) -> Option<i32> {
    match argument.bindings().first()? {
        Binding::Value(value) => literal(value),
        Binding::Name(name) => {
            let made = function.block.operations.iter().find(|o| o.outputs.iter().any(|out| out.name == *name))?;
            match made.kind.as_str() {
                "const" => literal(made.attributes.get("val")?),
                "concat" => first_int(function, made.inputs.get("values")?),
                _ => None,
            }
        }
    }
}

fn literal(value: &Value) -> Option<i32> {
    if value.ty.tensor()?.dtype != DataType::I32 {
        return None;
    }
    let ValueData::Tensor(TensorData::Bytes(bytes)) = &value.data else { return None };
    bytes.first_chunk::<4>().map(|bytes| i32::from_le_bytes(*bytes))
}
