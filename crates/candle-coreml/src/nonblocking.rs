//! Models in async programs, without blocking a tokio runtime (feature `tokio`).
//!
//! Models compute on the runtime's blocking pool. Running and waiting calls are bounded; further calls fail immediately
//! with [`Error::Busy`](crate::Error::Busy).
//!
//! - [`AsyncGenerator`]: text generation, as a [stream](Answer) or as a whole. Several conversations share its weights,
//!   each with its own cache. Dropping an answer stops its computation at the next token.
//! - [`AsyncModel`]: any other model, such as [`CoreMLModel`](crate::CoreMLModel) or
//!   [`CoreMLModelWrapper`](crate::CoreMLModelWrapper). A prediction runs to completion.
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
#[cfg(feature = "language")]
mod answer;
#[cfg(feature = "language")]
mod generator;
mod model;
#[cfg(feature = "language")]
mod slots;

#[cfg(feature = "language")]
pub use answer::{Answer, Completion, Piece};
#[cfg(feature = "language")]
pub use generator::{AsyncGenerator, Prompt, Watch};
pub use model::AsyncModel;

/// Concurrency and buffering limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Concurrent calls; for text also the number of cached conversations. At least 1.
    pub slots: usize,
    /// Maximum number of waiting calls.
    pub queue: usize,
    /// Buffered pieces of an answer per reader. When the buffer is full, the computation waits. At least 1.
    pub buffer: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { slots: 1, queue: 64, buffer: 32 }
    }
}
