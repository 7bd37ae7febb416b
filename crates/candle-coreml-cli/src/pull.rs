//! `candle-coreml pull`: downloads a model.

use std::path::PathBuf;

use crate::{CommandResult, progress};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: org/name, or org/name@revision.
    id: String,
    /// Download into this folder instead of the cache; the folder must be new or empty.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let hub = progress::hub()?;
    let folder = match &arguments.to {
        Some(folder) => hub.download_to(&arguments.id, folder)?,
        None => hub.download(&arguments.id)?,
    };
    // Remove the bars before printing the path.
    drop(hub);
    out!("{}", folder.display())?;
    Ok(())
}
