//! The `candle-coreml` command. One file for each verb; this one has the arguments and the exit codes:
//! 0 success, 1 failure, 2 wrong usage.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cache;
mod chat;
mod config;
mod engine;
mod format;
mod generate;
mod inspect;
mod list;
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
#[cfg(feature = "serve")]
mod serve;
mod settings;
mod setup;
mod watch;
mod write;

/// Runs Core ML models on any platform.
#[derive(Debug, Parser)]
#[command(name = "candle-coreml", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one prediction on tensors from a file.
    Predict(predict::Arguments),
    /// Generates text with a language model.
    Generate(generate::Arguments),
    /// Talks with a language model.
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
    Pull(pull::Arguments),
    /// Lists the downloaded models.
    List(list::Arguments),
    /// Deletes a downloaded model.
    Rm(rm::Arguments),
    /// Prints the folder of a downloaded model.
    #[cfg(feature = "hub")]
    Path(path::Arguments),
    /// Shows or cleans the caches: downloaded models, and those of Core ML's runtime.
    Cache(cache::Arguments),
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
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", chain(e.as_ref()));
            ExitCode::FAILURE
        }
    }
}
