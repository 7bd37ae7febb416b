//! `generate` on Core ML packages only: engine selection and token-id prompts.

use std::time::Instant;

use candle_coreml::generation::Recommended;
use candle_coreml::settings::Settings;
use candle_coreml::{LanguageModel, LanguageModelConfig};

use super::{Arguments, Output, Report};
use crate::engine::EngineArguments;
use crate::model;

pub(super) fn run(
    arguments: &Arguments,
    settings: &Settings,
    output: &mut Output<'_>,
) -> Result<Report, Box<dyn std::error::Error>> {
    let folder = model::coreml_folder(settings, arguments.model.consent)?;
    let started = Instant::now();
    let EngineArguments { engine, compute_units } = arguments.engine;
    let config =
        LanguageModelConfig { thinking: arguments.thinking, engine, compute_units, ..LanguageModelConfig::default() };
    let mut model = LanguageModel::load_from_directory(&folder, Some(config))?;
    let load_seconds = started.elapsed().as_secs_f64();
    let prompt = match (&arguments.prompt_tokens, &arguments.prompt) {
        (Some(ids), _) => ids.clone(),
        (None, Some(text))
            if arguments.no_template || (arguments.system.is_none() && model.tokenizer().chat_template().is_none()) =>
        {
            model.tokenizer().encode_with_special(text)?
        }
        (None, Some(text)) => {
            let text = model.chat_text(&arguments.messages(text))?;
            model.tokenize(&text)?
        }
        (None, None) => Vec::new(),
    };
    // Token ids are given to look at the model itself: nothing but the arguments says how tokens are chosen.
    let recommended = match &arguments.prompt_tokens {
        Some(_) => Recommended::default(),
        None if model.pipeline().greedy_only() => Recommended::greedy(),
        None => Recommended::read(&folder),
    };
    let summary =
        model.generate_tokens(&prompt, arguments.options(&recommended, output), |step| output.step(step, || {}))?;
    Ok(Report { prompt, summary, load_seconds })
}
