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
    /// Guess up to this many tokens from what was said before and verify them in one step. Texts stay the same; those that
    /// repeat themselves or their prompt come faster. For temperature 0.
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=15))]
    lookup: u8,
}

impl SamplingArguments {
    /// Most tokens to guess.
    pub(crate) fn lookup(&self) -> usize {
        self.lookup.into()
    }

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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArguments,
    }

    #[test]
    fn options_win_over_what_the_model_recommends() {
        let recommended =
            Recommended { temperature: Some(0.6), top_k: Some(20), top_p: Some(0.9), ..Recommended::default() };
        let sampling = |line: &[&str]| Line::parse_from([&["x"], line].concat()).sampling.sampling(&recommended);
        let usual = sampling(&[]);
        assert_eq!((usual.temperature, usual.top_k, usual.top_p, usual.min_p), (0.6, 20, 0.9, 0.0));
        let given = sampling(&["--temperature", "0", "--top-k", "0", "--min-p", "0.1"]);
        assert_eq!((given.temperature, given.top_k, given.top_p, given.min_p), (0.0, 0, 0.9, 0.1));
    }
}
