//! `config.json` of an encoder: dimensions and what the families differ in.

use std::path::Path;

use serde_json::Value;

use super::head::{Head, TextHead};
use crate::config::Reader;
use crate::error::{ConvertError, Result};

/// How positions are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Positions {
    /// From 0.
    Plain,
    /// From the padding's id plus 1, without padding.
    Counted,
}

/// A family of encoders.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) model_type: &'static str,
    /// Prefixes of tensors, besides none.
    prefixes: &'static [&'static str],
    pub(crate) positions: Positions,
    /// Of a layer's tensors.
    pub(crate) layer: &'static str,
    /// Queries, keys, values, result; up, down.
    pub(crate) products: [&'static str; 6],
    /// After attention, after the products.
    pub(crate) norms: [&'static str; 2],
    /// Biases by distance.
    pub(crate) relative: Option<&'static str>,
    /// Of texts.
    pub(crate) head: TextHead,
    /// Keys of width, layers, heads, inner width, activation.
    keys: [&'static str; 5],
}

const BERT: Row = Row {
    model_type: "bert",
    prefixes: &["bert.", "model."],
    positions: Positions::Plain,
    layer: "encoder.layer.",
    products: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    relative: None,
    head: TextHead { dense: "pooler.dense", inner: true, act: "tanh", out: "classifier" },
    keys: ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"],
};

const ROBERTA: Row = Row {
    model_type: "roberta",
    prefixes: &["roberta.", "model."],
    positions: Positions::Counted,
    head: TextHead { dense: "classifier.dense", inner: false, act: "tanh", out: "classifier.out_proj" },
    ..BERT
};

const ROWS: [Row; 6] = [
    BERT,
    ROBERTA,
    Row { model_type: "xlm-roberta", ..ROBERTA },
    Row { model_type: "camembert", ..ROBERTA },
    Row {
        model_type: "distilbert",
        prefixes: &["distilbert."],
        layer: "transformer.layer.",
        products: [
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ],
        norms: ["sa_layer_norm", "output_layer_norm"],
        head: TextHead { dense: "pre_classifier", inner: false, act: "relu", out: "classifier" },
        keys: ["dim", "n_layers", "n_heads", "hidden_dim", "activation"],
        ..BERT
    },
    Row {
        model_type: "mpnet",
        prefixes: &["mpnet."],
        products: [
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
            "intermediate.dense",
            "output.dense",
        ],
        norms: ["attention.LayerNorm", "output.LayerNorm"],
        relative: Some("encoder.relative_attention_bias.weight"),
        ..ROBERTA
    },
];

/// Dimensions and variants of an encoder.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) row: &'static Row,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) vocab: usize,
    /// Rows of the table of positions.
    pub(crate) positions: usize,
    /// Kinds of tokens; 0 without.
    pub(crate) types: usize,
    pub(crate) eps: f64,
    /// `relu`, `silu`, or the mode of `gelu`.
    pub(crate) act: &'static str,
    pub(crate) pad: usize,
    /// Buckets of distances (MPNet).
    pub(crate) buckets: usize,
    pub(crate) head: Option<Head>,
}

const ACTIVATIONS: [(&str, &str); 7] = [
    ("gelu", "EXACT"),
    ("gelu_new", "TANH_APPROXIMATION"),
    ("gelu_pytorch_tanh", "TANH_APPROXIMATION"),
    ("gelu_fast", "TANH_APPROXIMATION"),
    ("relu", "relu"),
    ("silu", "silu"),
    ("swish", "silu"),
];

impl Config {
    /// Reads `config.json` of a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        static ALL: [Row; 6] = ROWS;
        let (path, value) = crate::config::json(folder)?;
        let row = ALL.iter().find(|row| Some(row.model_type) == value["model_type"].as_str()).ok_or_else(|| {
            let known: Vec<&str> = ALL.iter().map(|row| row.model_type).collect();
            let expected = format!("one of {}", known.join(", "));
            ConvertError::invalid(&path, "`model_type`", expected, value["model_type"].to_string())
        })?;
        let r = Reader { path: &path, raw: &value };
        let [hidden, layers, heads, intermediate, act] = row.keys;
        for key in ["is_decoder", "add_cross_attention", "is_encoder_decoder"] {
            r.only(key, &[Value::Bool(false)])?;
        }
        r.only("position_embedding_type", &[Value::from("absolute")])?;
        let (hidden, heads) = (r.size(hidden)?, r.size(heads)?);
        if !hidden.is_multiple_of(heads) {
            return Err(ConvertError::invalid(&path, "heads", format!("a divisor of {hidden}"), heads.to_string()));
        }
        let named = value[act].as_str().unwrap_or("gelu");
        let mode = ACTIVATIONS.iter().find(|(name, _)| *name == named).ok_or_else(|| {
            let known: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
            ConvertError::invalid(&path, format!("`{act}`"), format!("one of {}", known.join(", ")), named)
        })?;
        let typed = !matches!(row.model_type, "distilbert" | "mpnet");
        let types = if typed { r.maybe("type_vocab_size")?.unwrap_or(2) } else { 0 };
        // MPNet's code has the id of padding, whatever the configuration says.
        let pad = if row.model_type == "mpnet" { 1 } else { value["pad_token_id"].as_u64().unwrap_or(1) as usize };
        let positions = r.size("max_position_embeddings")?;
        let this = Self {
            row,
            hidden,
            intermediate: r.size(intermediate)?,
            layers: r.size(layers)?,
            heads,
            vocab: r.size("vocab_size")?,
            positions,
            types,
            eps: r.number("layer_norm_eps", 1e-12)?,
            act: mode.1,
            pad,
            buckets: r.maybe("relative_attention_num_buckets")?.unwrap_or(32),
            head: Head::open(&r)?,
        };
        if row.positions == Positions::Counted && positions <= pad + 1 {
            let expected = format!("more than the padding's id, {pad}, plus 1");
            return Err(ConvertError::invalid(&path, "`max_position_embeddings`", expected, positions.to_string()));
        }
        if row.relative.is_some() && (this.buckets < 4 || !this.buckets.is_multiple_of(4)) {
            let found = this.buckets.to_string();
            return Err(ConvertError::invalid(&path, "`relative_attention_num_buckets`", "a multiple of 4", found));
        }
        Ok(this)
    }

    /// Most tokens of a text.
    pub(crate) fn longest(&self) -> usize {
        match self.row.positions {
            Positions::Plain => self.positions,
            Positions::Counted => self.positions - self.pad - 1,
        }
    }

    /// Prefixes that tensors may have.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once("").chain(self.row.prefixes.iter().copied())
    }
}
