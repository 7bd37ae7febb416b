//! Weights of a model: listed, extracted, replaced, stored once.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use coreml_format::dtype::DataType;
use coreml_format::model::Model;
use coreml_format::program::{Block, Operation, Program, Value};
use safetensors::{Dtype, SafeTensors, View};

use super::constants::{Constants, Stored, stored};
use super::error::{EditError, Result};
use super::packed;
use super::repack::Repack;
use super::rewrite::{Made, Place, invalid, rewrite};

/// A weight of a function.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Weight {
    /// Function.
    pub function: String,
    /// Name of the constant.
    pub name: String,
    /// Form: `dense`, or the operation that decodes it.
    pub form: String,
    /// Element type that the program sees.
    pub dtype: String,
    /// Shape that the program sees.
    pub shape: Vec<usize>,
    /// Bytes of its parts in the file.
    pub bytes: u64,
    /// Operations that use it.
    pub uses: Vec<String>,
}

/// Fewest elements of a constant that counts as a weight.
pub const SMALLEST: usize = 16;

/// The program of a model.
///
/// # Errors
/// [`EditError::Invalid`] with the model's type, if it is no ML Program.
pub fn program(model: &Model) -> Result<&Program> {
    model.body.program().ok_or_else(|| {
        EditError::invalid(&model.path, "the model", "an ML Program", format!("a model of type {}", model.body.name()))
    })
}

fn elements(value: &Value) -> usize {
    let shape = value.ty.tensor().and_then(|t| t.fixed_shape()).unwrap_or_default();
    shape.iter().fold(1usize, |n, &d| n.saturating_mul(d))
}

fn is_number(value: &Value) -> bool {
    value.ty.tensor().is_some_and(|t| !matches!(t.dtype, DataType::String | DataType::Bool))
}

/// Bytes of the literals of an operation.
fn bytes(op: &Operation, constants: &Constants<'_>) -> u64 {
    let names = op.inputs.keys().chain(op.attributes.keys());
    let size = |v: &Value| v.ty.tensor().and_then(|t| t.dtype.packed_len(elements(v))).unwrap_or(0) as u64;
    names.filter_map(|n| constants.literal(op, n)).filter(|v| is_number(v)).map(size).sum()
}

/// Visits the operations whose result is a weight that other than a compressed form uses, with their users.
pub(crate) fn visit_weights<'m>(
    block: &'m Block,
    constants: &Constants<'m>,
    f: &mut dyn FnMut(&'m Operation, &[String]),
) {
    let mut uses: HashMap<&str, Vec<String>> = HashMap::new();
    collect_uses(block, &mut uses);
    visit(block, &uses, constants, f);
}

fn visit<'m>(
    block: &'m Block,
    uses: &HashMap<&str, Vec<String>>,
    constants: &Constants<'m>,
    f: &mut dyn FnMut(&'m Operation, &[String]),
) {
    for op in &block.operations {
        let large = |v: &Value| is_number(v) && elements(v) >= SMALLEST;
        let dense = op.kind == "const" && constants.literal(op, "val").is_some_and(large);
        let decoded = op.kind.starts_with("constexpr_") && op.outputs.len() == 1;
        if let Some(output) = op.outputs.first().filter(|_| dense || decoded)
            && let Some(users) = uses.get(output.name.as_str())
        {
            f(op, users);
        }
        op.blocks.iter().for_each(|b| visit(b, uses, constants, f));
    }
}

fn collect_uses<'m>(block: &'m Block, uses: &mut HashMap<&'m str, Vec<String>>) {
    for op in &block.operations {
        if !op.kind.starts_with("constexpr_") {
            for binding in op.inputs.values().flat_map(|a| a.bindings()) {
                if let coreml_format::program::Binding::Name(name) = binding {
                    uses.entry(name).or_default().push(format!("{} {}", op.kind, op.name));
                }
            }
        }
        op.blocks.iter().for_each(|b| collect_uses(b, uses));
    }
}

/// Lists the weights of every function: constants of at least [`SMALLEST`] elements, and compressed ones.
///
/// # Errors
/// [`EditError::Invalid`] if the model is no ML Program.
pub fn list(model: &Model) -> Result<Vec<Weight>> {
    let mut all = Vec::new();
    for (function, f) in &program(model)?.functions {
        let constants = Constants::of(&f.block, &model.weights);
        let mut found = Vec::new();
        visit_weights(&f.block, &constants, &mut |op, uses| found.push((op, uses.to_vec())));
        for (op, uses) in found {
            let Some(ty) = op.outputs.first().and_then(|o| o.ty.tensor()) else { continue };
            all.push(Weight {
                function: function.clone(),
                name: op.outputs[0].name.clone(),
                form: if op.kind == "const" {
                    "dense".to_owned()
                } else {
                    op.kind.trim_start_matches("constexpr_").to_owned()
                },
                dtype: ty.dtype.name().to_owned(),
                shape: ty.fixed_shape().unwrap_or_default(),
                bytes: bytes(op, &constants),
                uses,
            });
        }
    }
    Ok(all)
}

/// What [`extract`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Weights as the program sees them.
    Decoded,
    /// Their parts as stored; elements of less than a byte as packed bytes.
    Stored,
}

/// A tensor of a safetensors file, made when it is written.
struct Lazy<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    length: usize,
    make: Box<dyn Fn() -> std::result::Result<Vec<u8>, String> + 'a>,
    failed: &'a std::sync::Mutex<Option<String>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match (self.make)() {
            Ok(bytes) if bytes.len() == self.length => Cow::Owned(bytes),
            other => {
                let text = other.err().unwrap_or_else(|| "another length than declared".to_owned());
                self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(text);
                Cow::Owned(vec![0; self.length])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.length
    }
}

/// Type in a safetensors file of whole-byte elements.
fn file_type(dtype: DataType) -> Option<Dtype> {
    Some(match dtype {
        DataType::F16 => Dtype::F16,
        DataType::F32 => Dtype::F32,
        DataType::F64 => Dtype::F64,
        DataType::BF16 => Dtype::BF16,
        DataType::I8 => Dtype::I8,
        DataType::I16 => Dtype::I16,
        DataType::I32 => Dtype::I32,
        DataType::I64 => Dtype::I64,
        DataType::U8 | DataType::Bool => Dtype::U8,
        DataType::U16 => Dtype::U16,
        DataType::U32 => Dtype::U32,
        _ => return None,
    })
}

/// Writes weights to a safetensors file, one at a time in memory. Weights of other functions with the same name and
/// content are written once; with other content, their names begin with the function and a slash.
///
/// `wanted` chooses by name.
///
/// # Errors
/// [`EditError::Invalid`] if a weight can't be decoded, [`EditError::Io`] if writing fails.
pub fn extract(model: &Model, to: &Path, form: Form, wanted: &dyn Fn(&str) -> bool) -> Result<usize> {
    let program = program(model)?;
    let failed = std::sync::Mutex::new(None);
    let contexts: Vec<(&String, Constants<'_>)> =
        program.functions.iter().map(|(n, f)| (n, Constants::of(&f.block, &model.weights))).collect();
    let mut tensors: BTreeMap<String, Lazy<'_>> = BTreeMap::new();
    let mut taken: HashMap<String, String> = HashMap::new();
    for ((function, constants), f) in contexts.iter().zip(program.functions.values()) {
        let mut found = Vec::new();
        visit_weights(&f.block, constants, &mut |op, _| found.push(op));
        for op in found {
            let name = op.outputs[0].name.as_str();
            if !wanted(name) {
                continue;
            }
            let content = format!("{:?} {:?}", op.inputs, op.attributes);
            let key = match taken.get(name) {
                Some(known) if *known == content => continue,
                Some(_) => format!("{function}/{name}"),
                None => name.to_owned(),
            };
            taken.entry(name.to_owned()).or_insert(content);
            let place = |e: String| {
                EditError::invalid(&model.path, format!("function `{function}`, weight `{name}`"), "a weight", e)
            };
            match form {
                Form::Decoded => {
                    let ty = op.outputs[0].ty.tensor().ok_or_else(|| place("no tensor".to_owned()))?;
                    let shape = ty.fixed_shape().ok_or_else(|| place("an unknown shape".to_owned()))?;
                    let dtype = file_type(ty.dtype).ok_or_else(|| place(format!("elements of {}", ty.dtype)))?;
                    let length = ty.dtype.packed_len(shape.iter().product()).unwrap_or(0);
                    let (to, dense) = (ty.dtype, op.kind == "const");
                    let make = move || match constants.literal(op, "val").filter(|_| dense) {
                        Some(value) => Ok(stored(value, &model.weights)?.bytes),
                        None => {
                            packed::floats(to, &constants.decode(name)?.data).ok_or_else(|| format!("elements of {to}"))
                        }
                    };
                    tensors.insert(key, Lazy { dtype, shape, length, make: Box::new(make), failed: &failed });
                }
                Form::Stored => {
                    for parameter in op.inputs.keys().chain(op.attributes.keys()) {
                        let Some(value) = constants.literal(op, parameter).filter(|v| is_number(v)) else { continue };
                        let Stored { dtype, shape, bytes } = stored(value, &model.weights).map_err(place)?;
                        let length = bytes.len();
                        let (dtype, shape) = file_type(dtype).map_or_else(|| (Dtype::U8, vec![length]), |d| (d, shape));
                        let key = if op.kind == "const" { key.clone() } else { format!("{key}.{parameter}") };
                        let make = move || Ok(stored(value, &model.weights)?.bytes);
                        tensors.insert(key, Lazy { dtype, shape, length, make: Box::new(make), failed: &failed });
                    }
                }
            }
        }
    }
    let count = tensors.len();
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".weights").tempfile_in(folder).map_err(EditError::io(to))?;
    safetensors::serialize_to_file(tensors, None, file.path())
        .map_err(|e| EditError::io(to)(std::io::Error::other(e.to_string())))?;
    if let Some(text) = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        return Err(EditError::invalid(&model.path, "weights", "weights that decode", text));
    }
    file.persist(to).map_err(|e| EditError::io(to)(e.error))?;
    Ok(count)
}

/// Writes a copy of a model with other weights: tensors by the names of weights (a function and a slash before the name
/// chooses one function), of the same shape; `name.lora_A` `[rank, in]` and `name.lora_B` `[out, rank]` together add
/// `scale` · B·A to a weight `[out, in, …]`. A compressed weight becomes dense. All other weights are kept as stored.
/// Returns the number of weights replaced.
///
/// # Errors
/// [`EditError::Invalid`] for tensors that are no weight, have another shape or are not finite; as [`extract`] otherwise.
pub fn replace(model: &Model, tensors: &SafeTensors<'_>, scale: f32, to: &Path) -> Result<usize> {
    let find = |place: Place<'_>, suffix: &str| {
        let names = [format!("{}/{}{suffix}", place.function, place.name()), format!("{}{suffix}", place.name())];
        names.into_iter().find_map(|n| Some((tensors.tensor(&n).ok()?, n)))
    };
    let mut unused: HashSet<&str> = tensors.names().into_iter().collect();
    let mut count = 0;
    for (function, f) in &program(model)?.functions {
        let constants = Constants::of(&f.block, &model.weights);
        visit_weights(&f.block, &constants, &mut |operation, uses| {
            let place = Place { function, operation, uses };
            for suffix in ["", ".lora_A", ".lora_B"] {
                if let Some((_, name)) = find(place, suffix) {
                    unused.remove(name.as_str());
                }
            }
        });
    }
    if !unused.is_empty() {
        let mut unused: Vec<&str> = unused.into_iter().collect();
        unused.sort_unstable();
        return Err(EditError::invalid(&model.path, "the tensors", "names of weights", unused.join(", ")));
    }
    let mut wanted = |place: Place<'_>| {
        let found = find(place, "").is_some() || find(place, ".lora_A").is_some() || find(place, ".lora_B").is_some();
        count += usize::from(found);
        found
    };
    let mut make = |repack: &mut Repack, constants: &Constants<'_>, place: Place<'_>| {
        let wrong = |expected: String, found: String| invalid(model, place, expected, found);
        let (dtype, shape) =
            place.ty().ok_or_else(|| wrong("a known shape".to_owned(), "an unknown one".to_owned()))?;
        if let Some((tensor, _)) = find(place, "") {
            if tensor.shape() != shape {
                return Err(wrong(format!("shape {shape:?}"), format!("{:?}", tensor.shape())));
            }
            if file_type(dtype) == Some(tensor.dtype()) && !dtype.is_float() {
                return Ok(Made::constant(repack.value(dtype, &shape, tensor.data())?));
            }
            let data = numbers(&tensor).ok_or_else(|| wrong("floats".to_owned(), format!("{:?}", tensor.dtype())))?;
            return dense(repack, dtype, &shape, &data, &wrong);
        }
        let (Some((a, _)), Some((b, _))) = (find(place, ".lora_A"), find(place, ".lora_B")) else {
            return Err(wrong("both lora_A and lora_B".to_owned(), "one of them".to_owned()));
        };
        let (rows, columns) = (shape.first().copied().unwrap_or(0), shape.iter().skip(1).product::<usize>());
        let rank = a.shape().first().copied().unwrap_or(0);
        if a.shape() != [rank, columns] || b.shape() != [rows, rank] {
            let found = format!("{:?} and {:?}", a.shape(), b.shape());
            return Err(wrong(format!("lora_A [r, {columns}] and lora_B [{rows}, r]"), found));
        }
        let read = |t| numbers(t).ok_or_else(|| wrong("floats".to_owned(), format!("{:?}", t.dtype())));
        let mut data = constants.decode(place.name()).map_err(|e| wrong("a weight".to_owned(), e))?.data;
        low_rank(&mut data, &read(&a)?, &read(&b)?, rank, columns, scale);
        dense(repack, dtype, &shape, &data, &wrong)
    };
    rewrite(model, &model.description, to, &mut wanted, &mut make)?;
    Ok(count)
}

/// A dense weight of finite numbers.
fn dense(
    repack: &mut Repack,
    dtype: DataType,
    shape: &[usize],
    data: &[f32],
    wrong: &dyn Fn(String, String) -> EditError,
) -> Result<Made> {
    if let Some(at) = data.iter().position(|v| !v.is_finite()) {
        return Err(wrong("finite numbers".to_owned(), format!("{} at {at}", data[at])));
    }
    let bytes = packed::floats(dtype, data).ok_or_else(|| wrong("a weight of floats".to_owned(), dtype.to_string()))?;
    let infinite = |&c: &[u8; 2]| !half::f16::from_le_bytes(c).is_finite();
    if dtype == DataType::F16 && bytes.as_chunks::<2>().0.iter().any(infinite) {
        return Err(wrong("numbers within the range of fp16".to_owned(), "larger ones".to_owned()));
    }
    Ok(Made::constant(repack.value(dtype, shape, &bytes)?))
}

/// Writes a copy of a model in which every compressed weight is dense. Returns the bytes of weights before and after.
///
/// # Errors
/// As [`rewrite`]; [`EditError::Invalid`] if a weight can't be decoded.
pub fn decompress(model: &Model, to: &Path) -> Result<(u64, u64)> {
    let mut make = |repack: &mut Repack, constants: &Constants<'_>, place: Place<'_>| {
        let decoded = constants.decode(place.name()).map_err(|e| invalid(model, place, "a weight", e))?;
        dense(repack, decoded.dtype, &decoded.shape, &decoded.data, &|expected, found| {
            invalid(model, place, expected, found)
        })
    };
    rewrite(model, &model.description, to, &mut |place| place.operation.kind != "const", &mut make)
}

/// Writes a copy of a model in which equal weights are stored once. Returns the bytes of weights before and after.
///
/// # Errors
/// As [`rewrite`].
pub fn deduplicate(model: &Model, to: &Path) -> Result<(u64, u64)> {
    let none =
        &mut |_: &mut Repack, _: &Constants<'_>, place: Place<'_>| Err(invalid(model, place, "no change", "one"));
    rewrite(model, &model.description, to, &mut |_| false, none)
}

/// Bytes of the weights that a model refers to, each place in the file once.
///
/// # Errors
/// [`EditError::Invalid`] if the model is no ML Program, [`EditError::Blob`] if a weight can't be read.
pub fn total(model: &Model) -> Result<u64> {
    let mut seen = HashSet::new();
    let mut sum = 0;
    for f in program(model)?.functions.values() {
        for at in super::repack::blobs(&f.block) {
            if seen.insert(at.clone()) {
                sum += model.weights.resolve(&at)?.len() as u64;
            }
        }
    }
    Ok(sum)
}

/// Adds scale · B·A, with B `[rows, rank]` and A `[rank, columns]`.
fn low_rank(data: &mut [f32], a: &[f32], b: &[f32], rank: usize, columns: usize, scale: f32) {
    if rank == 0 || columns == 0 {
        return;
    }
    for (row, b) in data.chunks_mut(columns).zip(b.chunks(rank)) {
        for (&factor, a) in b.iter().zip(a.chunks(columns)) {
            row.iter_mut().zip(a).for_each(|(w, &a)| *w += scale * factor * a);
        }
    }
}

fn numbers(tensor: &safetensors::tensor::TensorView<'_>) -> Option<Vec<f32>> {
    let dtype = match tensor.dtype() {
        Dtype::F16 => DataType::F16,
        Dtype::F32 => DataType::F32,
        Dtype::F64 => DataType::F64,
        Dtype::BF16 => DataType::BF16,
        Dtype::I8 => DataType::I8,
        Dtype::I16 => DataType::I16,
        Dtype::I32 => DataType::I32,
        Dtype::U8 => DataType::U8,
        _ => return None,
    };
    packed::numbers(dtype, tensor.data(), tensor.shape().iter().product())
}
