//! The parts of the pipeline by subject, for pipelines built by hand. Everything here lives elsewhere.

/// Attention masks.
pub mod mask {
    pub use crate::anemll::causal_mask;
}

/// Choosing tokens.
pub mod sampling {
    pub use crate::generation::{Sampler, Sampling};
}

/// Models of several components.
pub mod multi_component {
    pub use crate::anemll::discovery::{ChunkFiles, Components, discover};
    pub use crate::anemll::model_config::ModelConfig;
    pub use crate::anemll::{Dimensions, ModelNamingConfig, Pipeline, Session};
}
