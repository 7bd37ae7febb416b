//! Sampling options.

use candle_coreml::generation::{Recommended, Sampling};

/// A number within a range.
fn within(text: &str, range: std::ops::RangeInclusive<f32>) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if range.contains(&x) => Ok(x),
        _ if *range.end() == f32::MAX => Err(format!("expected a number from {}", range.start())),
        _ => Err(format!("expected a number from {} to {}", range.start(), range.end())),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    within(text, 0.0..=100.0)
}

fn share(text: &str) -> Result<f32, String> {
    within(text, 0.0..=1.0)
}

fn penalty(text: &str) -> Result<f32, String> {
    within(text, f32::MIN_POSITIVE..=100.0).map_err(|_| "expected a number above 0, to 100".to_owned())
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SamplingArguments {
    /// Sampling temperature; 0 always takes the most likely token. Without this and other sampling options, those that
    /// the model recommends apply.
    #[arg(long, value_parser = temperature, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all.
    #[arg(long, allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Keep the most likely tokens whose probabilities add up to this.
    #[arg(long, value_parser = share, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Keep tokens whose probability is at least this fraction of the most likely token's.
    #[arg(long, value_parser = share, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Penalize tokens that already occurred; 1 is off.
    #[arg(long, value_parser = penalty, allow_negative_numbers = true)]
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

    /// Sets one option by its name.
    ///
    /// # Errors
    /// If there is no such option, or its value is out of range.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = |e: String| format!("{name}: {e}, found `{value}`");
        let whole = || value.parse::<usize>().map_err(|_| bad("expected a whole number from 0".to_owned()));
        match name.replace('-', "_").as_str() {
            "temperature" => self.temperature = Some(temperature(value).map_err(bad)?),
            "top_k" => self.top_k = Some(whole()?),
            "top_p" => self.top_p = Some(share(value).map_err(bad)?),
            "min_p" => self.min_p = Some(share(value).map_err(bad)?),
            "repetition_penalty" => self.repetition_penalty = Some(penalty(value).map_err(bad)?),
            "seed" => self.seed = whole()? as u64,
            _ => {
                let names = "temperature, top_k, top_p, min_p, repetition_penalty, seed";
                return Err(format!("`{name}` can't be set; there are {names}, max_tokens"));
            }
        }
        Ok(())
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
    fn values_out_of_range_are_refused_by_name() {
        for line in [
            ["--temperature", "-1"],
            ["--temperature", "nan"],
            ["--top-p", "5"],
            ["--top-p", "-0.1"],
            ["--min-p", "1.01"],
            ["--repetition-penalty", "0"],
            ["--top-k", "-3"],
        ] {
            let error = Line::try_parse_from([&["x"], &line[..]].concat()).map(|_| ()).expect_err(line[0]).to_string();
            assert!(error.contains(line[0]), "{error}");
        }
        let mut sampling = Line::parse_from(["x"]).sampling;
        sampling.set("temperature", "0.5").expect("in range");
        sampling.set("top-k", "7").expect("in range");
        assert_eq!((sampling.temperature, sampling.top_k), (Some(0.5), Some(7)));
        for (name, value, part) in
            [("top_p", "2", "from 0 to 1"), ("heat", "1", "there are temperature"), ("seed", "x", "whole")]
        {
            let error = sampling.set(name, value).expect_err(name);
            assert!(error.contains(part), "{error}");
        }
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
