//! Building blocks of the pipeline by subject, for custom pipelines. Everything here is a re-export.

/// Attention masks.
pub mod mask {
    pub use crate::anemll::causal_mask;
}

/// Sampling.
pub mod sampling {
    pub use crate::generation::{Sampler, Sampling};
}

/// Multi-component models.
pub mod multi_component {
    pub use crate::anemll::discovery::{ChunkFiles, Components, discover};
    pub use crate::anemll::model_config::ModelConfig;
    pub use crate::anemll::{Dimensions, ModelNamingConfig, Pipeline, Session};
}
