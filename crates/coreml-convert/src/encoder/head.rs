//! Heads that classify texts, or each of their tokens.

use coreml_write::builder::{BuildError, FunctionBuilder, Var};
use serde_json::Value;

use super::{Conversion, first, linear};
use crate::config::Reader;
use crate::error::{ConvertError, Result};
use crate::weights::{Linear, Store};

/// What is classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Texts,
    Tokens,
}

/// A head: `logits` `[texts, labels]` or `[texts, tokens, labels]`.
#[derive(Debug)]
pub(crate) struct Head {
    of: Of,
    /// By number.
    labels: Vec<String>,
}

/// A family's head for texts: a product of the first token's state, an activation, a product with the labels.
#[derive(Debug)]
pub(crate) struct TextHead {
    pub(crate) dense: &'static str,
    /// True if the first product is a part of the encoder: BERT's pooler.
    pub(crate) inner: bool,
    pub(crate) act: &'static str,
    pub(crate) out: &'static str,
}

/// Products of a head; the one before the activation is that of texts alone.
pub(crate) struct Weights {
    dense: Option<(Linear, &'static str)>,
    out: Linear,
}

/// Names of transformers' classes are one of these and one of the suffixes.
const FAMILIES: [&str; 6] = ["Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "MPNet"];

/// Classes without a head, or with one of pretraining, which is left out.
const BARE: [&str; 5] = ["Model", "ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM"];

const HEADS: [(&str, Of); 2] = [("ForSequenceClassification", Of::Texts), ("ForTokenClassification", Of::Tokens)];

/// Most labels that are taken for real.
const LABELS: usize = 1 << 16;

impl Head {
    /// The head that `architectures` names.
    pub(crate) fn open(r: &Reader<'_>) -> Result<Option<Self>> {
        let given = &r.raw["architectures"];
        let wrong = |found: String| {
            let known: Vec<String> = BARE.iter().chain(HEADS.iter().map(|(s, _)| s)).map(|s| format!("…{s}")).collect();
            let expected = format!("one class of {}: {}", FAMILIES.join(", "), known.join(", "));
            ConvertError::invalid(r.path, "`architectures`", expected, found)
        };
        let name = match given {
            Value::Null => return Ok(None),
            Value::Array(all) if all.is_empty() => return Ok(None),
            Value::Array(all) if all.len() == 1 => all[0].as_str(),
            _ => None,
        };
        let name = name.ok_or_else(|| wrong(given.to_string()))?;
        let suffixes: Vec<&str> = FAMILIES.iter().filter_map(|family| name.strip_prefix(family)).collect();
        if suffixes.iter().any(|s| BARE.contains(s)) {
            return Ok(None);
        }
        let head = HEADS.iter().find(|(suffix, _)| suffixes.contains(suffix));
        let (_, of) = head.ok_or_else(|| wrong(name.to_owned()))?;
        Ok(Some(Self { of: *of, labels: labels(r)? }))
    }

    /// The labels as `id2label` of `config.json` has them.
    pub(crate) fn id2label(&self) -> String {
        let one = |(i, name): (usize, &String)| format!("\"{i}\": {}", Value::from(name.as_str()));
        let all: Vec<String> = self.labels.iter().enumerate().map(one).collect();
        format!("{{{}}}", all.join(", "))
    }
}

/// Names of the labels; those of transformers where there are none.
fn labels(r: &Reader<'_>) -> Result<Vec<String>> {
    let wrong = |found: String| {
        ConvertError::invalid(r.path, "`id2label`", format!("names of 1 to {LABELS} labels from 0 on"), found)
    };
    let limited = |n: usize| if (1..=LABELS).contains(&n) { Ok(n) } else { Err(wrong(format!("{n} labels"))) };
    match &r.raw["id2label"] {
        Value::Null => {
            let count = limited(r.maybe("num_labels")?.unwrap_or(2))?;
            Ok((0..count).map(|i| format!("LABEL_{i}")).collect())
        }
        Value::Object(named) => {
            let name = |i: usize| named.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
            let one = |i: usize| name(i).ok_or_else(|| wrong(format!("{} labels, but no name of {i}", named.len())));
            (0..limited(named.len())?).map(one).collect()
        }
        other => Err(wrong(other.to_string())),
    }
}

impl Conversion<'_> {
    /// Weights of the head, if there is one.
    pub(super) fn head_weights(&self, store: &mut Store<'_>) -> Result<Option<Weights>> {
        let (c, row) = (self.c, &self.c.row.head);
        let Some(head) = &c.head else { return Ok(None) };
        let labels = head.labels.len();
        if head.of == Of::Tokens {
            return Ok(Some(Weights { dense: None, out: self.linear_weights(store, "classifier", labels, c.hidden)? }));
        }
        let prefix = if row.inner { self.prefix } else { "" };
        let dense = self.linear_weights(store, &format!("{prefix}{}", row.dense), c.hidden, c.hidden)?;
        let out = self.linear_weights(store, row.out, labels, c.hidden)?;
        Ok(Some(Weights { dense: Some((dense, row.act)), out }))
    }
}

/// Logits of states `[texts, tokens, width]`, in fp32.
pub(super) fn logits(f: &mut FunctionBuilder, x: &Var, w: &Weights) -> std::result::Result<Var, BuildError> {
    let y = match &w.dense {
        Some((dense, act)) => {
            let y = first(f, x)?;
            let y = linear(f, &y, dense, "head_dense")?;
            f.op(act).arg("x", &y).done()?
        }
        None => x.clone(),
    };
    let y = linear(f, &y, &w.out, "head_labels")?;
    f.op("cast").arg("x", &y).arg("dtype", "fp32").done()
}
