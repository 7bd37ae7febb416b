//! Tensors of a checkpoint: which ones a layer has, and changes to them as a network loads them.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::{AttentionBias, Config};

/// Names of the tensors of a layer, and their shapes.
pub(in crate::backend) type Tensors = Vec<(String, Vec<usize>)>;

/// Projections of attention, with their biases.
pub(super) fn attention(c: &Config) -> Tensors {
    let hidden = c.hidden_size;
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mut all = Tensors::new();
    for (name, rows, columns) in
        [("q_proj", q, hidden), ("k_proj", kv, hidden), ("v_proj", kv, hidden), ("o_proj", hidden, q)]
    {
        all.push((format!("self_attn.{name}.weight"), vec![rows, columns]));
        let everywhere = c.family.attention_bias == AttentionBias::AllIfConfigured;
        if c.attention_bias && (everywhere || name != "o_proj") {
            all.push((format!("self_attn.{name}.bias"), vec![rows]));
        }
    }
    all
}

/// A gated network under `prefix`, `width` wide.
pub(super) fn gated(c: &Config, prefix: &str, width: usize) -> Tensors {
    let hidden = c.hidden_size;
    let mut all = Tensors::new();
    for (name, rows, columns) in
        [("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)]
    {
        all.push((format!("{prefix}.{name}.weight"), vec![rows, columns]));
        if c.mlp_bias {
            all.push((format!("{prefix}.{name}.bias"), vec![rows]));
        }
    }
    all
}

/// Norms of one size.
pub(super) fn norms(names: &[&str], size: usize) -> Tensors {
    names.iter().map(|name| (format!("{name}.weight"), vec![size])).collect()
}

/// The layer of Llama: attention, a gated network, a norm before each.
pub(super) fn llama(c: &Config) -> Tensors {
    let before = norms(&["input_layernorm", "post_attention_layernorm"], c.hidden_size);
    [attention(c), gated(c, "mlp", c.intermediate_size), before].concat()
}

/// Weights whose head is the embeddings if they are tied, for networks that always load a head.
pub(super) fn with_head(c: &Config, weights: VarBuilder<'static>) -> VarBuilder<'static> {
    if !c.tie_word_embeddings {
        return weights;
    }
    weights.rename_f(|name| if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name }.to_owned())
}

/// A change to the elements of a tensor: times `by`, plus `plus`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub(super) by: f64,
    pub(super) plus: f64,
}

/// Weights that change as they are loaded. `change` gets the name that the network asks for.
///
/// Factors of a family that its network in candle-transformers lacks are put into the linear layers before or after
/// them, where they mean the same.
pub(super) fn changed(
    weights: VarBuilder<'static>,
    change: impl Fn(&str) -> Option<Affine> + Send + Sync + 'static,
) -> VarBuilder<'static> {
    let (dtype, device) = (weights.dtype(), weights.device().clone());
    VarBuilder::from_backend(Box::new(Changed { weights, change }), dtype, device)
}

struct Changed<F> {
    weights: VarBuilder<'static>,
    change: F,
}

impl<F: Fn(&str) -> Option<Affine> + Send + Sync> Changed<F> {
    fn apply(&self, name: &str, tensor: Tensor) -> Result<Tensor> {
        let Some(Affine { by, plus }) = (self.change)(name) else { return Ok(tensor) };
        // Rounded once, from f32.
        let dtype = tensor.dtype();
        tensor.to_dtype(DType::F32)?.affine(by, plus)?.to_dtype(dtype)
    }
}

impl<F: Fn(&str) -> Option<Affine> + Send + Sync> SimpleBackend for Changed<F> {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, _: &Device) -> Result<Tensor> {
        self.apply(name, self.weights.get_with_hints_dtype(shape, name, init, dtype)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> Result<Tensor> {
        self.apply(name, self.weights.get_unchecked_dtype(name, dtype)?)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }
}
