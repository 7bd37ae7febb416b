//! The `candle-coreml` command, one file per verb; this one holds the arguments and the exit codes: 0 success, 1
//! failure, 2 usage error.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::io::IsTerminal;
use std::process::ExitCode;

use candle_coreml::engine::{keep_stdout_clean, native_is_available, proof};
use clap::{Parser, Subcommand};

// Printing that never panics: `print!` does when nobody can read it.
#[macro_use]
mod write;

mod bench;
mod cache;
mod chat;
mod compare;
mod compile;
mod completions;
mod compress;
mod config;
mod convert;
mod demo;
mod doctor;
mod edit;
mod engine;
mod examples;
mod format;
mod generate;
mod hint;
mod inspect;
mod interrupted;
mod list;
mod man;
mod merge;
mod model;
#[cfg(feature = "hub")]
mod path;
mod predict;
#[cfg(feature = "hub")]
mod progress;
mod progress_monitor;
mod prove_native;
#[cfg(feature = "hub")]
mod pull;
mod rm;
mod run;
#[cfg(feature = "serve")]
mod running;
mod sampling;
mod secret;
#[cfg(feature = "serve")]
mod serve;
mod settings;
mod setup;
mod split;
mod weights;

const EXAMPLES: &str = "\
Examples:
  candle-coreml generate \"What is 37 + 45?\"              with the demo model inside this command
  candle-coreml chat --model org/name                     a model from the Hugging Face Hub
  candle-coreml inspect model.mlpackage                   inputs, outputs, operations, weights
  candle-coreml predict model.mlpackage --inputs in.safetensors --outputs out.safetensors
  candle-coreml doctor                                    check this installation

Exit codes: 0 success, 1 failure, 2 wrong usage.
Environment: RUST_LOG=candle_coreml=debug logs to standard error; NO_COLOR turns colours off;
CANDLE_COREML_CACHE names the folder of downloaded models, CANDLE_COREML_CONFIG the settings file;
CANDLE_COREML_PROOF_SECONDS limits the trial of a model on Core ML;
CANDLE_COREML_THREADS limits threads, CANDLE_COREML_ISA instruction sets (avx2, scalar, ...; see doctor);
HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE have their usual Hugging Face meaning.";

/// Run Core ML models on any platform.
#[derive(Debug, Parser)]
#[command(name = "candle-coreml", version, propagate_version = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one prediction on tensors from a file.
    #[command(after_help = examples::PREDICT)]
    Predict(predict::Arguments),
    /// Generate text with a language model.
    #[command(after_help = examples::GENERATE)]
    Generate(generate::Arguments),
    /// Chat with a model, or answer one prompt: chat and generate under one name.
    Run(run::Arguments),
    /// Chat with a language model.
    #[command(after_help = examples::CHAT)]
    Chat(chat::Arguments),
    /// Configure candle-coreml interactively.
    Setup(setup::Arguments),
    /// Show or change single settings.
    Config(config::Arguments),
    /// Serve models over an OpenAI-compatible HTTP API.
    #[cfg(feature = "serve")]
    Serve(serve::Arguments),
    /// List the running servers.
    #[cfg(feature = "serve")]
    #[command(after_help = examples::PS)]
    Ps(running::PsArguments),
    /// Stop a running server.
    #[cfg(feature = "serve")]
    #[command(after_help = examples::STOP)]
    Stop(running::StopArguments),
    /// Benchmark a model on this machine.
    Bench(bench::Arguments),
    /// Compare two models, or one on two engines: outputs, then the first operation that differs.
    Compare(compare::Arguments),
    /// Show the inputs, outputs, operations and weights of a model.
    #[command(visible_alias = "show")]
    Inspect(inspect::Arguments),
    /// List, extract, replace or deduplicate the weights of a model.
    Weights(weights::Arguments),
    /// Convert a Hugging Face checkpoint to Core ML packages.
    Convert(convert::Arguments),
    /// Compress the weights of a model: tables, integers, pruning.
    Compress(compress::Arguments),
    /// Make the compressed weights of a model dense again.
    Decompress(compress::Decompress),
    /// Compile a package to a .mlmodelc, or make the package of a compiled model.
    Compile(compile::Arguments),
    /// Change metadata, names or the default function of a model.
    Edit(edit::Arguments),
    /// Join functions of several models in one, or models in a pipeline.
    Merge(merge::Arguments),
    /// Split a model into its functions, or a pipeline into its parts.
    Split(split::Arguments),
    /// Download or update a model from the Hugging Face Hub.
    #[cfg(feature = "hub")]
    #[command(after_help = examples::PULL)]
    Pull(pull::Arguments),
    /// List the downloaded models.
    #[command(after_help = examples::LIST)]
    List(list::Arguments),
    /// Delete a downloaded model.
    #[command(after_help = examples::RM)]
    Rm(rm::Arguments),
    /// Print the folder of a downloaded model.
    #[cfg(feature = "hub")]
    #[command(after_help = examples::PATH)]
    Path(path::Arguments),
    /// Show or clean the caches: downloaded models, and those of Core ML's runtime.
    #[command(after_help = examples::CACHE)]
    Cache(cache::Arguments),
    /// Check this installation: hardware, devices, settings, caches, one known prompt.
    Doctor(doctor::Arguments),
    /// Try a model on Core ML for a parent process.
    #[command(hide = true)]
    ProveNative(prove_native::Arguments),
    /// Print shell completions.
    Completions(completions::Arguments),
    /// Write manual pages.
    Man(man::Arguments),
}

/// Result of a command.
pub(crate) type CommandResult = Result<(), Box<dyn std::error::Error>>;

/// The error and its causes, without repetition.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = without_backtrace(error.to_string());
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = without_backtrace(e.to_string());
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

/// The text without the backtrace that Candle adds where `RUST_BACKTRACE` is set.
fn without_backtrace(text: String) -> String {
    let frame = |line: &str| line.trim_start().strip_prefix("0: ").is_some() && line.starts_with("   ");
    match text.lines().position(frame) {
        Some(at) => text.lines().take(at).collect::<Vec<_>>().join("\n").trim_end().to_owned(),
        None => text,
    }
}

/// One line for a fault of this program, instead of a panic's message and backtrace.
fn tell_of_faults() {
    std::panic::set_hook(Box::new(|fault| {
        let payload = fault.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let place = fault.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        note!("error: a fault of this program{place}: {}; please report it", text.unwrap_or("no message"));
    }));
}

/// Error text for an unknown or unavailable instruction set in the environment.
fn unknown_set(name: &str) -> String {
    use candle_coreml::isa;
    let detected: Vec<&str> = isa::ALL.iter().filter(|(set, _)| set.detected()).map(|(_, name)| *name).collect();
    format!("{} is `{name}`; this processor has {}", isa::VARIABLE, detected.join(", "))
}

fn main() -> ExitCode {
    tell_of_faults();
    let arguments = Arguments::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
            .init();
    }
    if let Err(name) = candle_coreml::isa::requested() {
        note!("error: {}", unknown_set(&name));
        return ExitCode::from(2);
    }
    if let Command::ProveNative(a) = arguments.command {
        return prove_native::run(a);
    }
    if native_is_available() {
        // Core ML can end the process that tries a model on it, and prints while it compiles.
        keep_stdout_clean();
        if let Ok(program) = std::env::current_exe() {
            proof::in_child_processes(program);
        }
    }
    let result = execute(arguments.command);
    demo::clean_up();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if write::is_closed(e.as_ref()) => ExitCode::SUCCESS,
        Err(_) if interrupted::happened() => {
            note!("cancelled");
            ExitCode::from(interrupted::CODE)
        }
        Err(e) => {
            note!("error: {}", chain(e.as_ref()));
            if let Some(hint) = hint::hint(e.as_ref()) {
                note!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> CommandResult {
    match command {
        Command::ProveNative(_) => Ok(()),
        Command::Predict(a) => interrupted::run(|| predict::run(a)),
        Command::Generate(a) => generate::run(a),
        Command::Run(a) => execute(run::command(a)),
        Command::Chat(a) => chat::run(a),
        Command::Setup(a) => setup::run(a),
        Command::Config(a) => config::run(a),
        #[cfg(feature = "serve")]
        Command::Serve(a) => serve::run(a),
        #[cfg(feature = "serve")]
        Command::Ps(a) => running::ps(a),
        #[cfg(feature = "serve")]
        Command::Stop(a) => running::stop(a),
        Command::Compare(a) => compare::run(a),
        Command::Bench(a) => bench::run(a),
        Command::Inspect(a) => inspect::run(a),
        Command::Weights(a) => interrupted::run(|| weights::run(a)),
        Command::Convert(a) => interrupted::run(|| convert::run(a)),
        Command::Compress(a) => interrupted::run(|| compress::run(a)),
        Command::Decompress(a) => interrupted::run(|| compress::decompress(a)),
        Command::Compile(a) => interrupted::run(|| compile::run(a)),
        Command::Edit(a) => interrupted::run(|| edit::run(a)),
        Command::Merge(a) => interrupted::run(|| merge::run(a)),
        Command::Split(a) => interrupted::run(|| split::run(a)),
        #[cfg(feature = "hub")]
        Command::Pull(a) => interrupted::run(|| pull::run(a)),
        Command::List(a) => list::run(a),
        Command::Rm(a) => rm::run(a),
        #[cfg(feature = "hub")]
        Command::Path(a) => path::run(a),
        Command::Cache(a) => cache::run(a),
        Command::Doctor(a) => doctor::run(a),
        Command::Completions(a) => completions::run(a),
        Command::Man(a) => man::run(a),
    }
}
