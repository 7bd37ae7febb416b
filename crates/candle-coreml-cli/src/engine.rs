//! Options shared by verbs that choose an engine.

use candle_coreml::{ComputeUnits, EngineChoice};

#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct EngineArguments {
    /// Run on this engine: auto, native (Apple's Core ML) or portable.
    #[arg(long, default_value_t, value_name = "ENGINE")]
    pub(crate) engine: EngineChoice,
    /// Let the native engine use: all, cpu, cpu-and-gpu or cpu-and-ne (Neural Engine).
    #[arg(long, default_value_t, value_name = "UNITS")]
    pub(crate) compute_units: ComputeUnits,
}
