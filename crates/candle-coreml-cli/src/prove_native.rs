//! `candle-coreml prove-native`: tries a model on Core ML for a parent process; see `candle_coreml::engine::proof`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_coreml::ComputeUnits;
use candle_coreml::engine::{keep_stdout_clean, proof};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model, or the folder of a language model.
    model: PathBuf,
    /// Function of a model that has several.
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Processors that Core ML may use.
    #[arg(long, default_value_t, value_name = "UNITS")]
    compute_units: ComputeUnits,
    /// Folder of compiled models.
    #[arg(long, value_name = "DIR")]
    compiled_models: Option<PathBuf>,
    /// Key of the files that the parent means.
    #[arg(long, value_name = "KEY")]
    expect: Option<String>,
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    keep_stdout_clean();
    let Arguments { model, function, compute_units, compiled_models, expect } = arguments;
    // Not the locked handle: what Core ML runs may print from other threads.
    let mut output = std::io::stdout();
    let proved =
        proof::answer(&model, function.as_deref(), compute_units, compiled_models, expect.as_deref(), &mut output);
    if proved { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
