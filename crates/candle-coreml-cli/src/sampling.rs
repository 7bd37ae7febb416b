//! Arguments that say how tokens are chosen.

use candle_coreml::generation::Sampling;

#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArguments {
    /// 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Chooses among this many tokens; 0: all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Chooses among the likeliest tokens with this much probability together.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Chooses among tokens with at least this share of the likeliest one's probability.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Makes tokens that occurred less likely; 1: off.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the random choices.
    #[arg(long, default_value_t = 299_792_458)]
    seed: u64,
}

impl SamplingArguments {
    /// What the library takes.
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
