//! Models in async programs, without blocking a tokio runtime (feature `tokio`).
//!
//! Models compute on threads of the runtime's blocking pool. How many calls compute at once and how many wait is
//! bounded; a call too many gets [`Error::Busy`](crate::Error::Busy) at once.
//!
//! - [`AsyncGenerator`]: text of a language model, as a [stream](Answer) or at once. Several conversations share its
//!   weights, each with a cache. Dropping an answer ends its computation at the next token.
//! - [`AsyncModel`]: any other model, such as [`CoreMLModel`](crate::CoreMLModel) or
//!   [`CoreMLModelWrapper`](crate::CoreMLModelWrapper). A single prediction runs to its end.
//!
//! ```no_run
//! use candle_coreml::backend::{BackendConfig, open};
//! use candle_coreml::generation::Options;
//! use candle_coreml::nonblocking::{AsyncGenerator, Capacity, Prompt};
//!
//! # async fn example() -> candle_coreml::Result<()> {
//! let config = BackendConfig { model_path: Some("models/tiny-qwen3".into()), ..BackendConfig::default() };
//! let model = open(&config)?;
//! let model = AsyncGenerator::new(model, Capacity::default())?;
//! let mut answer = model.stream(Prompt::Text("2 + 2 =".to_owned()), Options::default()).await?;
//! while let Some(piece) = answer.next().await {
//!     print!("{}", piece?.text);
//! }
//! # Ok(())
//! # }
//! ```

mod admission;
mod answer;
mod generator;
mod model;
mod slots;

pub use answer::{Answer, Completion, Piece};
pub use generator::{AsyncGenerator, Prompt, Watch};
pub use model::AsyncModel;

/// How much is done and kept at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Calls that compute at once; for text also the conversations whose caches are kept. At least 1.
    pub slots: usize,
    /// Calls that may wait for their turn.
    pub queue: usize,
    /// Pieces of an answer that may wait for their reader. When they are full, the computation waits. At least 1.
    pub buffer: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { slots: 1, queue: 64, buffer: 32 }
    }
}
