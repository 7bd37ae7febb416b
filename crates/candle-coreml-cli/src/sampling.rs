//! Sampling options.

use candle_coreml::generation::{Recommended, Sampling};

#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArguments {
    /// Sampling temperature; 0 always takes the most likely token. Without this and other sampling options, those that
    /// the model recommends apply.
    #[arg(long)]
    temperature: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all.
    #[arg(long)]
    top_k: Option<usize>,
    /// Keep the most likely tokens whose probabilities add up to this.
    #[arg(long)]
    top_p: Option<f32>,
    /// Keep tokens whose probability is at least this fraction of the most likely token's.
    #[arg(long)]
    min_p: Option<f32>,
    /// Penalize tokens that already occurred; 1 is off.
    #[arg(long)]
    repetition_penalty: Option<f32>,
    /// Seed of the random number generator.
    #[arg(long, default_value_t = 299_792_458)]
    seed: u64,
}

impl SamplingArguments {
    /// The library's type: these options, else what the model recommends, else greedy.
    pub(crate) fn sampling(&self, recommended: &Recommended) -> Sampling {
        let given = Recommended {
            temperature: self.temperature.or(recommended.temperature),
            top_k: self.top_k.or(recommended.top_k),
            top_p: self.top_p.or(recommended.top_p),
            min_p: self.min_p.or(recommended.min_p),
            repetition_penalty: self.repetition_penalty.or(recommended.repetition_penalty),
        };
        Sampling { seed: self.seed, ..given.sampling() }
    }
}
