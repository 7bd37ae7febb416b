//! Chat output: streamed answers and information about the model.

use std::io::{self, IsTerminal, Write};

use candle_coreml::backend::{BackendDevice, Fallback, GeneratorInfo, RequestStats, Stats, TextGeneration};
use candle_coreml::catalog::{Fit, known_models};

use super::markdown::Painter;
use crate::{format, model};

/// Streams one answer.
pub(super) struct Printer {
    streaming: bool,
    painter: Option<Painter>,
    printed: usize,
    /// Why standard output can't be written.
    pub(super) broken: Option<io::Error>,
}

impl Printer {
    pub(super) fn new(streaming: bool, terminal: bool) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { streaming, painter: terminal.then(|| Painter::new(colour)), printed: 0, broken: None }
    }

    fn print(&mut self, text: &str) {
        let text = match &mut self.painter {
            Some(painter) => painter.paint(text),
            None => text.to_owned(),
        };
        let mut out = io::stdout().lock();
        if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            self.broken = Some(e);
        }
    }

    /// Returns true if this piece starts the answer.
    pub(super) fn begins(&self, text: &str) -> bool {
        self.streaming && self.printed == 0 && !text.is_empty()
    }

    /// Prints a piece; returns false if the reader is gone.
    pub(super) fn step(&mut self, text: &str) -> bool {
        if self.streaming {
            self.print(text);
            self.printed += text.len();
        }
        self.broken.is_none()
    }

    /// Ends a cancelled answer.
    pub(super) fn give_up(&mut self) -> io::Result<()> {
        if self.printed == 0 { Ok(()) } else { self.end() }
    }

    /// Prints the rest of the answer.
    pub(super) fn finish(&mut self, whole: &str) -> io::Result<()> {
        self.print(whole.get(self.printed..).unwrap_or_default());
        match self.broken.take() {
            Some(e) => Err(e),
            None => self.end(),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        let rest = self.painter.as_mut().map(Painter::finish).unwrap_or_default();
        let mut out = io::stdout().lock();
        writeln!(out, "{rest}").and_then(|()| out.flush())
    }
}

fn is_remote(info: &GeneratorInfo) -> bool {
    info.engine == "remote"
}

/// Short description of the model and its device.
pub(super) fn place(info: &GeneratorInfo) -> String {
    if is_remote(info) { "the remote model".to_owned() } else { format!("{} ({})", info.device, info.engine) }
}

/// Description of the model and its backend.
pub(super) fn description(info: &GeneratorInfo) -> String {
    let model = info.model.display();
    if is_remote(info) {
        return format!("{model}, a remote model: what you write is sent to its server");
    }
    format!("{model} on {} ({}, {}), context of {} tokens", info.device, info.engine, info.dtype, info.context)
}

fn context(stats: &Stats, info: &GeneratorInfo) -> String {
    if is_remote(info) { stats.context_used.to_string() } else { format!("{} of {}", stats.context_used, info.context) }
}

/// Status line after an answer.
pub(super) fn after_answer(turn: &RequestStats, stats: &Stats, info: &GeneratorInfo) -> String {
    format!(
        "[{} tokens, {:.1} tokens/s, {} of {} prompt tokens run, context {}]",
        turn.generated_tokens,
        turn.decode_rate(),
        turn.prefilled_tokens,
        turn.prompt_tokens,
        context(stats, info)
    )
}

/// `/stats`
pub(super) fn stats(
    out: &mut impl Write,
    active: Option<&dyn TextGeneration>,
    given_up: &[Fallback],
) -> io::Result<()> {
    let Some(active) = active else { return writeln!(out, "no model is loaded") };
    let (info, stats) = (active.info(), active.stats());
    writeln!(out, "model: {}", info.model.display())?;
    if is_remote(&info) {
        writeln!(out, "device: none of this machine, the model is remote")?;
    } else {
        writeln!(out, "device: {} ({}, {})", info.device, info.engine, info.dtype)?;
    }
    for fallback in given_up {
        writeln!(out, "given up: {fallback}")?;
    }
    writeln!(out, "context: {} tokens", context(&stats, &info))?;
    writeln!(out, "answers: {}, tokens: {}", stats.turns, stats.generated_tokens)?;
    if let Some(turn) = &stats.last {
        let (run, all) = (turn.prefilled_tokens, turn.prompt_tokens);
        writeln!(out, "prefilled: {run} of {all} prompt tokens, {:.1} tokens/s", turn.prefill_rate())?;
        writeln!(out, "generated: {} tokens, {:.1} tokens/s", turn.generated_tokens, turn.decode_rate())?;
    }
    Ok(())
}

/// `/model`: the current model and the known models for the device.
pub(super) fn models(out: &mut impl Write, info: Option<&GeneratorInfo>, device: BackendDevice) -> io::Result<()> {
    writeln!(out, "{}", info.map_or_else(|| "no model is loaded".to_owned(), description))?;
    let device = info.filter(|i| !is_remote(i)).map_or(device, |i| i.device);
    let memory = model::memory();
    writeln!(out, "others for {device}, with {} of memory free:", format::bytes(memory.available))?;
    for model in known_models(device) {
        let fit = match model.fit(device, memory) {
            Fit::Fits => "fits",
            Fit::Tight => "fits once other programs are closed",
            Fit::TooLarge => "too large",
        };
        writeln!(out, "  {:46}{:>9}, {fit}", model.repository, format::bytes(model.download))?;
    }
    Ok(())
}
