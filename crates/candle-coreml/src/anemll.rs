//! Language models of Core ML files. ANEMLL's converters make several components: embeddings, one or more FFN chunks with the
//! functions `prefill` and `infer` over a shared KV cache, and an LM head; or all of it in one file. Other exporters make
//! one file in layouts of their own.
//!
//! [`discovery`] finds the components in a folder, [`Pipeline`] loads them and checks that they are consistent,
//! a [`Session`] holds the cache of one conversation.

use candle_core::{Device, Tensor};
use half::f16;

use crate::error::Result;

mod checks;
mod chunked;
pub mod discovery;
mod head;
pub(crate) mod inputs;
mod meta;
pub mod model_config;
mod naming;
mod pipeline;
mod rotation;
mod session;
mod states;
mod together;
mod tokenizer_path;

pub use discovery::Components;
pub use meta::Meta;
pub use naming::ModelNamingConfig;
pub use pipeline::{Dimensions, Pipeline};
pub(crate) use session::Passed;
pub use session::Session;
pub(crate) use tokenizer_path::tokenizer_folder;

/// Causal mask rows `[1, 1, count, context]`: 0 where column ≤ position, else −∞.
pub fn causal_mask(start: usize, count: usize, context: usize) -> Result<Tensor> {
    let mut data = vec![f16::NEG_INFINITY; count * context];
    for (i, row) in data.chunks_exact_mut(context.max(1)).enumerate() {
        let open = (start + i + 1).min(context);
        row[..open].fill(f16::ZERO);
    }
    Ok(Tensor::from_vec(data, (1, 1, count, context), &Device::Cpu)?)
}
