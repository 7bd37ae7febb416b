//! Options shared by verbs that choose an engine.

use candle_coreml::{ComputeUnits, EngineChoice};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct EngineArguments {
    /// Run on this engine: auto, native (Apple's Core ML) or portable.
    #[arg(long, default_value_t, value_name = "ENGINE")]
    pub(crate) engine: EngineChoice,
    /// Let the native engine use: cpu-and-ne (Neural Engine), cpu, cpu-and-gpu or all. With the GPU among them, Core
    /// ML ends the whole process on some models instead of reporting an error.
    #[arg(long, default_value_t, value_name = "UNITS")]
    pub(crate) compute_units: ComputeUnits,
}
