//! Granite 3, dense: the network of Llama with four factors.
//!
//! candle-transformers' Granite ignores the factors; here they are part of the weights beside them.

use super::weights::{self, Affine};
use super::{Config, Family, USUAL, factor, llama};
use crate::error::Error;

pub(super) const FAMILY: Family = Family {
    model_type: "granite",
    check: |config| Factors::of(config).map(|_| ()),
    build: |config, weights, dtype, device, context| {
        let factors = Factors::of(config).map_err(Error::Request)?;
        let weights = weights::changed(weights::with_head(config, weights), move |name| factors.change(name));
        let mut llama = llama::as_llama(config, context);
        // The head is not multiplied as the embeddings are.
        llama.tie_word_embeddings = false;
        Ok(Box::new(llama::Cached::new(&llama, weights, dtype, device)?))
    },
    ..USUAL
};

/// Factors of the activations.
#[derive(Debug, Clone, Copy)]
struct Factors {
    embeddings: f64,
    /// Of the queries, beside the usual root of `head_dim`.
    queries: f64,
    residual: f64,
    logits: f64,
}

impl Factors {
    fn of(c: &Config) -> Result<Self, String> {
        Ok(Self {
            embeddings: factor(c, "embedding_multiplier", 1.0)?,
            queries: factor(c, "attention_multiplier", 1.0)? * (c.head_dim as f64).sqrt(),
            residual: factor(c, "residual_multiplier", 1.0)?,
            logits: 1.0 / factor(c, "logits_scaling", 1.0)?,
        })
    }

    fn change(self, name: &str) -> Option<Affine> {
        let by = match name {
            "model.embed_tokens.weight" => self.embeddings,
            "lm_head.weight" => self.logits,
            name if name.ends_with(".q_proj.weight") => self.queries,
            name if name.ends_with(".o_proj.weight") || name.ends_with(".down_proj.weight") => self.residual,
            _ => return None,
        };
        (by != 1.0).then_some(Affine { by, plus: 0.0 })
    }
}
