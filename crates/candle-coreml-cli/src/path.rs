//! `candle-coreml path`: prints the folder of a downloaded model.

use candle_coreml::hub::Hub;

use crate::{CommandResult, demo};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: org/name, org/name@revision, or `demo`.
    id: String,
}

pub(crate) fn run(arguments: Arguments) -> CommandResult {
    if arguments.id == demo::NAME {
        return out!("{}", demo::folder()?.display());
    }
    let hub = Hub::from_environment()?;
    let Some(folder) = hub.cached(&arguments.id)? else {
        let (id, root) = (&arguments.id, hub.cache_root().display());
        return Err(format!("{id} is not in the cache {root}; `candle-coreml pull {id}` downloads it").into());
    };
    out!("{}", folder.display())?;
    Ok(())
}
