//! Sampling options.

use candle_coreml::generation::Sampling;

#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArguments {
    /// Sampling temperature; 0 always takes the most likely token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the most likely tokens whose probabilities add up to this.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Keep tokens whose probability is at least this fraction of the most likely token's.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Penalize tokens that already occurred; 1 is off.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the random number generator.
    #[arg(long, default_value_t = 299_792_458)]
    seed: u64,
}

impl SamplingArguments {
    /// Converts to the library's type.
    pub(crate) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}
