//! `candle-coreml path`: prints the folder of a downloaded model.

use std::path::Path;

use candle_coreml::hub::Hub;
use serde_json::json;

use crate::{CommandResult, demo};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: org/name, org/name@revision, or `demo`.
    id: String,
    /// Print one JSON object: id and path.
    #[arg(long)]
    json: bool,
}

/// Prints where a model is.
pub(crate) fn show(id: &str, folder: &Path, as_json: bool) -> CommandResult {
    if as_json {
        return out!("{}", json!({ "id": id, "path": folder.to_string_lossy() }));
    }
    out!("{}", folder.display())
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    if arguments.id == demo::NAME {
        return show(&arguments.id, &demo::folder()?, arguments.json);
    }
    let hub = Hub::from_environment()?;
    let Some(folder) = hub.cached(&arguments.id)? else {
        let (id, root) = (&arguments.id, hub.cache_root().display());
        return Err(format!("{id} is not in the cache {root}; `candle-coreml pull {id}` downloads it").into());
    };
    show(&arguments.id, &folder, arguments.json)
}
