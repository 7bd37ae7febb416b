//! `candle-coreml rm`: deletes a downloaded model.

use candle_coreml::CacheManager;
use candle_coreml::cache::CleanMode;

use crate::{CommandResult, cache};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: org/name; all its revisions are deleted.
    id: String,
    /// Show what would be deleted without deleting it.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object: what was deleted, and what could not be.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    let mode = if arguments.dry_run { CleanMode::DryRun } else { CleanMode::Delete };
    let report = CacheManager::from_environment().remove_model(&arguments.id, mode)?;
    if report.removed.is_empty() && report.kept.is_empty() {
        return Err(format!("{} is not in the cache; `candle-coreml list` shows what is", arguments.id).into());
    }
    if arguments.json { cache::show_json(&report, mode) } else { cache::show(&report, mode) }
}
