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
    messages: Option<&[Message]>,
    options: Options,
    output: &mut Output<'_>,
) -> candle_coreml::Result<Summary> {
    let info = generator.info();
    let place = format!("{} ({})", info.device, info.engine);
    let watch = Watch::new(Limits::default(), "waiting for the model", &place);
    let watching = Watching::begin(watch, options.progress.clone(), Arc::default());
    let each = &mut |step: &_| output.step(step, || watching.answer());
    match messages {
        None => generator.stream(prompt, options, each),
        Some(messages) => generator.chat(messages, options, each),
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
    let mut messages = (!arguments.no_template).then(|| arguments.messages(prompt));
    let options = arguments.options(&recommended, output);
    let mut result = ask(&mut generator, prompt, messages.as_deref(), options, output);
    // Without a template, continue the raw prompt; a system message needs one.
    if matches!(result, Err(Error::NoChatTemplate)) && arguments.system.is_none() {
        messages = None;
        result = ask(&mut generator, prompt, None, arguments.options(&recommended, output), output);
    }
    for fallback in generator.history() {
        note!("{fallback}");
    }
    let summary = result?;
    let prompt =
        if arguments.json { ids(&generator, prompt, messages.as_deref(), arguments.thinking)? } else { Vec::new() };
    Ok(Report { prompt, summary, load_seconds })
}

/// Token ids of the prompt, as the generator encodes them.
fn ids(
    generator: &FallbackGenerator,
    prompt: &str,
    messages: Option<&[Message]>,
    thinking: Option<bool>,
) -> Outcome<Vec<u32>> {
    let tokenizer = Tokenizer::load(&generator.info().model)?;
    match (tokenizer.chat_template(), messages) {
        (Some(template), Some(messages)) => Ok(tokenizer.encode(&template.render(messages, thinking)?)?),
        _ => Ok(tokenizer.encode_with_special(prompt)?),
    }
}
