//! `candle-coreml chat`: a conversation with a language model, on a terminal or through pipes.
//!
//! Answers and what commands tell go to standard output, everything else to standard error.

use std::path::PathBuf;

use candle_coreml::backend::settings::{self, Layer, Settings};
use candle_coreml::backend::{BackendDevice, open};

use crate::sampling::SamplingArguments;
use crate::{CommandResult, generate, model};

mod command;
mod conversation;
mod input;
mod interrupt;
mod session;

use conversation::Conversation;
use input::{Input, Line};
use session::{After, Session};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder with the model (Core ML packages, or a checkpoint), or a model of the hub, org/name[@revision]; without
    /// it, the small model that comes with the project.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Where it runs: auto, coreml, metal, cuda, cpu.
    #[arg(long)]
    device: Option<BackendDevice>,
    /// Devices that take over when that one can't be had or fails at its start.
    #[arg(long, value_delimiter = ',', value_name = "cuda,cpu")]
    fallback: Option<Vec<BackendDevice>>,
    /// File with settings; without it, the one that CANDLE_COREML_CONFIG names, else config.toml in the folder
    /// that the system has for configurations.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The system message to begin with.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A conversation to go on with, as `/save` writes it.
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 1024)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Turns the thinking mode of the chat template on or off.
    #[arg(long, value_name = "true|false")]
    thinking: Option<bool>,
}

/// The settings with the arguments on top; without a model, the one that comes with the project.
fn settings(arguments: &Arguments) -> Result<Settings, Box<dyn std::error::Error>> {
    let flags = Layer {
        device: arguments.device,
        model_path: arguments.model.clone(),
        fallback_chain: arguments.fallback.clone(),
        ..Layer::default()
    };
    let (mut settings, warnings) = settings::load(arguments.config.as_deref(), flags)?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    if settings.backend.model_path.is_none() && settings.backend.model_repo.is_none() {
        settings.backend.model_path = Some(generate::shipped_model()?);
    }
    // Names of the hub become folders here, where progress can be shown.
    let named = settings.backend.model_path.clone().or(settings.backend.model_repo.as_ref().map(PathBuf::from));
    if let Some(named) = named {
        settings.backend.model_path = Some(model::folder(&named)?);
    }
    Ok(settings)
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let mut conversation = match &arguments.load {
        Some(file) => Conversation::load(file)?,
        None => Conversation::default(),
    };
    if let Some(system) = &arguments.system {
        conversation.set_system(Some(system.clone()));
    }
    let settings = settings(&arguments)?;
    let generator = open(&settings.backend)?;
    let mut input = Input::open();
    let mut session = Session::new(generator, conversation, input.is_terminal());
    session.streaming = settings.streaming_enabled;
    session.options.max_tokens = arguments.max_tokens;
    session.options.sampling = arguments.sampling.sampling();
    session.options.thinking = arguments.thinking;
    interrupt::install(session.cancel_handle())?;
    session.greet();
    let mut failures = 0;
    loop {
        let line = match input.next()? {
            Line::Text(line) => line,
            Line::Interrupted => {
                session.note("/quit or Ctrl-D leaves");
                continue;
            }
            Line::End => break,
        };
        match session.line(&line) {
            Ok(After::Go) => {}
            Ok(After::Quit) => break,
            Err(e) => {
                session.note(&format!("error: {}", crate::chain(e.as_ref())));
                failures += 1;
            }
        }
    }
    // On a terminal the user has seen it; a script needs the exit code.
    if failures > 0 && !input.is_terminal() {
        return Err(format!("{failures} of the lines failed").into());
    }
    Ok(())
}
