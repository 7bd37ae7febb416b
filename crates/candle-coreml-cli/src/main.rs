//! The `candle-coreml` command. One file for each verb; this one has the arguments and the exit codes:
//! 0 success, 1 failure, 2 wrong usage.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cache;
mod chat;
mod completions;
mod config;
mod doctor;
mod engine;
mod examples;
mod format;
mod generate;
mod hint;
mod inspect;
mod list;
mod man;
mod model;
#[cfg(feature = "hub")]
mod path;
mod predict;
#[cfg(feature = "hub")]
mod progress;
#[cfg(feature = "hub")]
mod pull;
mod rm;
mod sampling;
mod secret;
#[cfg(feature = "serve")]
mod serve;
mod settings;
mod setup;
mod watch;
mod write;

const EXAMPLES: &str = "\
Examples:
  candle-coreml generate --prompt \"What is 37 + 45?\"     with the small model that comes with the project
  candle-coreml chat --model org/name                     a model of the Hugging Face hub
  candle-coreml inspect model.mlpackage                   what a model takes, returns and consists of
  candle-coreml predict model.mlpackage --inputs in.safetensors --outputs out.safetensors
  candle-coreml doctor                                    whether everything works here

Exit codes: 0 success, 1 failure, 2 wrong usage.
Environment: RUST_LOG=candle_coreml=debug logs to standard error; NO_COLOR turns colours off;
CANDLE_COREML_CACHE names the folder of downloaded models, CANDLE_COREML_CONFIG the settings file;
HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they mean to Hugging Face's tools.";

/// Runs Core ML models on any platform.
#[derive(Debug, Parser)]
#[command(name = "candle-coreml", version, about, propagate_version = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one prediction on tensors from a file.
    #[command(after_help = examples::PREDICT)]
    Predict(predict::Arguments),
    /// Generates text with a language model.
    #[command(after_help = examples::GENERATE)]
    Generate(generate::Arguments),
    /// Talks with a language model.
    #[command(after_help = examples::CHAT)]
    Chat(chat::Arguments),
    /// Asks for the settings and writes them.
    Setup(setup::Arguments),
    /// Shows or changes single settings.
    Config(config::Arguments),
    /// Serves models over HTTP, as OpenAI's clients expect it.
    #[cfg(feature = "serve")]
    Serve(serve::Arguments),
    /// Measures how fast a language model runs here.
    Bench(bench::Arguments),
    /// Shows what a model expects, returns and consists of.
    Inspect(inspect::Arguments),
    /// Downloads a model from the Hugging Face hub, or what is new of it.
    #[cfg(feature = "hub")]
    #[command(after_help = examples::PULL)]
    Pull(pull::Arguments),
    /// Lists the downloaded models.
    #[command(after_help = examples::LIST)]
    List(list::Arguments),
    /// Deletes a downloaded model.
    #[command(after_help = examples::RM)]
    Rm(rm::Arguments),
    /// Prints the folder of a downloaded model.
    #[cfg(feature = "hub")]
    #[command(after_help = examples::PATH)]
    Path(path::Arguments),
    /// Shows or cleans the caches: downloaded models, and those of Core ML's runtime.
    #[command(after_help = examples::CACHE)]
    Cache(cache::Arguments),
    /// Looks whether everything works here: machine, devices, settings, caches, and a question with a known answer.
    Doctor(doctor::Arguments),
    /// Prints the completions of a shell.
    Completions(completions::Arguments),
    /// Writes manual pages.
    Man(man::Arguments),
}

/// What ends a command.
pub(crate) type CommandResult = Result<(), Box<dyn std::error::Error>>;

/// An error and its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
            .init();
    }
    let result = match arguments.command {
        Command::Predict(a) => predict::run(a),
        Command::Generate(a) => generate::run(a),
        Command::Chat(a) => chat::run(a),
        Command::Setup(a) => setup::run(a),
        Command::Config(a) => config::run(a),
        #[cfg(feature = "serve")]
        Command::Serve(a) => serve::run(a),
        Command::Bench(a) => bench::run(a),
        Command::Inspect(a) => inspect::run(a),
        #[cfg(feature = "hub")]
        Command::Pull(a) => pull::run(a),
        Command::List(a) => list::run(a),
        Command::Rm(a) => rm::run(a),
        #[cfg(feature = "hub")]
        Command::Path(a) => path::run(a),
        Command::Cache(a) => cache::run(a),
        Command::Doctor(a) => doctor::run(a),
        Command::Completions(a) => completions::run(a),
        Command::Man(a) => man::run(a),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", chain(e.as_ref()));
            if let Some(hint) = hint::hint(e.as_ref()) {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
