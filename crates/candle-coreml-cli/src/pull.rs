//! `candle-coreml pull`: downloads a model.

use std::path::PathBuf;

use candle_coreml::hub::Patterns;

use crate::{CommandResult, path, progress};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: org/name, or org/name@revision.
    id: String,
    /// Download into this folder instead of the cache; the folder must be new or empty.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Download only files that match this pattern, such as `*.json` (repeatable; `*` also stands for `/`).
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave files out that match this pattern (repeatable).
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Print one JSON object: id and path.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let hub = progress::hub()?;
    let patterns = Patterns::new(&arguments.include, &arguments.exclude)?;
    let folder = match (&arguments.to, patterns == Patterns::default()) {
        (Some(folder), true) => hub.download_to(&arguments.id, folder)?,
        (None, true) => hub.download(&arguments.id)?,
        (Some(folder), false) => hub.download_matching_to(&arguments.id, folder, &patterns)?,
        (None, false) => hub.download_matching(&arguments.id, &patterns)?,
    };
    // Remove the bars before printing the path.
    drop(hub);
    path::show(&arguments.id, &folder, arguments.json)
}
