//! What `--model` means: a folder, or the name of a model on the hub.

use std::path::{Path, PathBuf};

/// The folder of a model; a model of the hub is downloaded when the cache does not have it.
pub(crate) fn folder(model: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    #[cfg(feature = "hub")]
    if !model.exists()
        && let Some(id) = model.to_str()
        && candle_coreml::hub::ModelId::parse(id).is_ok()
    {
        let hub = crate::progress::hub()?;
        return hub.ensure(id).map_err(|e| format!("there is no folder `{id}`, and from the hub: {e}").into());
    }
    Ok(model.to_owned())
}
