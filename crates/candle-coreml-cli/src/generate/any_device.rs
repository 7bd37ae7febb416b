//! `generate` on any device: the first one in the settings that works.

use std::sync::Arc;
use std::time::Instant;

use candle_coreml::Error;
use candle_coreml::backend::{FallbackGenerator, TextGeneration};
use candle_coreml::generation::{Message, Options, Summary, Tokenizer};
use candle_coreml::settings::Settings;

use super::{Arguments, Output, Report};
use crate::model;
use crate::progress_monitor::{Limits, Pause, Watch, Watching};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Runs the prompt, with or without the chat template.
fn ask(
    generator: &mut FallbackGenerator,
    prompt: &str,
    plain: bool,
    options: Options,
    output: &mut Output<'_>,
) -> candle_coreml::Result<Summary> {
    let info = generator.info();
    let place = format!("{} ({})", info.device, info.engine);
    let watch = Watch::new(Limits::default(), "waiting for the model", &place);
    let watching = Watching::begin(watch, options.progress.clone(), Arc::default());
    let each = &mut |step: &_| output.step(step, || watching.answer());
    if plain {
        generator.stream(prompt, options, each)
    } else {
        generator.chat(&[Message::user(prompt)], options, each)
    }
}

pub(super) fn run(arguments: &Arguments, settings: &Settings, output: &mut Output<'_>) -> Outcome<Report> {
    let started = Instant::now();
    let pause: Arc<Pause> = Arc::default();
    let mut generator = {
        let watch = Watch::new(Limits::default(), "loading the model", "");
        let _watching = Watching::begin(watch, Arc::default(), pause.clone());
        model::open(settings, pause, arguments.model.consent)?
    };
    let load_seconds = started.elapsed().as_secs_f64();
    let prompt = arguments.prompt.as_deref().unwrap_or_default();
    let recommended = generator.recommended();
    let mut plain = arguments.no_template;
    let mut result = ask(&mut generator, prompt, plain, arguments.options(&recommended, output), output);
    // Without a template, continue the raw prompt.
    if matches!(result, Err(Error::NoChatTemplate)) {
        plain = true;
        result = ask(&mut generator, prompt, plain, arguments.options(&recommended, output), output);
    }
    for fallback in generator.history() {
        note!("{fallback}");
    }
    let summary = result?;
    let prompt = if arguments.json { ids(&generator, prompt, plain, arguments.thinking)? } else { Vec::new() };
    Ok(Report { prompt, summary, load_seconds })
}

/// Token ids of the prompt, as the generator encodes them.
fn ids(generator: &FallbackGenerator, prompt: &str, plain: bool, thinking: Option<bool>) -> Outcome<Vec<u32>> {
    let tokenizer = Tokenizer::load(&generator.info().model)?;
    match tokenizer.chat_template().filter(|_| !plain) {
        Some(template) => Ok(tokenizer.encode(&template.render(&[Message::user(prompt)], thinking)?)?),
        None => Ok(tokenizer.encode_with_special(prompt)?),
    }
}
