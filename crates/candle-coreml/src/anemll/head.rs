//! Heads: what a model says about the next token.
//!
//! Most give logits, in one output or in parts that are joined in numeric order. Argmax heads give the best token of
//! each part, counted from the part's first one, and its logit.

use candle_core::DType;
use coreml_format::model::Model;
use coreml_format::program::{Argument, Binding, Function, Operation};
use indexmap::IndexMap;

use super::{inputs, meta::Meta};
use crate::error::{Error, Result};
use crate::model::{CoreMLModel, FeatureValue};

/// Outputs of an argmax head.
const INDEX: &str = "argmax_idx";
const VALUE: &str = "argmax_val";

/// How the outputs of a head become logits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    /// Outputs in order, and the size of the vocabulary.
    Logits(Vec<String>, usize),
    /// Rows of each part.
    Argmax(Vec<usize>),
}

/// Whether outputs with these names are those of a head; why not, when some are not.
pub(super) fn is_head<'n>(names: impl Iterator<Item = &'n str> + Clone) -> bool {
    let mut all = names;
    all.any(|n| n.to_lowercase().contains("logits") || n == INDEX || n == VALUE)
}

/// The number in `logits12`; 0 for outputs that are all the logits.
fn part_number(name: &str) -> Option<usize> {
    match name {
        "logits" | "output_logits" => Some(0),
        _ => {
            let digits = name.strip_prefix("logits")?;
            let digits = digits.strip_prefix('_').unwrap_or(digits);
            digits.parse().ok().filter(|&n| n > 0)
        }
    }
}

impl Head {
    /// Reads the outputs of a loaded function.
    pub(super) fn of(model: &CoreMLModel, meta: &Meta) -> Result<Self> {
        let fail = |message: String| Error::Components { path: model.path().to_owned(), message };
        let mut names = model.output_names();
        if names.iter().any(|n| n == INDEX || n == VALUE) {
            names.sort();
            if names != [INDEX, VALUE] {
                return Err(fail(format!(
                    "an argmax head has the outputs {INDEX} and {VALUE}, not {}",
                    names.join(", ")
                )));
            }
            let count = |name: &str| inputs::output_shape(model, name).map(|s| s.iter().product::<usize>());
            let parts = count(INDEX).filter(|&n| n > 0 && count(VALUE) == Some(n));
            let parts = parts.ok_or_else(|| fail(format!("{INDEX} and {VALUE} have not one number for each part")))?;
            return part_sizes(model, parts, meta).map(Self::Argmax);
        }
        let mut numbered = Vec::with_capacity(names.len());
        for name in names {
            match part_number(&name) {
                Some(number) => numbered.push((number, name)),
                None => {
                    return Err(fail(format!(
                        "the head's output `{name}` is not known: its outputs are logits, or logits1 to logitsN"
                    )));
                }
            }
        }
        numbered.sort();
        let in_order = numbered.iter().enumerate().all(|(i, (n, _))| *n == i + 1);
        if numbered.is_empty() || !(in_order || numbered.len() == 1 && numbered[0].0 == 0) {
            let names: Vec<&str> = numbered.iter().map(|(_, n)| n.as_str()).collect();
            return Err(fail(format!(
                "the head's outputs are not logits1 to logits{}: {}",
                names.len(),
                names.join(", ")
            )));
        }
        let parts: Vec<String> = numbered.into_iter().map(|(_, name)| name).collect();
        let rows = |part: &String| inputs::output_shape(model, part).and_then(|s| s.last().copied()).unwrap_or(0);
        let vocab = parts.iter().map(rows).sum();
        Ok(Self::Logits(parts, vocab))
    }

    /// Size of the vocabulary; 0 where the packages do not say.
    pub(super) fn vocab(&self) -> usize {
        match self {
            Self::Logits(_, vocab) => *vocab,
            Self::Argmax(sizes) => sizes.iter().sum(),
        }
    }

    /// Logits `[vocab]` of the last row. An argmax head knows one of each part; the others are −∞.
    pub(super) fn logits(&self, model: &CoreMLModel, outputs: &IndexMap<String, FeatureValue>) -> Result<Vec<f32>> {
        let fail = |message: String| Error::Components { path: model.path().to_owned(), message };
        let values = |name: &str| match outputs.get(name) {
            Some(FeatureValue::Tensor(t)) => Ok(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?),
            _ => Err(fail(format!("output `{name}` is not a tensor"))),
        };
        match self {
            Self::Logits(parts, vocab) => {
                let mut logits = Vec::with_capacity(*vocab);
                for part in parts {
                    logits.extend(values(part)?);
                }
                if logits.len() != *vocab {
                    return Err(fail(format!("its outputs have {} logits, but it declares {vocab}", logits.len())));
                }
                Ok(logits)
            }
            Self::Argmax(sizes) => {
                let index = match outputs.get(INDEX) {
                    Some(FeatureValue::Tensor(t)) => t.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?,
                    _ => return Err(fail(format!("output `{INDEX}` is not a tensor"))),
                };
                let value = values(VALUE)?;
                if index.len() != sizes.len() || value.len() != sizes.len() {
                    return Err(fail(format!("{} and {} results of {} parts", index.len(), value.len(), sizes.len())));
                }
                let mut logits = vec![f32::NEG_INFINITY; self.vocab()];
                let mut first = 0;
                for ((&index, &value), &size) in index.iter().zip(&value).zip(sizes) {
                    let local = usize::try_from(index).ok().filter(|&i| i < size);
                    let local = local.ok_or_else(|| fail(format!("{INDEX} has {index} in a part of {size} tokens")))?;
                    logits[first + local] = value;
                    first += size;
                }
                Ok(logits)
            }
        }
    }
}

/// Rows of each part of an argmax head: what the program computes, else what the package's metadata say, else `meta.yaml`.
fn part_sizes(model: &CoreMLModel, parts: usize, meta: &Meta) -> Result<Vec<usize>> {
    if let Some(sizes) = computed_sizes(model.package(), model.function()).filter(|s| s.len() == parts) {
        return Ok(sizes);
    }
    let user = &model.description().metadata.user;
    let listed = user
        .get("com.anemll.lm_head_chunk_sizes")
        .map(|text| text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect::<Vec<usize>>());
    for sizes in [listed.unwrap_or_default(), meta.lm_head_chunk_sizes.clone()] {
        if sizes.len() == parts && !sizes.contains(&0) {
            return Ok(sizes);
        }
    }
    let vocab = user.get("com.anemll.vocab_size").and_then(|v| v.trim().parse().ok()).or(meta.vocab_size);
    match vocab {
        // Parts as long as each other need no list; how a rest is spread, versions of the converter disagree.
        Some(vocab) if vocab > 0 && vocab % parts == 0 => Ok(vec![vocab / parts; parts]),
        _ => Err(Error::Components {
            path: model.path().to_owned(),
            message: format!("nothing says how many tokens each of the {parts} parts of its argmax head has"),
        }),
    }
}

/// The rows that each `reduce_argmax` of a function takes, in the order of the result.
fn computed_sizes(package: &Model, function: &str) -> Option<Vec<usize>> {
    let program = crate::engine::program(package)?;
    let function = program.functions.get(function)?;
    let joined = source(function, INDEX, &["concat", "stack"])?;
    let values = joined.inputs.get("values")?.bindings();
    let size = |binding: &Binding| {
        let Binding::Name(name) = binding else { return None };
        let argmax = source(function, name, &["reduce_argmax"])?;
        let [Binding::Name(x)] = argmax.inputs.get("x")?.bindings() else { return None };
        let output = function.block.operations.iter().flat_map(|o| &o.outputs).find(|o| o.name == *x)?;
        let shape = output.ty.tensor()?.fixed_shape()?;
        // One row: whatever the axis, it has all elements.
        Some(shape.iter().product::<usize>()).filter(|&n| n > 0 && shape.contains(&n))
    };
    values.iter().map(size).collect()
}

/// The operation of one of these kinds that a value comes from, through operations that keep its elements.
fn source<'f>(function: &'f Function, name: &str, kinds: &[&str]) -> Option<&'f Operation> {
    const KEEP: [&str; 6] = ["cast", "squeeze", "expand_dims", "reshape", "identity", "transpose"];
    let mut name = name;
    loop {
        let made = function.block.operations.iter().find(|o| o.outputs.iter().any(|out| out.name == name))?;
        if kinds.contains(&made.kind.as_str()) {
            return Some(made);
        }
        if !KEEP.contains(&made.kind.as_str()) {
            return None;
        }
        let [Binding::Name(next)] = made.inputs.get("x").map(Argument::bindings)? else { return None };
        name = next;
    }
}
