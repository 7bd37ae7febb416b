//! Writes results whole or not at all: to a temporary file beside the target, then renamed. Or to standard output.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use candle_core::Tensor;

use crate::CommandResult;

/// Writes bytes.
pub(crate) fn bytes(path: &Path, content: &[u8]) -> CommandResult {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut builder = tempfile::Builder::new();
    // Temporary files are for the owner alone; results are as the user's mask says.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// Writes tensors in the safetensors format.
pub(crate) fn tensors(path: &Path, tensors: &HashMap<String, Tensor>) -> CommandResult {
    let content = safetensors::serialize(tensors.iter().map(|(k, v)| (k.as_str(), v)), None)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    bytes(path, &content)
}

/// Prints a text; a reader that stops early (`| head`) is no failure.
pub(crate) fn text(content: &str) -> CommandResult {
    match std::io::stdout().write_all(content.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
